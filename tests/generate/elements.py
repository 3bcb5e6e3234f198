"""Collections: policies whose guards test each element, and questions with unknown elements among known ones."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from tests.generate import vocabulary as v
from tests.generate.expressions import Writer, atoms_at
from tests.generate.policies import File, Policy
from tests.generate.requests import VALUES, Question

KINDS = ("strings", "numbers", "members", "rows", "plans", "cidrs", "ip", "user", "string", "number", "team")
LISTS = {
    "tags": "strings", "nets": "cidrs", "people": "members", "samples": "numbers", "rows": "rows",
}  # fmt: skip
OTHERS = {"person": "user", "zone": "string", "risk": "number", "ip": "ip", "home": "team"}
ODD: tuple[Any, ...] = (None, 7, "", "x", True, [], {"n": 1}, {"type": "user", "id": 7}, "e\u0301", 7.5, "user")
RESOURCES = ("/v1/invoices/7", "/v1/invoices/8", "/v1/invoices/9", "/v1/orgs/north/docs/d1")
PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", ()), (" on /v1/invoices/{id: invoice}", ("invoice",)), (" on /v1/orgs/{org: org}/docs/{doc: doc}", ("doc",)),
)  # fmt: skip
ACTS = ("deny when", "deny unless", "require", "warn when", "confirm by role boss when", "audit full when")


def testing_elements(random: Random) -> Policy:
    """Return a policy that opens a few endpoints to everybody, with guards about collections."""
    opened = "may GET /v1/invoices/{id: invoice}, GET /v1/orgs/{org: org}/docs/{doc: doc}, GET /notes/7"
    declarations = [v.ENTITIES, "issuer open { scopes none }", f"user any {{ {opened} }}"]
    declarations += ["scope refunds { TOOL billing/refund }", *(f"define {name} = context.flag" for name in v.DEFINED)]
    for number in range(random.choice([1, 2, 3])):
        place, groups = random.choice(PLACES)
        atoms = {kind: found for kind, found in atoms_at(groups).items() if kind in KINDS}
        atoms = {
            kind: tuple(one for one in found if one.roots <= {"context", "resource", "user", "params"})
            for kind, found in atoms.items()
        }
        writer = Writer(random, {kind: one for kind, one in atoms.items() if one}, None, 2, definitions=False)
        form = random.choice([writer.quantified, writer.relation, writer.condition])
        declarations.append(f'guard "e{number}"{place} {{ {random.choice(ACTS)} {form()} }}')
    return Policy((File("package acme.app", tuple(declarations)),))


def questions(random: Random) -> Iterator[Question]:
    """Yield questions with collections, some of whose elements are of a wrong type, repeated, or very many."""
    while True:
        context = {name: _collection(random, VALUES[kind](random)) for name, kind in LISTS.items()}
        context |= {name: VALUES[kind](random) for name, kind in OTHERS.items()}
        context = {name: value for name, value in context.items() if random.random() < 0.9}
        yield {
            "request": {"method": "GET", "path": random.choice([*RESOURCES, "/notes/7"])},
            "user": {"id": random.choice(v.USERS)}, "credential": {"issuer": "open"}, "context": context,
        }  # fmt: skip


def _collection(random: Random, given: list[Any]) -> list[Any]:
    found = list(given)
    if random.random() < 0.4:
        found.insert(random.randint(0, len(found)), random.choice(ODD))
    if random.random() < 0.15:
        found += found
    if random.random() < 0.1 and found:
        found += [f"x{number}" for number in range(random.choice([14, 16, 20]))]  # about the length that is hashed
    return found

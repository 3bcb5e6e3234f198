"""Bindings of patterns: policies whose grants and guards read them, and requests for paths in another letter case."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.generate.expressions import Writer, atoms_at
from tests.generate.policies import Policy, gateway
from tests.generate.requests import PATHS, Question, respelled

METHODS = "GET|POST|PUT|DELETE"
GROUPS = ("invoice", "captured")
MORE_PATHS = ("/v1/7/7", "/v1/8/7", "/v1/invoices/invoices", "/v1/INVOICES", "/v1/Others", "/v1/orders", "/V1/7/7")
# More patterns that bind something: a fact of the context.
SCOPES = (
    'scope zoned { GET|POST /v1/invoices/{id: invoice} with context.zone = request.query["page"] }',
    'scope zoned { GET|POST /V1/{which}/{what} with context.zone = request.headers["x-trace"] }',
    "scope zoned { GET|POST /V1/{which}/{what} with context.zone = lower(params.what) }",
    "scope zoned { GET|POST /v1/{which}/{what} with context.zone = params.which, resource = invoice(params.what) }",
)


def binding(random: Random) -> Policy:
    """Return a policy with grants and guards at every path whose conditions read the captures of some paths."""
    head, *others = gateway(random).files
    places = ["/**", "/v1/**", "/V1/**", "/v1/*"]
    grants = [
        f"user any {{ may {METHODS} {random.choice(places)} when {_condition(random)} }}",
        f"anyone {{ may {METHODS} {random.choice(places)}, ACTION view invoice when {_condition(random)} }}",
        'agent "*" {\n  issued by acme, plain, open\n  acts for any user\n'
        f"  may {METHODS} {random.choice(places)}, ACTION view invoice when {_condition(random)}\n}}",
    ]
    more = [*random.sample(SCOPES, random.choice([0, 1])), *random.sample(grants, random.choice([1, 2, 3]))]
    if random.random() < 0.6:
        act = random.choice(["deny when", "require", "confirm by role boss when", "warn when"])
        more.append(f'guard "bound" on {random.choice(places)} {{ {act} {_condition(random)} }}')
    if random.random() < 0.4:
        more.append('guard "absent" { require resource is absent or resource.id != "7" }')
    return Policy((replace(head, declarations=(*head.declarations, *more)), *others))


def _condition(random: Random) -> str:
    if random.random() < 0.15:
        return random.choice(['context.zone == "acme"', "context.zone is absent", '(context.zone else "7") == "7"'])
    atoms = atoms_at((random.choice(GROUPS),))
    bound = {kind: tuple(one for one in found if one.roots & {"resource", "params"}) for kind, found in atoms.items()}
    kinds = {kind: found for kind, found in bound.items() if found}
    chosen = random.choice([kinds, kinds, atoms])
    return Writer(random, chosen, None, random.choice([0, 0, 1]), definitions=False).condition()


def bound(random: Random, asked: Question) -> Question:
    """Return the question about some path, usually in another case; rarely about an action on any resource."""
    without = {name: one for name, one in asked.items() if name not in ("tool", "action", "resource")}
    if random.random() < 0.08:
        request = {name: one for name, one in asked.get("request", {}).items() if name not in ("method", "path")}
        resource = {"type": "invoice", "id": random.choice(["7", "8", None, "", 7, "e\u0301"])}
        return {**without, "request": request, "action": {"name": "view"}, "resource": resource}
    path = random.choice([*PATHS, *MORE_PATHS])
    request = {**asked.get("request", {}), "method": random.choice(["GET", "GET", "POST", "DELETE"])}
    request["path"] = respelled(random, path) if random.random() < 0.5 else path
    return {**without, "request": request}

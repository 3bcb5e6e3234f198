"""A rule that reads `resource` at a door that binds none is an error: it would be shut, and nobody would know why."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from policyengine import kernel as k
from policyengine.check import check_text
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Unknown
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.spec.match_endpoint import match_pattern, place_covers
from tests.generate.asking import complete, setting
from tests.generate.requests import NOW, PATHS

POLICY = """
entity team
entity user { tenant: string   roles: set<string> } in team
entity invoice { tenant: string   owner: user   quota: number   approvers: set<user or team> }
facts on TOOL billing/* { args.id: string? }
scope invoices { GET|PUT /v1/invoices/{id: invoice}   POST /v1/invoices/{id: invoice}/refunds   ACTION view invoice }
scope tools { TOOL billing/refund with resource = invoice(args.id)   TOOL billing/list }
user any { may invoices, tools, GET /v1/invoices, GET /health }
anyone { may GET /login }
"""
SEEDS = 14  # of policies that are made for other tests, too
OTHERWISE = ("tool", "action", "resource", "pending")  # asked for, or not known
SPARE = "`resource is present and …`"
LACK = "`resource is absent or …`"


def found(rule: str) -> list[tuple[str, str, str]]:
    """What is wrong with the rule: where, and what to do."""
    return [(one.message, one.span.text, one.hint or "") for one in check_text(POLICY + rule) if one.is_error]


def at(endpoints: str, word: str = "guard") -> str:
    return f"nothing binds `resource` at {endpoints}, where this {word} applies: `resource` is unknown there"


LISTING, AT_LISTING = "GET /v1/invoices", "`GET /v1/invoices`"
BOUND = "GET|PUT /v1/invoices/{id: invoice}, POST /v1/invoices/{id: invoice}/refunds, TOOL billing/refund"
# A rule, the first endpoint at which nothing binds what it reads, and what to do about it.
REFUSED = [
    (
        'guard "g" { require user.tenant == resource.tenant }',
        at("`GET /health`, `GET /login`, `GET /v1/invoices` and `TOOL billing/list`"),
        f"narrow the rule: `on {BOUND}`, or handle requests without a resource: {LACK}",
    ),
    (
        'guard "g" on /v1/** { deny when resource.tenant != user.tenant }',
        at(AT_LISTING),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: {SPARE}",
    ),
    (
        'guard "g" on TOOL billing/* { deny when resource.owner == user }',
        at("`TOOL billing/list`"),
        f"exclude it with `except TOOL billing/list`, or handle requests without a resource: {SPARE}",
    ),
    ('guard "g" on GET /health, ACTION view invoice { deny when resource.owner == user }', at("`GET /health`"), None),
    ('guard "g" on /v1/** { deny when user.tenant == "x" or resource.owner == user }', at(AT_LISTING), None),
    ('guard "g" on /v1/** { confirm by resource.approvers }', at(AT_LISTING), None),
    (
        'guard "g" on /v1/** { confirm by resource.approvers when user.tenant == "x" and user.id == "y" }',
        at(AT_LISTING),
        None,
    ),
    ('guard "g" on /v1/** { audit full when resource.owner == user }', at(AT_LISTING), None),
    (
        'guard "g" on /v1/** { audit full unless resource.owner == user }',
        at(AT_LISTING),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: {LACK}",
    ),
    ('guard "g" on /v1/** { require (resource.tenant else user.tenant) == resource.id }', at(AT_LISTING), None),
    ('guard "g" on /v1/** { deny when any one in [resource.owner]: one == user }', at(AT_LISTING), None),
    (
        'rate "r" per resource.id on /v1/** { 5/1m }',
        at(AT_LISTING, "rate"),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: `when resource is present`",
    ),
    (
        'rate "r" per resource.id on /v1/** when user.tenant == "x" { 5/1m }',
        at(AT_LISTING, "rate"),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: {SPARE}",
    ),
    (
        'rate "r" per user.id on /v1/** { 5/1m   clamp 1/1m when resource.owner == user }',
        at(AT_LISTING, "rate"),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: {SPARE}",
    ),
    ('rate "r" per user.id on /v1/** when resource.owner == user { 5/1m }', at(AT_LISTING, "rate"), None),
    (
        'budget "b" per user.id on /v1/** { distinct resource.id <= 5 within 1h }',
        at(AT_LISTING, "budget"),
        f"exclude it with `except {LISTING}`, or handle requests without a resource: `when resource is present`",
    ),
    ('budget "b" per user.id on /v1/** { count <= resource.quota within 1h }', at(AT_LISTING, "budget"), None),
    ('define same = user.tenant == resource.tenant\nguard "g" on /v1/** { require same }', at(AT_LISTING), None),
]


@pytest.mark.parametrize(("rule", "message", "hint"), REFUSED)
def test_a_rule_that_reads_an_unbound_resource_is_an_error(rule: str, message: str, hint: str | None) -> None:
    (told,) = found(rule)
    assert told[0] == message
    assert told[1] in ("resource", "same")
    assert hint is None or told[2] == hint


@pytest.mark.parametrize(
    "rule",
    [
        'guard "g" on invoices { require user.tenant == resource.tenant }',
        'guard "g" on /v1/invoices/{id}/** { require user.tenant == resource.tenant }',
        'guard "g" on /v1/invoices/{id: invoice}, TOOL billing/refund { require user.tenant == resource.tenant }',
        'guard "g" on /v1/** except GET /v1/invoices { require user.tenant == resource.tenant }',
        'guard "g" on ACTION view invoice { require user.tenant == resource.tenant }',
        'guard "g" on PUT /v1/** { require user.tenant == resource.tenant }',
        'guard "g" { require resource is absent or user.tenant == resource.tenant }',
        'guard "g" { deny when resource is present and user.tenant != resource.tenant }',
        'guard "g" { deny when (resource.tenant else user.tenant) != user.tenant }',
        'guard "g" { deny when not (resource is absent or resource.owner == user) }',
        'guard "g" { confirm by resource.approvers when resource is present }',
        'guard "g" { require user.tenant != "x" message "not for {resource.id}" }',
        'rate "r" per resource.id when resource is present { 5/1m }',
        'rate "r" per user.id { 5/1m   raise x2 at most 9/1m when resource.owner == user }',
        'budget "b" per user.id when resource is present { distinct resource.id <= 5 within 1h }',
    ],
)  # fmt: skip
def test_a_rule_with_a_presence_check_or_a_bound_resource_is_not_an_error(rule: str) -> None:
    assert found(rule) == []


def test_the_message_names_at_most_four_endpoints() -> None:
    doors = "".join(f"anyone {{ may GET /more/{number} }}\n" for number in range(4))
    ((message, _, _),) = found(f'{doors}guard "g" {{ require user.tenant == resource.tenant }}')
    assert message == at("`GET /health`, `GET /login`, `GET /more/0`, `GET /more/1` and 4 more")


def test_the_hint_resolves_the_unbound_resource_error() -> None:
    ((_, _, hint),) = found('guard "g" { require user.tenant == resource.tenant }')
    place = hint.partition("`on ")[2].partition("`")[0]
    assert found(f'guard "g" on {place} {{ require user.tenant == resource.tenant }}') == []
    ((_, _, hint),) = found('guard "g" on /v1/** { require user.tenant == resource.tenant }')
    left_out = hint.partition("`")[2].partition("`")[0]
    assert found(f'guard "g" on /v1/** {left_out} {{ require user.tenant == resource.tenant }}') == []


@pytest.mark.parametrize("place", ["/V1/Invoices/{id: invoice}", "/V1/** except GET /v1/invoices"])
def test_a_rule_in_another_letter_case_uses_the_bound_resource(place: str) -> None:
    assert found(f'guard "g" on {place} {{ require user.tenant == resource.tenant }}') == []


def test_an_unbound_resource_is_not_an_error_at_an_endpoint_without_a_grant() -> None:
    rule = 'guard "g" on GET /closed, /v1/invoices/{id: invoice} { require user.tenant == resource.tenant }'
    assert found(rule) == []


def test_a_grant_in_another_block_makes_an_unbound_resource_an_error() -> None:
    rule = 'guard "g" { require user.tenant == resource.tenant }'
    bare = (
        POLICY.replace("GET /v1/invoices, GET /health", "ACTION view invoice")
        .replace("tools,", "")
        .replace("anyone { may GET /login }", "")
    )
    assert [one.code for one in check_text(bare + rule) if one.is_error] == []
    assert [one.code for one in check_text(f"{bare}anyone {{ may GET /login }}\n{rule}") if one.is_error] == ["E518"]


# ── What is let through by the check is known ─────────────────────────────────────────────────


def test_the_note_shows_the_grant_of_the_first_named_endpoint() -> None:
    (mistake,) = (one for one in check_text(POLICY + 'guard "g" { require resource.owner == user }') if one.is_error)
    (note,) = mistake.related
    assert mistake.message.startswith(f"nothing binds `resource` at `{note.span.text}`, ")


def conditions(kernel: k.Kernel) -> list[tuple[k.Place, k.Expr]]:
    effects = [(guard.place, one.condition) for guard in kernel.guards for one in guard.effects]
    limits = [(one.place, part) for one in kernel.limits for part in (one.when, *one.keys)]
    return [(place, one) for place, one in (*effects, *limits) if one is not None]


def test_no_accepted_generated_rule_is_unknown_for_lack_of_a_resource() -> None:
    """With every other fact known: conditions that ask for a resource first are among them."""
    asked, read = 0, 0
    for seed in range(SEEDS):
        kernel, random = setting(seed).kernel, Random(seed)
        opened = [one.pattern for block in (*kernel.agents, *kernel.users, *kernel.anyones)
                  for grant in block.grants for one in grant.openings]  # fmt: skip
        for method, path in product(("GET", "POST", "PUT", "DELETE"), PATHS):
            raw = {**complete(random), "request": {"method": method, "path": path}}
            request = Request.from_mapping({root: one for root, one in raw.items() if root not in OTHERWISE})
            if not isinstance(request.endpoint, HttpEndpoint) or not any(
                match_pattern(one, request.endpoint) is not None for one in opened
            ):
                continue
            facts = build_facts(kernel, request, Snapshot(setting(seed).directory), NOW)
            for place, condition in conditions(kernel):
                if place_covers(place, request.endpoint):
                    asked += 1
                    read += any(isinstance(part, k.Fact) and part.path == ("resource",) for part in k.walk(condition))
                    known = evaluate(condition, facts)
                    causes = known.causes if isinstance(known, Unknown) else ()
                    assert not [one for one in causes if one.fact == "resource" and one.absent], (seed, condition)
    assert asked > 100
    assert read > 15

"""Prepared charges: the walker fills in the key of a rate, and the charge is that of the specification."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.clock import epoch_nanoseconds
from policyengine.engine import Engine
from policyengine.evaluator.charges import MAX_PREPARED
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import reference
from tests.spec.deciding import NOW, directory

POLICY = """language 1
package shop
entity user { roles: set<string> }
facts on ANY /docs/{id} { body.n: int?   body.t: string?   body.tags: list<string>?   body.on: bool? }
anyone { may ANY /docs/{id} }
"""
KEYS = (
    "request.ip", "request.path", "params.id", "user", "user.id", "body.n", "body.t", "body.on",
    "(request.ip, params.id)", "(user.id, body.t, body.n)",
)  # fmt: skip
RATES = (
    "5/1s", "60/1h burst 3", "5/1s counting denials", "7/3s", "5/1s cost body.n", "5/1s at most 2 at once",
    "5/1s clamp 1/1s when body.on", "5/1s raise x2 at most 9/1s when body.on clamp 1/1s for 9m when body.n > 5",
    "at most 2 at once",
)  # fmt: skip
PREPARED = (*RATES[:4], *RATES[6:8])
BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"n": 1, "t": "x", "tags": ["a", "b"], "on": True},
    {"n": 7, "t": "Ünï\n\"'", "tags": [], "on": False},
    {"n": "many", "t": 7, "tags": "a", "on": None},
)
IPS = ("8.8.8.8", "2001:db8::1", "2001:db8::2", "nowhere", None)


def rates(key: str) -> str:
    head = "on ANY /docs/{id}"
    return "".join(f'rate "r{number}" per {key} {head} {{ {rate} }}\n' for number, rate in enumerate(RATES))


def questions() -> list[dict[str, Any]]:
    found = []
    for number, body in enumerate(BODIES):
        for ip in IPS:
            request: dict[str, Any] = {"method": "POST", "path": f"/docs/Ab{number}"}
            if ip is not None:
                request["ip"] = ip
            found.append({"request": request, "body": body})
            found.append({"request": request, "body": body, "user": {"id": "ann"}})
    return found


@pytest.mark.parametrize("key", KEYS)
def test_a_charge_is_that_of_the_specification(key: str) -> None:
    engine = Engine.from_text(POLICY + rates(key))
    evaluator = engine.decider.compiled.evaluator
    entities = directory({"user ann": {"roles": []}})
    charges = 0
    for question in questions():
        request = Request.from_mapping(question)
        for _ in range(2):  # the rules of an endpoint are created for the first question
            decision, effects = evaluator.plan(request, epoch_nanoseconds(NOW))  # type: ignore[misc]
            expected, specified = reference.decide(engine.kernel, request, Snapshot(entities), NOW)
            assert decision.answer == expected.answer
            assert effects == specified
            charges += len(effects.limits)
    assert charges > 0


def test_rates_of_a_constant_pace_are_prepared() -> None:
    budget = 'budget "b" per user.id { count <= 2 within 1h }\n'
    evaluator = Engine.from_text(POLICY + rates("user.id") + budget).decider.compiled.evaluator
    endpoint = Request.from_mapping({"request": {"method": "GET", "path": "/docs/1"}}).endpoint
    limits = evaluator.program.rules_at(endpoint).limits
    prepared = [one.limit.name for one in limits if one.prepared is not None]
    assert prepared == [f"r{number}" for number, rate in enumerate(RATES) if rate in PREPARED]


def test_the_prepared_charges_of_a_rate_are_limited() -> None:
    clamps = "".join(f"  clamp {number + 1}/1s when body.n > {number}\n" for number in range(MAX_PREPARED + 20))
    policy = f'{POLICY}rate "r" per request.ip on ANY /docs/{{id}} {{\n  900/1s\n{clamps}}}\n'
    evaluator = Engine.from_text(policy).decider.compiled.evaluator
    for number in range(MAX_PREPARED + 20):
        request = {"method": "POST", "path": "/docs/1", "ip": "8.8.8.8"}
        asked = Request.from_mapping({"request": request, "body": {"n": number}})
        evaluator.plan(asked, epoch_nanoseconds(NOW))
    [rule] = evaluator.program.rules_at(asked.endpoint).limits
    assert rule.prepared is not None
    assert 0 < len(rule.prepared) <= MAX_PREPARED

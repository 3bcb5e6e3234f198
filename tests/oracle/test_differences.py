"""Where Cedar and we differ on purpose: there a rule whose condition errs is skipped; here the unknown closes doors.

Each case says the same in both languages and asks both about the same facts, of which one is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cedarpy
import pytest

from policyengine.engine import Engine
from tests.generate.requests import directory

VOCABULARY = """
package acme.differences
entity team in team
entity user { level: int } in team
entity doc { owner: user }
facts { context.n: int }
issuer main { scopes none }
"""
OPEN_CEDAR, OPEN_OURS = "permit(principal, action, resource);", "user any { may ACTION view doc }"
ROWS: list[dict[str, Any]] = [
    {"type": "user", "id": "alice", "attributes": {"level": 1}, "in": [{"type": "team", "id": "staff"}]},
    {"type": "team", "id": "staff"},
    {"type": "doc", "id": "d1", "attributes": {"owner": {"type": "user", "id": "mallory"}}},
]  # there is no row of mallory, and no fact `context.n`


@dataclass(frozen=True, slots=True)
class Difference:
    cedar: str
    ours: str
    allowed_by_cedar: bool
    allowed_here: bool


DIFFERENCES = {
    "a forbid whose fact is missing does not forbid in Cedar": Difference(
        f"{OPEN_CEDAR} forbid(principal, action, resource) when {{ context.n > 5 }};",
        f'{OPEN_OURS} guard "g" on ACTION view doc {{ deny when context.n > 5 }}', True, False,
    ),
    "nor does one whose test comes after the error": Difference(
        f"{OPEN_CEDAR} forbid(principal, action, resource) when {{ context.n > 5 || true }};",
        f'{OPEN_OURS} guard "g" on ACTION view doc {{ deny when context.n > 5 or user.level >= 0 }}', True, False,
    ),
    "nor does one that asks about a stranger": Difference(
        f'{OPEN_CEDAR} forbid(principal, action, resource) when {{ resource.owner in team::"staff" }};',
        f'{OPEN_OURS} guard "g" on ACTION view doc {{ deny when resource.owner in team "staff" }}', True, False,
    ),
    "an unless whose fact is missing forbids nothing either": Difference(
        f"{OPEN_CEDAR} forbid(principal, action, resource) unless {{ context.n <= 5 }};",
        f'{OPEN_OURS} guard "g" on ACTION view doc {{ deny unless context.n <= 5 }}', True, False,
    ),
    "a permit that errs before it is true opens nothing in Cedar": Difference(
        "permit(principal, action, resource) when { context.n > 5 || principal.level > 0 };",
        "user any { may ACTION view doc when context.n > 5 or user.level > 0 }", False, True,
    ),
}  # fmt: skip
ALIKE = {
    "a permit whose fact is missing opens nothing": Difference(
        "permit(principal, action, resource) when { context.n > 5 };",
        "user any { may ACTION view doc when context.n > 5 }", False, False,
    ),
    "what is true before the error is true": Difference(
        "permit(principal, action, resource) when { principal.level > 0 || context.n > 5 };",
        "user any { may ACTION view doc when user.level > 0 or context.n > 5 }", True, True,
    ),
}  # fmt: skip


def allowed_by_cedar(policies: str) -> bool:
    entities = [
        {"uid": {"type": row["type"], "id": row["id"]},
         "attrs": {name: {"__entity": value} if isinstance(value, dict) else value
                   for name, value in row.get("attributes", {}).items()},
         "parents": row.get("in", [])}
        for row in ROWS
    ]  # fmt: skip
    asked = {
        "principal": {"type": "user", "id": "alice"}, "action": {"type": "Action", "id": "view"},
        "resource": {"type": "doc", "id": "d1"}, "context": {},
    }  # fmt: skip
    return cedarpy.is_authorized(asked, policies, json.dumps(entities)).allowed


def allowed_here(policies: str) -> bool:
    engine = Engine.from_text(VOCABULARY + policies, directory=directory(ROWS))
    return engine.decide({
        "user": {"id": "alice"}, "credential": {"issuer": "main"}, "action": {"name": "view"},
        "resource": {"type": "doc", "id": "d1"},
    }).allowed  # fmt: skip


@pytest.mark.parametrize("name", [*DIFFERENCES, *ALIKE])
def test_cedar_and_policyengine_give_their_documented_answers(name: str) -> None:
    case = {**DIFFERENCES, **ALIKE}[name]
    assert (allowed_by_cedar(case.cedar), allowed_here(case.ours)) == (case.allowed_by_cedar, case.allowed_here)

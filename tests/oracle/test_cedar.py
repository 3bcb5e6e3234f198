"""Cedar as an independent oracle: the same policies, entities and questions in both languages come to the same.

Cedar is asked through `cedarpy`, its Rust implementation. It tells which rules forbade, and so do guards here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import cedarpy
import pytest

from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.reference import decide
from tests.generate.requests import NOW, directory
from tests.oracle.policies import Policy, policy
from tests.oracle.questions import Question, World, question, world

MOST_TRIES = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed or not, and the rules that forbade."""

    allowed: bool
    forbidden_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to one policy, and all answers; its text is what a failing test shows."""

    policy: Policy
    world: World
    question: Question
    cedar: Verdict
    engine: Verdict
    specification: Verdict

    def __str__(self) -> str:
        parts = (self.policy.cedar, self.policy.ours, f"cedar: {self.question.cedar}", f"ours: {self.question.ours}")
        rows = f"entities: {json.dumps(self.world.ours)}"
        said = f"Cedar: {self.cedar}\nengine: {self.engine}\nspecification: {self.specification}"
        return "\n\n".join((*parts, rows, said))


def engine_of(text: str, known: World) -> Engine:
    return Engine.from_text(text, directory=directory(known.ours), clock=lambda: NOW, ids=lambda _: "one")


def checked(random: Random, known: World) -> tuple[Policy, Engine]:
    """Now and then chance writes a condition that is decided beforehand, which the checker refuses: then another."""
    for _ in range(MOST_TRIES):
        found = policy(random)
        try:
            return found, engine_of(found.ours, known)
        except PolicyError as error:
            last = error
    raise AssertionError(f"{MOST_TRIES} policies in a row do not check: {last}\n{found.ours}")


def answers(seed: int, questions: int) -> Iterator[Asked]:
    """One policy and world, several questions, what both say. A seed always gives the same."""
    random = Random(seed)
    known = world(random)
    found, engine = checked(random, known)
    rules = cedarpy.PolicySet.from_str(found.cedar)
    entities = cedarpy.Entities.from_json_str(json.dumps(known.cedar))
    asked = [question(random, found.kind, known) for _ in range(questions)]
    verdicts = cedarpy.is_authorized_batch([one.cedar for one in asked], rules, entities)
    for one, verdict in zip(asked, verdicts, strict=True):
        assert not verdict.diagnostics.errors, f"{verdict.diagnostics.errors}\n{found.cedar}"
        specified = decide(engine.kernel, Request.from_mapping(one.ours), Snapshot(engine.directory), NOW)[0]
        yield Asked(found, known, one, of_cedar(found, verdict), of_ours(engine.decide(one.ours)), of_ours(specified))


def of_cedar(found: Policy, verdict: cedarpy.AuthzResult) -> Verdict:
    """Cedar counts its rules, and names those that made up the answer."""
    named = (found.rules[int(one.removeprefix("policy"))].name for one in verdict.diagnostics.reasons)
    return Verdict(verdict.allowed, frozenset(name for name in named if name is not None))


def of_ours(decision: Decision) -> Verdict:
    assert decision.gate in (None, Gate.DEFAULT, Gate.GUARD), decision
    rules = (reason.rule for reason in decision.reasons if reason.gate is Gate.GUARD)
    return Verdict(decision.allowed, frozenset(rule for rule in rules if rule is not None))


def hold_equal(seeds: range, questions: int) -> Counter[str]:
    """Compares all answers; how often each kind of answer came up."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        for one in answers(seed, questions):
            assert one.engine == one.specification == one.cedar, f"seed {seed}\n{one}"
            seen["allowed" if one.cedar.allowed else "forbidden" if one.cedar.forbidden_by else "not permitted"] += 1
    return seen


def test_cedar_and_policyengine_agree_on_a_thousand_generated_questions() -> None:
    seen = hold_equal(range(25), questions=40)
    assert sum(seen.values()) == 1_000
    assert min(seen.values()) >= 100, f"every kind of answer comes up often: {seen}"
    assert len(seen) == 3


@pytest.mark.deep
@pytest.mark.parametrize("start", [1_000, 2_000])
def test_cedar_and_policyengine_agree_on_fifty_thousand_more_questions(start: int) -> None:
    seen = hold_equal(range(start, start + 500), questions=100)
    assert sum(seen.values()) == 50_000

"""Laws of the comparison, over generated policies with one small change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from random import Random

import pytest

from policyengine import kernel as k
from policyengine.analysis import Diff, compare
from policyengine.analysis.diff.answer_order import AnswerKey, answer_of
from policyengine.analysis.diff.endpoint_classes import endpoint_classes, patterns_of
from policyengine.analysis.diff.oracle import pending_duties
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Gate, Reason
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.reference import conclude, decide, trace_request
from tests.analysis.mutating import mutated
from tests.generate import kernel_of
from tests.generate.asking import Setting, askings, setting

SEEDS = range(7)  # `make test-deep` tries hundreds of changes
QUESTIONS = 30
SAMPLES = 30


@lru_cache(maxsize=len(SEEDS))
def pair(seed: int) -> tuple[Setting, k.Kernel]:
    found = setting(seed)
    changed = mutated(Random(f"change {seed}"), found.policy)
    new = None if changed is None else kernel_of(changed)
    if new is None:
        pytest.skip("no change of this policy checks")
    return found, new


@dataclass(frozen=True)
class Said:
    """What the specification says to a question: the whole answer, and what is taken of limits."""

    answer: AnswerKey
    charges: frozenset[object]
    reasons: tuple[Reason, ...]

    @classmethod
    def of(cls, kernel: k.Kernel, request: Request, directory: EntityStore, now: datetime) -> Said:
        snapshot = Snapshot(directory)
        facts = build_facts(kernel, request, snapshot, now)
        seen = trace_request(facts, snapshot)
        decision, effects = conclude(facts, seen)
        charges = frozenset(one.charge._replace(rule="") for one in effects.limits)
        return cls(answer_of(decision, pending_duties(decision, seen)), charges, decision.reasons)


def missed(found: Setting, new: k.Kernel, diff: Diff, seed: int, questions: int) -> list[str]:
    """Random questions whose answers differ at an endpoint of which the diff tells neither a difference nor a doubt."""
    patterns = patterns_of(found.kernel, new)
    known = [
        (each, [match_pattern(one, each.endpoint) is None for one in patterns]) for each in endpoint_classes(patterns)
    ]
    told = {one.region.endpoint for each in diff.differences for one in each.witnesses}
    told |= {one.endpoint for one in diff.doubts}
    result = []
    for asked in askings(seed, questions):
        request = request_of(asked.question)
        if request is None or request.approvals:
            continue
        old, other = (Said.of(each, request, found.directory, asked.now) for each in (found.kernel, new))
        told_of_limits = diff.limits or old.charges == other.charges
        if (old.answer == other.answer and told_of_limits) or by_limits_alone((*old.reasons, *other.reasons), diff):
            continue
        matching = [match_pattern(one, request.endpoint) is None for one in patterns]
        kind = type(request.endpoint)
        names = {each.words for each, pattern in known if pattern == matching and type(each.endpoint) is kind}
        assert names, f"no class for {request.endpoint}"
        if not names & told and "every endpoint" not in told:
            result.append(f"{request.endpoint}: {old.answer} {old.charges} and {other.answer} {other.charges}")
    return result


def by_limits_alone(reasons: Sequence[Reason], diff: Diff) -> bool:
    """Whether only limits stand in the way of which the diff tells, as what they ask for is not known."""
    changed = [rule.name for one in diff.limits for rule in (one.old, one.new) if rule is not None]
    gates = (Gate.RATE, Gate.BUDGET)
    named = [one.gate in gates and any(name.endswith(f' "{one.rule}"') for name in changed) for one in reasons]
    return bool(named) and all(named)


def request_of(question: object) -> Request | None:
    try:
        return Request.from_json(question) if isinstance(question, str | bytes) else Request.from_mapping(question)  # type: ignore[arg-type]
    except (RequestError, TypeError, AttributeError):
        return None


@pytest.mark.parametrize("seed", SEEDS)
def test_no_random_difference_is_missed_and_every_witness_differs(seed: int) -> None:
    found, new = pair(seed)
    diff = compare(found.kernel, new, samples=SAMPLES)
    for difference in diff.differences:
        for witness in difference.witnesses:
            request = Request.from_mapping(witness.question)
            answers = [decide(each, request, Snapshot(EntityStore()), witness.at)[0] for each in (found.kernel, new)]
            assert [one.outcome for one in answers] == [difference.old.outcome, difference.new.outcome]
            assert answer_of(answers[0]) != answer_of(answers[1])
    assert missed(found, new, diff, seed, QUESTIONS) == []


@pytest.mark.parametrize("seed", range(8))
def test_reordered_or_split_declarations_are_proved_the_same(seed: int) -> None:
    found = setting(seed)
    for other in (found.policy.shuffled(Random(seed)), found.policy.split()):
        new = kernel_of(other)
        assert new is not None
        diff = compare(found.kernel, new)
        assert not diff.differs
        assert diff.proved


@pytest.mark.parametrize("seed", range(3))
def test_a_widening_is_a_narrowing_in_the_opposite_direction(seed: int) -> None:
    found, new = pair(seed)
    there, back = compare(found.kernel, new, samples=0), compare(new, found.kernel, samples=0)
    turned = {"widening": "narrowing", "narrowing": "widening", "changed": "changed"}
    if there.proved and back.proved:
        outcomes = {(str(one.old.outcome), str(one.new.outcome), str(one.direction)) for one in there.differences}
        reverse = {
            (str(one.new.outcome), str(one.old.outcome), turned[one.direction])
            for one in back.differences
            if one.old.outcome != one.new.outcome
        }
        assert {one for one in outcomes if one[0] != one[1]} == reverse

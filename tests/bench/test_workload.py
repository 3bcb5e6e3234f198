"""The workload is the same on every machine, half of it is allowed, and our policy says what its rules say."""

import pytest

from bench.policy import policy, question
from bench.workload import Oracle, workload
from policyengine.engine import Engine

SIZES = [10, 100, 1_000]


def test_the_same_size_gives_the_same_rules_and_requests() -> None:
    assert workload(100, 200) == workload(100, 200)


def test_another_seed_gives_other_rules() -> None:
    assert workload(100, 200, seed=8).permits != workload(100, 200).permits


@pytest.mark.parametrize("size", SIZES)
def test_exactly_half_of_the_requests_are_allowed(size: int) -> None:
    assert sum(workload(size).expected) == 1_000


@pytest.mark.parametrize("size", SIZES)
def test_one_rule_in_twenty_forbids(size: int) -> None:
    work = workload(size, 20)
    assert (len(work.permits), len(work.forbids)) == (size - max(1, size // 20), max(1, size // 20))


def test_some_requests_are_decided_by_attestation() -> None:
    work = workload(100)
    unguarded = Oracle(work.permits, ())
    assert any(
        unguarded.allows(asked) and not verdict for asked, verdict in zip(work.requests, work.expected, strict=True)
    )


def test_policyengine_gives_the_expected_verdicts() -> None:
    work = workload(40, 300)
    decide = Engine.from_text(policy(work)).decide
    assert [decide(question(asked)).allowed for asked in work.requests] == list(work.expected)

"""A million generated questions, each decided by the specification and by the engine: no difference.

Each shard asks 50,000 questions of fifty policies. What they came to is told at the end of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from policyengine.runtime.decision import Outcome
from tests.compiler.equality import Tally, hold
from tests.compiler.test_remembering import play

pytestmark = pytest.mark.deep

SHARDS, POLICIES, QUESTIONS = 20, 50, 1_000


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_engine_decides_fifty_thousand_questions_like_the_specification(
    shard: int, record_property: Callable[[str, object], None]
) -> None:
    tally = hold(range(shard * POLICIES + 10_000, (shard + 1) * POLICIES + 10_000), QUESTIONS)
    record_property("equality", json.dumps(tally.told()))
    assert tally.decisions == POLICIES * QUESTIONS
    assert tally.quickly >= 0.2, f"the quick way is hardly tried:\n{tally}"
    assert min(tally.quick[outcome] for outcome in (Outcome.ALLOW, Outcome.DENY)) >= 1_000, str(tally)


@pytest.mark.parametrize("shard", range(4))
def test_the_engine_decides_sequences_of_questions_like_the_specification(shard: int) -> None:
    tally = sum((play(seed, 100) for seed in range(1_000 + shard * 100, 1_100 + shard * 100)), Tally())
    assert tally.reached["effect records"] >= 500, str(tally)

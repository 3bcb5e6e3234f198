"""A million generated questions, each decided by the specification and by the engine: no difference.

The counts of what they reached are printed at the end of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.evaluator.sources import SOURCES, hold
from tests.evaluator.tallies import DEEP_SHARES, FIRST_DEEP_SEED, LEAST, Share, cases_of

pytestmark = pytest.mark.deep

COMMON = 10  # occurrences in `make test`
CASES = cases_of(DEEP_SHARES, FIRST_DEEP_SEED)


@pytest.mark.parametrize(("source", "share"), CASES, ids=lambda one: str(one))
def test_generated_questions_are_decided_as_specified(
    source: str, share: Share, record_property: Callable[[str, object], None]
) -> None:
    tally = hold(SOURCES[source], share.seeds, share.questions)
    record_property("equality", json.dumps(tally.to_dict()))
    assert tally.decisions >= len(share.seeds) * share.questions
    assert not tally.lacking(common_cases(source)), f"hardly occurred:\n{tally}"


def common_cases(source: str) -> dict[str, int]:
    """Return the cases that each share must reach. A share asks many questions of few policies, so rare cases are
    required of the policies of `make test` only."""
    return {name: count for name, count in LEAST[source].items() if count >= COMMON}


def test_at_least_a_million_questions_are_compared() -> None:
    assert sum(len(share.seeds) * share.questions for _, share in CASES) >= 1_000_000

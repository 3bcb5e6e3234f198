"""Each fault of a table of seeded faults is found, by generated questions and some of them by Cedar.

Without a fault the same comparisons find nothing: `test_equality.py` and `tests/oracle` say so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policyengine.evaluator import is_compiled
from tests.evaluator import sources
from tests.evaluator.faults import CALLS_DIRECTLY, FAULTS, IN_PYTHON, Found, Patch
from tests.oracle.test_cedar import hold_equal

QUESTIONS, POLICIES = 40, 60
CEDAR = [fault for fault, found in FAULTS.items() if found.by_cedar]


def plant(fault: Callable[[Patch], None], patch: pytest.MonkeyPatch) -> None:
    if is_compiled() and fault not in IN_PYTHON:
        pytest.skip(CALLS_DIRECTLY)
    fault(patch)


@pytest.mark.parametrize(("fault", "found"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_generated_questions_find_a_seeded_fault(
    fault: Callable[[Patch], None], found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(fault, monkeypatch)
    monkeypatch.setattr(sources, "shrink_difference", lambda asked, asking: None)
    with pytest.raises(AssertionError, match="specified: ") as caught:
        sources.SOURCES[found.source](found.seed, QUESTIONS)
    assert "positional argument" not in str(caught.value), "the fault does not fit what it changes"


@pytest.mark.parametrize("fault", CEDAR, ids=lambda fault: fault.__name__)
def test_cedar_finds_a_seeded_fault(fault: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(fault, monkeypatch)
    with pytest.raises(AssertionError, match=r"Cedar: |gate=<Gate\."):
        hold_equal(range(POLICIES), QUESTIONS)

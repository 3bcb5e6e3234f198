"""A fault in the compiler is found: each of a table of seeded faults, by each comparison that is said to find it.

Without a fault the same comparisons find nothing: `test_equality.py` and `tests/oracle` say so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.compiler.equality import held
from tests.compiler.faults import CEDAR, FAULTS, QUESTIONS, Patch
from tests.oracle.test_cedar import hold_equal

POLICIES, ASKED = 100, 40  # at most, until the first difference


def by_questions() -> None:
    for seed in range(2_000, 2_000 + POLICIES):
        held(seed, ASKED)


def by_cedar() -> None:
    hold_equal(range(POLICIES), ASKED)


COMPARISONS = {QUESTIONS: by_questions, CEDAR: by_cedar}
TABLE = [(fault, found_by) for fault, all_of_them in FAULTS.items() for found_by in all_of_them]


@pytest.mark.parametrize(("fault", "found_by"), TABLE, ids=[f"{fault.__name__}-{by}" for fault, by in TABLE])
def test_a_seeded_fault_is_found(
    fault: Callable[[Patch], None], found_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    monkeypatch.setattr("tests.compiler.equality.made_small", lambda asked, asking: None)
    with pytest.raises(AssertionError):
        COMPARISONS[found_by]()

"""A fault in the compiler is found: each of a table of seeded faults, by the comparisons that are said to find it.

Without a fault the same comparisons find nothing: `test_equality.py` and `tests/oracle` say so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policyengine.evaluator import is_compiled
from tests.compiler import faults
from tests.compiler.equality import hold
from tests.compiler.faults import FAULTS, Found, Patch
from tests.oracle.test_cedar import hold_equal

POLICIES, ASKED = 60, 40  # at most, until the first difference
TABLE = list(FAULTS.items())
CEDAR = [fault for fault, found in TABLE if found.by_cedar]


@pytest.mark.parametrize(("fault", "found"), TABLE, ids=[fault.__name__ for fault in FAULTS])
def test_generated_questions_find_a_seeded_fault(
    fault: Callable[[Patch], None], found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_compiled() and fault in (faults.hops_need_no_grant, faults.groups_count_only_by_name):
        pytest.skip("compiled functions call each other directly, so none can be replaced")
    fault(monkeypatch)
    monkeypatch.setattr("tests.compiler.equality.made_small", lambda asked, asking: None)
    with pytest.raises(AssertionError, match=r"specified: |the quick way fails: ") as caught:
        hold(range(found.seed, found.seed + POLICIES), ASKED)
    assert "positional argument" not in str(caught.value), "the fault does not fit what it changes"


@pytest.mark.parametrize("fault", CEDAR, ids=lambda fault: fault.__name__)
def test_cedar_finds_a_seeded_fault(fault: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError, match=r"Cedar: |gate=<Gate\."):
        hold_equal(range(POLICIES), ASKED)

"""Faults planted in a policy are found, or said to be not proved; what changes nothing is told as no difference."""

from __future__ import annotations

import pytest

from policyengine.analysis import Diff, compare
from policyengine.engine import Engine
from policyengine.semantics import kernel as k
from tests.analysis.faults import BASE, FAULTS, HARMLESS, Fault, harmless_text, verdict

# One or two of each kind, those that are cheap; `make test-deep` tries all.
QUICK_FAULTS = [one for one in FAULTS if one.kind in ("confirms", "budgets", "rates", "attesters", "obligations")][::4]
QUICK_HARMLESS = HARMLESS[::8]


def kernel(text: str) -> k.Kernel:
    return Engine.from_text(text).kernel


def told(text: str) -> Diff:
    return compare(kernel(BASE), kernel(text), samples=0)


def is_told(fault: Fault, found: Diff) -> bool:
    return found.widens if fault.opens else found.differs or found.suspects


@pytest.mark.parametrize("fault", QUICK_FAULTS, ids=lambda one: f"{one.kind}: {one.new[:40]}")
def test_a_planted_fault_is_told_or_not_proved(fault: Fault) -> None:
    assert is_told(fault, told(fault.text))


@pytest.mark.parametrize("change", QUICK_HARMLESS, ids=lambda one: f"{one[0]}: {one[1][:40]}")
def test_what_changes_nothing_is_told_as_no_difference(change: tuple[str, ...]) -> None:
    assert verdict(told(harmless_text(change))) in ("same", "not proved")


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: f"{one.kind}: {one.new[:40]}")
def test_every_planted_fault_is_told_or_not_proved(fault: Fault) -> None:
    assert is_told(fault, told(fault.text))


@pytest.mark.deep
@pytest.mark.parametrize("change", HARMLESS, ids=lambda one: f"{one[0]}: {one[1][:40]}")
def test_nothing_that_changes_nothing_is_told_as_a_difference(change: tuple[str, ...]) -> None:
    assert verdict(told(harmless_text(change))) in ("same", "not proved")

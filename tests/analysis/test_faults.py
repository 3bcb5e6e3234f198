"""Faults planted in a policy are found, or said to be not proved; what changes nothing is told as no difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine import kernel as k
from policyengine.analysis import Diff, compare
from policyengine.engine import Engine
from tests.analysis.example_edits import EDITS, Edit
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
def test_a_planted_fault_is_reported_or_not_proved(fault: Fault) -> None:
    assert is_told(fault, told(fault.text))


@pytest.mark.parametrize("change", QUICK_HARMLESS, ids=lambda one: f"{one[0]}: {one[1][:40]}")
def test_a_harmless_change_is_not_reported_as_a_difference(change: tuple[str, ...]) -> None:
    assert verdict(told(harmless_text(change))) in ("same", "not proved")


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: f"{one.kind}: {one.new[:40]}")
def test_every_planted_fault_is_reported_or_not_proved(fault: Fault) -> None:
    assert is_told(fault, told(fault.text))


@pytest.mark.deep
@pytest.mark.parametrize("change", HARMLESS, ids=lambda one: f"{one[0]}: {one[1][:40]}")
def test_no_harmless_change_is_reported_as_a_difference(change: tuple[str, ...]) -> None:
    assert verdict(told(harmless_text(change))) in ("same", "not proved")


# ── Edits of the examples ─────────────────────────────────────────────────────────────────────


def told_of_edit(edit: Edit, folder: Path) -> str:
    for name in ("old", "new"):
        (folder / name).mkdir()
    old, new = (edit.write(folder / name, changed=name == "new") for name in ("old", "new"))
    assert [path.read_text() for path in sorted(old.iterdir())] != [path.read_text() for path in sorted(new.iterdir())]
    return verdict(compare(Engine.load(old).kernel, Engine.load(new).kernel, samples=0))


def is_right(edit: Edit, said: str) -> bool:
    match edit.effect:
        case "opens":
            return said in ("opens", "not proved")
        case "differs":
            return said != "same"
        case "nothing":
            return said in ("same", "not proved")


@pytest.mark.parametrize(
    "edit",
    [one for one in EDITS if one.example != "delegation"][::14],
    ids=lambda one: f"{one.example}: {one.texts[1][:40]}",
)
def test_an_edit_of_an_example_is_classified_by_its_effect(edit: Edit, tmp_path: Path) -> None:
    assert is_right(edit, told_of_edit(edit, tmp_path))


@pytest.mark.deep
@pytest.mark.parametrize("edit", EDITS, ids=lambda one: f"{one.example}: {one.texts[1][:40]}")
def test_every_edit_of_an_example_is_classified_by_its_effect(edit: Edit, tmp_path: Path) -> None:
    assert is_right(edit, told_of_edit(edit, tmp_path))

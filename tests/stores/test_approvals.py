"""What an approval store promises, on every store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from policyengine.stores.approvals import (
    FORGOTTEN_PER_OPENING,
    MAX_LISTED_ROWS,
    AdmissionResult,
    ApprovalQuota,
    ApprovalRow,
    ApprovalStore,
    MemoryApprovals,
)
from policyengine.stores.base import Store, StoreError, StoreFullError
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.stores.conftest import Fresh, fresh_everywhere

fresh = fresh_everywhere
NOW = 1_800_000_000_000_000  # microseconds
MINUTE = 60_000_000
TWO = (ApprovalQuota("bot", 2), ApprovalQuota("finance", 3))


def row(id: str, binding: str = "b", *, live: int = 10 * MINUTE, until: int = 20 * MINUTE, value: bytes = b"v",
        counts: tuple[str, ...] = ()) -> ApprovalRow:  # fmt: skip
    return ApprovalRow(id, binding, value, NOW + live, NOW + until, counts)


@pytest.fixture
def approvals(store: Store) -> ApprovalStore:
    return store.approvals


def test_an_opened_row_is_found_by_its_id_and_by_its_binding(approvals: ApprovalStore) -> None:
    assert approvals.open(row("1"), (), NOW) == AdmissionResult(row("1"))
    assert approvals.find("1", NOW) == row("1")
    assert approvals.bound(["other", "b", "b"], NOW) == [row("1")]
    assert approvals.find("2", NOW) is None


def test_an_identical_row_that_is_live_is_returned_instead_of_opening_another(approvals: ApprovalStore) -> None:
    first = row("1", counts=("all",))
    approvals.open(first, (), NOW)
    assert approvals.open(row("2", counts=("all",)), (), NOW + MINUTE) == AdmissionResult(first)
    assert approvals.rows("all", NOW) == [first]


def test_a_row_that_is_no_longer_live_is_followed_by_another(approvals: ApprovalStore) -> None:
    approvals.open(row("1"), (), NOW)
    later = row("2", live=30 * MINUTE, until=40 * MINUTE)
    assert approvals.open(later, (), NOW + 10 * MINUTE) == AdmissionResult(later)
    assert approvals.bound(["b"], NOW + 10 * MINUTE) == [later]


def test_only_the_named_row_is_replaced(approvals: ApprovalStore) -> None:
    approvals.open(row("1"), (), NOW)
    assert approvals.open(row("2"), (), NOW, "another") == AdmissionResult(row("1"))
    assert approvals.open(row("2"), (), NOW, "1") == AdmissionResult(row("2"))
    assert approvals.open(row("3"), (), NOW, "1") == AdmissionResult(row("2"))
    assert approvals.bound(["b"], NOW) == [row("2")]


def test_a_full_quota_refuses_another_row_and_changes_nothing(approvals: ApprovalStore) -> None:
    for number in range(2):
        approvals.open(row(f"{number}", f"b{number}", counts=("bot", "finance")), TWO, NOW)
    assert approvals.open(row("2", "b2", counts=("bot", "finance")), TWO, NOW) == AdmissionResult(None, "bot")
    assert approvals.bound(["b2"], NOW) == []
    assert len(approvals.rows("bot", NOW)) == 2
    other = row("3", "b3", counts=("other", "finance"))
    assert approvals.open(other, TWO[1:], NOW).row == other
    assert approvals.open(row("4", "b4"), TWO[1:], NOW) == AdmissionResult(None, "finance")


def test_an_identical_row_needs_no_room_in_a_quota(approvals: ApprovalStore) -> None:
    approvals.open(row("1", counts=("bot",)), (), NOW)
    assert approvals.open(row("2", counts=("bot",)), [ApprovalQuota("bot", 1)], NOW).row == row("1", counts=("bot",))


def test_a_row_counts_only_while_it_is_live(approvals: ApprovalStore) -> None:
    one = [ApprovalQuota("bot", 1)]
    approvals.open(row("1", "b1", counts=("bot",)), one, NOW)
    assert approvals.open(row("2", "b2", counts=("bot",)), one, NOW + 9 * MINUTE).row is None
    assert approvals.open(row("2", "b2", counts=("bot",)), one, NOW + 10 * MINUTE).row is not None


def test_a_saved_row_counts_where_it_counts_now(approvals: ApprovalStore) -> None:
    one, first = [ApprovalQuota("bot", 1)], row("1", "b1", counts=("bot",))
    approvals.open(first, one, NOW)
    assert approvals.save(first._replace(counts=()), first, NOW)
    assert approvals.open(row("2", "b2", counts=("bot",)), one, NOW).row is not None


def test_only_the_row_that_was_read_is_replaced(approvals: ApprovalStore) -> None:
    first, second, third = row("1", value=b"1"), row("1", value=b"2"), row("1", value=b"3")
    approvals.open(first, (), NOW)
    assert approvals.save(second, first, NOW)
    assert not approvals.save(third, first, NOW)
    assert approvals.find("1", NOW) == second
    assert approvals.bound(["b"], NOW) == [second]
    assert not approvals.save(row("9"), row("9"), NOW)
    assert approvals.find("9", NOW) is None


def test_a_saved_row_that_lasts_longer_is_still_found_by_its_binding(approvals: ApprovalStore) -> None:
    first, longer = row("1"), row("1", live=50 * MINUTE, until=60 * MINUTE)
    approvals.open(first, (), NOW)
    approvals.save(longer, first, NOW)
    assert approvals.bound(["b"], NOW + 40 * MINUTE) == [longer]
    assert approvals.open(row("2"), (), NOW + 40 * MINUTE).row == longer


def test_an_ended_row_is_not_found(approvals: ApprovalStore) -> None:
    approvals.open(row("1", counts=("all",)), (), NOW)
    late = NOW + 20 * MINUTE
    assert (approvals.find("1", late), approvals.bound(["b"], late), approvals.rows("all", late)) == (None, [], [])


def test_rows_that_live_longest_are_listed_first(approvals: ApprovalStore) -> None:
    for number in range(3):
        approvals.open(row(f"{number}", f"b{number}", live=MINUTE + number, counts=("all",)), (), NOW)
    assert [one.id for one in approvals.rows("all", NOW)] == ["2", "1", "0"]
    assert [one.id for one in approvals.rows("all", NOW + MINUTE)] == ["2", "1"]


def test_only_rows_that_count_under_the_name_are_listed(approvals: ApprovalStore) -> None:
    first, second = row("1", "b1", counts=("all",)), row("2", "b2", counts=("all", "bot"))
    for opened in (first, second, row("3", "b3", counts=("bot",)), row("4", "b4")):
        approvals.open(opened, (), NOW)
    approvals.save(second._replace(counts=("bot",)), second, NOW)
    assert approvals.rows("all", NOW) == [first]
    assert approvals.rows("nobody", NOW) == []


def test_rows_are_listed_in_parts(approvals: ApprovalStore) -> None:
    for number in range(MAX_LISTED_ROWS + 1):
        approvals.open(row(f"{number}", f"b{number}", live=MINUTE + number, counts=("all",)), (), NOW)
    listed = approvals.rows("all", NOW)
    assert (len(listed), listed[0].id, listed[-1].id) == (MAX_LISTED_ROWS, str(MAX_LISTED_ROWS), "1")
    assert [one.id for one in approvals.rows("all", NOW, MAX_LISTED_ROWS)] == ["0"]
    assert approvals.rows("all", NOW, 2 * MAX_LISTED_ROWS) == []


def test_of_several_callers_that_open_the_same_at_once_one_opens_it(approvals: ApprovalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda number: approvals.open(row(f"{number}", counts=("all",)), (), NOW), range(8)))
    assert len({one.row for one in opened}) == 1
    assert len(approvals.rows("all", NOW)) == 1


def test_of_several_callers_that_save_at_once_one_succeeds(approvals: ApprovalStore) -> None:
    approvals.open(row("1"), (), NOW)
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda number: approvals.save(row("1", value=b"%d" % number), row("1"), NOW), range(8)))
    assert sum(saved) == 1


def test_names_of_any_text_are_distinct(approvals: ApprovalStore) -> None:
    for number, name in enumerate(("a:b", "a", "ä\n", "")):
        approvals.open(row(f"{number}", f"b{number}", counts=(name,)), [ApprovalQuota(name, 1)], NOW)
        assert approvals.open(row("x", "bx"), [ApprovalQuota(name, 1)], NOW).exceeded == name


# ── Single stores ─────────────────────────────────────────────────────────────────────────────


def test_a_full_memory_store_refuses_another_row(fresh: Fresh) -> None:
    approvals = MemoryApprovals(most=2)
    for number in range(2):
        approvals.open(row(f"{number}", f"b{number}"), (), NOW)
    with pytest.raises(StoreFullError):
        approvals.open(row("2", "b2"), (), NOW)
    assert approvals.open(row("2", "b2"), (), NOW + 20 * MINUTE).row is not None


def test_a_memory_store_forgets_ended_rows() -> None:
    approvals = MemoryApprovals(most=FORGOTTEN_PER_OPENING + 1)
    for round_ in range(4):
        for number in range(3):
            name, start = f"{round_}-{number}", round_ * 30
            ends = {"live": (start + 10) * MINUTE, "until": (start + 20) * MINUTE}
            added = row(name, name, **ends, counts=(name,))
            assert approvals.open(added, (), NOW + start * MINUTE).row == added


def test_a_row_that_lasts_long_keeps_no_ended_rows_in_a_full_memory_store() -> None:
    approvals = MemoryApprovals(most=3)
    for number, until in enumerate((90, 20, 20)):
        approvals.open(row(f"{number}", f"b{number}", until=until * MINUTE), (), NOW)
    added = row("3", "b3", live=30 * MINUTE, until=40 * MINUTE)
    assert approvals.open(added, (), NOW + 20 * MINUTE).row == added
    assert approvals.find("0", NOW + 20 * MINUTE) is not None


def test_a_memory_store_forgets_ended_rows_behind_one_that_lasts_longer() -> None:
    approvals = MemoryApprovals(most=3)
    approvals.open(row("lasting", "lasting", until=1_000 * MINUTE), (), NOW)
    approvals.open(row("saved", "saved"), (), NOW)
    approvals.save(row("saved", "saved", until=1_000 * MINUTE), row("saved", "saved"), NOW)
    for turn in range(3):
        now = NOW + turn * 20 * MINUTE
        assert approvals.open(row(f"{turn}", "b", until=(turn + 1) * 20 * MINUTE), (), now).row is not None
    late = NOW + 40 * MINUTE
    assert [id for id in ("0", "1", "2", "saved", "lasting") if approvals.find(id, late)] == ["2", "saved", "lasting"]


def test_approvals_survive_a_restart(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "state.db").approvals.open(row("1"), (), NOW)
    assert SqliteStore(tmp_path / "state.db").approvals.find("1", NOW) == row("1")


@dataclass
class BrokenApprovals:
    """Approvals of a store that does not answer."""

    calls: int = 0

    def find(self, id: str, now: int) -> ApprovalRow | None:
        self.calls += 1
        raise StoreError("no answer")


def test_a_store_that_does_not_answer_is_asked_no_more_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, store = BrokenApprovals(), SqliteStore(tmp_path / "state.db")
    monkeypatch.setattr(store, "approvals", broken)
    resilient = ResilientStore(store)
    for _ in range(50):
        with pytest.raises(StoreError):
            resilient.approvals.find("1", NOW)
    assert 0 < broken.calls < 50

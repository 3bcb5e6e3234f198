"""`python -m bench lockstep`: a small day in this process, and its targets."""

from bench import lockstep
from bench.lockstep_traffic import BEGAN, DAY, SPARSE, make_sparse


def test_the_section_reports_farms_decoys_and_targets(monkeypatch):
    monkeypatch.setattr(lockstep, "in_child", lambda _name, _timeout, arguments: lockstep.measure(**arguments))
    monkeypatch.setattr(lockstep, "KEYS", 2_000)
    monkeypatch.setattr(lockstep, "EVENTS", 50_000)
    monkeypatch.setattr(lockstep, "SMALL", 1_200)
    monkeypatch.setattr(lockstep, "COMMON", (12,))
    found = lockstep.run(lambda _: None)
    assert all(target.holds for target in found.targets)
    rows = dict(found.rows)
    assert rows["callers, events"].startswith("2,000, ")
    assert rows["farms of 12 common runs, half of all their runs"] == "100.0% of callers found"
    assert rows["callers with 200 runs a day, no farm"] == "0 pairs"
    assert any(what.startswith("decoys: ") for what in rows)


def test_sparse_farms_have_the_given_number_of_common_runs():
    traffic = make_sparse(400, 7, 1)
    farms = {caller for caller, kind in enumerate(traffic.kinds) if kind == SPARSE}
    assert len(farms) == 12
    runs = {
        (caller, run)
        for caller, run in zip(traffic.columns.callers, traffic.columns.runs, strict=True)
        if caller in farms
    }
    assert len(runs) == 12 * 2 * 7
    assert (traffic.columns.begin, traffic.columns.end) == (BEGAN, BEGAN + DAY)

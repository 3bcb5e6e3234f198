"""The logs that `python -m bench query` makes, and its table."""

from __future__ import annotations

from pathlib import Path

from bench.audit_logs import write_log
from bench.audit_query import RECORDS, section
from policyengine.audit.query.query import AuditQuery
from policyengine.audit.query.stream import StreamReader


def test_generated_logs_are_valid_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_log(tmp_path / name, 1_000)
    reader = StreamReader([tmp_path / "a.jsonl"])
    [answer] = reader.answer([AuditQuery(count_by=("kind",))])
    assert [row[:2] for row in answer.rows] == [("decision", 700), ("outcome", 300)]
    assert reader.skipped.count == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_the_target_is_for_ten_million_records() -> None:
    sizes = {"bytes": 7e9, "packed_bytes": 8e8, "cpu": 1.0}
    for records, targets in ((RECORDS, 1), (RECORDS // 10, 0)):
        found = section([{"what": "x", "of": "packed", "seconds": 2.0, "records": records, **sizes}])
        assert len(found.targets) == targets
        assert found.rows == (("x", "packed", "2.00", "1.00"),)

"""`python -m bench learn`: a small log in this process, learned in two ways."""

import json

import pytest

from bench import learn
from bench.learn_traffic import write_log
from policyengine.audit.reader import read_records


def test_the_section_compares_the_ways(monkeypatch):
    monkeypatch.setattr(learn, "in_child", lambda _name, _timeout, arguments: learn.measure(**arguments))
    monkeypatch.setattr(learn, "find_spec", lambda name: None)
    monkeypatch.setattr(learn, "EVENTS", 3_000)
    monkeypatch.setattr(learn, "SPARK_EVENTS", 1_000)
    monkeypatch.setattr(learn, "AGENTS", 20)
    found = learn.run(lambda _: None)
    assert [row[:3] for row in found.rows] == [
        ("thread", "2,000", "20"), ("duckdb", "2,000", "20"), ("thread", "1,000", "2"), ("duckdb", "1,000", "2"),
    ]  # fmt: skip
    assert {target.what for target in found.targets} >= {"thread", "DuckDB"}
    assert len({each["digest"] for each in found.data[:2]}) == 1


def test_ways_that_differ_are_an_error(monkeypatch, tmp_path):
    answers = iter([{"digest": "a", "learned": 1}, {"digest": "b", "learned": 1}])
    monkeypatch.setattr(learn, "in_child", lambda *_: next(answers))
    with pytest.raises(RuntimeError, match="the ways of learning differ"):
        learn.measure_all(tmp_path / "log.jsonl", 1_000, 2, ("thread", "duckdb"), lambda _: None)


def test_the_log_is_one_that_readers_of_logs_read(tmp_path):
    count = write_log(tmp_path / "log.jsonl", 2_000, 10, 1)
    told = []
    records = list(read_records(tmp_path / "log.jsonl", told.append))
    assert (len(records), told) == (count, [])
    assert [record.time for record in records] == sorted(record.time for record in records)
    assert {record.behavior.group for record in records} == {f"profile work-{number}" for number in range(5)}
    assert len({record.id for record in records}) == count
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["v"] == 2

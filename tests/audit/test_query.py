"""Questions to logs: what matches, and the same answers from the streaming reader, DuckDB and packed logs."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest

from policyengine.audit.query import duck, pack, source, tally
from policyengine.audit.query.duck import DuckReader
from policyengine.audit.query.fields import FIELDS, RECORD_KINDS
from policyengine.audit.query.pack import pack_log
from policyengine.audit.query.query import AuditQuery, QueryAnswer, QueryError, parse_moment
from policyengine.audit.query.source import LogFiles, open_reader
from policyengine.audit.query.stream import SkippedLines, StreamReader
from policyengine.audit.query.tally import has_parts
from tests.audit.shop_lines import damaged_lines, decision, line, moment, odd_lines, outcome, shop_lines, write_lines

DECISIONS = AuditQuery().where("kind", "decision")
QUERIES = [
    AuditQuery(),
    AuditQuery(limit=5),
    DECISIONS,
    AuditQuery(count=True),
    AuditQuery(count=True).where("agent", "nobody"),
    AuditQuery(count_by=("kind", "outcome")),
    AuditQuery(count_by=("minute", "outcome"), limit=7),
    AuditQuery(count_by=("month", "day", "hour")),
    AuditQuery(count_by=("chain", "agents", "depth")),
    AuditQuery(count_by=("agent", "issuer", "user", "client", "task", "model")),
    AuditQuery(count_by=("endpoint", "target", "resource")),
    AuditQuery(count_by=("gate", "rule", "observed", "event")),
    AuditQuery(count_by=("ended", "approver", "binding", "spent")),
    AuditQuery(count_by=("status", "latency_ms", "size", "usage")),
    AuditQuery(count_by=("agent",), newest_first=True, limit=2),
    AuditQuery(measure="latency_ms"),
    AuditQuery(measure="latency_ms", count_by=("endpoint", "hour")),
    AuditQuery(measure="size").where("agent", "nobody"),
    AuditQuery(measure="usage"),
    AuditQuery(measure="usage", count_by=("agent", "status")),
    DECISIONS.where("agent", "bot-*", "%_\\'").where("rule", "rule *", "100%_'; DROP TABLE events; --"),
    AuditQuery().where("user", ""),
    AuditQuery().where("user", "", "alice"),
    AuditQuery().where("status", "2*"),
    AuditQuery().where("ended", "open"),
    AuditQuery().where("day", "2026-03-0*"),
    AuditQuery(since=moment(2), until=moment(9)),
]
Answer = Callable[[Path, Sequence[AuditQuery]], tuple[list[QueryAnswer], SkippedLines]]


def streamed(log: Path, queries: Sequence[AuditQuery]) -> tuple[list[QueryAnswer], SkippedLines]:
    """Each question alone, which extracts fields in two steps."""
    reader = StreamReader(LogFiles.find([log]).logs)
    return [answer for query in queries for answer in reader.answer([query])], reader.skipped


def streamed_together(log: Path, queries: Sequence[AuditQuery]) -> tuple[list[QueryAnswer], SkippedLines]:
    reader = StreamReader(LogFiles.find([log]).logs)
    return reader.answer(queries), reader.skipped


def with_duckdb(log: Path, queries: Sequence[AuditQuery]) -> tuple[list[QueryAnswer], SkippedLines]:
    with DuckReader.open(LogFiles.find([log]).logs) as reader:
        return reader.answer(queries), reader.skipped


def with_duckdb_alone(log: Path, queries: Sequence[AuditQuery]) -> tuple[list[QueryAnswer], SkippedLines]:
    """Each question alone, for which only the rows that its filters need are read."""
    answers = []
    for query in queries:
        with DuckReader.open(LogFiles.find([log]).logs) as reader:
            answers += reader.answer([query])
    return answers, reader.skipped


def packed(log: Path, queries: Sequence[AuditQuery]) -> tuple[list[QueryAnswer], SkippedLines]:
    result = pack_log([log], log.with_name("packed.parquet"))
    with open_reader(LogFiles.find([log.with_name("packed.parquet")]), lambda _: None) as reader:
        return reader.answer(queries), result.skipped


EVERY_READER = pytest.mark.parametrize("answer", [streamed, streamed_together, with_duckdb, with_duckdb_alone, packed])


def ids(log: Path, query: AuditQuery) -> list[object]:
    [answer] = StreamReader([log]).answer([query])
    return [row[answer.columns.index("id")] for row in answer.rows]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "shop.jsonl", shop_lines())


# ── The same answers from every reader ────────────────────────────────────────────────────────


@cache
def streamed_lines(lines: Callable[[], list[bytes]]) -> tuple[list[QueryAnswer], int]:
    """Return the answers of the streaming reader, and the number of the lines that it skipped."""
    with TemporaryDirectory() as folder:
        answers, skipped = streamed(write_lines(Path(folder) / "log.jsonl", lines()), QUERIES)
    return answers, skipped.count


@pytest.mark.parametrize("lines", [shop_lines, odd_lines, damaged_lines])
@pytest.mark.parametrize("answer", [streamed_together, with_duckdb, with_duckdb_alone, packed])
def test_every_reader_gives_the_same_answers(tmp_path: Path, answer: Answer, lines: Callable[[], list[bytes]]) -> None:
    log = write_lines(tmp_path / "log.jsonl", lines())
    expected, skipped = streamed_lines(lines)
    every = 3 if answer is with_duckdb_alone and lines is not odd_lines else 1  # questions: each opens the log again
    found, also_skipped = answer(log, QUERIES[::every])
    assert also_skipped.count == skipped
    for one, other in zip(expected[::every], found, strict=True):
        assert (one.query.command(["log"]), one.rows, one.total) == (
            other.query.command(["log"]), [tuple(row) for row in other.rows], other.total
        )  # fmt: skip


def test_duckdb_reads_valid_files_without_a_copy(shop: Path) -> None:
    _, skipped = with_duckdb(shop, QUERIES)
    assert skipped == SkippedLines()


@EVERY_READER
def test_malformed_lines_are_skipped_and_counted(tmp_path: Path, answer: Answer) -> None:
    log = write_lines(tmp_path / "log.jsonl", damaged_lines())
    [found], skipped = answer(log, [AuditQuery()])
    assert [row[2] for row in found.rows] == ["W1", "W3", "W4", "W7", "W9", "WA"]
    assert skipped.lines == {log: 11}
    assert found.rows[2][0] == moment(3)  # in UTC


@EVERY_READER
def test_rotated_and_compressed_files_are_read(tmp_path: Path, answer: Answer) -> None:
    log = write_lines(tmp_path / "log.jsonl", [decision(3, "D3")])
    write_lines(tmp_path / "log.jsonl.20260302T100500.000000Z", [decision(2, "D2")])
    older = tmp_path / "log.jsonl.20260302T100100.000000Z.gz"
    older.write_bytes(gzip.compress(decision(0, "D0") + decision(1, "D1")))
    [found], _ = answer(log, [AuditQuery()])
    assert [row[2] for row in found.rows] == ["D0", "D1", "D2", "D3"]


@EVERY_READER
def test_a_compressed_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path, answer: Answer) -> None:
    log = write_lines(tmp_path / "log.jsonl", [decision(9_999, "LAST")])
    older = tmp_path / "log.jsonl.20260302T100100.000000Z.gz"
    lines = b"".join(decision(number, os.urandom(20).hex()) for number in range(500))
    older.write_bytes(gzip.compress(lines)[:-2_000])
    [found], skipped = answer(log, [AuditQuery(count=True)])
    assert 300 < int(found.rows[0][0] or 0) < 501
    assert list(skipped.broken) == [older]


@EVERY_READER
def test_a_line_of_many_megabytes_is_read(tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duck, "MAX_DUCKDB_LINE_BYTES", 100_000)
    rows = [{"type": "user", "id": "x" * 1_000}] * 300
    log = write_lines(tmp_path / "log.jsonl", [line(0, directory="sha256:1", entities=rows), decision(1, "D1")])
    [found], skipped = answer(log, [AuditQuery()])
    assert ([row[2] for row in found.rows], skipped.count) == (["D1"], 0)


# ── What matches ──────────────────────────────────────────────────────────────────────────────


def test_a_record_has_its_fields(tmp_path: Path) -> None:
    log = write_lines(
        tmp_path / "log.jsonl", [decision(0, "D1", "deny", rule="islands", chain=["alice", "planner", "bot"])]
    )
    [answer] = StreamReader([log]).answer([AuditQuery()])
    [row] = answer.rows
    assert {name: value for name, value in zip(answer.columns, row, strict=True) if value is not None} == {
        "time": moment(0), "kind": "decision", "id": "D1", "outcome": "deny", "agent": "bot", "issuer": "acme",
        "user": "alice", "chain": "alice > planner > bot", "agents": "planner > bot", "depth": 2,
        "endpoint": "GET /v1/invoices/42", "target": "GET /v1/invoices/42", "resource": "/v1/invoices/42",
        "gate": "guard", "rule": "islands", "package": "shop", "revision": "sha256:r",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "endpoint", "resource"),
    [
        ({"request": {"method": "GET", "path": "/a"}}, "GET /a", "/a"),
        ({"tool": {"server": "billing", "name": "refund"}}, "TOOL billing/refund", "billing/refund"),
        ({"tool": {"name": "refund"}}, "TOOL refund", "refund"),
        ({"action": {"name": "view"}, "resource": {"type": "doc", "id": "7"}}, "ACTION view", "doc/7"),
        ({}, None, None),
    ],
)
def test_endpoint_and_resource_of_a_decision(
    tmp_path: Path, request_: object, endpoint: str | None, resource: str | None
) -> None:
    lines = [line(0, decision={"id": "D1", "outcome": "allow"}, request=request_)]
    log = write_lines(tmp_path / "log.jsonl", lines)
    [answer] = StreamReader([log]).answer([AuditQuery(count_by=("endpoint", "resource"))])
    assert answer.rows[0][:2] == (endpoint, resource)


def test_the_newest_records_are_listed_oldest_first(shop: Path) -> None:
    assert ids(shop, AuditQuery(limit=3).where("kind", "decision")) == ["C2", "C3", "C4"]


def test_values_of_one_field_are_alternatives_and_fields_must_all_match(shop: Path) -> None:
    query = DECISIONS.where("agent", "bot-0", "bot-1").where("outcome", "deny").where("resource", "/v1/invoices/3")
    assert ids(shop, query) == ["D03"]


def test_a_star_stands_for_any_text_and_nothing_else_is_special(tmp_path: Path) -> None:
    names = ["a.c", "abc", "a%c", "a_c", "ac", "a\nc", "A.C"]
    log = write_lines(tmp_path / "log.jsonl", [decision(place, name, agent=name) for place, name in enumerate(names)])
    for name in names[:6]:
        assert ids(log, AuditQuery().where("agent", name)) == [name]
    assert ids(log, AuditQuery().where("agent", "a*c")) == names[:6]
    [answers, _] = packed(log, [AuditQuery().where("agent", name) for name in (*names, "a*c", "a%*")])
    assert [len(one.rows) for one in answers] == [1, 1, 1, 1, 1, 1, 1, 6, 1]


@pytest.mark.parametrize(
    ("value", "matches"),
    [("*a*a*a*ab", False), ("*a*b*a", False), ("*a*a*b*", False), ("*a*a*a*", True), ("a*a", True), ("**", True)],
)
def test_stars_are_compared_quickly_with_a_long_text_of_a_client(value: str, matches: bool) -> None:
    assert has_parts("a" * 100_000, value.split("*")) is matches


def test_a_text_does_not_match_twice_with_the_same_letters() -> None:
    assert not has_parts("aba", ["ab", "ba"])
    assert not has_parts("abcd", ["ab", "bc", "d"])


def test_since_is_inclusive_and_until_is_exclusive(shop: Path) -> None:
    assert ids(shop, AuditQuery(since=moment(50), until=moment(52))) == ["C1", "C2"]


def test_a_confirm_ended_allowed_if_its_approval_was_used_afterwards(shop: Path) -> None:
    confirms = DECISIONS.where("outcome", "confirm")
    assert ids(shop, confirms.where("ended", "allowed")) == ["C1"]
    assert ids(shop, confirms.where("ended", "open")) == ["C2", "C4"]
    assert ids(shop, DECISIONS.where("approver", "carol")) == ["C3"]


def test_percentiles_are_by_nearest_rank(tmp_path: Path) -> None:
    lines = [outcome(place, f"D{place}", latency_ms=place) for place in range(1, 101)]
    [answer] = StreamReader([write_lines(tmp_path / "log.jsonl", lines)]).answer([AuditQuery(measure="latency_ms")])
    assert answer.columns == ("count", "sum", "min", "p50", "p95", "p99", "max")
    assert answer.rows == [(100, 5050.0, 1.0, 50.0, 95.0, 99.0, 100.0)]


def test_usage_is_measured_by_its_members(shop: Path) -> None:
    [answer] = StreamReader([shop]).answer([AuditQuery(measure="usage")])
    assert [row[:3] for row in answer.rows] == [("cost/eur~", 30, 7.5), ("tokens", 30, 570.0)]


def test_all_records_come_in_the_order_of_the_log(tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log.jsonl", [decision(2, "D2"), decision(1, "D1")])
    query = AuditQuery(limit=0)
    assert [row[2] for row in StreamReader([log]).rows(query)] == ["D2", "D1"]
    pack_log([log], tmp_path / "packed.parquet")
    with open_reader(LogFiles.find([tmp_path / "packed.parquet"]), lambda _: None) as reader:
        assert [row[2] for row in reader.rows(query)] == ["D2", "D1"]


def test_logs_and_packed_logs_are_answered_together(tmp_path: Path, shop: Path) -> None:
    other = write_lines(tmp_path / "other.jsonl", [decision(99, "NEW")])
    pack_log([shop], tmp_path / "shop.parquet")
    with open_reader(LogFiles.find([tmp_path / "shop.parquet", other]), lambda _: None) as reader:
        [answer] = reader.answer([AuditQuery(limit=2).where("kind", "decision")])
    assert [row[2] for row in answer.rows] == ["C4", "NEW"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01", "2026-03-01T00:00:00.000000Z"),
        ("2026-03-01T10:30Z", "2026-03-01T10:30:00.000000Z"),
        ("2026-03-01 10:30+02:00", "2026-03-01T08:30:00.000000Z"),
        ("2026-03-01T10:30:00.5Z", "2026-03-01T10:30:00.500000Z"),
        ("7d", "2026-02-23T10:00:00.000000Z"),
        ("1h30m", "2026-03-02T08:30:00.000000Z"),
    ],
)
def test_times_are_dates_times_or_durations_ago(text: str, expected: str) -> None:
    assert parse_moment(text, datetime(2026, 3, 2, 10, tzinfo=UTC)) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-03-01T10:30", "9999999d", "-1d"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(QueryError):
        parse_moment(text, datetime(2026, 3, 2, 10, tzinfo=UTC))


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limit", "query", "message"),
    [
        ("MAX_GROUPS", AuditQuery(count_by=("id",)), "there are more than 5 groups"),
        ("MAX_GROUPS", AuditQuery(measure="size", count_by=("id",)), "there are more than 5 groups"),
        ("MAX_MEASURED", AuditQuery(measure="size"), "the log has too many numbers to measure"),
    ],
)
def test_memory_is_bounded(
    shop: Path, monkeypatch: pytest.MonkeyPatch, limit: str, query: AuditQuery, message: str
) -> None:
    monkeypatch.setattr(tally, limit, 5)
    with pytest.raises(QueryError, match=message):
        StreamReader([shop]).answer([query])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"count_by": ("x",)}, "records have no field `x`"),
        ({"measure": "agent"}, "`agent` is not measured"),
        ({"limit": 100_001}, "the limit is at most 100,000"),
    ],
)
def test_impossible_questions_are_refused(members: dict[str, object], message: str) -> None:
    with pytest.raises(QueryError) as refused:
        AuditQuery(**members)  # type: ignore[arg-type]  # the members above
    assert refused.value.message == message


# ── DuckDB is closed in ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('{folder}/other.jsonl')",
        "SELECT * FROM read_text('{folder}/*')",
        "SELECT * FROM 'https://127.0.0.1:1/x.parquet'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH '{folder}/x.db'",
        "COPY (SELECT 1) TO '{folder}/x.csv'",
        "EXPORT DATABASE '{folder}/x'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET allow_community_extensions = true",
    ],
)
def test_duckdb_reaches_only_the_named_files(tmp_path: Path, shop: Path, statement: str) -> None:
    write_lines(tmp_path / "other.jsonl", [decision(0, "SECRET")])
    with DuckReader.open([shop]) as reader:
        reader.answer([AuditQuery()])
        with pytest.raises((duckdb.PermissionException, duckdb.InvalidInputException)):
            reader._connection.execute(statement.format(folder=tmp_path))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["other.jsonl", "shop.jsonl"]


def test_duckdb_draws_nothing_on_stdout(shop: Path) -> None:
    with DuckReader.open([shop]) as reader:
        assert reader._connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]


@pytest.mark.parametrize("name", ["*.jsonl", "[ab].jsonl", "a'b\"; SELECT 1; --.jsonl", "?$1 {x}.jsonl"])
def test_names_of_files_are_neither_patterns_nor_sql(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_lines(folder / "a.jsonl", [decision(0, "OTHER")])
    log = write_lines(folder / name, [decision(1, "THIS")])
    for answer in (with_duckdb, packed):
        [found], _ = answer(log, [AuditQuery()])
        assert [row[2] for row in found.rows] == ["THIS"]


def test_values_are_parameters_and_never_sql(shop: Path) -> None:
    hostile = "x' OR 1=1; DROP VIEW events; --"
    queries = [DECISIONS.where(name, hostile) for name in ("agent", "rule", "id", "kind")]
    answers, _ = with_duckdb(shop, [*queries, DECISIONS])
    assert [one.total for one in answers] == [0, 0, 0, 0, 44]


def test_the_private_folder_is_removed(tmp_path: Path, shop: Path) -> None:
    with DuckReader.open([shop], beside=tmp_path) as reader:
        assert (reader.folder.parent, reader.folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert not reader.folder.exists()


def test_only_large_logs_are_read_with_duckdb(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not LogFiles.find([shop]).with_duckdb
    monkeypatch.setattr(source, "STREAMED_BYTES", 10)
    assert LogFiles.find([shop]).with_duckdb
    monkeypatch.setattr(source, "has_duckdb", lambda: False)
    assert not LogFiles.find([shop]).with_duckdb


# ── Packed logs ───────────────────────────────────────────────────────────────────────────────


def test_a_packed_log_has_the_fields_and_every_line(tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log.jsonl", odd_lines())
    result = pack_log([log], tmp_path / "log.parquet")
    assert (result.lines, result.before) == (len(odd_lines()), log.stat().st_size)
    rows = duckdb.connect().execute("SELECT * FROM read_parquet($1)", [str(tmp_path / "log.parquet")])
    assert [one[0] for one in rows.description or ()] == [*FIELDS, "line"]
    found = rows.fetchall()
    assert [row[-1].encode() + b"\n" for row in found] == odd_lines()
    assert {row[1] for row in found} <= set(RECORD_KINDS)


def test_a_packed_log_is_readable_only_by_its_owner(tmp_path: Path, shop: Path) -> None:
    pack_log([shop], tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_mode & 0o777 == 0o600


def test_packing_again_replaces_the_packed_log(tmp_path: Path, shop: Path) -> None:
    to = tmp_path / "x.parquet"
    pack_log([shop], to)
    shop.write_bytes(shop.read_bytes() + decision(99, "NEW"))
    assert pack_log([shop], to).lines == len(shop_lines()) + 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["shop.jsonl", "x.parquet"]


def test_packing_never_overwrites_another_file(tmp_path: Path, shop: Path) -> None:
    before = shop.read_bytes()
    with pytest.raises(QueryError, match="exists and is not a packed log"):
        pack_log([shop], shop)
    assert shop.read_bytes() == before


def test_a_packed_log_is_not_packed_again(tmp_path: Path, shop: Path) -> None:
    pack_log([shop], tmp_path / "x.parquet")
    with pytest.raises(QueryError, match="is already packed"):
        pack_log([tmp_path / "x.parquet"], tmp_path / "y.parquet")


def test_packing_needs_duckdb(tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "has_duckdb", lambda: False)
    with pytest.raises(QueryError) as refused:
        pack_log([shop], tmp_path / "x.parquet")
    assert (refused.value.message, str(refused.value.hint).rpartition(" ")[2]) == (
        "logs are packed with DuckDB", "'.[audit]'`"
    )  # fmt: skip


@pytest.mark.parametrize("sql", ["SELECT 1 AS x", "SELECT 'a' AS time, 'b' AS kind"])
def test_another_parquet_file_is_refused(tmp_path: Path, sql: str) -> None:
    duckdb.connect().execute(f"COPY ({sql}) TO '{tmp_path}/x.parquet'")
    with (
        pytest.raises(QueryError, match="is not a packed log"),
        open_reader(LogFiles.find([tmp_path / "x.parquet"]), lambda _: None) as reader,
    ):
        reader.answer([AuditQuery()])


def test_a_damaged_packed_log_is_one_message(tmp_path: Path, shop: Path) -> None:
    to = tmp_path / "x.parquet"
    pack_log([shop], to)
    to.write_bytes(to.read_bytes()[:-50])
    with pytest.raises(QueryError, match="DuckDB failed"), open_reader(LogFiles.find([to]), lambda _: None) as reader:
        reader.answer([AuditQuery()])

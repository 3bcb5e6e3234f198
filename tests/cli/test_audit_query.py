"""`audit query` and `audit pack` on the command line: what they print, and how they end."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from policyengine.audit.query import duck, pack, source, tally
from policyengine.audit.query.query import AuditQuery, Row
from policyengine.audit.query.stream import StreamReader
from policyengine.cli.output.reading_progress import ReadingProgress, format_rest
from tests import forking
from tests.audit.shop_lines import damaged_lines, decision, odd_lines, shop_lines, write_lines

EXTRA = "in a checkout of policyengine: `pip install -c constraints.txt '.[audit]'`"


@pytest.fixture
def shop(run, tmp_path: Path) -> Path:
    return write_lines(tmp_path / "shop.jsonl", shop_lines())


def squeezed(text: str) -> list[str]:
    """The lines with single spaces."""
    return [re.sub(" +", " ", line) for line in text.splitlines()]


# ── Text ──────────────────────────────────────────────────────────────────────────────────────


def test_records_are_a_table_of_the_columns_that_have_values(run, shop):
    ended = run("audit", "query", shop, "--since", "2026-03-02T10:38Z", "--until", "2026-03-02T10:52Z")
    assert (ended.code, ended.err) == (0, "")
    assert squeezed(ended.out) == [
        "time outcome agent user target gate rule ended id",
        "2026-03-02T10:38:00Z allow bot-2 alice GET /v1/invoices/3 - - - D38",
        "2026-03-02T10:39:00Z deny bot-0 alice GET /v1/invoices/4 guard rule 7 - D39",
        "2026-03-02T10:50:00Z confirm bot alice GET /v1/invoices/42 guard large refunds allowed C1",
        "2026-03-02T10:51:00Z confirm bot alice GET /v1/invoices/42 guard large refunds open C2",
        "4 records",
    ]


def test_an_id_finds_the_decision_and_its_outcome(run, shop):
    assert squeezed(run("audit", "query", shop, "--id", "D36").out) == [
        "time kind outcome status latency_ms agent user target endpoint id",
        "2026-03-02T10:36:00Z decision allow - - bot-0 alice GET /v1/invoices/1 GET /v1/invoices/1 D36",
        "2026-03-02T10:36:00Z outcome allow 200 36.5 bot alice - GET /v1/invoices/{id} D36",
        "2 records",
    ]


def test_counts_have_the_first_and_last_time(run, shop):
    assert squeezed(run("audit", "query", shop, "--outcome", "deny", "--count-by", "rule").out) == [
        "rule count first last",
        "rule 3 5 2026-03-02T10:03:00Z 2026-03-02T10:35:00Z",
        "rule 7 5 2026-03-02T10:07:00Z 2026-03-02T10:39:00Z",
        "2 groups",
    ]


def test_outcomes_are_measured_unless_another_kind_is_asked_for(run, shop):
    asked = ["audit", "query", shop, "--measure", "latency_ms"]
    assert run(*asked).out == run(*asked, "--kind", "outcome").out != run(*asked, "--kind", "decision").out


def test_an_outcome_may_be_a_pattern_or_none(run, shop):
    counts = [
        run("audit", "query", shop, "--count", "--outcome", value, "--format", "json").code for value in ("d*", "")
    ]
    assert counts == [0, 0]


def test_a_number_is_measured(run, shop):
    asked = ["--kind", "outcome", "--measure", "latency_ms", "--count-by", "endpoint"]
    assert squeezed(run("audit", "query", shop, *asked).out) == [
        "endpoint count sum min p50 p95 p99 max",
        "GET /v1/invoices/{id} 30 585 0.5 18.5 37.5 38.5 38.5",
        "1 group",
    ]


def test_the_count_of_all_records(run, shop):
    assert squeezed(run("audit", "query", shop, "--count").out) == [
        "count first last",
        "44 2026-03-02T10:00:00Z 2026-03-02T10:53:00Z",
    ]


@pytest.mark.parametrize(
    ("options", "last"),
    [
        (["--limit", "2"], "the newest 2 of 44 records; `--limit` changes this number"),
        (["--count-by", "id", "--limit", "3"], "the largest 3 of 44 groups; `--limit` changes this number"),
        (["--count-by", "minute", "--limit", "3"], "the newest 3 of 44 groups; `--limit` changes this number"),
        (["--agent", "nobody"], "0 records"),
        (["--agent", "nobody", "--count-by", "rule"], "0 groups"),
        (["--id", "C3"], "1 record"),
    ],
)
def test_the_last_line_says_how_many_there_are(run, shop, options, last):
    assert run("audit", "query", shop, *options).out.splitlines()[-1] == last


def test_a_chain_of_several_agents_is_shown(run, shop):
    shown = run("audit", "query", shop, "--where", "depth=2", "--limit", "1").out
    assert "alice > planner > bot-2" in shown


@pytest.mark.parametrize("duckdb", [False, True])
@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        (["--agent", "bott-2"], ["warning: no record has the agent `bott-2`: did you mean `bot-2`?"]),
        (["--agent", "Bot-2", "--count"], ["warning: no record has the agent `Bot-2`: did you mean `bot-2`?"]),
        (["--agent", "qqq", "--format", "json"], ["warning: no record has the agent `qqq`"]),
        (["--user", "alcie", "--agent", "bot-2", "--limit", "0", "--format", "csv"],
         ["warning: no record has the user `alcie`: did you mean `alice`?"]),
        (["--rule", "rul 7", "--agent", "qqq", "--count-by", "endpoint"],
         ["warning: no record has the agent `qqq`",
          "warning: no record has the rule `rul 7`: did you mean `rule 7`?"]),
        (["--agent", "bot-2", "--since", "2027-01-01"], []),
        (["--agent", "bot-9*"], []),
        (["--id", "D37x"], []),
    ],
)  # fmt: skip
def test_a_name_that_no_record_has_is_a_warning_with_a_similar_name(run, shop, monkeypatch, duckdb, options, warnings):
    if duckdb:
        monkeypatch.setattr(source, "STREAMED_BYTES", 0)
    ended = run("audit", "query", shop, *options)
    assert (ended.code, ended.err.splitlines()) == (0, warnings)


def test_no_similar_name_is_searched_among_too_many(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "MAX_GROUPS", 1)
    log = write_lines(tmp_path / "log.jsonl", [decision(0, "D1", agent="bot"), decision(1, "D2", agent="both")])
    assert run("audit", "query", log, "--agent", "bo").err == ""


def test_malformed_lines_are_counted_on_stderr(run, tmp_path):
    log = write_lines(tmp_path / "log.jsonl", damaged_lines())
    ended = run("audit", "query", log, "--format", "json", "--kind", "all")
    assert (ended.code, ended.err) == (0, f"warning: {log}: skipped 11 malformed lines\n")
    assert [one["id"] for one in ended.lines] == ["W1", "W3", "W4", "W7", "W9", "WA"]


# ── JSON and CSV ──────────────────────────────────────────────────────────────────────────────


def test_json_is_one_object_for_each_record_without_empty_members(run, shop):
    [found] = run("audit", "query", shop, "--id", "C3", "--format", "json").lines
    assert found == {
        "time": "2026-03-02T10:52:00.000000Z", "kind": "decision", "id": "C3", "outcome": "allow", "agent": "bot",
        "issuer": "acme", "user": "alice", "chain": "alice > bot", "agents": "bot", "depth": 1,
        "endpoint": "GET /v1/invoices/42", "target": "GET /v1/invoices/42", "resource": "/v1/invoices/42",
        "approver": "carol", "package": "shop", "revision": "sha256:r",
    }  # fmt: skip


def test_json_of_counts_keeps_missing_values(run, shop):
    found = run("audit", "query", shop, "--count-by", "rule", "--format", "json").lines
    assert found[0]["rule"] is None
    assert [one["count"] for one in found] == [31, 5, 5, 3]


def test_cells_that_a_spreadsheet_would_run_are_quoted(run, tmp_path):
    names = ["=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1", "plain-1", "a=1"]
    lines = [decision(place, f"D{place}", agent=name) for place, name in enumerate(names)]
    shown = run("audit", "query", write_lines(tmp_path / "log.jsonl", lines), "--format", "csv").out
    agents = [row["agent"] for row in csv.DictReader(io.StringIO(shown))]
    assert agents == ["'=cmd()", "'+1", "'-1", "'@SUM(A1)", "\\t=1", "' =1", "'＝1", "plain-1", "a=1"]


@pytest.mark.parametrize("format", ["text", "json", "csv"])
def test_terminal_escapes_have_no_effect(run, tmp_path, format):
    lines = [decision(0, "D0", agent="\x1b[2J\x9b31m\u202e", user="a\nb\r\n::error::")]
    shown = run("audit", "query", write_lines(tmp_path / "log.jsonl", lines), "--format", format).out
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert len(shown.splitlines()) == {"text": 3, "json": 1, "csv": 2}[format]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_all_records_are_printed_while_they_are_read(run, shop, format):
    ended = run("audit", "query", shop, "--kind", "all", "--limit", "0", "--format", format)
    assert len(ended.out.splitlines()) == len(shop_lines()) + (format == "csv")


def test_a_reader_that_stops_early_is_not_an_error(tmp_path):
    lines = [decision(0, f"D{number}") for number in range(20_000)]
    log = write_lines(tmp_path / "log.jsonl", lines)
    command = [*forking.command(), "audit", "query", str(log), "--limit", "0", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        asked.stdout.readline()
        asked.stdout.close()
        assert "error" not in asked.stderr.read()


# ── Errors ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["none.jsonl"], 1, "`none.jsonl`: no such file or directory\nhint: paths are relative to the current folder"),
        (["."], 1, "`.` is not a regular file"),
        (["/dev/zero"], 1, "`/dev/zero` is not a regular file"),
        (
            ["api.json"], 1,
            "`api.json` is not a decision log\nhint: name a file that `serve --log` or `audit pack` wrote",
        ),
        (["shop.jsonl", "--limit", "0"], 2, "`--limit 0` prints no table\nhint: add `--format json` or `--format csv`"),
        (["shop.jsonl", "--limit", "100001"], 2,
         "the limit is at most 100,000\nhint: 0 prints all records, in the order of the log"),
        (["shop.jsonl", "--where", "x"], 2, "`--where x` has no value\nhint: write `--where gate=guard`, for example"),
        (["shop.jsonl", "--where", "x=1"], 2,
         "records have no field `x`\nhint: docs/audit-query.md lists the fields"),
        (["shop.jsonl", "--count-by", "agnt"], 2, "records have no field `agnt`\nhint: did you mean `agent`?"),
        (["shop.jsonl", "--measure", "agent"], 2,
         "`agent` is not measured\nhint: measure `latency_ms`, `size`, `usage`"),
        (["shop.jsonl", "--measure", "latency"], 2, "`latency` is not measured\nhint: did you mean `latency_ms`?"),
        (["shop.jsonl", "--outcome", "denied"], 2, "there is no outcome `denied`\nhint: did you mean `deny`?"),
        (["shop.jsonl", "--where", "outcome=blocked"], 2,
         "there is no outcome `blocked`\nhint: choose `allow`, `deny`, `confirm`, `throttle`"),
        (["shop.jsonl", "--since", "2026-03-02", "--until", "2026-03-01"], 2,
         "no time is both after `--since` and before `--until`\nhint: exchange the two times"),
        (["shop.jsonl", "--since", "2026-03-02T10:00"], 2,
         "`2026-03-02T10:00` has no zone\nhint: write `2026-03-02T10:00Z` for UTC"),
        (["shop.jsonl", "--until", "2026-03-02T10:00:00"], 2,
         "`2026-03-02T10:00:00` has no zone\nhint: write `2026-03-02T10:00:00Z` for UTC"),
        (["shop.jsonl", "--since", "soon"], 2,
         "`soon` is neither a time nor a duration\n"
         "hint: write `2026-12-01`, `2026-12-01T10:00Z`, or `7d` for a week ago"),
    ],
)  # fmt: skip
def test_errors_are_one_message(run, shop, options, code, message):
    Path("api.json").write_text('{"openapi": "3.0.3"}\n')
    ended = run("audit", "query", *options)
    assert (ended.code, ended.out, ended.err) == (code, "", f"error: {message}\n")


@pytest.mark.parametrize("command", ["query", "verify"])
def test_a_log_that_cannot_be_read_ends_with_1(run, shop, monkeypatch, command):
    real = os.open

    def refuse(file, *arguments, **options):
        if Path(str(file)).name == "shop.jsonl":
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(os, "access", lambda file, mode, **options: Path(file).name != "shop.jsonl")
    monkeypatch.setattr(os, "open", refuse)
    ended = run("audit", command, "shop.jsonl")
    assert (ended.code, ended.out, ended.err) == (1, "", "error: `shop.jsonl`: permission denied\n")


def test_an_empty_log_has_no_records(run, tmp_path):
    (tmp_path / "log.jsonl").touch()
    assert run("audit", "query", "log.jsonl").out == "0 records\n"


# ── Large logs ────────────────────────────────────────────────────────────────────────────────


def test_a_large_log_is_read_with_duckdb(run, shop, monkeypatch):
    expected = run("audit", "query", shop, "--kind", "all", "--format", "json").out
    monkeypatch.setattr(source, "STREAMED_BYTES", 0)
    monkeypatch.setattr(StreamReader, "answer", lambda *_: pytest.fail("not streamed"))
    assert run("audit", "query", shop, "--kind", "all", "--format", "json").out == expected


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_the_time_that_reading_takes_is_told_once_on_a_pipe():
    now = [0.0]
    stream = Stream(terminal=False)
    progress = ReadingProgress(7_000_000_000, "use X", stream, lambda: now[0])
    for second, done in ((0.5, 35_000_000), (1.0, 70_000_000), (50.0, 3_500_000_000), (100.0, 7_000_000_000)):
        now[0] = second
        progress(done)
    progress.finish()
    assert stream.getvalue() == "reading 7.0 GB takes about 2 minutes more\nhint: use X\n"


def test_progress_is_redrawn_on_a_terminal_and_removed_at_the_end():
    now = [0.0]
    stream = Stream(terminal=True)
    progress = ReadingProgress(1_000_000, None, stream, lambda: now[0])
    for second, done in ((1.0, 100_000), (1.1, 110_000), (5.0, 500_000)):
        now[0] = second
        progress(done)
    progress.finish()
    clear = "\r\x1b[K"
    assert stream.getvalue() == (
        f"reading 1.0 MB takes about 9 seconds more\n{clear} 10 % read, about 9 seconds left"
        f"{clear} 50 % read, about 5 seconds left{clear}"
    )


def test_a_short_read_shows_no_progress():
    now = [0.0]
    stream = Stream(terminal=True)
    progress = ReadingProgress(100, None, stream, lambda: now[0])
    now[0] = 1.5
    progress(60)
    progress.finish()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "about a second"), (89, "about 89 seconds"), (91, "about 2 minutes")]
)
def test_durations_are_rough(seconds, words):
    assert format_rest(seconds) == words


def test_the_streaming_reader_reports_the_bytes_of_all_files(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / name, [decision(0, f"D{number}") for number in range(5_000)])
    seen: list[int] = []
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    StreamReader(files, seen.append).answer([AuditQuery(count=True)])
    assert seen == sorted(seen)
    assert seen[-1] == sum(file.stat().st_size for file in files)


# ── Packed logs ───────────────────────────────────────────────────────────────────────────────


def test_a_packed_log_answers_like_the_log(run, shop):
    ended = run("audit", "pack", shop, "-o", "shop.parquet")
    assert re.fullmatch(r"wrote shop\.parquet: 78 lines, [0-9.]+ kB became [0-9.]+ kB\n", ended.out)
    for options in (["--kind", "all"], ["--count-by", "rule"], ["--kind", "all", "--limit", "0"]):
        asked = [*options, "--format", "json"]
        assert run("audit", "query", "shop.parquet", *asked).out == run("audit", "query", shop, *asked).out


def test_an_error_about_a_packed_log_names_its_file(run, shop, monkeypatch):
    real = os.mkdir

    def refuse(file, *arguments, **options):
        if ".policyengine-audit-" in str(file):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    ended = run("audit", "pack", "shop.jsonl", "-o", "x.parquet")
    assert (ended.code, ended.err) == (1, "error: `x.parquet`: permission denied\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shop.jsonl", "-o", "shop.jsonl"],
         "`shop.jsonl` exists and is not a packed log\nhint: name another file"),
        (["shop.jsonl", "-o", "none/x.parquet"],
         "`none/x.parquet`: no such file or directory\nhint: paths are relative to the current folder"),
        (["odd.json", "-o", "x.parquet"],
         "`odd.json` is not a decision log\nhint: name a file that `serve --log` or `audit pack` wrote"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_one_message(run, shop, arguments, message):
    Path("odd.json").write_text("{}\n")
    ended = run("audit", "pack", *arguments)
    assert (ended.code, ended.err) == (1, f"error: {message}\n")
    assert sorted(os.listdir()) == ["odd.json", "shop.jsonl"]


def test_without_duckdb_the_hint_names_the_extra(run, shop, monkeypatch):
    run("audit", "pack", shop, "-o", "shop.parquet")
    for module in (duck, pack, source):
        monkeypatch.setattr(module, "has_duckdb", lambda: False)
    assert run("audit", "pack", shop, "-o", "x.parquet").err == f"error: logs are packed with DuckDB\nhint: {EXTRA}\n"
    assert run("audit", "query", "shop.parquet").err == f"error: packed logs are read with DuckDB\nhint: {EXTRA}\n"
    assert run("audit", "query", shop, "--count").code == 0


def test_odd_values_are_packed_as_they_are(run, tmp_path):
    log = write_lines(tmp_path / "log.jsonl", odd_lines())
    run("audit", "pack", log, "-o", "x.parquet")
    asked = ["--kind", "all", "--format", "csv"]
    assert run("audit", "query", "x.parquet", *asked).out == run("audit", "query", log, *asked).out


def test_a_row_has_a_cell_for_each_column(shop):
    [answer] = StreamReader([shop]).answer([AuditQuery()])
    rows: list[Row] = answer.rows
    assert {len(row) for row in rows} == {len(answer.columns)}

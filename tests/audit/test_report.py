"""The report on a log: every number is the answer of its query, and the page is whole in a browser."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from policyengine.audit.query.pack import pack_log
from policyengine.audit.report.charts import months, nice_maximum, short_number
from policyengine.cli import main
from tests.audit.shop_lines import decision, line, odd_lines, outcome, shop_lines, write_lines
from tests.browser import assert_whole, measured
from tests.chromium import Chromium

DAY = 1_440  # minutes


class ReportNumbers(HTMLParser):
    """The rows and totals of a page, each with the query that it states."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[object]]] = {}
        self.tables: set[str] = set()  # queries whose whole answer is shown
        self.totals: dict[str, int] = {}
        self.queries: list[str] = []
        self.tags: set[str] = set()
        self._query = ""
        self._in_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        members = dict(attrs)
        assert not [name for name in members if name.startswith("on")]
        self._query = members.get("data-query") or self._query
        if tag == "table":
            self.tables.add(self._query)
        if row := members.get("data-row"):
            self.rows.setdefault(self._query, []).append(json.loads(row))
        if total := members.get("data-total"):
            self.totals[self._query] = int(total)
        if members.get("class") == "query":
            self._in_code = True

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.queries.append(data)
            self._in_code = False


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in the folder, and return its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def month_lines() -> list[bytes]:
    """A month of a shop, with every kind of record."""
    lines = shop_lines()
    for day in range(1, 30):
        for number in range(12):
            id, agent = f"M{day:02}{number:02}", f"bot-{number}"
            minute, result = day * DAY + number * 31, ("allow", "deny", "throttle")[number % 3]
            chain = ["alice", "planner", "buyer", agent] if number == 4 else ["alice", agent]
            rule = None if result == "allow" else f"rule {number}"
            lines.append(decision(minute, id, result, agent=agent, chain=chain, rule=rule, observed=number == 5))
            lines.append(
                outcome(minute, id, status=502 if number == 7 else 200, latency_ms=number * 1.5, size=10**number)
            )
    return [*lines, line(30 * DAY, system={"event": "stopped"})]


def check_numbers(page: str, run) -> ReportNumbers:
    """Run each query of a page, and compare its answer with the numbers on the page."""
    found = ReportNumbers(page)
    assert {*found.rows, *found.totals} <= set(found.queries)
    for query, rows in found.rows.items():
        words = shlex.split(query)
        assert words[:3] == ["policyengine", "audit", "query"]
        answer = [list(json.loads(one).values()) for one in run(*words[1:], "--format", "json").splitlines()]
        missing = [row for row in rows if row not in answer]
        assert missing == [], query
        assert query not in found.tables or rows == answer, query
    for query, total in found.totals.items():
        last = run(*shlex.split(query)[1:]).splitlines()[-1]
        assert re.search(rf"\b{total:,} groups?\b", last), query
    return found


@pytest.mark.parametrize("lines", [shop_lines, odd_lines, month_lines])
def test_every_number_is_the_answer_of_its_query(tmp_path: Path, asked, lines) -> None:
    write_lines(tmp_path / "log.jsonl", lines())
    asked("audit", "report", "log.jsonl", "-o", "page.html")
    found = check_numbers((tmp_path / "page.html").read_text(), asked)
    assert len(found.rows) >= 15


def test_every_number_of_a_period_is_the_answer_of_its_query(tmp_path: Path, asked) -> None:
    write_lines(tmp_path / "log.jsonl", month_lines())
    asked("audit", "report", "log.jsonl", "--since", "2026-03-10", "--until", "2026-03-12", "-o", "page.html")
    found = check_numbers((tmp_path / "page.html").read_text(), asked)
    assert any("--since=2026-03-10T00:00:00.000000Z" in query for query in found.queries)


def test_every_number_of_a_packed_log_is_the_answer_of_its_query(tmp_path: Path, asked) -> None:
    log = write_lines(tmp_path / "my log.jsonl", month_lines())
    pack_log([log], tmp_path / "my log.parquet")
    asked("audit", "report", "my log.parquet", "-o", "page.html")
    asked("audit", "report", "my log.jsonl", "-o", "other.html")
    check_numbers((tmp_path / "page.html").read_text(), asked)
    page, other = ((tmp_path / name).read_text() for name in ("page.html", "other.html"))
    assert page.replace("my log.parquet", "my log.jsonl") == other


def test_names_new_in_the_period_are_marked(tmp_path: Path, asked) -> None:
    lines = [
        decision(0, "D1", agent="old"),
        decision(2 * DAY, "D2", agent="old"),
        decision(2 * DAY, "D3", agent="young"),
    ]
    write_lines(tmp_path / "log.jsonl", lines)
    asked("audit", "report", "log.jsonl", "--since", "2026-03-03", "-o", "page.html")
    assert re.findall(r'(\w+)<span class="new">', (tmp_path / "page.html").read_text()) == ["young"]


def test_an_empty_log_has_a_page(tmp_path: Path, asked) -> None:
    (tmp_path / "log.jsonl").touch()
    assert asked("audit", "report", "log.jsonl", "-o", "page.html") == "wrote page.html: 0 records\n"
    check_numbers((tmp_path / "page.html").read_text(), asked)


def test_hostile_names_are_text(tmp_path: Path, asked) -> None:
    hostile = "</td><script>alert(1)</script>\u202e\x1b[2J' \" & *"
    lines = [
        decision(0, hostile, "deny", agent=hostile, user=hostile, rule=hostile, path=hostile,
                 chain=[hostile, hostile, hostile]),
        outcome(0, hostile, status=200, latency_ms=1, usage={hostile: 1}),
        line(1, not_issued={"client": hostile, "code": hostile}),
        line(1, system={"event": hostile}),
    ]  # fmt: skip
    write_lines(tmp_path / "log.jsonl", lines)
    asked("audit", "report", "log.jsonl", "-o", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not {"script", "link", "img", "iframe", "base"} & ReportNumbers(page).tags
    assert all(char.isprintable() or char == "\n" for char in page)


def test_the_page_loads_nothing(tmp_path: Path, asked) -> None:
    write_lines(tmp_path / "log.jsonl", month_lines())
    asked("audit", "report", "log.jsonl", "-o", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.findall(r"\b(?:src|href|srcset)=|url\(|@import", page)


def test_the_page_is_whole_in_a_browser(tmp_path: Path, asked, browser: Chromium) -> None:
    long = "a-very-long-name-" * 12
    write_lines(
        tmp_path / "log.jsonl", [*month_lines(), *odd_lines(), decision(99, long, "deny", agent=long, rule=long)]
    )
    asked("audit", "report", "log.jsonl", "-o", "page.html")
    look = """{charts: all(".plot").length, columns: all(".hit").length,
        low: Math.min(...all(".plot").map(one => box(one).height)),
        colours: new Set(all(".plot path:not(.line)").map(one => frame.contentWindow.getComputedStyle(one).fill)
        ).size}"""
    page = measured(browser, (tmp_path / "page.html").read_text(), look, tmp_path)
    assert_whole(page)
    for one in (*page.light, *page.dark):
        assert (one["charts"], one["columns"]) == (2, 60)
        assert one["colours"] >= 10
        assert one["low"] > 70


# ── Parts of charts ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (5, 6), (9, 10), (61, 80), (99, 100), (1_500, 2_000)]
)
def test_axes_end_at_numbers_that_are_easy_to_read(value: int, expected: int) -> None:
    assert nice_maximum(value) == expected


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1_500, "1.5k"), (2_000_000, "2M"), (10_800, "10.8k")]
)
def test_numbers_of_axes_are_short(value: int, text: str) -> None:
    assert short_number(value) == text


def test_months_follow_each_other_across_years() -> None:
    assert months("2026-11", "2027-02") == ["2026-11", "2026-12", "2027-01", "2027-02"]

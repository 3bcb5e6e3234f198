"""`behavior report`: text, JSON and a page, of which each number is what its command prints."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.cli import main
from tests.analysis.working_agents import LEARNING, STATIC, WorkingAgents, seconds
from tests.behavior.reporting_agents import POLICY, FakeClock, work
from tests.browser import assert_whole, measured
from tests.chromium import Chromium

JSON = ("--format", "json")


REPORTED: dict[tuple[str, ...], Any] = {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    REPORTED.clear()
    folder = tmp_path_factory.mktemp("world")
    (folder / "policies").mkdir()
    (folder / "policies" / "reports.policy").write_text(LEARNING)
    agents = WorkingAgents(folder / "log.jsonl")
    morning = agents.work(agents=4)
    for number in range(60):
        agents.ask(3, morning + seconds(number / 2))
    for number in range(4):
        agents.ask(2, morning + seconds(number), f"/secrets/{number}")
    agents.close()
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "short.jsonl").write_bytes(b"".join(lines[:200]))
    return folder


@pytest.fixture
def report(world: Path, run, monkeypatch: pytest.MonkeyPatch):
    """Run the command beside the log and the policies, once for each list of arguments."""
    monkeypatch.chdir(world)

    def reported(*arguments: str) -> Any:
        if arguments not in REPORTED:
            REPORTED[arguments] = run("behavior", "report", *arguments)
        return REPORTED[arguments]

    return reported


def test_the_usage_names_logs_and_policies(report) -> None:
    assert report("--help").out.startswith("Usage: policyengine behavior report [OPTIONS] {LOG|POLICY}...\n")


def test_the_text_says_what_each_condition_would_have_hit(report) -> None:
    ended = report("log.jsonl", "policies")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("2,112 decisions of 4 callers, from 2050-01-03 09:00 to 2050-01-19 09:00 UTC\n")
    assert "clamp 4/1m for 10m when behavior.burst  (reports.policy:10)\n" in ended.out
    assert re.search(r"requests of 1 caller on 1 day \(1 caller-day\); \d+ were allowed\n", ended.out)
    assert "    most often: report-3 of acme (" in ended.out
    assert "GET /secrets/{id}" in ended.out


def test_the_json_has_the_conditions_with_their_places(report) -> None:
    found = report("log.jsonl", "policies", *JSON).json
    [clamp] = [one for one in found["conditions"] if one["kind"] == "clamp"]
    assert clamp["at"] == "reports.policy:10"
    assert clamp["most"] == [{"agent": "report-3", "issuer": "acme", "requests": clamp["requests"]}]
    [first] = clamp["examples"]
    assert first["facts"]["burst"] is True
    assert found["classes"][0]["declared"] == 0.01
    assert found["days"][-1]["day"] == "2050-01-19"


def test_without_policies_only_classes_in_the_log_are_reported(report) -> None:
    ended = report("log.jsonl")
    assert ended.code == 0
    assert "what the policies would have done" not in ended.out
    assert "2,112 of them without a class in the log: name the policies after the logs\n" in ended.out


def test_profiles_whose_policies_are_not_named_are_one_warning(run, tmp_path: Path) -> None:
    clock, log = FakeClock(), DecisionLog(tmp_path / "log.jsonl", seal=None)
    work(Engine.from_text(POLICY, clock=clock, log=log), clock, days=range(1))
    log.close()
    ended = run("behavior", "report", tmp_path / "log.jsonl")
    assert ended.code == 0
    assert ended.err == (
        "warning: the settings of `profile reporting` are not known, and the defaults are used: name the policies "
        "after the logs\n"
    )


def test_policies_that_read_no_learned_facts_are_reported_as_such(report, world: Path) -> None:
    (world / "static.policy").write_text(STATIC)
    assert "  the policies read no learned facts\n" in report("log.jsonl", "static.policy").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["policies"], 2, "no log is named"),
        (["log.jsonl", "policies", "--since", "soon"], 2, "`soon` is neither a time nor a duration"),
        (["log.jsonl", "--trust", "key.pub"], 2, "`--trust` needs a bundle"),
        (["log.jsonl", "-o", "log.jsonl"], 2, "is not replaced"),
        (["log.jsonl", "-o", "page.pdf"], 2, "a report cannot be written as `.pdf`"),
        (["missing.jsonl"], 1, "`missing.jsonl`: no such file or directory"),
        (["log.jsonl", "missing.policy"], 1, "missing.policy:1:1: E151 the file does not exist"),
        (["policies/reports.policy", "short.jsonl", "-o", "none/page.html"], 1, "none"),
    ],
)
def test_errors_end_with_one_message(report, arguments: list[str], code: int, message: str) -> None:
    ended = report(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err


def test_another_file_than_a_log_is_refused(report, world: Path) -> None:
    (world / "other.jsonl").write_text('{"a": 1}\n')
    ended = report("other.jsonl", "policies")
    assert ended.code == 1
    assert "`other.jsonl` is not a decision log" in ended.err


def test_lines_that_cannot_be_read_are_one_message(report, world: Path) -> None:
    lines = (world / "short.jsonl").read_bytes().splitlines(keepends=True)
    damaged = [b"damaged\n", b'{"v":9,"time":"2050-01-01T00:00:00Z"}\n', b"x" * (2**20 + 9) + b"\n", lines[0][:90]]
    (world / "damaged.jsonl").write_bytes(b"".join([*lines[:50], *damaged[:3], *lines[50:], damaged[3]]))
    ended = report("damaged.jsonl", "policies")
    assert ended.code == 0
    assert ended.out.startswith("200 decisions")
    assert len(ended.err.splitlines()) == 1
    assert "damaged.jsonl: 4 lines could not be read, the first: damaged.jsonl:51: " in ended.err
    assert report("damaged.jsonl", "policies", *JSON).json["skipped"] == {"damaged.jsonl": 4}


# ── The page ──────────────────────────────────────────────────────────────────────────────────


class PageNumbers(HTMLParser):
    """The numbers of a page as JSON, each with the command that prints it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, Any]] = []
        self.tags: set[str] = set()
        self._query = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        members = dict(attrs)
        self._query = members.get("data-query") or self._query
        if (row := members.get("data-row")) is not None:
            self.numbers.append((self._query, json.loads(row)))


def select(path: str, data: Any) -> Any:
    """Return what `jq` selects, as far as the page uses it."""
    if summed := re.fullmatch(r"\[\.(\w+)\[\]\.(\w+)\] \| add", path):
        return sum(one[summed[2]] for one in data[summed[1]])
    for name, place in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        data = data[name] if name else data[int(place)]
    return data


def test_every_number_of_the_page_is_what_its_command_prints(report) -> None:
    ended = report("log.jsonl", "policies", "-o", "page.html")
    assert (ended.code, ended.out) == (0, "wrote page.html: 2,112 decisions\n")
    page = PageNumbers(Path("page.html").read_text())
    assert len(page.numbers) > 40
    printed: dict[str, Any] = {}
    for query, number in page.numbers:
        command, _, path = query.partition(" | jq ")
        words = shlex.split(command)
        assert words[:3] == ["policyengine", "behavior", "report"]
        if command not in printed:
            printed[command] = report(*words[3:]).json
        found = select(shlex.split(path)[0], printed[command])
        if path == ".days":
            day, series, count = number
            [row] = [one for one in found if one["day"] == day]
            counts = {"ready": row["ready"], "not ready": row["callers"] - row["ready"], "bursts": row["bursts"],
                      "new endpoints": row["new_endpoints"], "new shapes": row["new_shapes"]}  # fmt: skip
            assert counts[series] == count
        else:
            assert number == found or number in found, query


def test_odd_payloads_are_a_part_of_the_page_and_of_its_command(report, world: Path) -> None:
    assert "odd payloads: " in report("short.jsonl", "policies", "--payloads").out
    report("short.jsonl", "policies", "--payloads", "-o", "payloads.html")
    assert "--payloads" in (world / "payloads.html").read_text()
    assert report("short.jsonl", "policies", "--payloads", *JSON).json["payloads"]["odd"] == 0


def test_only_its_owner_may_read_the_page_and_it_loads_nothing(report, world: Path) -> None:
    report("log.jsonl", "policies", "-o", "page.html")
    assert (world / "page.html").stat().st_mode & 0o777 == 0o600
    page = (world / "page.html").read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.findall(r"\b(?:src|href|srcset)=|url\(|@import|<script", page)


def test_a_file_that_ends_in_json_has_what_the_command_prints_as_json(report, world: Path) -> None:
    assert report("log.jsonl", "policies", "-o", "report.json").out == "wrote report.json: 2,112 decisions\n"
    assert (world / "report.json").read_text() == report("log.jsonl", "policies", "--format", "json").out
    assert (world / "report.json").stat().st_mode & 0o777 == 0o600


def test_an_empty_log_has_a_page(report, world: Path) -> None:
    (world / "empty.jsonl").touch()
    assert report("empty.jsonl", "policies", "-o", "empty.html").out == "wrote empty.html: 0 decisions\n"
    assert "no decisions" in report("empty.jsonl").out


def test_the_page_is_whole_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Chromium) -> None:
    monkeypatch.chdir(tmp_path)
    long = "a_very_long_name_" * 9
    Path("log.policy").write_text(LEARNING.replace('"secrets" on', f'"{long}" on').replace("role lead", f"role {long}"))
    agents = WorkingAgents(tmp_path / "log.jsonl")
    morning = agents.work(agents=4)
    for number in range(60):
        agents.ask(3, morning + seconds(number / 2))
    agents.ask(2, morning, "/secrets/1")
    agents.engine.decide(
        {"agent": {"id": f"report-{long}", "issuer": "acme"}, "request": {"method": "GET", "path": "/data/x"}}
    )
    agents.close()
    assert main(["behavior", "report", "log.jsonl", "log.policy", "-o", "page.html"]) == 0
    look = '{charts: all(".plot").length, cards: all(".card").length, rows: all(".wide tbody tr").length}'
    page = measured(browser, Path("page.html").read_text(), look, tmp_path)
    assert_whole(page)
    for one in (*page.light, *page.dark):
        assert one["charts"] == 2
        assert one["cards"] > 10
        assert one["rows"] > 5

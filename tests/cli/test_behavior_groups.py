"""`behavior report --groups`: groups that move as one, as text, JSON and a page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from policyengine.cli import main
from tests.analysis.moving_agents import POLICY, MovingAgents
from tests.browser import assert_whole, measured
from tests.chromium import Chromium
from tests.cli import hostile
from tests.cli.test_behavior_report import PageNumbers, select

FARM = [f"key-{number}" for number in range(6)]
OTHERS = [f"shop-{number}" for number in range(12)]
RESIDENTS = ["old-0", "old-1"]
GROUPS = ("behavior", "report", "log.jsonl", "shop.policy", "--groups")
JSON = ("--format", "json")


REPORTED: dict[tuple[str, ...], Any] = {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six keys on one clock beside others. Two callers that have worked for nine days before move with the keys."""
    REPORTED.clear()
    folder = tmp_path_factory.mktemp("groups")
    (folder / "shop.policy").write_text(POLICY)
    agents = MovingAgents()
    agents.move_alone(RESIDENTS, 40, 0, 9)
    agents.move_alone(OTHERS, 40, 9, 12)
    agents.move([*FARM, *RESIDENTS], agents.times(40, 9, 12))
    agents.move(["denied"], agents.times(3, 9, 12), [("GET", "/secret")])
    agents.write(folder / "log.jsonl")
    return folder


@pytest.fixture
def report(world: Path, run, monkeypatch: pytest.MonkeyPatch):
    """Runs the command beside the log, once for each list of arguments."""
    monkeypatch.chdir(world)

    def reported(*arguments: str) -> Any:
        if arguments not in REPORTED:
            REPORTED[arguments] = run(*GROUPS, *arguments)
        return REPORTED[arguments]

    return reported


def test_the_text_names_the_members_and_the_evidence(report) -> None:
    ended = report()
    assert (ended.code, ended.err) == (0, "")
    groups = ended.out[ended.out.index("groups that move as one: ") :]
    assert groups.startswith(
        "groups that move as one: 1 group of 8 callers, in 2,640 requests of 20 callers "
        "from 2050-01-03 00:00 to 2050-01-15 00:00 UTC\n"
        "  group  "
    )
    [row] = re.findall(
        r"^  ([0-9a-f]{24})  6 +2 +(\d+) (?:– (\d+))? +0\.\d +\de-\d+ +4 s +0[.\d]* s +2050", groups, re.M
    )
    assert int(row[1]) >= 35
    named = "newcomers key-0 of acme, key-1 of acme, key-2 of acme, key-3 of acme, key-4 of acme, key-5 of acme"
    assert f"  {row[0]}: {named}; residents old-0 of acme, old-1 of acme\n" in groups
    assert groups.endswith("  3 denied requests left out\n")


def test_callers_that_were_ready_before_the_window_are_residents(report) -> None:
    """The window begins after their first days, of which only the report knows."""
    found = report("--since", "2050-01-12", *JSON).json["groups"]
    assert found["begin"] == "2050-01-12T00:00:00Z"
    [group] = found["found"]
    residents = [one["agent"] for one in group["members"] if not one["newcomer"]]
    assert (sorted(residents), group["newcomers"]) == (RESIDENTS, 6)


def test_the_json_says_why_each_member_belongs_to_the_group(report) -> None:
    found = report(*JSON).json["groups"]
    assert (found["groups"], found["crowds"], found["callers"], found["pairs"]) == (1, [], 20, 28)
    assert found["left_out"] == {
        "denied": 3, "too_many": 0, "earlier": 0, "pairs": 0, "endpoints_with_callers_above": None
    }  # fmt: skip
    [group] = found["found"]
    assert (group["newcomers"], group["residents"], group["slot"]) == (6, 2, 4)
    assert group["q_value"] < 1e-9
    assert group["minutes"] >= 35
    assert "2050-01-12" <= group["first"] < group["last"] < "2050-01-15"
    assert sorted(one["agent"] for one in group["members"]) == [*FARM, *RESIDENTS]
    for member in group["members"]:
        assert member["partners"] == 7
        assert member["partner"]["agent"] in {*FARM, *RESIDENTS} - {member["agent"]}
        assert group["common"][0] <= member["common"] <= group["common"][1] <= 40
        assert member["expected"] <= 1
    [raster] = found["rasters"]
    assert [one["agent"] for one in raster["callers"]] == [*FARM, *RESIDENTS]
    assert len(raster["moments"]) == group["minutes"]
    assert all(len(moment["callers"]) > 1 for moment in raster["moments"])


def test_the_report_has_no_groups_without_the_option(run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    ended = run("behavior", "report", "log.jsonl", "shop.policy", *JSON)
    assert "groups" not in ended.json


def test_a_hundred_callers_at_their_own_times_are_no_group(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.policy").write_text(POLICY)
    agents = MovingAgents()
    agents.move_alone([f"shop-{number}" for number in range(100)], 8, 0, 1)
    agents.write(Path("log.jsonl"))
    ended = run(*GROUPS, "-o", "page.html")
    assert (ended.code, ended.err) == (0, "")
    text = run(*GROUPS).out
    assert text.endswith(
        "groups that move as one: none, in 2,400 requests of 100 callers "
        "from 2050-01-03 00:00 to 2050-01-04 00:00 UTC\n"
    )
    assert "<p>None, in 2,400 requests of 100 callers from " in Path("page.html").read_text()


def test_an_empty_log_has_no_groups(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.policy").write_text(POLICY)
    Path("log.jsonl").touch()
    assert run(*GROUPS).out.endswith("\ngroups that move as one: no requests to compare\n")
    found = run(*GROUPS, *JSON).json["groups"]
    assert (found["begin"], found["end"], found["found"], found["requests"]) == (None, None, [], 0)
    assert run(*GROUPS, "-o", "page.html").code == 0
    assert "No requests to compare." in Path("page.html").read_text()


def test_without_numpy_the_command_says_how_to_install_it_before_it_reads(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("policyengine.behavior.lockstep.pair_search", raising=False)
    monkeypatch.setitem(sys.modules, "policyengine.behavior.lockstep.pair_search", None)
    ended = run(*GROUPS)  # neither the log nor the policy exists
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: `--groups` needs numpy\n")
    assert ".[behavior]" in ended.err
    assert run(*GROUPS, *JSON).json["error"]["kind"] == "install"


def test_a_crowd_is_not_a_group_and_is_reported(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.policy").write_text(POLICY)
    agents = MovingAgents()
    agents.move([f"fan-{number}" for number in range(80)], agents.times(8, 0, 2))
    agents.write(Path("log.jsonl"))
    found = run(*GROUPS, *JSON).json["groups"]
    assert found["found"] == []
    [crowd] = found["crowds"]
    assert (crowd["callers"], crowd["times"], len(crowd["some"])) == (80, 8, 10)
    text = run(*GROUPS, "-o", "page.html").out + run(*GROUPS).out
    assert re.search(
        r"\ncrowds: many callers .*\n  crowd of +times .*\n  80 callers +8 +2050-01-0\d \d\d:\d\d +2050", text
    )
    assert "80 callers" in Path("page.html").read_text()


# ── The page ──────────────────────────────────────────────────────────────────────────────────


def test_every_number_of_the_groups_is_what_its_command_prints(report) -> None:
    assert report("-o", "page.html").code == 0
    page = PageNumbers(Path("page.html").read_text())
    printed = report(*JSON).json
    checked = set()
    for query, number in page.numbers:
        command, _, path = query.partition(" | jq ")
        assert command.endswith(" --groups --format json")
        if ".groups" in path:
            found: Any = select(path.strip("'"), printed)
            assert number == found or number in found, query
            checked.add(path)
    assert checked == {"'.groups.rasters[0]'", ".groups.found"}


def test_hostile_names_are_escaped_in_every_form(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.policy").write_text(POLICY)
    agents = MovingAgents()
    names = [f"{number} {hostile.LINES}" for number in range(4)]
    agents.move(names, agents.times(30))
    agents.write(Path("log.jsonl"))
    text = run(*GROUPS).out
    assert "1 group of 4 callers" in text
    assert not [line for line in text.split("\n") if not line.isprintable() or line.startswith("::error")]
    assert {one["agent"] for one in run(*GROUPS, *JSON).json["groups"]["rasters"][0]["callers"]} == set(names)
    assert run(*GROUPS, "-o", "page.html").code == 0
    page = Path("page.html").read_text()
    assert "script" not in PageNumbers(page).tags
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 4
    assert all(char.isprintable() or char == "\n" for char in page)


def test_the_page_with_groups_is_whole_in_a_browser(tmp_path: Path, monkeypatch, browser: Chromium) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.policy").write_text(POLICY)
    agents, long = MovingAgents(), "a_very_long_name_" * 9
    agents.move([f"{long}{number}" for number in range(4)], agents.times(40))
    agents.move(FARM, agents.times(150))
    agents.move_alone(OTHERS)
    agents.write(Path("log.jsonl"))
    assert main([*GROUPS, "-o", "page.html"]) == 0
    look = """{rows: all(".raster tbody tr").length,
      marks: all(".raster path").map(one => one.getBBox().width),
      strips: all(".raster svg").map(one => [box(one).left, box(one).right, box(one).height]),
      paint: all(".raster path").map(one => frame.contentWindow.getComputedStyle(one).fill)}"""
    page = measured(browser, Path("page.html").read_text(), look, tmp_path)
    assert_whole(page)
    assert {paint for one in page.light for paint in one["paint"]} == {"rgb(179, 38, 30)"}
    assert {paint for one in page.dark for paint in one["paint"]} == {"rgb(255, 125, 115)"}
    for one in (*page.light, *page.dark):
        assert one["rows"] == 10
        assert min(one["marks"]) > 900  # of 1,000
        by_group = one["strips"][:6], one["strips"][6:]
        for strips in by_group:
            assert len({(round(left), round(right)) for left, right, _ in strips}) == 1  # the same times, in every row
        assert all(right - left > 200 and height > 10 for left, right, height in one["strips"])
    assert "Shown: the 100 of " in Path("page.html").read_text()


def test_json_has_no_names_of_members_twice(report) -> None:
    """Moments name their members by number."""
    [raster] = report(*JSON).json["groups"]["rasters"]
    assert json.dumps(raster).count("key-3") == 1

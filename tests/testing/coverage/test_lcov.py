"""Coverage for the readers of lcov: by the rules of its format, and as its own tool reads it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from policyengine.testing.coverage.lcov import render_lcov
from tests.testing.coverage.seeing import coverage, guarded, written

RULES = guarded("body.n > 5")
FOUND = coverage(RULES, written(n="9") + written(n="7") + written(n="1"))
NOTHING = coverage(RULES, 'GET "/docs//1" => deny')


def records(text: str) -> list[tuple[str, str]]:
    return [(name, rest) for line in text.splitlines() for name, _, rest in [line.partition(":")]]


def values(text: str, name: str) -> list[str]:
    return [rest for key, rest in records(text) if key == name]


def test_an_lcov_record_has_its_members_in_order() -> None:
    names = list(dict.fromkeys(name for name, _ in records(render_lcov(FOUND))))
    assert names == ["TN", "SF", "BRDA", "BRF", "BRH", "DA", "LF", "LH", "end_of_record"]
    assert values(render_lcov(FOUND), "SF") == ["0.policy"]


@pytest.mark.parametrize("found", [FOUND, NOTHING], ids=["something", "nothing"])
def test_the_lcov_totals_match_the_lines_and_branches(found: object) -> None:
    text = render_lcov(found)  # type: ignore[arg-type]
    lines, branches = values(text, "DA"), values(text, "BRDA")
    assert values(text, "LF") == [str(len(lines))]
    assert values(text, "LH") == [str(sum(not line.endswith(",0") for line in lines))]
    assert values(text, "BRF") == [str(len(branches))]
    assert values(text, "BRH") == [str(sum(not branch.endswith((",0", ",-")) for branch in branches))]


def test_lcov_has_a_branch_for_each_point() -> None:
    assert len(values(render_lcov(FOUND), "BRDA")) == len(FOUND.points)
    assert len({branch.rpartition(",")[0] for branch in values(render_lcov(FOUND), "BRDA")}) == len(FOUND.points)


def test_lcov_counts_cases_per_line_and_branch() -> None:
    [line] = {point.span.line for point in FOUND.points if "body.n" in point.words}
    assert f"{line},3" in values(render_lcov(FOUND), "DA")
    taken = [one.rpartition(",")[2] for one in values(render_lcov(FOUND), "BRDA") if one.startswith(f"{line},")]
    assert sorted(taken) == ["0", "1", "1", "2", "2", "2"]  # unknown; false, passing; true, denied, stopping


def test_an_unreached_line_has_no_branch_counts() -> None:
    assert all(branch.endswith(",-") for branch in values(render_lcov(NOTHING), "BRDA"))
    assert all(line.endswith(",0") for line in values(render_lcov(NOTHING), "DA"))


def test_genhtml_reads_the_lcov_file(tmp_path: Path) -> None:
    tool = shutil.which("genhtml")
    if tool is None:
        pytest.skip("genhtml is missing: apt install lcov")
    (tmp_path / "0.policy").write_text(FOUND.points[0].span.source.text, encoding="utf-8")
    (tmp_path / "found.info").write_text(render_lcov(FOUND), encoding="utf-8")
    command = [tool, "--branch-coverage", "-o", "pages", "found.info"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"({FOUND.count.seen} of {FOUND.count.total} branches)" in done.stdout
    assert (tmp_path / "pages" / "index.html").exists()

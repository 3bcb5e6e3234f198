"""A file that is cut off, wherever: it is refused, or nothing that bounds or shuts anything is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.analysis import compare
from policyengine.reload import ReloadableEngine
from policyengine.source import Source
from policyengine.syntax.parse import parse
from tests.reload.conftest import QUIET

TEXT = """language 1
package shop
enum plan = free < team < enterprise
entity user { plan: plan }
let most = 5000
define small = body.amount <= 500
  and user.plan >= team
facts on POST /pay { body.amount: number }
scope all { GET /health   POST /pay }
issuer acme { }
user any { may all }
delegation { depth <= 2   no cycles }
guard "closed" on GET /health { deny when request.ip within 10.0.0.0/8 }
guard "asked" on POST /pay { confirm by user unless small }
rate "often" per user.id on POST /pay { 10/1m }
budget "much" per user.id on POST /pay { sum body.amount <= most within 1h }
agent "bot" { issued by acme   acts for any user   may all }
anyone { may GET /health }
test "open" { GET /health { request.ip: 1.1.1.1 } => allow }
"""
DEFINITIONS = """language 1
package shop
let most = 5000
define small = body.amount <= 500
  and request.ip within 10.0.0.0/8"""
RULES = """language 1
package shop
facts on POST /pay { body.amount: number }
anyone { may POST /pay }
guard "asked" on POST /pay { confirm by user unless small   deny when body.amount > most }
"""


def cut(folder: Path, file: str, text: str, at: int) -> tuple[bool, ReloadableEngine]:
    """Whether it is taken; and what decides then."""
    (folder / file).write_text(text)
    held = ReloadableEngine.load(folder, tested=False, rules=QUIET)
    (folder / file).write_text(text[:at])
    taken = held.reload()
    return taken, held


def boundaries(text: str) -> list[int]:
    module, _ = parse(Source("whole", text))
    assert module is not None
    return [one.span.start for one in module.declarations]


@pytest.fixture
def empty(folder: Path) -> Path:
    (folder / "shop.policy").unlink()
    return folder


def assert_nothing_opens(folder: Path, file: str, text: str, at: int) -> bool:
    taken, held = cut(folder, file, text, at)
    if taken:
        before = ReloadableEngine.load(folder.parent / "whole", tested=False).current.kernel
        assert not compare(before, held.current.kernel).widens, text[:at][-40:]
    return taken


@pytest.fixture
def whole(tmp_path: Path, empty: Path) -> Path:
    """The same policies as they were, to compare with."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "shop.policy").write_text(TEXT)
    return empty


def test_a_file_cut_between_declarations_loses_only_grants_and_tests(whole: Path) -> None:
    taken = [
        TEXT[at:].split("{")[0].strip()
        for at in boundaries(TEXT)
        if assert_nothing_opens(whole, "shop.policy", TEXT, at)
    ]
    assert taken == ['agent "bot"', "anyone", 'test "open"']  # behind the last of what bounds or shuts anything


@pytest.mark.parametrize(
    "end",
    ["let most = 500", "body.amount <= 50", "body.amount <= 500", "body.amount <= 500\n", "0.0.0.0/", "10.0.0.0/8"],
)
def test_a_file_cut_inside_a_definition_is_rejected(empty: Path, end: str) -> None:
    (empty / "rules.policy").write_text(RULES)
    at = DEFINITIONS.index(end) + len(end)
    taken, held = cut(empty, "definitions.policy", DEFINITIONS, at)
    assert taken is (end == "10.0.0.0/8")
    if end.startswith("body.amount <= 500"):
        assert held.reloads.why == "1 file is cut off"
        assert held.reload(allow=["cut-files"])


def test_a_file_without_its_last_line_break_is_accepted(empty: Path) -> None:
    taken, held = cut(empty, "shop.policy", TEXT, len(TEXT.rstrip()))
    assert (taken, held.reloads.refused) == (True, 0)


@pytest.mark.deep
def test_a_file_cut_anywhere_never_widens_the_policy(whole: Path) -> None:
    for at in range(len(TEXT)):
        assert_nothing_opens(whole, "shop.policy", TEXT, at)

"""docs/decision-log.md, of tokens: the line that it shows is one, its table has every member, its program says who."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import DecisionRecord, TokenEventKind
from policyengine.identity.issue.request import ACCESS_TOKEN
from tests.identity.minting import Desk, subject
from tests.identity.test_recording import OPERATOR, PROOF, World
from tests.pages import CHECKOUT, Block, blocks

PAGE = CHECKOUT / "docs" / "decision-log.md"
VARYING = ("fingerprint", "jti", "jkt", "revision")


def marked(marker: str) -> Block:
    (found,) = (one for one in blocks(PAGE) if one.marker == marker)
    return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Desk(tmp_path), tmp_path / "decisions.jsonl")


def hidden(value: Any) -> Any:
    """Without what is different each time."""
    match value:
        case dict():
            return {name: "…" if name in VARYING else hidden(one) for name, one in value.items()}
        case list():
            return list(map(hidden, value))
        case _:
            return value


def test_the_documented_issued_line_matches_a_real_one(world: World) -> None:
    world.issued(subject_token=subject(scope="read:invoices"), task='{"id": "t-9"}')
    assert hidden(json.loads(world.path.read_text())) == hidden(json.loads(marked("line: issued").text))


def documented() -> dict[str, set[str]]:
    """The members of each kind of line, by the table."""
    found: dict[str, set[str]] = defaultdict(set)
    table = PAGE.read_text(encoding="utf-8").partition("| member | in | meaning |")[2].partition("\n\n")[0]
    for members, kinds in re.findall(r"^\| (`[^|]*) \| (`[^|]*) \|", table, re.MULTILINE):
        for kind in re.findall(r"`(\w+)`", kinds):
            found[kind] |= set(re.findall(r"`(\w+)`", members))
    return found


def everything(world: World) -> Iterator[tuple[str, set[str]]]:
    """Lines of every kind, with all that may be on them."""
    own = subject(client_id="summarizer", cnf={"jkt": "jkt-1"})
    raw = world.issued(task='{"id": "t-1"}', actor_token=own, actor_token_type=ACCESS_TOKEN)
    world.exchange(task='{"id": "t-1"}', actor_token=own, actor_token_type=ACCESS_TOKEN, scope="write:invoices")
    world.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {raw}", **PROOF})
    world.post("/revoke", {"token": world.issued(task='{"id": "t-2"}')}, OPERATOR)
    for name, what in (("agent", "acme/planner"), ("user", "acme/alice"), ("chain", "acme/root"), ("key", "A" * 43)):
        world.post("/revoke", {name: what, "for": "1h"}, OPERATOR)
    world.post("/revoke", {"token": "garbage"}, OPERATOR)
    yield from ((what.value, set(told)) for what, told in world.told())


def test_the_table_lists_every_member_of_every_token_event(world: World) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for what, members in everything(world):
        seen[what] |= members
    assert seen == documented()
    assert set(seen) == {what.value for what in TokenEventKind}


def test_the_documented_program_reports_issuance_decision_and_revocation(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = world.issued()
    world.decide(raw)
    world.post("/revoke", {"token": raw}, OPERATOR)
    monkeypatch.chdir(world.path.parent)
    exec(compile(marked("reads a log").text, str(PAGE), "exec"), {"__name__": "__documented__"})
    issued, decided, ended = capsys.readouterr().out.splitlines()
    (fingerprint,) = {one.fingerprint for one in world.entries() if isinstance(one, DecisionRecord)}
    assert issued.endswith(f"summarizer may ['read:invoices'] {fingerprint}")
    assert decided.endswith("allow by the token of summarizer")
    assert ended.endswith("token ended by {'kind': 'operator'}")

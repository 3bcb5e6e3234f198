"""docs/log-format.md and the JSON Schema say what is written: every kind of line, every event, every member."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from policyengine.audit import DecisionLog, SystemEvent, TokenEventKind
from policyengine.audit.event_records import EventRecord, OutcomeRecord
from policyengine.audit.recent_decisions import DecisionSubject
from policyengine.engine import Engine
from tests.audit.log_lines import problems, schema
from tests.pages import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "log-format.md"
TEXT = PAGE.read_text(encoding="utf-8")


def documented(kind: str) -> dict[str, Any]:
    (block,) = (block for block in blocks(PAGE) if block.marked("line") == kind)
    found: dict[str, Any] = json.loads(block.text)
    return found


def rows(head: str) -> str:
    """Return the first column of the table with this head."""
    table = TEXT.partition(f"\n{head}")[2].partition("\n\n")[0]
    return "\n".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("kind", ["outcome", "system"])
def test_a_documented_line_is_valid(kind: str) -> None:
    assert problems(json.dumps(documented(kind)).encode()) == []


def test_the_schema_has_every_kind_of_line() -> None:
    kinds = {name.removesuffix("_line") for name in schema()["$defs"] if name.endswith("_line")}
    assert kinds == {"decision", "directory", "outcome", "system", "seal", *TokenEventKind}
    assert len(kinds) == len(schema()["oneOf"]) == len(TokenEventKind) + len(get_args(EventRecord)) - 1 + 2
    assert set(re.findall(r"`(\w+)`", rows("| member | the line is about |"))) == kinds


def test_every_event_of_the_server_is_in_the_schema_and_on_the_page() -> None:
    members = schema()["$defs"]["system_line"]["properties"]["system"]["properties"]
    assert set(members["event"]["enum"]) == {*SystemEvent}
    assert set(re.findall(r"`(\w+)`", rows("| `event` | when |"))) == {*SystemEvent}


def test_every_member_of_an_outcome_is_in_the_schema_and_on_the_page() -> None:
    members = set(schema()["$defs"]["outcome_line"]["properties"]["outcome"]["properties"])
    assert members == set(OutcomeRecord.__dataclass_fields__) - {"line", "time", "redacted", "trace", "file"}
    section = TEXT.partition("\n## Outcomes\n")[2].partition("\n## ")[0]
    assert members == set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    subject = re.findall(r"^\| `subject` \|(.*)\|$", section, re.MULTILINE)[0]
    assert set(re.findall(r"`(\w+)`", subject)) == set(schema()["$defs"]["subject"]["properties"])
    assert set(DecisionSubject.__struct_fields__) - {"decision"} <= set(re.findall(r"`(\w+)`", subject))


def test_every_member_of_a_decision_is_on_the_page() -> None:
    section = TEXT.partition("\n## Decisions\n")[2].partition("\n### ")[0]
    written = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))))
    assert written == set(schema()["$defs"]["decision_line"]["properties"])


def test_every_member_of_learned_behavior_is_on_the_page() -> None:
    section = TEXT.partition("\n### Learned behavior\n")[2].partition("\n### ")[0]
    written = set(re.findall(r"`([\w.]+)`", "\n".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))))
    assert written == set(schema()["$defs"]["behavior"]["properties"])
    validator = Draft202012Validator({**schema()["$defs"]["behavior"], "unevaluatedProperties": False})
    assert validator.is_valid(documented("behavior"))
    assert not validator.is_valid({**documented("behavior"), "released": False})


ROWS = '{"entities": [{"type": "user", "id": "ann", "attributes": {"name": "A"}, "in": []}]}'


def test_every_kind_of_line_that_is_written_is_valid(tmp_path: Path) -> None:
    """The other tests of this folder check each line that they write, too."""
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path, seal=None)
    (tmp_path / "p.policy").write_text("entity user { name: string? }\nanyone { may GET /health }")
    (tmp_path / "entities.json").write_text(ROWS)
    engine = Engine.load(tmp_path / "p.policy", entities=tmp_path / "entities.json", log=log)
    question = {"request": {"method": "GET", "path": "/health"}, "context": {"at": datetime(2027, 1, 4, tzinfo=UTC)}}
    engine.report(engine.decide(question).id, status=200, size=3)
    for kind in TokenEventKind:
        log.note(kind, {"client": "c"}, 0)
    log.system.write("started", pid=1)
    log.note_seal({"event": "key"})
    lines = path.read_bytes().splitlines()
    assert [found for line in lines for found in problems(line)] == []
    named = {name for line in lines for name in json.loads(line)}
    assert {"decision", "outcome", "issued", "not_issued", "ended", "system", "seal", "directory"} <= named


@pytest.mark.parametrize(
    "line",
    [
        '{"v":3,"time":"2027-01-04T12:00:00Z","system":{"event":"started"}}',
        '{"v":1,"time":"2027-01-04T12:00:00Z","system":{"event":"started"}}',
        '{"v":2,"time":"yesterday","system":{"event":"started"}}',
        '{"v":2,"time":"2027-01-04T12:00:00Z","system":{"event":"slept"}}',
        '{"v":2,"time":"2027-01-04T12:00:00Z","outcome":{"status":200}}',
        '{"v":2,"time":"2027-01-04T12:00:00Z","outcome":{"decision":"x","status":99}}',
        '{"v":2,"time":"2027-01-04T12:00:00Z","outcome":{"decision":"x","more":1}}',
        '{"v":2,"time":"2027-01-04T12:00:00Z"}',
        "[]",
    ],
)
def test_the_schema_rejects_other_lines(line: str) -> None:
    assert not Draft202012Validator(schema()).is_valid(json.loads(line))

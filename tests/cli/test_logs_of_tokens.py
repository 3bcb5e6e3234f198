"""Commands that read a log: lines that are not decisions are passed over, except by `why`, which shows the client that
got the token of a decision, and how its request came out."""

import json
import re
from pathlib import Path

import pytest

from policyengine.audit import DecisionLog, TokenEventKind
from policyengine.engine import Engine

NOW = 1_800_000_000
ISSUED = {"client": "summarizer", "credential": {"fingerprint": "sha256:1"}}


@pytest.fixture
def log(project, tmp_path):
    """Decisions of the project, the first by a token, and before, between and behind them what became of tokens."""
    path = tmp_path / "decisions.jsonl"
    kept = DecisionLog(path)
    engine = Engine.load(project, entities=project / "entities.json", log=kept)
    question = json.loads((project / "request.json").read_bytes())
    credential = {**question.get("credential", {}), "fingerprint": "sha256:1"}
    kept.note(TokenEventKind.ISSUED, ISSUED, NOW)
    allowed = engine.decide({**question, "credential": credential})
    kept.note(TokenEventKind.NOT_ISSUED, {"client": "other", "code": "scope"}, NOW)
    engine.decide({**question, "agent": {"id": "nobody", "issuer": "nowhere"}})
    kept.note(TokenEventKind.ENDED, {"what": "token", **ISSUED}, NOW)
    kept.system.write("reload", changes=["guard added"])
    engine.report(allowed.id, status=200, latency_ms=12.5, size=3_120, usage={"input_tokens": 85})
    kept.note_seal({"event": "key"})
    return path


@pytest.fixture
def bare(log, tmp_path):
    """The same without them, in a folder of its own, under the same name."""
    path = tmp_path / "bare" / log.name
    path.parent.mkdir()
    lines = log.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if {"decision", "directory"} & set(json.loads(line))))
    assert len(path.read_text().splitlines()) == len(lines) - len(TokenEventKind) - 3
    return path


COMMANDS = [
    ["record", "PROJECT", "--log", "LOG"],
    ["suggest", "PROJECT", "--log", "LOG", "--format", "json"],
    ["diff", "PROJECT", "PROJECT", "--log", "LOG"],
    ["simulate", "PROJECT", "--trace", "LOG", "--format", "json"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_commands_ignore_lines_that_are_not_decisions(run, project, log, bare, command):
    found = []
    for path in (bare, log):
        given = {"PROJECT": project, "LOG": path}
        ended = run(*(given.get(word, word) for word in command))
        found.append((ended.code, ended.out.replace(str(path), "LOG"), ended.err.replace(str(path), "LOG")))
    assert found[0] == found[1]
    assert (found[0][0], "error" in found[0][1]) == (0, False)
    assert "left out" not in found[1][2]


def ids(log: Path) -> list[str]:
    lines = map(json.loads, log.read_text().splitlines())
    return [line["decision"]["id"] for line in lines if "decision" in line]


def test_why_reports_the_client_that_got_the_token_of_a_decision(run, project, log):
    first, second = ids(log)
    line = "  by a token that was issued to client `summarizer` at 2027-01-15T08:00:00Z (line 2)"
    assert line in run("why", first, "--log", log).out.splitlines()
    assert line in run("why", first, project, "--log", log).out.splitlines()
    assert "by a token" not in run("why", second, "--log", log).out


def test_why_reports_the_token_as_json(run, project, log):
    first, second = ids(log)
    told = {"client": "summarizer", "issued": "2027-01-15T08:00:00Z", "line": 2, "file": str(log)}
    assert run("why", first, project, "--log", log, "--format", "json").json["token"] == told
    assert run("why", second, "--log", log, "--format", "json").json["token"] is None


def test_why_keeps_a_bounded_number_of_tokens(run, log, monkeypatch):
    from policyengine.cli.commands import why

    monkeypatch.setattr(why, "MAX_TOKENS", 0)
    assert "by a token" not in run("why", ids(log)[0], "--log", log).out


def test_why_shows_how_the_request_came_out(run, project, log):
    first, second = ids(log)
    line = "  outcome of the request: status 200, 12.5 ms, 3,120 bytes, input_tokens 85, reported at "
    for command in (["why", first, "--log", log], ["why", first, project, "--log", log]):
        assert [one for one in run(*command).out.splitlines() if one.startswith(line)]
    assert "outcome of the request" not in run("why", second, "--log", log).out
    found = run("why", first, project, "--log", log, "--format", "json").json["reported"]
    assert (found["decision"], found["status"], found["latency_ms"], found["size"]) == (first, 200, 12.5, 3_120)
    assert (found["usage"], found["subject"]["outcome"]) == ({"input_tokens": 85}, "allow")
    assert run("why", second, "--log", log, "--format", "json").json["reported"] is None


def test_why_does_not_search_for_an_outcome_longer_than_a_day(run, log, monkeypatch):
    monkeypatch.setattr("policyengine.cli.commands.why.LINES_BETWEEN_TIMES", 1)
    first, _ = ids(log)
    lines = log.read_text().splitlines(keepends=True)
    at = [place for place, line in enumerate(lines) if '"decision":{' in line][1]
    lines[at] = re.sub('"time":"[^"]+"', '"time":"2099-01-01T00:00:00Z"', lines[at])
    log.write_text("".join(lines))
    assert "outcome of the request" not in run("why", first, "--log", log).out

"""Commands that read a log: what became of tokens is passed over, and `why` says who was given that of a decision."""

import json
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
    engine.decide({**question, "credential": credential})
    kept.note(TokenEventKind.NOT_ISSUED, {"client": "other", "code": "scope"}, NOW)
    engine.decide({**question, "agent": {"id": "nobody", "issuer": "nowhere"}})
    kept.note(TokenEventKind.ENDED, {"what": "token", **ISSUED}, NOW)
    return path


@pytest.fixture
def bare(log, tmp_path):
    """The same without them, in a folder of its own, under the same name."""
    path = tmp_path / "bare" / log.name
    path.parent.mkdir()
    lines = log.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not any(f'"{what}":' in line for what in TokenEventKind)))
    assert len(path.read_text().splitlines()) == len(lines) - len(TokenEventKind)
    return path


COMMANDS = [
    ["record", "PROJECT", "--log", "LOG"],
    ["suggest", "PROJECT", "--log", "LOG", "--format", "json"],
    ["diff", "PROJECT", "PROJECT", "--log", "LOG"],
    ["simulate", "PROJECT", "--trace", "LOG", "--format", "json"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_commands_ignore_token_events_in_a_log(run, project, log, bare, command):
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

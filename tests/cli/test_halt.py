"""`policyengine halt`: in a store, in a file and on a server; exit codes, and output as text and as JSON."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests.halts.halting import POLICY, create, outcome, question
from tests.identity.providing import running
from tests.server.processes import started

OPS = "operator-token-0123456789"
SERVE = f"""
from policyengine.engine.engine import Engine
from policyengine.server import serve
from tests.halts.halting import POLICY

serve(Engine.from_text(POLICY), port=0, token=["ops: {OPS}", "edge: gateway-token-0123456789"], operators=["ops"],
      listening=lambda url: print(url, flush=True))
"""
EMPTY = '{"halts": []}'
AGENT = ("halt", "--agent", "bot", "--reason", "it repeats refunds", "--for", "2h")


@pytest.fixture
def url(tmp_path: Path) -> str:
    SqliteStore(tmp_path / "state.db").close()
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "halts.json"
    path.write_text('{"halts": []}')
    path.chmod(0o600)
    return path


def test_a_halt_in_a_store_is_set_listed_and_lifted(run: Any, url: str) -> None:
    halted = run(*AGENT, "--by", "me", "--store", url)
    first, second = halted.out.splitlines()
    assert halted.code == 0
    assert first.startswith("halted agent bot until ")
    assert first.endswith(": it repeats refunds")
    id = second.split()[0]
    assert outcome(create(clock=None, store=open_store(url)), question()) == "deny halted"
    listed = run("halt", "list", "--store", url)
    assert (listed.code, listed.out.startswith(f"{id}  agent bot until ")) == (0, True)
    assert listed.out.endswith(": it repeats refunds, by me\n")
    lifted = run("halt", "lift", id, "--reason", "it was mended", "--by", "me", "--store", url)
    assert (lifted.code, lifted.out) == (0, f"lifted {id}: it was mended\n")
    listed = run("halt", "list", "--store", url)
    assert listed.out.splitlines()[0].startswith(f"{id}  lifted at ")
    assert listed.out.splitlines()[1] == "nothing is halted"
    again = run("halt", "lift", id, "--reason", "again", "--store", url)
    assert again.code == 1
    assert f"the halt `{id}` was already lifted at" in again.err


def test_a_misspelled_command_of_halt_is_named(run: Any) -> None:
    done = run("halt", "lst")
    assert done.code == 2
    assert "No such command 'lst'. Did you mean 'list'?" in done.err


def test_json_has_the_same_members_as_the_server(run: Any, url: str) -> None:
    halt = run("halt", "--everything", "--reason", "r", "--for", "1h", "--by", "me", "--store", url, "--format", "json")
    found = halt.json["halt"]
    assert found == {
        "id": found["id"], "everything": True, "reason": "r", "since": found["since"], "until": found["until"],
        "by": "me",
    }  # fmt: skip
    assert run("halt", "list", "--store", url, "--format", "json").json == {"halts": [found], "lifted": []}
    lifted = run("halt", "lift", found["id"], "--reason", "x", "--by", "me", "--store", url, "--format", "json").json
    assert lifted == {"lifted": {"id": found["id"], "reason": "x", "at": lifted["lifted"]["at"], "by": "me"}}


def test_every_part_of_a_scope_has_an_option(run: Any, url: str) -> None:
    scope = {
        "agent": "bot", "issuer": "acme", "user": "alice", "chain_root": "planner", "task": "t-7",
        "tool": "mail/*", "place": "/v1/**", "package": "acme.shop",
    }  # fmt: skip
    options = [word for name, text in scope.items() for word in (f"--{name.replace('_', '-')}", text)]
    until = ("--until", "2099-01-01T00:00:00Z")
    far = run("halt", *options, "--reason", "r", *until, "--store", url)
    assert far.code == 2
    assert "a halt lasts at most 366d" in far.err
    halted = run("halt", *options, "--reason", "r", "--for", "1h", "--store", url, "--format", "json").json["halt"]
    assert {name: halted[name] for name in scope} == scope


def test_a_halt_in_a_file_is_set_and_lifted(run: Any, file: Path) -> None:
    id = run(*AGENT, "--file", file, "--format", "json").json["halt"]["id"]
    assert json.loads(file.read_text())["halts"][0]["agent"] == "bot"
    assert run("halt", "list", "--file", file).out.startswith(f"{id}  agent bot until ")
    assert run("halt", "lift", id, "--reason", "mended", "--file", file).code == 0
    assert json.loads(file.read_text()) == {"halts": []}
    missing = run(*AGENT, "--file", file.with_name("missing.json"))
    assert missing.code == 1
    assert "does not exist" in missing.err
    file.write_text("garbage")
    for arguments in (AGENT, ("halt", "list"), ("halt", "lift", id, "--reason", "r")):
        damaged = run(*arguments, "--file", file)
        assert damaged.code == 1
        assert "cannot be read: it is damaged" in damaged.err
    assert file.read_text() == "garbage"


def test_a_halt_on_a_server_is_set_listed_and_lifted(run: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"ops: {OPS}\n")
    token.chmod(0o600)
    with started(SERVE) as (url, _):
        place = ("--server", url, "--token-file", token)
        halted = run(*AGENT, *place, "--format", "json").json["halt"]
        assert halted["by"] == "ops"
        listed = run("halt", "list", *place, "--format", "json").json
        assert listed == {"halts": [halted], "lifted": [], "unreadable": []}
        misspelled = run("halt", "--issuer", "acmee", "--reason", "r", "--for", "1h", *place)
        assert misspelled.code == 1
        assert "the server refused: the policies have no issuer `acmee` (400)" in misspelled.err
        assert run("halt", "lift", halted["id"], "--reason", "mended", *place).code == 0
        assert run("halt", "list", *place).out.endswith("nothing is halted\n")
        token.write_text("gateway-token-0123456789\n")
        refused = run("halt", "list", *place)
        assert refused.code == 1
        assert "only an operator may see, set or lift halts (403)" in refused.err
    gone = run("halt", "list", *place)
    assert gone.code == 1
    assert "did not answer: connection refused" in gone.err


def test_a_server_without_operators_is_named_as_the_reason(run: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{OPS}\n")
    token.chmod(0o600)
    with started(SERVE.replace('operators=["ops"],', "")) as (url, _):
        refused = run("halt", "list", "--server", url, "--token-file", token)
    assert refused.code == 1
    assert refused.err == (
        f"error: the server at `{url}` has no operators, so it has no `/halt` (404)\n"
        "hint: start it with `--halt-operator NAME` (docs/halt.md)\n"
    )


def test_a_token_that_the_server_does_not_know_is_reported(run: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("another-token-0123456789\n")
    token.chmod(0o600)
    with started(SERVE) as (url, _):
        refused = run("halt", "list", "--server", url, "--token-file", token)
    assert refused.code == 1
    assert refused.err.startswith("error: the server does not accept the token: the token is not accepted (401)\n")


@pytest.mark.parametrize(("content", "mode", "why"), [("", 0o600, "it is empty"), (EMPTY, 0o666, "others can write")])
def test_the_hint_of_a_file_that_cannot_be_used_says_what_it_needs(
    run: Any, tmp_path: Path, content: str, mode: int, why: str
) -> None:
    file = tmp_path / "halts.json"
    file.write_text(content)
    file.chmod(mode)
    refused = run("halt", "list", "--file", file)
    assert refused.code == 1
    assert f"cannot be read: {why}" in refused.err
    assert "hint: only you may write a halt file (`chmod 600`); a file without halts is" in refused.err


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("answer", [b"[]", b"null", b"{}", b'{"halts": 1', b"\xff"])
def test_another_server_than_a_decision_api_is_an_error(run: Any, tmp_path: Path, status: int, answer: bytes) -> None:
    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None: ...

    token = tmp_path / "token"
    token.write_text(f"ops: {OPS}\n")
    token.chmod(0o600)
    with running(HTTPServer(("127.0.0.1", 0), Foreign)) as server:
        place = ("--server", f"http://127.0.0.1:{server.server_address[1]}", "--token-file", token)
        for arguments in (AGENT, ("halt", "list"), ("halt", "lift", "x", "--reason", "r")):
            ended = run(*arguments, *place)
            assert ended.code == 1
            assert f"is not that of a decision API ({status})" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a halt needs an end"),
        (("--agent", "bot", "--reason", "r", "--for", "1h"), "name one place where halts are kept"),
        (
            ("--agent", "bot", "--reason", "r", "--for", "1h", "--until", "2099-01-01T00:00:00Z"),
            "a halt has one end, not",
        ),
        (("--reason", "r", "--for", "1h"), "the halt covers nothing"),
        (("--agent", "bot", "--for", "1h"), "a halt needs a reason, which callers see"),
        (("--agent", "bot", "--reason", "r", "--for", "yesterday"), "`yesterday` is neither a duration nor a time"),
        (("--agent", "bot", "--reason", "r", "--until", "2020-01-01T00:00:00Z"), "is in the past"),
        (("--everything", "--agent", "bot", "--reason", "r", "--for", "1h"), "a halt of everything has no `agent`"),
        (("--place", "orders", "--reason", "r", "--for", "1h"), "hint: write it as after `on`"),
        (("list", "--file", "a", "--store", "b"), "name one place where halts are kept"),
        (("list", "--server", "http://127.0.0.1:1"), "`--server` needs the operator's token"),
        (("list", "--file", "a", "--token-file", "b"), "`--token-file` needs `--server`"),
        (("list", "--server", "http://127.0.0.1:1", "--token-file", "missing"), "write the operator's token, and"),
        (("lift", "x", "--file", "a"), "lifting a halt needs a reason"),
        (("lift", "x", "--file", "a", "--reason", " "), "lifting a halt needs a reason"),
        (("lift", "x", "--file", "a", "--reason", "r" * 501), "the reason has 501 characters"),
    ],
)
def test_wrong_usage_ends_with_2(run: Any, arguments: tuple[str, ...], message: str) -> None:
    ended = run("halt", *arguments)
    assert ended.code == 2
    assert message in ended.err


def test_a_store_that_is_not_there_is_an_error(run: Any, tmp_path: Path) -> None:
    missing = run(*AGENT, "--store", f"sqlite:///{tmp_path}/none.db")
    assert missing.code == 1
    assert not (tmp_path / "none.db").exists()
    assert run(*AGENT, "--store", "memory:").code == 1


def test_why_and_explain_show_a_recorded_halt(run: Any, tmp_path: Path) -> None:
    from datetime import timedelta

    from policyengine.audit import DecisionLog

    (tmp_path / "p.policy").write_text(POLICY)
    log = DecisionLog(tmp_path / "decisions.jsonl")
    engine = create(log=log)
    engine.halt(reason="it repeats refunds", end=timedelta(hours=2), agent="bot")
    decision = engine.decide(question())
    log.close()
    why = run("why", decision.id, "--log", "decisions.jsonl", "p.policy")
    assert why.code == 0
    assert "halted until 2026-03-02T12:00:00Z: it repeats refunds" in why.out
    explained = run("explain", "p.policy", "--log", "decisions.jsonl", "--id", decision.id)
    assert "deny by halted" in explained.out
    recorded = run("record", "p.policy", "--log", "decisions.jsonl", "-o", "recorded_test.policy")
    assert "an operator had halted such requests" in recorded.out + recorded.err

"""`policyengine approvals` against a real server, with a token of a person from a real issuer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.server import create_app
from tests.integrations.serving import serving
from tests.server.approving import BOT, NOW, REFUND, Desk, token


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "server").mkdir()
    return Desk(tmp_path / "server")


@pytest.fixture
def url(desk: Desk) -> Iterator[str]:
    with serving(create_app(desk.engine)) as found:
        yield found


@pytest.fixture
def approvals(run: Any, url: str, tmp_path: Path) -> Any:
    def run_as(who: str, *arguments: str) -> Any:
        (tmp_path / "token").write_text(token(who) + "\n")
        return run("approvals", *arguments, "--token-file", "token", "--url", url)

    return run_as


def opened(desk: Desk, question: dict[str, Any] = REFUND) -> str:
    [remedy] = desk.engine.decide(question).remedies
    assert remedy.approval is not None
    return str(remedy.approval.id)


def test_a_person_lists_shows_and_approves_a_request(approvals: Any, desk: Desk) -> None:
    assert approvals("carol", "list").out == "no approval waits for you\n"
    id = opened(desk)
    assert approvals("carol", "list").out == f"{id}  bot: refund of 900  (until 2027-01-16T08:00:00Z)\n"
    assert approvals("bob", "list").out == "no approval waits for you\n"
    shown = approvals("carol", "show", id).out
    assert [line.strip() for line in shown.splitlines()] == [
        f"pending  {id}", "rule:         large", "message:      refund of 900", "endpoint:     POST /refund",
        "agent:        bot", "issuer:       acme", "for user:     alice", "chain:        alice → bot",
        "approvers:    role finance", "answer until: 2027-01-16T08:00:00Z", "counts for:   15m",
        "the request, in the words of the requester:",
        "{", '"body": {', '"amount": 900', "},", '"request": {', '"method": "POST",', '"path": "/refund"', "}", "}",
        "what the entities say:", 'user "alice": {"roles": ["finance"]}',
        "what the requester did since 2027-01-08T08:00:00.000000Z:", "decisions: 1 confirm",
        "2027-01-15T08:00:00.000000Z  confirm  POST /refund  large", "approvals: none",
    ]  # fmt: skip
    assert approvals("carol", "approve", id).out == "approved large\n"
    assert desk.engine.decide(REFUND).allowed


def test_a_person_denies_a_request_with_a_reason(approvals: Any, desk: Desk) -> None:
    id = opened(desk)
    assert approvals("carol", "deny", id, "--reason", "already paid").out == "denied large\n"
    assert "reason:       already paid" in approvals("carol", "show", id).out
    ended = approvals("carol", "approve", id)
    assert (ended.code, ended.err) == (1, "error: the approval is denied, and can no longer be answered\n")


def test_the_output_can_be_json(approvals: Any, desk: Desk) -> None:
    id = opened(desk)
    [listed] = approvals("carol", "list", "--format", "json").json["approvals"]
    shown = approvals("carol", "show", id, "--format", "json").json
    assert {name: value for name, value in shown.items() if name not in ("directory", "history")} == listed
    assert approvals("carol", "approve", id, "--format", "json").json["state"] == "approved"
    assert (
        approvals("carol", "deny", opened(desk, {**REFUND, "body": {"amount": 901}}), "--format", "json").json["state"]
        == "denied"
    )


def test_somebody_who_may_not_approve_is_told_why(approvals: Any, desk: Desk) -> None:
    ended = approvals("alice", "approve", opened(desk))
    assert (ended.code, ended.err.splitlines()[0]) == (1, "error: the request is made for this user")


def test_a_token_that_is_not_accepted_is_explained(run: Any, url: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token(exp=NOW - 100) + "\n")
    ended = run("approvals", "list", "--token-file", "token", "--url", url)
    assert (ended.code, ended.err.splitlines()) == (
        1,
        [
            "error: the token is not accepted: the credential has expired",
            "hint: get a new token of your own from an issuer of the policies (docs/approvals.md)",
        ],
    )


def test_words_of_the_requester_cannot_change_the_terminal(approvals: Any, desk: Desk) -> None:
    evil = "\x1b[2J\u202egnp.exe\u200b"
    id = opened(desk, {**REFUND, "body": {"amount": 900, "note": evil}, "user": {"id": "alice"}, **BOT})
    shown = approvals("carol", "show", id)
    assert shown.code == 0
    assert not any(character in shown.out for character in "\x1b\u202e\u200b")
    assert "\\u202egnp.exe\\u200b" in shown.out


def test_the_token_can_come_from_stdin(run: Any, url: str, desk: Desk) -> None:
    opened(desk)
    assert "refund of 900" in run("approvals", "list", "--token-file", "-", "--url", url, stdin=token().encode()).out


@pytest.mark.parametrize("content", ["", "a b", "ä", "one\ntwo"])
def test_a_file_that_is_no_token_is_refused(run: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    ended = run("approvals", "list", "--token-file", "token")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "error: the file must contain one token")


def test_a_missing_token_file_is_reported(run: Any) -> None:
    assert "no such file" in run("approvals", "list", "--token-file", "missing").err


def test_a_server_that_cannot_be_reached_is_reported(run: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token())
    ended = run("approvals", "list", "--token-file", "token", "--url", "http://127.0.0.1:1")
    assert (ended.code, "the server cannot be reached" in ended.err) == (1, True)


def test_a_token_is_not_sent_to_another_machine_without_tls(run: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token())
    ended = run("approvals", "list", "--token-file", "token", "--url", "http://pdp.example")
    assert (ended.code, "https://" in ended.err) == (1, True)


def test_ids_are_sent_as_one_part_of_the_path(approvals: Any, desk: Desk) -> None:
    id = opened(desk)
    assert approvals("carol", "deny", f"{id}/approve?x=").code == 1
    assert approvals("carol", "approve", "../readyz").code == 1
    assert desk.engine.decide(REFUND).outcome == "confirm"

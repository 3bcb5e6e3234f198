"""`policyengine approvals` against a real server, with a token of a person from a real issuer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policyengine.cli.commands.approvals import watch
from policyengine.cli.commands.approvals.watch import TableView, create_view, follow, time_left
from policyengine.cli.errors import CommandError
from policyengine.cli.options.approvals import show_approval
from policyengine.cli.output.terminal import OutputFormat
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
        "entity rows:", 'user "alice": {"roles": ["finance"]}',
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


# ── Following ─────────────────────────────────────────────────────────────────────────────────


class Watched:
    """Answers of a server to `watch`, the last of which is Ctrl-C, and the pauses between them."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.pauses, self.now = list(answers), list[str](), list[float](), 0.0

    def get(self, path: str) -> Any:
        self.asked.append(path)
        answer = self.answers.pop(0) if self.answers else KeyboardInterrupt()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def follow(self) -> list[list[str]]:
        """Return the ids of each list, until Ctrl-C."""
        found: list[list[str]] = []
        server: Any = self
        try:
            for one in follow(server, lambda: self.now, self.pause):
                found.append(list(one))
        except KeyboardInterrupt:
            pass
        return found


def waiting(*ids: str, version: str = "v") -> dict[str, Any]:
    who = {"agent": "bot"}
    return {
        "version": version,
        "approvals": [
            {"id": id, "requester": who, "rule": "large", "message": f"refund {id}", "expires": "2027-01-16T08:00:00Z"}
            for id in ids
        ],
    }


AWAY = CommandError("server", "`http://pdp`: the server cannot be reached")


def test_watching_waits_for_the_next_change() -> None:
    watched = Watched(waiting(version="a"), waiting("1", version="b"), waiting(version="c"))
    assert watched.follow() == [[], ["1"], []]
    assert watched.asked == ["", "?wait=25&version=a", "?wait=25&version=b", "?wait=25&version=c"]
    assert watched.pauses == []


def test_watching_survives_a_server_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    silent = CommandError("approval", "the store does not answer", None, (("status", 503), ("code", None)))
    watched = Watched(waiting(), AWAY, AWAY, silent, waiting("1", version="w"))
    assert watched.follow() == [[], ["1"]]
    assert watched.pauses == [1, 2, 4]
    assert capsys.readouterr().err == f"warning: {AWAY.message}; trying again\n"


def test_watching_a_server_that_does_not_wait_makes_pauses() -> None:
    """A server that is busy or ends answers at once, with the list that is known."""
    watched = Watched(waiting(version="a"), waiting(version="a"), waiting(version="a"), waiting("1", version="b"))
    assert watched.follow() == [[], [], [], ["1"]]
    assert watched.pauses == [1, 1]


def test_watching_gives_up_after_a_while() -> None:
    watched = Watched(waiting(), *[AWAY] * 1_000)
    with pytest.raises(CommandError, match="cannot be reached"):
        watched.follow()
    assert 600 < watched.now < 700


@pytest.mark.parametrize("error", [AWAY, CommandError("approval", "no", None, (("status", 401),))])
def test_watching_does_not_begin_with_a_server_that_is_away_or_refuses(error: CommandError) -> None:
    with pytest.raises(CommandError):
        Watched(error, waiting()).follow()


def test_watching_ends_when_the_token_is_no_longer_accepted() -> None:
    with pytest.raises(CommandError, match="expired"):
        Watched(waiting(), CommandError("approval", "the token has expired", None, (("status", 401),))).follow()


def test_each_change_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    view = create_view(OutputFormat.JSON, bell=True)
    for lists in (("2", "1"), ("2", "1"), ("3", "2")):
        view({one["id"]: one for one in waiting(*lists)["approvals"]})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["approval"]["id"]) for one in lines] == [
        ("waits", "1"), ("waits", "2"), ("waits", "3"), ("ended", "1")
    ]  # fmt: skip


def test_a_terminal_shows_a_table_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    view = TableView(bell=True, now=lambda: datetime(2027, 1, 16, 6, 30, tzinfo=UTC))
    one = waiting("1")["approvals"][0] | {"message": "words\x1b]0;x\x07\n" + "x" * 100}
    view({"1": one})
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[H\x1b[2J1 waiting for you at 2027-01-16T06:30:00Z")
    assert shown.endswith("\a")
    assert "1h 30m" in shown
    assert "\\x1b]0;x\\x07\\n" in shown
    assert "\x1b]" not in shown
    view({"1": one})
    assert not capsys.readouterr().out.endswith("\a")  # nothing new


@pytest.mark.parametrize(
    ("expires", "left"), [("2027-01-16T06:30:59Z", "0m 59s"), ("2027-01-16T06:00:00Z", "0m 00s"), ("soon", "?")]
)
def test_the_time_that_is_left(expires: str, left: str) -> None:
    assert time_left(expires, datetime(2027, 1, 16, 6, 30, tzinfo=UTC)) == left


def test_watching_a_real_server_ends_cleanly_with_ctrl_c(
    approvals: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = opened(desk)
    real = watch.follow

    def interrupted(server: Any) -> Iterator[Any]:
        yield next(real(server))
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "follow", interrupted)
    ended = approvals("carol", "watch")
    assert (ended.code, ended.out, ended.err) == (130, f"waits  {id}  bot: refund of 900\n", "")
    assert approvals("bob", "watch").out == ""


def test_the_number_of_approvers_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_approval({"by": "2 of role finance from acme", "count": 2})
    assert "approvers:    2 of role finance from acme\n" in capsys.readouterr().out

"""What webhooks do to the spool while nothing waits: they look, and lock nothing; what the command says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyengine.cli.commands.approvals.webhooks import describe_state
from policyengine.webhooks.dispatcher import WebhookDispatcher
from policyengine.webhooks.spool import SpoolMessage, WebhookSpool
from policyengine.webhooks.target import WebhookLinks, WebhookTarget

NOW = 1_800_000_000.0


@pytest.fixture
def traced(tmp_path: Path) -> Any:
    spool, statements = WebhookSpool(tmp_path / "spool", now=lambda: NOW), list[str]()
    assert spool._connection is not None
    spool._connection.set_trace_callback(statements.append)
    yield spool, statements
    spool.close()


def message(due: float) -> SpoolMessage:
    return SpoolMessage("m", "a", "opened", b"x", due, NOW * 2)


def locks(statements: list[str]) -> int:
    return sum(one.startswith("BEGIN") for one in statements)


def test_a_spool_without_messages_is_not_locked(traced: Any) -> None:
    spool, statements = traced
    dispatcher = WebhookDispatcher([WebhookTarget("a", "https://a.example")], spool, WebhookLinks(None))
    for _ in range(3):
        dispatcher.tick()
        assert [sender.step() > 0 for sender in dispatcher.senders] == [True]
    assert (len(statements) > 0, locks(statements)) == (True, 0)


def test_a_message_that_is_not_due_is_not_locked_and_one_that_is_due_is_leased_once(traced: Any) -> None:
    spool, statements = traced
    spool.add([message(NOW + 60)])
    before = locks(statements)
    assert spool.lease("a", 60) is None
    assert locks(statements) == before
    spool.add([SpoolMessage("n", "a", "opened", b"x", NOW, NOW * 2)])
    assert [found and found.id for found in (spool.lease("a", 60), spool.lease("a", 60))] == ["n", None]


@pytest.mark.parametrize(
    ("next", "words"),
    [
        ("2027-01-15T08:01:00Z", "2 waiting, next attempt at 2027-01-15T08:01:00Z; it answers 503"),
        ("2027-01-15T07:59:00Z", "2 waiting, due since 2027-01-15T07:59:00Z; it answers 503"),
    ],
)
def test_a_message_that_is_overdue_has_no_next_attempt_in_the_past(next: str, words: str) -> None:
    row = {"name": "a", "format": "json", "waiting": 2, "next": next, "failure": "it answers 503"}
    assert describe_state(row, NOW) == words

"""Sessions of the MCP gateway: who opens many of them shuts nobody out."""

from __future__ import annotations

import logging

import pytest

from policyengine.identity.verified import CredentialRefusal, VerifiedCredential
from policyengine.integrations.mcp.clients.sessions import (
    LINE_SECONDS,
    NOBODY,
    SessionTable,
    isolated_owner,
    session_owner,
)
from policyengine.runtime.credential_errors import RefusalCode

PROVED = VerifiedCredential(
    {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}}, 2_000_000_000, frozenset(), "sha256:0"
)


class Held:
    now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def table_of(*owners: str, most: int = 5) -> SessionTable:
    table = SessionTable(most, Held())
    for number, owner in enumerate(owners):
        table.begin(f"{owner}{number}", None, (owner,))
    return table


def test_no_session_is_replaceable_while_there_is_room() -> None:
    assert table_of("a", "a", "a", "a").replaceable() is None


def test_the_owner_of_most_sessions_loses_the_longest_idle_one() -> None:
    table = table_of("b", "a", "a", "b", "a")
    session = table.get("a1")
    assert session is not None
    table.enter(session)
    table.leave(session)
    assert table.replaceable() == "a2"


def test_an_idle_session_ends_before_one_with_a_listening_client() -> None:
    table = table_of("a", "a", "a", "b", "b")
    for name in ("a0", "a1"):
        session = table.get(name)
        assert session is not None
        table.enter(session)
    assert table.replaceable() == "a2"


def test_the_oldest_session_ends_when_all_have_listening_clients() -> None:
    table = table_of("a", "a", "a", "b", "b")
    for name in ("a0", "a1", "a2"):
        session = table.get(name)
        assert session is not None
        table.enter(session)
    assert table.replaceable() == "a0"


def test_ended_sessions_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    table = table_of("a", "a", "b", most=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(int(LINE_SECONDS) + 2):
            table.replaceable()
    assert [one.getMessage() for one in caplog.records] == [
        "1 session ended to make room for others: 3 are open, 2 of them owned by a",
        f"{int(LINE_SECONDS)} sessions ended to make room for others: 3 are open, 2 of them owned by a",
    ]


def test_attack_state_of_another_caller_whose_token_was_proved() -> None:
    other = VerifiedCredential({**PROVED.facts, "user": {"id": "mallory"}}, 2_000_000_000, frozenset(), "sha256:1")
    mine, theirs = isolated_owner({"credentials": PROVED}), isolated_owner({"credentials": other})
    assert len({NOBODY, mine, theirs}) == 3


ALICES_BOT = ("agent=bot", "issuer=acme", "user=alice")


@pytest.mark.parametrize(
    ("facts", "owner"),
    [
        ({"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}}, ALICES_BOT),
        ({"agent": {"id": "bot"}, "credential": {"kind": "jwt"}}, ("agent=bot",)),
        ({"agent": {"id": "x"}, "user": {"id": "y"}}, ("agent=x", "user=y")),
        ({"agent": {"id": "x", "issuer": "y"}}, ("agent=x", "issuer=y")),
        ({"credentials": {"authorization": "Bearer made-up"}}, NOBODY),
        ({"agent": {"id": "bot"}, "credentials": {}}, NOBODY),
        ({"credentials": PROVED}, ALICES_BOT),
        ({"credentials": CredentialRefusal(RefusalCode.EXPIRED)}, NOBODY),
        ({}, NOBODY),
        (None, NOBODY),
    ],
)
def test_the_owner_of_a_session_is_the_proven_caller_or_nobody(facts: object, owner: tuple[str, ...]) -> None:
    assert session_owner(facts) == owner  # type: ignore[arg-type]

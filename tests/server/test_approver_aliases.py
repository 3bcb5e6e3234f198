"""An approver whom a claim other than `sub` names, and who is revoked by `sub`: over HTTP, with the command line and at
the MCP middleware, with real tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.client.client import Client
from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.cli import main
from policyengine.integrations.mcp.elicitation import approving_user, caller_identity
from policyengine.integrations.mcp.sdk import PolicyMiddleware
from policyengine.server import create_app
from tests.integrations.serving import serving
from tests.server.approving import IDENTITY, NOW, REFUND, Desk, bearer, token


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path, identified=False)
    (tmp_path / "identity.toml").write_text(IDENTITY.replace("[issuers.partner]", 'user = "email"\n[issuers.partner]'))
    found.engine.verify_credentials(tmp_path / "identity.toml")
    return found


def carol(**claims: Any) -> str:
    return token("u-17", email="carol", **claims)


def revoke(desk: Desk, mark: str = "user:acme/u-17") -> None:
    desk.engine.store.marks.revoke([mark], NOW + 3_600, NOW, by_operator=True)


def approve(desk: Desk, id: str, raw: str) -> httpx.Response:
    return desk.call("POST", f"/approvals/{id}/approve", headers=bearer(raw))


def test_an_answer_over_http_does_not_count_after_the_subject_of_the_token_was_revoked(desk: Desk) -> None:
    id = desk.opened()
    assert approve(desk, id, carol()).json()["approved"][0]["by"] == "carol"
    revoke(desk)
    assert desk.opened() != id


def test_an_answer_over_http_counts_after_the_token_was_revoked(desk: Desk) -> None:
    """People sign out."""
    approve(desk, desk.opened(), carol())
    revoke(desk, "jti:acme/t-1")
    assert desk.ask()["outcome"] == "allow"


def test_a_subject_that_was_revoked_before_answers_nothing_over_http(desk: Desk) -> None:
    id = desk.opened()
    revoke(desk)
    answer = approve(desk, id, carol())
    assert (answer.status_code, answer.json()["detail"]) == (
        401,
        "the token is not accepted: the token was revoked, or an agent or user in its chain was revoked",
    )


def test_an_answer_of_the_command_line_does_not_count_after_the_subject_of_the_token_was_revoked(
    desk: Desk, tmp_path: Path
) -> None:
    id, own = desk.opened(), tmp_path / "own-token"
    own.write_text(f"{carol()}\n")
    with serving(create_app(desk.engine)) as url:
        assert main(["approvals", "approve", id, "--token-file", str(own), "--url", url]) == 0
    revoke(desk)
    assert desk.opened() != id


# ── The user of an MCP client ─────────────────────────────────────────────────────────────────


def call_wipe(desk: Desk, during: Callable[[], object] = lambda: None) -> bool:
    """Call a tool that the user must approve, with a token of the user's agent, and approve it in the client; `during`
    runs before the answer. Return whether the tool ran."""
    wiped, raw = list[bool](), token("u-18", email="alice", client_id="bot")

    async def ask(context: Any, params: Any) -> ElicitResult:
        during()
        return ElicitResult(action="accept", content={"approve": True})

    async def work() -> None:
        policy = PolicyMiddleware(
            desk.engine, server="desk", elicit="form",
            identify=lambda _: {"credentials": {"authorization": f"Bearer {raw}"}},
        )  # fmt: skip
        server = MCPServer("desk", middleware=[policy])

        @server.tool()
        def wipe() -> str:
            wiped.append(True)
            return "wiped"

        async with Client(server, mode="legacy", elicitation_callback=ask) as client:
            with suppress(MCPError):
                await client.call_tool("wipe", {})

    asyncio.run(asyncio.wait_for(work(), 60))
    return bool(wiped)


def test_the_user_of_an_mcp_client_with_a_token_is_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert desk.engine.approvals is not None
    answered, approve = list[ProvedPerson](), desk.engine.approvals.approve

    def note(id: str, person: ProvedPerson, *given: Any, **more: Any) -> Any:
        answered.append(person)
        return approve(id, person, *given, **more)

    monkeypatch.setattr(desk.engine.approvals, "approve", note)
    assert call_wipe(desk)
    assert answered == [ProvedPerson("alice", "acme", aliases=("u-18",))]


def test_the_answer_of_an_mcp_client_does_not_count_if_the_subject_is_revoked_meanwhile(desk: Desk) -> None:
    asked = list[str]()

    def during() -> None:
        asked.append("once")
        revoke(desk, "user:acme/u-18")

    assert not call_wipe(desk, during)
    assert asked == ["once"]
    assert desk.engine.approvals is not None
    assert [one.approval.votes for one in desk.engine.approvals.list()] == [()]


def test_an_approving_user_with_a_verified_token_has_both_names(desk: Desk) -> None:
    request = {"method": "POST", "path": "/refund"}
    raw = token("u-18", email="alice", client_id="bot")
    question = desk.engine.prove({"request": request, "credentials": {"authorization": f"Bearer {raw}"}})
    assert approving_user(question) == ProvedPerson("alice", "acme", aliases=("u-18",))
    assert caller_identity(question) == ("bot", "acme", "alice", "acme")


def test_an_approving_user_with_a_refused_token_is_nobody(desk: Desk) -> None:
    request = {"method": "POST", "path": "/refund"}
    raw = token("u-18", email="alice", client_id="bot", signer="partner")
    question = desk.engine.prove({"request": request, "credentials": {"authorization": f"Bearer {raw}"}})
    assert approving_user({**question, **REFUND}) is None

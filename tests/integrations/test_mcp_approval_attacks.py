"""Clients of MCP that misuse approvals: answers of others, twice, late, unasked and malformed, at the gateway and in
servers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import Context
from mcp.shared.message import SessionMessage
from mcp_types import ElicitResult
from mcp_types.jsonrpc import jsonrpc_message_adapter

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.integrations.mcp.elicitation import approving_user
from policyengine.integrations.mcp.gateway import McpGateway, http_app, identify_by_headers, parse_caller_facts
from policyengine.integrations.mcp.sdk import always
from policyengine.stores.base import StoreError
from tests.integrations.approving import (
    ALICE,
    CAROL,
    PAGES,
    Place,
    Shop,
    at,
    caller,
    gateway_of,
    later,
    memory_gateway,
    run,
    sdk_server,
)
from tests.integrations.serving import serving

FORMS: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
YES = {"action": "accept", "content": {"approve": True}}


@pytest.fixture
def shop() -> Shop:
    return Shop()


@dataclass
class RawClient:
    """A client of a gateway that sends and receives messages as it likes."""

    reader: Any
    writer: Any

    async def send(self, **message: Any) -> None:
        parsed = jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **message})
        await self.writer.send(SessionMessage(parsed))

    async def receive(self) -> dict[str, Any]:
        item = await self.reader.receive()
        return item.message.model_dump(by_alias=True, exclude_none=True, mode="json")  # type: ignore[no-any-return]

    async def call(self, id: int, tool: str = "transfer", amount: float = 900) -> None:
        await self.send(id=id, method="tools/call", params={"name": tool, "arguments": {"amount": amount}})

    async def asked(self, id: int = 2) -> dict[str, Any]:
        """Make a call, and return the question to the user."""
        await self.call(id)
        question = await self.receive()
        assert question["method"] == "elicitation/create", question
        return question

    async def is_alive(self) -> None:
        """All messages before this one have been read."""
        await self.send(id="alive", method="ping")
        assert (await self.receive())["id"] == "alive"


@asynccontextmanager
async def raw(gateway: McpGateway, capabilities: Any = None, version: str = "2025-11-25") -> AsyncIterator[RawClient]:
    async with memory_gateway(gateway) as (reader, writer):
        client = RawClient(reader, writer)
        info = {"name": "raw", "version": "1"}
        stated = FORMS if capabilities is None else capabilities
        params = {"protocolVersion": version, "capabilities": stated, "clientInfo": info}
        await client.send(id=1, method="initialize", params=params)
        assert (await client.receive())["result"]["protocolVersion"] == version
        await client.send(method="notifications/initialized")
        yield client


def state_of(message: dict[str, Any]) -> str:
    [remedy] = message["result"]["_meta"]["policyengine/confirm"]["remedies"]
    found: str = remedy["approval"]["state"]
    return found


# ── Answers at the gateway ────────────────────────────────────────────────────────────────────


def test_an_answer_with_another_id_does_not_count(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            for id in ("policyengine-" + "0" * 32, 2, 1, question["id"][:-1]):
                await client.send(id=id, result=YES)
            await client.is_alive()
            assert shop.approvals.find(shop.waiting).state == "pending"
            await client.send(id=question["id"], result=YES)
            assert not (await client.receive())["result"].get("isError")
        assert shop.calls == [900]

    run(work())


def test_an_answer_counts_once(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            await client.send(id=question["id"], result={"action": "decline"})
            for _ in range(2):
                await client.send(id=question["id"], result=YES)
            assert state_of(await client.receive()) == "denied"
            await client.send(id=question["id"], result=YES)
            await client.is_alive()
            await client.call(3)
            assert state_of(await client.receive()) == "denied"
        assert shop.calls == []

    run(work())


def test_an_answer_to_one_question_does_not_count_for_the_next(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            first = await client.asked(2)
            await client.send(id=first["id"], result=YES)
            await client.receive()
            second = await client.asked(3)
            assert second["id"] != first["id"]
            await client.send(id=first["id"], result=YES)
            await client.is_alive()
            assert shop.calls == [900]

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"action": "accept"}},
        {"result": {"action": "accept", "content": {}}},
        {"result": {"action": "accept", "content": {"approve": "true"}}},
        {"result": {"action": "accept", "content": {"approve": 1}}},
        {"result": {"action": "accept", "content": {"Approve": True}}},
        {"result": {"action": "accept", "content": [True]}},
        {"result": {"action": "ACCEPT", "content": {"approve": True}}},
        {"result": {"action": ["accept"], "content": {"approve": True}}},
        {"result": {"content": {"approve": True}}},
        {"result": {}},
        {"error": {"code": -32601, "message": "no such method"}},
    ],
)
def test_an_unclear_answer_does_not_count(answer: dict[str, Any], shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            await client.send(id=question["id"], **answer)
            assert state_of(await client.receive()) == "pending"
        assert shop.calls == []

    run(work())


def test_an_answer_after_the_wait_does_not_count(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form", wait_for_approval=0.05)) as client:
            question = await client.asked()
            withdrawn = await client.receive()
            assert withdrawn["method"] == "notifications/cancelled"
            assert withdrawn["params"]["requestId"] == question["id"]
            assert state_of(await client.receive()) == "pending"
            await client.send(id=question["id"], result=YES)
            await client.is_alive()
            assert shop.approvals.find(shop.waiting).state == "pending"
        assert shop.calls == []

    run(work())


def test_an_answer_of_a_halted_user_does_not_count(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            id = shop.waiting
            shop.engine.halt(user="alice", reason="lost laptop", end=timedelta(hours=1))
            await client.send(id=question["id"], result=YES)
            await client.receive()
            assert shop.approvals.find(id).approval.votes == ()
        assert shop.calls == []

    run(work())


@pytest.mark.parametrize("approves", [True, False])
def test_an_answer_of_a_user_who_was_revoked_does_not_count(shop: Shop, approves: bool) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            id, seconds = shop.waiting, int(shop.now.timestamp())
            shop.engine.store.marks.revoke(["user:acme/alice"], seconds + 60, seconds, by_operator=True)
            await client.send(id=question["id"], result={**YES, "content": {"approve": approves}})
            await client.receive()
            found = shop.approvals.find(id)
            assert (found.state, found.approval.votes, found.approval.refusal) == ("pending", (), None)
        assert shop.calls == []

    run(work())


def test_a_store_that_forgets_who_was_revoked_asks_nobody(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> Any:
        raise StoreError("gone")

    async def work() -> None:
        monkeypatch.setattr(shop.engine.store.marks, "revoked", fail)
        async with raw(gateway_of(shop, elicit="form")) as client:
            await client.call(2)
            assert state_of(await client.receive()) == "pending"
        assert shop.calls == []

    run(work())


def test_a_store_that_fails_during_the_wait_makes_no_call(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form", wait_for_approval=0.2)) as client:
            await client.asked()

            def fail(*given: object) -> Any:
                raise StoreError("gone")

            monkeypatch.setattr(shop.engine.store.approvals, "find", fail)
            assert (await client.receive())["method"] == "notifications/cancelled"
            assert state_of(await client.receive()) == "pending"
        assert shop.calls == []

    run(work())


def test_a_question_is_withdrawn_when_the_approval_is_answered_elsewhere(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            shop.approvals.approve(shop.waiting, ALICE)
            withdrawn = await client.receive()
            assert (withdrawn["method"], withdrawn["params"]["requestId"]) == (
                "notifications/cancelled",
                question["id"],
            )
            assert not (await client.receive())["result"].get("isError")
            await client.send(id=question["id"], result={"action": "decline"})
            await client.is_alive()
        assert shop.calls == [900]

    run(work())


def test_of_two_answers_at_the_same_time_the_first_counts(shop: Shop) -> None:
    """Both are there before the caller of either is known."""
    identified, answers = asyncio.Event(), list[Any]()

    async def identify(context: Any) -> Any:
        if context.method == "elicitation/create":
            answers.append(context)
            await identified.wait()
        return caller()

    async def work() -> None:
        async with raw(gateway_of(shop, identify, elicit="form")) as client:
            question = await client.asked()
            for answer in ({"action": "decline"}, YES):
                await client.send(id=question["id"], result=answer)
            while len(answers) < 2:
                await asyncio.sleep(0)
            identified.set()
            assert state_of(await client.receive()) == "denied"
        assert shop.calls == []

    run(work())


def test_a_user_whose_issuer_vouches_for_no_approver_is_not_asked(shop: Shop) -> None:
    async def work() -> None:
        shop.load('issuer staff { url "https://staff.acme.example"   scopes none }', issuers=("staff",))
        async with raw(gateway_of(shop, elicit="form")) as client:
            await client.call(2)
            assert state_of(await client.receive()) == "pending"

    run(work())


def test_a_call_that_needs_two_approvals_asks_in_no_form(shop: Shop) -> None:
    async def work() -> None:
        shop.load('guard "again" on TOOL billing/transfer { confirm by user }')
        async with raw(gateway_of(shop, elicit="form")) as client:
            await client.call(2)
            remedies = (await client.receive())["result"]["_meta"]["policyengine/confirm"]["remedies"]
            assert [one["approval"]["state"] for one in remedies] == ["pending", "pending"]

    run(work())


def test_an_approval_that_was_given_is_not_asked_for_again(shop: Shop) -> None:
    """The answer came between the decision and the question."""

    async def work() -> None:
        async def answer() -> None:
            shop.approvals.approve(shop.waiting, ALICE)

        shop.after = answer
        async with raw(gateway_of(shop, elicit="form")) as client:
            await client.call(2)
            assert (await client.receive())["result"]["isError"]
            await client.call(3)
            assert not (await client.receive())["result"].get("isError")
        assert shop.calls == [900]

    run(work())


def test_the_server_learns_nothing_of_a_call_that_waits(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, wait_for_approval=300)) as client:
            await client.call(2, "refund")
            await client.is_alive()
            await client.send(method="notifications/cancelled", params={"requestId": 2})
            await client.is_alive()
        assert shop.heard == ["initialize", "notifications/initialized", "ping", "ping"]

    run(work())


def test_a_cancelled_call_withdraws_the_question_and_gets_no_answer(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form")) as client:
            question = await client.asked()
            await client.send(method="notifications/cancelled", params={"requestId": 2})
            withdrawn = await client.receive()
            assert (withdrawn["method"], withdrawn["params"]["requestId"]) == (
                "notifications/cancelled",
                question["id"],
            )
            await client.send(id=question["id"], result=YES)
            await client.is_alive()  # the call is not answered
        assert shop.calls == []
        assert shop.decided == 1

    run(work())


def test_a_call_that_is_cancelled_while_it_is_decided_again_is_not_made_and_reported(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, wait_for_approval=300)) as client:

            async def cancel() -> None:
                await client.send(method="notifications/cancelled", params={"requestId": 2})
                await client.is_alive()

            shop.between = cancel
            await client.call(2, "refund")
            await client.is_alive()
            shop.approvals.approve(shop.waiting, CAROL)
            while not shop.reports:
                await asyncio.sleep(0)
            await client.is_alive()  # the call is not answered
        assert shop.calls == []
        assert shop.reports == [500]

    run(work())


def test_a_shutdown_ends_the_wait(shop: Shop) -> None:
    async def work(url: str, stop: Callable[[], None]) -> None:
        async with Client(url) as client:
            place = Place(client)
            calling = asyncio.create_task(place.call("refund", {"amount": 900}, stop))
            await asyncio.gather(calling, return_exceptions=True)

    with ExitStack() as running:
        url = running.enter_context(serving(http_app(gateway_of(shop, wait_for_approval=300))))
        stopping = threading.Thread(target=running.close)
        with suppress(Exception):
            run(work(f"{url}/mcp", stopping.start))
        stopping.join(10)
        assert not stopping.is_alive()
    shop.approvals.approve(shop.waiting, CAROL)
    assert (shop.calls, shop.decided) == ([], 1)


def test_a_second_call_with_the_id_of_a_waiting_call_is_refused(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, wait_for_approval=300)) as client:
            await client.call(2, "refund")
            await client.is_alive()
            for amount in (1.0, 901.0):
                await client.call(2, "refund", amount)
                assert "another request in progress has this id" in (await client.receive())["error"]["message"]
            [status] = [one for one in shop.approvals.list() if one.approval.summary == "refund of 900"]
            shop.approvals.approve(status.approval.id, CAROL)
            assert (await client.receive())["id"] == 2
        assert shop.calls == [900]

    run(work())


def test_questions_of_the_server_and_of_the_gateway_are_not_mixed_up(shop: Shop) -> None:
    gateway = gateway_of(shop, elicit="form")
    server = gateway.upstream.server  # type: ignore[attr-defined]
    answers: list[str] = []

    @server.tool()  # type: ignore[untyped-decorator]
    async def transfer_all(ctx: Context) -> str:
        result = await ctx.session.elicit_form("sure?", {"type": "object", "properties": {}})
        answers.append(result.action)
        return result.action

    async def work() -> None:
        async with raw(gateway) as client:
            await client.send(id=2, method="tools/call", params={"name": "transfer_all", "arguments": {}})
            of_server = await client.receive()
            assert of_server["params"]["message"] == "sure?"
            of_gateway = await client.asked(3)
            assert of_server["id"] != of_gateway["id"]
            await client.send(id=of_server["id"], result=YES)
            assert (await client.receive())["id"] == 2
            assert shop.calls == []
            await client.send(id=of_gateway["id"], result={"action": "decline"})
            assert state_of(await client.receive()) == "denied"
        assert answers == ["accept"]

    shop.load("entity mcp_client {}\nanyone { may TOOL billing/transfer_all, ACTION elicit mcp_client }")
    run(work())


def test_calls_that_wait_are_bounded_over_all_sessions(shop: Shop) -> None:
    async def work() -> None:
        gateway = gateway_of(shop, wait_for_approval=300, most=2)
        async with raw(gateway) as first, raw(gateway) as second:
            await first.call(2, "refund", 901)
            await second.call(2, "refund", 902)
            await first.is_alive()
            await second.is_alive()
            await second.call(3, "refund", 903)
            assert (await second.receive())["id"] == 3
            await first.send(method="notifications/cancelled", params={"requestId": 2})
            await first.is_alive()
            await second.call(4, "refund", 904)
            await second.is_alive()  # it waits

    run(work())


@pytest.mark.parametrize(
    ("capabilities", "version"),
    [({}, "2025-11-25"), ({"elicitation": {"url": {}}}, "2025-11-25"), (FORMS, "2025-03-26")],
)
def test_a_client_that_declares_no_forms_gets_none(capabilities: Any, version: str, shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="form"), capabilities, version) as client:
            await client.call(2)
            assert state_of(await client.receive()) == "pending"

    run(work())


def test_an_empty_capability_declares_forms_and_no_pages(shop: Shop) -> None:
    async def work() -> None:
        stated = {"elicitation": {}}
        async with raw(gateway_of(shop, elicit="url", approval_pages=PAGES), stated) as client:
            await client.call(2)
            assert state_of(await client.receive()) == "pending"
        async with raw(gateway_of(shop, elicit="form"), stated) as client:
            assert (await client.asked())["params"]["requestedSchema"]

    run(work())


def test_pages_need_the_version_that_has_them(shop: Shop) -> None:
    async def work() -> None:
        gateway = gateway_of(shop, elicit="url", approval_pages=PAGES)
        async with raw(gateway, version="2025-06-18") as client:
            await client.call(2)
            assert state_of(await client.receive()) == "pending"

    run(work())


def test_a_client_learns_that_the_user_answered_on_the_page(shop: Shop) -> None:
    async def work() -> None:
        async with raw(gateway_of(shop, elicit="url", approval_pages=PAGES)) as client:
            question = await client.asked()
            assert question["params"]["mode"] == "url"
            assert question["params"]["url"] == f"{PAGES}/approvals/{shop.waiting}"
            await client.send(id=question["id"], result={"action": "accept", "content": {"approve": True}})
            await client.is_alive()
            assert shop.approvals.find(shop.waiting).state == "pending"  # the page counts, not the client
            shop.approvals.approve(shop.waiting, ALICE)
            complete = await client.receive()
            assert complete["method"] == "notifications/elicitation/complete"
            assert complete["params"] == {"elicitationId": question["params"]["elicitationId"]}
            assert not (await client.receive())["result"].get("isError")
        assert shop.calls == [900]

    run(work())


# ── Over HTTP: each answer is a request of its own ────────────────────────────────────────────


def by_headers() -> Any:
    names = {"agent": "x-agent", "user": "x-user"}
    return identify_by_headers(names, lambda found: parse_caller_facts({"issuer": "acme", **found}))


class SharedSessionGateway(McpGateway):
    """A gateway whose callers may use sessions of each other."""

    async def stated_owner(self, request: Any) -> None:
        return None


@pytest.mark.parametrize("is_owned", [True, False])
def test_an_answer_of_another_caller_does_not_count(
    shop: Shop, caplog: pytest.LogCaptureFixture, is_owned: bool
) -> None:
    bot = {"x-agent": "bot", "x-user": "alice", "accept": "application/json, text/event-stream"}
    others = ({"x-user": "bob"}, {"x-agent": "other"}, {"x-user": ""})

    async def work(url: str) -> None:
        async with httpx.AsyncClient(headers=bot, timeout=30) as http:
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": FORMS,
                "clientInfo": {"name": "a", "version": "1"},
            }
            begun = await http.post(url, json=message(id=1, method="initialize", params=params))
            http.headers["mcp-session-id"] = begun.headers["mcp-session-id"]
            http.headers["mcp-protocol-version"] = "2025-11-25"
            call = message(id=2, method="tools/call", params={"name": "transfer", "arguments": {"amount": 900}})
            async with http.stream("POST", url, json=call) as answer:
                events = (json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: {"))
                question = await anext(events)
                for other in others:
                    answer_of_other = message(id=question["id"], result=YES)
                    with caplog.at_level(logging.WARNING, "policyengine"):
                        status = (await http.post(url, json=answer_of_other, headers=other)).status_code
                    assert status == (404 if is_owned else 202)
                    while not is_owned and "does not come from the caller of the request" not in caplog.text:
                        await asyncio.sleep(0)
                    caplog.clear()
                assert shop.calls == []
                await http.post(url, json=message(id=question["id"], result=YES))
                result = await anext(events)
                assert not result["result"].get("isError")
        assert shop.calls == [900]

    gateway = gateway_of(shop, by_headers(), elicit="form")
    shared = SharedSessionGateway(gateway.decides, gateway.server, gateway.identify, gateway.upstream, gateway.confirms)
    with serving(http_app(gateway if is_owned else shared)) as url:
        run(work(f"{url}/mcp"))


def message(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", **members}


def test_a_server_without_verified_tokens_asks_in_no_form_over_http(shop: Shop) -> None:
    """The SDK then accepts answers of everybody who knows the ID of the session."""
    seen: list[Any] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        seen.append(params)
        return ElicitResult(action="accept", content={"approve": True})

    async def work(url: str) -> None:
        async with Client(url, mode="legacy", elicitation_callback=answer) as client:
            assert (await client.call_tool("transfer", {"amount": 900})).is_error

    with serving(sdk_server(shop, elicit="form").streamable_http_app()) as url:
        run(work(f"{url}/mcp"))
    assert seen == []
    assert shop.calls == []


# ── Servers of the version of 2026, which ask in rounds ───────────────────────────────────────


@pytest.mark.parametrize("tool", ["transfer", "refund"])
@pytest.mark.parametrize("point", ["sdk", "fastmcp"])
def test_an_answer_that_was_not_asked_for_does_not_count(point: str, tool: str, shop: Shop) -> None:
    """Neither for an approval by a role, nor for the approval of another call, nor for an unknown one."""

    async def work() -> None:
        async with at(point, shop, elicit="form") as place:
            assert (await place.call(tool, {"amount": 900})).approval["state"] == "pending"
            id = shop.waiting
            for key in (id, "0" * 48):
                answers = {f"policyengine/approval/{key}": ElicitResult.model_validate(YES)}
                session = place.client.session
                result = await session.call_tool(tool, {"amount": 901}, input_responses=answers)
                assert result.is_error
            assert shop.approvals.find(id).state == "pending"
        assert shop.calls == []

    run(work())


# ── What changes while a call waits ───────────────────────────────────────────────────────────


def test_a_credential_that_expires_during_the_wait_makes_no_call(shop: Shop) -> None:
    async def work() -> None:
        facts = caller()
        facts["credential"] = {**facts["credential"], "expires_at": "2027-01-04T12:01:00Z"}

        def answer() -> None:
            shop.approvals.approve(shop.waiting, CAROL)
            later(shop, minutes=2)

        async with at("sdk", shop, identify=always(facts), wait_for_approval=300) as place:
            with pytest.raises(Exception, match="no block of the policy accepts this caller"):
                await place.call("refund", {"amount": 900}, answer)
        assert shop.calls == []

    run(work())


def test_an_approval_that_another_call_has_used_makes_no_call(shop: Shop) -> None:
    async def work() -> None:
        question = {
            **caller(), "tool": {"server": "billing", "name": "refund"}, "args": {"amount": 900},
            "options": {"request_approval": True},
            "pending": ["request.headers.*", "request.query.*", "request.host", "request.ip", "request.size"],
        }  # fmt: skip

        def answer() -> None:
            shop.approvals.approve(shop.waiting, CAROL)
            assert shop.engine.decide(question).allowed

        async with at("gateway", shop, wait_for_approval=300) as place:
            reply = await place.call("refund", {"amount": 900}, answer)
            assert reply.approval["state"] in ("spent", "pending")
        assert shop.calls == []

    run(work())


FACTS = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}


@pytest.mark.parametrize(
    ("facts", "person"),
    [
        (FACTS, ALICE),
        ({"user": {"id": "alice"}}, ProvedPerson("alice", None)),
        ({**FACTS, "credentials": [{"bearer": "…"}]}, None),
        ({**FACTS, "user": {"id": ""}}, None),
        ({**FACTS, "user": {"id": 1}}, None),
        ({"credential": {"issuer": "acme"}}, None),
    ],
)
def test_the_user_of_a_question_is_known_only_by_verified_facts(facts: dict[str, Any], person: object) -> None:
    assert approving_user(facts) == person

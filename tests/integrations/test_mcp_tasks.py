"""Tasks of MCP servers: who may use a task, in which list it is, and what happens to it when the policy changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import fastmcp
import httpx
import pytest
from fastmcp.server.extensions import MethodBinding as FastBinding
from fastmcp.server.extensions import ServerExtension
from mcp.client.client import Client
from mcp.server import MCPServer
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import INVALID_PARAMS, LOG_LEVEL_META_KEY, Request, RequestParams, Result

from policyengine.engine import Engine
from policyengine.integrations.enforcement_point import make_denial
from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest, StatelessService
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.eras import Envelope
from policyengine.integrations.mcp.gateway import McpGateway, McpUpstream, UpstreamPolicyMiddleware, http_app
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.tasks import (
    MAX_ARGUMENT_CHARACTERS,
    MAX_TASK_SECONDS,
    UNKNOWN_TASK,
    TaskDesk,
    TaskKey,
    TaskTable,
    task_owner,
)
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from tests.integrations.conftest import BOT, Watched
from tests.integrations.relaying import MALLORY, Session, Told, relayed, sender
from tests.integrations.serving import serving

POLICY = """
language 1
package billing
entity mcp_client {}
entity user { roles: set<string> }
issuer acme { scopes none }
users unrestricted
agent "bot" {
  issued by acme
  acts for any user
  may TOOL billing/*
}
facts on TOOL billing/refund { args.amount: number }
facts { context.risk: number? }
guard "risk" on TOOL billing/add { deny when (context.risk else 0) > 5 message "a risk of {context.risk}" }
guard "refunds" on TOOL billing/refund { confirm by role finance when args.amount > 500 }
rate "once" per agent.id on TOOL billing/once { 1/1h }
rate "one at a time" per agent.id on TOOL billing/export { at most 1 at once for 1h }
"""
CALL = {"name": "export", "arguments": {"year": 2026}, "task": {"ttl": 60_000}}
TASK = {"taskId": "t1", "status": "working", "createdAt": "2026-11-30T00:00:00Z", "ttl": 60_000}
DONE = {"content": [{"type": "text", "text": "secret figures"}], "structuredContent": {"rows": 3}}


@pytest.fixture
def watched() -> Watched:
    return Watched(Engine.from_text(POLICY, "billing.policy"))


def during(watched: Watched, work: Callable[[Session], Awaitable[None]]) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            await session.call(1, "tools/call", CALL, {"task": TASK})
            await work(session)

    anyio.run(run)


# ── Through the gateway ───────────────────────────────────────────────────────────────────────


def test_a_caller_gets_the_result_of_its_own_task_and_the_outcome_is_reported_once(watched: Watched) -> None:
    async def run(session: Session) -> None:
        assert (await session.call(2, "tasks/get", {"taskId": "t1"}, TASK)).result == TASK
        done = {**TASK, "status": "completed"}
        assert (await session.call(3, "tasks/get", {"taskId": "t1"}, done)).result == done
        assert watched.reports == []
        assert (await session.call(4, "tasks/result", {"taskId": "t1"}, DONE)).result == DONE
        assert (await session.call(5, "tasks/result", {"taskId": "t1"}, DONE)).result == DONE

    during(watched, run)
    [report] = watched.reports
    assert (report["status"], report["output"]) == (200, {"rows": 3})


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel", "tasks/update"])
@pytest.mark.parametrize(
    ("id", "caller"),
    [
        ("t1", MALLORY),
        ("t1", {**BOT, "agent": {"id": "bot", "issuer": "other"}}),
        ("t1", {**BOT, "agent": {"id": "other", "issuer": "acme"}}),
        ("t1", {**BOT, "credential": {"issuer": "other"}}),
        ("t1", {}),
        ("t2", BOT),
        ("T1", BOT),
        (None, BOT),
        (["t1"], BOT),
    ],
)
def test_the_task_of_another_caller_is_as_unknown_as_one_that_does_not_exist(
    watched: Watched, method: str, id: object, caller: Any
) -> None:
    async def run(session: Session) -> None:
        error = await session.refused(2, method, {"taskId": id}, caller)
        assert (error.code, error.message, error.data) == (INVALID_PARAMS, UNKNOWN_TASK, None)

    during(watched, run)


def test_a_caller_without_an_identity_uses_no_task(watched: Watched) -> None:
    async def run(session: Session) -> None:
        session.client.caller = {"unknown": "fact"}  # identifying the caller fails
        assert (await session.refused(2, "tasks/get", {"taskId": "t1"})).code == DENIED

    during(watched, run)


@pytest.mark.parametrize("params", [{"TaskId": "t1"}, {"taskId": "t1", "taskid": "t2"}])
def test_a_task_id_that_servers_may_read_differently_is_refused(watched: Watched, params: dict[str, str]) -> None:
    async def run(session: Session) -> None:
        assert "means `taskId` to some servers" in (await session.refused(2, "tasks/get", params)).message

    during(watched, run)


def test_a_list_has_only_the_tasks_of_its_caller(watched: Watched) -> None:
    listed = {"tasks": [TASK, {**TASK, "taskId": "t2"}, {**TASK, "taskId": "t3"}, "t1", {}], "nextCursor": "c"}

    async def run(session: Session) -> None:
        await session.call(2, "tools/call", CALL | {"name": "add"}, {"task": {**TASK, "taskId": "t2"}}, MALLORY)
        own = (await session.call(3, "tasks/list", None, listed)).result
        assert ([one["taskId"] for one in own["tasks"]], own["nextCursor"]) == (["t1"], "c")
        other = (await session.call(4, "tasks/list", None, listed, MALLORY)).result
        assert [one["taskId"] for one in other["tasks"]] == ["t2"]
        broken = await session.call(5, "tasks/list", None, {"tasks": 7})
        assert "malformed" in broken.error.message

    during(watched, run)


def test_two_servers_with_the_same_task_ids_do_not_mix_their_callers(watched: Watched) -> None:
    async def run(session: Session) -> None:
        await session.call(2, "tools/call", CALL | {"name": "add"}, {"task": TASK}, MALLORY)
        assert (await session.call(3, "tasks/get", {"taskId": "t1"}, TASK)).result == TASK
        assert (await session.call(4, "tasks/get", {"taskId": "t1"}, TASK, MALLORY)).result == TASK

    during(watched, run)


def test_a_halted_agent_gets_no_result_also_if_it_has_waited_for_it(watched: Watched) -> None:
    async def run(session: Session) -> None:
        await session.client.request(2, "tasks/result", {"taskId": "t1"})
        await session.upstream.receive()
        watched.engine.halt(reason="it spams", end=timedelta(hours=1), agent="bot")
        await session.upstream.answer(2, DONE)
        assert "it spams" in (await session.client.receive()).error.message
        for number, method in enumerate(("tasks/get", "tasks/result", "tasks/cancel"), 3):
            assert "it spams" in (await session.refused(number, method, {"taskId": "t1"})).message
        assert (await session.call(9, "tasks/list", None, {"tasks": [TASK]})).result == {"tasks": []}

    during(watched, run)


def test_a_policy_that_now_denies_the_call_denies_its_result(watched: Watched) -> None:
    async def run(session: Session) -> None:
        watched.engine = Engine.from_text(POLICY.replace("may TOOL billing/*", "may TOOL billing/add"))
        assert (await session.refused(2, "tasks/result", {"taskId": "t1"})).code == DENIED

    during(watched, run)


def test_a_task_is_decided_for_its_caller_as_it_is_now(watched: Watched) -> None:
    async def run(session: Session) -> None:
        calm, risky = ({**BOT, "context": {"risk": risk}} for risk in (1, 9))
        await session.call(2, "tools/call", {**CALL, "name": "add"}, {"task": {**TASK, "taskId": "t2"}}, calm)
        assert (await session.refused(3, "tasks/result", {"taskId": "t2"}, risky)).message == "denied: a risk of 9"
        assert (await session.call(4, "tasks/result", {"taskId": "t2"}, DONE, calm)).result == DONE

    during(watched, run)


def test_the_call_itself_does_not_keep_its_result_back(watched: Watched) -> None:
    """Its rate is used up."""

    async def run(session: Session) -> None:
        await session.call(2, "tools/call", {**CALL, "name": "once"}, {"task": {**TASK, "taskId": "t2"}})
        assert (await session.call(3, "tasks/result", {"taskId": "t2"}, DONE)).result == DONE

    during(watched, run)


def test_a_task_holds_the_place_of_its_call_until_it_has_finished(watched: Watched) -> None:
    """Otherwise a caller could do at once as much as it wants, in tasks."""

    async def run(session: Session) -> None:
        error = await session.refused(2, "tools/call", CALL)
        assert error.message.startswith("throttled")
        await session.call(3, "tasks/cancel", {"taskId": "t1"}, {**TASK, "status": "cancelled"})
        assert "error" not in (await session.call(4, "tools/call", CALL, {"task": TASK})).model_dump()

    during(watched, run)
    assert [one["status"] for one in watched.reports] == [500]


def test_a_call_in_a_task_still_needs_its_approval(watched: Watched) -> None:
    async def run(session: Session) -> None:
        await session.client.request(2, "tools/call", {**CALL, "name": "refund", "arguments": {"amount": 900}})
        assert (await session.client.receive()).result["isError"] is True
        await session.nothing_reached_the_upstream()

    during(watched, run)


def test_a_task_of_the_extension_carries_its_result_and_asks_only_what_a_policy_allows(watched: Watched) -> None:
    created = {"resultType": "task", **TASK, "taskId": "e1", "ttlMs": 60_000}
    asks = {**created, "resultType": "complete", "status": "input_required", "inputRequests": {
        "pin": {"method": "elicitation/create", "params": {"message": "your PIN?", "requestedSchema": {}}},
    }}  # fmt: skip
    done = {**created, "resultType": "complete", "status": "completed", "result": {**DONE, "isError": True}}

    async def run(session: Session) -> None:
        await session.call(2, "tools/call", {"name": "add"}, created)
        refused = await session.call(3, "tasks/get", {"taskId": "e1"}, asks)
        assert refused.error.code == DENIED
        assert (await session.call(4, "tasks/get", {"taskId": "e1"}, done)).result == done

    during(watched, run)
    assert [one["status"] for one in watched.reports] == [500]


def test_a_change_of_a_task_is_reported_to_its_caller_only(watched: Watched) -> None:
    async def run(session: Session) -> None:
        for id in ("t2", None, 7):
            await session.upstream.notify("notifications/tasks/status", {**TASK, "taskId": id})
        await session.nothing_reached_the_client()
        await session.upstream.notify("notifications/tasks/status", {**TASK, "statusMessage": "half"})
        assert (await session.client.receive()).params["statusMessage"] == "half"
        asks = {"x": {"method": "sampling/createMessage", "params": {"messages": []}}}
        await session.upstream.notify("notifications/tasks", {**TASK, "inputRequests": asks})
        await session.nothing_reached_the_client()
        await session.upstream.notify("notifications/tasks", {**TASK, "status": "completed", "result": DONE})
        assert (await session.client.receive()).params["result"] == DONE

    during(watched, run)
    assert [one["status"] for one in watched.reports] == [200]


def test_progress_of_a_task_passes_until_it_has_finished(watched: Watched) -> None:
    sent = {"progressToken": "p", "progress": 1}

    async def run(session: Session) -> None:
        call = {"name": "add", "_meta": {"progressToken": "p"}}
        await session.call(2, "tools/call", call, {"task": {**TASK, "taskId": "t2"}})
        await session.upstream.notify("notifications/progress", sent)
        assert (await session.client.receive()).params == sent
        await session.call(3, "tasks/result", {"taskId": "t2"}, DONE)
        await session.upstream.notify("notifications/progress", sent)
        await session.nothing_reached_the_client()

    during(watched, run)


def test_a_stream_about_the_task_of_another_caller_is_refused(watched: Watched) -> None:
    async def run(session: Session) -> None:
        wanted = {"notifications": {"taskIds": ["t1"]}}
        assert (await session.refused(2, "subscriptions/listen", wanted, MALLORY)).message == UNKNOWN_TASK
        assert (await session.refused(3, "subscriptions/listen", {"notifications": {"taskIds": 7}})).code
        assert "error" not in (await session.call(4, "subscriptions/listen", wanted, {})).model_dump()

    during(watched, run)


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def test_a_task_ends_by_its_time_limit_and_then_gives_its_place_back(watched: Watched) -> None:
    now = 0.0
    table = TaskTable(clock=lambda: now)
    desk = TaskDesk(watched, table)
    asked = {**BOT, "tool": {"server": "billing", "name": "add"}, "args": {}}

    async def run() -> None:
        nonlocal now
        decision = await watched.decide_async(asked)
        assert await desk.register(asked, {}, decision, {"task": TASK})
        record = desk.find(BOT, "t1")
        assert record is not None
        now = 59.0
        await desk.settle(record, "tasks/get", {**TASK, "ttl": 120_000})
        now = 119.0
        assert desk.find(BOT, "t1") is record
        await desk.settle(record, "tasks/get", {**TASK, "ttl": None})
        now = MAX_TASK_SECONDS - 1
        assert desk.find(BOT, "t1") is record
        now = MAX_TASK_SECONDS
        assert desk.find(BOT, "t1") is None
        await desk.register(asked, {}, decision, {"task": {**TASK, "taskId": "t2"}})

    anyio.run(run)
    assert (len(table), [one["status"] for one in watched.reports]) == (1, [500])


@pytest.mark.parametrize("ttl", [None, True, "60", -1, 1e300, float("nan"), [1]])
def test_an_unusable_time_limit_is_the_longest_one(ttl: object) -> None:
    table = TaskTable(clock=lambda: 0.0)
    owner = task_owner(BOT)
    assert owner is not None
    table.add(TaskKey(owner, "t"), {}, make_denial("x"), None, ttl)
    found = table.find(owner, "t")
    assert found is not None
    assert found.ends == MAX_TASK_SECONDS


def test_a_caller_with_many_tasks_loses_its_own_and_no_others(watched: Watched) -> None:
    table = TaskTable(most=6, most_of_caller=4)
    alice, mallory = task_owner(BOT), task_owner(MALLORY)
    assert alice is not None
    assert mallory is not None
    for number in range(3):
        table.add(TaskKey(alice, f"a{number}"), {}, make_denial("x"), None, None)
    for number in range(20):
        table.add(TaskKey(mallory, f"m{number}"), {}, make_denial("x"), None, None)
        table.remove_surplus()
    assert [table.find(alice, f"a{number}") is not None for number in range(3)] == [True] * 3
    assert (table.find(mallory, "m16"), table.find(mallory, "m19") is not None, len(table)) == (None, True, 6)


@pytest.mark.parametrize(
    ("facts", "result", "args"),
    [
        ({}, {"task": TASK}, {}),
        ({**BOT, "credentials": {"bearer": "x"}}, {"task": TASK}, {}),
        (BOT, {"task": {**TASK, "taskId": 7}}, {}),
        (BOT, {"task": {**TASK, "taskId": "x" * 1_000}}, {}),
        (BOT, {"task": "t1"}, {}),
        (BOT, {"content": []}, {}),
        (BOT, None, {}),
        (BOT, {"task": TASK}, {"x": "x" * MAX_ARGUMENT_CHARACTERS}),
    ],
)
def test_what_nobody_can_own_is_no_known_task(watched: Watched, facts: Any, result: object, args: Any) -> None:
    table = TaskTable()
    asked = {**facts, "tool": {"server": "billing", "name": "add"}, "args": args}
    assert not anyio.run(TaskDesk(watched, table).register, asked, {}, make_denial("x"), result)
    assert len(table) == 0


# ── Inside a server ───────────────────────────────────────────────────────────────────────────


class TaskParams(RequestParams):
    task_id: str


class TaskRequest(Request[TaskParams, str]):
    params: TaskParams


class AnyResult(Result, extra="allow"):
    pass


async def created(*_: Any) -> AnyResult:
    return AnyResult(**{"resultType": "task", **TASK})


async def finished(ctx: Any, params: TaskParams) -> dict[str, Any]:
    return {"resultType": "complete", **TASK, "status": "completed", "taskId": params.task_id, "result": DONE}


class TaskExtension(Extension):
    identifier = "io.modelcontextprotocol/tasks"

    def methods(self) -> Any:
        return [MethodBinding(method="tasks/get", params_type=TaskParams, handler=finished)]

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        return await created()


class FastTasks(ServerExtension):
    identifier = "io.modelcontextprotocol/tasks"

    def methods(self) -> Any:
        return [FastBinding(method="tasks/get", params_type=TaskParams, handler=finished)]

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        return await created()


def server_with_tasks(kind: str, watched: Watched, identify: Any) -> Any:
    if kind == "mcp":
        policy = sdk.PolicyMiddleware(watched, server="billing", identify=identify)
        server: Any = MCPServer("billing", middleware=[policy], extensions=[TaskExtension()])
    else:
        other = of_fastmcp.PolicyMiddleware(watched, server="billing", identify=identify)
        server = fastmcp.FastMCP("billing", middleware=[other])
        server.add_extension(FastTasks())

    @server.tool()
    def export() -> str:
        return "exported"

    return server


@pytest.mark.parametrize("kind", ["mcp", "fastmcp"])
def test_a_middleware_binds_the_tasks_of_its_server_to_their_callers(watched: Watched, kind: str) -> None:
    who = {"caller": BOT}
    server = server_with_tasks(kind, watched, lambda _: who["caller"])

    async def run() -> None:
        async with fastmcp.Client(server) if kind == "fastmcp" else Client(server, mode="2026-07-28") as client:
            asked = TaskRequest(method="tasks/get", params=TaskParams(task_id="t1"))
            with pytest.raises(MCPError, match=UNKNOWN_TASK):
                await client.session.send_request(asked, AnyResult)
            called = Request[dict[str, Any], str](method="tools/call", params={"name": "export", "arguments": {}})
            assert (await client.session.send_request(called, AnyResult)).model_extra["taskId"] == "t1"
            assert watched.reports == []
            who["caller"] = MALLORY
            with pytest.raises(MCPError, match=UNKNOWN_TASK):
                await client.session.send_request(asked, AnyResult)
            who["caller"] = BOT
            assert (await client.session.send_request(asked, AnyResult)).model_extra["result"] == DONE

    asyncio.run(asyncio.wait_for(run(), 60))
    assert [one["status"] for one in watched.reports] == [200]


def test_a_modern_client_uses_its_tasks_through_the_gateway(watched: Watched) -> None:
    """Over HTTP on both sides, with the header that names the task."""
    server = MCPServer("behind", extensions=[TaskExtension()])

    @server.tool()
    def export() -> str:
        return "exported"

    def asked(id: int, method: str, name: str, params: Any) -> dict[str, Any]:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {TaskExtension.identifier: {}}},
        }
        headers = {
            "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28",
            "mcp-method": method, "mcp-name": name,
        }  # fmt: skip
        body = {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}}
        found: dict[str, Any] = httpx.post(f"{url}/mcp", json=body, headers=headers, timeout=20).json()
        return found

    app, named = server.streamable_http_app(), list[tuple[bytes, bytes]]()

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        named.extend(pair for pair in scope.get("headers", ()) if pair == (b"mcp-name", b"t1"))
        await app(scope, receive, send)

    with serving(watch) as upstream:
        gateway = McpGateway(watched, "billing", sdk.always(BOT), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
        with serving(http_app(gateway)) as url:
            assert asked(1, "tasks/get", "t1", {"taskId": "t1"})["error"]["message"] == UNKNOWN_TASK
            call = asked(2, "tools/call", "export", {"name": "export", "arguments": {}})
            assert call["result"]["taskId"] == "t1"
            assert asked(3, "tasks/get", "t1", {"taskId": "t1"})["result"]["result"] == DONE
    assert len(named) == 1
    assert [one["status"] for one in watched.reports] == [200]


def test_a_modern_stream_carries_changes_of_own_tasks_and_log_messages_that_a_policy_allows(watched: Watched) -> None:
    watched.engine = Engine.from_text(POLICY.replace("may TOOL billing/*", "may TOOL billing/*, ACTION log mcp_client"))
    sent: list[tuple[str, Any]] = []

    class Behind:
        """Sends what it was told to, as far as it belongs to the request, and then an answer."""

        def __init__(self) -> None:
            self.messages: list[tuple[str, Any]] = []

        async def find(self) -> Behind:
            return self

        async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
            for method, params in self.messages:
                translated = call.translate(5, method, {**params, "_meta": {SUBSCRIPTION_ID_META_KEY: 5}})
                if translated is not None:
                    await call.notify(method, translated)
            return {"resultType": "task", **TASK} if call.method == "tools/call" else {"resultType": "complete"}

    async def note(method: str, params: dict[str, Any]) -> None:
        sent.append((method, params.get("taskId", params.get("level"))))

    def asked(method: str, params: Any, caller: Any = BOT) -> ModernRequest:
        meta = {"_meta": {LOG_LEVEL_META_KEY: "info"}}
        return ModernRequest(method, {**params, **meta}, 1, Envelope("2026-07-28", None, {}), Told(caller), note)

    async def run() -> None:
        behind = Behind()
        confirms = ConfirmHandler(watched, ConfirmOptions())
        policy = UpstreamPolicyMiddleware(watched, confirms, server="billing", identify=sender, tasks=TaskTable())
        service = StatelessService(policy, behind)  # type: ignore[arg-type]
        behind.messages = [("notifications/message", {"level": "info", "data": "x"})]
        await service.answer(asked("tools/call", {"name": "add"}))
        behind.messages = [("notifications/tasks", {**TASK, "taskId": id}) for id in ("t1", "t2")]
        behind.messages += [("notifications/x", {"": True}), ("notifications/tasks", {**TASK, "inputRequests": 7})]
        wanted = {"notifications": {"taskIds": ["t1"], "": True}}
        await service.answer(asked("subscriptions/listen", wanted))
        with pytest.raises(MCPError, match=UNKNOWN_TASK):
            await service.answer(asked("subscriptions/listen", wanted, MALLORY))
        watched.engine = Engine.from_text(POLICY)
        behind.messages = [("notifications/message", {"level": "error", "data": "x"})]
        await service.answer(asked("tools/call", {"name": "add"}))

    anyio.run(run)
    assert sent == [("notifications/message", "info"), ("notifications/tasks", "t1")]

"""Calls that take the direct way through the gateway over pipes, and what must not take it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import INVALID_REQUEST, JSONRPCNotification, JSONRPCResponse

from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.integrations.enforcement_point import FixedCaller, with_options
from policyengine.integrations.mcp.clients.stateless_stream import StatelessStream
from policyengine.integrations.mcp.methods import DENIED, build_mcp_question
from policyengine.integrations.mcp.notifications import CANCELLED
from policyengine.integrations.mcp.pinned_tools import PinOptions, ToolPins
from policyengine.integrations.mcp.relay import requests as relay_requests
from policyengine.integrations.mcp.relay.direct_calls import (
    CallTimer,
    DirectDecider,
    ToolCall,
    read_call,
    read_usual_answer,
)
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter, OfferedStream
from policyengine.integrations.mcp.relay.requests import RequestTable, UpstreamRequest, cancelled_request
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.stream_upstream import MAX_BACKLOG_BYTES, BacklogRoom, PendingAnswer
from policyengine.runtime.request import read_ordinary_request
from policyengine.runtime.request_template import RequestTemplate
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.tool_pins.pin_file import PinSet
from tests.integrations.approving import CAROL, PEOPLE
from tests.integrations.conftest import BOT, POLICY, Clock
from tests.integrations.era_servers import envelope
from tests.integrations.piped_gateway import CountedEngine, PipedSession, piped_session
from tests.tool_pins.pinning import pin_file, pins_of, tool
from tests.trusting import TRUSTING

ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
INTERNAL_ERROR = -32603


@pytest.fixture
def engine(clock: Clock) -> Engine:
    return Engine.from_text(POLICY, "billing.policy", clock=clock, approvals=TRUSTING)


@dataclass
class Seconds:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    engine: Engine,
    era: str,
    work: Callable[[PipedSession], Awaitable[None]],
    limit: float = 20.0,
    wait: float = 0.0,
) -> CountedEngine:
    """Return the engine of a session, after the session has ended."""

    async def main() -> CountedEngine:
        async with piped_session(engine, era, limit, wait) as session:
            await work(session)
        return session.engine

    return asyncio.run(main())


# ── What takes the direct way ─────────────────────────────────────────────────────────────────


@ERAS
def test_a_usual_call_is_decided_and_answered_without_a_task(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        call = session.call(7, arguments={"a": [1, {"b": "ü"}], "c": None})
        tasks = asyncio.all_tasks()
        await session.client.send(call)
        asked = await session.server.receive()
        assert asked == {**call, "id": asked["id"]}
        assert asyncio.all_tasks() <= tasks
        await session.answer(asked, {"content": [], "structuredContent": {"x": 1}, "isError": False})
        answer = await session.client.receive()
        result = {"content": [], "structuredContent": {"x": 1}, "isError": False}
        assert answer == {"jsonrpc": "2.0", "id": 7, "result": {**result, **marks(era)}}
        assert (session.engine.direct, session.engine.asked, session.engine.reports) == (1, 0, [200])

    run(engine, era, work)


def marks(era: str) -> dict[str, Any]:
    return {"resultType": "complete"} if era == "modern" else {}


@ERAS
def test_calls_in_one_piece_keep_their_order(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        calls = [session.call(number, arguments={"n": number}) for number in range(50)]
        await session.client.send(*calls)
        asked = [await session.server.receive() for _ in calls]
        assert [one["params"]["arguments"]["n"] for one in asked] == list(range(50))
        for one in reversed(asked):
            await session.answer(one)
        assert [(await session.client.receive())["id"] for _ in calls] == list(reversed(range(50)))
        assert (session.engine.direct, session.engine.reports) == (50, [200] * 50)

    run(engine, era, work)


@ERAS
def test_a_denied_call_is_decided_once_and_does_not_reach_the_server(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1, "secret"), session.call(2))
        assert (await session.server.receive())["params"]["name"] == "add"
        answer = await session.client.receive()
        assert (answer["id"], answer["error"]["code"]) == (1, DENIED)
        assert session.engine.direct + session.engine.asked == 2

    run(engine, era, work)


@ERAS
def test_a_call_whose_question_cannot_be_built_is_not_lost(
    clock: Clock, tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = ToolPins(pin_file(tmp_path, pins_of(tool("add"), server="billing")))

    def fail() -> PinSet:
        raise RuntimeError("broken")

    async def main() -> None:
        async with piped_session(Engine.from_text(POLICY, clock=clock), era, pins=pins, tools=[tool("add")]) as session:
            await session.settle()
            monkeypatch.setattr(pins, "read", fail)
            await session.client.send(session.call(1))
            assert (await session.client.receive())["error"]["code"] == INTERNAL_ERROR

    asyncio.run(main())


@ERAS
def test_a_rate_is_spent_once_for_each_direct_call(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        for number in range(2):
            assert "result" in await session.exchange(session.call(number, "busy"))
        await session.client.send(session.call(9, "busy"))
        assert "error" in await session.client.receive()
        assert (session.engine.direct, session.engine.asked) == (3, 0)

    run(engine, era, work)


@ERAS
def test_a_call_that_needs_an_approval_answers_as_before(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1, "refund", {"amount": 600}))
        answer = await session.client.receive()
        assert answer["result"]["structuredContent"]["outcome"] == "confirm"
        assert (session.engine.direct, session.engine.asked) == (1, 0)
        assert "result" in await session.exchange(session.call(1))  # the ID is free again

    run(engine, era, work)


@ERAS
def test_a_direct_call_waits_for_its_approval_while_others_pass(clock: Clock, era: str) -> None:
    engine = Engine.from_text(POLICY, clock=clock, directory=PEOPLE)
    desk = engine.approvals
    assert desk is not None

    async def work(session: PipedSession) -> None:
        for id in (1, 2):
            await session.client.send(session.call(id, "refund", {"amount": 600 + id}))
            while not desk.list():
                await anyio.lowlevel.checkpoint()
            assert "result" in await session.exchange(session.call(f"meanwhile {id}"))
            if id == 1:
                [pending] = desk.list()
                desk.approve(pending.approval.id, CAROL)
                asked = await session.server.receive()
                assert asked["params"]["arguments"] == {"amount": 601}
                await session.answer(asked)
                assert "result" in await session.client.receive()
        await session.client.send(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}, session.call(3)
        )
        asked = await session.server.receive()
        assert asked["params"]["arguments"] == {"a": 1}  # the server has not heard of the call that was cancelled
        await session.answer(asked)
        assert (await session.client.receive())["id"] == 3

    run(engine, era, work, wait=20.0)


@ERAS
def test_a_call_that_passes_only_in_observe_mode_is_sent_and_logged(
    engine: Engine, era: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    engine.observe(Observe(clock.now + timedelta(hours=1)))

    async def work(session: PipedSession) -> None:
        assert "result" in await session.exchange(session.call(1, "secret"))
        assert "result" in await session.exchange(session.call(2))
        assert (session.engine.direct, session.engine.asked) == (2, 0)
        assert session.engine.reports == [200, 200]

    run(engine, era, work)
    assert len([one for one in caplog.records if vars(one).get("event") == "observed"]) == 1


@ERAS
def test_a_pinned_tool_is_called_directly_until_its_server_says_that_tools_changed(
    clock: Clock, tmp_path: Any, era: str
) -> None:
    add, busy = tool("add"), tool("busy")
    file = pin_file(tmp_path, pins_of(add, busy, server="billing"))
    seconds = Seconds()
    pins = ToolPins(file, options=PinOptions(clock=seconds))
    engine = Engine.from_text(f'{POLICY} guard "pinned" on TOOL billing/add {{ require tool.pinned }}', clock=clock)

    async def main() -> None:
        async with piped_session(engine, era, pins=pins, tools=[add, busy]) as session:
            listed = session.listed
            for id in (1, 2):
                assert "result" in await session.exchange(session.call(id))
            assert (session.engine.direct, session.engine.asked, session.listed) == (2, 0, listed)
            session.tools[0] = {**add, "description": "another"}
            await session.server.send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            if era == "legacy":
                assert (await session.client.receive())["method"] == "notifications/tools/list_changed"
            else:
                seconds.now += 100.0
            await session.client.send(session.call(3))
            await session.client.send(session.call(4, "busy"))
            await session.answer(await session.asked())
            answers = {answer["id"]: answer for answer in [await session.client.receive() for _ in range(2)]}
            assert "must be reviewed first" in answers[3]["error"]["message"]
            assert "result" in answers[4]
            assert session.listed > listed

    asyncio.run(main())


@ERAS
def test_a_tool_that_is_not_reviewed_is_reported_when_it_is_called_directly(
    clock: Clock, tmp_path: Path, era: str, caplog: pytest.LogCaptureFixture
) -> None:
    add, busy = tool("add"), tool("busy")
    pins = ToolPins(pin_file(tmp_path, pins_of(add, server="billing")), "decide")

    async def main() -> None:
        async with piped_session(Engine.from_text(POLICY, clock=clock), era, pins=pins, tools=[add, busy]) as session:
            for id in (1, 2):
                assert "result" in await session.exchange(session.call(id, "busy"))
            assert (session.engine.direct, session.engine.asked) == (2, 0)

    asyncio.run(main())
    assert [
        one.getMessage().split(" of ")[0] for one in caplog.records if vars(one).get("event") == "tool_changed"
    ] == ['the tool "busy"']


# ── What does not ─────────────────────────────────────────────────────────────────────────────


def line(params: str, id: str = "1", more: str = "") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{params}}}{more}}}'.encode()


USUAL = '"name":"add","arguments":{"a":1}'


def test_only_lines_that_every_parser_reads_alike_are_calls() -> None:
    call = read_call(line(USUAL))
    assert call is not None
    assert (call.id, call.params) == (1, {"name": "add", "arguments": {"a": 1}})
    assert read_call(line('"name":"add"', '"x"')) is not None
    written = read_call(line(r'"name":"add","arguments":{"text":"a\n\"b\"\\"}'))
    assert written is not None
    assert written.params["arguments"] == {"text": 'a\n"b"\\'}


@pytest.mark.parametrize(
    "content",
    [
        line(USUAL + ',"name":"refund"'),
        line('"name":"add","arguments":{"a":1,"a":2}'),
        line('"name":"add","arguments":{"a":1,"A":2}'),
        line('"name":"add","Name":"refund"'),
        line(r'"name":"add","n\u0061me":"refund"'),
        line(r'"name":"add","arguments":{"a":"\u0000"}'),
        line(r'"name":"add","arguments":{"a":"\ud800"}'),
        line(r'"name":"add","arguments":{"a":"\":","a":1}'),
        line(r'"name":"add","arguments":{"a":1,"\/":2,"/":3}'),
        line(USUAL, more=',"method":"tools/list"'),
        line(USUAL, more=',"params":{"name":"refund"}'),
        line(USUAL, more=',"result":{}'),
        line(USUAL, id='1,"id":2'),
        line(USUAL, id="true"),
        line(USUAL, id="1.0"),
        line(USUAL, id="null"),
        line(USUAL, id="[1]"),
        line(USUAL, id="12345678901234567"),
        line('"name":"add","arguments":{"a":12345678901234567}'),
        line('"name":"add","arguments":{"a":1.5}'),
        line('"name":"add","arguments":{"a":NaN}'),
        line('"name":"add","arguments":{"__proto__":1}'),
        line('"name":"add","arguments":' + "[" * 40 + "]" * 40),
        line('"name":"add","arguments":' + '{"a":' * 9_000 + "1" + "}" * 9_000),
        line('"name":"add","arguments":{"a":"' + "x" * 70_000 + '"}'),
        line('"name":1'),
        line('"arguments":{}'),
        line(USUAL + ',"task":{"ttl":1}'),
        line(USUAL + ',"inputResponses":{}'),
        line(USUAL + ',"requestState":"x"'),
        line(USUAL).replace(b"2.0", b"1.0"),
        line(USUAL).replace(b"tools/call", b"tools/list"),
        line(USUAL).replace(b"add", b"\xff"),
        line(USUAL)[:-1],
        b"[" + line(USUAL) + b"]",
        b"null",
        b"",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}',
    ],
)
def test_other_lines_are_not_usual_calls(content: bytes) -> None:
    assert read_call(content) is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"jsonrpc":"2.0","id":true,"result":{"content":[]}}',
        b'{"jsonrpc":"2.0","id":1.0,"result":{"content":[]}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"result":{"content":[]},"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{}}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"inputRequests":{}}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"1"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"1"}}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"content":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b"no json",
    ],
)
def test_other_lines_are_not_usual_answers(content: bytes) -> None:
    assert read_usual_answer(content) is None
    assert read_usual_answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}') == (1, {"content": []})


@pytest.mark.parametrize(
    "params",
    [
        r'"name":"add","arguments":{"\u0061":1,"a":2}',
        '"name":"add","arguments":{"a":1,"a":2}',
        '"name":"secret","name":"add"',
        '"name":"add","Name":"secret"',
        '"name":"__0123456789abcdef_add"',
    ],
)
def test_an_ambiguous_call_is_not_decided_directly(engine: Engine, params: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(line(params), session.call("marker"))
        asked = await session.server.receive()
        answers = []
        if asked["id"] == 1:  # ambiguous arguments are unknown to the policy, which does not read them
            answers.append(asked["params"]["name"])
            await session.answer(asked)
            asked = await session.server.receive()
        assert (asked["id"], session.engine.direct) == ("marker", 0)
        assert answers in ([], ["add"])

    run(engine, "legacy", work)


def test_a_modern_call_that_wants_log_messages_waits_in_a_task(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        call = session.call(1)
        call["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "debug"
        assert "result" in await session.exchange(call)
        assert (await session.exchange(call))["id"] == 1  # the same envelope, which was accepted
        assert (session.engine.direct, session.engine.asked) == (0, 2)

    run(engine, "modern", work)


@ERAS
@pytest.mark.parametrize("token", [1, "ü", 0])
def test_a_direct_call_gets_its_own_progress_before_its_answer(engine: Engine, era: str, token: Any) -> None:
    async def work(session: PipedSession) -> None:
        calls = [session.call(number) for number in (1, 2)]
        for call in calls:
            call["params"]["_meta"] = {**call["params"].get("_meta", {}), "progressToken": token}
        calls[1]["params"]["_meta"]["progressToken"] = "of another"
        await session.client.send(*calls)
        asked, other = [await session.server.receive() for _ in calls]
        told = {"jsonrpc": "2.0", "method": "notifications/progress"}
        sent_as = asked["params"]["_meta"]["progressToken"]
        for about in ("unknown", True, sent_as):
            await session.server.send({**told, "params": {"progressToken": about, "progress": 1}})
        assert (await session.client.receive())["params"] == {"progressToken": token, "progress": 1}
        await session.answer(asked)
        assert (await session.client.receive())["id"] == 1
        await session.server.send({**told, "params": {"progressToken": sent_as, "progress": 2}})  # it is over
        await session.answer(other)
        assert (await session.client.receive())["id"] == 2
        assert (session.engine.direct, session.engine.asked) == (2, 0)

    run(engine, era, work)


class OpenRequest:
    def cancel(self) -> None:
        raise AssertionError("nobody cancels it")


def test_only_the_envelope_that_was_accepted_is_direct_with_any_usual_progress_token() -> None:
    stream = StatelessStream(None, None, accepted=envelope())  # type: ignore[arg-type]

    def admits(meta: Any, id: Any = 1) -> bool:
        return stream.admits_call(ToolCall(id, {"name": "add", "_meta": meta}, 100))

    assert admits(envelope())
    assert admits({**envelope(), "progressToken": 7})
    for token in ([1], {"a": 1}, True, 1.5, None):
        assert not admits({**envelope(), "progressToken": token})
    assert not admits({**envelope(), "other": 1})
    assert not admits({})
    assert not admits(None)
    stream.open_requests[1] = OpenRequest()
    assert not admits(envelope())
    assert admits(envelope(), "1")
    stream.accepted = None
    assert not admits(envelope(), 2)


def test_the_envelope_of_another_era_is_refused_in_a_session(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        call = session.call(1)
        call["params"]["_meta"] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        await session.client.send(call)
        assert (await session.client.receive())["error"]["data"]["kind"] == "modern_request_in_session"
        assert session.engine.direct == 0

    run(engine, "legacy", work)


def test_another_envelope_is_read_before_its_calls_are_direct(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        call = session.call(1)
        call["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "1999-01-01"
        await session.client.send(call)
        assert "error" in await session.client.receive()
        del call["params"]["_meta"]
        await session.client.send(call)
        assert "error" in await session.client.receive()
        assert (session.engine.direct, session.engine.asked) == (0, 0)

    run(engine, "modern", work)


@ERAS
def test_a_decision_that_may_wait_for_a_store_is_made_in_a_task(era: str, clock: Clock, tmp_path: Any) -> None:
    async def work(session: PipedSession) -> None:
        assert "result" in await session.exchange(session.call(1))
        assert (session.engine.direct, session.engine.asked) == (0, 1)

    store = SqliteStore(tmp_path / "state.db")
    try:
        run(Engine.from_text(POLICY, clock=clock, approvals=TRUSTING, store=store), era, work)
    finally:
        store.close()


def test_a_decision_point_that_cannot_decide_directly_and_an_unknown_caller_are_asked_in_tasks(engine: Engine) -> None:
    params = {"name": "add", "arguments": {}}
    counted = CountedEngine(engine)
    assert DirectDecider(counted, "billing", FixedCaller(BOT)).decide(params, 100) is not None
    assert DirectDecider(engine, "billing", FixedCaller(BOT)).decide(params, 100) is None
    assert DirectDecider(counted, "billing", FixedCaller({"args": {}})).decide(params, 100) is None
    assert DirectDecider(counted, "billing", FixedCaller(BOT)).decide({**params, "arguments": []}, 100) is None


# ── Ends of calls ─────────────────────────────────────────────────────────────────────────────


@ERAS
def test_an_id_in_use_is_refused(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        await session.client.send(session.call(1, arguments={"a": 2}))
        refused = await session.client.receive()
        assert refused["error"]["message"] == "another request in progress has this id"
        await session.answer(asked)
        assert "result" in await session.client.receive()

    run(engine, era, work)


@ERAS
def test_answers_of_others_and_second_answers_are_dropped(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        for id in (str(asked["id"]), asked["id"] + 1, None, True):
            await session.server.send({"jsonrpc": "2.0", "id": id, "result": {"content": ["wrong"]}})
        await session.answer(asked, {"content": ["right"]})
        await session.answer(asked, {"content": ["twice"]})
        assert (await session.client.receive())["result"]["content"] == ["right"]
        assert (await session.exchange(session.call(2)))["id"] == 2
        assert session.engine.reports == [200, 200]

    run(engine, era, work)


def cancellation(id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": CANCELLED, "params": {"requestId": id}}


@ERAS
def test_a_cancelled_call_is_not_answered_and_is_reported(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        await session.client.send(*(cancellation(id) for id in (True, 1.0, "1", None, 1)))
        told = await session.server.receive()
        assert (told["method"], told["params"]["requestId"]) == (CANCELLED, asked["id"])
        await session.answer(asked)
        assert (await session.exchange(session.call(2)))["id"] == 2
        assert session.engine.reports == [500, 200]
        assert (await session.exchange(session.call(1)))["id"] == 1  # the ID is free again

    run(engine, era, work)


PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
HIDDEN = {"tools": [{"name": "hidden", "inputSchema": {}}]}


@pytest.mark.parametrize("is_direct", [False, True])
def test_attack_list_that_arrives_as_the_answer_to_another_request(engine: Engine, is_direct: bool) -> None:
    """The client repeats the ID of a list that it has cancelled, whose answer would be filtered."""

    async def work(session: PipedSession) -> None:
        await session.client.send(LIST, cancellation(7), session.call(7) if is_direct else PING)
        assert [(await session.server.receive())["method"] for _ in range(2)] == ["tools/list", CANCELLED]
        await session.server.send({"jsonrpc": "2.0", "id": 7, "result": HIDDEN})
        answer = await session.client.receive()
        assert (answer["id"], answer["error"]["code"]) == (7, INVALID_REQUEST)
        assert (await session.exchange(session.call(7)))["result"]["content"]  # the server has answered the list

    run(engine, "legacy", work)


def test_attack_late_answer_to_a_call_that_arrives_as_the_answer_to_another(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        assert "did not answer" in (await session.client.receive())["error"]["message"]
        assert (await session.server.receive())["method"] == CANCELLED
        await session.client.send(session.call(1, arguments={"a": 2}))
        assert (await session.client.receive())["error"]["code"] == INVALID_REQUEST
        await session.answer(asked)
        await session.settle()
        await session.client.send(session.call(1, arguments={"a": 2}))
        assert (await session.server.receive())["params"]["arguments"] == {"a": 2}

    run(engine, "legacy", work, limit=0.5)  # also of the first calls, which are answered


def test_a_request_that_was_answered_before_it_was_cancelled_frees_its_id() -> None:
    async def main() -> None:
        table = RequestTable()
        table.waiting[1] = UpstreamRequest(None)
        table.take_answer(JSONRPCResponse(jsonrpc="2.0", id=1, result={}))
        table.drop(1)
        del table.waiting[1]
        assert table.is_free(1)

    asyncio.run(main())


def test_only_so_many_requests_without_an_answer_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_requests, "MAX_ABANDONED", 2)
    table = RequestTable()
    for id in (1, "1", -1):
        table.abandon(id)
    assert [table.is_free(id) for id in (1, "1", -1, -2)] == [True, False, False, True]


def test_a_long_id_is_remembered_by_its_digest() -> None:
    table, long = RequestTable(), "x" * 100_000
    table.abandon(long)
    assert sum(map(len, table._abandoned)) < 100  # type: ignore[arg-type]
    assert not table.is_free(long)
    table.take_answer(JSONRPCResponse(jsonrpc="2.0", id=long, result={}))
    assert table.is_free(long)


@ERAS
def test_a_call_without_an_answer_ends_in_time(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        answer = await session.client.receive()
        assert (answer["id"], answer["error"]["code"]) == (1, INTERNAL_ERROR)
        assert "did not answer within" in answer["error"]["message"]
        told = await session.server.receive()
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", asked["id"])
        await session.answer(asked)
        assert (await session.exchange(session.call(1)))["id"] == 1
        assert session.engine.reports == [500, 200]

    run(engine, era, work, 0.3)


@ERAS
def test_an_error_of_the_server_is_passed_on(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        error = {"code": -32042, "message": "no", "data": {"x": 1}}
        await session.server.send({"jsonrpc": "2.0", "id": asked["id"], "error": error})
        assert (await session.client.receive()) == {"jsonrpc": "2.0", "id": 1, "error": error}
        assert "result" in await session.exchange(session.call(2), {"content": [], "isError": True})
        assert session.engine.reports == [500, 500]
        assert (session.engine.direct, session.engine.asked) == (2, 0)

    run(engine, era, work)


@ERAS
def test_a_server_that_ends_ends_its_calls(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1), session.call(2))
        for _ in range(2):
            await session.server.receive()
        session.server.sink.close()
        for _ in range(2):
            assert "has ended" in (await session.client.receive())["error"]["message"]
        assert session.engine.reports == [500, 500]

    run(engine, era, work)


@ERAS
def test_the_calls_of_a_client_that_leaves_are_reported(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1), session.call(2))
        for _ in range(2):
            await session.server.receive()

    assert run(engine, era, work).reports == [500, 500]


@ERAS
def test_an_answer_in_pieces_is_passed_on(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        await session.client.send(session.call(1))
        asked = await session.server.receive()
        result = {"content": [{"type": "text", "text": "x" * 300_000}], "structuredContent": {"x": 1}}
        await session.answer(asked, result)
        assert (await session.client.receive())["result"] == {**result, **marks(era)}
        assert session.engine.reports == [200]

    run(engine, era, work)


@ERAS
def test_large_numbers_in_a_result_are_passed_on(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        large = {"content": [], "structuredContent": {"x": 2**70}}
        answer = await session.exchange(session.call(1), large)
        assert answer["result"]["structuredContent"]["x"] == pytest.approx(2**70)
        assert session.engine.reports == [200]

    run(engine, era, work)


@ERAS
def test_a_decision_that_fails_unexpectedly_denies_the_call(
    engine: Engine, era: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(session: PipedSession) -> None:
        session.engine.broken = RuntimeError("the disk is on fire")
        await session.client.send(session.call(1))
        answer = await session.client.receive()
        assert "the decision failed" in answer["error"]["message"]
        session.engine.broken = None
        assert (await session.exchange(session.call(2)))["id"] == 2

    run(engine, era, work)
    assert "the disk is on fire" in caplog.text


def test_a_modern_result_that_asks_for_input_gets_a_state_bound_to_its_caller(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        asking = {"resultType": "input_required", "requestState": "of the server"}
        answer = await session.exchange(session.call(1), asking)
        state = answer["result"]["requestState"]
        assert state != "of the server"
        assert (session.engine.direct, session.engine.asked, session.engine.reports) == (1, 0, [202])
        await session.client.send(session.call(2, requestState=state))
        asked = await session.server.receive()
        assert asked["params"]["requestState"] == "of the server"
        await session.answer(asked)
        assert "result" in await session.client.receive()

    run(engine, "modern", work)


@ERAS
def test_questions_in_a_result_of_a_direct_call_are_decided(engine: Engine, era: str) -> None:
    async def work(session: PipedSession) -> None:
        sampling = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
        answer = await session.exchange(
            session.call(1), {"resultType": "input_required", "inputRequests": {"a": sampling}}
        )
        assert answer["error"]["code"] == DENIED
        assert (session.engine.direct, session.engine.reports[-1]) == (1, 500)

    run(engine, era, work)


def test_a_task_of_a_direct_call_belongs_to_its_caller(engine: Engine) -> None:
    async def work(session: PipedSession) -> None:
        answer = await session.exchange(session.call(1), {"task": {"taskId": "t", "status": "working"}})
        assert answer["result"]["task"]["taskId"] == "t"
        assert (session.engine.direct, session.engine.reports) == (1, [])
        await session.client.send({"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"taskId": "t"}})
        assert (await session.server.receive())["method"] == "tasks/get"

    run(engine, "legacy", work)


def test_true_is_not_the_request_1_that_a_notification_cancels() -> None:
    for id in (True, 1.0, None, [1]):
        signal = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": id})
        assert cancelled_request(signal) is None
    signal = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": 1})
    assert cancelled_request(signal) == 1


# ── Parts ─────────────────────────────────────────────────────────────────────────────────────


def test_a_lane_gets_whole_lines_in_their_order_and_only_while_no_message_is_being_handled() -> None:
    async def work() -> None:
        stream, taken = OfferedStream(), list[bytes]()
        reader = LineReader(stream, 1_000)

        def take(line: bytes) -> bool:
            taken.append(line)
            return not line.startswith(b"{")

        async def receive() -> Any:
            item: Any = await reader.receive()
            return item.message.method

        reader.lane = take
        stream.feed_data(b"too early\n")
        assert taken == []  # nobody reads
        assert isinstance(await reader.receive(), Exception)
        receiving = asyncio.create_task(receive())
        await anyio.wait_all_tasks_blocked()
        stream.feed_data(b"a\nb\n")
        stream.feed_data(b"c\n" + message("d") + b"\ne\n")
        stream.feed_data(b"f\n")  # `d` has not been received
        assert taken == [b"a", b"b", b"c", message("d")]
        assert await receiving == "d"
        for _ in "ef":
            assert isinstance(await reader.receive(), Exception)
        receiving = asyncio.create_task(receive())
        await anyio.wait_all_tasks_blocked()
        stream.feed_data(message("g")[:9])
        stream.feed_data(message("g")[9:] + b"\n")  # a line in pieces is a message
        assert await receiving == "g"
        assert len(taken) == 4

    asyncio.run(work())


def message(method: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method}).encode()


def test_a_writer_is_not_free_while_its_reader_has_stopped_to_read() -> None:
    class Full:
        is_closed = False

        def is_closing(self) -> bool:
            return self.is_closed

        def get_write_buffer_size(self) -> int:
            return 1 << 20

        def close(self) -> None:
            self.is_closed = True

    async def work() -> None:
        sink = asyncio.StreamWriter(Full(), None, None, asyncio.get_running_loop())  # type: ignore[arg-type]
        assert not LineWriter(sink).is_free
        sink.close()

    asyncio.run(work())


def test_one_timer_ends_calls_in_their_order() -> None:
    ended: list[str] = []

    class Timed:
        def __init__(self, name: str) -> None:
            self.name = name

        def time_out(self) -> None:
            ended.append(self.name)

    async def work() -> None:
        timer, calls = CallTimer(0.01), [Timed(name) for name in "abc"]
        for call in calls:
            timer.start(call)
        timer.stop(calls[1])
        timer.stop(calls[1])
        with anyio.fail_after(60):
            while len(ended) < 2:
                await anyio.lowlevel.checkpoint()
        timer.start(calls[1])
        timer.close()

    asyncio.run(work())
    assert ended == ["a", "c"]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"a": 1, "b": [1, "x", {"c": None}], "d": True},
        {"a": "ü", "b": {"c": {"d": [[]]}}},
        {"ü": 1},
        {"a": 2**80},
        {"a": 1.5},
        [],
        None,
        "x",
        {"a": {1: 2}},
    ],
)
def test_a_template_makes_the_request_that_would_be_read(arguments: object) -> None:
    question = with_options(build_mcp_question("tools/call", {"name": "add", "arguments": {}}, "billing", BOT))
    template = RequestTemplate.of(question)
    assert template is not None
    whole = read_ordinary_request({**question, "args": arguments}) if arguments is not None else None
    for _ in range(2):
        made = template.fill(arguments)
        assert made == (whole if type(arguments) is dict else None)
        assert made is None or whole is None or list(made.facts) == list(whole.facts)


def test_a_question_that_is_not_ordinary_has_no_template() -> None:
    for name in ("", "ü", None):
        question = build_mcp_question("tools/call", {"name": name}, "billing", BOT)
        assert RequestTemplate.of(with_options(question)) is None
    assert RequestTemplate.of({"tool": {"server": "a", "name": "b"}, "strange": {}}) is None


# ── Notifications that wait for slow clients ──────────────────────────────────────────────────


async def accept_nothing(method: str, params: dict[str, Any]) -> None:
    await anyio.sleep_forever()


def test_the_bytes_of_waiting_notifications_are_bounded_for_each_request_and_together() -> None:
    async def work() -> None:
        room = BacklogRoom(3 * MAX_BACKLOG_BYTES)
        meta = {"_meta": {"progressToken": "mine"}}
        pending = [
            PendingAnswer(UpstreamCall("tools/call", meta, notify=accept_nothing), number, room) for number in range(9)
        ]
        for one in pending:
            for _ in range(20):
                one.add("notifications/progress", {"progressToken": one.id, "message": "x" * (MAX_BACKLOG_BYTES // 4)})
        assert 2 * MAX_BACKLOG_BYTES < room.taken <= 3 * MAX_BACKLOG_BYTES
        for one in pending:
            one.drop_backlog()
        assert room.taken == 0
        large = {"progressToken": 0, "message": "x" * (2 * MAX_BACKLOG_BYTES)}
        pending[0].add("notifications/progress", large)  # one may be larger
        pending[0].add("notifications/progress", {"progressToken": 0})
        assert 2 * MAX_BACKLOG_BYTES < room.taken < 2 * MAX_BACKLOG_BYTES + 200

    asyncio.run(work())

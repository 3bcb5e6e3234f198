"""Requests in tasks of their own, waits without scopes, and the way from a relay to a server over pipes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCResponse

from policyengine.engine import Engine
from policyengine.integrations.enforcement_point import (
    FixedCaller,
    check_facts,
    decide_and_meet,
    identify_caller,
    report_outcome,
)
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter
from policyengine.integrations.mcp.relay.request_tasks import AnswerWait, RequestStart, RequestTasks
from policyengine.integrations.mcp.upstream.session_upstream import SessionPort, pump_lines, pump_until_empty
from tests.integrations.conftest import BOT, POLICY


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(60):
            await work()

    asyncio.run(bounded())


def test_cancelled_requests_end_before_their_client_does_and_still_report() -> None:
    reported: list[str] = []

    async def work() -> None:
        tasks, begun = RequestTasks(), anyio.Event()

        async def answer(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    begun.set()
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                        reported.append("outcome")

        async def begin_late(scope: anyio.CancelScope) -> None:
            with scope:
                await anyio.sleep_forever()

        tasks.start(answer)
        await begun.wait()
        tasks.start(begin_late)
        await tasks.cancel()
        await tasks.cancel()
        assert len(asyncio.all_tasks()) == 1

    run(work)
    assert reported == ["outcome"]


def test_a_request_in_the_task_of_its_caller_is_cancelled_without_this_task() -> None:
    continued: list[str] = []

    async def work() -> None:
        tasks, begun = RequestTasks(), anyio.Event()

        async def answer(scope: anyio.CancelScope) -> None:
            with scope:
                begun.set()
                await anyio.sleep_forever()

        async def carry() -> None:
            await tasks.run(answer)
            continued.append("caller")

        carrier = asyncio.create_task(carry())
        await begun.wait()
        await tasks.cancel()
        await carrier

    run(work)
    assert continued == ["caller"]


def test_one_request_is_cancelled_by_its_scope() -> None:
    async def work() -> None:
        tasks, ended = RequestTasks(), anyio.Event()

        async def answer(scope: anyio.CancelScope) -> None:
            with scope:
                await anyio.sleep_forever()
            ended.set()

        scope = tasks.start(answer)
        scope.cancel()
        await ended.wait()

    run(work)


def test_a_wait_ends_with_the_first_answer_or_after_its_limit() -> None:
    async def work() -> None:
        answered, late = AnswerWait(), AnswerWait()
        answered.end()
        answered.end(in_time=False)
        assert await answered.wait(10)
        assert not await late.wait(0.001)
        assert late.is_over
        late.end()
        start = RequestStart()
        start.started()
        start.started()
        await start.wait()

    run(work)


class Recorder:
    """The transport of a writer, which keeps what was written."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.lines.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 0


def signal(method: str) -> SessionMessage:
    return SessionMessage(JSONRPCNotification(jsonrpc="2.0", method=method))


def test_messages_to_a_server_keep_their_order_when_the_direct_way_opens() -> None:
    async def work() -> None:
        transport = Recorder()
        writer = LineWriter(asyncio.StreamWriter(transport, None, None, asyncio.get_running_loop()))  # type: ignore[arg-type]
        to_upstream, outgoing = anyio.create_memory_object_stream[SessionMessage]()
        port = SessionPort(to_upstream)
        async with to_upstream, outgoing, anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(port.send, signal(name))
            await anyio.wait_all_tasks_blocked()
            await pump_until_empty(outgoing, writer, port)
            await port.send(signal("d"))
        transport.close()
        assert [line[-4:-3] for line in transport.lines] == [b"a", b"b", b"c", b"d"]

    run(work)


def test_messages_of_a_server_keep_their_order_when_the_direct_way_opens() -> None:
    taken: list[str] = []

    async def work() -> None:
        stream = asyncio.StreamReader()
        for name in "abcd":
            stream.feed_data(b'{"jsonrpc": "2.0", "method": "%b"}\n' % name.encode())
        incoming, to_relay = anyio.create_memory_object_stream[SessionMessage | Exception]()
        to_upstream, outgoing = anyio.create_memory_object_stream[SessionMessage]()
        at_end = anyio.Event()

        async def pass_on(message: Any) -> None:
            taken.append(f"direct {message.method}")
            if message.method == "f":
                at_end.set()

        async def relay() -> None:
            with suppress(anyio.EndOfStream):
                while True:
                    item: Any = await to_relay.receive()
                    await anyio.lowlevel.checkpoint()  # the next message arrives meanwhile
                    taken.append(item.message.method)

        port = SessionPort(to_upstream, pass_on=pass_on)
        async with to_upstream, outgoing, to_relay, anyio.create_task_group() as group:
            group.start_soon(pump_lines, LineReader(stream, 1_000), incoming, port)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(relay)
            await anyio.wait_all_tasks_blocked()
            stream.feed_data(b'{"jsonrpc": "2.0", "method": "e"}\n{"jsonrpc": "2.0", "method": "f"}\n')
            await at_end.wait()
            stream.feed_eof()
            await incoming.aclose()

    run(work)
    assert [one[-1] for one in taken] == list("abcdef")
    assert taken[0] == "a"
    assert taken[-2:] == ["direct e", "direct f"]


def test_a_fixed_caller_is_checked_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        facts = {"agent": {"id": "bot"}}
        caller = FixedCaller(facts)
        found = await identify_caller(caller, None)
        facts["agent"] = {"id": "other"}
        assert found == check_facts({"agent": {"id": "bot"}})
        assert await identify_caller(caller, None) is found
        assert await identify_caller(FixedCaller({"args": {}}), None) is None
        assert await identify_caller(FixedCaller({}), None) == {}

    with caplog.at_level(logging.ERROR):
        run(work)
    assert "`args` is not a fact about the caller" in caplog.text


def test_an_outcome_is_reported_at_once_if_the_store_is_in_memory() -> None:
    engine = Engine.from_text(POLICY)
    reports: list[tuple[str, int | None]] = []

    class Reporting:
        """An engine whose reports are listed."""

        reports_at_once = True
        decide_async, evaluate_async = engine.decide_async, engine.evaluate_async

        def report(self, decision: str, *, status: int | None = None, **more: Any) -> bool:
            if more["output"] is not None:
                raise ValueError("the output is malformed")
            reports.append((decision, status))
            return True

        async def report_async(self, decision: str, **more: Any) -> bool:
            raise AssertionError("the store is in memory")

    async def work() -> None:
        decides = Reporting()
        decision = await decide_and_meet(decides, {**BOT, "tool": {"server": "billing", "name": "add"}, "args": {}})
        with anyio.CancelScope() as scope:
            scope.cancel()
            await report_outcome(decides, decision, 200, None, {"x": 1})
        assert reports == [(decision.id, 200)]

    assert engine.reports_at_once
    run(work)


def test_a_response_is_encoded_with_the_id_of_its_request() -> None:
    async def work() -> None:
        transport = Recorder()
        writer = LineWriter(asyncio.StreamWriter(transport, None, None, asyncio.get_running_loop()))  # type: ignore[arg-type]
        await writer.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id="7", result={})))
        transport.close()
        assert transport.lines == [b'{"jsonrpc":"2.0","id":"7","result":{}}\n']

    run(work)

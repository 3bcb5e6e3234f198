"""Messages over pipes: lines of any size, in any pieces, and commands that do not want to end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest

from policyengine.integrations.mcp.relay import line_streams
from policyengine.integrations.mcp.relay.line_streams import (
    EndingCommands,
    LineReader,
    LineWriter,
    OversizedLineError,
    command_streams,
    has_members,
)
from policyengine.integrations.mcp.relay.pipe_file import PipeFile
from policyengine.integrations.mcp.unambiguous_messages import get_raw_message
from tests.processes import is_running, wait_until

# Starts a child that ignores the end of its input and SIGTERM, and says its number and that of its child.
PARENT = """
import os, subprocess, sys
STUBBORN_CHILD = '''
import os, signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"jsonrpc": "2.0", "method": "%d"}' % os.getpid(), flush=True)
threading.Event().wait()
'''
print('{"jsonrpc": "2.0", "method": "%d"}' % os.getpid(), flush=True)
child = subprocess.Popen([sys.executable, "-c", STUBBORN_CHILD], stdin=subprocess.DEVNULL)
"""
GENTLE = "signal.signal(signal.SIGTERM, lambda *_: (open(os.environ['ENDED'], 'w').close(), os._exit(0)))"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def line(**more: Any) -> bytes:
    return json.dumps({**PING, **more}).encode() + b"\n"


def read(chunks: list[bytes], limit: int = 1_000, **options: Any) -> list[Any]:
    """Return what a reader makes of a stream that comes in these pieces."""

    async def work() -> list[Any]:
        stream = asyncio.StreamReader()
        reader = LineReader(stream, limit, **options)
        found = []
        for chunk in chunks:
            stream.feed_data(chunk)
            with anyio.move_on_after(0.01):
                while True:
                    found.append(await reader.receive())
        stream.feed_eof()
        with pytest.raises(anyio.EndOfStream):
            await reader.receive()
        return found

    return asyncio.run(work())


def kinds(found: list[Any]) -> list[str]:
    return [one.message.method if isinstance(one, SessionMessage) else type(one).__name__ for one in found]


def test_lines_are_put_together_from_any_pieces() -> None:
    content = line() + line(method="a") + line(method="b")
    for size in (7, 61, len(content)):
        assert kinds(read([content[at : at + size] for at in range(0, len(content), size)])) == ["ping", "a", "b"]


def test_an_oversized_line_is_dropped_and_the_next_is_read() -> None:
    large = line(params={"x": "a" * 2_000})
    for chunks in ([large + line()], [large[:500], large[500:1_500], large[1_500:] + line()]):
        found = read(chunks)
        assert kinds(found)[-1] == "ping"
        assert all(isinstance(one, OversizedLineError) for one in found[:-1])
    assert kinds(read([b"a" * 900] * 5)) == ["OversizedLineError"]  # nothing more is kept of it


def test_what_is_no_message_is_an_error_and_not_the_end() -> None:
    deep = b'{"a":' * 10_000 + b"\n"
    assert kinds(read([b"no json\n\n\xff\n" + line()])) == ["ValidationError", "ValidationError", "ping"]
    assert kinds(read([deep + line()], limit=100_000)) == ["ValidationError", "ping"]
    assert kinds(read([line()[:-1]])) == []  # a message ends with its line


def test_a_message_carries_its_line_as_its_sender_wrote_it() -> None:
    raw = b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "id": 1}'
    [item] = read([raw + b"\n"], keeps_lines=True)
    assert get_raw_message(item.metadata.request_context) == raw.decode()
    [item] = read([raw + b"\n"])
    assert item.metadata is None


ECHO = """
import sys
for line in sys.stdin:
    print(line, end="", flush=True)
"""
STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
print('{"jsonrpc": "2.0", "method": "%d"}' % os.getpid(), flush=True)
while True:
    signal.pause()
"""


def test_a_command_gets_messages_and_only_the_environment_that_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", "1")
    program = (
        "import os, sys; sys.stdin.readline(); "
        'print(\'{"jsonrpc": "2.0", "method": "%s"}\' % ",".join(sorted(os.environ)), flush=True)'
    )

    async def work() -> None:
        async with command_streams([sys.executable, "-c", ECHO], {}) as (reader, writer):
            await writer.send(SessionMessage(JSONRPCRequest(**PING)))
            assert kinds([await reader.receive()]) == ["ping"]
        async with command_streams([sys.executable, "-c", program], {"OWN": "1"}) as (reader, writer):
            await writer.send(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="a")))
            item = await reader.receive()
            names = kinds([item])[0].split(",")
            assert "OWN" in names
            assert "SECRET_OF_THE_GATEWAY" not in names
            with pytest.raises(anyio.EndOfStream):
                await reader.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await send_forever(writer)

    asyncio.run(asyncio.wait_for(work(), 60))


async def send_forever(writer: LineWriter) -> None:
    while True:
        await writer.send(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="a" * 10_000)))


def test_a_command_that_does_not_end_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_streams, "END_SECONDS", 0.05)

    async def work() -> list[int]:
        async with command_streams([sys.executable, "-c", STUBBORN], {}) as (reader, _):
            return [int(kinds([await reader.receive()])[0]) for _ in range(2)]

    pids = asyncio.run(asyncio.wait_for(work(), 60))
    assert len(set(pids)) == 2
    wait_until(lambda: not any(is_running(pid) for pid in pids))


@pytest.mark.parametrize("leader", ["ends with its input", "ends on SIGTERM"])
def test_children_that_outlive_a_command_are_killed(monkeypatch: pytest.MonkeyPatch, leader: str) -> None:
    monkeypatch.setattr(line_streams, "END_SECONDS", 0.05)
    program = PARENT + ("sys.stdin.read()" if leader == "ends with its input" else "child.wait()")

    async def work() -> list[int]:
        async with command_streams([sys.executable, "-c", program], {}) as (reader, _):
            return [int(kinds([await reader.receive()])[0]) for _ in range(2)]

    pids = asyncio.run(asyncio.wait_for(work(), 20))
    assert len(set(pids)) == 2
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_child_that_outlives_a_command_can_end_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(line_streams, "END_SECONDS", 1.0)
    program = PARENT.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", GENTLE) + "sys.stdin.read()"
    ended = tmp_path / "ended"

    async def work() -> None:
        async with command_streams([sys.executable, "-c", program], {"ENDED": str(ended)}) as (reader, _):
            for _ in range(2):
                await reader.receive()

    asyncio.run(asyncio.wait_for(work(), 20))
    assert ended.exists()


def test_a_number_that_another_process_has_got_is_no_group_that_is_left() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        os.killpg(process.pid, 0)  # it leads a group
        assert not has_members(process.pid)
    assert not has_members(process.pid)


def test_a_group_whose_leader_has_ended_can_have_members() -> None:
    reads = "import sys; sys.stdin.read()"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{reads}'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(20) == 0
        assert has_members(process.pid)


@pytest.mark.parametrize("steps", range(5))
def test_a_command_that_is_given_up_while_it_starts_closes_no_file_of_others(tmp_path: Path, steps: int) -> None:
    pytest.importorskip("uvloop")

    async def use() -> None:
        async with command_streams([sys.executable, "-c", "input()"], {}):
            await anyio.sleep_forever()

    async def work() -> None:
        gc.collect(1)  # nothing of other tests is closed meanwhile
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        opened = [os.open(tmp_path, os.O_RDONLY) for _ in range(8)]
        gc.collect(1)
        await anyio.sleep(0)
        for number in opened:
            os.close(number)  # raises an error if somebody else has closed it

    anyio.run(work, backend_options={"use_uvloop": True})


def test_a_command_starts_only_when_enough_earlier_ones_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_streams, "END_SECONDS", 0.2)
    ending = EndingCommands()

    async def work() -> None:
        async with anyio.create_task_group() as group:
            earlier = await group.start(begin_and_end)
            while not ending.count:
                await anyio.sleep(0)
            async with command_streams([sys.executable, "-c", "input()"], {}, ending, 1):
                assert not is_running(earlier)
        assert ending.count == 0

    async def begin_and_end(*, task_status: TaskStatus[int]) -> None:
        async with command_streams([sys.executable, "-c", STUBBORN], {}, ending, 1) as (reader, _):
            task_status.started(int(kinds([await reader.receive()])[0]))

    asyncio.run(asyncio.wait_for(work(), 60))


def test_the_file_of_a_pipe_closes_no_file_that_has_its_number() -> None:
    (reader, writer), (other, its_end) = os.pipe(), os.pipe()
    file = PipeFile(reader, "rb")
    os.close(reader)  # as uvloop does
    os.dup2(other, reader)
    file.close()
    for number in (reader, other, its_end):
        os.close(number)
    with PipeFile(writer, "wb"):
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(writer)

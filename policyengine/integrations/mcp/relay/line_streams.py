"""MCP over pipes, one message in each line: the gateway's own standard streams, and those of an upstream command.

Pipes are read and written on the event loop, without the threads that files need.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import IO, SupportsIndex, TypeAlias

import anyio
from msgspec import DecodeError
from msgspec.json import decode, encode

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.relay.direct_calls import MAX_USUAL_PARTS, REQUEST_MEMBERS, RESPONSE_MEMBERS
from policyengine.integrations.mcp.relay.pipe_file import PipeFile
from policyengine.integrations.mcp.unambiguous_messages import StdioRequest

try:
    from mcp.client.stdio import get_default_environment
    from mcp.shared.message import ServerMessageMetadata, SessionMessage
    from mcp_types.jsonrpc import JSONRPCMessage, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter
    from pydantic import ValidationError
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_CLIENT_LINE = 4 * 1024 * 1024  # bytes
MAX_SERVER_LINE = 16 * 1024 * 1024
CHUNK_BYTES = 1 << 16
MAX_DIRECT_BACKLOG = 1 << 16  # bytes that a writer may hold when a line is written without waiting
END_SECONDS = 2.0  # a command has to end after its input has ended, and again after SIGTERM
KILL_SECONDS = 10.0  # a killed command ends once the machine has time for it
MAX_ENDING = 100  # commands that have not ended yet
POLL_SECONDS = 0.02  # between two looks at the processes that a command has left


class OversizedLineError(Exception):
    """The error for a line that is too long. It is dropped."""


Lane: TypeAlias = Callable[[bytes], bool]


class OfferedStream(asyncio.StreamReader):
    """A stream that offers its bytes to `take` as they arrive; `take` returns those that wait for the next read."""

    take: Callable[[bytes], bytes] | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        rest = data if self.take is None else self.take(bytes(data))
        if rest:
            super().feed_data(rest)


class LineReader:
    """Messages from a pipe. With `keeps_lines`, each message carries its line, as its sender wrote it.

    A `lane` gets each line first, as soon as it arrives and while no message before it is being handled; it returns
    whether it has handled the line. Other lines are received as messages, in their order.
    """

    def __init__(self, stream: asyncio.StreamReader, limit: int, *, keeps_lines: bool = False) -> None:
        self._stream, self._limit, self._keeps_lines = stream, limit, keeps_lines
        self.lane: Lane | None = None
        self._is_idle = False
        if isinstance(stream, OfferedStream):
            stream.take = self._take
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._size = 0
        self._is_dropping = False

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message, or the error for a line without a message. Raises EndOfStream."""
        while not self._lines:
            chunk = await self._read()
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._end_line(line)
            self._add(rest)
            if self._is_dropping and self._size > self._limit:
                self._size = 0
                return OversizedLineError(f"a line has more than {self._limit} bytes")
        return self._parse(self._lines.popleft())

    def _take(self, data: bytes) -> bytes:
        """Give lines to the lane while it handles them. Return the bytes after them."""
        start = 0
        while self.lane is not None and self._is_idle:
            end = data.find(b"\n", start)
            if end < 0 or end - start > self._limit or not self.lane(data[start:end]):
                break
            start = end + 1
        rest = data[start:] if start else data
        self._is_idle = self._is_idle and not rest
        return rest

    async def _read(self) -> bytes:
        self._is_idle = not self._rest and not self._is_dropping
        try:
            chunk = await self._stream.read(CHUNK_BYTES)
        except OSError:
            chunk = b""
        finally:
            self._is_idle = False
        if not chunk:
            raise anyio.EndOfStream
        return chunk

    def _add(self, part: bytes) -> None:
        if self._is_dropping or not part:
            return
        self._size += len(part)
        self._rest.append(part)
        if self._size > self._limit:
            self._rest, self._is_dropping = [], True

    def _end_line(self, line: bytes) -> None:
        self._add(line)
        if not self._is_dropping and self._rest:
            self._lines.append(b"".join(self._rest))
        self._rest, self._size, self._is_dropping = [], 0, False

    def _parse(self, line: bytes) -> SessionMessage | Exception:
        try:
            message = parse_message_line(line)
        except ValueError as error:
            return error
        if not self._keeps_lines:
            return SessionMessage(message)
        raw = line.decode("utf-8", "replace")
        return SessionMessage(message, ServerMessageMetadata(request_context=StdioRequest(raw)))


def parse_message_line(line: bytes) -> JSONRPCMessage:
    """Return the message in a line. Raises ValueError.

    The usual requests and answers are read without trying all kinds of messages, with the same result.
    """
    if line.count(b"[") + line.count(b"{") > MAX_USUAL_PARTS:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    with suppress(DecodeError, RecursionError, UnicodeError, ValidationError):
        members = decode(line)
        if type(members) is dict:
            names = members.keys()
            if names == RESPONSE_MEMBERS:
                return JSONRPCResponse(**members)
            if names == REQUEST_MEMBERS:
                return JSONRPCRequest(**members)
    return jsonrpc_message_adapter.validate_json(line, by_name=False)


class LineWriter:
    """Messages to a pipe."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    @property
    def is_free(self) -> bool:
        """Whether a line can be written without waiting."""
        transport = self._stream.transport
        return not transport.is_closing() and transport.get_write_buffer_size() <= MAX_DIRECT_BACKLOG

    def write(self, line: bytes) -> None:
        """Write a line, for callers that have asked `is_free`. A reader that has left does not raise an error."""
        self._stream.write(line + b"\n")

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message. Nothing piles up for a reader that has stopped reading. Raises BrokenResourceError."""
        line = encode_message(item.message)
        transport = self._stream.transport
        try:
            if transport.get_write_buffer_size():
                await self._stream.drain()
            self._stream.write(line + b"\n")
            if transport.is_closing() or transport.get_write_buffer_size():
                await self._stream.drain()
        except (OSError, RuntimeError):
            raise anyio.BrokenResourceError from None


def encode_message(message: JSONRPCMessage) -> bytes:
    """Return the JSON of a message."""
    try:
        if type(message) is JSONRPCResponse:
            return encode({"jsonrpc": "2.0", "id": message.id, "result": message.result})
        if type(message) is JSONRPCRequest and message.params is not None:
            return encode({"jsonrpc": "2.0", "id": message.id, "method": message.method, "params": message.params})
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # values that only the SDK encodes
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode()


# ── The gateway's own streams ─────────────────────────────────────────────────────────────────


def has_pipes() -> bool:
    """Return whether the standard streams are pipes or sockets, as clients of MCP open them."""
    try:
        modes = [os.fstat(number).st_mode for number in (0, 1)]
    except OSError:
        return False
    return sys.platform != "win32" and all(stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) for mode in modes)


@asynccontextmanager
async def own_streams() -> AsyncIterator[tuple[LineReader, LineWriter]]:
    """Open the messages of the client. Text that other code prints during the block goes to stderr."""
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        files = open(0, "rb", closefd=False), open(output, "wb", 0, closefd=False)  # noqa: SIM115
        async with open_pipes(*files) as (source, sink):
            try:
                yield LineReader(source, MAX_CLIENT_LINE, keeps_lines=True), LineWriter(sink)
            finally:
                with suppress(OSError), anyio.move_on_after(END_SECONDS, shield=True):
                    await sink.drain()
    finally:
        os.dup2(output, 1)
        os.close(output)


@asynccontextmanager
async def open_pipes(
    source: IO[bytes] | PipeFile, sink: IO[bytes] | PipeFile
) -> AsyncIterator[tuple[OfferedStream, asyncio.StreamWriter]]:
    """Read and write pipes on the event loop. Both are closed after the block.

    The loop is not cancelled while it takes over a pipe. Otherwise, the loop and the file would both close the
    descriptor, and another connection might have the same descriptor by the time of the second close.
    """
    loop, stream = asyncio.get_running_loop(), OfferedStream()
    with anyio.CancelScope(shield=True):
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), source)
    try:
        with anyio.CancelScope(shield=True):
            writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
        try:
            yield stream, asyncio.StreamWriter(writing, protocol, None, loop)
        finally:
            writing.close()
    finally:
        reading.close()


# ── A command ─────────────────────────────────────────────────────────────────────────────────


class EndingCommands:
    """Counts the commands that should end and have not yet ended: further commands start only when fewer than `most`
    are left. Otherwise, callers that begin and end sessions quickly could fill the machine with commands that ignore
    SIGTERM."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = anyio.Event()

    async def wait_below(self, most: int) -> None:
        while self.count >= most:
            await self._changed.wait()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a command during the block, in which it ends."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._changed.set()
            self._changed = anyio.Event()


@asynccontextmanager
async def command_streams(
    command: Sequence[str],
    environment: Mapping[str, str],
    ending: EndingCommands | None = None,
    most_ending: int = MAX_ENDING,
) -> AsyncIterator[tuple[LineReader, LineWriter]]:
    """Start a command in a process group of its own, and end the group with the block. Before that, wait until fewer
    than `most_ending` commands are `ending`."""
    ending = ending or EndingCommands()
    await ending.wait_below(most_ending)
    (its_input, own_output), (own_input, its_output) = os.pipe(), os.pipe()
    files = PipeFile(own_input, "rb"), PipeFile(own_output, "wb")
    with ExitStack() as its_ends:
        for number in (its_input, its_output):
            its_ends.callback(os.close, number)
        async with open_pipes(*files) as (source, sink):
            with anyio.CancelScope(shield=True):  # otherwise, the process could be left running
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=its_input,
                    stdout=its_output,
                    env={**get_default_environment(), **environment},
                    start_new_session=True,
                )
            its_ends.close()
            try:
                yield LineReader(source, MAX_SERVER_LINE), LineWriter(sink)
            finally:
                with anyio.CancelScope(shield=True), ending.enter():
                    await end_process(process, source, sink)


async def end_process(process: Process, output: asyncio.StreamReader, input: asyncio.StreamWriter) -> None:
    """Close the input of a command, and end the processes of its group that do not end by themselves."""
    input.close()
    async with anyio.create_task_group() as group:
        group.start_soon(drain_output, output)
        for number, seconds in ((None, END_SECONDS), (signal.SIGTERM, END_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            if number is not None:
                signal_group(process, number)
            with anyio.move_on_after(seconds):
                await process.wait()
                while number is signal.SIGTERM and has_members(process.pid):
                    await anyio.sleep(POLL_SECONDS)
            if process.returncode is not None and not has_members(process.pid):
                break
        group.cancel_scope.cancel()


async def drain_output(output: asyncio.StreamReader) -> None:
    """Drop the output of a command: a full pipe would keep it from ending."""
    with suppress(OSError):
        while await output.read(CHUNK_BYTES):
            pass


def signal_group(process: Process, number: int) -> None:
    """Send a signal to the process group of a command, if the group exists."""
    if process.returncode is None or has_members(process.pid):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def has_members(group: int) -> bool:
    """Return whether a process group has members after its leader has ended. While it has members, no process has the
    number of the group; a process with this number was started after the end of the group, and is unrelated."""
    try:
        os.kill(group, 0)
    except ProcessLookupError:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
    except PermissionError:
        pass
    return False

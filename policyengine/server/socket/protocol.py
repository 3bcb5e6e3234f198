"""Connections to the Unix socket: pipelined frames are answered in order, and connections take turns."""

from __future__ import annotations

import asyncio
import socket
from contextvars import copy_context
from functools import partial
from struct import Struct as Layout
from typing import Any, cast

from policyengine.client.socket import FRAME_HEADER, MAX_QUESTION_BYTES
from policyengine.engine.decider import WouldBlockError
from policyengine.executor import Requester, enter_requester, thread_pool
from policyengine.server.connections.connection_table import (
    CloseReason,
    ConnectionStage,
    ConnectionTable,
    has_unread_bytes,
)
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from policyengine.server.problems import ProblemError
from policyengine.server.socket.answers import answer_frame, answer_frames
from policyengine.server.socket.frames import (
    FrameError,
    encode_problem,
)
from policyengine.server.telemetry.metered_engine import EngineProvider

PEER_CREDENTIALS = Layout("3i")  # process, user and group
MAX_QUESTIONS_PER_TURN = 256
MAX_FRAMES_PER_THREAD_TURN = 16
TURN_SECONDS = 0.01  # maximum seconds of a turn on the event loop


class FramedProtocol(asyncio.Protocol):
    """The connection of one sidecar. Frames are answered in order, and reading stops while the client does not read
    answers. A connection may stay idle without limit while no other client needs its place.
    """

    transport: asyncio.Transport
    gateway = "socket"
    spare = False

    def __init__(self, doors: tuple[EngineProvider, EngineProvider], table: ConnectionTable) -> None:
        self.reloading, self.reloading_apart = doors  # the engines for the event loop, and for threads
        self.table = table
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.began = table.now  # when the frame in the buffer, or the last frame, began to arrive
        self.ended = False  # whether the client has closed its sending side
        self.lost = False  # whether the client can no longer read answers
        self.paused = False  # whether the client reads slowly
        self.resting = False  # whether other connections have their turn
        self.slow_since: float | None = None  # the time since which the client has not read its answers
        self.apart = 0  # bytes that a thread is processing
        self.counted = False  # whether the table counts bytes of this connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop has its own class
        self.gateway = peer_name(transport.get_extra_info("socket"))
        self.transport.set_write_buffer_limits(high=MAX_QUESTION_BYTES)
        self.table.enter(self)
        self.table.prove(self)  # clients of a Unix socket are not limited by address

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.leave(self)
        self.ended = self.lost = True
        self.buffer.clear()

    # ── Interface of the connection table ─────────────────────────────────────────────────────

    @property
    def address(self) -> str:
        return self.gateway

    @property
    def stage(self) -> ConnectionStage:
        if self.paused:
            return ConnectionStage.UNREAD
        if self.resting:
            return ConnectionStage.BUSY
        return ConnectionStage.HEAD if self.buffer else ConnectionStage.IDLE

    @property
    def has_unread_bytes(self) -> bool:
        return has_unread_bytes(self.transport)

    def overdue(self, now: float) -> CloseReason | None:
        limits = self.table.limits
        if not self.transport.get_write_buffer_size():
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now
        elif now - self.slow_since > limits.request:
            return CloseReason.ANSWER
        late = self.stage is ConnectionStage.HEAD and now - self.began > limits.head + limits.request
        return CloseReason.REQUEST if late else None

    def drop(self, reason: CloseReason) -> None:
        if reason in (CloseReason.ANSWER, CloseReason.REQUEST) or self.paused:
            self.transport.abort()
        else:
            self.transport.close()

    # ── Frames ────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if not self.buffer:
            self.began = self.table.now
        self.buffer += data
        self.work()
        self.account()

    def account(self) -> None:
        """Report the number of buffered bytes to the table."""
        size = len(self.buffer) + self.apart + (self.transport.get_write_buffer_size() if self.paused else 0)
        if size or self.counted:
            self.counted = bool(size)
            self.table.hold(self, size)

    def eof_received(self) -> bool:
        """Return True, so that a client that has closed only its sending side still gets its answers."""
        self.shutdown()
        return True

    def shutdown(self) -> None:
        """Answer the frames that have arrived, and close."""
        self.ended = True
        self.work()

    def pause_writing(self) -> None:
        self.paused = True
        self.loop.call_soon(self.account)  # later, because this may end the connection during a write

    def resume_writing(self) -> None:
        self.paused = False
        self.work()
        self.account()

    def rested(self) -> None:
        self.resting = False
        self.work()

    def work(self) -> None:
        """Answer frames for one turn, then let other connections continue."""
        if self.transport.is_closing() or self.paused or self.resting:
            return
        engine = self.reloading.current
        if engine.state.is_remote or engine.forecast.may_wait or engine.identity is not None:
            self.work_apart(MAX_FRAMES_PER_THREAD_TURN)
            return
        answers: list[bytes] = []
        questions, at, long, until = 0, 0, False, self.loop.time() + TURN_SECONDS
        try:
            while questions < MAX_QUESTIONS_PER_TURN and (payload := self.frame(at)) is not None:
                if questions and self.loop.time() > until:
                    questions = MAX_QUESTIONS_PER_TURN
                    break
                if len(payload) > LONG_BODY_BYTES:
                    raise WouldBlockError("the frame is long")
                answer, many = answer_frame(engine, payload, self.gateway, at_once=True)
                at += FRAME_HEADER.size + len(payload)
                answers += (FRAME_HEADER.pack(len(answer)), answer)
                questions += many
        except FrameError as error:
            answer = encode_problem(None, error.problem)
            answers += (FRAME_HEADER.pack(len(answer)), answer)
            self.ended, at = True, len(self.buffer)
        except WouldBlockError:
            long = True
        del self.buffer[:at]
        self.began = self.table.now if at else self.began
        self.transport.write(b"".join(answers))
        if long:
            self.work_apart(1)
            return
        self.settle(rest=questions >= MAX_QUESTIONS_PER_TURN)

    def work_apart(self, most: int) -> None:
        """Answer in a thread, because the answer needs a store or may take a long time; only this connection waits."""
        engine = self.reloading_apart.current
        payloads: list[bytes] = []
        at, unreadable = 0, None
        try:
            while len(payloads) < most and (payload := self.frame(at)) is not None:
                at += FRAME_HEADER.size + len(payload)
                payloads.append(payload)
        except FrameError as error:
            unreadable = error
        if not payloads and unreadable is None:
            self.settle(rest=False)
            return
        del self.buffer[:at]
        self.began = self.table.now
        self.resting = True
        self.apart = sum(map(len, payloads))
        self.transport.pause_reading()
        work = partial(answer_frames, engine, payloads, unreadable, self.gateway)
        context = copy_context()
        context.run(enter_requester, Requester(lambda: self.gateway, lambda: self.lost))
        done = self.loop.run_in_executor(thread_pool(), context.run, work)
        done.add_done_callback(self.told)

    def told(self, done: asyncio.Future[tuple[list[bytes], bool]]) -> None:
        answers, ends = done.result()
        if ends:
            self.ended = True
            self.buffer.clear()
        if not self.transport.is_closing():
            self.transport.write(b"".join(FRAME_HEADER.pack(len(answer)) + answer for answer in answers))
        self.apart = 0
        self.rested()
        self.account()

    def frame(self, at: int) -> bytes | None:
        """Return the payload of the frame at `at`, or None until the frame is complete. Raises FrameError."""
        if len(self.buffer) < at + FRAME_HEADER.size:
            return None
        (size,) = FRAME_HEADER.unpack_from(self.buffer, at)
        if size > MAX_QUESTION_BYTES:
            raise FrameError(ProblemError(413, "a frame is larger than 1 MiB"))
        start = at + FRAME_HEADER.size
        return bytes(self.buffer[start : start + size]) if len(self.buffer) >= start + size else None

    def settle(self, rest: bool) -> None:
        """Continue when other connections have had their turn and the client has read its answers; or close."""
        if rest:
            self.resting = True
            self.loop.call_soon(self.rested)
        elif self.ended and not self.paused:
            self.transport.close()
        if self.paused or self.resting:
            self.transport.pause_reading()
        elif not self.ended:
            self.transport.resume_reading()


def peer_name(connection: Any) -> str:
    """Return the user of the peer process, or one name for all peers if the system does not report the user."""
    if connection is None or not hasattr(socket, "SO_PEERCRED"):
        return "socket"
    _, user, _ = PEER_CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    )
    return f"user {user}"

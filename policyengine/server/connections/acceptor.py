"""The acceptor of one listener in one worker: it accepts connections within bounds, leaves some to less busy workers,
and loses none when it closes.

A listener that closes resets the connections in its queue. On Linux, the listener therefore makes the kernel drop new
connection attempts before it closes: a client whose attempt was dropped tries again a second later and is then refused.
Every connection that is already queued is accepted.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from policyengine.server.connections.connection_table import CloseReason, ConnectionTable
from policyengine.server.connections.http_connection import peer_address
from policyengine.server.listeners import MAX_LISTEN_QUEUE, ServeError, remove_socket
from policyengine.server.workers.board import WorkerBoard

MAX_ACCEPTS_PER_TURN = 16  # maximum connections to accept in one turn, so that open connections are served in between
DEFER_SECONDS = 0.005  # seconds for which a worker leaves a new connection to a less busy one
RETRY_SECONDS = 0.05  # seconds before retrying when no file can be opened
OUT_OF_FILES_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SO_ATTACH_FILTER = 26  # value on Linux, on all platforms of Python except Alpha, MIPS, PA-RISC and SPARC
# Drop segments that have SYN set, and pass all others. A classic BPF instruction has a code, jumps if true and if
# false, and an operand.
DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Acceptor:
    """Accepts the connections of a listener; `protocol` creates the protocol of each connection."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        table: ConnectionTable,
        board: WorkerBoard,
    ) -> None:
        self._listener, self._protocol = listener, protocol
        self._table, self._board = table, board
        self._loop = asyncio.get_running_loop()
        self._path = socket_path(listener)
        self._made = None if self._path is None else os.lstat(self._path)
        self._later: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept_or_defer)

    @property
    def is_opening(self) -> bool:
        """Whether a connection was accepted but has no protocol yet."""
        return bool(self._opening)

    # ── Accepting ─────────────────────────────────────────────────────────────────────────────

    def _accept_or_defer(self) -> None:
        """Accept new connections, or leave them to a less busy worker for a moment."""
        if self._board.others_are_freer:
            self._pause(DEFER_SECONDS)
        else:
            self._accept(MAX_ACCEPTS_PER_TURN, defers=True)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Accept now, because the less busy worker has not accepted the connection."""
        self._later = None
        self._loop.add_reader(self._listener, self._accept_or_defer)
        self._accept(MAX_ACCEPTS_PER_TURN)

    def _accept(self, most: int, defers: bool = False) -> None:
        for _ in range(most):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES_ERRNOS and self._later is None:
                    self._table.make_room(MAX_ACCEPTS_PER_TURN)
                    self._pause(RETRY_SECONDS)
                return
            self._take(connection, address)
            if defers and self._board.others_are_freer:
                return

    def _take(self, connection: socket.socket, address: object) -> None:
        if not self._table.admit():
            self._table.count(CloseReason.REFUSED, peer_address(address))
            connection.close()
            return
        self._table.expect()
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
        finally:
            self._table.arrive()

    # ── Stopping ──────────────────────────────────────────────────────────────────────────────

    def refuse(self) -> None:
        """Admit no new connection to the queue, for all workers that share the listener; on platforms other than Linux,
        only for Unix sockets. Queued connections are still accepted.
        """
        if self._path is not None and self._made is not None:
            with suppress(ServeError):  # the supervisor tries again
                remove_socket(self._path, self._made)
        elif sys.platform == "linux":
            with suppress(OSError):
                self._listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_program())

    def leave(self) -> None:
        """Stop accepting; other workers that share the listener continue."""
        if self._listener.fileno() < 0:
            return
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def close(self) -> None:
        """Accept everything in the queue, and close."""
        self._accept(MAX_LISTEN_QUEUE)
        self.leave()


def socket_path(listener: socket.socket) -> Path | None:
    is_unix = hasattr(socket, "AF_UNIX") and listener.family == socket.AF_UNIX
    return Path(listener.getsockname()) if is_unix else None


# ── The filter ────────────────────────────────────────────────────────────────────────────────


class FilterInstruction(ctypes.Structure):
    """`struct sock_filter` of Linux."""

    _fields_ = (("code", ctypes.c_uint16), ("true", ctypes.c_uint8), ("false", ctypes.c_uint8), ("k", ctypes.c_uint32))


class FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of Linux."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(FilterInstruction)))


_INSTRUCTIONS = (FilterInstruction * len(DROP_SYN))(*(FilterInstruction(*one) for one in DROP_SYN))


def filter_program() -> bytes:
    """Return the filter program for the kernel, which points to `_INSTRUCTIONS`."""
    return bytes(FilterProgram(len(DROP_SYN), _INSTRUCTIONS))

"""The connections of one worker: bounded in total and per address, and closed if they are too slow.

Only connections that wait for their client are evicted: a complete request always gets its answer. Time comes from a
clock that the event loop updates several times per second, so that serving a connection costs no timers.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from time import monotonic
from typing import Protocol

from policyengine.log_throttle import LogThrottle
from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard

SPARE_CONNECTIONS = 8  # connections beyond the bound, which may only request the server's health
_LOG = logging.getLogger("policyengine")


class ConnectionStage(Enum):
    HEAD = "head"  # the head of a request is incomplete or has not begun
    BODY = "body"  # the head of a request has arrived, its body has not
    BUSY = "busy"  # a complete request is being answered
    UNREAD = "unread"  # the client does not read, and the write buffer is full
    IDLE = "idle"  # the last request is answered


class CloseReason(Enum):
    """The reason why the server closed a connection, as logs and metrics name it."""

    HEAD = "head"
    REQUEST = "request"
    ANSWER = "answer"
    IDLE = "idle"
    ADDRESS = "address"
    ALL = "all"
    MEMORY = "memory"
    REFUSED = "refused"


EXPLANATIONS = {
    CloseReason.HEAD: "did not send the head of a request in time",
    CloseReason.REQUEST: "did not send the rest of a request in time",
    CloseReason.ANSWER: "did not read an answer in time",
    CloseReason.ADDRESS: "had sent no complete request, and their address had too many such connections",
    CloseReason.ALL: "made room for others",
    CloseReason.MEMORY: "held more bytes than the server has room for",
    CloseReason.REFUSED: "were refused, because all other connections were busy",
}


class ClientConnection(Protocol):
    """A connection as the table sees it. `began` is the start of the last request or of its stage, `spare` says whether
    the connection is beyond the bound, and `has_unread_bytes` whether bytes have arrived that have not been read yet.
    """

    began: float
    spare: bool

    @property
    def address(self) -> str:
        """The address of the client."""
        ...

    @property
    def has_unread_bytes(self) -> bool: ...

    @property
    def stage(self) -> ConnectionStage: ...

    def overdue(self, now: float) -> CloseReason | None: ...

    def drop(self, reason: CloseReason) -> None:
        """Close the connection immediately."""
        ...

    def shutdown(self) -> None:
        """Close the connection after every request that has arrived is answered."""
        ...


class ConnectionTable:
    """The table of open connections. `connections` holds those that have a protocol."""

    def __init__(
        self,
        limits: ConnectionLimits,
        bounds: ConnectionBounds,
        board: WorkerBoard,
        tally: ServerCounters,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.limits, self.bounds = limits, bounds
        self._board, self._tally, self._clock = board, tally, clock
        self.now = clock()
        self.connections: set[ClientConnection] = set()
        self.draining = False  # whether each answer closes its connection
        self._expected = 0
        self._unproved: dict[str, dict[ClientConnection, None]] = {}  # by address, oldest first
        self.held = 0  # bytes of requests without an answer, and of answers that were not read
        self._held: dict[ClientConnection, int] = {}
        self._held_by: Counter[str] = Counter()  # by address
        self._closed: Counter[tuple[CloseReason, str]] = Counter()
        self._throttle = LogThrottle.every(clock=lambda: self.now)

    # ── Open connections ──────────────────────────────────────────────────────────────────────

    @property
    def many(self) -> int:
        return len(self.connections) + self._expected

    def admit(self) -> bool:
        """Return whether another connection may be accepted, after evicting others if necessary."""
        if self.many >= self.bounds.connections:
            self.make_room(self.many - self.bounds.connections + 1)
        return self.many < self.bounds.connections + SPARE_CONNECTIONS

    def make_room(self, many: int) -> None:
        """Close about `many` connections that are not answering a request."""
        for connection in self._replaceable(many):
            self.close(connection, CloseReason.ALL)

    def expect(self) -> None:
        """Count a connection that was accepted but has no protocol yet."""
        self._expected += 1
        self._board.load(self.many)

    def arrive(self) -> None:
        """Stop counting a connection as expected, because it now has its protocol, or has failed."""
        self._expected -= 1

    def enter(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)  # uvicorn may already have added the connection, without making room
        over = len(self.connections) + 1 - self.bounds.connections
        if over > 0:  # connections that were accepted at the same time have already entered the table
            self.make_room(over)
        self.connections.add(connection)
        connection.spare = len(self.connections) > self.bounds.connections
        waiting = self._unproved.setdefault(connection.address, {})
        waiting[connection] = None
        self._board.load(self.many)
        if len(waiting) > self.bounds.unproved:
            self.close(next(iter(waiting)), CloseReason.ADDRESS)

    def prove(self, connection: ClientConnection) -> None:
        """Record that the first request of the connection is complete."""
        waiting = self._unproved.get(connection.address, {})
        if connection in waiting:
            del waiting[connection]
            if not waiting:
                del self._unproved[connection.address]

    def leave(self, connection: ClientConnection) -> None:
        self.prove(connection)
        self.hold(connection, 0)
        self.connections.discard(connection)
        self._board.load(self.many)

    def _replaceable(self, many: int) -> Iterator[ClientConnection]:
        """Yield `many` connections or slightly more that are not answering a request, from the address with the most
        such connections: idle connections first, then the oldest.
        """
        by_address: dict[str, list[ClientConnection]] = {}
        for connection in self.connections:
            if connection.stage is not ConnectionStage.BUSY:
                by_address.setdefault(connection.address, []).append(connection)
        most = max(by_address.values(), key=len, default=[])
        most.sort(key=lambda one: (one.stage is not ConnectionStage.IDLE, one.began))
        yield from most[: many + len(self.connections) // 64]

    # ── Memory ────────────────────────────────────────────────────────────────────────────────

    def hold(self, connection: ClientConnection, size: int) -> bool:
        """Set the number of bytes that a connection holds; return whether there is room for them, after closing waiting
        connections.
        """
        if connection not in self.connections:
            return True
        grown = size - self._held.pop(connection, 0)
        if size:
            self._held[connection] = size
        self.held += grown
        self._held_by[connection.address] += grown
        if not self._held_by[connection.address]:
            del self._held_by[connection.address]
        if grown <= 0 or self._has_room(connection.address):
            return True
        self._free(connection.address)
        if connection not in self.connections or self._has_room(connection.address):
            return connection in self.connections
        if connection.stage is not ConnectionStage.BUSY:
            self.close(connection, CloseReason.MEMORY)
        return False

    def _has_room(self, address: str, share: float = 1.0) -> bool:
        most = self.limits.memory * share
        return self.held <= most and self._held_by[address] <= most / 2

    def _free(self, address: str) -> None:
        """Close the largest connections that wait for their client: those of this address if it holds more than half of
        the memory, otherwise those of the address that holds the most. Free an eighth more than needed, because the
        search takes time.
        """
        if self._held_by[address] <= self.limits.memory / 2:
            address = self._held_by.most_common(1)[0][0]
        waiting = [one for one in self._held if one.address == address and one.stage is not ConnectionStage.BUSY]
        for connection in sorted(waiting, key=self._held.__getitem__, reverse=True):
            if self._has_room(address, 7 / 8):
                return
            self.close(connection, CloseReason.MEMORY)

    # ── Timeouts ──────────────────────────────────────────────────────────────────────────────

    def tick(self) -> float:
        """Update the clock, and return the time in seconds."""
        self.now = self._clock()
        return self.now

    def accept(self) -> None:
        """Announce on the board that this worker accepts connections."""
        self._board.load(self.many)

    def sweep(self) -> None:
        now = self.tick()
        for connection in list(self.connections):
            reason = connection.overdue(now)
            if reason is not None:
                self.close(connection, reason)
        self._tally.now("connections", value=len(self.connections))
        self._log_closed()

    def close(self, connection: ClientConnection, reason: CloseReason) -> None:
        self.leave(connection)
        self.count(reason, connection.address)
        connection.drop(reason)

    def count(self, reason: CloseReason, address: str) -> None:
        self._tally.add("connections_closed", reason.value)
        if reason in EXPLANATIONS:
            self._closed[reason, address] += 1

    def _log_closed(self) -> None:
        """Log one line for all connections that were closed since the last such line."""
        if not self._closed or self._throttle.admit() is None:
            return
        many: Counter[CloseReason] = Counter()
        addresses: Counter[str] = Counter()
        for (reason, address), count in self._closed.items():
            many[reason] += count
            addresses[address] += count
        address, most = addresses.most_common(1)[0]
        why = ", ".join(f"{count:,} {EXPLANATIONS[reason]}" for reason, count in many.items())
        _LOG.warning(
            "connections were closed: %s; %d of them from %s", why, most, address,
            extra={"event": "connections_closed", "reasons": {one.value: count for one, count in many.items()}},
        )  # fmt: skip
        self._closed.clear()


def has_unread_bytes(transport: asyncio.BaseTransport) -> bool:
    """Return whether bytes have arrived that the event loop has not read yet."""
    connection = transport.get_extra_info("socket")
    try:
        waiting = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    except (OSError, ValueError):  # the connection is closed
        return False
    return any(waiting)

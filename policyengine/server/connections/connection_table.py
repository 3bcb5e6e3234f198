"""The connections of one worker: bounded in all and by address, and closed when they take too long.

What makes room waits for its client: a request that has arrived as a whole is never given up before its answer.
Time is read off a clock that the event loop sets several times a second: a connection costs nothing while it is served.
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

SPARE_CONNECTIONS = 8  # connections beyond the bound, which are only told whether the server is well
_LOG = logging.getLogger("policyengine")


class ConnectionStage(Enum):
    HEAD = "head"  # nothing, or not all of the head of a request, has arrived
    BODY = "body"  # the head of a request has arrived, and not all of the rest
    BUSY = "busy"  # a request that has arrived as a whole is answered
    UNREAD = "unread"  # so much of the answers was not read that no more is written
    IDLE = "idle"  # the last request was answered


class CloseReason(Enum):
    """Why the server closed a connection; the value is what logs and metrics call it."""

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
    CloseReason.ADDRESS: "were too many of one address without a whole request",
    CloseReason.ALL: "made room for others",
    CloseReason.MEMORY: "held more bytes than there is room for",
    CloseReason.REFUSED: "found no room, as all others are at work",
}


class ClientConnection(Protocol):
    """`began` is when the last request or its stage did, `spare` whether it is beyond the bound, `has_unread_bytes`
    whether something has arrived that nobody has read."""

    began: float
    spare: bool

    @property
    def address(self) -> str:
        """Whose it is."""
        ...

    @property
    def has_unread_bytes(self) -> bool: ...

    @property
    def stage(self) -> ConnectionStage: ...

    def overdue(self, now: float) -> CloseReason | None: ...

    def drop(self, reason: CloseReason) -> None:
        """Close it at once."""
        ...

    def shutdown(self) -> None:
        """Close it when what has arrived is answered."""
        ...


class ConnectionTable:
    """`connections` are those that speak a protocol."""

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
        self.draining = False  # each answer ends its connection
        self._expected = 0
        self._unproved: dict[str, dict[ClientConnection, None]] = {}  # by address, the oldest first
        self.held = 0  # bytes of requests that have no answer, and of answers that were not read
        self._held: dict[ClientConnection, int] = {}
        self._held_by: Counter[str] = Counter()  # address
        self._closed: Counter[tuple[CloseReason, str]] = Counter()
        self._throttle = LogThrottle.every(clock=lambda: self.now)

    # ── Who is here ───────────────────────────────────────────────────────────────────────────

    @property
    def many(self) -> int:
        return len(self.connections) + self._expected

    def admit(self) -> bool:
        """Whether one more may be accepted: others make room for it."""
        if self.many >= self.bounds.connections:
            self.make_room(self.many - self.bounds.connections + 1)
        return self.many < self.bounds.connections + SPARE_CONNECTIONS

    def make_room(self, many: int) -> None:
        """Close so many connections, or a few more, if there are any that are not at work."""
        for connection in self._replaceable(many):
            self.close(connection, CloseReason.ALL)

    def expect(self) -> None:
        """A connection was accepted that has no protocol yet."""
        self._expected += 1
        self._board.load(self.many)

    def arrive(self) -> None:
        """It has one, or failed."""
        self._expected -= 1

    def enter(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)  # uvicorn may have added it already, and it makes no room for itself
        over = len(self.connections) + 1 - self.bounds.connections
        if over > 0:  # those that were accepted together with it have entered since
            self.make_room(over)
        self.connections.add(connection)
        connection.spare = len(self.connections) > self.bounds.connections
        waiting = self._unproved.setdefault(connection.address, {})
        waiting[connection] = None
        self._board.load(self.many)
        if len(waiting) > self.bounds.unproved:
            self.close(next(iter(waiting)), CloseReason.ADDRESS)

    def prove(self, connection: ClientConnection) -> None:
        """Its first request has arrived as a whole."""
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
        """Those that are not at work: of the address that has most of them, idle ones first, and then the oldest."""
        by_address: dict[str, list[ClientConnection]] = {}
        for connection in self.connections:
            if connection.stage is not ConnectionStage.BUSY:
                by_address.setdefault(connection.address, []).append(connection)
        most = max(by_address.values(), key=len, default=[])
        most.sort(key=lambda one: (one.stage is not ConnectionStage.IDLE, one.began))
        yield from most[: many + len(self.connections) // 64]

    # ── What they hold ────────────────────────────────────────────────────────────────────────

    def hold(self, connection: ClientConnection, size: int) -> bool:
        """It holds so many bytes now; whether there is room for them. Where there is none, who waits is closed."""
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
        """Close those that hold most and wait for their client: of this address beyond its half, else of the one that
        holds most. An eighth more than is needed, as looking for them takes time."""
        if self._held_by[address] <= self.limits.memory / 2:
            address = self._held_by.most_common(1)[0][0]
        waiting = [one for one in self._held if one.address == address and one.stage is not ConnectionStage.BUSY]
        for connection in sorted(waiting, key=self._held.__getitem__, reverse=True):
            if self._has_room(address, 7 / 8):
                return
            self.close(connection, CloseReason.MEMORY)

    # ── Who takes too long ────────────────────────────────────────────────────────────────────

    def tick(self) -> float:
        """What time it is."""
        self.now = self._clock()
        return self.now

    def accept(self) -> None:
        """From now on others leave connections to this worker."""
        self._board.load(self.many)

    def sweep(self) -> None:
        now = self.tick()
        for connection in list(self.connections):
            reason = connection.overdue(now)
            if reason is not None:
                self.close(connection, reason)
        self._tally.now("connections", value=len(self.connections))
        self._tell()

    def close(self, connection: ClientConnection, reason: CloseReason) -> None:
        self.leave(connection)
        self.count(reason, connection.address)
        connection.drop(reason)

    def count(self, reason: CloseReason, address: str) -> None:
        self._tally.add("connections_closed", reason.value)
        if reason in EXPLANATIONS:
            self._closed[reason, address] += 1

    def _tell(self) -> None:
        """One line for all that were closed since the last one."""
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
            "connections were closed: %s; most, %d, of %s", why, most, address,
            extra={"event": "connections_closed", "reasons": {one.value: count for one, count in many.items()}},
        )  # fmt: skip
        self._closed.clear()


def has_unread_bytes(transport: asyncio.BaseTransport) -> bool:
    """Whether something has arrived that the event loop has not read yet."""
    connection = transport.get_extra_info("socket")
    try:
        waiting = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    except (OSError, ValueError):  # it is closed
        return False
    return any(waiting)

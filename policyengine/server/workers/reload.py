"""Several workers to other policies, all of them or none: each makes itself ready, then all swap, then history begins.

A worker has a line to the process that started it. What is sent over it was made by that process alone.
"""

from __future__ import annotations

import logging
import pickle
import socket
import struct
from dataclasses import dataclass, field, replace
from threading import Thread
from time import monotonic
from typing import TypeAlias, assert_never

from policyengine.engine import Engine
from policyengine.reload import Candidate, RefusalKind, ReloadableEngine, ReloadRefusedError, ReloadStatus
from policyengine.reload.policy_inventory import Inventory

MAX_READY_SECONDS = 60.0  # seconds until every worker has to be ready
LENGTH_PREFIX = struct.Struct("!Q")
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class PrepareReload:
    """Be ready for this."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CommitReload:
    """Decide by it. `reloads` is how many there were by then."""

    reloads: ReloadStatus


@dataclass(frozen=True, slots=True)
class BeginHistory:
    """Nobody decides by the ones before."""


@dataclass(frozen=True, slots=True)
class AbortReload:
    """It is refused, or another worker cannot take it."""

    reloads: ReloadStatus


ReloadMessage: TypeAlias = PrepareReload | CommitReload | BeginHistory | AbortReload


class WorkerChannel:
    """One end of a connection of two processes, which nobody waits at for long."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[WorkerChannel, WorkerChannel]:
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def send(self, told: object, longest: float | None = None) -> None:
        """Raises OSError."""
        data = pickle.dumps(told)
        self._end.settimeout(longest)
        self._end.sendall(LENGTH_PREFIX.pack(len(data)) + data)

    def receive(self, longest: float | None = None) -> object:
        """Raises OSError, EOFError."""
        self._end.settimeout(longest)
        (size,) = LENGTH_PREFIX.unpack(self._read(LENGTH_PREFIX.size))
        return pickle.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = self._end.recv(min(size - len(found), 1 << 20))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)

    def close(self) -> None:
        self._end.close()


# ── A worker ──────────────────────────────────────────────────────────────────────────────────


class ReloadParticipant:
    """Does what it is told over its line, in a thread of its own, and says what came of it."""

    def __init__(self, reloading: ReloadableEngine, line: WorkerChannel) -> None:
        self._reloading, self._line = reloading, line
        self._next: Engine | None = None
        self._before: Engine | None = None

    def start(self) -> Thread:
        thread = Thread(target=self._run, name="reloading", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            while True:
                self._line.send(self._done(self._line.receive()))
        except (OSError, EOFError):  # whoever started this is gone, and so is this process soon
            self._line.close()

    def _done(self, order: object) -> ReloadRefusedError | None:
        """Why not, if it could not be done."""
        try:
            self._do(order)  # type: ignore[arg-type]  # nobody else is at the other end
        except ReloadRefusedError as refused:
            return refused
        except Exception as error:
            _LOG.exception("reloading failed", extra={"event": "reload_failed"})
            return ReloadRefusedError(f"a worker failed: {type(error).__name__}", reason=RefusalKind.FAILURE)
        return None

    def _do(self, order: ReloadMessage) -> None:
        """Raises ReloadRefusedError."""
        match order:
            case PrepareReload(candidate):
                self._next = self._reloading.engine_of(candidate)
            case CommitReload(reloads):
                assert self._next is not None, "nobody swaps before it is ready"
                self._before, self._reloading.current = self._reloading.current, self._next
                self._next, self._reloading.reloads = None, reloads
            case BeginHistory():
                assert self._before is not None, "nothing begins before it was swapped"
                self._reloading.begin(self._before)
                self._before = None
            case AbortReload(reloads):
                self._next, self._reloading.reloads = None, reloads
            case _:
                assert_never(order)


# ── The one that started them ─────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ReloadCoordinator:
    """The lines to all workers. `lost` are those of workers that did not answer: nobody knows by what they decide."""

    reloading: ReloadableEngine
    lines: list[WorkerChannel]
    lost: list[WorkerChannel] = field(default_factory=list)
    longest: float = MAX_READY_SECONDS

    def take(self, candidate: Candidate) -> None:
        """Let all decide by it, or none, and know it where it was refused.

        This process goes along: workers that it starts from now on begin with it.
        """
        try:
            engine = self.reloading.engine_of(candidate)
            for refused in self._told(
                PrepareReload(replace(candidate, inventory=Inventory()))
            ):  # held against it here alone
                raise refused
        except ReloadRefusedError as refused:
            self.reloading.refuse(refused)
            self.drop()
            return
        before = self.reloading.swap(engine)
        self._told(CommitReload(self.reloading.reloads))
        self.reloading.begin(before)
        self._told(BeginHistory())

    def drop(self) -> None:
        """It was refused: all know so."""
        self._told(AbortReload(self.reloading.reloads))

    def _told(self, order: ReloadMessage) -> list[ReloadRefusedError]:
        """Why some could not do it. All are told before the first is listened to."""
        latest = monotonic() + self.longest
        here = [line for line in self.lines if line not in self.lost]
        heard = [line for line in here if self._sent(line, order, latest)]
        return [refused for line in heard if (refused := self._answer(line, latest)) is not None] + [
            ReloadRefusedError("a worker does not answer", reason=RefusalKind.FAILURE)
            for line in here
            if line in self.lost
        ]

    def _sent(self, line: WorkerChannel, order: ReloadMessage, latest: float) -> bool:
        try:
            line.send(order, max(0.1, latest - monotonic()))
        except OSError:
            self.lost.append(line)
        return line not in self.lost

    def _answer(self, line: WorkerChannel, latest: float) -> ReloadRefusedError | None:
        try:
            found = line.receive(max(0.1, latest - monotonic()))
        except (OSError, EOFError):
            self.lost.append(line)
            return None
        assert found is None or isinstance(found, ReloadRefusedError)
        return found

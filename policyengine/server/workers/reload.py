"""Reloads of several workers, all of them or none: each worker prepares the candidate, then all swap, and then the new
history begins.

Each worker has a channel to the supervisor. Only these two processes send messages on the channel, so pickle is safe.
"""

from __future__ import annotations

import logging
import pickle
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from threading import Thread
from time import monotonic
from typing import TypeAlias, assert_never

from policyengine.engine import Engine
from policyengine.reload import Candidate, RefusalKind, ReloadableEngine, ReloadRefusedError, ReloadStatus
from policyengine.reload.policy_inventory import PolicyInventory

MAX_READY_SECONDS = 60.0  # seconds in which all workers must prepare
LENGTH_PREFIX = struct.Struct("!Q")
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class PrepareReload:
    """The message to prepare this candidate."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CommitReload:
    """The message to decide with the prepared candidate. `reloads` is the reload status after this reload."""

    reloads: ReloadStatus


@dataclass(frozen=True, slots=True)
class BeginHistory:
    """The message to begin the new history, sent when no worker decides with the previous policies any more."""


@dataclass(frozen=True, slots=True)
class AbortReload:
    """The message to drop the candidate, because it is refused or another worker cannot prepare it."""

    reloads: ReloadStatus


ReloadMessage: TypeAlias = PrepareReload | CommitReload | BeginHistory | AbortReload


class WorkerChannel:
    """One end of a connection between two processes, with timeouts."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[WorkerChannel, WorkerChannel]:
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def send(self, told: object, longest: float | None = None) -> None:
        """Send an object. Raises OSError."""
        data = pickle.dumps(told)
        self._end.settimeout(longest)
        self._end.sendall(LENGTH_PREFIX.pack(len(data)) + data)

    def receive(self, longest: float | None = None) -> object:
        """Receive an object. Raises OSError, EOFError."""
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


# ── In a worker ───────────────────────────────────────────────────────────────────────────────


class ReloadParticipant:
    """Executes reload messages of the supervisor in a thread, and sends back the results. From the preparation until
    the swap, no watcher may replace the entities, so that no worker can fail to swap.
    """

    def __init__(self, reloading: ReloadableEngine, line: WorkerChannel) -> None:
        self._reloading, self._line = reloading, line
        self._next: Engine | None = None
        self._before: Engine | None = None
        self._holding = ExitStack()

    def start(self) -> Thread:
        thread = Thread(target=self._run, name="reloading", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            while True:
                self._line.send(self._done(self._line.receive()))
        except (OSError, EOFError):  # the supervisor is gone, and this process ends soon
            self._holding.close()
            self._line.close()

    def _done(self, order: object) -> ReloadRefusedError | None:
        """Execute a message; return the error if it failed, otherwise None."""
        try:
            self._do(order)  # type: ignore[arg-type]  # only this process's supervisor writes to it
        except ReloadRefusedError as refused:
            return refused
        except Exception as error:
            _LOG.exception("reloading failed", extra={"event": "reload_failed"})
            return ReloadRefusedError(f"a worker failed: {type(error).__name__}", reason=RefusalKind.FAILURE)
        return None

    def _do(self, order: ReloadMessage) -> None:
        """Execute a message. Raises ReloadRefusedError."""
        match order:
            case PrepareReload(candidate):
                self._drop()
                self._holding.enter_context(self._reloading.holding_directory())
                try:
                    self._next = self._reloading.engine_of(candidate)
                except BaseException:
                    self._drop()
                    raise
            case CommitReload(reloads):
                assert self._next is not None, "a worker must prepare before it swaps"
                self._before = self._reloading.install(self._next)
                self._reloading.reloads = reloads
                self._drop()
            case BeginHistory():
                assert self._before is not None, "a worker must swap before it begins the history"
                self._reloading.begin(self._before)
                self._before = None
            case AbortReload(reloads):
                self._reloading.reloads = reloads
                self._drop()
            case _:
                assert_never(order)

    def _drop(self) -> None:
        """Forget the prepared engine, and let a watcher replace the entities again."""
        self._next = None
        self._holding.close()


# ── In the supervisor ─────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ReloadCoordinator:
    """The channels to all workers. `lost` are the channels of workers that did not answer: their policies
    are unknown.
    """

    reloading: ReloadableEngine
    lines: list[WorkerChannel]
    lost: list[WorkerChannel] = field(default_factory=list)
    longest: float = MAX_READY_SECONDS

    def take(self, candidate: Candidate) -> None:
        """Make all workers decide with the candidate, or none, and report a refusal to all. The supervisor also swaps,
        so that workers that it starts later begin with the candidate.
        """
        with self.reloading.holding_directory():
            try:
                engine = self.reloading.engine_of(candidate)
                # The supervisor alone compares inventories.
                for refused in self._send_to_all(PrepareReload(replace(candidate, inventory=PolicyInventory()))):
                    raise refused
            except ReloadRefusedError as refused:
                self.reloading.refuse(refused)
                self.drop()
                return
            before = self.reloading.swap(engine)
        self._send_to_all(CommitReload(self.reloading.reloads))
        self.reloading.begin(before)
        self._send_to_all(BeginHistory())

    def drop(self) -> None:
        """Report a refused reload to all workers."""
        self._send_to_all(AbortReload(self.reloading.reloads))

    def _send_to_all(self, order: ReloadMessage) -> list[ReloadRefusedError]:
        """Send a message to all workers, then read their answers; return the refusals."""
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

"""The halts that one process knows: it follows the store and the halt file, and keeps what it knows while it cannot
read them.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic, time, time_ns
from typing import Final, Protocol

from msgspec.json import decode, encode

from policyengine.halts.document import HaltLift
from policyengine.halts.errors import HaltError, HaltsUnreadableError
from policyengine.halts.file import HaltFile
from policyengine.halts.places import parse_place
from policyengine.halts.store_halts import StoreHalts
from policyengine.runtime.halts import UNREAD_HALT, ArmedHalt, Halt, HaltSet
from policyengine.stores.base import StoreError
from policyengine.stores.halts import HaltStore, WorkerHalts

MAX_CLOSE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.5  # seconds between two reads, so that a halt is known everywhere within a second
FAILURES_BEFORE_ALARM: Final = 2  # consecutive failed reads; a single read may fail while a file is written
MAX_SILENT_SECONDS: Final = 5.0  # seconds after which a read that has not ended counts as failed
FORGET_SECONDS: Final = 3_600  # seconds for which a process keeps an ended halt, because its clock may be set back
UNREAD: Final = HaltSet((ArmedHalt(UNREAD_HALT),))
_LOG = logging.getLogger("policyengine")


class HaltSource(Protocol):
    """A place where halts are kept."""

    @property
    def name(self) -> str: ...

    def read(self) -> tuple[Halt, ...]:
        """Return the halts. Raises StoreError and HaltsUnreadableError."""
        ...


@dataclass(slots=True)
class FollowedSource:
    """A source of halts: its latest known halts, None before the first read, and the failures since the last read.
    Workers share a `copy` of the halts, so that a worker that replaces another begins with the halts that the other
    knew.
    """

    source: HaltSource
    copy: WorkerHalts | None = None
    halts: tuple[Halt, ...] | None = None
    read_at: float = 0.0  # seconds of the monotonic clock
    failures: int = 0
    why: str = ""

    @property
    def is_alarming(self) -> bool:
        return self.failures >= FAILURES_BEFORE_ALARM

    def read(self) -> None:
        """Read the halts of the source. Raises StoreError and HaltsUnreadableError."""
        self.take(self.source.read())

    def take(self, halts: tuple[Halt, ...]) -> None:
        """Replace the known halts, and share them with other workers."""
        before, self.halts, self.read_at = self.halts, halts, monotonic()
        if self.copy is not None and halts != before:
            self.copy.save(time_ns() // 1_000, encode(halts), None)

    def read_copy(self) -> None:
        """Take the halts that other workers have read, if no halts are known yet."""
        if self.halts is None and self.copy is not None:
            number, copied = self.copy.load(0)
            self.halts = decode(copied, type=tuple[Halt, ...]) if number else None


@dataclass(frozen=True, slots=True)
class HaltStatus:
    """The halts in effect in this process, and the sources that cannot be read."""

    halts: tuple[Halt, ...] = ()
    unreadable: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """Return numbers only, for readers without a token."""
        unreadable = {"unreadable": True} if self.unreadable else {}
        everything = any(halt.everything for halt in self.halts)
        return {"in_effect": len(self.halts), "everything": everything, **unreadable}


class HaltControl:
    """The halts of one process. All engines of the process that replace each other share it; threads may share it.

    `current` has the halts that decisions check: None if there is no halt. Where others may change the halts, a thread
    reads them every half second, from the first decision on. Until the first successful read, everything is halted.
    """

    def __init__(
        self, store: HaltStore, *, file: Path | str | None = None, clock: Callable[[], int] = lambda: int(time())
    ) -> None:
        """Read the halts in the store and in the file. `clock` returns the time in seconds since 1970."""
        self._clock = clock
        self.log: Callable[..., object] = lambda event, **details: None  # writes a line about the server
        self._stored = FollowedSource(StoreHalts(store))
        self._filed = None if file is None else FollowedSource(HaltFile(file))
        self._lock, self._stop = RLock(), Event()
        self._thread: Thread | None = None
        self._reported: dict[str, tuple[Halt, bool]] = {}
        self._follower, self._reader = 0, os.getpid()  # the processes whose threads follow and read the halts
        self._store_is_shared = store.is_shared
        self.is_followed = store.is_shared or file is not None  # whether others may change the halts
        self.current: HaltSet | None = UNREAD if self.is_followed else None
        self._read()
        if not self.is_followed:
            self._publish()
        _controls.add(self)

    def now(self) -> int:
        """Return the time in seconds since 1970; 0 if the clock fails, so that no halt ends."""
        try:
            return self._clock()
        except Exception:
            return 0

    # ── Decisions ─────────────────────────────────────────────────────────────────────────────

    def enter(self, now: int) -> HaltSet | None:
        """Return the halts in effect at a time in nanoseconds; None if no halt is in effect. Call it only if `current`
        is not None."""
        if self.is_followed and self._follower != os.getpid():
            self.start()
        halts = self.current
        return None if halts is None else halts.in_effect(now)

    # ── Following ─────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Follow the halts in a thread of this process, if others may change them."""
        if not self.is_followed:
            return
        with self._lock:
            if self._follower == os.getpid():
                return
            if self._reader != os.getpid():  # the parent process may have read them long ago
                self._read()
            self._follower, self._stop = os.getpid(), Event()
            self._publish()
            self._thread = Thread(target=follow, args=(weakref.ref(self), self._stop), name="halts", daemon=True)
            self._thread.start()
            _following.add(self)

    def close(self) -> None:
        """Stop following the halts, and wait until the current read ends."""
        self._stop.set()
        _following.discard(self)
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.join(MAX_CLOSE_SECONDS)

    def share(self) -> None:
        """Share the halts with the workers that this process will fork."""
        with self._lock:
            if not self._store_is_shared:  # the store is in the memory of one process
                stored = StoreHalts(WorkerHalts())
                stored.adopt(self._store.latest)
                self._stored = FollowedSource(stored)
                self._store_is_shared = self.is_followed = True
                self.current = UNREAD
            for followed in self._sources:
                followed.copy, followed.halts = WorkerHalts(), None
            self._read()

    def renew_after_fork(self) -> None:
        """Let the first decision of a forked process read the halts and start a thread. Halts that only the parent
        process has read count as unread, because the parent may have read them long ago."""
        self._lock, self._thread, self._reported = RLock(), None, {}
        if self.is_followed:
            self.current = UNREAD
            for followed in self._sources:
                followed.halts, followed.failures = None, 0

    def refresh(self) -> None:
        """Read all halts now. A source that cannot be read keeps its latest known halts."""
        with self._lock:
            self._read()
            if not self.is_followed or self._follower == os.getpid():
                self._publish()

    @property
    def _store(self) -> StoreHalts:
        source = self._stored.source
        assert isinstance(source, StoreHalts)
        return source

    @property
    def _sources(self) -> Iterator[FollowedSource]:
        yield self._stored
        if self._filed is not None:
            yield self._filed

    def _read(self) -> None:
        for followed in self._sources:
            try:
                followed.read()
            except (StoreError, HaltsUnreadableError) as error:
                self._note_failure(followed, str(error))
            except Exception as error:  # a defect must not lift a halt
                self._note_failure(followed, f"{type(error).__name__}: {error}")
            else:
                self._note_success(followed)

    def _note_failure(self, followed: FollowedSource, why: str) -> None:
        followed.read_copy()
        followed.failures += 1
        followed.why = why
        if followed.failures == FAILURES_BEFORE_ALARM:
            kept = "everything is halted" if followed.halts is None else "the halts that were read last stay in effect"
            _LOG.error(
                "the halts in %s cannot be read, and %s: %s", followed.source.name, kept, why,
                extra={"event": "halts_unreadable"},
            )  # fmt: skip
            self.log("halts_unreadable", source=followed.source.name, why=why)

    def _note_success(self, followed: FollowedSource) -> None:
        if followed.is_alarming:
            extra = {"event": "halts_readable"}
            _LOG.warning("the halts in %s can be read again", followed.source.name, extra=extra)
            self.log("halts_readable", source=followed.source.name)
        followed.failures, followed.why = 0, ""

    def _publish(self) -> None:
        """Pass the known halts to decisions, and report changes."""
        now = self.now()
        known = [
            halt for followed in self._sources for halt in followed.halts or () if halt.until + FORGET_SECONDS > now
        ]
        armed = [ArmedHalt(halt, None if halt.place is None else parse_place(halt.place)) for halt in known]
        if any(followed.halts is None for followed in self._sources):
            armed.append(ArmedHalt(UNREAD_HALT))
        if armed != list(self.current or ()):
            self.current = HaltSet(armed) if armed else None
        self._report(known, now)

    def _report(self, known: list[Halt], now: int) -> None:
        """Report each halt that begins, ends or is lifted, once."""
        before, self._reported = self._reported, {halt.id: (halt, halt.until > now) for halt in known}
        liftings = {one.id: one for one in self._store.latest.lifted}
        for id, (halt, in_effect) in self._reported.items():
            if in_effect and id not in before:
                self._log_change("on", halt)
            elif not in_effect and before.get(id, (halt, False))[1]:
                self._log_change("ended", halt)
        for id, (halt, in_effect) in before.items():
            if in_effect and id not in self._reported:
                self._log_change("ended" if halt.until <= now else "lifted", halt, liftings.get(id))

    def _log_change(self, state: str, halt: Halt, lifting: HaltLift | None = None) -> None:
        details = {name: value for name, value in halt.to_dict().items() if name != "id"}
        more = {} if lifting is None else {"lifted_by": lifting.by, "lifting_reason": lifting.reason}
        covers = ", ".join(f"{name} {text}" for name, text in halt.scope.items()) or "everything"
        _LOG.warning(
            "halt %s of %s: %s", halt.id, covers, state, extra={"event": "halt", "state": state, "halt": halt.id}
        )
        self.log("halt", state=state, halt=halt.id, **details, **more)

    # ── Operators ─────────────────────────────────────────────────────────────────────────────

    @property
    def status(self) -> HaltStatus:
        """The halts in effect, and the names of the sources that cannot be read."""
        now = self.now()
        known = [halt for followed in self._sources for halt in followed.halts or () if halt.until > now]
        failing = [
            one.source.name for one in self._sources if one.is_alarming or one.halts is None or self._is_old(one)
        ]
        return HaltStatus(tuple(known), tuple(failing))

    def _is_old(self, followed: FollowedSource) -> bool:
        """Return whether the last read is long ago, because the thread waits for a store or a file, or has died."""
        return self._follower == os.getpid() and monotonic() - followed.read_at > MAX_SILENT_SECONDS

    @property
    def unread(self) -> list[tuple[str, str]]:
        """The sources that could not be read yet, each with the reason."""
        return [(one.source.name, one.why) for one in self._sources if one.halts is None]

    @property
    def liftings(self) -> tuple[HaltLift, ...]:
        """The latest liftings of halts in the store."""
        return self._store.latest.lifted

    @property
    def ended(self) -> tuple[Halt, ...]:
        """The halts that have reached their end, and are still in the store or in the file."""
        now = self.now()
        return tuple(halt for followed in self._sources for halt in followed.halts or () if halt.until <= now)

    def halt(self, halt: Halt) -> Halt:
        """Set a halt, in this process before the method returns, and elsewhere within a second. Raises HaltError and
        StoreError; after a StoreError, the store may have the halt."""
        with self._lock:
            self._store.change(lambda document: document.adding(halt, self.now()))
            self._take()
        return halt

    def lift(self, id: str, reason: str, by: str = "") -> HaltLift:
        """Lift a halt. Raises HaltError and StoreError."""
        lifting = HaltLift(id, reason, self.now(), by)
        with self._lock:
            if self._filed is not None and any(halt.id == id for halt in self._filed.halts or ()):
                name = self._filed.source.name
                raise HaltError(f"the halt `{id}` is in {name}", "remove it there")
            self._store.change(lambda document: document.lifting(lifting, self.now()))
            self._take()
        return lifting

    def _take(self) -> None:
        """Let decisions of this process use the document that it has just saved."""
        self._stored.take(self._store.latest.halts)
        self._note_success(self._stored)
        if not self.is_followed or self._follower == os.getpid():
            self._publish()


def follow(control: weakref.ref[HaltControl], stop: Event) -> None:
    """Read the halts periodically, until `stop` is set or the control is no longer referenced."""
    while not stop.wait(POLL_SECONDS):
        found = control()
        if found is None:
            return
        try:
            found.refresh()
        except Exception:  # a defect must not end the thread
            _LOG.exception("the halts cannot be followed", extra={"event": "halts_unreadable"})
        del found


# ── Forked processes ──────────────────────────────────────────────────────────────────────────


_controls: weakref.WeakSet[HaltControl] = weakref.WeakSet()
_following: weakref.WeakSet[HaltControl] = weakref.WeakSet()  # those with a thread


def close_controls() -> None:
    """Stop following halts everywhere in this process."""
    for control in list(_following):
        control.close()


def renew_controls() -> None:
    _following.clear()
    for control in list(_controls):
        control.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_controls)

"""The sinks of one log: a thread for each sink, and a thread that measures how far the sinks lag."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from time import monotonic, time

from policyengine.audit.rotation import rotated_files, rotation_lock
from policyengine.audit.sinks.cursor import (
    FOLDER_MODE,
    CursorError,
    cursor_place,
    find_file,
    read_cursor,
    write_cursor,
)
from policyengine.audit.sinks.log_follower import FINISHED_SECONDS, start_cursor
from policyengine.audit.sinks.sender import IDLE_SECONDS, SinkSender
from policyengine.audit.sinks.targets import OnLag, SinkKind, SinkTarget, SinkTargetError, parse_sinks
from policyengine.audit.sinks.transport import Transport
from policyengine.http.fetch import CertificatesError, FetchError
from policyengine.process_threads import ProcessThreads, ThreadRun

_LOG = logging.getLogger("policyengine")
FOLDER_SUFFIX = ".sinks"
STOP_SECONDS = 1.0  # to send the last records when a process ends
SPOOL_PARTS = 16  # number of files of a full spool


class SinkSetupError(Exception):
    """The error for sinks that cannot be opened; `hint` says how to correct that."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """The sinks of a log. `folder` contains their cursors (default: the name of the log with `.sinks`). With `spool`,
    the log is only a spool, whose files are deleted once every sink has sent them."""

    targets: tuple[SinkTarget, ...]
    folder: Path | None = None
    spool: bool = False

    @property
    def on_lag(self) -> OnLag:
        """The default of `on_lag`: deny for a spool, because its lines are nowhere else."""
        return OnLag.DENY if self.spool else OnLag.CONTINUE

    @property
    def part_bytes(self) -> int:
        """The size at which a file of the spool is rotated."""
        return min(target.lag for target in self.targets) // SPOOL_PARTS


class Sink:
    """One sink in one process: its counts, its lag in bytes, and what happens while it lags beyond its bound."""

    def __init__(self, sender: SinkSender) -> None:
        self.sender, self.name, self.on_lag = sender, sender.name, sender.on_lag
        self.lag = self.denials = 0
        self._logged = False  # whether the lag was logged
        self.measure()

    @property
    def lagging(self) -> bool:
        """Whether the sink lags beyond its bound."""
        return self.lag > self.sender.target.lag

    @property
    def counts(self) -> dict[str, int]:
        """The counts of this process, by metric key."""
        sender = self.sender
        return {
            "sink_sent": sender.sent,
            "sink_lost": sender.lost,
            "sink_failures": sender.failures,
            "sink_denials": self.denials,
        }

    def measure(self) -> None:
        """Measure how far the sink lags."""
        with suppress(OSError, CursorError):  # the sender logs the errors
            self.lag = self.sender.lag()

    def log_changes(self) -> None:
        """Log when the lag exceeds the bound, and when it no longer does."""
        if self.lagging is self._logged:
            return
        self._logged = self.lagging
        if self.lagging:
            means = "decisions are denied" if self.on_lag is OnLag.DENY else "decisions are not denied"
            _LOG.error(
                "the sink `%s` lags behind by %s, more than its bound: %s", self.name, megabytes(self.lag), means,
                extra={"event": "sink_lags", "sink": self.name},
            )  # fmt: skip
        else:
            _LOG.warning("the sink `%s` has caught up", self.name, extra={"event": "sink_caught_up", "sink": self.name})


class SinkSet:
    """The sinks of a log in this process."""

    def __init__(self, log: Path, options: SinkOptions, clock: Callable[[], float] = monotonic) -> None:
        """Open the sinks. The cursor of a new sink is created at the end of the log. Raises SinkSetupError."""
        self._log, self._options = log, options
        self.folder = options.folder or log.with_name(log.name + FOLDER_SUFFIX)
        self._clock = clock
        self._prepare()
        self.sinks = tuple(Sink(self._open(target)) for target in options.targets)
        self._deny = tuple(sink for sink in self.sinks if sink.on_lag is OnLag.DENY)
        self._threads = ProcessThreads("log sink", self._runs, self._report, clock)
        _SETS.add(self)

    def _open(self, target: SinkTarget) -> SinkSender:
        open_transport(target).close()  # to report mistakes now
        return SinkSender(
            target, partial(open_transport, target), self._log, self.folder,
            on_lag=target.on_lag or self._options.on_lag, spool=self._options.spool, clock=self._clock,
        )  # fmt: skip

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            for target in self._options.targets:
                if read_cursor(self.folder, target.name) is None:
                    write_cursor(self.folder, target.name, start_cursor(self._log))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise SinkSetupError(
                f"the folder `{self.folder}` of the sinks cannot be written: {why}",
                "make the folder writable, or name another folder",
            ) from None
        except CursorError as error:
            raise SinkSetupError(str(error)) from None

    # ── Decisions ─────────────────────────────────────────────────────────────────────────────

    def admits(self) -> bool:
        """Return whether decisions may be made: not while a sink that denies lags beyond its bound. Never waits."""
        for sink in self._deny:
            if sink.lagging:
                sink.denials += 1
                return False
        return True

    def wake(self) -> None:
        """Start the threads of this process. A failure is logged, not raised."""
        self._threads.wake()

    def _runs(self) -> Iterator[ThreadRun]:
        yield self._watch
        for sink in self.sinks:
            yield partial(send_until_stopped, sink.sender)

    def _report(self, error: RuntimeError) -> None:
        _LOG.error("the sinks of `%s` cannot be started: %s", self._log, error, extra={"event": "sink_fails"})

    def _watch(self, stop: Event) -> None:
        while True:
            self.tick()
            if stop.wait(IDLE_SECONDS):
                return

    def tick(self) -> None:
        """Measure and log how far each sink lags, and delete the files of a spool that every sink has sent."""
        for sink in self.sinks:
            sink.measure()
            sink.log_changes()
        if self._options.spool:
            with suppress(OSError, CursorError):  # a later tick deletes them
                delete_sent_files(self._log, self.folder, [sink.name for sink in self.sinks])

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Send the remaining records within `seconds`, and end the threads. Records that remain after that are sent
        after a restart."""
        self._threads.stop(seconds)

    def after_fork(self) -> None:
        """Leave locks, connections and threads to the parent process, and reset the counts."""
        self._threads.forget()
        for sink in self.sinks:
            sink.sender.after_fork()
            sink.denials = 0


def send_until_stopped(sender: SinkSender, stop: Event) -> None:
    """Send until stopped, and then send the remaining lines until none is left or a step fails."""
    while not stop.wait(sender.step()):
        pass
    while not sender.step():
        pass
    sender.close()


def open_sinks(log: Path, sinks: SinkOptions | Sequence[str]) -> SinkSet:
    """Open the sinks of a log, from options or from URLs. Raises SinkSetupError."""
    if isinstance(sinks, SinkOptions):
        return SinkSet(log, sinks)
    try:
        return SinkSet(log, SinkOptions(parse_sinks(sinks)))
    except SinkTargetError as error:
        raise SinkSetupError(error.message, error.hint) from None


def open_transport(target: SinkTarget) -> Transport:
    """Return a transport for the target. Raises SinkSetupError."""
    from policyengine.audit.sinks.http import HttpTransport
    from policyengine.audit.sinks.otlp import OtlpTransport
    from policyengine.audit.sinks.stdout import StdoutTransport
    from policyengine.audit.sinks.syslog import SyslogTransport

    try:
        match target.kind:
            case SinkKind.STDOUT:
                return StdoutTransport()
            case SinkKind.HTTP:
                return HttpTransport(target)
            case SinkKind.OTLP:
                return OtlpTransport(target)
            case SinkKind.SYSLOG:
                return SyslogTransport(target)
    except CertificatesError as error:
        raise SinkSetupError(f"the sink `{target.name}`: {error}", "`ca` must name a PEM file") from None
    except FetchError as error:
        hint = (
            "`#plain_http=true` permits `http://` to other machines: anyone on the network path can then read "
            "the records"
        )
        raise SinkSetupError(f"the sink `{target.place}`: {error.why}", hint) from None


def delete_sent_files(log: Path, folder: Path, sinks: Sequence[str]) -> None:
    """Delete rotated files that every sink has left. Raises OSError, CursorError."""
    with rotation_lock(log):
        files = [find_file(path) for path in (*rotated_files(log), log)]
        keep = len(files) - 1
        for sink in sinks:
            cursor = read_cursor(folder, sink)
            place = None if cursor is None else cursor_place(files, log, cursor)
            keep = min(keep, 0 if place is None else place)
        for file in files[:keep]:
            if time() - file.path.stat().st_mtime >= FINISHED_SECONDS:
                file.path.unlink()


def megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"


# ── Processes ─────────────────────────────────────────────────────────────────────────────────

_SETS: weakref.WeakSet[SinkSet] = weakref.WeakSet()


def _after_fork() -> None:
    for sinks in tuple(_SETS):
        sinks.after_fork()


def _at_exit() -> None:
    for sinks in tuple(_SETS):
        sinks.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""Compares the policies before and after a reload, in a separate process and within a time limit."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from time import monotonic
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from policyengine.child_processes import child_environment, python_command

if TYPE_CHECKING:
    from policyengine.analysis.diff.model import Diff, Difference, ItemChange, LimitChange, TrustChange

GRACE_SECONDS = 10.0  # extra seconds in which the process may start and end
MAX_LISTED_WIDENINGS = 50  # maximum number of listed widenings
MAX_NAMED_PLACES = 3  # maximum number of named places for each widening
COMMAND = "from policyengine.reload.comparison import main; main()"


@dataclass(frozen=True, slots=True)
class WideningChange:
    """A change that lets more requests pass; `request` is an example, if a single request can show it."""

    rule: str
    places: tuple[str, ...]
    change: str
    request: dict[str, Any] | None = None

    @property
    def words(self) -> str:
        named, more = "; ".join(self.places[:MAX_NAMED_PLACES]), len(self.places) - MAX_NAMED_PLACES
        place = (f" at {named}" if named else "") + (f" and {more:,} more" if more > 0 else "")
        shows = "" if self.request is None else f", for example {json.dumps(self.request, ensure_ascii=False)}"
        return f"{self.change}{place}, by {self.rule}{shows}"


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """The widenings of a reload; `unproved`, the places where the reload may widen more, with the reasons; and the
    `seconds` that the comparison took.
    """

    widenings: tuple[WideningChange, ...] = ()
    unproved: tuple[str, ...] = ()
    seconds: float = 0.0


# ── In the calling process ────────────────────────────────────────────────────────────────────


class ComparisonProcess:
    """A process that compares two bundles. Call `poll` until it answers, or `wait`."""

    def __init__(self, old: bytes, new: bytes, seconds: float) -> None:
        """Start the comparison. Raises OSError if no process can be started."""
        self._began, self._seconds = monotonic(), seconds
        self._answer: IO[bytes] = TemporaryFile()  # noqa: SIM115  # closed when it is read
        with TemporaryFile() as question:
            pickle.dump((old, new, seconds), question)
            question.seek(0)
            self._process = subprocess.Popen(
                python_command(COMMAND),
                stdin=question,
                stdout=self._answer,
                start_new_session=True,
                env=child_environment(),
            )

    def poll(self) -> PolicyComparison | None:
        """Return the result, or None while the process is still comparing."""
        if self._process.poll() is None:
            if monotonic() - self._began < self._seconds + GRACE_SECONDS:
                return None
            self._end()
        return self._read()

    def wait(self) -> PolicyComparison:
        self.join()
        self._end()
        return self._read()

    def join(self) -> None:
        """Wait until the process has ended or has exceeded its time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._began + self._seconds + GRACE_SECONDS - monotonic()))

    def stop(self) -> None:
        """End the process without a result."""
        self._end()
        self._answer.close()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read(self) -> PolicyComparison:
        took = monotonic() - self._began
        with self._answer:
            self._answer.seek(0)
            data = self._answer.read()
        if self._process.returncode or not data:
            return PolicyComparison((), ("the comparison failed: the operator's log says why",), took)
        found = pickle.loads(data)
        assert isinstance(found, PolicyComparison)
        return found


# ── In the comparing process ──────────────────────────────────────────────────────────────────


class TimeLimitError(BaseException):
    """The error that ends a comparison when its time limit has passed."""


def main() -> None:
    """Compare at low priority, so that the comparison does not slow down servers. Printed text goes to stderr, because
    stdout carries the answer.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answer.write(pickle.dumps(compare_bundles(*pickle.load(sys.stdin.buffer))))


def compare_bundles(old: bytes, new: bytes, seconds: float) -> PolicyComparison:
    """Compare both bundles as far as the time limit allows."""
    from random import Random

    from policyengine.analysis.diff.compare import MAX_SAMPLES, PolicyDiffer
    from policyengine.compiler.bundle.file import decode_bundle

    began, late = monotonic(), [f"not everything was compared within {seconds:g} s"]
    comparing = PolicyDiffer(decode_bundle(old).kernel, decode_bundle(new).kernel, Random(0), False, MAX_SAMPLES)
    with suppress(TimeLimitError):
        with time_limit(seconds):
            comparing.walk()
        late.clear()
    found = comparing.result()
    return PolicyComparison(tuple(find_widenings(found)), (*late, *describe_doubts(found)), monotonic() - began)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in the main thread after `seconds`, if the system has interval timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def describe_doubts(found: Diff) -> Iterator[str]:
    yield from (one.words for one in found.doubts)


def find_widenings(found: Diff) -> Iterator[WideningChange]:
    """Yield every change that widens or may widen. A change of approvers may widen, because the new approvers may
    approve requests that the previous approvers would refuse."""
    opens = ("widening", "changed")
    for difference in found.differences:
        if difference.direction in opens:
            yield widening_of_difference(difference)
    for limit in found.limits:
        if limit.direction in opens:
            yield widening_of_limit(limit)
    for anchor in found.trust:
        if anchor.direction in opens:
            yield widening_of_trust(anchor)
    if found.maps is not None:
        yield WideningChange("map authzen", (), f"other AuthZEN questions: {format_items(found.maps)}")
    if found.profiles is not None:
        yield WideningChange("profiles", (), f"other behavior is learned: {format_items(found.profiles)}")


def format_items(change: ItemChange) -> str:
    return "; ".join([*(f"- {one.text}" for one in change.removed), *(f"+ {one.text}" for one in change.added)])


def widening_of_difference(one: Difference) -> WideningChange:
    rules = [rule.name for rule in (*one.removed, *one.added)] or [rule.name for rule in one.new.rules]
    named = ", ".join(dict.fromkeys(rules)) or "several rules together"
    places = tuple(witness.region.words for witness in one.witnesses)
    return WideningChange(named, places, f"{one.old.words} -> {one.new.words}", one.witnesses[0].request)


def widening_of_limit(limit: LimitChange) -> WideningChange:
    rule = limit.new or limit.old
    assert rule is not None
    before, after = (None if one is None else one.text for one in (limit.old, limit.new))
    change = f"{limit.verb}: {before or 'nothing'} -> {after or 'nothing'}"
    return WideningChange(rule.name, (), change)


def widening_of_trust(anchor: TrustChange) -> WideningChange:
    told = [*(f"- {one.text}" for one in anchor.removed), *(f"+ {one.text}" for one in anchor.added)]
    return WideningChange(anchor.name, (), f"{anchor.verb}: {'; '.join(told)}")

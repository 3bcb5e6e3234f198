"""The recent decisions of a log: which outcomes may be reported, and what is known about their requests.

An outcome is recorded only for a decision that a process of this log made for the same caller, and only once. So a
caller can neither fill the log with reports nor report requests that were never decided.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from mmap import mmap
from threading import Lock

from msgspec import Struct

from policyengine.runtime.current_caller import current_caller
from policyengine.runtime.decision import Decision
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.ids import Stamp, time_of

MAX_RECENT = 50_000  # maximum decisions that a process remembers with their subjects
MAX_TEXT = 512  # maximum characters of a text in a subject; longer texts are left out
# The table that workers share: buckets of entries, newest first. An entry is a digest whose last bit says whether the
# outcome was reported.
ENTRY_BYTES, BUCKET_BYTES = 8, 64
BUCKETS = 16_384  # for 131,072 decisions; one in 100,000 of the last 16,384 is forgotten
DIGEST_MASK = 2**64 - 2
REPORTED = 1


class ReportTurn(Enum):
    """Whether a report is the first about its decision, a repeated report, or a report about an unknown decision."""

    FIRST = "first"
    AGAIN = "again"
    UNKNOWN = "unknown"


# Not tracked by the garbage collector, because traversing tens of thousands of these objects would take 30 ms.
class DecisionSubject(Struct, frozen=True, gc=False):
    """The facts about its decision that an outcome repeats. `endpoint` is the most specific declared pattern that
    matches the request, or the endpoint itself if none does; `resource` is a type and an id; `task` and `model` are the
    raw facts `task.id` and `attestation.model`."""

    decision: Decision
    client: str | None = None
    endpoint: Endpoint | str | None = None
    resource: tuple[str, str] | None = None
    task: object = None
    model: object = None

    def to_dict(self) -> dict[str, object]:
        """Return the known members in the form of the log. Long texts are left out; a long text in the chain leaves out
        the whole chain."""
        from policyengine.explain.endpoint_words import endpoint_words

        decision, principal, endpoint, resource = self.decision, self.decision.principal, self.endpoint, self.resource
        reason = decision.reasons[0] if decision.reasons else None
        chain = list(principal.chain) if all(map(is_short, principal.chain)) else []
        members = {
            "agent": principal.agent, "issuer": principal.issuer, "user": principal.user, "chain": chain,
            "client": self.client, "task": self.task, "model": self.model,
            "endpoint": endpoint if endpoint is None or isinstance(endpoint, str) else endpoint_words(endpoint),
            "resource": None if resource is None or not is_short(resource[1]) else resource_member(resource),
            "outcome": str(decision.outcome), "gate": None if decision.gate is None else str(decision.gate),
            "rule": None if reason is None else reason.rule, "revision": decision.revision,
        }  # fmt: skip
        return {name: value for name, value in members.items() if value and (not_text(value) or is_short(value))}


def is_short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TEXT


def not_text(value: object) -> bool:
    return isinstance(value, list | dict)


def resource_member(resource: tuple[str, str]) -> dict[str, str]:
    return {"type": resource[0], "id": resource[1]}


class RecentDecision(Struct, gc=False):
    """A decision of this process, its caller, and whether its outcome was reported."""

    caller: str
    subject: DecisionSubject
    reported: bool = False


class RecentDecisions:
    """The decisions whose outcomes may be reported, as many as fit: the oldest are forgotten first.

    A process finds its own decisions by their milliseconds, so that adding a decision costs little. After `share`,
    forked processes also know each other's decisions, but not their subjects.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._by_time: dict[int | str, list[RecentDecision]] = {}
        self._order: deque[int | str] = deque()
        self._count = 0
        self._table = mmap(-1, BUCKETS * BUCKET_BYTES)  # created before a fork; unused pages take no memory
        self._is_shared = False

    def share(self) -> None:
        """Make the decisions of this process known to other processes that were forked from the same one."""
        self._is_shared = True

    def add(self, subject: DecisionSubject, caller: str | None = None) -> None:
        """Remember a decision for a caller, by default the current one. A decision that is added again keeps its
        state."""
        if caller is None:
            caller = current_caller()
        stamp = subject.decision.stamp
        key = recent_key(stamp)
        entry = RecentDecision(caller, subject)
        with self._guard:
            if isinstance(key, str) and self._find(caller, key) is not None:
                return
            same_time = self._by_time.get(key)
            if same_time is None:
                self._by_time[key] = [entry]
                self._order.append(key)
            else:
                same_time.append(entry)
            self._count += 1
            if self._count > MAX_RECENT:
                self._count -= len(self._by_time.pop(self._order.popleft()))
            if self._is_shared:
                self._publish(caller, subject.decision.id)

    def take_turn(self, decision: str) -> ReportTurn:
        """Record that the current caller reported the outcome of the decision. Return whether this is the first report,
        a repeated report, or a report about an unknown decision.
        """
        return self._change(decision, reported=True)

    def give_back(self, decision: str) -> None:
        """Let the outcome be reported again, because it could not be recorded."""
        self._change(decision, reported=False)

    def subject(self, decision: str) -> DecisionSubject | None:
        """Return the facts about a decision of the current caller; None if this process does not know the decision."""
        with self._guard:
            entry = self._find(current_caller(), decision)
        return None if entry is None else entry.subject

    def _find(self, caller: str, decision: str) -> RecentDecision | None:
        for key in (time_of(decision), decision):
            for entry in self._by_time.get(key, ()) if key is not None else ():
                if entry.caller == caller and entry.subject.decision.id == decision:
                    return entry
        return None

    def _change(self, decision: str, *, reported: bool) -> ReportTurn:
        caller = current_caller()
        with self._guard:
            if self._is_shared:
                return self._change_shared(caller, decision, reported)
            entry = self._find(caller, decision)
            if entry is None:
                return ReportTurn.UNKNOWN
            before, entry.reported = entry.reported, reported
            return ReportTurn.AGAIN if before == reported else ReportTurn.FIRST

    # ── Between workers ───────────────────────────────────────────────────────────────────────

    def _publish(self, caller: str, decision: str) -> None:
        digest, start = self._place(caller, decision)
        bucket = self._table[start : start + BUCKET_BYTES]
        if find_entry(bucket, digest) < 0:
            self._table[start : start + BUCKET_BYTES] = digest + bucket[:-ENTRY_BYTES]

    def _change_shared(self, caller: str, decision: str, reported: bool) -> ReportTurn:
        digest, start = self._place(caller, decision)
        at = find_entry(self._table[start : start + BUCKET_BYTES], digest)
        if at < 0:
            return ReportTurn.UNKNOWN
        state = start + at + ENTRY_BYTES - 1
        before = self._table[state] & REPORTED
        self._table[state] = digest[-1] | (REPORTED if reported else 0)
        return ReportTurn.AGAIN if before == reported else ReportTurn.FIRST

    @staticmethod
    def _place(caller: str, decision: str) -> tuple[bytes, int]:
        """Return the digest of a decision, and where its bucket starts. Forked processes have the same secret of
        `hash`, which callers do not know."""
        digest = hash((caller, decision)) & DIGEST_MASK
        return digest.to_bytes(ENTRY_BYTES), (digest >> 1) % BUCKETS * BUCKET_BYTES


def recent_key(stamp: Stamp) -> int | str:
    """Return the time of a decision in milliseconds or, if its id was already created, the id, which may have another
    form or belong to a repeated decision."""
    if isinstance(stamp, str):
        return stamp
    nanoseconds, serial = stamp
    return serial if isinstance(serial, str) else nanoseconds // 1_000_000


def find_entry(bucket: bytes, digest: bytes) -> int:
    """Return the offset of the entry for a digest in its bucket, whether or not its outcome was reported; -1 if the
    bucket has no such entry.
    """
    for entry in (digest, digest[:-1] + bytes((digest[-1] | REPORTED,))):
        at = bucket.find(entry)
        while at >= 0 and at % ENTRY_BYTES:
            at = bucket.find(entry, at + 1)
        if at >= 0:
            return at
    return -1

"""The recent decisions of a log: which outcomes may be reported, and what is known about their requests.

An outcome is recorded only for a decision that a process of this log made for the same caller, and only once. So a
caller cannot fill the log with reports, or invent requests.
"""

from __future__ import annotations

import secrets
from enum import Enum
from hashlib import blake2b
from mmap import mmap
from threading import Lock
from typing import NamedTuple

from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Decision
from policyengine.runtime.endpoints import Endpoint
from policyengine.typesystem import EntityRef

# The shared table: buckets of entries, newest first. An entry is a digest and its state.
DIGEST_BYTES, ENTRY_BYTES, BUCKET_BYTES = 7, 8, 64
BUCKETS = 16_384  # for 131,072 decisions; of the last 16,384, one in 100,000 is forgotten
DECIDED, REPORTED = 1, 2  # states of an entry
MAX_SUBJECTS = 10_000  # subjects that a process remembers
MAX_TEXT = 512  # characters of a text in a subject; longer ones are left out


class ReportTurn(Enum):
    """Whether a report is the first about its decision, a further one, or about an unknown decision."""

    FIRST = "first"
    AGAIN = "again"
    UNKNOWN = "unknown"


class DecisionSubject(NamedTuple):
    """The facts about its decision that an outcome repeats. `task` and `model` are the raw facts `task.id` and
    `attestation.model`."""

    decision: Decision
    client: str | None = None
    endpoint: Endpoint | None = None
    resource: EntityRef | None = None
    task: object = None
    model: object = None

    def to_dict(self) -> dict[str, object]:
        """Return the known members in the form of the log. Long texts are left out, but a chain is not shortened."""
        from policyengine.explain.explanation import endpoint_words

        decision, principal, resource = self.decision, self.decision.principal, self.resource
        reason = decision.reasons[0] if decision.reasons else None
        texts = {
            "agent": principal.agent, "issuer": principal.issuer, "user": principal.user, "client": self.client,
            "task": self.task, "model": self.model,
            "endpoint": None if self.endpoint is None else endpoint_words(self.endpoint),
            "outcome": str(decision.outcome), "gate": None if decision.gate is None else str(decision.gate),
            "rule": None if reason is None else reason.rule, "revision": decision.revision,
        }  # fmt: skip
        found: dict[str, object] = {name: text for name, text in texts.items() if is_short(text)}
        if principal.chain and all(map(is_short, principal.chain)):
            found["chain"] = list(principal.chain)
        if resource is not None and is_short(resource.id):
            found["resource"] = {"type": resource.type, "id": resource.id}
        return found


def is_short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TEXT


class RecentDecisions:
    """The decisions whose outcomes may be reported. Processes that are forked later share them, except their subjects.

    It is bounded: the oldest decisions are forgotten first.
    """

    def __init__(self) -> None:
        self._table = mmap(-1, BUCKETS * BUCKET_BYTES)
        self._key = secrets.token_bytes(32)  # digests that callers cannot compute
        self._guard = Lock()
        self._subjects: dict[str, DecisionSubject] = {}
        self._older: dict[str, DecisionSubject] = {}

    def add(self, subject: DecisionSubject) -> None:
        """Remember a decision for the current caller. A decision that is added again keeps its state."""
        key = outcome_key(subject.decision.id)
        digest, start = self._place(key)
        with self._guard:
            bucket = self._table[start : start + BUCKET_BYTES]
            if find_entry(bucket, digest) < 0:
                entry = b"%b%c" % (digest, DECIDED)
                self._table[start : start + BUCKET_BYTES] = entry + bucket[:-ENTRY_BYTES]
            self._subjects[key] = subject
            if len(self._subjects) >= MAX_SUBJECTS // 2:
                self._older, self._subjects = self._subjects, {}

    def take_turn(self, decision: str) -> ReportTurn:
        """Return whether this is the first report of the current caller about the decision; the next one is not."""
        return self._change(decision, DECIDED, REPORTED)

    def give_back(self, decision: str) -> None:
        """Let the outcome be reported again, because it could not be recorded."""
        self._change(decision, REPORTED, DECIDED)

    def subject(self, decision: str) -> DecisionSubject | None:
        """Return what this process knows about a decision of the current caller."""
        key = outcome_key(decision)
        return self._subjects.get(key) or self._older.get(key)

    def _change(self, decision: str, before: int, after: int) -> ReportTurn:
        digest, start = self._place(outcome_key(decision))
        with self._guard:
            at = find_entry(self._table[start : start + BUCKET_BYTES], digest)
            if at < 0:
                return ReportTurn.UNKNOWN
            state = start + at + DIGEST_BYTES
            if self._table[state] != before:
                return ReportTurn.AGAIN
            self._table[state] = after
            return ReportTurn.FIRST

    def _place(self, key: str) -> tuple[bytes, int]:
        """Return the digest of a key, and where its bucket starts."""
        found = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=11, key=self._key).digest()
        return found[:DIGEST_BYTES], int.from_bytes(found[DIGEST_BYTES:]) % BUCKETS * BUCKET_BYTES


def find_entry(bucket: bytes, digest: bytes) -> int:
    """Return the offset of an entry in its bucket, or -1."""
    at = bucket.find(digest)
    while at >= 0 and at % ENTRY_BYTES:
        at = bucket.find(digest, at + 1)
    return at

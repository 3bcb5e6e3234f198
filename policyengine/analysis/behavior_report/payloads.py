"""Finds odd payloads in logs: values whose length, characters or size is unusual for their field.

The payloads of a class teach what is usual for each field (`behavior/field_profile.py`), and later payloads are ranked
by it. The report names fields and decisions, but contains no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from policyengine.analysis.behavior_report.tallies import caller_data
from policyengine.behavior.events import ALLOWED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.field_marks import Marks, field_tag, payload_fields, payload_marks
from policyengine.behavior.field_profile import SCALE, PayloadCounts, PayloadProfile, learn_profile
from policyengine.behavior.model import ClassName
from policyengine.behavior.state import DAY
from policyengine.time_formats import format_epoch_seconds

ODD: Final = SCALE // 100  # a payload is odd if at most one usual payload in a hundred is as unusual
LEAST_HELD: Final = 500  # payloads of a class after which the next day has a new profile
MAX_HELD: Final = 5_000
MAX_CLASSES: Final = 1_000
MAX_FIELDS: Final = 10_000
LEARNED_PART: Final = 4  # one of so many odd payloads is learned
ROWS: Final = 10


@dataclass(slots=True)
class OddField:
    """The odd payloads whose most unusual value was in one field of an endpoint, and the first and the last of them.
    `score` says how unusual the oddest value is, and `decision` is its decision."""

    caller: Caller
    first: int
    last: int
    score: int
    decision: str
    payloads: int = 0


@dataclass(frozen=True, slots=True)
class PayloadReport:
    """The numbers of judged and of odd payloads, and the oddest fields, by endpoint and name."""

    judged: int
    odd: int
    fields: tuple[tuple[tuple[str, str], OddField], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that `docs/behavior.md` describes."""
        return {
            "judged": self.judged, "odd": self.odd, "declared": ODD / SCALE,
            "observed": self.odd / self.judged if self.judged else None,
            "fields": [
                {"endpoint": endpoint or None, "field": field, "payloads": one.payloads,
                 "first": format_epoch_seconds(one.first // 1_000), "last": format_epoch_seconds(one.last // 1_000),
                 **caller_data(one.caller), "decision": one.decision}
                for (endpoint, field), one in self.fields
            ],
        }  # fmt: skip


class ClassPayloads:
    """The payloads of one class: their counts, those of the last days, and the profile that was learned before."""

    def __init__(self) -> None:
        self._counts = PayloadCounts()
        self._held: list[tuple[int, int, Marks]] = []
        self._day = -1
        self._odd = 0
        self.profile: PayloadProfile | None = None

    def begin(self, day: int) -> None:
        """Begin a day: if there are enough payloads, one half of them teaches a new profile, and the other half is
        ranked by this profile before it teaches the next profiles."""
        if day == self._day:
            return
        self._day = day
        if len(self._held) >= LEAST_HELD:
            self._teach(self._held[::2])
            self.profile = learn_profile(self._counts)
            self.profile.calibrate((endpoint, marks) for _, endpoint, marks in self._held[1::2])
            self._teach(self._held[1::2])
            self._held = []

    def _teach(self, payloads: list[tuple[int, int, Marks]]) -> None:
        for principal, endpoint, marks in payloads:
            self._counts.add(principal, endpoint, marks)

    def learn(self, principal: int, endpoint: int, marks: Marks, *, odd: bool) -> None:
        self._odd += odd
        if len(self._held) < MAX_HELD and (not odd or self._odd % LEARNED_PART == 0):
            self._held.append((principal, endpoint, marks))


class PayloadWatch:
    """Judges the payloads of logs, and learns from those of allowed requests."""

    def __init__(self, tagger: Tagger) -> None:
        self._tag = tagger.tag
        self._classes: dict[ClassName, ClassPayloads] = {}
        self._fields: dict[tuple[str, str], OddField] = {}
        self._judged = self._odd = 0

    def report(self) -> PayloadReport:
        most = sorted(self._fields.items(), key=lambda one: (-one[1].score, one[0]))[:ROWS]
        return PayloadReport(self._judged, self._odd, tuple(most))

    def read(self, event: BehaviorEvent, decision: str, facts: Mapping[str, object], *, counts: bool) -> None:
        """Judge the payload of a decision, and learn from the payload. It is counted if `counts` is true."""
        name = event.caller.issuer, event.group
        known = self._classes.get(name)
        if known is None:
            if len(self._classes) >= MAX_CLASSES:
                return
            known = self._classes[name] = ClassPayloads()
        known.begin(event.at // DAY)
        marks = payload_marks(self._tag, event.endpoint, facts)
        if not marks:
            return
        endpoint, profile = self._tag(event.endpoint), known.profile
        odd = profile is not None and profile.rank(endpoint, marks) <= ODD
        if profile is not None and counts and endpoint in profile.endpoints:
            self._judged += 1
            if odd:
                self._count(event, decision, facts, profile.endpoints[endpoint].worst(marks))
        if event.outcome == ALLOWED:
            known.learn(self._tag(event.caller.agent), endpoint, marks, odd=odd)

    def _count(self, event: BehaviorEvent, decision: str, facts: Mapping[str, object], worst: tuple[int, int]) -> None:
        self._odd += 1
        score, tag = worst
        field = next((one for one in payload_fields(facts) if field_tag(self._tag, event.endpoint, one) == tag), "")
        key = event.endpoint, field_words(field)
        found = self._fields.get(key)
        if found is None:
            if len(self._fields) >= MAX_FIELDS:
                return
            found = self._fields[key] = OddField(event.caller, event.at, event.at, -1, decision)
        found.payloads += 1
        found.last = event.at
        if score > found.score:
            found.score, found.decision, found.caller = score, decision, event.caller


def field_words(path: str) -> str:
    """Return the path of a field as policies write it: `body.lines[].sku`."""
    root, *names = path.split("\0")
    words = root
    for name in names:
        text = name.rstrip("\2")
        plain = text[1:-1]
        words += f".{plain}" if plain.isidentifier() else f"[{text}]"
        words += "[]" * (len(name) - len(text))
    return words

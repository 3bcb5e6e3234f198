"""What a diff comes to, as data: differences with their witnesses, what was proved, what was only sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from policyengine.analysis.bound_parts import binds_no_less
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.literals import parse_duration
from policyengine.semantics.approval_binding import IN_ACTIONS, IN_CALLS, IN_HTTP, object_words

# What an answer comes to: the outcome, whom a confirm asks, what an allow demands.
Answer: TypeAlias = frozenset[tuple[str, ...]]
REASON = "reason"
UNSAID = frozenset(tuple(map(object_words, one)) for one in (IN_CALLS, IN_ACTIONS, IN_HTTP))
STRENGTH = (Outcome.DENY, Outcome.THROTTLE, Outcome.CONFIRM, Outcome.ALLOW)


class Direction(StrEnum):
    """`widening` opens a door or drops a duty, `narrowing` the reverse; `changed` may be either: others are asked.

    `reasons`: the answer is the same, for other reasons or with other words.
    """

    WIDENING = "widening"
    CHANGED = "changed"
    NARROWING = "narrowing"
    REASONS = "reasons"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by its name and place; `text` as it is written."""

    name: str
    at: str
    text: str

    def to_dict(self) -> dict[str, str]:
        return {"rule": self.name, "at": self.at, "text": self.text}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one policy to the witness, and the rules it rests on."""

    outcome: Outcome
    details: tuple[str, ...]  # whom a confirm asks, what an allow demands
    rules: tuple[Rule, ...]

    @property
    def words(self) -> str:
        return in_words(self.outcome, self.details)

    def to_dict(self) -> dict[str, Any]:
        rules = [rule.to_dict() for rule in self.rules]
        return {"outcome": str(self.outcome), "details": list(self.details), "rules": rules}


@dataclass(frozen=True, slots=True)
class Region:
    """Who asks for what; `condition` is when the answers differ, as far as the changed rules tell."""

    endpoint: str
    caller: str
    condition: str

    @property
    def words(self) -> str:
        return " · ".join((self.endpoint, self.caller, *([f"when {self.condition}"] if self.condition else [])))

    def to_dict(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "caller": self.caller, "when": self.condition}


@dataclass(frozen=True, slots=True)
class Witness:
    """A request to which both engines, old and new, were seen to give these answers."""

    region: Region
    question: Mapping[str, Any]
    at: datetime

    @property
    def request(self) -> dict[str, Any]:
        """For `policyengine decide`: it is decided as of its time, and nothing is spent."""
        return {**self.question, "options": {"at": written(self.at), "consume": False}}


@dataclass(frozen=True, slots=True)
class Difference:
    """One change of answers, wherever the same rules bring it about; `witnesses` hold one for each region."""

    direction: Direction
    old: Verdict
    new: Verdict
    removed: tuple[Rule, ...]
    added: tuple[Rule, ...]
    witnesses: tuple[Witness, ...]

    def to_dict(self) -> dict[str, Any]:
        first = self.witnesses[0]
        return {
            "direction": str(self.direction),
            "regions": [one.region.to_dict() for one in self.witnesses],
            "witness": first.request,
            "old": self.old.to_dict(),
            "new": self.new.to_dict(),
            "removed": [rule.to_dict() for rule in self.removed],
            "added": [rule.to_dict() for rule in self.added],
        }


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A rate or budget that was added (`old` is None), removed (`new` is None) or changed. It widens where it provably
    lets more through, narrows where less, is `changed` where neither is certain; `reasons` is another name alone."""

    direction: Direction
    old: Rule | None
    new: Rule | None

    @property
    def verb(self) -> str:
        if self.direction is Direction.REASONS:
            return "renamed"
        changed = {Direction.WIDENING: "looser", Direction.NARROWING: "tighter"}
        both = self.old is not None and self.new is not None
        return changed.get(self.direction, "changed") if both else "removed" if self.new is None else "added"

    def to_dict(self) -> dict[str, Any]:
        old, new = (None if one is None else one.to_dict() for one in (self.old, self.new))
        return {"direction": str(self.direction), "change": self.verb, "old": old, "new": new}


@dataclass(frozen=True, slots=True)
class MapChange:
    """Items of maps that only one of both has: questions of other protocols become other ones. Which of them may then
    pass is not said, so it counts as `changed`."""

    removed: tuple[Rule, ...]
    added: tuple[Rule, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"removed": [one.to_dict() for one in self.removed], "added": [one.to_dict() for one in self.added]}


@dataclass(frozen=True, slots=True)
class Doubt:
    """Where sameness was not proved: `sampled` requests were tried and no further difference was found."""

    endpoint: str
    caller: str
    why: str
    sampled: int

    def to_dict(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "caller": self.caller, "why": self.why, "sampled": self.sampled}


@dataclass(frozen=True, slots=True)
class Flip:
    """A recorded decision that the new policy would not make again."""

    id: str
    line: int
    direction: Direction
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A log decided again: how many records were, what flips, and those that could not be decided again."""

    file: str
    records: int
    flips: tuple[Flip, ...]
    unusable: int

    def to_dict(self) -> dict[str, Any]:
        flips = [
            {"id": one.id, "line": one.line, "direction": str(one.direction), "old": one.old, "new": one.new}
            for one in self.flips
        ]
        return {"file": self.file, "records": self.records, "unusable": self.unusable, "flips": flips}


@dataclass(frozen=True, slots=True)
class Diff:
    """All of it. `same` and `differing` count regions: kinds of callers at classes of endpoints."""

    old: str
    new: str
    differences: tuple[Difference, ...]
    doubts: tuple[Doubt, ...]
    same: int
    differing: int
    log: Replayed | None = None
    limits: tuple[LimitChange, ...] = ()
    maps: MapChange | None = None

    @property
    def proved(self) -> bool:
        """Nothing differs but what is told."""
        return not self.doubts

    @property
    def widens(self) -> bool:
        """Whether a door may have opened: who is asked instead of others may say yes where those said no."""
        found = {one.direction for one in self.differences} | {one.direction for one in self.limits}
        found |= {one.direction for one in self.flips}
        return self.maps is not None or any(one in (Direction.WIDENING, Direction.CHANGED) for one in found)

    @property
    def flips(self) -> tuple[Flip, ...]:
        return self.log.flips if self.log else ()

    @property
    def differs(self) -> bool:
        return bool(self.differences or self.limits or self.maps or self.flips)

    def to_dict(self) -> dict[str, Any]:
        return {
            "old": self.old,
            "new": self.new,
            "same": not self.differs and self.proved,
            "proved": self.proved,
            "regions": {"same": self.same, "differing": self.differing, "sampled": len(self.doubts)},
            "widens": self.widens,
            "differences": [one.to_dict() for one in self.differences],
            "limits": [one.to_dict() for one in self.limits],
            "maps": None if self.maps is None else self.maps.to_dict(),
            "doubts": [one.to_dict() for one in self.doubts],
            "log": None if self.log is None else self.log.to_dict(),
        }


def written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# ── Answers and their direction ───────────────────────────────────────────────────────────────


def answer_of(decision: Decision) -> Answer:
    """What a decision comes to; the names of rules, their words and what would help are left out."""
    if decision.outcome is Outcome.ALLOW:
        return frozenset(("oblige", one.kind, *one.arguments) for one in decision.obligations)
    if decision.outcome is not Outcome.CONFIRM:
        return frozenset({(str(decision.outcome),)})
    asked = (one for one in decision.remedies if one.kind == "approval")
    return frozenset(("confirm", one.by or "", one.within or "any time", *(one.bound or ())) for one in asked)


def whole_answer_of(decision: Decision) -> Answer:
    """The same with all reasons, remedies and obligations; places and digests are not."""
    reasons = ((REASON, str(one.gate), one.rule or "", one.message, str(one.outcome)) for one in decision.reasons)
    remedies = (
        (REASON, one.kind, one.rule or "", one.by or "", one.within or "", one.need or "", *(one.scopes or ()))
        for one in decision.remedies
    )
    duties = ((REASON, one.kind, *one.arguments, one.rule, one.message or "") for one in decision.obligations)
    return answer_of(decision).union(reasons, remedies, duties)


def coming_to(answer: Answer) -> Answer:
    return frozenset(key for key in answer if key[0] != REASON)


def outcome_of(answer: Answer) -> Outcome:
    kinds = {key[0] for key in answer}
    return next((one for one in STRENGTH if str(one) in kinds), Outcome.ALLOW)


def details_of(answer: Answer) -> tuple[str, ...]:
    """Whom a confirm asks, what an allow demands."""

    def words(key: tuple[str, ...]) -> str:
        if key[0] == "confirm":
            bound = f" bound to ({', '.join(key[3:])})" if key[3:] not in UNSAID else ""
            return f"{key[1]}{'' if key[2] == 'any time' else f' within {key[2]}'}{bound}"
        return " ".join(key[1:])

    return tuple(sorted(words(key) for key in coming_to(answer) if len(key) > 1))


def in_words(outcome: Outcome, details: tuple[str, ...]) -> str:
    return f"{outcome} ({'; '.join(details)})" if details else str(outcome)


def direction_of(old: Answer, new: Answer) -> Direction:
    """A weaker outcome widens, and so does a duty or a confirmation that is gone, or an approval that lasts longer or
    is bound to less."""
    old, new = coming_to(old), coming_to(new)
    before, after = STRENGTH.index(outcome_of(old)), STRENGTH.index(outcome_of(new))
    if old == new:
        return Direction.REASONS
    if before != after:
        return Direction.WIDENING if after > before else Direction.NARROWING
    lost, gained = old - new, new - old
    if outcome_of(old) is Outcome.CONFIRM:
        lost = frozenset(key for key in lost if not any(stricter(other, key) for other in gained))
    if not lost:
        return Direction.NARROWING
    laxer = all(any(stricter(key, other) for key in lost) for other in gained)
    return Direction.WIDENING if laxer or outcome_of(old) is Outcome.ALLOW else Direction.CHANGED


def stricter(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """The same people are asked, and what they grant lasts no longer and is bound to no less."""
    return one[:2] == other[:2] and lasts_no_longer(one[2], other[2]) and binds_no_less(one[3:], other[3:])


def lasts_no_longer(one: str, other: str) -> bool:
    if one == other or other == "any time":
        return True
    lasts, longer = parse_duration(one), parse_duration(other)
    return lasts is not None and longer is not None and lasts <= longer


def unique(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(dict.fromkeys(rules))

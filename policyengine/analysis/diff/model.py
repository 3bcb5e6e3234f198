"""The result of a comparison as data: differences with witnesses, changed trust, and regions without a proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from policyengine.analysis.diff.answer_order import Direction, format_answer
from policyengine.runtime.decision import Outcome
from policyengine.runtime.values import Invalid
from policyengine.testcases.scenario import learned_facts_in
from policyengine.time_formats import format_rfc3339
from policyengine.vocabulary import LEARNED_ROOTS

Item = TypeVar("Item")
MAX_NAMED_RULES = 5  # maximum rules named for a region without proof


@dataclass(frozen=True, slots=True)
class RuleExcerpt:
    """A rule by name and position; `text` is its source."""

    name: str
    at: str
    text: str

    def to_dict(self) -> dict[str, str]:
        return {"rule": self.name, "at": self.at, "text": self.text}


@dataclass(frozen=True, slots=True)
class WitnessVerdict:
    """The answer of one policy to the witness, and the rules responsible. `throttled` names the rates and budgets whose
    whole capacity the request exceeds."""

    outcome: Outcome
    details: tuple[str, ...]  # approvals and obligations
    rules: tuple[RuleExcerpt, ...]
    throttled: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return format_answer(self.outcome, self.details)

    def to_dict(self) -> dict[str, Any]:
        rules = [rule.to_dict() for rule in self.rules]
        throttled = list(self.throttled)
        return {"outcome": str(self.outcome), "details": list(self.details), "rules": rules, "throttled": throttled}


@dataclass(frozen=True, slots=True)
class RequestRegion:
    """Callers and endpoints. `condition` describes the requests whose answers differ, as far as the changed rules show
    them.
    """

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
    """A request that the old and the new policy answer differently. `question` also has the learned facts of the
    caller, as `behavior` and `cluster`.
    """

    region: RequestRegion
    question: Mapping[str, Any]
    at: datetime

    @property
    def request(self) -> dict[str, Any]:
        """The request for `policyengine decide`, with its time, and without consuming state."""
        asked = {name: one for name, one in self.question.items() if name not in LEARNED_ROOTS}
        return {**asked, "options": {"at": format_rfc3339(self.at), "consume": False}}

    @property
    def behavior(self) -> dict[str, Any]:
        """The learned facts of the caller by name; a fact that could not be read is `unknown`."""
        given = learned_facts_in(self.question)
        return {name: "unknown" if isinstance(one, Invalid) else one for name, one in given.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """One change of answers caused by the same rules; `witnesses` has one witness for each region."""

    direction: Direction
    old: WitnessVerdict
    new: WitnessVerdict
    removed: tuple[RuleExcerpt, ...]
    added: tuple[RuleExcerpt, ...]
    witnesses: tuple[Witness, ...]

    def to_dict(self) -> dict[str, Any]:
        first = self.witnesses[0]
        return {
            "direction": str(self.direction),
            "regions": [one.region.to_dict() for one in self.witnesses],
            "witness": first.request,
            **({"behavior": first.behavior} if first.behavior else {}),
            "old": self.old.to_dict(),
            "new": self.new.to_dict(),
            "removed": [rule.to_dict() for rule in self.removed],
            "added": [rule.to_dict() for rule in self.added],
        }


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A rate or budget that was added (`old` is None), removed (`new` is None) or changed. It is `widening` if it
    provably admits more requests, `narrowing` if it provably admits fewer, `changed` if neither is certain, and
    `reasons` if it was only renamed.
    """

    direction: Direction
    old: RuleExcerpt | None
    new: RuleExcerpt | None

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
class ItemChange:
    """Items that only one policy has: items of maps, which translate questions of other protocols, or profiles, which
    say how behavior is learned. Whether the change allows more is unknown, so the direction is `changed`.
    """

    removed: tuple[RuleExcerpt, ...]
    added: tuple[RuleExcerpt, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"removed": [one.to_dict() for one in self.removed], "added": [one.to_dict() for one in self.added]}


@dataclass(frozen=True, slots=True)
class TrustChange:
    """An issuer or attester with changed verification. No request shows the change, because credentials are verified
    before the decision.
    """

    direction: Direction
    name: str
    removed: tuple[RuleExcerpt, ...]
    added: tuple[RuleExcerpt, ...]

    @property
    def verb(self) -> str:
        return "trusted differently" if self.removed and self.added else "added" if self.added else "removed"

    def to_dict(self) -> dict[str, Any]:
        removed, added = ([one.to_dict() for one in several] for several in (self.removed, self.added))
        return {"direction": str(self.direction), "name": self.name, "removed": removed, "added": added}


@dataclass(frozen=True, slots=True)
class UnprovedRegion:
    """A region that is not proved equal: `rules` are those that changed there, `why` is the reason. `sampled` is the
    number of requests that showed no further difference.
    """

    endpoint: str
    caller: str
    why: str
    sampled: int
    rules: tuple[RuleExcerpt, ...] = ()

    @property
    def words(self) -> str:
        """The region, its changed rules, and why it is not proved."""
        names = list(dict.fromkeys(rule_with_place(rule) for rule in self.rules))
        more = [f"{len(names) - MAX_NAMED_RULES:,} more"] if len(names) > MAX_NAMED_RULES else []
        named = f": {', '.join([*names[:MAX_NAMED_RULES], *more])}" if names else ""
        return f"{self.endpoint} · {self.caller}{named}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        rules = [rule.to_dict() for rule in self.rules]
        named = {"endpoint": self.endpoint, "caller": self.caller, "why": self.why}
        return {**named, "rules": rules, "sampled": self.sampled}


@dataclass(frozen=True, slots=True)
class DecisionFlip:
    """A recorded decision that the new policy would change. If `recorded` is true, `old` is the recorded decision,
    which the old policy would not repeat either.
    """

    id: str
    line: int
    direction: Direction
    old: str
    new: str
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class LogDiff:
    """A replayed log: the number of records, the flips, and the records that cannot be replayed."""

    file: str
    records: int
    flips: tuple[DecisionFlip, ...]
    unusable: int

    def to_dict(self) -> dict[str, Any]:
        flips = [
            {
                "id": one.id, "line": one.line, "direction": str(one.direction), "old": one.old, "new": one.new,
                "recorded": one.recorded,
            }
            for one in self.flips
        ]  # fmt: skip
        return {"file": self.file, "records": self.records, "unusable": self.unusable, "flips": flips}


@dataclass(frozen=True, slots=True)
class Diff:
    """The result of a comparison. `same` and `differing` count regions: kinds of callers at classes of endpoints."""

    old: str
    new: str
    differences: tuple[Difference, ...]
    doubts: tuple[UnprovedRegion, ...]
    same: int
    differing: int
    log: LogDiff | None = None
    limits: tuple[LimitChange, ...] = ()
    maps: ItemChange | None = None
    profiles: ItemChange | None = None
    trust: tuple[TrustChange, ...] = ()

    @property
    def proved(self) -> bool:
        """Whether the list of differences is complete."""
        return not self.doubts

    @property
    def opens(self) -> bool:
        """Whether a difference grants or may grant access: other approvers may approve requests that the previous
        approvers would not.
        """
        found = {one.direction for one in self.differences} | {one.direction for one in self.limits}
        found |= {one.direction for one in self.trust} | {one.direction for one in self.flips}
        items = self.maps is not None or self.profiles is not None
        return items or not found.isdisjoint((Direction.WIDENING, Direction.CHANGED))

    @property
    def suspects(self) -> bool:
        """Whether a rule changed in a region that is not proved, and may grant access there."""
        return any(one.rules for one in self.doubts)

    @property
    def widens(self) -> bool:
        """Whether access is widened, or not proved to be unchanged."""
        return self.opens or self.suspects

    @property
    def flips(self) -> tuple[DecisionFlip, ...]:
        return self.log.flips if self.log else ()

    @property
    def differs(self) -> bool:
        items = self.maps or self.profiles
        return bool(self.differences or self.limits or items or self.trust or self.flips)

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
            "profiles": None if self.profiles is None else self.profiles.to_dict(),
            "trust": [one.to_dict() for one in self.trust],
            "doubts": [one.to_dict() for one in self.doubts],
            "log": None if self.log is None else self.log.to_dict(),
        }


def rule_with_place(rule: RuleExcerpt) -> str:
    return f"{rule.name} ({rule.at})" if rule.at else rule.name


def unique_items(items: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(items))

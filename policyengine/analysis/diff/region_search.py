"""Searches one region for requests that show how two policies differ, or reports why equality is not proved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import AnswerKey, without_reasons
from policyengine.analysis.diff.callers import CallerKind
from policyengine.analysis.diff.decision_diagrams import MAX_DIAGRAM_NODES, DiagramTooLargeError, StatePath
from policyengine.analysis.diff.describe import ChangedUnits, describe_condition, describe_unproved
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.model import (
    RequestRegion,
    RuleExcerpt,
    UnprovedRegion,
    Witness,
    WitnessVerdict,
    unique_items,
)
from policyengine.analysis.diff.oracle import rule_excerpt, to_json_value
from policyengine.analysis.diff.policy_view import AnswerConditions, PolicyView
from policyengine.analysis.diff.region_facts import APPROVAL_KEY, DENY_KEY
from policyengine.analysis.diff.region_requests import RegionRequests
from policyengine.analysis.diff.regions import RegionComparison
from policyengine.analysis.diff.rule_units import RuleUnit, approval_bound_facts, units_missing_from
from policyengine.analysis.diff.sample_chains import DelegatorSummary
from policyengine.analysis.diff.specialize import CallerAssumption, RewriteOptions
from policyengine.source import Span

if TYPE_CHECKING:
    from policyengine.analysis.diff.compare import EndpointUnits, PolicyDiffer

MAX_PATHS = 30  # maximum paths, and as many random paths, to try for one pair of answers
MAX_TRIES, MAX_TRIES_AFTER_DOUBTS = 200, 20  # maximum requests to a region; fewer after many regions without proof
MANY_DOUBTS = 12
MAX_CACHED_COMPARISONS = 200  # comparisons
MANY_UNITS = 60  # maximum rules of both policies for one caller to compare together
FEW_PATHS = 3
SAMPLES = 200  # requests to a region without proof, while requests of the total remain …
MIN_SAMPLES = 20  # … and the minimum, unless many regions have no proof
TOO_MANY_COMBINATIONS = (
    f"the conditions have too many combinations: more than {MAX_DIAGRAM_NODES:,} of them must be distinguished"
)
MAY_BE_PENDING = frozenset({"args", "body", "context", "request"})
REASONS_SAMPLED = "reasons were compared by sampled requests"

# Only changed rules, changed rules apart from common rules, or all rules.
ComparisonScope: TypeAlias = Literal["anew", "apart", "whole"]
RulePiece: TypeAlias = tuple[tuple[str, ...], str, Span]


@dataclass(frozen=True, slots=True)
class DifferingRegion:
    """A region that differs: a witness, both verdicts, and the changed rules."""

    witness: Witness
    answers: tuple[AnswerKey, AnswerKey]
    verdicts: tuple[WitnessVerdict, WitnessVerdict]
    removed: tuple[RuleExcerpt, ...]
    added: tuple[RuleExcerpt, ...]


@dataclass(eq=False)
class RegionSearch:
    """The search for one kind of caller at one class of endpoints."""

    comparing: PolicyDiffer
    place: EndpointUnits
    caller: CallerKind
    seen: set[tuple[object, object]] = field(default_factory=set)
    open: list[str] = field(default_factory=list)  # why equality is not proved
    tries: int = 0

    def __post_init__(self) -> None:
        self.requests = RegionRequests(self.place, self.comparing.sides)

    @property
    def at(self) -> EndpointClass:
        return self.place.at

    def look(self, handing: DelegatorSummary) -> None:
        before = len(self.comparing.found)
        whole = self.comparing.reasons
        alone = self.compare(self.caller, sound=None, whole=whole)
        if isinstance(self.caller.settled.agent, str):
            handed = replace(self.caller, settled=replace(self.caller.settled, hops=None))
            self.compare_handed(handed, handing)
        if read_no_more := self.read_no_more():
            self.open.append(f"an approval may cover more requests: {read_no_more} is no longer read")
        if read_anew := self.read_anew():
            self.seek_pending(read_anew)
        if whole and alone is not None:
            self.seek_reasons(alone)
        if self.open:
            self.doubt(alone)
        elif len(self.comparing.found) == before:
            self.comparing.same += 1

    def compare(self, caller: CallerKind, *, sound: bool | None, whole: bool = False) -> RegionComparison | None:
        """Compare both answers as diagrams. If they are the same object, equality is proved; otherwise search for
        requests that show the difference. Return None if the diagrams are too large.
        """
        try:
            if not whole and self.place.settled:
                comparison = self.comparison(caller, sound, "anew")
                if comparison.old is comparison.new:
                    return comparison
                many = len(caller.old) + len(caller.new) > MANY_UNITS and not comparison.notes
                if many and self.shown_apart(caller, sound):
                    return comparison
            comparison = self.comparison(caller, sound, "whole")
        except (DiagramTooLargeError, RecursionError):
            self.open.append(TOO_MANY_COMBINATIONS)
            return None
        made = comparison.diagrams
        for ends in made.differences(comparison.old, comparison.new):
            if ends not in self.seen and not self.witnessed(comparison, caller, ends):
                self.open.append(describe_unproved(comparison, ends))
        return comparison

    def shown_apart(self, caller: CallerKind, sound: bool | None) -> bool:
        """Return whether requests show all changes. The search calls this method if the policies as a whole are too
        large to be compared.
        """
        comparison = self.comparison(caller, sound, "apart")
        if comparison.shut:
            return True
        every = comparison.diagrams.differences(comparison.old, comparison.new)
        return all(ends in self.seen or self.witnessed(comparison, caller, ends) for ends in every)

    def comparison(self, caller: CallerKind, sound: bool | None, what: ComparisonScope) -> RegionComparison:
        """Return the comparison, cached for all endpoints with the same rules. Raises DiagramTooLargeError."""
        known = self.comparing.comparisons
        texts = tuple(tuple(unit.text for unit in units) for units in (caller.old, caller.new))
        key = texts, caller.settled, sound, what, self.place.likeness
        if key not in known:
            if len(known) >= MAX_CACHED_COMPARISONS:
                known.clear()
            said = self.said_anew(caller) if what == "anew" else self.said(caller)
            known[key] = RegionComparison(
                caller.settled, *said, self.comparing.issuers, sound=sound, apart=what == "apart",
                spelled=self.at.spelled,
            )  # fmt: skip
        return known[key]

    def said_anew(self, caller: CallerKind) -> tuple[AnswerConditions, AnswerConditions]:
        """Return only the conditions of changed rules. If these are equal, the whole policies are equal."""
        doors = any(unit.guard is None for units in self.changed_units() for unit in units)
        doors |= len({side.uncounted(self.at, caller.settled) for side in self.comparing.sides}) > 1
        kept = [
            [*anew, *(unit for unit in units if unit.guard is None)]
            for anew, units in zip(self.changed_guards(), (caller.old, caller.new), strict=True)
        ]
        old, new = self.comparing.sides
        reading = self.reading(caller.settled)
        return old.said(self.at, kept[0], reading, opens=doors), new.said(self.at, kept[1], reading, opens=doors)

    def changed_guards(self) -> Iterator[list[RuleUnit]]:
        yield from ([unit for unit in units if unit.guard is not None] for units in self.changed_units())

    def said(self, caller: CallerKind) -> tuple[AnswerConditions, AnswerConditions]:
        old, new = self.comparing.sides
        reading = self.reading(caller.settled)
        return old.said(self.at, caller.old, reading), new.said(self.at, caller.new, reading)

    def reading(self, settled: CallerAssumption) -> RewriteOptions:
        return self.place.reading(settled)

    def read_no_more(self) -> str:
        """Return the facts that changed confirms no longer read. Approvals were bound to these facts, and
        no longer are.
        """
        old, new = self.read_by_confirms()
        return ", ".join(f"`{name}`" for name in sorted(old.keys() - new.keys()))

    def read_anew(self) -> list[str]:
        """Return the request facts that changed confirms newly read: while one of these facts is pending, the confirm
        denies.
        """
        old, new = self.read_by_confirms()
        return sorted({".".join(new[name]) for name in new.keys() - old.keys() if new[name][0] in MAY_BE_PENDING})

    def read_by_confirms(self) -> list[dict[str, tuple[str, ...]]]:
        """Return for each policy the paths of the facts that changed confirms read, by name."""
        confirms = ([unit.part for unit in units if isinstance(unit.part, k.Confirm)] for units in self.changed_units())
        return [
            {name: path for one in several for name, path in approval_bound_facts(one, self.at).items()}
            for several in confirms
        ]

    def seek_pending(self, names: Sequence[str]) -> None:
        """Search for requests that a confirm stops while facts that it newly reads are pending."""
        before = len(self.comparing.found)
        old, new = self.said(self.caller)
        apart = replace(new, confirms={(*key, "reads more"): several for key, several in new.confirms.items()})
        try:
            comparison = RegionComparison(
                self.caller.settled, old, apart, self.comparing.issuers, sound=None, spelled=self.at.spelled
            )
        except (DiagramTooLargeError, RecursionError):
            return self.open.append(TOO_MANY_COMBINATIONS)
        made = comparison.diagrams
        differing = made.differences(comparison.old, comparison.new)
        asking = [ends for ends in differing if isinstance(ends[1], tuple) and APPROVAL_KEY in ends[1]]
        for ends in asking:
            paths = islice(made.paths(comparison.old, comparison.new, ends), MAX_PATHS)
            self.try_paths(comparison, self.caller, paths, {"pending": [*names]})
        if asking and len(self.comparing.found) == before:
            read = ", ".join(f"`{name}`" for name in names)
            self.open.append(
                f"while {read} is pending, a confirm that reads it becomes a deny; no generated request can show this"
            )
        return None

    def seek_reasons(self, comparison: RegionComparison) -> None:
        """Try a few requests for each answer whose reasons may differ."""
        made = comparison.diagrams
        for ends in made.differences(made.end(None), comparison.new):
            paths = islice(made.paths(made.end(None), comparison.new, ends), FEW_PATHS * FEW_PATHS)
            self.try_paths(comparison, self.caller, paths)
        self.open.append(REASONS_SAMPLED)

    def compare_handed(self, handed: CallerKind, handing: DelegatorSummary) -> None:
        """Compare callers that have delegation chains. Chains are valid in both policies or in neither, unless the
        rules of chains changed.
        """
        if handing.none:
            self.compare(handed, sound=False)
        elif handing.same:
            self.compare(handed, sound=None)
        else:
            comparison = self.compare(handed, sound=None, whole=True)
            if comparison is not None:
                self.seek_chains(comparison, handed)
            self.open.append("the agents that may delegate changed, so chains of agents were only sampled")

    def seek_chains(self, comparison: RegionComparison, handed: CallerKind) -> None:
        """Search for differences that only the earlier hops cause, for a caller that has access itself."""
        made = comparison.diagrams
        closed = made.end(DENY_KEY)
        for answers in (comparison.old, comparison.new):
            for ends in made.differences(closed, answers):
                self.try_paths(comparison, handed, islice(made.paths(closed, answers, ends), FEW_PATHS))

    # ── Witnesses ─────────────────────────────────────────────────────────────────────────────

    def witnessed(self, comparison: RegionComparison, caller: CallerKind, ends: tuple[object, object]) -> bool:
        """Search for a request that shows this difference, and return whether one was found. Record every difference
        that appears during the search.
        """
        for path in self.paths(comparison, ends):
            for question, now in self.requests.on_path(comparison, caller, path):
                self.tell(comparison, caller, path, question, now)
                if ends in self.seen:
                    return True
                self.tries += 1
            if self.comparing.late or self.tries >= self.most_tries:
                break
        return False

    @property
    def most_tries(self) -> int:
        """The number of requests to try; fewer if many regions are unproved."""
        return MAX_TRIES if len(self.comparing.doubts) < MANY_DOUBTS else MAX_TRIES_AFTER_DOUBTS

    def paths(self, comparison: RegionComparison, ends: tuple[object, object]) -> Iterator[StatePath]:
        """Yield the first paths and some random paths, because the first paths are similar to each other."""
        made, old, new = comparison.diagrams, comparison.old, comparison.new
        yield from islice(made.paths(old, new, ends), MAX_PATHS)
        random = Random(f"{self.at.words} {self.caller.words}")
        yield from (made.some_path(old, new, ends, random) for _ in range(MAX_PATHS))

    def try_paths(
        self,
        comparison: RegionComparison,
        caller: CallerKind,
        paths: Iterable[StatePath],
        more: Mapping[str, Any] | None = None,
    ) -> int:
        """Try requests on these paths, with the facts `more`, record the differences, and return the number of
        requests."""
        count = 0
        for path in paths:
            for question, now in self.requests.on_path(comparison, caller, path):
                self.tell(comparison, caller, path, {**question, **(more or {})}, now)
                count += 1
        return count

    def tell(
        self, comparison: RegionComparison, caller: CallerKind, path: StatePath, question: dict[str, Any], now: datetime
    ) -> bool:
        """Record a difference that the evaluators show; return False if they agree, or if it is already known."""
        question = to_json_value(question)  # report exactly the question that was decided
        before, after = (one.answer(question, now) for one in self.comparing.asked)
        if before is None or after is None or before == after:
            return False
        pair = differing_leaves(comparison, before, after)
        if pair in self.seen:
            return False
        old, new = self.comparing.asked
        verdicts = old.verdict(question, now), new.verdict(question, now)
        self.seen.add(pair)
        condition = describe_condition(comparison, path, self.changed_by(caller))
        region = RequestRegion(self.at.words, caller.words, condition)
        witness = Witness(region, question, now)
        self.comparing.found.append(DifferingRegion(witness, (before, after), verdicts, *self.changed))
        return True

    def changed_units(self) -> tuple[list[RuleUnit], list[RuleUnit]]:
        """Return the rules for this caller that only one of the policies has."""
        return units_missing_from(self.caller.old, self.caller.new), units_missing_from(
            self.caller.new, self.caller.old
        )

    def changed_by(self, caller: CallerKind) -> ChangedUnits:
        old, new = self.comparing.sides
        reading = self.reading(caller.settled)
        removed, added = self.changed_units()
        return (removed, old.rewriter(self.at, reading), old), (added, new.rewriter(self.at, reading), new)

    @cached_property
    def changed(self) -> tuple[tuple[RuleExcerpt, ...], tuple[RuleExcerpt, ...]]:
        return removed_and_added_rules(self.comparing.sides, self.at, *self.changed_units())

    # ── Regions without a proof ──────────────────────────────────────────────────────────────

    def doubt(self, comparison: RegionComparison | None) -> None:
        sampled = 0 if comparison is None else self.sample(comparison)
        whys = list(dict.fromkeys(self.open))
        rules = (
            () if whys == [REASONS_SAMPLED] else unique_items((*self.changed[0], *self.changed[1])) or self.place.rules
        )
        self.comparing.doubts.append(UnprovedRegion(self.at.words, self.caller.words, "; ".join(whys), sampled, rules))

    def sample(self, comparison: RegionComparison) -> int:
        """Try requests with random states of all facts, with and without delegation; return the number of requests."""
        random, count = self.comparing.random, 0
        fewest = MIN_SAMPLES if len(self.comparing.doubts) < MANY_DOUBTS else 0
        handed = replace(self.caller, settled=replace(self.caller.settled, hops=None))
        while count < min(SAMPLES, max(self.comparing.samples, fewest)) and not self.comparing.late:
            path = {n: random.randrange(len(comparison.states(n))) for n in range(len(comparison.space.subjects))}
            caller = handed if isinstance(self.caller.settled.agent, str) and random.random() < 0.5 else self.caller
            count += self.try_paths(comparison, caller, [path])
        self.comparing.samples -= count
        return count


def differing_leaves(comparison: RegionComparison, before: AnswerKey, after: AnswerKey) -> tuple[object, object]:
    """Return the parts of two answers that the comparison distinguishes, or the whole answers if these are equal."""
    pair = comparison.end_of(before), comparison.end_of(after)
    return pair if pair[0] != pair[1] else (without_reasons(before), without_reasons(after))


def removed_and_added_rules(
    sides: tuple[PolicyView, PolicyView], at: EndpointClass, removed: Sequence[RuleUnit], added: Sequence[RuleUnit]
) -> tuple[tuple[RuleExcerpt, ...], tuple[RuleExcerpt, ...]]:
    """Return the removed and added rules. If only the requirements of a block changed, return only these."""
    both = [[[*side.pieces(u, at)] for u in us] for side, us in zip(sides, (removed, added), strict=True)]
    texts = [{text for pieces in several for text, _, _ in pieces} for several in both]
    found = rules_not_in(both[0], texts[1]), rules_not_in(both[1], texts[0])
    return found if any(found) else (rules_not_in(both[0], set()), rules_not_in(both[1], set()))


def rules_not_in(several: Iterable[Sequence[RulePiece]], other: set[tuple[str, ...]]) -> tuple[RuleExcerpt, ...]:
    """Return the parts of rules that the other side lacks: the rule itself, or the requirements of its block."""
    found: list[RuleExcerpt] = []
    for pieces in several:
        apart = [rule_excerpt(name, span) for text, name, span in pieces if text not in other]
        found += apart[:1] if pieces and pieces[0][0] not in other else apart
    return unique_items(found)

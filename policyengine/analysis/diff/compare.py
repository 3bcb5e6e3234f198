"""Compares two policies region by region. Each region is proved equal, different with a witness, or not proved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from time import monotonic

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import (
    Direction,
    answer_direction,
    answer_of,
    full_answer_of,
    without_reasons,
)
from policyengine.analysis.diff.callers import CallerKind, caller_kinds
from policyengine.analysis.diff.changed_items import map_changes, profile_changes
from policyengine.analysis.diff.endpoint_classes import (
    EndpointClass,
    TooManyClassesError,
    endpoint_classes,
    patterns_of,
)
from policyengine.analysis.diff.limits import limit_changes, rebound_limits
from policyengine.analysis.diff.model import Diff, Difference, RuleExcerpt, UnprovedRegion, unique_items
from policyengine.analysis.diff.one_sided_declarations import changed_rules, changed_trust_and_bindings
from policyengine.analysis.diff.oracle import PolicyOracle
from policyengine.analysis.diff.policy_view import PolicyView
from policyengine.analysis.diff.region_search import DifferingRegion, RegionSearch, removed_and_added_rules
from policyengine.analysis.diff.regions import RegionComparison
from policyengine.analysis.diff.rule_units import RuleUnit, count_unit_texts, units_missing_from
from policyengine.analysis.diff.sample_chains import DelegatorSummary
from policyengine.analysis.diff.scope import ChangeScope
from policyengine.analysis.diff.specialize import ApprovalMode, CallerAssumption, RewriteOptions
from policyengine.analysis.diff.trust import trust_changes
from policyengine.solver.value_partition import SpecialValue
from policyengine.spec.tasks import RESOURCE

MAX_REGIONS_COMPARED = 4_000  # maximum regions that are compared individually
MAX_SAMPLES = 1_500  # maximum requests to all regions that are not proved equal
EVERY_ENDPOINT = "every endpoint"
NOBODY = CallerAssumption(SpecialValue.ABSENT, SpecialValue.ABSENT)


def compare(
    old: k.Kernel, new: k.Kernel, *, reasons: bool = False, seed: int = 0, samples: int = MAX_SAMPLES,
    seconds: float | None = None,
) -> Diff:  # fmt: skip
    """Return the regions in which the new policy answers differently or may do so, and the changed limits, maps,
    profiles and trust anchors.

    With `reasons`, also compare reasons, messages and remedies of equal answers. `samples` bounds the requests to
    regions that are not proved equal; the same seed generates the same requests. Regions that are not reached within
    `seconds` are not proved.
    """
    return PolicyDiffer(old, new, Random(seed), reasons, samples, seconds).run()


@dataclass(eq=False)
class PolicyDiffer:
    old: k.Kernel
    new: k.Kernel
    random: Random
    reasons: bool
    samples: int
    seconds: float | None = None
    found: list[DifferingRegion] = field(default_factory=list)
    doubts: list[UnprovedRegion] = field(default_factory=list)
    same: int = 0
    looked_at: int = 0
    comparisons: dict[object, RegionComparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = monotonic()
        self.sides = (PolicyView(self.old, "old"), PolicyView(self.new, "new"))
        of = full_answer_of if self.reasons else answer_of
        self.asked = (PolicyOracle(self.old, of), PolicyOracle(self.new, of))
        self.issuers = frozenset(self.old.issuers) | frozenset(self.new.issuers)
        self.types = frozenset(self.old.entities) | frozenset(self.new.entities)
        of_old, of_new = ({(*path[:1], path[-1], name, claim) for name, one in kernel.issuers.items()
                           for claim, path in one.claims} for kernel in (self.old, self.new))  # fmt: skip
        self.claimed = frozenset((root, attribute) for root, attribute, *_ in of_old ^ of_new)

    def run(self) -> Diff:
        self.walk()
        return self.result()

    @property
    def late(self) -> bool:
        return self.seconds is not None and monotonic() - self.began > self.seconds

    def walk(self) -> None:
        """Compare every class of endpoints. If the comparison is interrupted, the result covers the classes compared so
        far.
        """
        if self.old.revision == self.new.revision and self.old.revision:
            return
        try:
            scope = (
                ChangeScope(None, patterns_of(self.old, self.new))
                if self.reasons
                else ChangeScope.of(self.old, self.new)
            )
            for at in endpoint_classes(scope.patterns):
                if self.late:
                    self.doubt_all(f"the comparison did not finish within {self.seconds:g} s")
                    return
                if scope.holds(at):
                    self.look_at(at)
                else:
                    self.same += 1
        except TooManyClassesError:
            self.doubt_all("the patterns of the two policies overlap in too many ways")

    def doubt_all(self, why: str) -> None:
        self.doubts.append(UnprovedRegion(EVERY_ENDPOINT, "everybody", why, 0, changed_rules(self.old, self.new)))

    def result(self) -> Diff:
        return Diff(
            self.old.revision, self.new.revision, tuple(group_regions(self.found)), tuple(self.doubts), self.same,
            len({(one.witness.region.endpoint, one.witness.region.caller) for one in self.found}),
            limits=limit_changes(self.old, self.new, reasons=self.reasons), maps=map_changes(self.old, self.new),
            profiles=profile_changes(self.old, self.new), trust=trust_changes(self.old, self.new),
        )  # fmt: skip

    def says(self, units: Sequence[RuleUnit]) -> object:
        """Return a key of rules: equal keys mean equal rules. With `reasons`, the key includes names, messages and
        order.
        """
        return [unit.told for unit in units] if self.reasons else count_unit_texts(units)

    # ── One class of endpoints ────────────────────────────────────────────────────────────────

    def look_at(self, at: EndpointClass) -> None:
        """Compare a class of endpoints. Equal rules in both policies mean equal answers; otherwise compare each kind of
        caller.
        """
        old, new = (side.units(at) for side in self.sides)
        settings = [side.setting(at) for side in self.sides]
        settled = settings[0] == settings[1] and not self.claimed
        if settled and self.says(old) == self.says(new):
            self.same += 1
            return
        place = EndpointUnits(self, at, old, new, settled)
        if not settled:
            self.doubts += rebound_limits(self.old, self.new, at, *(side.bound(at) for side in self.sides))
        kinds_of_callers, exact = caller_kinds(old, new)
        for caller in kinds_of_callers:
            if not self.look_at_caller(place, caller):
                return
        if not (exact and at.exact):
            why = "rules compare names in a way that no list of names covers"
            self.doubts.append(UnprovedRegion(at.words, "everybody", why, 0, place.rules))

    def look_at_caller(self, place: EndpointUnits, caller: CallerKind) -> bool:
        """Compare a kind of caller; return whether to continue."""
        handing = DelegatorSummary.of(caller, place.old, place.new, place.settled)
        alike = place.settled and self.says(caller.old) == self.says(caller.new)
        if (alike and (handing.none or handing.same)) or not (caller.doors or caller.notes):
            self.same += 1
            return True
        if self.looked_at >= MAX_REGIONS_COMPARED or self.late:
            why = f"not all regions were compared within {self.seconds:g} s" if self.late else "too many regions"
            self.doubts.append(UnprovedRegion(place.at.words, caller.words, why, 0, place.rules))
            return not self.late
        self.looked_at += 1
        RegionSearch(self, place, caller).look(handing)
        return True


@dataclass(frozen=True, eq=False)
class EndpointUnits:
    """The rules of both policies at one class of endpoints. `settled` says whether bindings and trust are the same in
    both policies.
    """

    comparing: PolicyDiffer
    at: EndpointClass
    old: tuple[RuleUnit, ...]
    new: tuple[RuleUnit, ...]
    settled: bool

    @cached_property
    def rules(self) -> tuple[RuleExcerpt, ...]:
        """Return the rules that changed there; if no rule did, the changed issuers, attesters, delegation limits and
        bindings.
        """
        removed, added = units_missing_from(self.old, self.new), units_missing_from(self.new, self.old)
        found = removed_and_added_rules(self.comparing.sides, self.at, removed, added)
        return unique_items((*found[0], *found[1])) or changed_trust_and_bindings(
            self.comparing.old, self.comparing.new
        )

    def reading(self, settled: CallerAssumption) -> RewriteOptions:
        """Return the options for rewriting the conditions of both policies at these endpoints."""
        old, new = self.comparing.sides
        resources = [RESOURCE in side.bound(self.at) for side in (old, new)]
        tasks = bool(old.kernel.advisory or new.kernel.advisory) or resources[0] is not resources[1]
        past = old.remembered(self.at) != new.remembered(self.at)
        return RewriteOptions(settled, self.comparing.claimed, tasks, self.comparing.types, self.approvals, past)

    @cached_property
    def likeness(self) -> object:
        """Return a key that is equal for endpoints at which conditions are rewritten in the same way."""
        sides = list(zip(self.comparing.sides, (self.old, self.new), strict=True))
        settled = any(side.reads(units, self.at.settled) for side, units in sides)
        reading = self.reading(NOBODY)
        here = (self.at.words,) if reading.tasks or settled or self.counted_by else ()
        bound = [repr(sorted(side.bound(self.at, opening=one).items())) for side, _ in sides for one in (True, False)]
        return here, reading, tuple(bound), tuple(sorted(self.at.spelled.items(), key=repr)), self.settled

    @cached_property
    def counted_by(self) -> bool:
        """Whether a limit there counts by caller."""
        return any(side.uncounted(self.at, NOBODY) for side in self.comparing.sides)

    @cached_property
    def approvals(self) -> ApprovalMode:
        """Return which approvals a condition can read."""
        asked = [count_unit_texts(unit for unit in units if unit.confirms) for units in (self.old, self.new)]
        return "none" if not any(asked) else "shared" if asked[0] == asked[1] else "own"


# ── Grouping of differences ──────────────────────────────────────────────────────────────────


def group_regions(found: Iterable[DifferingRegion]) -> Iterator[Difference]:
    """Group regions in which the same rules and answers changed; widening changes come first."""
    together: dict[object, list[DifferingRegion]] = {}
    for region in found:
        key = (*map(without_reasons, region.answers), region.removed, region.added)
        together.setdefault(key, []).append(region)
    differences = [
        Difference(
            answer_direction(*several[0].answers), *several[0].verdicts, several[0].removed, several[0].added,
            tuple(one.witness for one in several),
        )
        for several in together.values()
    ]  # fmt: skip
    yield from sorted(differences, key=lambda one: ([*Direction].index(one.direction), -len(one.witnesses)))

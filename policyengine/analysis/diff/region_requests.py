"""Turns a path of a comparison into requests: facts in the states of the path, and delegation chains."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.callers import CallerKind
from policyengine.analysis.diff.decision_diagrams import StatePath
from policyengine.analysis.diff.policy_view import PolicyView
from policyengine.analysis.diff.region_draft import RegionDraft
from policyengine.analysis.diff.region_facts import may_be_split
from policyengine.analysis.diff.regions import RegionComparison
from policyengine.analysis.diff.sample_chains import sample_hops
from policyengine.analysis.diff.specialize import CallerAssumption
from policyengine.solver.value_partition import SpecialValue
from policyengine.solver.witness.draft_from_states import StateFiller

if TYPE_CHECKING:
    from policyengine.analysis.diff.compare import EndpointUnits

TimedQuestion: TypeAlias = tuple[dict[str, Any], datetime]

MAX_CONDITIONS_ALONE = 3  # maximum conditions of delegations to satisfy one by one


@dataclass(eq=False)
class RegionRequests:
    """Builds requests at one class of endpoints. `sides` are the two policies."""

    place: EndpointUnits
    sides: tuple[PolicyView, PolicyView]
    counted: dict[CallerAssumption, tuple[k.Expr, ...]] = field(default_factory=dict)

    def on_path(self, comparison: RegionComparison, caller: CallerKind, path: StatePath) -> Iterator[TimedQuestion]:
        """Yield requests for a path, each with its time; nothing if the other rules exclude the path."""
        whole = comparison.completed(path)
        if whole is None:
            return
        disordered = yield from self.filled(comparison, caller, whole, ordered=False)
        if disordered:
            yield from self.filled(comparison, caller, whole, ordered=True)

    def filled(
        self, comparison: RegionComparison, caller: CallerKind, path: StatePath, *, ordered: bool
    ) -> Generator[TimedQuestion, None, bool]:
        """Yield requests for a whole path; return whether a text violates the order that its state requires."""
        states = {one: comparison.state(number, path) for number, one in enumerate(comparison.space.subjects)}
        wanted = {one: state for one, state in states.items() if state is not None}
        space = comparison.space
        draft = RegionDraft(self.place.at, caller.settled)
        filler = StateFiller(
            draft.editor,
            frozenset(space.subjects[number] for number in space.absence),
            {one: tuple(space.constants[number]) for number, one in enumerate(space.subjects)},
            ordered,
        )
        for operand, text in comparison.segment_texts(path):
            filler.editor.put(operand, text)
        filler.fill({one: state for one, state in wanted.items() if one not in comparison.about_segments})
        for one, state in wanted.items():
            if state is SpecialValue.BROKEN and may_be_split(one):
                draft.split_capture(one.path)
        for operand, value in comparison.values(path):
            filler.editor.put(operand, value)
        filler.complete(self.counted_by(caller.settled), wanted)
        now = draft.now
        if caller.settled.hops == 0:
            yield draft.request(), now
            return filler.disordered
        chains = list(sample_hops(self.place.at, caller.settled, (*self.place.old, *self.place.new), self.limits, now))
        yield from (({**draft.request(), "chain": {"hops": hops}}, now) for hops in chains)
        for conditions in condition_subsets(list(dict.fromkeys(self.handed_on_when(caller.settled)))):
            if filler.meet(conditions, wanted):
                yield from (({**draft.request(), "chain": {"hops": hops}}, now) for hops in chains)
        return filler.disordered

    def counted_by(self, settled: CallerAssumption) -> tuple[k.Expr, ...]:
        """Return the facts that limits of both policies read there."""
        if settled not in self.counted:
            reading = self.place.reading(settled)
            self.counted[settled] = tuple(
                dict.fromkeys(one for side in self.sides for one in side.counted_by(self.place.at, reading))
            )
        return self.counted[settled]

    def handed_on_when(self, settled: CallerAssumption) -> Iterator[k.Expr]:
        """Yield the conditions under which either policy delegates there."""
        for side, units in zip(self.sides, (self.place.old, self.place.new), strict=True):
            rewrite = side.rewriter(self.place.at, self.place.reading(settled))
            for unit in units:
                if isinstance(unit.part, k.DelegationGrant) and unit.part.when is not None:
                    yield rewrite(unit.part.when)

    @property
    def limits(self) -> list[k.DelegationLimits]:
        return [one for side in self.sides for one in side.kernel.delegation]


def condition_subsets(conditions: Sequence[k.Expr]) -> Iterator[list[k.Expr]]:
    """Yield all conditions together, then each condition with the negation of the others."""
    if conditions:
        yield [*conditions]
    for condition in conditions[:MAX_CONDITIONS_ALONE] if len(conditions) > 1 else ():
        yield [condition, *(k.Not(other, span=other.span) for other in conditions if other is not condition)]

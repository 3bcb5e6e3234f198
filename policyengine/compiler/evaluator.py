"""The production evaluator: the program of one policy with one entity store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from policyengine import kernel as k
from policyengine.clock import EPOCH, MICROSECOND
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.sizes import Limiting, SizeLimit
from policyengine.compiler.slices import Slices
from policyengine.compiler.tree import Tree, tree_of
from policyengine.evaluator import decide as walker
from policyengine.evaluator.program import EndpointRules
from policyengine.evaluator.records import NO_WINDOWS
from policyengine.evaluator.state import UNREAD
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.ids import Stamp
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, LookupEntities, Snapshot
from policyengine.runtime.value_size import LARGE_EXTENT, is_large, measure_extent
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.spec import work
from policyengine.spec.facts import MAX_HOPS
from policyengine.spec.reference import decide
from policyengine.spec.work import MAX_UNNOTICED_STEPS, head_steps, hop_steps


class Evaluator:
    """Decides by one policy and one entity store. It keeps no state of any request; threads may share it."""

    def __init__(self, kernel: k.Kernel, entities: Entities, *, tree: Tree | None = None) -> None:
        self.kernel = kernel
        self.entities = entities
        tree = tree or tree_of(kernel)
        self._named = tree.agents.names
        self.program = ProgramBuilder(kernel, tree).program
        self.slices = Slices(kernel, tree, self.program)
        self._kept: walker.KeptAttributes = {}
        self._limiting = Limiting(kernel, entities, tree)
        self._steps_by_name: dict[str, int] = {}

    def takes_long(self, request: Request) -> bool:
        """Return whether the decision may calculate for so long that others should not wait for it."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        rows = sum(len(row.parents) + measure_extent(row.attributes) for row in request.entities)
        return is_large(request.facts) or rows > LARGE_EXTENT or self.loops_long(request)

    def loops_long(self, request: Request) -> bool:
        """Return the same as `takes_long` for a question that is not large: only loops and chains take long then."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        sizes = self._size_limit(self.program.rules_at(request.endpoint))
        if sizes is not None and (request.entities or sizes.takes_long(objects_of(request))):
            return True
        return "chain" in request.facts and self._has_long_chain(request, MAX_UNNOTICED_STEPS)

    def _has_long_chain(self, request: Request, most: int) -> bool:
        """Return whether so many blocks may match the hops, and read such large facts for each, that it takes long."""
        hops = request.fact("chain", "hops")
        if not isinstance(hops, tuple) or not 0 < len(hops) <= MAX_HOPS:
            return False
        each = 1 + measure_extent(request.facts)
        agents = [hop.get("agent") for hop in hops if isinstance(hop, Mapping)]
        names = Counter(name for name in agents if type(name) is str)
        others = len(hops) - names.total()
        if len(hops) * self._hop_steps(request, self._named if others else names) * each <= most:
            return False
        steps = 0
        for block in self.slices.of(request).agents:
            who = block.who
            times = names[who.name] + others if isinstance(who, k.ExactName) else len(hops)
            steps += times * each * (head_steps(block) + hop_steps(block))
            if steps > most:
                return True
        return False

    def _hop_steps(self, request: Request, names: Iterable[str]) -> int:
        """Return the most steps of one hop at the endpoint for each element that it reads; its name is one of these."""
        rules: EndpointRules = self.program.rules_at(request.endpoint)
        if rules.hop_steps < 0:
            covering = rules.covering
            blocks = (self.kernel.agents[number] for number in covering.agents | covering.hands)
            rules.hop_steps = sum(
                head_steps(one) + hop_steps(one) for one in blocks if not isinstance(one.who, k.ExactName)
            )
        return rules.hop_steps + max(map(self._steps_of_name, names), default=0)

    def _steps_of_name(self, name: str) -> int:
        """Return the steps of a hop in all blocks for its name, wherever their grants are."""
        numbers = self._named.get(name)
        if numbers is None:
            return 0
        steps = self._steps_by_name.get(name)
        if steps is None:
            blocks = [self.kernel.agents[number] for number in numbers]
            steps = self._steps_by_name[name] = sum(head_steps(one) + hop_steps(one) for one in blocks)
        return steps

    def plan(
        self, request: Request, moment: int, looking: LookupEntities | None = None, stamp: Stamp = ""
    ) -> tuple[Decision, Effects] | Needs:
        """Return the decision if no state can change it, else the state that it depends on.

        `moment` is the time in nanoseconds since 1970. If entities are looked up, `looking` has the rows that are known
        so far: as long as some are lacking, rows are all that is needed.
        """
        if request.approvals or looking is not None or self._counts_steps(request):
            return self._plan_with_state(request, moment, looking, stamp)
        made = walker.plan(self.program, request, self.entities, moment, self._kept, stamp)
        return Needs(request, windows=made) if isinstance(made, frozenset) else made

    def _plan_with_state(
        self, request: Request, moment: int, looking: LookupEntities | None, stamp: Stamp
    ) -> tuple[Decision, Effects] | Needs:
        entities = self.entities if looking is None else looking
        windows = NO_WINDOWS
        if self.kernel.watches:
            windows = walker.find_windows(self.program, request, entities, moment)
        needs = Needs(request, frozenset(approval.id for approval in request.approvals), windows)
        if needs.approvals or needs.windows:
            return lacked(request, looking) or needs
        made = self.resume(needs, Snapshot(entities), moment, stamp)
        return lacked(request, looking) or made

    def resume(self, needs: Needs, snapshot: Snapshot, moment: int, stamp: Stamp = "") -> tuple[Decision, Effects]:
        """Return the decision with the state that was fetched, and the effects of committing it."""
        request = needs.request
        if self._counts_steps(request):
            now = EPOCH + moment // 1_000 * MICROSECOND
            decision, effects = decide(self.slices.of(request), request, snapshot, now)
            return decision.with_id(stamp), effects
        kept = self._kept if snapshot.entities is self.entities else None
        return walker.decide(self.program, request, snapshot, moment, kept, stamp)

    def _counts_steps(self, request: Request) -> bool:
        """Return whether the rules may take more steps than a decision has, by the sizes of what the question brings:
        the specification counts them, and the walker does not."""
        if type(request.endpoint) is MalformedEndpoint:
            return False
        rules: EndpointRules = self.program.rules_at(request.endpoint)
        sizes, has_chain = self._size_limit(rules), "chain" in request.facts
        if sizes is None and not has_chain and not request.approvals:
            return False
        if sizes is not None:
            if request.entities:
                return True  # the sizes of rows in the request are not in those of the entity store
            objects, more = objects_of(request), has_chain or bool(request.approvals)
            if sizes.exceeded(objects) or (more and sizes.takes_long(objects)):
                return True
        left = work.MAX_STEPS - MAX_UNNOTICED_STEPS
        if request.approvals and self._approval_steps(request, rules) > left // 2:
            return True
        return has_chain and self._has_long_chain(request, left // 2)

    def _approval_steps(self, request: Request, rules: EndpointRules) -> int:
        """Return the most steps to find out who may approve."""
        return len(request.approvals) * len(rules.effects) * (MAX_ELEMENTS + self.entities.deepest)

    def _size_limit(self, rules: EndpointRules) -> SizeLimit | None:
        """Return how large a question may be at an endpoint; None if any question is small enough."""
        found: Any = rules.sizes
        if found is UNREAD:
            kernel, numbers = self.kernel, rules.covering
            parts = [
                *(kernel.guards[number] for number in numbers.guards),
                *(kernel.limits[number] for number in numbers.limits),
                *(kernel.binders[number] for number in numbers.binders),
            ]
            found = rules.sizes = self._limiting.limit(parts, list(rules.conditional_grants))
        return found  # type: ignore[no-any-return]


def objects_of(request: Request) -> dict[str, Mapping[str, object]]:
    """Return the roots that are objects; others are unknown."""
    return {root: one for root, one in request.facts.items() if isinstance(one, Mapping)}


def lacked(request: Request, looking: LookupEntities | None) -> Needs | None:
    """The rows that the decision would have to know, if there are any."""
    return Needs(request, rows=frozenset(looking.lacking)) if looking is not None and looking.lacking else None

"""The production evaluator: a question to its decision, by the tree.

`quick` reads a question as it came, and answers it where every fact that matters is there and plain: then what the
specification says follows by two-valued logic. Whatever is less plain it leaves to `resume`, which asks the
specification about those rules alone that can matter at this endpoint to this caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from time import time_ns

from policyengine import kernel as k
from policyengine.compiler.branches import MOST_BRANCHES
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.charging import Take
from policyengine.compiler.facts import Recall
from policyengine.compiler.leaves import Leaves
from policyengine.compiler.quick import Charge, Note, Quick
from policyengine.compiler.sizes import Limiting, SizeLimit
from policyengine.compiler.slices import Slices
from policyengine.compiler.tree import Tree, tree_of
from policyengine.evaluator import decide as walker
from policyengine.evaluator.program import EndpointRules
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.history import WindowKey
from policyengine.runtime.limits import SteadyRate
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
    """Decides by one policy and one directory. It keeps no state of any request; threads may share it."""

    def __init__(
        self,
        kernel: k.Kernel,
        entities: Entities,
        *,
        tree: Tree | None = None,
        now: Callable[[], int] = time_ns,
        taking: Callable[[tuple[SteadyRate, ...]], Take] | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.kernel = kernel
        self.entities = entities
        tree = tree or tree_of(kernel)
        self.leaves = Leaves(kernel, tree, entities, taking, recall)
        self.program = ProgramBuilder(kernel, tree).program
        self.slices = Slices(kernel, tree, self.program)
        self._kept: walker.KeptAttributes = {}
        self._limiting = Limiting(kernel, entities)
        self._size_limits: dict[int, tuple[EndpointRules, SizeLimit | None]] = {}
        self.now = now
        self.quick = Quick(self.leaves, now)

    def charging(self, charge: Charge, note: Note | None = None, *, at_once: bool = False) -> Quick:
        """The quick way for somebody who has a store: `charge` takes of it what an allowed request takes, `note` does
        so where the past is asked for as well, and remembers it. `at_once`: only what nobody has to wait for."""
        return Quick(self.leaves, self.now, charge, note, at_once=at_once)

    def takes_long(self, request: Request) -> bool:
        """Whether others should not wait for the decision."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        sizes = self._size_limit(self.program.rules_at(request.endpoint))
        objects = {root: one for root, one in request.facts.items() if isinstance(one, Mapping)}  # others are unknown
        rows = sum(len(row.parents) + measure_extent(row.attributes) for row in request.entities)
        large = is_large(request.facts) or rows > LARGE_EXTENT
        large = large or (sizes is not None and (sizes.takes_long(objects) or bool(request.entities)))
        return large or self._has_long_chain(request, MAX_UNNOTICED_STEPS)

    def _has_long_chain(self, request: Request, most: int) -> bool:
        """Whether so many blocks may speak for its hops, and read such large facts for each, that it takes long."""
        hops = request.fact("chain", "hops")
        if not isinstance(hops, tuple) or not 0 < len(hops) <= MAX_HOPS:
            return False
        names = Counter(hop.get("agent") for hop in hops if isinstance(hop, Mapping) and type(hop.get("agent")) is str)
        others, each, steps = len(hops) - names.total(), 1 + measure_extent(request.facts), 0
        for block in self.slices.of(request).agents:
            who = block.who
            times = names[who.name] + others if isinstance(who, k.ExactName) else len(hops)
            steps += times * each * (head_steps(block) + hop_steps(block))
            if steps > most:
                return True
        return False

    def plan(
        self, request: Request, now: datetime, looking: LookupEntities | None = None
    ) -> tuple[Decision, Effects] | Needs:
        """What `resume` says, where no state can change it, else what of the state it needs.

        Where entities are looked up, `looking` is what this decision was told of them: as long as it lacks some, rows
        are all that is needed.
        """
        entities = self.entities if looking is None else looking
        looked_at: frozenset[WindowKey] = frozenset()
        if self.kernel.watches:
            looked_at = walker.find_windows(self.program, request, entities, now)
        needs = Needs(request, frozenset(approval.id for approval in request.approvals), looked_at)
        if needs.approvals or needs.windows:
            return lacked(request, looking) or needs
        made = self.resume(needs, Snapshot(entities), now)
        return lacked(request, looking) or made

    def resume(self, needs: Needs, snapshot: Snapshot, now: datetime) -> tuple[Decision, Effects]:
        """The decision by what was fetched, and what it does when it is spent. The decision has no id yet."""
        request = needs.request
        if self._counts_steps(request):
            return decide(self.slices.of(request), request, snapshot, now)
        kept = self._kept if snapshot.entities is self.entities else None
        return walker.decide(self.program, request, snapshot, now, kept)

    def _counts_steps(self, request: Request) -> bool:
        """Return whether the rules may take more steps than a decision has, by the sizes of what the question brings:
        the specification counts them, and the walker does not."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        rules: EndpointRules = self.program.rules_at(request.endpoint)
        sizes, has_chain = self._size_limit(rules), "chain" in request.facts
        if sizes is not None and request.entities:
            return True  # the sizes of rows in the request are not in those of the entity store
        if sizes is None and not has_chain and not request.approvals:
            return False
        objects = {root: one for root, one in request.facts.items() if isinstance(one, Mapping)}  # others are unknown
        more = has_chain or bool(request.approvals)
        if sizes is not None and (sizes.exceeded(objects) or (more and sizes.takes_long(objects))):
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
        known = self._size_limits.get(id(rules))
        if known is None or known[0] is not rules:
            kernel, numbers = self.kernel, rules.covering
            parts = [
                *(kernel.guards[number] for number in numbers.guards),
                *(kernel.limits[number] for number in numbers.limits),
                *(kernel.binders[number] for number in numbers.binders),
            ]
            limit = self._limiting.limit(parts, list(rules.conditional_grants))
            if len(self._size_limits) >= MOST_BRANCHES:
                self._size_limits.clear()
            known = self._size_limits[id(rules)] = rules, limit
        return known[1]


def lacked(request: Request, looking: LookupEntities | None) -> Needs | None:
    """The rows that the decision would have to know, if there are any."""
    return Needs(request, rows=frozenset(looking.lacking)) if looking is not None and looking.lacking else None

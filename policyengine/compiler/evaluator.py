"""The production evaluator: decides with the program of one policy and one entity store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from typing import TypeGuard

from policyengine import kernel as k
from policyengine.compiler.block_index import agent_name, hop_agent, presenter_and_hops
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.lazy_sequence import LazySequence
from policyengine.compiler.sizes import LONGEST_CAPTURE, Limiting, SizeLimit, bound_expressions, largest_bound
from policyengine.compiler.step_state import StartedRequest, StepNodes
from policyengine.compiler.tree import Tree, tree_of
from policyengine.evaluator import decide as walker
from policyengine.evaluator.approvals import ConfirmApproval
from policyengine.evaluator.program import EndpointRules
from policyengine.evaluator.records import NO_WINDOWS
from policyengine.evaluator.rules import CONFIRM, OBLIGATION
from policyengine.evaluator.state import State
from policyengine.evaluator.verdicts import NO_EFFECTS, principal_of
from policyengine.evaluator.walker import refusal_code
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.halts import Halt, HaltSet, find_halt
from policyengine.runtime.history import WindowKey
from policyengine.runtime.ids import Stamp
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, EntitySizes, LearnedFacts, LookupEntities, Snapshot
from policyengine.runtime.value_size import CHARACTERS_PER_STEP, LARGE_EXTENT, is_large, measure_extent
from policyengine.runtime.values import MAX_ELEMENTS, MAX_STRING_LENGTH
from policyengine.solver.worst_case import Steps, UnlimitedSizes, add_steps, evaluate_steps, steps_of
from policyengine.spec import work
from policyengine.spec.facts import MAX_HOPS
from policyengine.spec.halts import issuer_urls
from policyengine.spec.step_count import StepCount, count_bindings, count_steps
from policyengine.spec.work import MAX_UNNOTICED_STEPS, head_steps, hop_steps
from policyengine.spec.work_exceeded import describe_excess, excess_answer

NOTHING: Steps = (0,)
MAX_DECODED_BLOCKS = 200  # maximum blocks of a bundle to decode to compute the steps of a hop


class Evaluator:
    """Decides with one policy and one entity store. It keeps no state of requests, so threads may share it."""

    def __init__(
        self, kernel: k.Kernel, entities: Entities, *, tree: Tree | None = None, sizes: EntitySizes | None = None
    ) -> None:
        """Build the evaluator. `sizes` are the sizes of all entity stores that decisions may use (default: the sizes of
        `entities`)."""
        self.kernel = kernel
        self.tree = tree = tree or tree_of(kernel)
        self._builder = ProgramBuilder(kernel, tree)
        self.program = self._builder.program
        self._step_nodes = StepNodes(self._builder, tree)
        self._use_entities(entities, entities if sizes is None else sizes)

    def _use_entities(self, entities: Entities, sizes: EntitySizes) -> None:
        self.entities, self.sizes = entities, sizes
        self._kept: walker.KeptAttributes = {}
        self._limiting = Limiting(self.kernel, sizes, self.tree)
        self._own = object()  # marks results that were computed with the sizes of these entities
        agents = self.tree.agents
        self._block_steps = BlockSteps(self.kernel.agents, sizes.deepest)
        self._steps_by_name = NamedSteps(agents.names, self._block_steps)
        self._steps_by_group = NamedSteps(agents.groups, self._block_steps)
        self._condition_steps: Steps | None = None

    def with_entities(self, entities: Entities) -> Evaluator:
        """Return an evaluator with other entities and the same program, without building any rule again."""
        other = copy(self)
        other._use_entities(entities, entities)
        return other

    def prepare(self, previous: Evaluator) -> None:
        """Build the rules that a previous evaluator used last, so that the first decisions after a reload are not slow.
        Rules that cannot be built now are built by the decisions that need them.
        """
        with suppress(Exception):
            self.program.everyone.build_used(previous.program.everyone)
            self.program.everyuser.build_used(previous.program.everyuser)
        for used, endpoint in list(previous._builder.samples.items()):
            with suppress(Exception):
                rules = self.program.rules_at(endpoint)
                self._size_limit(rules)
                rules.build_used(used)

    def takes_long(self, request: Request) -> bool:
        """Return whether the decision may take so long that other requests should not wait for it."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        rows = sum(len(row.parents) + measure_extent(row.attributes) for row in request.entities)
        return is_large(request.facts) or rows > LARGE_EXTENT or self.loops_long(request)

    def loops_long(self, request: Request) -> bool:
        """Return the same as `takes_long` for a question that is not large, for which only loops and chains take a long
        time.
        """
        if isinstance(request.endpoint, MalformedEndpoint):
            return False
        rules = self.program.rules_at(request.endpoint)
        sizes = self._size_limit(rules)
        if sizes is not None and (request.entities or sizes.takes_long(objects_of(request))):
            return True
        if "chain" not in request.facts:
            return False
        return self._has_long_chain(request, rules, MAX_UNNOTICED_STEPS, self._steps_of_others(rules))

    def _has_long_chain(self, request: Request, rules: EndpointRules, most: int, others: Steps | None) -> bool:
        """Return whether the blocks that may match the hops may take more than `most` steps. `others` are the steps of
        one hop in blocks that do not name an agent; None to compute them from the groups of the hops.
        """
        hops = request.fact("chain", "hops")
        if not isinstance(hops, tuple) or not 0 < len(hops) <= MAX_HOPS:
            return False
        found: list[Steps] = []
        of_names = self._steps_by_name
        for hop in hops:
            name = hop.get("agent") if type(hop) is dict else None
            # Any other text may be an invalid name; then the hop may be any agent.
            if type(name) is not str or not name.isascii() or not 0 < len(name) <= MAX_STRING_LENGTH:
                break
            found.append(of_names[name])
        else:
            found += self._steps_in_groups(hops, rules) if others is None else [others] * len(hops)
            if self._evaluate(found, request, rules) <= most:
                return False
        covering, several = rules.covering.agents | rules.covering.hands, list[Steps]()
        for hop in hops:
            several += [
                self._block_steps[number] for number in self._step_nodes.agents.matching(*hop_agent(hop), covering)
            ]
        return self._evaluate(several, request, rules) > most

    def _evaluate(self, several: Sequence[Steps], request: Request, rules: EndpointRules) -> int:
        """Return the sum of these polynomials of steps for the sizes of a request."""
        constant = sum([steps[0] for steps in several])
        varying = [steps for steps in several if len(steps) > 1]
        if not varying:
            return constant
        size = self._largest_size(request, rules)
        return constant + sum(evaluate_steps(steps, size) - steps[0] for steps in varying)

    def _largest_size(self, request: Request, rules: EndpointRules) -> int:
        """Return an upper bound for the size of the values that the conditions of blocks read."""
        kernel, attributes = self.kernel, self._block_steps.attributes
        sizes = [
            measure_extent(request.facts), MAX_HOPS + 1, LONGEST_CAPTURE, *map(self.sizes.largest, list(attributes)),
            *(measure_extent(row.attributes) for row in request.entities),
        ]  # fmt: skip
        bound = bound_expressions(kernel.binders[number] for number in rules.covering.binders)
        return largest_bound(bound, UnlimitedSizes(self.sizes.deepest), max(sizes))

    def _steps_in_groups(self, hops: Sequence[Mapping[str, object]], rules: EndpointRules) -> list[Steps]:
        """Return upper bounds for the steps of the hops in blocks that do not name an agent."""
        found = [self._steps_of_conditions] * len(hops)
        for hop in hops:
            groups = hop.get("groups")
            known = [group for group in groups if is_plain_text(group)] if isinstance(groups, tuple) else []
            found += [self._steps_by_group[group] for group in known]
            if not isinstance(groups, tuple) or len(known) < len(groups):
                found.append(self._steps_of_others(rules))  # a group may be unknown
        return found

    def _steps_of_others(self, rules: EndpointRules) -> Steps:
        """Return the steps of one hop in all blocks of the endpoint that do not name an agent."""
        mark, found = rules.hop_steps
        if mark is not self._own:
            numbers, named = rules.covering.agents | rules.covering.hands, self._named_blocks
            found = add_steps((0,), *(self._block_steps[number] for number in numbers if number not in named))
            rules.hop_steps = self._own, found
        return found  # type: ignore[no-any-return]

    def _affordable_steps_of_others(self, rules: EndpointRules) -> Steps | None:
        """Return the same as `_steps_of_others`, or None if this would decode many blocks of a bundle."""
        if rules.hop_steps[0] is not self._own and isinstance(self.kernel.agents, LazySequence):
            numbers = rules.covering
            if len(numbers.agents) + len(numbers.hands) > MAX_DECODED_BLOCKS:
                return None
        return self._steps_of_others(rules)

    @cached_property
    def _named_blocks(self) -> frozenset[int]:
        """The blocks that name an agent."""
        return frozenset(number for numbers in self.tree.agents.names.values() for number in numbers)

    @property
    def _steps_of_conditions(self) -> Steps:
        """The steps of one hop in all blocks whose head is neither a name nor a group."""
        if self._condition_steps is None:
            agents = self.tree.agents
            numbers = (*(one for _, one in agents.globs), *agents.others)
            self._condition_steps = add_steps((0,), *(self._block_steps[number] for number in numbers))
        return self._condition_steps

    def plan(
        self,
        request: Request,
        moment: int,
        looking: LookupEntities | None = None,
        stamp: Stamp = "",
        behavior: LearnedFacts | None = None,
    ) -> tuple[Decision, Effects] | Needs:
        """Return the decision if it depends on no state, otherwise the state that it needs.

        `moment` is the time in nanoseconds since 1970. If entities are looked up, `looking` has the rows known so far:
        while rows are missing, the result requests only rows. `behavior` are the learned facts of the caller; the
        snapshot with which the decision is resumed must have equal facts. Callers must call `find_halt` first.
        """
        if behavior is None:
            rules = self.program.rules_at(request.endpoint)
        else:
            rules = self.program.rules_at_again(request.endpoint)  # its behavior was read just now
        if request.approvals or looking is not None or self._counts_steps(request, rules):
            return self._plan_with_state(request, moment, looking, stamp, behavior)
        made = walker.plan(self.program, rules, request, self.entities, moment, self._kept, stamp, behavior)
        if isinstance(made, walker.StartedDecision):
            return Needs(request, windows=made.windows, started=made)
        return made

    def _plan_with_state(
        self, request: Request, moment: int, looking: LookupEntities | None, stamp: Stamp, behavior: LearnedFacts | None
    ) -> tuple[Decision, Effects] | Needs:
        entities = self.entities if looking is None else looking
        windows = NO_WINDOWS
        if self.kernel.watches:
            if denied := self._deny_long_bindings(request, entities, moment, stamp, behavior):
                return missing_rows(request, looking) or denied
            windows = walker.find_windows(self.program, request, entities, moment, behavior)
        needs = Needs(request, frozenset(approval.id for approval in request.approvals), windows)
        if needs.approvals or needs.windows:
            return missing_rows(request, looking) or needs
        made = self.resume(needs, Snapshot(entities, behavior=behavior), moment, stamp)
        return missing_rows(request, looking) or made

    def resume(self, needs: Needs, snapshot: Snapshot, moment: int, stamp: Stamp = "") -> tuple[Decision, Effects]:
        """Return the decision made with the fetched state, and the effects of committing it."""
        if needs.started is not None and snapshot.entities is self.entities:
            return walker.resume(needs.started, snapshot.history, stamp)
        request = needs.request
        if snapshot.halts is not None and (halt := self.find_halt(request, snapshot.halts)) is not None:
            return self.deny_halted(request, halt, moment, stamp), NO_EFFECTS
        rules = self.program.rules_at(request.endpoint)
        kept = self._kept if snapshot.entities is self.entities else None
        if not self._counts_steps(request, rules):
            return walker.decide(self.program, request, snapshot, moment, kept, stamp)
        state = self._state(rules, request, snapshot, moment, kept)
        count = count_steps(StartedRequest(self._step_nodes, state, snapshot.spent))
        return self._deny(state, count, stamp) if count.exceeded else walker.finish(state, snapshot.spent, stamp)

    def find_halt(self, request: Request, halts: HaltSet) -> Halt | None:
        """Return the halt that covers a request, or None."""
        return find_halt(halts, request, self._issuer_urls, lambda: self._opening_packages(request))

    @cached_property
    def _issuer_urls(self) -> dict[str, str | None]:
        return issuer_urls(self.kernel)

    def _opening_packages(self, request: Request) -> set[str]:
        """Return the packages with a block that opens the endpoint for at least one caller."""
        kernel, numbers = self.kernel, self.program.rules_at(request.endpoint).covering
        return {
            *(kernel.agents[number].package for number in numbers.agents),
            *(kernel.users[number].package for number in numbers.users),
            *(kernel.anyones[number].package for number in numbers.anyones),
        }

    def deny_halted(self, request: Request, halt: Halt, moment: int, stamp: Stamp = "") -> Decision:
        """Return the denial of a request that a halt covers. It has no effects."""
        rules = self.program.rules_at(request.endpoint)
        state = self._state(rules, request, Snapshot(self.entities), moment, None)
        return walker.deny_halted(state, halt.message, stamp)

    def _state(
        self,
        rules: EndpointRules,
        request: Request,
        snapshot: Snapshot,
        moment: int,
        kept: walker.KeptAttributes | None,
    ) -> State:
        entities, history, behavior = snapshot.entities, snapshot.history, snapshot.behavior
        return walker.start(self.program, rules, request, entities, history, moment, kept, behavior)

    # ── For tests and comparisons ─────────────────────────────────────────────────────────────

    def windows(
        self, request: Request, entities: Entities, moment: int, behavior: LearnedFacts | None = None
    ) -> frozenset[WindowKey]:
        """Return the windows of the history that the decision reads."""
        if not self.kernel.watches or self._deny_long_bindings(request, entities, moment, "", behavior):
            return NO_WINDOWS
        return walker.find_windows(self.program, request, entities, moment, behavior)

    def required_approvals(self, request: Request, snapshot: Snapshot, moment: int) -> list[tuple[str, str]]:
        """Return the guard and the binding of each approval that the request needs, even if other rules stop the
        request."""
        state = self._start(request, snapshot, moment)
        if state is None:
            return []
        confirms = [one.effect for one in walker.acting_effects(state) if one.effect.kind == CONFIRM]
        return [(effect.guard.name, ConfirmApproval(state, effect).digest) for effect in confirms]

    def due_obligations(self, request: Request, snapshot: Snapshot, moment: int) -> list[k.ObligationEffect]:
        """Return the obligations that an allow of the request carries or, if it needs approvals, will carry."""
        state = self._start(request, snapshot, moment)
        acting = () if state is None else walker.acting_effects(state)
        return [one.effect.effect for one in acting if one.effect.kind == OBLIGATION]

    def _start(self, request: Request, snapshot: Snapshot, moment: int) -> State | None:
        """Return the state of a started decision; None if the request reaches no guard, because its path is malformed
        or its decision takes too many steps.
        """
        if isinstance(request.endpoint, MalformedEndpoint):
            return None
        rules = self.program.rules_at(request.endpoint)
        state = self._state(rules, request, snapshot, moment, None)
        if self._counts_steps(request, rules):
            counted = count_steps(StartedRequest(self._step_nodes, state, snapshot.spent))
            return None if counted.exceeded else state
        return state

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────

    def _deny_long_bindings(
        self, request: Request, entities: Entities, moment: int, stamp: Stamp, behavior: LearnedFacts | None
    ) -> tuple[Decision, Effects] | None:
        """Return a deny if the bindings of the endpoint take too many steps, otherwise None. The steps of bindings are
        counted first, because the keys of histories may read bound facts.
        """
        rules = self.program.rules_at(request.endpoint)
        if type(request.endpoint) is MalformedEndpoint or not self._counts_steps(request, rules):
            return None
        state = self._state(rules, request, Snapshot(entities, behavior=behavior), moment, None)
        count = count_bindings(StartedRequest(self._step_nodes, state, walker.NOTHING_SPENT))
        return self._deny(state, count, stamp) if count.exceeded else None

    def _deny(self, state: State, count: StepCount, stamp: Stamp) -> tuple[Decision, Effects]:
        decision = Decision(excess_answer(self.kernel), principal_of(state, refusal_code(state)), stamp)
        return decision, Effects(excess=describe_excess(count))

    def _counts_steps(self, request: Request, rules: EndpointRules) -> bool:
        """Return whether the decision may exceed its maximum steps, estimated from the sizes of the question. Only then
        are the steps counted.
        """
        known = rules.sizes
        sizes: SizeLimit | None = known[1] if known[0] is self._own else self._size_limit(rules)
        has_chain = "chain" in request.facts
        if sizes is None and not has_chain and not request.approvals:
            return False
        if type(request.endpoint) is MalformedEndpoint:
            return False
        if sizes is not None:
            if request.entities:
                return True  # the sizes of the entity store do not include rows in the request
            objects, more = objects_of(request), has_chain or bool(request.approvals)
            if sizes.exceeded(objects) or (more and sizes.takes_long(objects)):
                return True
            if any(len(approval.by) // CHARACTERS_PER_STEP > sizes.at_once for approval in request.approvals):
                return True
        left = work.MAX_STEPS - MAX_UNNOTICED_STEPS
        if request.approvals and self._approval_steps(request, rules) > left // 2:
            return True
        return has_chain and self._has_long_chain(request, rules, left // 2, self._affordable_steps_of_others(rules))

    def _approval_steps(self, request: Request, rules: EndpointRules) -> int:
        """Return an upper bound for the steps of testing who may approve."""
        return len(request.approvals) * len(rules.effects) * (MAX_ELEMENTS + self.sizes.deepest)

    def _size_limit(self, rules: EndpointRules) -> SizeLimit | None:
        """Return how large a question may be at an endpoint; None if the endpoint needs no limit."""
        mark, found, depth = rules.sizes
        if mark is not self._own:
            now = self.sizes.deepest
            if found is None and now <= depth:  # no limit was needed with entities at least as deep
                rules.sizes = self._own, None, depth
                return None
            kernel, numbers = self.kernel, rules.covering
            parts = [
                *(kernel.guards[number] for number in numbers.guards),
                *(kernel.limits[number] for number in numbers.limits),
                *(kernel.binders[number] for number in numbers.binders),
            ]
            found = self._limiting.limit(parts, list(rules.conditional_grants))
            rules.sizes = self._own, found, now
        return found  # type: ignore[no-any-return]

    def histories_read(self, request: Request) -> list[k.HistoryCondition | k.Aggregate]:
        """Return the conditions about past requests in the rules that may be about the caller and the endpoint."""
        kernel, numbers, found = self.kernel, self.program.rules_at(request.endpoint).covering, self._step_nodes
        agents, user = set[int](), agent_name(request.fact("user", "id"))
        if "agent" in request.facts:
            for name, groups in presenter_and_hops(request):
                agents |= found.agents.matching(name, groups, numbers.agents | numbers.hands)
        users = found.users.named(user) if isinstance(user, str) else numbers.users
        parts = [
            *(kernel.agents[number] for number in sorted(agents)),
            *(kernel.users[number] for number in sorted(users)),
            *(kernel.anyones[number] for number in sorted(numbers.anyones)),
            *(kernel.guards[number] for number in numbers.guards),
            *(kernel.limits[number] for number in numbers.limits),
        ]
        return list(self._builder.histories_in(parts))

    def binders_at(self, request: Request) -> tuple[k.Binder, ...]:
        """Return the bindings of the endpoint."""
        return tuple(self.kernel.binders[one] for one in self.program.rules_at(request.endpoint).covering.binders)


def objects_of(request: Request) -> dict[str, Mapping[str, object]]:
    """Return the roots of the question that are objects; others are unknown."""
    return {root: one for root, one in request.facts.items() if isinstance(one, Mapping)}


def missing_rows(request: Request, looking: LookupEntities | None) -> Needs | None:
    """Return the rows that the decision still needs, or None if no row is missing."""
    return Needs(request, rows=frozenset(looking.lacking)) if looking is not None and looking.lacking else None


def is_plain_text(raw: object) -> TypeGuard[str]:
    """Return whether a text is certainly a valid group name."""
    return type(raw) is str and raw.isascii() and 0 < len(raw) <= MAX_STRING_LENGTH


class BlockSteps(dict[int, Steps]):
    """The steps of one hop in each block, by its number, computed when first needed.

    The steps are an upper bound for what `count_hops` counts, as a polynomial in the largest size of a value;
    `attributes` are the attributes that the conditions read.
    """

    def __init__(self, agents: Sequence[k.AgentBlock], deepest: int) -> None:
        super().__init__()
        self._agents, self._sizes = agents, UnlimitedSizes(deepest)
        self.attributes: set[str] = set()

    def __missing__(self, number: int) -> Steps:
        block = self._agents[number]
        conditions = list(conditions_of_hop(block))
        for condition in conditions:
            self.attributes.update(node.name for node in k.walk(condition) if isinstance(node, k.Attribute))
        varying = (steps_of(condition, self._sizes, looping=True) for condition in conditions)
        self[number] = steps = add_steps((head_steps(block) + hop_steps(block),), *varying)
        return steps


def conditions_of_hop(block: k.AgentBlock) -> Iterator[k.Expr]:
    """Yield the conditions of a block that may be evaluated for a hop."""
    if isinstance(block.who, k.PrincipalCondition):
        yield block.who.condition
    for requirement in block.requirements:
        if isinstance(requirement, k.ActsFor) and requirement.condition is not None:
            yield requirement.condition
    yield from (grant.when for grant in block.grants if grant.when is not None)
    yield from (delegate.when for delegate in block.delegates if delegate.when is not None)


class NamedSteps(dict[str, Steps]):
    """The steps of one hop in all blocks for a name or a group, at any endpoint, computed when first needed."""

    def __init__(self, names: Mapping[str, Sequence[int]], block_steps: BlockSteps) -> None:
        super().__init__()
        self._names, self._block_steps = names, block_steps

    def __missing__(self, name: str) -> Steps:
        numbers = self._names.get(name)
        if numbers is None:
            return NOTHING  # not stored, because callers can send any name
        self[name] = steps = add_steps((0,), *(self._block_steps[number] for number in numbers))
        return steps

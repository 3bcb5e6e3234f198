"""Counts the steps of a decision before the decision is made, from the values of the facts that rules read.

All rules that apply to the caller and the endpoint count, in the order of the gates: each condition once, even if
another condition settles the result. The specification and the evaluator read values in their own ways (`RuleReader`,
`CountedRequest`), but they count with the same functions. Counting stops as soon as a decision has no steps left, and a
value is read only after the steps to read it were counted, so that the work of counting is bounded, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.kernel.base import Node
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.globs import Glob
from policyengine.runtime.history import PastEvent
from policyengine.runtime.request import Approval
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.value_sets import Family, common_family, family_of, family_of_all
from policyengine.runtime.value_size import name_lookup_steps
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import work
from policyengine.spec.kleene import elements, is_absent, lift
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.work import (
    count_elements,
    event_weight,
    head_steps,
    hop_steps,
    is_atom,
    is_fixed,
    is_hashed,
    is_read_in_loop,
    reading_steps,
    takes_steps,
    weight,
)
from policyengine.typesystem import EntityRef, RefType

Block: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock
Families: TypeAlias = dict[object, Family | None]


class RuleReader(Protocol):
    """Reads the facts as one kind of rule reads them, for one agent. `user` is the user, if the agent's issuer may name
    that user. `families` caches the families of fixed collections that are already hashed.
    """

    families: Families

    @property
    def user(self) -> Value: ...

    @property
    def entities(self) -> Entities: ...

    def value(self, node: k.Expr) -> Value:
        """Return the value of an expression."""

    def in_loop(self, variable: str) -> LoopReader:
        """Return the reader for the condition of a loop with this variable."""

    def at_event(self, pattern: k.EventPattern, event: PastEvent) -> RuleReader:
        """Return the reader for the condition on one past request."""

    def window(self, node: k.HistoryCondition | k.Aggregate) -> HistoryWindow | None:
        """Return the past requests that a history condition reads; None if they are unknown."""


class LoopReader(RuleReader, Protocol):
    def assign(self, item: Value) -> None:
        """Make this element the value of the variable."""


@dataclass(frozen=True, slots=True)
class HistoryWindow:
    """The past requests in a window: `events`, and `resets`, which are the `since` requests in the window; `all_resets`
    is the number of all `since` requests in the store."""

    events: Sequence[PastEvent]
    resets: Sequence[PastEvent] = ()
    all_resets: int = 0


class CountedAgent(Protocol):
    @property
    def id(self) -> Value: ...

    @property
    def groups(self) -> Value: ...


class CountedRequest(Protocol):
    """A request with the rules that may apply to its caller and its endpoint. `hops` are the agents before the
    presenter, if the chain is known. `given` reads facts before patterns bind any, `grants` reads exact bindings, and
    `guards` reads bindings in any letter case.
    """

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def by_agent(self) -> bool: ...

    @property
    def refused(self) -> bool: ...

    @property
    def presenter(self) -> CountedAgent: ...

    @property
    def hops(self) -> Sequence[CountedAgent]: ...

    @property
    def approvals(self) -> Sequence[Approval]: ...

    @property
    def given(self) -> RuleReader: ...

    @property
    def grants(self) -> RuleReader: ...

    @property
    def guards(self) -> RuleReader: ...

    def at_hop(self, hop: CountedAgent) -> RuleReader:
        """Return the reader for grants of a hop."""

    def approved(self) -> RuleReader:
        """Return the reader for guards, with the facts of the approvals in the request."""

    def binders(self) -> Iterable[k.Binder]:
        """Return the bindings of the endpoint."""

    def anyone_blocks(self) -> Iterable[k.AnyoneBlock]: ...

    def agent_blocks(self, agent: CountedAgent, reader: RuleReader) -> Iterable[k.AgentBlock]:
        """Return, in order, the blocks that may match the agent and take steps; the result may contain other blocks."""

    def user_blocks(self) -> Iterable[k.UserBlock]:
        """Return, in order, the blocks that may match the user and take steps; the result may contain other blocks."""

    def guards_in_place(self) -> Iterable[k.Guard]:
        """Return the guards that cover the endpoint."""

    def limits_in_place(self) -> Iterable[k.Limit]:
        """Return the rates and budgets that cover the endpoint."""


@dataclass(slots=True)
class RuleSteps:
    """The steps of one rule, and the largest size of each of its collections by expression."""

    steps: int = 0
    sizes: dict[int, tuple[k.Expr, int]] = field(default_factory=dict)


class TooManyStepsError(Exception):
    """The error for a decision that would take more steps than the limit."""


@dataclass(slots=True)
class StepCount:
    """The steps of one decision, by rule. `rule` is the rule that is being counted; None for steps that belong to no
    rule. If the decision takes more than `most` steps, counting stops early.
    """

    most: int = field(default_factory=lambda: work.MAX_STEPS)
    steps: int = 0
    rule: Node | None = None
    rules: dict[int, tuple[Node | None, RuleSteps]] = field(default_factory=dict)

    @property
    def exceeded(self) -> bool:
        return self.steps > self.most

    def add(self, steps: int, *sized: tuple[k.Expr, Sized]) -> None:
        """Count steps before they are taken. Raises TooManyStepsError if too few are left."""
        self.steps += steps
        _, counted = self.rules.setdefault(id(self.rule), (self.rule, RuleSteps()))
        counted.steps += steps
        for node, value in sized:
            before = counted.sizes.get(id(node))
            if before is None or before[1] < len(value):
                counted.sizes[id(node)] = node, len(value)
        if self.exceeded:
            raise TooManyStepsError

    @property
    def most_expensive(self) -> tuple[Node | None, RuleSteps]:
        """The rule with the most steps, or the first of several rules with the same number, and its steps."""
        return max(self.rules.values(), key=lambda one: one[1].steps)


def count_steps(request: CountedRequest) -> StepCount:
    """Return the steps of a decision, up to the limit."""
    count = count_bindings(request)
    if not count.exceeded:
        with suppress(TooManyStepsError):
            count_blocks(request, count)
            count_hops(request, count)
            count_guards(request, count)
            count_limits(request, count)
    return count


def count_bindings(request: CountedRequest) -> StepCount:
    """Return the steps of the bindings of the endpoint, which are counted before everything else."""
    count = StepCount()
    with suppress(TooManyStepsError):
        for binder in request.binders():
            count_all(binder_expressions(binder), lambda: request.given, count)
    return count


# ── Gates ─────────────────────────────────────────────────────────────────────────────────────


def count_all(nodes: Iterable[k.Expr | None], reader: Callable[[], RuleReader], count: StepCount) -> None:
    """Count the steps of conditions outside loops, each condition once. Raises TooManyStepsError."""
    for node in nodes:
        if node is not None and takes_steps(node, False):
            count_expression(node, reader(), count, looping=False)


def binder_expressions(binder: k.Binder) -> Iterable[k.Expr]:
    return (expression for _, expression in binder.facts)


def count_blocks(request: CountedRequest, count: StepCount) -> None:
    """Count the steps of the `anyone` blocks and, unless the credential was refused, of the blocks of the presenter and
    the user."""
    for block in request.anyone_blocks():
        count_block(block, request.presenter, request, count)
    if request.refused:
        return
    if request.by_agent:
        for agent_block in request.agent_blocks(request.presenter, request.grants):
            count_block(agent_block, request.presenter, request, count)
    if not request.by_agent or not is_absent(request.grants.user):
        for user_block in request.user_blocks():
            count_block(user_block, request.presenter, request, count)


def count_block(block: Block, agent: CountedAgent, request: CountedRequest, count: StepCount) -> None:
    """Count the steps of a block if the block matches the caller, or if it may match and covers the endpoint. Raises
    TooManyStepsError.
    """
    count.rule, reader = block, request.grants
    if matters(block, block_applies(block, agent, reader, count, looping=False), request.endpoint):
        count_conditions(block, reader, request.endpoint, count, looping=False)


def count_conditions(block: Block, reader: RuleReader, endpoint: Endpoint, count: StepCount, *, looping: bool) -> None:
    """Count the steps of the conditions in the requirements of a block, and in its grants that cover the endpoint.
    Raises TooManyStepsError.
    """
    if not isinstance(block, k.AnyoneBlock) and not isinstance(reader.user, Unknown):
        for requirement in block.requirements:
            if isinstance(requirement, k.ActsFor) and requirement.condition is not None:
                count_expression(requirement.condition, reader, count, looping=looping)
    for grant in block.grants:
        if grant.when is not None and takes_steps(grant.when, looping) and grant_covers(grant, endpoint):
            count_expression(grant.when, reader, count, looping=looping)


def count_hops(request: CountedRequest, count: StepCount) -> None:
    """Count the steps of the blocks of each agent before the presenter. Conditions read facts again for each hop, as in
    a loop. Raises TooManyStepsError.
    """
    for hop in request.hops:
        reader = request.at_hop(hop)
        for block in request.agent_blocks(hop, reader):
            count.rule = block
            if isinstance(block.who, k.PrincipalCondition) and not isinstance(hop.id, Unknown):
                count.add(head_steps(block))
            if matters(block, block_applies(block, hop, reader, count, looping=True), request.endpoint):
                count.add(hop_steps(block))
                count_conditions(block, reader, request.endpoint, count, looping=True)
                for delegate in block.delegates:
                    if delegate.when is not None:
                        count_expression(delegate.when, reader, count, looping=True)


def count_guards(request: CountedRequest, count: StepCount) -> None:
    """Count the steps of guards. If the request has approvals, first count the steps of testing for which confirms
    these are valid. Raises TooManyStepsError.
    """
    guards = list(request.guards_in_place())
    read: Callable[[], RuleReader] = lambda: request.guards  # noqa: E731
    if request.approvals:
        for guard in guards:
            for effect in guard.effects:
                if isinstance(effect, k.Confirm):
                    count.rule = guard
                    count_all((effect.condition,), read, count)
                    count_approvers(effect.approvers.of, request, count)
        read = request.approved
    for guard in guards:
        count.rule = guard
        count_all((effect.condition for effect in guard.effects), read, count)


def count_approvers(of: object, request: CountedRequest, count: StepCount) -> None:
    """Count the steps of testing whether each person who approved may approve. Raises TooManyStepsError."""
    if not isinstance(of, k.MemberOf):
        return
    for approval in dict.fromkeys(request.approvals):
        count_expression(of.expression, request.guards, count, looping=False)
        among = request.guards.value(of.expression)
        if not isinstance(among, Unknown):
            above = request.guards.entities.ancestors(EntityRef("user", approval.by))
            count.add(len(elements(among)) + len(above.refs), (of.expression, elements(among)))


def count_limits(request: CountedRequest, count: StepCount) -> None:
    for limit in request.limits_in_place():
        count.rule = limit
        count_all(limit_expressions(limit), lambda: request.guards, count)


def limit_expressions(limit: k.Limit) -> Iterable[k.Expr | None]:
    yield limit.when
    yield from limit.keys
    if isinstance(limit, k.Budget):
        for quota in limit.quotas:
            yield from (quota.bound, quota.fact)
        return
    yield limit.cost
    yield limit.pace.count if isinstance(limit.pace, k.PaceByFact) else None
    yield from (one.when for one in limit.raises)
    yield from (one.when for one in limit.clamps)


# ── Blocks ────────────────────────────────────────────────────────────────────────────────────


def block_applies(block: Block, agent: CountedAgent, reader: RuleReader, count: StepCount, *, looping: bool) -> Value:
    """Return whether a block matches (True, False or Unknown), and count the steps of its `where`. Raises
    TooManyStepsError.
    """
    if isinstance(block, k.AnyoneBlock):
        return True
    name = agent.id if isinstance(block, k.AgentBlock) else reader.user
    if isinstance(name, Unknown):
        return name
    match block.who:
        case k.PrincipalCondition(condition):
            count_expression(condition, reader, count, looping=looping)
            return reader.value(condition)
        case k.AnyUser():
            return True
        case k.ExactName(wanted):
            return name == wanted
        case k.NamePattern(glob):
            return Glob(glob).matches(name)  # type: ignore[arg-type]  # a name is a text
        case k.InGroup(group):
            return lift(lambda groups: group in groups or lift(lambda *_: False, *groups), agent.groups)
        case _:
            assert_never(block.who)


def matters(block: Block, applies: Value, endpoint: Endpoint) -> bool:
    """Return whether a block can affect the decision: it matches the caller, or it may match and covers the
    endpoint.
    """
    return covers(block, endpoint) if isinstance(applies, Unknown) else applies is True


def covers(block: Block, endpoint: Endpoint) -> bool:
    """Return whether a grant or a delegation of the block covers the endpoint."""
    if any(grant_covers(grant, endpoint) for grant in block.grants):
        return True
    delegates = block.delegates if isinstance(block, k.AgentBlock) else ()
    return any(match_pattern(pattern, endpoint) is not None for one in delegates for pattern in one.patterns)


def grant_covers(grant: k.Grant, endpoint: Endpoint) -> bool:
    return any(match_pattern(opening.pattern, endpoint) is not None for opening in grant.openings)


# ── Expressions ───────────────────────────────────────────────────────────────────────────────


def count_expression(node: k.Expr, reader: RuleReader, count: StepCount, *, looping: bool) -> None:
    """Count the steps of one evaluation of an expression; `looping` is whether it is inside a loop or in the condition
    on a past request. Raises TooManyStepsError.
    """
    if not takes_steps(node, looping):
        return
    match node:
        case k.Quantifier():
            count_loop(node, reader, count, looping=looping)
        case k.HistoryCondition() | k.Aggregate():
            count_history(node, reader, count, looping=looping)
        case k.Default(operand, fallback):
            count_expression(operand, reader, count, looping=looping)
            if takes_steps(fallback, looping) and is_absent(reader.value(operand)):
                count_expression(fallback, reader, count, looping=looping)
        case _:
            for part in k.children(node):
                count_expression(part, reader, count, looping=looping)
            if isinstance(node, k.Relation):
                count_relation(node, reader, count, looping=looping)
            elif looping:
                count_reading(node, reader, count)


def count_loop(node: k.Quantifier, reader: RuleReader, count: StepCount, *, looping: bool) -> None:
    count_expression(node.domain, reader, count, looping=looping)
    items = reader.value(node.domain)
    if isinstance(items, Unknown):
        return
    assert isinstance(items, tuple)
    count.add(len(items) * weight(node.condition), (node.domain, items))
    if takes_steps(node.condition, True):
        inside = reader.in_loop(node.variable)
        for item in items:
            if not isinstance(item, Unknown):
                inside.assign(item)
                count_expression(node.condition, inside, count, looping=True)


def count_reading(node: k.Expr, reader: RuleReader, count: StepCount) -> None:
    """Count the steps of reading a text or a collection for each element of a loop."""
    match node:
        case k.Member(base):
            record = reader.value(base)
            if not isinstance(record, Unknown):
                count.add(name_lookup_steps(record))  # type: ignore[arg-type]  # a record
                if is_read_in_loop(node):
                    count.add(reading_steps(reader.value(node)))
        case k.Attribute() if is_read_in_loop(node):
            count.add(reading_steps(reader.value(node)))
        case k.Call(_, _, RefType()):
            return
        case k.Call(_, arguments):
            count_known(reader, count, *arguments)


def count_known(reader: RuleReader, count: StepCount, *nodes: k.Expr) -> None:
    """Count the steps of reading these values, if all of them are known."""
    known = [reader.value(node) for node in nodes]
    if not any(isinstance(one, Unknown) for one in known):
        count.add(reading_steps(*known))


def count_history(
    node: k.HistoryCondition | k.Aggregate, reader: RuleReader, count: StepCount, *, looping: bool
) -> None:
    """Count the steps of a history: of its keys, of the conditions on the past requests of its window and, in a loop,
    of reading the window. Raises TooManyStepsError.
    """
    patterns = [one for one in (node.event, node.since) if one is not None]
    for pattern in patterns:
        for key in pattern.keys or ():
            count_expression(key, reader, count, looping=looping)
    wheres = [one.where is not None and takes_steps(one.where, True) for one in patterns]
    window = reader.window(node) if looping or any(wheres) else None
    if window is None:
        return
    if looping:
        resets = 0 if node.since is None else window.all_resets * event_weight(node.since)
        count.add(len(window.events) * event_weight(node.event) + resets)
    for pattern, reads, events in zip(patterns, wheres, (window.events, window.resets), strict=False):
        for event in events if reads else ():
            assert pattern.where is not None
            count_expression(pattern.where, reader.at_event(pattern, event), count, looping=True)


# ── Relations ─────────────────────────────────────────────────────────────────────────────────


def count_relation(node: k.Relation, reader: RuleReader, count: StepCount, *, looping: bool) -> None:
    if not work.relation_takes_steps(node, looping):
        return
    left, right = reader.value(node.left), reader.value(node.right)
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return
    match node.row.operands:
        case k.Operands.VALUES:
            if isinstance(left, tuple) and isinstance(right, tuple):
                count.add(count_elements(left) + count_elements(right), (node.left, left), (node.right, right))
        case k.Operands.ELEMENT:
            assert isinstance(left, tuple)
            count_element(node, left, right, reader, count, looping=looping)
        case k.Operands.ENTITIES:
            if node.operator in ("below", "child of") or left != right:
                direct = node.operator == "child of"
                above = reader.entities.parents(left) if direct else reader.entities.ancestors(left)  # type: ignore[arg-type]
                count.add(len(above.refs))
        case k.Operands.NETWORKS | k.Operands.STRINGS:
            count.add(reading_steps(left, right))
        case k.Operands.PATTERN:
            count.add(reading_steps(left))
        case k.Operands.COLLECTIONS:
            assert isinstance(left, tuple)
            assert isinstance(right, tuple)
            count_comparison(node, left, right, count)
        case _:
            assert_never(node.row.operands)


def count_element(
    node: k.Relation, collection: tuple[Value, ...], item: Value, reader: RuleReader, count: StepCount, *, looping: bool
) -> None:
    """Count the steps of testing whether an item is an element. Collections are hashed once, except those that differ
    for each element of a loop; values without a hash are compared with each element.
    """
    if node.operator == "holds" and isinstance(item, EntityRef):
        count.add(len(collection) + len(reader.entities.ancestors(item).refs), (node.left, collection))
        return
    if looping and not is_fixed(node.left):
        count.add(count_elements(collection), (node.left, collection))
    if is_hashed(node.left) and is_atom(node.right):
        return
    if isinstance(item, tuple):
        count.add(count_elements(item))
    if common_family(family_of_collection(node.left, collection, reader, count), family_of(item)) is None:
        count.add(count_elements(collection))


def family_of_collection(
    node: k.Expr, collection: tuple[Value, ...], reader: RuleReader, count: StepCount
) -> Family | None:
    """Return the family of the elements, or None if they have no common family. Count the steps of hashing nested
    collections."""
    key = collection_key(node)
    if key is not None and key in reader.families:
        return reader.families[key]
    inner = count_elements(collection) - len(collection)
    if inner:
        count.add(inner)
    found = family_of_known(collection)
    if key is not None:
        reader.families[key] = found
    return found


def collection_key(node: k.Expr) -> object:
    """Return the same key for each use of a collection that is read once in a decision; None for other collections."""
    match node:
        case k.DefinitionRef(_, expression):
            return collection_key(expression)
        case k.Constant():
            return id(node)
        case k.Fact(path, type_):
            return path, type_
        case k.Attribute(base, name, type_):
            of = collection_key(base)
            return None if of is None else (of, name, type_)
        case _:
            return None


def count_comparison(node: k.Relation, left: tuple[Value, ...], right: tuple[Value, ...], count: StepCount) -> None:
    """Count the steps of `overlaps` and `subset of`. Values without a hash are compared pairwise."""
    many, others = count_elements(left), count_elements(right)
    count.add(many + others, (node.left, left), (node.right, right))
    if is_hashed(node.left) and is_hashed(node.right):
        return
    if common_family(family_of_known(right), family_of_known(left)) is None:
        count.add(min(len(left) * others, len(right) * many))


def family_of_known(collection: tuple[Value, ...]) -> Family | None:
    return family_of_all([one for one in collection if not isinstance(one, Unknown)])

"""Reads values for the step count from the state of a decision, with nodes of the program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from policyengine import kernel as k
from policyengine.compiler.block_index import BlockIndex
from policyengine.compiler.build_nodes import GIVEN, PLAIN, Scope
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.tree import Covering, Tree
from policyengine.evaluator.approvals import approval_facts, find_approval
from policyengine.evaluator.decide import exact_state
from policyengine.evaluator.fact_reader import records_chains
from policyengine.evaluator.history_nodes import HistoryNode
from policyengine.evaluator.nodes import Node
from policyengine.evaluator.rules import CONFIRM
from policyengine.evaluator.state import ChainMember, State
from policyengine.evaluator.walker import refusal_code, state_of_hop
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.history import PastEvent
from policyengine.runtime.request import Approval
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.values import Unknown, Value
from policyengine.spec.step_count import CountedAgent, Families, HistoryWindow, RuleReader

ScopeKey: TypeAlias = tuple[bool, tuple[tuple[str, int], ...], int]


class Presenter(NamedTuple):
    id: Value
    groups: Value


class StepNodes:
    """Makes and keeps the nodes of the expressions whose steps are counted, and indexes the blocks of the policy by
    principal.
    """

    def __init__(self, builder: ProgramBuilder, tree: Tree) -> None:
        self.kernel = builder.kernel
        self.agents, self.users = BlockIndex(tree.agents), BlockIndex(tree.users)
        self._builder = builder
        self._nodes: dict[tuple[int, ScopeKey], tuple[k.Expr, Node]] = {}

    def node(self, expression: k.Expr, scope: Scope) -> Node:
        key = id(expression), (scope.given, tuple(scope.depths.items()), id(scope.event))
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = expression, self._builder.value_node(expression, scope)
        return found[1]


@dataclass(slots=True)
class StateReader:
    """Reads facts in a state. `scope` has the loops around the expression, and `past` is the past request on which a
    condition is tested.
    """

    nodes: StepNodes
    state: State
    scope: Scope = field(default_factory=lambda: PLAIN)
    past: PastEvent | None = None
    variable: str = ""
    families: Families = field(default_factory=dict)

    @property
    def user(self) -> Value:
        return self.state.user  # type: ignore[no-any-return]

    @property
    def entities(self) -> Entities:
        return self.state.entities

    def value(self, node: k.Expr) -> Value:
        state, before = self.state, self.state.past
        state.past = self.past
        found = self.nodes.node(node, self.scope).get(state)
        state.past = before
        return found  # type: ignore[no-any-return]

    def in_loop(self, variable: str) -> StateReader:
        return StateReader(
            self.nodes, self.state, self.scope.inside(variable), self.past, variable, families=self.families
        )

    def assign(self, item: Value) -> None:
        variables, depth = self.state.variables, self.scope.depths[self.variable]
        variables += [None] * (depth + 1 - len(variables))
        variables[depth] = item

    def at_event(self, pattern: k.EventPattern, event: PastEvent) -> StateReader:
        return StateReader(self.nodes, self.state, self.scope.at_event(pattern), event, families=self.families)

    def window(self, node: k.HistoryCondition | k.Aggregate) -> HistoryWindow | None:
        found = self.nodes.node(node, self.scope)
        assert isinstance(found, HistoryNode)
        window = found.window(self.state)
        return None if window is None else HistoryWindow(*window)


@dataclass
class StartedRequest:
    """A request with the rules of its endpoint, and with the blocks that may match its caller. `spent` are the
    approvals that were already used.
    """

    nodes: StepNodes
    state: State
    spent: frozenset[str]

    @property
    def endpoint(self) -> Endpoint:
        return self.state.request.endpoint

    @property
    def by_agent(self) -> bool:
        return self.state.by_agent

    @property
    def approvals(self) -> Sequence[Approval]:
        return self.state.request.approvals

    @property
    def refused(self) -> bool:
        return refusal_code(self.state) is not None

    @property
    def presenter(self) -> CountedAgent:
        return Presenter(self.state.name, self.state.groups_known())

    @property
    def hops(self) -> Sequence[CountedAgent]:
        hops: Any = self.state.hops
        known = not isinstance(hops, Unknown) and self.by_agent and records_chains(self.state.trust)
        return hops if known else ()

    @property
    def _covering(self) -> Covering:
        return self.state.rules.covering  # type: ignore[no-any-return]

    @cached_property
    def given(self) -> StateReader:
        return StateReader(self.nodes, self.state, GIVEN)

    @cached_property
    def guards(self) -> StateReader:
        return StateReader(self.nodes, self.state)

    @cached_property
    def grants(self) -> StateReader:
        if self.state.rules.exact_bindings is None:
            return self.guards
        return StateReader(self.nodes, exact_state(self.state))

    def at_hop(self, hop: CountedAgent) -> StateReader:
        assert isinstance(hop, ChainMember)
        return StateReader(self.nodes, state_of_hop(self.grants.state, hop))

    def approved(self) -> StateReader:
        state = self.state
        confirms = [effect for effect in state.rules.effects if effect.kind == CONFIRM]
        approved = state.branch()
        approved.approval = approval_facts([find_approval(state, one, self.spent) for one in confirms], state)
        return StateReader(self.nodes, approved, families=self.guards.families)

    def binders(self) -> Iterable[k.Binder]:
        return (self.nodes.kernel.binders[number] for number in self._covering.binders)

    def anyone_blocks(self) -> Iterable[k.AnyoneBlock]:
        return (self.nodes.kernel.anyones[number] for number in sorted(self._covering.anyones))

    def agent_blocks(self, agent: CountedAgent, reader: RuleReader) -> Iterable[k.AgentBlock]:
        covering = self._covering.agents | self._covering.hands
        found = self.nodes.agents.matching(agent.id, agent.groups, covering)
        return (self.nodes.kernel.agents[number] for number in sorted(found))

    def user_blocks(self) -> Iterable[k.UserBlock]:
        user = self.grants.user
        found = self.nodes.users.named(user) if isinstance(user, str) else self._covering.users
        return (self.nodes.kernel.users[number] for number in sorted(found))

    def guards_in_place(self) -> Iterable[k.Guard]:
        return (self.nodes.kernel.guards[number] for number in self._covering.guards)

    def limits_in_place(self) -> Iterable[k.Limit]:
        return (self.nodes.kernel.limits[number] for number in self._covering.limits)

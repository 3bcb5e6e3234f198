"""Reduces a policy to the part that can affect one request, as a kernel, so that the specification traces policies of
any size quickly.

Left out are blocks for other principals, and rules that do not cover the endpoint: they grant and delegate nothing, and
make no result unknown.
"""

from __future__ import annotations

from dataclasses import replace

from policyengine import kernel as k
from policyengine.compiler.block_index import BlockIndex, agent_name, presenter_and_hops
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Covering
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.request import Request
from policyengine.spec.required_history import history_conditions

MAX_SLICES = 1_000  # maximum cached kernels: one small kernel for each set of blocks that callers match


class Slices:
    def __init__(self, evaluator: Evaluator) -> None:
        self._kernel, self._program, tree = evaluator.kernel, evaluator.program, evaluator.tree
        self._agents, self._users = BlockIndex(tree.agents), BlockIndex(tree.users)
        self._made: dict[tuple[int, frozenset[int], frozenset[int]], tuple[Covering, k.Kernel]] = {}
        self._histories: dict[int, tuple[k.HistoryCondition | k.Aggregate, ...]] = {}

    def of(self, request: Request) -> k.Kernel:
        """Return a kernel that decides this request as the whole kernel does."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return replace(self._kernel, agents=(), users=(), anyones=(), guards=(), binders=(), limits=(), watches=())
        covering: Covering = self._program.rules_at(request.endpoint).covering
        agents, users = self._agents_in(request, covering), self._users_in(request, covering)
        key = id(covering), agents, users
        known = self._made.get(key)
        if known is None or known[0] is not covering:
            if len(self._made) >= MAX_SLICES:
                self._made.clear()
            known = self._made[key] = covering, self._sliced(covering, agents, users)
        return known[1]

    def _sliced(self, covering: Covering, agents: frozenset[int], users: frozenset[int]) -> k.Kernel:
        kernel = self._kernel
        return replace(
            kernel,
            agents=tuple(kernel.agents[number] for number in sorted(agents)),
            users=tuple(kernel.users[number] for number in sorted(users)),
            anyones=tuple(kernel.anyones[number] for number in sorted(covering.anyones)),
            guards=tuple(kernel.guards[number] for number in covering.guards),
            binders=tuple(kernel.binders[number] for number in covering.binders),
            limits=tuple(kernel.limits[number] for number in covering.limits),
            watches=tuple(kernel.watches[number] for number in covering.watches),
        )

    def histories_in(self, kernel: k.Kernel) -> list[k.HistoryCondition | k.Aggregate]:
        """Return the conditions about past requests in a kernel that `of` returned."""
        parts = (*kernel.agents, *kernel.users, *kernel.anyones, *kernel.guards, *kernel.limits)
        return [node for part in parts for node in self._histories_of(part)]

    def _histories_of(self, part: k.Node) -> tuple[k.HistoryCondition | k.Aggregate, ...]:
        """Return the conditions on past requests in a part of the whole kernel. Its parts are never freed, so their ids
        stay valid.
        """
        found = self._histories.get(id(part))
        if found is None:
            found = self._histories[id(part)] = tuple(history_conditions(part))
        return found

    def _agents_in(self, request: Request, covering: Covering) -> frozenset[int]:
        about = covering.agents | covering.hands
        asked = presenter_and_hops(request) if "agent" in request.facts else ()
        return frozenset(number for agent in asked for number in self._agents.matching(*agent, about))

    def _users_in(self, request: Request, covering: Covering) -> frozenset[int]:
        name = agent_name(request.fact("user", "id"))
        return frozenset(self._users.named(name)) if isinstance(name, str) else covering.users

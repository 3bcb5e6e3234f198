"""The part of a policy that can matter to one request: small, so that deciding with care costs the same at any size.

Left out are blocks that are surely about somebody else, and blocks that neither stand for anybody in the request nor
cover its endpoint: they open nothing, hand nothing on, and are no reason for doubt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import TypeGuard

from policyengine import kernel as k
from policyengine.compiler.tree import Covering, Principals, Tree
from policyengine.evaluator.program import PolicyProgram
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.patterns import Glob
from policyengine.runtime.request import Request
from policyengine.runtime.values import coerce
from policyengine.spec.required_history import history_conditions
from policyengine.typesystem import Scalar

MOST_SLICES = 1_000  # kept, each small: callers are about as many as the rules that tell them apart


class Slices:
    def __init__(self, kernel: k.Kernel, tree: Tree, program: PolicyProgram) -> None:
        self._kernel, self._program = kernel, program
        self._agents = Known(tree.agents)
        self._users = Known(tree.users)
        self._made: dict[tuple[int, frozenset[int], frozenset[int]], tuple[Covering, k.Kernel]] = {}
        self._histories: dict[int, tuple[k.HistoryCondition | k.Aggregate, ...]] = {}

    def of(self, request: Request) -> k.Kernel:
        """A kernel that comes to the same decision of this request."""
        if isinstance(request.endpoint, MalformedEndpoint):
            return replace(self._kernel, agents=(), users=(), anyones=(), guards=(), binders=(), limits=(), watches=())
        covering: Covering = self._program.rules_at(request.endpoint).covering
        agents, users = frozenset(self._agents_in(request, covering)), frozenset(self._users_in(request, covering))
        key = id(covering), agents, users
        known = self._made.get(key)
        if known is None or known[0] is not covering:
            if len(self._made) >= MOST_SLICES:
                self._made.clear()
            known = self._made[key] = covering, self._sliced(covering, agents, users)
        return known[1]

    def _sliced(self, covering: Covering, agents: Set[int], users: Set[int]) -> k.Kernel:
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
        """What a kernel that was made here asks of the past."""
        parts = (*kernel.agents, *kernel.users, *kernel.anyones, *kernel.guards, *kernel.limits)
        return [node for part in parts for node in self._histories_of(part)]

    def _histories_of(self, part: k.Node) -> tuple[k.HistoryCondition | k.Aggregate, ...]:
        """Found once for each part of the whole kernel, all of which stay."""
        found = self._histories.get(id(part))
        if found is None:
            found = self._histories[id(part)] = tuple(history_conditions(part))
        return found

    def _agents_in(self, request: Request, covering: Covering) -> set[int]:
        if "agent" not in request.facts:
            return set()
        about = covering.agents | covering.hands
        found: set[int] = set()
        for name, groups in agents_of(request):
            found |= self._agents.named(name) if isinstance(name, str) else about
            found |= self._agents.grouped(groups)
            found |= set() if settled(groups) else about & self._agents.in_groups
        return found

    def _users_in(self, request: Request, covering: Covering) -> set[int]:
        name = named(request.fact("user", "id"))
        return self._users.named(name) if isinstance(name, str) else set(covering.users)


class Known:
    """Which blocks can be about somebody."""

    def __init__(self, principals: Principals) -> None:
        self._names = principals.names
        self._groups = principals.groups
        self._globs = tuple((Glob(glob), number) for glob, number in principals.globs)
        self._others = principals.others
        self.in_groups = frozenset(number for numbers in self._groups.values() for number in numbers)

    def named(self, name: str) -> set[int]:
        return {
            *self._names.get(name, ()),
            *self._others,
            *(number for glob, number in self._globs if glob.matches(name)),
        }

    def grouped(self, groups: object) -> set[int]:
        named = (group for group in (groups if isinstance(groups, tuple) else ()) if isinstance(group, str))
        return {number for group in named for number in self._groups.get(group, ())}


def agents_of(request: Request) -> Iterator[tuple[object, object]]:
    """Name and groups, as given, of the presenter and of everybody before it."""
    yield named(request.fact("agent", "id")), request.fact("agent", "groups")
    hops = request.fact("chain", "hops")
    for hop in hops if isinstance(hops, tuple) else ():
        yield (named(hop.get("agent")), hop.get("groups")) if isinstance(hop, Mapping) else (None, None)


def named(raw: object) -> object:
    """The name, where it is one."""
    return coerce(raw, Scalar.STRING, "id")


def settled(groups: object) -> TypeGuard[tuple[str, ...]]:
    return isinstance(groups, tuple) and all(isinstance(group, str) for group in groups)

"""An index of agent and user blocks by name and group, which finds the blocks that may match without
testing each one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeGuard

from policyengine.compiler.tree import Principals
from policyengine.runtime.globs import Glob
from policyengine.runtime.request import Request
from policyengine.runtime.values import ABSENT, Unknown, Value, coerce
from policyengine.typesystem import Scalar
from policyengine.vocabulary import STRINGS


class BlockIndex:
    """Finds blocks by name and group, and returns their numbers in the kernel. `others` are the blocks that match
    everyone or have a condition.
    """

    def __init__(self, principals: Principals) -> None:
        self._names = principals.names
        self._groups = principals.groups
        self._globs = tuple((Glob(glob), number) for glob, number in principals.globs)
        self.others = principals.others
        self.in_groups = frozenset(number for numbers in self._groups.values() for number in numbers)

    def named(self, name: str) -> set[int]:
        """Return the blocks for this name, and the blocks in `others`."""
        globs = {number for glob, number in self._globs if glob.matches(name)}
        return {*self._names.get(name, ()), *self.others, *globs}

    def grouped(self, groups: object) -> set[int]:
        """Return the blocks for the known groups among these groups."""
        named = (group for group in (groups if isinstance(groups, tuple) else ()) if isinstance(group, str))
        return {number for group in named for number in self._groups.get(group, ())}

    def matching(self, name: object, groups: object, covering: frozenset[int]) -> set[int]:
        """Return the blocks that match a name and groups, and the blocks of `covering` that may match because the name
        or a group is unknown.
        """
        found = self.named(name) if isinstance(name, str) else set(covering)
        found |= self.grouped(groups)
        return found if are_known(groups) else found | (covering & self.in_groups)


def are_known(groups: object) -> TypeGuard[tuple[str, ...]]:
    return isinstance(groups, tuple) and not any(isinstance(group, Unknown) for group in groups)


def presenter_and_hops(request: Request) -> Iterator[tuple[Value, Value]]:
    """Yield the name and the groups of the presenter, and of each agent before it in the chain."""
    yield agent_name(request.fact("agent", "id")), agent_groups(request.fact("agent", "groups"))
    hops = request.fact("chain", "hops")
    yield from map(hop_agent, hops if isinstance(hops, tuple) else ())


def hop_agent(hop: object) -> tuple[Value, Value]:
    """Return the name and the groups of an agent before the presenter."""
    members = hop if isinstance(hop, Mapping) else {}
    return agent_name(members.get("agent", ABSENT)), agent_groups(members.get("groups", ABSENT))


def agent_name(raw: object) -> Value:
    return coerce(raw, Scalar.STRING, "agent.id")


def agent_groups(raw: object) -> Value:
    return coerce(raw, STRINGS, "agent.groups")

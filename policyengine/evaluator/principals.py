"""The blocks of an endpoint by the principals that they match: names, groups, globs and conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policyengine.evaluator.blocks import OPENS, Block
from policyengine.evaluator.nodes import merge
from policyengine.evaluator.relation_nodes import set_of
from policyengine.evaluator.state import ChainMember, State
from policyengine.runtime.globs import Glob
from policyengine.runtime.values import Unknown


class PrincipalRules:
    """Blocks by the principals that they match: by name, by group, and by globs of names; `others` are tested each
    time. A block is built when it is first needed; until then `names` and `groups` hold its number.
    """

    __slots__ = ("_blocks", "_make", "_names", "globs", "groups", "has_more", "others")

    def __init__(
        self,
        names: dict[str, Any],
        groups: dict[str, Any],
        globs: tuple[tuple[Glob, int], ...],
        others: tuple[int, ...],
        make: Callable[[int], Block],
    ) -> None:
        self._names = names
        self.groups = groups
        self.globs = globs
        self.others = others
        self.has_more = bool(groups or globs or others)
        self._make = make
        self._blocks: dict[int, Block] = {}

    def block(self, number: int) -> Block:
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = self._make(number)
        return found

    def named(self, name: str) -> tuple[Block, ...]:
        """Return the blocks for exactly this name."""
        found: Any = self._names.get(name)
        if found is None:
            return ()
        if type(found[0]) is int:
            found = self._names[name] = tuple([self.block(number) for number in found])
        return found  # type: ignore[no-any-return]

    def grouped(self, group: str) -> tuple[Block, ...]:
        """Return the blocks for this group."""
        found: Any = self.groups.get(group)
        if found is None:
            return ()
        if type(found[0]) is int:
            found = self.groups[group] = tuple([self.block(number) for number in found])
        return found  # type: ignore[no-any-return]

    def build_used(self, other: PrincipalRules) -> None:
        """Build the blocks of the names, groups and globs whose blocks `other` has built."""
        for name, found in list(other._names.items()):
            if type(found[0]) is not int:
                self.named(name)
        for group, found in list(other.groups.items()):
            if type(found[0]) is not int:
                self.grouped(group)
        built = other._blocks
        globs = [glob.pattern for glob, number in other.globs if number in built]
        for glob, number in self.globs:
            if glob.pattern in globs:
                self.block(number)
        if any(number in built for number in other.others):
            for number in self.others:
                self.block(number)

    def enter(self, st: State, name: Any, carried: bool) -> int:
        """Return the combined result bits of all blocks that may match the principal, up to the first block
        that opens.
        """
        if type(name) is Unknown:
            for block in self.all_blocks():
                st.doubts.append(name)
                block.enter(st, carried, applies=False)
            if self.groups and type(st.groups_known()) is Unknown:
                st.doubts.append(st.groups_known())
            return 0
        bits = 0
        for block in self.named(name):
            bits |= block.enter(st, carried)
            if bits & OPENS:
                return bits
        return bits | self._enter_more(st, name, carried) if self.has_more else bits

    def _enter_more(self, st: State, name: str, carried: bool) -> int:
        bits = 0
        if self.groups:
            bits = self._enter_groups(st, carried)
            if bits & OPENS:
                return bits
        for glob, number in self.globs:
            if glob.matches(name):
                bits |= self.block(number).enter(st, carried)
        for number in self.others:
            bits |= self.block(number).enter(st, carried)
        return bits

    def _enter_groups(self, st: State, carried: bool) -> int:
        groups, bits = st.groups_known(), 0
        for group in groups if type(groups) is tuple else ():
            for block in self.grouped(group) if type(group) is str else ():
                bits |= block.enter(st, carried)
        for block, unknown in self._in_doubt(st):
            st.doubts += unknown
            block.enter(st, carried, applies=False)
        return bits

    def applying(self, st: State, name: Any) -> list[Block]:
        """Return the blocks that match the principal by name, group or glob, and those that are tested each time, in
        order; no blocks if the name is unknown.
        """
        if type(name) is Unknown:
            return []
        found = list(self.named(name))
        if self.groups:
            groups = st.groups_known()
            for group in groups if type(groups) is tuple else ():
                if type(group) is str:
                    found.extend(self.grouped(group))
        found += [self.block(number) for glob, number in self.globs if glob.matches(name)]
        found += [self.block(number) for number in self.others]
        return sorted(found, key=block_number)

    def blocks_by_head(self) -> list[tuple[str, Block]]:
        """Return every block with the kind of its head: name, group, glob, condition, or always."""
        found = [("by name", block) for name in list(self._names) for block in self.named(name)]
        found += [("by group", block) for group in list(self.groups) for block in self.grouped(group)]
        found += [("by glob", self.block(number)) for _, number in self.globs]
        others = [self.block(number) for number in self.others]
        return [*found, *(("always" if block.where is None else "by condition", block) for block in others)]

    def all_blocks(self) -> list[Block]:
        found = [block for name in list(self._names) for block in self.named(name)]
        found += [block for group in list(self.groups) for block in self.grouped(group)]
        return [*found, *(self.block(number) for _, number in self.globs), *(self.block(one) for one in self.others)]

    def hands_on(self, st: State, name: Any, then: ChainMember) -> bool:
        """Return whether a block of this agent delegates to the next agent; leave unknowns on the stack."""
        if type(name) is Unknown:
            for block in self.all_blocks():
                st.doubts.append(name)
                block.hands_on(st, then, applies=False)
            if self.groups and type(st.groups_known()) is Unknown:
                st.doubts.append(st.groups_known())
            return False
        found = False
        if not self.has_more:
            for block in self.named(name):
                found = block.hands_on(st, then) or found
            return found
        for block in self.applying(st, name):
            found = block.hands_on(st, then) or found
        for block, unknown in self._in_doubt(st):
            st.doubts += unknown
            block.hands_on(st, then, applies=False)
        return found

    def possible(self, st: State, name: Any) -> list[Block]:
        """Return the blocks that match the principal or may match it."""
        if type(name) is Unknown:
            return self.all_blocks()
        return [*self.applying(st, name), *(block for block, _ in self._in_doubt(st))]

    def _in_doubt(self, st: State) -> list[tuple[Block, list[Unknown]]]:
        """Return the blocks of groups that may contain the agent, with the unknowns that leave this open."""
        if not self.groups:
            return []
        groups = st.groups_known()
        unknown = [groups] if type(groups) is Unknown else [one for one in groups if type(one) is Unknown]
        if not unknown:
            return []
        unknown = [merge(unknown)]
        known = set_of(st, groups).keys if type(groups) is tuple else frozenset()
        return [(block, unknown) for group in list(self.groups) if group not in known for block in self.grouped(group)]


def block_number(block: Block) -> int:
    return block.number

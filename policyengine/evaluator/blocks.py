"""Blocks at an endpoint: their grants and delegations, and what they allow a principal to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from policyengine import kernel as k
from policyengine.evaluator.conditions import Condition, test_has
from policyengine.evaluator.relation_nodes import MIN_HASHED, element_of, set_of, test_value
from policyengine.evaluator.requirements import Requirement, leave_unknown
from policyengine.evaluator.state import MAYBE, NO, YES, ChainMember, State
from policyengine.runtime.globs import Glob
from policyengine.runtime.values import Unknown

if TYPE_CHECKING:
    from policyengine.evaluator.history_nodes import EventRules

# The result of a block for a principal, as bits: the block accepts the principal, opens the endpoint, would open it
# with a scope, or would open it with a proof.
STANDS: Final = 1
OPENS: Final = 2
LACKS_SCOPE: Final = 4
LACKS_PROOF: Final = 8


class Grant:
    """One `may` at an endpoint. `carriers` are the scopes of its patterns that cover the endpoint, in order; `source`
    is the grant in the kernel.
    """

    __slots__ = ("carriers", "source", "when")

    def __init__(self, carriers: tuple[str, ...], when: Condition | None, source: k.Grant) -> None:
        self.carriers = carriers
        self.when = when
        self.source = source


class DelegationGrant:
    """One `may delegate` at an endpoint: to a name, a glob of names or a group, with its lifetime and condition.
    `source` is the delegation in the kernel.
    """

    __slots__ = ("glob", "group", "lifetime", "name", "source", "when")

    def __init__(
        self, name: str | None, glob: Glob | None, group: str | None, when: Condition | None, source: k.DelegationGrant
    ) -> None:
        self.name = name
        self.glob = glob
        self.group = group
        self.lifetime = source.lifetime
        self.when = when
        self.source = source

    def test(self, st: State, then: ChainMember) -> int:
        """Return YES if the delegation names the next agent and has not expired, and its condition is true; otherwise
        NO or MAYBE. Leave the unknowns of all three tests on the stack.
        """
        found = self._names(st, then)
        if self.lifetime is not None:
            assert st.hop is not None
            age = st.hop.age
            if type(age) is Unknown:
                st.doubts.append(age)
                found = MAYBE if found == YES else found
            elif age > self.lifetime:
                found = NO
        if self.when is not None:
            holds = self.when.test(st)
            if holds == NO:
                found = NO
            elif holds == MAYBE and found == YES:
                found = MAYBE
        return found

    def _names(self, st: State, then: ChainMember) -> int:
        if type(then.id) is Unknown or (self.group is not None and type(then.groups) is Unknown):
            leave_unknown(st, then.id, then.groups if self.group is not None else None)
            return MAYBE
        if self.name is not None:
            return YES if then.id == self.name else NO
        if self.glob is not None:
            return YES if self.glob.matches(then.id) else NO
        assert self.group is not None
        return test_group(st, then.groups, self.group)


def test_group(st: State, groups: Any, group: str) -> int:
    """Test whether groups, some of which may be unknown, include this group."""
    return test_has(st, groups, group) if len(groups) < MIN_HASHED else test_value(st, element_of(st, groups, group))


class Block:
    """A block at one endpoint: its requirements, and its grants and delegations that cover the endpoint. `where` is the
    condition of `agent where …`; `PrincipalRules` tests all other heads. `events` are the patterns of past requests
    that the block reads.
    """

    __slots__ = ("delegates", "events", "grants", "hop_requirements", "number", "package", "requirements", "where")

    def __init__(
        self,
        number: int,
        package: str,
        where: Condition | None,
        requirements: tuple[Requirement, ...],
        hop_requirements: tuple[Requirement, ...],
        grants: tuple[Grant, ...],
        delegates: tuple[DelegationGrant, ...],
        events: tuple[EventRules, ...],
    ) -> None:
        self.number = number
        self.events = events
        self.package = package
        self.where = where
        self.requirements = requirements
        self.hop_requirements = hop_requirements
        self.grants = grants
        self.delegates = delegates

    def enter(self, st: State, carried: bool, applies: bool = True) -> int:
        """Return the result bits of the block for the principal. If the block does not open, leave its unknowns on the
        stack. `carried` means that no scope is needed; `applies` is False if it is unknown whether the head matches.
        """
        if self.where is not None and applies:
            holds = self.where.test(st)
            if holds == NO:
                return 0
            applies = holds == YES
        stands, lacks_proof = applies, applies
        for requirement in self.requirements if st.hop is None else self.hop_requirements:
            if requirement.condition.test(st) != YES:
                stands = False
                lacks_proof = lacks_proof and requirement.kind is not None
        bits = STANDS if stands else 0
        for grant in self.grants:
            if grant.when is not None and grant.when.test(st) != YES:
                continue
            if carried or carries(st, grant.carriers):
                if stands:
                    return STANDS | OPENS
                bits |= LACKS_PROOF if lacks_proof else 0
            elif stands:
                bits |= LACKS_SCOPE
        return bits

    def hands_on(self, st: State, then: ChainMember, applies: bool = True) -> bool:
        """Return whether the block delegates to the next agent; leave unknowns on the stack."""
        stands = applies
        if self.where is not None and applies:
            holds = self.where.test(st)
            if holds == NO:
                return False
            stands = holds == YES
        for requirement in self.hop_requirements:
            if requirement.condition.test(st) != YES:
                stands = False
        found = False
        for delegate in self.delegates:
            if delegate.test(st, then) == YES and stands:
                found = True
        return found


def carries(st: State, carriers: tuple[str, ...]) -> bool:
    """Return whether the credential carries one of the scopes, or needs none."""
    trust = st.trust
    if trust is None:
        return False
    if trust.scopes_none:
        return True
    scopes = st.scopes_held()
    if type(scopes) is not tuple:
        return False
    held = scopes if len(scopes) < MIN_HASHED else set_of(st, scopes).keys
    for scope in carriers:  # noqa: SIM110  # a generator takes longer for the few that there are
        if scope in held:
            return True
    return False

"""The program: the rules of a policy at each endpoint, as plain data that the walker reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from policyengine import kernel as k
from policyengine.evaluator.nodes import BoundValue, Condition, Node, Path, merge, test_has
from policyengine.evaluator.relation_nodes import MIN_HASHED, element_of, set_of, test_value
from policyengine.evaluator.state import MAYBE, NO, YES, ChainMember, State
from policyengine.runtime.decision import Answer, Outcome
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint
from policyengine.runtime.letter_case import fold_case
from policyengine.runtime.limits import LimitCharge
from policyengine.runtime.patterns import Glob
from policyengine.runtime.values import Unknown
from policyengine.spec.tasks import TaskConstraint

if TYPE_CHECKING:
    from policyengine.evaluator.history_nodes import EventRules

# The result of a block for a principal, as bits: the block stands; it opens; it would open with a scope; it would open
# with a proof.
STANDS: Final = 1
OPENS: Final = 2
LACKS_SCOPE: Final = 4
LACKS_PROOF: Final = 8


class TrustAnchor:
    """An issuer that the policy trusts. `claims` are triples of a claim, a root and the attribute it sets."""

    __slots__ = ("claims", "name", "records_chains", "scopes_none")

    def __init__(self, issuer: k.Issuer) -> None:
        self.name = issuer.name
        self.records_chains = issuer.records_chains
        self.scopes_none = issuer.scopes_none
        self.claims = tuple((claim, root, attribute) for claim, (root, attribute) in issuer.claims)


# ── Requirements of blocks ───────────────────────────────────────────────────────────────────────


class IssuedByTest(Condition):
    """`issued by a, b`."""

    __slots__ = ("issuers",)

    def __init__(self, issuers: tuple[str, ...]) -> None:
        self.issuers = issuers

    def test(self, st: State) -> int:
        issuer = st.issuer
        if type(issuer) is Unknown:
            st.doubts.append(issuer)
            return MAYBE
        return YES if issuer in self.issuers else NO


class ActsAloneTest(Condition):
    """`acts alone`: there is no user, and the subject of the credential is the agent itself."""

    __slots__ = ("subject",)

    def __init__(self, subject: Node) -> None:
        self.subject = subject

    def test(self, st: State) -> int:
        user = st.user
        if type(user) is not Unknown:
            return NO
        if not user.absent:
            st.doubts.append(user)
            return MAYBE
        if st.hop is not None:
            return YES
        subject, name = self.subject.get(st), st.name
        if type(subject) is Unknown and subject.absent:
            return YES
        if type(subject) is Unknown or type(name) is Unknown:
            leave_unknown(st, subject, name)
            return MAYBE
        return YES if subject == name else NO


class ActsForTest(Condition):
    """`acts for users where …`: a known user, who must be the subject of the credential unless the subject is the
    agent.
    """

    __slots__ = ("condition", "subject")

    def __init__(self, subject: Node, condition: Condition | None) -> None:
        self.subject = subject
        self.condition = condition

    def test(self, st: State) -> int:
        user, mark = st.user, len(st.doubts)
        found = YES
        if type(user) is Unknown:
            st.doubts.append(user)
            found = MAYBE
        elif self.condition is not None:
            found = self.condition.test(st)
            if found == NO:
                return NO
        if st.hop is not None:
            return found
        subject, name = self.subject.get(st), st.name
        if type(subject) is Unknown and subject.absent:
            return found
        if type(subject) is Unknown or type(name) is Unknown or type(user) is Unknown:
            leave_unknown(st, subject, name, user)
            return MAYBE
        if subject != name and subject != user:
            del st.doubts[mark:]
            return NO
        return found


def leave_unknown(st: State, *values: Any) -> None:
    for value in values:
        if type(value) is Unknown:
            st.doubts.append(value)


class ValidityTest(Condition):
    """`from` and `until`."""

    __slots__ = ("end", "start")

    def __init__(self, start: datetime | None, end: datetime | None) -> None:
        self.start = start
        self.end = end

    def test(self, st: State) -> int:
        begun = self.start is None or self.start <= st.now
        return YES if begun and (self.end is None or st.now < self.end) else NO


class Requirement:
    """A requirement of a block. `need` is its text if it requires a proof, and `kind` is the kind of proof; `source` is
    the requirement in the kernel.
    """

    __slots__ = ("condition", "kind", "need", "source")

    def __init__(self, condition: Condition, kind: str | None, need: str, source: k.Requirement) -> None:
        self.condition = condition
        self.kind = kind
        self.need = need
        self.source = source


# ── Blocks ────────────────────────────────────────────────────────────────────────────────────


class Grant:
    """One `may` at an endpoint. `carriers` are the scopes of all its patterns that cover the endpoint, in order;
    `source` is the grant in the kernel.
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
        """Test whether the delegation names the next agent, has not expired, and its condition is true. Leave the
        unknowns of all three tests on the stack.
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
    """A block at one endpoint: its requirements, and its grants and delegations that cover the endpoint.

    `where` is the condition of `agent where …`; `PrincipalRules` looks up other heads. `events` are the patterns of
    past requests that the block reads.
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
        """Return the bits of the block for the principal. If the block does not open, leave its unknowns on the stack.
        `carried` means that no scope is needed; `applies` is False if it is unknown whether the head matches.
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


class PrincipalRules:
    """Blocks by the principals that they match: by name, by group, and by globs of names; `others` are tested each
    time. A block is created from its number when it is first needed; until then `names` and `groups` hold the number.
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
        """Build the blocks that the other rules have built, by the names and groups that they are for."""
        for name, found in list(other._names.items()):
            if type(found[0]) is not int:
                self.named(name)
        for group, found in list(other.groups.items()):
            if type(found[0]) is not int:
                self.grouped(group)

    def enter(self, st: State, name: Any, carried: bool) -> int:
        """Return the combined bits of all blocks that may match the principal, up to the first block that opens."""
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
        """Return the blocks that certainly match the principal by name or group, or that are tested each time, in
        order.
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
        """Return every block with the way it is found: by name, by group, by a glob of names, by its condition, or
        always.
        """
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
        """Return the blocks of groups that the agent may be in, with the unknowns."""
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


# ── Guards, limits, records ───────────────────────────────────────────────────────────────────

DENY: Final = 0
CONFIRM: Final = 1
OBLIGATION: Final = 2


class Effect:
    """A line of a guard at an endpoint. `index` is its position in the guard, `bit` its position at the endpoint.

    `at` is its place in the source. `proofs` are the better proofs that may lift a deny, as pairs of a remedy and the
    slots to change with their value.
    `binding` describes the binding of an approval of a confirm; `fixed` means that its text shows no fact.
    """

    __slots__ = (
        "at", "binding", "bit", "condition", "effect", "fixed", "guard", "index", "key", "kind", "message", "proofs",
    )  # fmt: skip

    def __init__(
        self,
        kind: int,
        bit: int,
        guard: k.Guard,
        index: int,
        effect: Any,
        condition: Condition | None,
        message: tuple[Any, ...] | None,
        proofs: tuple[ProofRemedy, ...],
        binding: ApprovalScope | None,
    ) -> None:
        self.kind = kind
        self.bit = bit
        self.guard = guard
        self.index = index
        self.key = (guard.package, guard.name, index)
        self.effect = effect
        self.at: str = effect.span.at
        self.condition = condition
        self.message = message
        self.fixed = message is None or all(isinstance(part, str) for part in message)
        self.proofs = proofs
        self.binding = binding


class MessagePart:
    """A fact in a message. The caller sees it only if it came with the request."""

    __slots__ = ("node", "show", "to_caller")

    def __init__(self, node: Node, show: Callable[[Any], str], to_caller: bool) -> None:
        self.node = node
        self.show = show
        self.to_caller = to_caller


class ProofRemedy:
    """A proof that may lift a deny: its kind and words, and the value that the slots of its fact would have."""

    __slots__ = ("kind", "need", "slots", "value")

    def __init__(self, kind: str, need: str, slots: tuple[int, ...], value: object) -> None:
        self.kind = kind
        self.need = need
        self.slots = slots
        self.value = value


class ApprovalScope:
    """The parts of a request to which an approval of a confirm is bound: objects, and the facts that `reads` read.

    `sources` are pairs of a path and the expression that a pattern binds to it; `approvers` is the expression of `by
    …`, if it has one.
    """

    __slots__ = ("approvers", "bound", "objects", "reads", "sources")

    def __init__(
        self,
        objects: tuple[tuple[k.BoundObject, Any], ...],
        bound: tuple[str, ...],
        reads: tuple[Node, ...],
        sources: tuple[tuple[Path, Node], ...],
        approvers: Node | None,
    ) -> None:
        self.objects = objects
        self.bound = bound
        self.reads = reads
        self.sources = sources
        self.approvers = approvers


class LimitRule:
    """A rate or budget at an endpoint: its condition, its key and its inputs as nodes. `charge` is complete but for its
    key, if all of it is constant.
    """

    __slots__ = ("charge", "condition", "cost", "count", "counts_denials", "keys", "limit", "moves", "quotas")

    def __init__(
        self,
        limit: k.Limit,
        condition: Node | None,
        keys: tuple[Node, ...],
        cost: Node | None,
        count: Node | None,
        moves: tuple[Node, ...],
        quotas: tuple[tuple[Node, Node | None], ...],
        charge: LimitCharge | None,
    ) -> None:
        self.limit = limit
        self.charge = charge
        self.condition = condition
        self.keys = keys
        self.cost = cost
        self.count = count
        self.moves = moves
        self.quotas = quotas
        self.counts_denials = isinstance(limit, k.Rate) and limit.counting_denials


class RecordRule:
    """The record of a request in the history: its key, its facts with their names, and the retention period."""

    __slots__ = ("awaits", "event", "facts", "retention", "within")

    def __init__(
        self, retention: k.EventRetention, event: EventRules, facts: tuple[tuple[Node, str], ...], within: int,
        awaits: bool,
    ) -> None:  # fmt: skip
        self.retention = retention
        self.event = event
        self.facts = facts
        self.within = within
        self.awaits = awaits


class TaskRule:
    """One bound of a task at an endpoint."""

    __slots__ = ("constraint", "outside")

    def __init__(self, constraint: TaskConstraint, outside: Condition) -> None:
        self.constraint = constraint
        self.outside = outside


class PathBranch:
    """A set of places in the patterns of paths that a path can be at.

    `next` are the branches after the literal segments that paths have had, `wild` the one after any other. `cased` are
    the literals by their folded text: a segment that is not in `next` may be another spelling of one. The rules are by
    method: `ends` of a path that ends here, `rest` of one that goes on beyond all patterns, `last` of one whose last
    segment is not a literal, if it does not matter which it is. `places` are the nodes of the tree with the least
    folding by which a path comes there; `rests` are patterns that end in `**` and match, `loose` those that match with
    a folding that is not theirs, and bind something.
    """

    __slots__ = ("cased", "ends", "grown", "last", "loose", "next", "places", "rest", "rests", "wild")

    def __init__(self, places: tuple[Any, ...], rests: tuple[int, ...], loose: tuple[int, ...]) -> None:
        self.places = places
        self.rests = rests
        self.loose = loose
        self.next: dict[str, PathBranch] = {}
        self.cased: dict[str, list[Any]] = {}
        self.wild: PathBranch | None = None
        self.ends: dict[str, EndpointRules] = {}
        self.rest: dict[str, EndpointRules] = {}
        self.last: dict[str, EndpointRules] = {}
        self.grown = False


NO_SIZES: Final = (None, None, -1)
MAX_HEADS, MAX_HEAD_LENGTH = 8_192, 256  # paths without their last segment, and their characters


class EndpointRules:
    """All rules of the policy at one endpoint. `bindings` are the bindings of patterns for guards, which ignore letter
    case; `exact_bindings` are those for grants, None if both are the same. `windows` are the patterns of past requests
    that rules of the endpoint read. `covering` has the numbers of the rules in the kernel, and `conditional_grants` are
    pairs of a block and its grant. A decision at an endpoint that `is_stateless` changes nothing, unless it uses
    approvals.
    """

    __slots__ = (
        "agents", "anyones", "bindings", "conditional_grants", "covering", "delegators", "effects", "exact_bindings",
        "hop_steps", "is_action", "is_stateless", "limits", "records", "sizes", "tasks", "users", "windows",
    )  # fmt: skip

    def __init__(
        self,
        *,
        is_action: bool,
        anyones: tuple[Block, ...],
        agents: PrincipalRules,
        users: PrincipalRules,
        delegators: PrincipalRules,
        effects: tuple[Effect, ...],
        limits: tuple[LimitRule, ...],
        records: tuple[RecordRule, ...],
        tasks: tuple[TaskRule, ...],
        bindings: dict[Path, BoundValue] | None,
        exact_bindings: dict[Path, BoundValue] | None,
        windows: Sequence[EventRules],
        covering: Any,
        conditional_grants: tuple[Any, ...],
    ) -> None:
        self.covering = covering
        self.conditional_grants = conditional_grants
        self.is_action = is_action
        self.anyones = anyones
        self.agents = agents
        self.users = users
        self.delegators = delegators
        self.effects = effects
        self.limits = limits
        self.records = records
        self.tasks = tasks
        self.bindings = bindings
        self.exact_bindings = exact_bindings
        self.windows = windows
        self.is_stateless = not limits and not records
        # The steps of a hop of a chain in blocks that name no agent; computed for the first chain.
        self.hop_steps = -1
        # How large a question may be, between a mark of the entities with which that was computed, and their depth.
        self.sizes: Any = NO_SIZES

    def build_used(self, other: EndpointRules) -> None:
        """Build the blocks that the rules of another program have built, by the names and groups that they are for."""
        self.agents.build_used(other.agents)
        self.users.build_used(other.users)
        self.delegators.build_used(other.delegators)


class PolicyProgram:
    """A policy that is ready to decide. `make_rules` creates the rules of an endpoint at its first request; `heads` has
    the branches of paths without their last segment.

    `blank` has one UNREAD for each slot. `user_slots` are the slots of the user, `hop_slots` those of facts that differ
    from hop to hop, and `holders` the facts whose attributes may be pending. `allow` is the answer without obligations,
    and `verdicts` caches other answers by the inputs on which they depend. `reads_history`: rules read past requests.
    """

    __slots__ = (
        "agent_groups", "agent_id", "agent_issuer", "allow", "blank", "blocks_read_history", "credential_issuer",
        "delegation", "everyone", "everyuser", "heads", "holders", "hop_slots", "issuers", "kernel", "make_rules",
        "masks_users", "reads_history", "scopes", "user_id", "user_slots", "verdicts",
    )  # fmt: skip

    def __init__(self, kernel: k.Kernel) -> None:
        self.kernel = kernel
        self.issuers = {name: TrustAnchor(issuer) for name, issuer in kernel.issuers.items()}
        self.masks_users = any(issuer.users_like for issuer in kernel.issuers.values())
        self.delegation = kernel.delegation
        self.reads_history = False
        self.blocks_read_history = False
        self.allow = Answer(Outcome.ALLOW, package=kernel.package, revision=kernel.revision)
        self.verdicts: dict[Any, Answer] = {}
        self.blank: list[Any] = []
        self.user_slots: tuple[int, ...] = ()
        self.hop_slots: tuple[int, ...] = ()
        self.holders: dict[str, Node] = {}
        self.make_rules: Any = None
        self.heads: dict[str, PathBranch] = {}
        self.everyone: Any = None
        self.everyuser: Any = None
        self.agent_id: Any = None
        self.agent_issuer: Any = None
        self.agent_groups: Any = None
        self.credential_issuer: Any = None
        self.scopes: Any = None
        self.user_id: Any = None

    def rules_at(self, endpoint: Endpoint) -> EndpointRules:
        """Return the rules at an endpoint. Many paths differ only in their last segment, so the branch before it is
        kept.
        """
        if type(endpoint) is HttpEndpoint and endpoint.segments:
            path = endpoint.path
            branch = self.heads.get(path[: path.rindex("/")])
            if branch is not None:
                tail = endpoint.segments[-1]
                then = branch.next.get(tail)
                found: EndpointRules | None = None
                if then is not None:
                    found = then.ends.get(endpoint.method)
                elif not branch.cased or fold_case(tail) not in branch.cased:
                    found = branch.last.get(endpoint.method)
                if found is not None:
                    return found
        made: EndpointRules = self.make_rules(endpoint)
        return made

    def keep_head(self, head: str, branch: PathBranch) -> None:
        """Keep the branch of a path without its last segment."""
        if len(head) <= MAX_HEAD_LENGTH:
            if len(self.heads) >= MAX_HEADS:
                self.heads.clear()
            self.heads[head] = branch

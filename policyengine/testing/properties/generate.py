"""Generates a request that a grant is likely to allow, with occasional faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from policyengine import kernel as k
from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.finder import WitnessFinder
from policyengine.solver.witness.pools import Leaf, ValuePools
from policyengine.solver.witness.values import SECOND
from policyengine.spec.issuer_users import speaks_for
from policyengine.testcases import GivenApproval, Property
from policyengine.testing.properties.draft_request import DraftRequest
from policyengine.testing.properties.endpoints import (
    ConcreteTool,
    CoveringGrant,
    EndpointContext,
    neighbouring_endpoint,
)
from policyengine.testing.properties.random_source import RandomSource
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import LEARNED_FACTS

STRANGER, PERSON = "stranger", "alice"
APPROVERS = ("ann", "ben", "cleo", "dan")
NO_TIME, SHORT_TIME = timedelta(0), timedelta(minutes=1)


@dataclass(slots=True)
class RequestGenerator:
    """Generates one request. Later steps override earlier steps, and `where` comes last. `hurdles` are conditions of
    the grants that should apply, with the truth value that each must have.
    """

    prop: Property
    sketch: DraftRequest
    site: EndpointContext
    pools: ValuePools
    choose: RandomSource
    hurdles: list[tuple[k.Expr | None, bool]] = field(default_factory=list)

    @property
    def editor(self) -> DraftEditor:
        return DraftEditor(self.sketch, self.pools, self.choose)

    def make(self, condition: k.Expr | None, wanted: bool, gently: bool = False) -> None:
        if condition is not None:
            WitnessFinder(self.editor, gently).make(condition, wanted)

    def draw(self) -> DraftRequest:
        """Generate the whole request. `where` is satisfied before the hurdles, and again at the end."""
        self.subject()
        self.caller()
        self.hurdles += self.guards()
        self.facts()
        self.make(self.prop.where, True)
        for node, wanted in self.hurdles:
            self.make(node, wanted)
        for _ in range(self.choose.of((0, 0, 0, 1, 1, 2))):
            self.spoil()
        self.make(self.prop.where, True, gently=True)
        self.approve()
        return self.sketch

    def subject(self) -> None:
        """Choose a resource, preferably one that has an entity row."""
        known = [ref for ref in self.sketch.rows if ref.type == self.site.resource_type]
        if known and not self.choose.chance(4):
            self.sketch.be_about(self.choose.of(known))

    # ── Principals ─────────────────────────────────────────────────────────────────────────────

    def caller(self) -> None:
        doors = [door for door in self.site.doors if self.is_open_to_given(door)]
        if not doors or self.choose.chance(12):
            self.stranger()
            return
        door = self.choose.of(doors)
        self.hurdles_of(door)
        match door.block:
            case k.AgentBlock() as block:
                self.agent(block, door)
            case k.UserBlock() as block:
                self.user(block)
                self.credential(door)
            case _:
                if self.choose.chance(2):
                    self.stranger()

    def is_open_to_given(self, door: CoveringGrant) -> bool:
        """Return whether the principals that the property sets can match the block."""
        given, block = self.prop.world.facts, door.block
        agent = given.get("agent")
        if isinstance(agent, dict) and isinstance(agent.get("id"), str):
            fits = isinstance(block, k.AgentBlock) and (
                not isinstance(block.who, k.ExactName) or block.who.name == agent["id"]
            )
            return fits or isinstance(block, k.AnyoneBlock)
        return not ("agent" in given and agent is None and isinstance(block, k.AgentBlock))

    def stranger(self) -> None:
        """Use an unknown principal, or no principal."""
        if self.choose.chance(2):
            return
        self.sketch.put(("agent", "id"), STRANGER)
        self.sketch.put(("agent", "issuer"), self.choose.of([*self.site.kernel.issuers, "elsewhere"]))
        self.sketch.put(("user", "id"), PERSON)

    def agent(self, block: k.AgentBlock, door: CoveringGrant) -> None:
        self.named(block.who, ("agent", "id"))
        acts_alone = any(isinstance(one, k.ActsAlone) for one in block.requirements)
        if not acts_alone or self.choose.chance(16):
            self.served()
        self.credential(door)
        if self.site.hops and (self.choose.chance(4) or (self.asks_for_chain and not self.choose.chance(8))):
            self.chain()

    @property
    def asks_for_chain(self) -> bool:
        nodes = () if self.prop.where is None else k.walk(self.prop.where)
        return any(isinstance(node, k.Fact) and node.path[0] == "chain" for node in nodes)

    def served(self) -> None:
        """Choose the user that an agent acts for, preferably one with a grant."""
        doors = self.site.for_users
        if doors and not self.choose.chance(12):
            door = self.choose.of(doors)
            self.hurdles_of(door)
            self.user(door.block)  # type: ignore[arg-type]  # those are of users
        else:
            self.person()

    def user(self, block: k.UserBlock) -> None:
        if isinstance(block.who, k.ExactName):
            self.sketch.put(("user", "id"), block.who.name)
        else:
            self.person()
        self.valid(block.requirements)

    def person(self) -> None:
        """Choose a user, preferably one that has an entity row."""
        known = [ref.id for ref in self.sketch.rows if ref.type == "user"]
        self.sketch.put(("user", "id"), self.choose.of([*known[:8], PERSON] if known else [PERSON]))

    def named(
        self, who: k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition | k.AnyUser, path: tuple[str, str]
    ) -> None:
        match who:
            case k.ExactName(name):
                self.sketch.put(path, name)
            case k.NamePattern(glob):
                self.sketch.put(path, glob.replace("*", "x"))
            case k.InGroup(group):
                self.sketch.put(path, STRANGER)
                self.sketch.put(("agent", "groups"), (group,))
            case _:
                self.sketch.put(path, STRANGER)

    def credential(self, door: CoveringGrant) -> None:
        """Choose a credential that meets the requirements of a block, often only just."""
        requirements = () if isinstance(door.block, k.AnyoneBlock) else door.block.requirements
        issuers = next((one.issuers for one in requirements if isinstance(one, k.IssuedBy)), ())
        issuer = self.choose.of(issuers or tuple(self.site.kernel.issuers) or ("elsewhere",))
        by_agent = isinstance(door.block, k.AgentBlock)
        self.sketch.put(("agent", "issuer") if by_agent else ("credential", "issuer"), issuer)
        known = self.site.kernel.issuers.get(issuer)
        if door.carriers and not (known is not None and known.scopes_none):
            self.sketch.put(("credential", "scopes"), (self.choose.of(door.carriers),))
        for requirement in requirements:
            match requirement:
                case k.CredentialKinds(kinds):
                    self.sketch.put(("credential", "kind"), self.choose.of(kinds))
                case k.CredentialLifetime(limit):
                    self.sketch.put(("credential", "lifetime"), self.within(limit))
                case k.CredentialAge(limit):
                    self.sketch.put(("credential", "age"), self.within(limit))
                case k.ProofOfPossession():
                    self.sketch.put(("credential", "bound"), True)
                case k.AttestedBy(attesters):
                    self.attestation(self.site.kernel.attesters[self.choose.of(attesters)])
                case _:
                    pass
        self.valid(one for one in requirements if isinstance(one, k.ValidityPeriod))

    def within(self, limit: timedelta) -> timedelta:
        """Return a duration that is well below, exactly at, or just above a limit."""
        return self.choose.of((min(SHORT_TIME, limit), limit, min(SHORT_TIME, limit), limit + SECOND))

    def attestation(self, attester: k.Attester) -> None:
        model, digest = self.choose.of(attester.models) if attester.models else (None, None)
        facts = {"verified": True, "by": attester.name, "model": model, "model_hash": digest}
        facts["environment"] = self.choose.of(attester.environments) if attester.environments else None
        facts["age"] = SHORT_TIME if attester.age is None else self.within(attester.age)
        for name, value in facts.items():
            self.sketch.put(("attestation", name), value)

    def valid(self, spans: Iterable[k.ValidityPeriod]) -> None:
        """Choose a time in the validity periods, sometimes at their end."""
        for span in spans:
            if self.sketch.has_time():
                return
            if span.start is not None and self.sketch.now < span.start:
                self.sketch.now = span.start
            if span.end is not None and self.choose.chance(6):
                self.sketch.now = self.choose.of((span.end - SECOND, span.end))

    def chain(self) -> None:
        """Choose a delegation chain: usually one agent that may delegate, sometimes several, or an agent
        that may not.
        """
        if self.sketch.is_given(("chain", "hops")):
            return
        hops = [self.hop(*self.choose.of(self.site.hops)) for _ in range(self.choose.of((1, 1, 1, 2, 4)))]
        self.sketch.put(("chain", "hops"), tuple(hops))

    def hop(self, door: CoveringGrant, delegate: k.DelegationGrant) -> dict[str, object]:
        self.hurdles_of(door)
        block = door.block
        assert isinstance(block, k.AgentBlock)  # only agents delegate
        found: dict[str, object] = {"agent": self.name_of(block)}
        issuers = next((one.issuers for one in block.requirements if isinstance(one, k.IssuedBy)), ())
        if issuers and (self.sketch.raw(("agent", "issuer")) not in issuers or self.choose.chance(3)):
            found["issuer"] = self.choose.of(issuers)
        if door.carriers:
            found["scopes"] = (self.choose.of(door.carriers),)
        if isinstance(block.who, k.InGroup):
            found["groups"] = (block.who.group,)
        if delegate.lifetime is not None and self.choose.chance(2):
            found["age"] = self.within(delegate.lifetime)
        if isinstance(delegate.to, k.ExactName) and not self.choose.chance(8):
            self.sketch.put(("agent", "id"), delegate.to.name)
        return found

    def name_of(self, block: k.AgentBlock) -> str:
        """Return a name that matches the block, or sometimes another name that the policy mentions."""
        if self.choose.chance(6):
            block = self.choose.of(self.site.kernel.agents)
        match block.who:
            case k.ExactName(name):
                return name
            case k.NamePattern(glob):
                return glob.replace("*", "x")
            case _:
                return STRANGER

    # ── Conditions ─────────────────────────────────────────────────────────────────────────────

    def hurdles_of(self, door: CoveringGrant) -> None:
        """Add the conditions of a block and of its grant as hurdles."""
        block = door.block
        if not isinstance(block, k.AnyoneBlock):
            if isinstance(block.who, k.PrincipalCondition):
                self.hurdles.append((block.who.condition, True))
            self.hurdles += [(one.condition, True) for one in block.requirements if isinstance(one, k.ActsFor)]
        self.hurdles.append((door.grant.when, True))

    def guards(self) -> Iterator[tuple[k.Expr | None, bool]]:
        """Yield the conditions of guards with the truth value that they should have: mostly false, so that the grant
        decides.
        """
        for guard in self.site.guards:
            for effect in guard.effects:
                match effect:
                    case k.Deny(condition):
                        yield condition, self.choose.chance(12)
                    case k.Confirm(condition):
                        yield condition, self.choose.chance(3)
                    case _:
                        pass

    def facts(self) -> None:
        """Set the facts that the hurdles and the property read, with occasional omissions."""
        conditions = [*(node for node, _ in self.hurdles), self.prop.where]
        for leaf in dict.fromkeys(leaf for node in conditions if node is not None for leaf in facts_read(node)):
            if not self.choose.chance(10):
                self.editor.settle(leaf)

    def approve(self) -> None:
        """Add approvals for confirms in half of the requests, unless the property sets approvals."""
        confirms = [(g, e) for g in self.site.guards for e in g.effects if isinstance(e, k.Confirm)]
        if not confirms or self.sketch.world.approvals or self.choose.chance(2):
            return
        for guard, confirm in confirms:
            at_the_edge = (confirm.lasts, confirm.lasts + SECOND)
            age = self.choose.of((NO_TIME, NO_TIME, NO_TIME, NO_TIME, *at_the_edge))
            for name in self.approvers(confirm):
                number = str(len(self.sketch.approvals))
                issuer = self.vouching(confirm.approvers.issuers, name)
                self.sketch.approvals.append(GivenApproval(number, guard.name, name, age, issuer=issuer))

    def vouching(self, issuers: tuple[str, ...], approver: str) -> str | None:
        """Return an issuer for the approval: mostly one that may vouch for the approver."""
        if not issuers:
            return None
        known = self.sketch.kernel.issuers
        fitting = [name for name in issuers if speaks_for(known[name], approver)]
        others = [None, *(name for name in known if name not in fitting)]
        return self.choose.of(others if not fitting or self.choose.chance(4) else fitting)

    def approver_name(self, name: str, issuers: tuple[str, ...]) -> str:
        """Return the name, or a similar name for which one of the issuers may vouch."""
        known = [self.sketch.kernel.issuers[issuer] for issuer in issuers]
        if not known or any(speaks_for(issuer, name) for issuer in known):
            return name
        return self.choose.of([pattern.replace("*", name) for issuer in known for pattern in issuer.users_like])

    def approvers(self, confirm: k.Confirm) -> Iterator[str]:
        of, sketch = confirm.approvers.of, self.sketch
        for plain_name in APPROVERS[: confirm.approvers.count]:
            name = self.approver_name(plain_name, confirm.approvers.issuers)
            person = EntityRef("user", name)
            match of:
                case k.ServedUser():
                    user = sketch.holder("user")
                    yield user.id if user is not None else name
                case k.RoleHolder(role):
                    if person not in sketch.world.rows and "user" in sketch.kernel.entities:
                        sketch.row(person).attributes["roles"] = (role,)
                    yield name
                case k.MemberOf(expression):
                    yield self.member(person, sketch.known(expression))

    def member(self, person: EntityRef, among: object) -> str:
        """Return one of the given users, or a member of the given groups."""
        every = among if isinstance(among, tuple) else (among,)
        people = [one.id for one in every if isinstance(one, EntityRef) and one.type == "user"]
        groups = [one for one in every if isinstance(one, EntityRef) and one.type != "user"]
        if people:
            return self.choose.of(people)
        declared = self.sketch.kernel.entities.get("user")
        if groups and declared is not None and person not in self.sketch.world.rows:
            self.sketch.row(groups[0])
            self.sketch.row(person).parents += [one for one in groups[:1] if one.type in declared.parents]
        return person.id

    # ── Faults ─────────────────────────────────────────────────────────────────────────────────

    def spoil(self) -> None:
        """Add a fault: remove a fact, make it unreadable, change its type, spoil an attribute, set an empty task, or
        use a similar endpoint.
        """
        paths = list(self.sketch.leaves())
        if not paths or self.choose.chance(8):
            self.sketch.spot = neighbouring_endpoint(self.sketch.spot, self.choose)
        elif self.choose.chance(10):
            self.bound()
        elif self.choose.chance(3):
            self.spoil_attribute()
        else:
            path = self.choose.of(paths)
            if self.choose.chance(2):
                self.sketch.remove(path)
            elif path in LEARNED_FACTS:
                self.sketch.put(path, NOT_READABLE)
            elif path != ("chain", "hops"):
                self.sketch.put(path, wrong_type_value(self.sketch.raw(path)))

    def bound(self) -> None:
        """Give the request an empty task, which allows no tool or resource."""
        if isinstance(self.sketch.spot, ConcreteTool):
            self.sketch.put(("task", "tools"), ())
        elif self.site.resource_type is not None:
            self.sketch.put(("task", "entities"), ())

    def spoil_attribute(self) -> None:
        """Add a fault to the row of the user, agent or resource: remove the row or an attribute, or give an attribute
        the wrong type.
        """
        roots = [root for root in ("user", "resource", "agent") if self.sketch.holder(root) in self.sketch.rows]
        if not roots:
            return
        root = self.choose.of(roots)
        holder = self.sketch.holder(root)
        assert holder is not None
        if self.choose.chance(4):
            return self.sketch.remove_row(holder)
        names = [name for name in self.sketch.rows[holder].attributes if not self.sketch.is_given_row(holder, name)]
        if not names:
            return
        name = self.choose.of(names)
        value = self.sketch.rows[holder].attributes.pop(name)
        if self.choose.chance(2):
            self.sketch.attributes[root, name] = wrong_type_value(value)


def facts_read(node: k.Expr) -> Iterator[Leaf]:
    """Yield the facts that a condition reads, except members of quantifier variables."""
    for inner in k.walk(node):
        if isinstance(inner, k.Fact) or (isinstance(inner, k.Attribute | k.Member) and is_fact_path(inner)):
            yield inner


def is_fact_path(node: k.Expr) -> bool:
    while isinstance(node, k.Attribute | k.Member):
        node = node.base
    return isinstance(node, k.Fact)


def wrong_type_value(value: object) -> object:
    """Return a value of another type: for a boolean or a number its text, which a lax reader might accept."""
    match value:
        case str():
            return 5
        case bool() | int() | Decimal():
            return str(value).lower()
        case _:
            return "?"

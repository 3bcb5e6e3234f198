"""What one policy says to one kind of caller at one class of endpoints, as conditions: when it opens, and what acts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

from policyengine import kinds
from policyengine.analysis.endpoints import Class
from policyengine.analysis.rewriting import (
    ALWAYS,
    ISSUER,
    NEVER,
    NOWHERE,
    SOUND,
    Rewriter,
    Settled,
    bindings,
    constant,
    every,
    fact,
    one_of,
    some,
)
from policyengine.compiler.leaf import Covering
from policyengine.compiler.leaves import Leaves
from policyengine.compiler.tree import tree_of
from policyengine.directory.entities import Directory
from policyengine.kinds import Scalar
from policyengine.runtime.endpoints import ToolEndpoint
from policyengine.runtime.patterns import Glob
from policyengine.runtime.show import duration
from policyengine.semantics import kernel as k
from policyengine.semantics.approval_binding import bound_words
from policyengine.semantics.cells import State
from policyengine.semantics.matching import match_pattern
from policyengine.semantics.revision import Writers
from policyengine.semantics.tasks import RESOURCE, entities_bound, tools_bound
from policyengine.source import Span
from policyengine.vocabulary import CREDENTIAL_KIND

ISSUED_BY = fact(ISSUER)
STRINGS = kinds.Set(Scalar.STRING)


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that can decide, at one class of endpoints: `text` is equal exactly when it says the same.

    `who` is whom it is about, where it is a door; `told` is all of it, with names and words that change no outcome.
    """

    kind: str
    text: str
    told: str
    part: k.Grant | k.Delegate | k.Effect
    block: k.AgentBlock | k.UserBlock | k.AnyoneBlock | None = None
    guard: k.Guard | None = None

    @property
    def name(self) -> str:
        """The rule as people call it."""
        if self.guard is not None:
            return f'guard "{self.guard.name}"'
        assert self.block is not None
        return self.block.label


@dataclass(frozen=True, slots=True)
class Said:
    """When it opens (true only), and what then acts (true or unknown), by what it comes to."""

    opens: k.Expr
    denies: k.Expr
    confirms: Mapping[tuple[str, ...], k.Expr]
    duties: Mapping[tuple[str, ...], k.Expr]


@dataclass(eq=False)
class Side:
    """One of the two policies, with what it takes to find what stands at an endpoint."""

    kernel: k.Kernel
    name: str  # "old" or "new"
    tasks: bool = False  # whether one of the two leaves to guards what a task bounds
    write: Writers = field(default_factory=Writers)
    texts: dict[int, str] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> Leaves:
        return Leaves(self.kernel, tree_of(self.kernel), Directory())

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, issuer in self.kernel.issuers.items() if issuer.records_chains))

    @cached_property
    def free_of_scopes(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, issuer in self.kernel.issuers.items() if issuer.scopes_none))

    @cached_property
    def limits(self) -> bool:
        """Whether any delegation is limited: then who does not record chains is let nowhere."""
        return any(one.depth is not None or one.lifetime is not None or one.no_cycles for one in self.kernel.delegation)

    def covering(self, at: Class) -> Covering:
        return self.leaves.at(at.endpoint).covering

    def text(self, part: object) -> str:
        found = self.texts.get(id(part))
        if found is None:
            found = self.texts[id(part)] = self.write(part)
        return found

    # ── What stands at a class of endpoints ───────────────────────────────────────────────────

    def units(self, at: Class) -> tuple[Unit, ...]:
        """Every rule that covers these endpoints."""
        return (*self.doors(at), *self.guards(at))

    def doors(self, at: Class) -> Iterator[Unit]:
        covering, kernel = self.covering(at), self.kernel
        for number in sorted(covering.anyones):
            yield from self.grants("anyone", kernel.anyones[number], at)
        for number in sorted(covering.users):
            yield from self.grants("user", kernel.users[number], at)
        for number in sorted(covering.agents | covering.hands):
            yield from self.grants("agent", kernel.agents[number], at)
            yield from self.delegates(kernel.agents[number], at)

    def grants(self, kind: str, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock, at: Class) -> Iterator[Unit]:
        head = self.head(block)
        for grant in block.grants:
            carriers = carriers_of(grant, at)
            if carriers is not None:
                when = "" if grant.when is None else self.text(grant.when)
                text = f"{kind} {head} {sorted(carriers)} {when}"
                yield Unit(kind, text, text, grant, block)

    def delegates(self, block: k.AgentBlock, at: Class) -> Iterator[Unit]:
        for one in block.delegates:
            if any(match_pattern(pattern, at.endpoint) is not None for pattern in one.patterns):
                when = "" if one.when is None else self.text(one.when)
                text = f"delegate {self.head(block)} {one.to} {one.lifetime} {when}"
                yield Unit("delegate", text, text, one, block)

    def head(self, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock) -> str:
        """Whom a block is about and what it requires."""
        found = self.texts.get(id(block))
        if found is None:
            waived = [block.package in self.kernel.unrestricted, block.package in self.kernel.advisory]
            asked = (
                () if isinstance(block, k.AnyoneBlock) else sorted(self.requirement(one) for one in block.requirements)
            )
            who = "" if isinstance(block, k.AnyoneBlock) else self.write(block.who)
            found = self.texts[id(block)] = f"{who} {asked} {waived}"
        return found

    def requirement(self, one: k.Requirement) -> str:
        """What an attester is trusted with belongs to what a block requires."""
        if not isinstance(one, k.AttestedBy):
            return self.write(one)
        return self.write(one) + "".join(self.write(self.kernel.attesters[name]) for name in sorted(one.attesters))

    def guards(self, at: Class) -> Iterator[Unit]:
        for number in self.covering(at).guards:
            guard = self.kernel.guards[number]
            for effect in guard.effects:
                yield Unit("guard", self.effect(effect, at), f"{guard.name} {self.text(effect)}", effect, guard=guard)

    def effect(self, effect: k.Effect, at: Class) -> str:
        when = "" if effect.condition is None else self.text(effect.condition)
        return f"{effect_key(effect, at)} {when}"

    def setting(self, at: Class) -> str:
        """What else decides there: what patterns bind, which issuers and delegations there are."""
        binders = sorted(self.write(self.kernel.binders[number]) for number in self.covering(at).binders)
        return f"{binders} {self.trust}"

    @cached_property
    def trust(self) -> str:
        every = self.kernel.issuers.items()
        known = sorted((name, one.records_chains, one.scopes_none, sorted(one.claims)) for name, one in every)
        return f"{known} {sorted(map(self.write, self.kernel.delegation))}"

    def rewriter(
        self, at: Class, settled: Settled, claimed: frozenset[tuple[str, str]], *, opening: bool = False
    ) -> Rewriter:
        """`opening`: as doors read what is bound, by the letter."""
        found = (self.kernel.binders[number] for number in self.covering(at).binders)
        binders = tuple(one for one in found if not opening or match_pattern(one.pattern, at.endpoint) is not None)
        return Rewriter(at, settled, bindings(self.kernel, at, binders), claimed, self.name, self.recorded)

    def pieces(self, unit: Unit, at: Class) -> Iterator[tuple[tuple[str, ...], str, Span]]:
        """A rule and what its block requires, each by a text that is equal exactly when it says the same."""
        part = unit.part
        if unit.guard is not None:
            yield (unit.name, self.effect(part, at)), unit.name, part.span  # type: ignore[arg-type]  # a guard has effects
            return
        assert unit.block is not None
        what = str(sorted(carriers_of(part, at) or ())) if isinstance(part, k.Grant) else unit.text
        when = part.when if isinstance(part, k.Grant) else None
        yield (unit.name, unit.kind, what, "" if when is None else self.text(when)), unit.name, part.span
        for one in getattr(unit.block, "requirements", ()):
            yield (unit.name, self.write(one)), unit.name, one.span
            for name in one.attesters if isinstance(one, k.AttestedBy) else ():
                attester = self.kernel.attesters[name]
                yield (unit.name, self.write(attester)), f"attester {name}", attester.span

    # ── What it says to one kind of caller ────────────────────────────────────────────────────

    def said(self, at: Class, settled: Settled, units: Sequence[Unit], claimed: frozenset[tuple[str, str]]) -> Said:
        """`units` are those that can be about the caller."""
        rewrite = self.rewriter(at, settled, claimed)
        task = task_of(at, rewrite, self.kernel) if self.tasks else ALWAYS
        asking = Asking(self, at, settled, self.rewriter(at, settled, claimed, opening=True), task)
        effects = [unit.part for unit in units if unit.guard is not None]
        acting: dict[str, dict[tuple[str, ...], list[k.Expr]]] = {"deny": {}, "confirm": {}, "oblige": {}}
        for effect in effects:
            assert isinstance(effect, k.Deny | k.Confirm | k.Oblige)
            key = effect_key(effect, at)
            when = ALWAYS if effect.condition is None else rewrite(effect.condition)
            acting[key[0]].setdefault(key, []).append(when)
        joined = {
            kind: {key: some(*several) for key, several in sorted(found.items())} for kind, found in acting.items()
        }
        return Said(
            asking.opens(units), some(*joined["deny"].values()) if joined["deny"] else NEVER,
            joined["confirm"], joined["oblige"],
        )  # fmt: skip


def effect_key(effect: k.Effect, at: Class) -> tuple[str, ...]:
    """What an effect comes to when it acts."""
    match effect:
        case k.Deny():
            return ("deny",)
        case k.Confirm(_, by, within):
            bound = bound_words(effect, at.endpoint)
            return ("confirm", by.words, "any time" if within is None else duration(within), *bound)
        case k.Oblige(_, kind, arguments):
            return ("oblige", kind, *arguments)
        case _:
            assert_never(effect)


def carriers_of(grant: k.Grant, at: Class) -> frozenset[str] | None:
    """The credential scopes that carry it there; None where it covers nothing of that."""
    found = [one.carriers for one in grant.openings if match_pattern(one.pattern, at.endpoint) is not None]
    return frozenset(name for carriers in found for name in carriers) if found else None


# ── Doors as conditions ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Asking:
    """Doors of one policy, for one kind of caller: what must be true so that they open."""

    side: Side
    at: Class
    settled: Settled
    rewrite: Rewriter
    task: k.Expr  # the request lies within its task

    def opens(self, units: Iterable[Unit]) -> k.Expr:
        doors: dict[str, list[tuple[Unit, k.Expr]]] = {"anyone": [], "agent": [], "user": [], "delegate": []}
        for unit in units:
            if unit.guard is None and unit.kind != "delegate":
                doors[unit.kind].append((unit, self.door(unit)))
        to_anyone = some(*(door for _, door in doors["anyone"])) if doors["anyone"] else NEVER
        if self.settled.agent is State.ABSENT:
            own = [door for _, door in doors["user"]]
            alone = ALWAYS if self.settled.hops == 0 else NEVER
            return some(to_anyone, every(some(*own) if own else NEVER, alone))
        if not doors["agent"]:
            return to_anyone
        return some(to_anyone, every(self.through_agents(doors["agent"], doors["user"]), self.chain()))

    def through_agents(self, agents: Sequence[tuple[Unit, k.Expr]], users: Sequence[tuple[Unit, k.Expr]]) -> k.Expr:
        door = some(*(one for _, one in agents))
        if self.settled.user is State.ABSENT:
            return door
        waived = [one for unit, one in agents if unit.block and unit.block.package in self.side.kernel.unrestricted]
        served = some(*waived, *(one for _, one in users)) if waived or users else NEVER
        return every(door, served)

    def chain(self) -> k.Expr:
        """Without hops only who does not record chains stands in the way of limits."""
        if self.settled.hops != 0:
            return fact(SOUND, Scalar.BOOL)
        return one_of(self.side.recorded, ISSUED_BY) if self.side.limits else ALWAYS

    def door(self, unit: Unit) -> k.Expr:
        grant, block = unit.part, unit.block
        assert isinstance(grant, k.Grant)
        assert block is not None
        asked = [self.about(block)]
        if not isinstance(block, k.AnyoneBlock):
            asked += [self.required(one) for one in block.requirements]
        presented = isinstance(block, k.AgentBlock) or (
            isinstance(block, k.UserBlock) and self.settled.agent is State.ABSENT
        )
        if presented:
            asked.append(self.carried(carriers_of(grant, self.at) or frozenset()))
            asked.append(ALWAYS if block.package in self.side.kernel.advisory else self.task)
        asked.append(ALWAYS if grant.when is None else self.rewrite(grant.when))
        return every(*asked)

    def about(self, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock) -> k.Expr:
        """The names are settled: only blocks that can be about the caller are asked."""
        if isinstance(block, k.AnyoneBlock):
            return ALWAYS
        match block.who:
            case k.Where(condition):
                return self.rewrite(condition)
            case k.InGroup(group):
                return k.Contains(fact(("agent", "groups"), STRINGS), constant(group), False, span=NOWHERE)
            case _:
                return ALWAYS

    def carried(self, carriers: frozenset[str]) -> k.Expr:
        free, known = self.side.free_of_scopes, sorted(self.side.kernel.issuers)
        scopes = fact(("credential", "scopes"), STRINGS)
        held = [k.Contains(scopes, constant(one), False, span=NOWHERE) for one in sorted(carriers)]
        named = every(one_of(known, ISSUED_BY), some(*held)) if held else NEVER
        return some(one_of(free, ISSUED_BY), named) if free else named

    def required(self, requirement: k.Requirement) -> k.Expr:
        match requirement:
            case k.IssuedBy(issuers):
                return one_of(issuers, ISSUED_BY)
            case k.ActsAlone():
                return self.named(self.settled.agent) if self.settled.user is State.ABSENT else NEVER
            case k.ActsFor(condition):
                if not isinstance(self.settled.user, str):
                    return NEVER
                acts = ALWAYS if condition is None else self.rewrite(condition)
                return every(acts, self.named(self.settled.agent, self.settled.user))
            case k.Valid(start, end):
                return every(ALWAYS, *between(start, end))
            case k.CredentialKind(names):
                kind = fact(("credential", "kind"), CREDENTIAL_KIND)
                held = k.Constant(tuple(names), kinds.List(CREDENTIAL_KIND), span=NOWHERE)
                return k.Contains(held, kind, False, span=NOWHERE)
            case k.CredentialLifetime(limit):
                return at_most(("credential", "lifetime"), limit)
            case k.CredentialAge(limit):
                return at_most(("credential", "age"), limit)
            case k.CredentialBound():
                return fact(("credential", "bound"), Scalar.BOOL)
            case k.AttestedBy(attesters):
                trusted = [attested(self.side.kernel.attesters[name]) for name in attesters]
                return every(fact(("attestation", "verified"), Scalar.BOOL), some(*trusted))
            case _:
                assert_never(requirement)

    def named(self, *names: str | State) -> k.Expr:
        """The credential names nobody, or one of these."""
        subject = fact(("credential", "subject"))
        nobody = k.Not(k.Present(subject, span=NOWHERE), span=NOWHERE)
        return some(nobody, one_of([one for one in names if isinstance(one, str)], subject))


def task_of(at: Class, rewrite: Rewriter, kernel: k.Kernel) -> k.Expr:
    """What must be true of the task; a tool stands for all of its class."""
    endpoint, found = at.endpoint, []
    if isinstance(endpoint, ToolEndpoint):
        found.append(tools_bound(constant(endpoint.qualified), constant(endpoint.name)))
    if RESOURCE in rewrite.bound:
        found.append(entities_bound(frozenset(kernel.entities)))
    inside = [rewrite(k.Not(one.outside, span=NOWHERE)) for one in found]
    return every(*inside) if inside else ALWAYS


def at_most(path: tuple[str, ...], limit: object) -> k.Expr:
    bound = k.Constant(limit, Scalar.DURATION, span=NOWHERE)  # type: ignore[arg-type]  # a duration of the kernel
    return k.Compare("<=", fact(path, Scalar.DURATION), bound, span=NOWHERE)


def between(start: object, end: object) -> Iterator[k.Expr]:
    now = fact(("time",), Scalar.TIME)
    for operator, moment in ((">=", start), ("<", end)):
        if moment is not None:
            bound = k.Constant(moment, Scalar.TIME, span=NOWHERE)  # type: ignore[arg-type]  # a time of the kernel
            yield k.Compare(operator, now, bound, span=NOWHERE)  # type: ignore[arg-type]  # one of the two


def attested(by: k.Attester) -> k.Expr:
    """The attestation is this attester's word, fresh, for a model and an environment it names."""
    model, digest = fact(("attestation", "model")), fact(("attestation", "model_hash"))
    asked = [one_of([by.name], fact(("attestation", "by")))]
    if by.age is not None:
        asked.append(at_most(("attestation", "age"), by.age))
    if by.models:
        hashed = [(one_of([name], model), ALWAYS if h is None else one_of([h], digest)) for name, h in by.models]
        asked.append(some(*(every(*pair) for pair in hashed)))
    if by.environments:
        asked.append(one_of(by.environments, fact(("attestation", "environment"))))
    return every(*asked)


# ── Whom a block can be about ─────────────────────────────────────────────────────────────────


def can_be_about(unit: Unit, settled: Settled) -> bool:
    """Whether a door can be the caller's: its name fits, or something else than the name decides."""
    block = unit.block
    if block is None or isinstance(block, k.AnyoneBlock):
        return True
    name = settled.agent if isinstance(block, k.AgentBlock) else settled.user
    if not isinstance(name, str):
        return False
    match block.who:
        case k.Called(wanted):
            return name == wanted
        case k.CalledLike(glob):
            return Glob(glob).matches(name)
        case _:
            return True

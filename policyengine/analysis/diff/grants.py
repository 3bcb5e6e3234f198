"""Doors of one policy as conditions, for one kind of caller: what must be true so that they open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.endpoint_classes import Class
from policyengine.analysis.diff.specialize import (
    ALWAYS,
    ISSUER,
    NEVER,
    NOWHERE,
    SOUND,
    Rewriter,
    Settled,
    constant,
    every,
    fact,
    one_of,
    some,
)
from policyengine.analysis.diff.units import Unit, carriers_of
from policyengine.runtime.endpoints import ToolEndpoint
from policyengine.solver.value_partition import State
from policyengine.spec.tasks import RESOURCE, entities_bound, tools_bound
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_KIND

if TYPE_CHECKING:
    from policyengine.analysis.diff.policy_view import Side

ISSUED_BY = fact(ISSUER)
STRINGS = typesystem.Set(Scalar.STRING)


@dataclass(frozen=True, slots=True)
class DoorReader:
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
                held = k.Constant(tuple(names), typesystem.List(CREDENTIAL_KIND), span=NOWHERE)
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


def task_of(at: Class, rewrite: Rewriter, types: frozenset[str]) -> k.Expr:
    """What must be true of the task; a tool stands for all of its class."""
    endpoint, found = at.endpoint, []
    if isinstance(endpoint, ToolEndpoint):
        found.append(tools_bound(constant(endpoint.qualified), constant(endpoint.name)))
    if RESOURCE in rewrite.bound:
        found.append(entities_bound(types))
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

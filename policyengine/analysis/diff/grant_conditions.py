"""The conditions under which the grants of one policy apply to a kind of caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.rule_units import RuleUnit, carriers_of
from policyengine.analysis.diff.specialize import (
    ALWAYS,
    ISSUER,
    NEVER,
    NOWHERE,
    SOUND,
    CallerAssumption,
    ConditionRewriter,
    all_of,
    any_of,
    make_fact,
    one_of_expression,
    string_constant,
)
from policyengine.runtime.endpoints import ToolEndpoint
from policyengine.solver.value_partition import SpecialValue
from policyengine.spec.tasks import RESOURCE, entity_constraint, tool_constraint
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_KIND

if TYPE_CHECKING:
    from policyengine.analysis.diff.policy_view import PolicyView

ISSUED_BY = make_fact(ISSUER)
STRINGS = typesystem.SetType(Scalar.STRING)


@dataclass(frozen=True, slots=True)
class GrantConditions:
    """The grants of one policy for a kind of caller, as conditions."""

    side: PolicyView
    at: EndpointClass
    settled: CallerAssumption
    rewrite: ConditionRewriter
    task: k.Expr  # the request is within its task

    def opens(self, units: Iterable[RuleUnit]) -> k.Expr:
        doors: dict[str, list[tuple[RuleUnit, k.Expr]]] = {"anyone": [], "agent": [], "user": [], "delegate": []}
        for unit in units:
            if unit.guard is None and unit.kind != "delegate":
                doors[unit.kind].append((unit, self.door(unit)))
        to_anyone = any_of(*(door for _, door in doors["anyone"])) if doors["anyone"] else NEVER
        if self.settled.agent is SpecialValue.ABSENT:
            own = [door for _, door in doors["user"]]
            alone = ALWAYS if self.settled.hops == 0 else NEVER
            return any_of(to_anyone, all_of(any_of(*own) if own else NEVER, alone))
        if not doors["agent"]:
            return to_anyone
        return any_of(to_anyone, all_of(self.through_agents(doors["agent"], doors["user"]), self.chain()))

    def through_agents(
        self, agents: Sequence[tuple[RuleUnit, k.Expr]], users: Sequence[tuple[RuleUnit, k.Expr]]
    ) -> k.Expr:
        door = any_of(*(one for _, one in agents))
        if self.settled.user is SpecialValue.ABSENT:
            return door
        waived = [one for unit, one in agents if unit.block and unit.block.package in self.side.kernel.unrestricted]
        served = any_of(*waived, *(one for _, one in users)) if waived or users else NEVER
        return all_of(door, served)

    def chain(self) -> k.Expr:
        """Return the condition on the chain: without hops, limits exclude only issuers that do not record chains."""
        if self.settled.hops != 0:
            return make_fact(SOUND, Scalar.BOOL)
        return one_of_expression(self.side.recorded, ISSUED_BY) if self.side.limits else ALWAYS

    def door(self, unit: RuleUnit) -> k.Expr:
        grant, block = unit.part, unit.block
        assert isinstance(grant, k.Grant)
        assert block is not None
        asked = [self.about(block)]
        if not isinstance(block, k.AnyoneBlock):
            asked += [self.required(one) for one in block.requirements]
        presented = isinstance(block, k.AgentBlock) or (
            isinstance(block, k.UserBlock) and self.settled.agent is SpecialValue.ABSENT
        )
        if presented:
            asked.append(self.carried(carriers_of(grant, self.at) or frozenset()))
            asked.append(ALWAYS if block.package in self.side.kernel.advisory else self.task)
        asked.append(ALWAYS if grant.when is None else self.rewrite(grant.when))
        return all_of(*asked)

    def about(self, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock) -> k.Expr:
        """Return the condition on the principal. Names are settled, so only blocks that can match the caller are
        included."""
        if isinstance(block, k.AnyoneBlock):
            return ALWAYS
        match block.who:
            case k.PrincipalCondition(condition):
                return self.rewrite(condition)
            case k.InGroup(group):
                return k.Relation("has", make_fact(("agent", "groups"), STRINGS), string_constant(group), span=NOWHERE)
            case _:
                return ALWAYS

    def carried(self, carriers: frozenset[str]) -> k.Expr:
        free, known = self.side.free_of_scopes, sorted(self.side.kernel.issuers)
        scopes = make_fact(("credential", "scopes"), STRINGS)
        held = [k.Relation("has", scopes, string_constant(one), span=NOWHERE) for one in sorted(carriers)]
        named = all_of(one_of_expression(known, ISSUED_BY), any_of(*held)) if held else NEVER
        return any_of(one_of_expression(free, ISSUED_BY), named) if free else named

    def required(self, requirement: k.Requirement) -> k.Expr:
        match requirement:
            case k.IssuedBy(issuers):
                return one_of_expression(issuers, ISSUED_BY)
            case k.ActsAlone():
                return self.named(self.settled.agent) if self.settled.user is SpecialValue.ABSENT else NEVER
            case k.ActsFor(condition):
                if not isinstance(self.settled.user, str):
                    return NEVER
                acts = ALWAYS if condition is None else self.rewrite(condition)
                return all_of(acts, self.named(self.settled.agent, self.settled.user))
            case k.ValidityPeriod(start, end):
                return all_of(ALWAYS, *time_between(start, end))
            case k.CredentialKinds(names):
                kind = make_fact(("credential", "kind"), CREDENTIAL_KIND)
                held = k.Constant(tuple(names), typesystem.ListType(CREDENTIAL_KIND), span=NOWHERE)
                return k.Relation("has", held, kind, span=NOWHERE)
            case k.CredentialLifetime(limit):
                return duration_at_most(("credential", "lifetime"), limit)
            case k.CredentialAge(limit):
                return duration_at_most(("credential", "age"), limit)
            case k.ProofOfPossession():
                return make_fact(("credential", "bound"), Scalar.BOOL)
            case k.AttestedBy(attesters):
                trusted = [attester_condition(self.side.kernel.attesters[name]) for name in attesters]
                return all_of(make_fact(("attestation", "verified"), Scalar.BOOL), any_of(*trusted))
            case _:
                assert_never(requirement)

    def named(self, *names: str | SpecialValue) -> k.Expr:
        """Return the condition that the credential has no subject, or one of these subjects."""
        subject = make_fact(("credential", "subject"))
        nobody = k.Not(k.IsPresent(subject, span=NOWHERE), span=NOWHERE)
        return any_of(nobody, one_of_expression([one for one in names if isinstance(one, str)], subject))


def task_condition(at: EndpointClass, rewrite: ConditionRewriter, types: frozenset[str]) -> k.Expr:
    """Return the condition on the task; one tool represents its class."""
    endpoint, found = at.endpoint, []
    if isinstance(endpoint, ToolEndpoint):
        found.append(tool_constraint(string_constant(endpoint.qualified), string_constant(endpoint.name)))
    if RESOURCE in rewrite.bound:
        found.append(entity_constraint(types))
    inside = [rewrite(k.Not(one.outside, span=NOWHERE)) for one in found]
    return all_of(*inside) if inside else ALWAYS


def duration_at_most(path: tuple[str, ...], limit: object) -> k.Expr:
    bound = k.Constant(limit, Scalar.DURATION, span=NOWHERE)  # type: ignore[arg-type]  # a duration of the kernel
    return k.Relation("<=", make_fact(path, Scalar.DURATION), bound, span=NOWHERE)


def time_between(start: object, end: object) -> Iterator[k.Expr]:
    now = make_fact(("time",), Scalar.TIME)
    for operator, moment in ((">=", start), ("<", end)):
        if moment is not None:
            bound = k.Constant(moment, Scalar.TIME, span=NOWHERE)  # type: ignore[arg-type]  # a time of the kernel
            yield k.Relation(operator, now, bound, span=NOWHERE)


def attester_condition(by: k.Attester) -> k.Expr:
    """Return the condition that the attester made a fresh attestation, for a model and an environment that it vouches
    for.
    """
    model, digest = make_fact(("attestation", "model")), make_fact(("attestation", "model_hash"))
    asked = [one_of_expression([by.name], make_fact(("attestation", "by")))]
    if by.age is not None:
        asked.append(duration_at_most(("attestation", "age"), by.age))
    if by.models:
        hashed = [
            (one_of_expression([name], model), ALWAYS if h is None else one_of_expression([h], digest))
            for name, h in by.models
        ]
        asked.append(any_of(*(all_of(*pair) for pair in hashed)))
    if by.environments:
        asked.append(one_of_expression(by.environments, make_fact(("attestation", "environment"))))
    return all_of(*asked)

"""What a block requires of who asks, as conditions on facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.lines import NotQuick
from policyengine.typesystem import Scalar


@dataclass(frozen=True, slots=True)
class Trust:
    """What the policy says of its issuers and attesters."""

    issuers: frozenset[str]
    scopes_none: frozenset[str]
    attesters: dict[str, k.Attester]


def condition_of(requirement: k.Requirement, trust: Trust) -> k.Expr:
    """What the presenter must prove, as a condition on facts."""
    span = requirement.span

    def fact(name: str, type: typesystem.Type, root: str = "credential") -> k.Fact:
        return k.Fact((root, name), type, span=span)

    def at_most(one: k.Fact, limit: object) -> k.Expr:
        return k.Relation("<=", one, k.Constant(limit, Scalar.DURATION, span=span), span=span)  # type: ignore[arg-type]

    def among(one: k.Fact, values: Sequence[str]) -> k.Expr:
        constant = k.Constant(tuple(values), typesystem.SetType(one.type), span=span)
        return k.Relation("has", constant, one, span=span)

    match requirement:
        case k.CredentialKinds(names):
            return among(fact("kind", Scalar.STRING), names)
        case k.CredentialLifetime(limit):
            return at_most(fact("lifetime", Scalar.DURATION), limit)
        case k.CredentialAge(limit):
            return at_most(fact("age", Scalar.DURATION), limit)
        case k.ProofOfPossession():
            return fact("bound", Scalar.BOOL)
        case k.AttestedBy(names):
            verified = fact("verified", Scalar.BOOL, "attestation")
            trusted = tuple(attested_by(trust.attesters[name], fact, at_most, among) for name in names)
            return k.And((verified, k.Or(trusted, span=span)), span=span)
        case _:
            raise NotQuick("a requirement that is no condition on facts")


def attested_by(
    attester: k.Attester, fact: Callable[..., k.Fact], at_most: Callable[..., k.Expr], among: Callable[..., k.Expr]
) -> k.Expr:
    tests = [among(fact("by", Scalar.STRING, "attestation"), [attester.name])]
    if attester.age is not None:
        tests.append(at_most(fact("age", Scalar.DURATION, "attestation"), attester.age))
    if attester.models:
        model, digest = (fact(name, Scalar.STRING, "attestation") for name in ("model", "model_hash"))
        pairs = []
        for name, wanted in attester.models:
            both = (among(model, [name]), *([] if wanted is None else [among(digest, [wanted])]))
            pairs.append(k.And(both, span=model.span))
        tests.append(k.Or(tuple(pairs), span=model.span))
    if attester.environments:
        tests.append(among(fact("environment", Scalar.STRING, "attestation"), attester.environments))
    return k.And(tuple(tests), span=tests[0].span)


def is_proof(requirement: k.Requirement) -> bool:
    return not isinstance(requirement, k.IssuedBy | k.ActsAlone | k.ActsFor | k.ValidityPeriod)

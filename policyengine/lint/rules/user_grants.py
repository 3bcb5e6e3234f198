"""Grants of users that a token without an agent opens, from any of several issuers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import place_overlaps
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.rules.shared_agents import condition_for_issuer
from policyengine.lint.rules.shared_users import (
    issuer_organizations,
    issuers_of,
    names_no_user,
    share_users,
    shared_users,
    speaking_issuers,
)
from policyengine.lint.served_users import are_alike, issuer_sensitive_conditions, user_conditions

MAX_USER_GRANTS = 2_000  # maximum for each issuer; the rest is not compared
MAX_COMPARED_ISSUERS = 200  # maximum for each issuer; the rest is not compared


@dataclass(frozen=True, slots=True)
class UserGrant:
    block: k.UserBlock
    grant: k.Grant
    opening: k.GrantTarget

    @property
    def conditions(self) -> tuple[k.Expr | None, ...]:
        head = self.block.who.condition if isinstance(self.block.who, k.PrincipalCondition) else None
        return head, self.grant.when


def grants_of_any_issuer(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield at most one W463 for each issuer, at its declaration; of a pair, the later issuer is reported.

    Issuers that `shared_users` reports are skipped.
    """
    agents = agents_by_issuer(kernel)
    issuers = [one for one in issuers_in_order(kernel) if may_name_users(one, agents.get(one.name, ()))]
    doors = [UserGrant(b, g, o) for b in kernel.users for g in b.grants for o in g.openings][:MAX_USER_GRANTS]
    if len(issuers) < 2 or not doors:
        return
    organizations = issuer_organizations({**{one.name: () for one in issuers}, **speaking_issuers(kernel)}, kernel)
    told = {found.span for found in shared_users(kernel)}
    guards = issuer_sensitive_conditions(kernel.guards)
    for position, issuer in enumerate(issuers):
        if issuer.span in told:
            continue
        others = (
            one
            for one in issuers[:position][:MAX_COMPARED_ISSUERS]
            if organizations[one.name] is not organizations[issuer.name]
        )
        for other in (one for one in others if share_users(one, issuer)):
            door = next((one for one in doors if opens_to_both(one, other, issuer, guards)), None)
            if door is not None:
                yield any_issuer_finding(issuer, other, door)
                break


def any_issuer_finding(issuer: k.Issuer, other: k.Issuer, door: UserGrant) -> Diagnostic:
    message = (
        f"a token of `{issuer.name}` without an agent gets the grants of `{door.block.label}`, "
        f"for any user of `{other.name}` that it names"
    )
    hint = (
        'limit its users with `users like "*@partner.example"`, '
        f'or name the trusted issuer in the user block, `user where credential.issuer == "{other.name}"`'
    )
    return Diagnostic("W463", message, issuer.span, hint, (RelatedLocation("the grant", door.grant.span),))


def opens_to_both(door: UserGrant, one: k.Issuer, other: k.Issuer, guards: tuple[tuple[k.Place, k.Expr], ...]) -> bool:
    carried = all(door.opening.carriers or issuer.scopes_none for issuer in (one, other))
    alike = [user_conditions(door.conditions, issuer.name) for issuer in (one, other)]
    if not carried or alike[0] is None or alike[0] != alike[1]:
        return False
    before = (condition for place, condition in guards if place_overlaps(place, door.opening.pattern))
    return all(
        are_alike(condition_for_issuer(condition, one), condition_for_issuer(condition, other)) for condition in before
    )


def agents_by_issuer(kernel: k.Kernel) -> dict[str, list[k.AgentBlock]]:
    found: dict[str, list[k.AgentBlock]] = {}
    for block in kernel.agents:
        for name in issuers_of(block):
            found.setdefault(name, []).append(block)
    return found


def may_name_users(issuer: k.Issuer, agents: Sequence[k.AgentBlock]) -> bool:
    """Return whether tokens of the issuer may name users: it is not for workloads, and not all its agents use
    credentials that name no user."""
    return not (issuer.url or "").startswith("spiffe://") and not (agents and all(map(names_no_user, agents)))


def issuers_in_order(kernel: k.Kernel) -> list[k.Issuer]:
    return sorted(kernel.issuers.values(), key=lambda one: (one.span.source.name, one.span.start))

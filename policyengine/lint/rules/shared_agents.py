"""Agents of two issuers that act for the same users: a token of either issuer can name a user of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import place_overlaps
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.rules.shared_users import issuers_of, share_users, speaks_for_users
from policyengine.lint.served_users import acts_for, are_alike, for_issuer, issuer_sensitive_conditions, user_conditions
from policyengine.solver.satisfiability import possible_truths

Guards: TypeAlias = tuple[tuple[k.Place, k.Expr], ...]


def agents_of_two_issuers(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield at most one W466 for each block."""
    guards = issuer_sensitive_conditions(kernel.guards)
    for block in filter(speaks_for_users, kernel.agents):
        issuers = [kernel.issuers[name] for name in dict.fromkeys(issuers_of(block))]
        naming = [one for one in issuers if not (one.url or "").startswith("spiffe://")]
        for one, other in combinations(naming, 2):
            if share_users(one, other) and any(opens_alike(block, grant, one, other, guards) for grant in block.grants):
                yield shared_agent_diagnostic(block, one, other)
                break


def shared_agent_diagnostic(block: k.AgentBlock, one: k.Issuer, other: k.Issuer) -> Diagnostic:
    message = f"a token of `{other.name}` for `{block.label}` can name any user of `{one.name}`, and vice versa"
    hint = (
        f'limit the users of each issuer, as with `users like "*@{other.name}.example"` in `{other.name}`, or write an '
        "agent block for each of them"
    )
    return Diagnostic("W466", message, block.span, hint, (RelatedLocation("one of the two issuers", other.span),))


def opens_alike(block: k.AgentBlock, grant: k.Grant, one: k.Issuer, other: k.Issuer, guards: Guards) -> bool:
    """Return whether the grant opens its endpoints to tokens of both issuers under the same conditions about users."""
    head = block.who.condition if isinstance(block.who, k.PrincipalCondition) else None
    conditions: Sequence[k.Expr | None] = (head, grant.when, *(asked.condition for asked in acts_for(block)))
    alike = [user_conditions(conditions, issuer.name) for issuer in (one, other)]
    if alike[0] is None or alike[0] != alike[1]:
        return False
    return any(
        (opening.carriers or (one.scopes_none and other.scopes_none))
        and all(
            are_alike(condition_for_issuer(condition, one), condition_for_issuer(condition, other))
            for place, condition in guards
            if place_overlaps(place, opening.pattern)
        )
        for opening in grant.openings
    )


def condition_for_issuer(condition: k.Expr, issuer: k.Issuer) -> k.Expr | None:
    found = for_issuer(condition, issuer.name)
    return None if possible_truths(found) == {False} else found

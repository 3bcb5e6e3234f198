"""Grants that are wider than they look, and grants that never open."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_rules import all_blocks
from policyengine.lint.policy_mistakes import declarations_in
from policyengine.lint.rules.shared_users import issuers_of
from policyengine.solver.satisfiability import possible_truths
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar

ANY_TEXT = frozenset({".*", ".+", "(?s).*", "(?s).+"})
TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # characters of a scope in RFC 6749


def wide_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield one W458 for each pattern as written, even if several blocks grant it."""
    told = set[Span]()
    for block in all_blocks(kernel):
        for pattern in (opening.pattern for grant in block.grants for opening in grant.openings):
            if is_wide(pattern) and pattern.span not in told:
                told.add(pattern.span)
                written = " ".join(pattern.span.text.split())
                message = f"`{block.label}` may use every endpoint that `{written}` will ever cover"
                hint = "name the endpoints, so that a new endpoint stays closed until it is reviewed"
                yield Diagnostic("W458", message, pattern.span, hint)


def is_wide(pattern: k.Pattern) -> bool:
    match pattern:
        case k.HttpPattern(rest=rest):
            return rest
        case k.ToolPattern(glob):
            return not glob.strip("*/")
        case _:
            return False


def missing_user_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W465 or W461 for agents that act for users without a matching user grant.

    An agent that acts for a user needs a grant of the user, from a user block or `anyone`. If no grant of the agent has
    a matching user grant, a single W465 replaces the W461 of each grant.
    """
    lenders = lender_index(kernel)
    for agent in kernel.agents:
        acts = [one for one in agent.requirements if isinstance(one, k.ActsFor)]
        if not acts or agent.package in kernel.unrestricted:
            continue
        shut = [grant for grant in agent.grants if not is_lent(grant, acts, lenders)]
        if shut and len(shut) == len(agent.grants):
            message = (
                f"no user that `{agent.label}` acts for is granted any of its endpoints, so the agent is always denied"
            )
            hint = "grant them in a `user` block, or let the agent act alone"
            yield Diagnostic("W465", message, acts[0].span, hint)
            continue
        for grant in shut:
            message = f"no user block grants any of this, so `{agent.label}` is always denied here"
            yield Diagnostic("W461", message, grant.span, "grant it in a `user` block too, or remove it")


LenderIndex: TypeAlias = PatternIndex[tuple[k.Expr, ...]]


def lender_index(kernel: k.Kernel) -> LenderIndex:
    """Index the grants of user blocks and `anyone`, each with its conditions about the user."""
    found: LenderIndex = PatternIndex()
    lending = [(block_user_conditions(block), grant) for block in kernel.users for grant in block.grants]
    lending += [((), grant) for block in kernel.anyones for grant in block.grants]
    for about, grant in lending:
        asked = about if grant.when is None else (*about, grant.when)
        for opening in grant.openings:
            found.add(opening.pattern, asked)
    return found


def block_user_conditions(block: k.UserBlock) -> tuple[k.Expr, ...]:
    match block.who:
        case k.PrincipalCondition(condition):
            return (condition,)
        case k.ExactName(name):
            user = k.Fact(("user", "id"), Scalar.STRING, span=block.span)
            named = k.Constant(name, Scalar.STRING, span=block.span)
            return (k.Relation("==", user, named, span=block.span),)
        case k.AnyUser():
            return ()


def is_lent(grant: k.Grant, acts: Sequence[k.ActsFor], lenders: LenderIndex) -> bool:
    own = [one.condition for one in acts if one.condition is not None]
    own += [] if grant.when is None else [grant.when]
    asked = dict.fromkeys(found for one in grant.openings for found in lenders.overlapping(one.pattern))
    return any(can_all_hold((*own, *theirs)) for theirs in asked)


def can_all_hold(conditions: Sequence[k.Expr]) -> bool:
    if len(conditions) < 2:
        return True  # `dead_rules` reports conditions that are never true
    return True in possible_truths(k.And(tuple(conditions), span=conditions[0].span))


def find_unrestricted_agents(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W464 for each agent block that requires nothing: no name, no scope and no grant of the user."""
    for agent in kernel.agents:
        serves = any(isinstance(one, k.ActsFor) for one in agent.requirements)
        free = [name for name in issuers_of(agent) if kernel.issuers[name].scopes_none]
        if takes_any_agent(agent.who) and serves and free and agent.package in kernel.unrestricted:
            message = (
                f"any agent of `{free[0]}` may do all this for any user that it names: "
                f"`{agent.label}`, `scopes none` and `users unrestricted` require nothing of the agent"
            )
            hint = "name the agents, give their tokens scopes, or say in a `user` block what users may do"
            yield Diagnostic("W464", message, agent.span, hint)


def takes_any_agent(who: k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition) -> bool:
    match who:
        case k.NamePattern():
            return not who.glob.strip("*")
        case k.PrincipalCondition():
            return asks_no_name(who.condition)
        case _:
            return False


def asks_no_name(condition: k.Expr) -> bool:
    """Return whether a condition is true of every agent, because it checks only the id, which every agent has."""
    match condition:
        case k.And():
            return all(map(asks_no_name, condition.items))
        case k.Or():
            return any(map(asks_no_name, condition.items))
        case k.Relation("like", operand, k.Constant(str() as pattern)):
            return is_agent_id(operand) and pattern != "" and not pattern.strip("*")
        case k.Relation("matches", operand, k.Constant(pattern)):
            return is_agent_id(operand) and pattern in ANY_TEXT
        case k.Call(function="starts_with" | "ends_with" | "contains", arguments=(operand, k.Constant(value=""))):
            return is_agent_id(operand)
        case k.IsPresent():
            return is_agent_id(condition.operand)
        case k.Relation("!=", left, k.Constant("")):
            return is_agent_id(left)
        case _:
            return False


def is_agent_id(operand: k.Expr) -> bool:
    return isinstance(operand, k.Fact) and operand.path == ("agent", "id")


def uncarried_scopes(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    for scope in declarations_in(modules):
        alias = scope.alias if isinstance(scope, ast.ScopeDecl) else None
        if alias is not None and not TOKEN.fullmatch(alias.value):
            message = f"no OAuth token can carry the scope `{alias.value}`"
            hint = 'use printable ASCII without spaces, `"` and `\\`, as in `read:invoices`'
            yield Diagnostic("W352", message, alias.span, hint)

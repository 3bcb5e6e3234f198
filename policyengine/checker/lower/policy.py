"""Lowering of all loaded packages to one kernel, in which the rules of every package apply."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.lower import delegation, grants, guards, limits, maps, principals, profiles, trust
from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.kernel.fingerprint import CanonicalWriters, sort_declarations
from policyengine.kernel.learned_facts import with_learned_facts
from policyengine.source import Span
from policyengine.spec.required_history import with_retention
from policyengine.syntax import nodes as ast

REMOVE_HINT = "remove it: a policy must not appear to enforce a limit that it does not enforce"


def lower_policy(
    draft: LoweringContext, binders: tuple[k.Binder, ...], package: str, *, advice: bool = True
) -> k.Kernel:
    """Lower the policy, without the parts that have reported errors: use the kernel only if there are none.

    `canonicalize` adds the revision. Without `advice`, checks that only produce warnings are skipped.
    """
    issuers = trust.lower_issuers(draft)
    agents = principals.lower_agent_blocks(draft, issuers)
    users, anyones = principals.lower_user_blocks(draft), principals.lower_anyone_blocks(draft)
    if advice:
        delegation.check_delegates(agents, draft)
    mapped = maps.lower_maps(draft)
    if advice and (agents or users or anyones):
        opened = grants.index_blocks([*agents, *users, *anyones])
        guards.check_guards_reach_grants(draft, opened)
        maps.check_actions_reach_grants(mapped, draft, opened)
    check_unsupported(draft)
    draft.packages_that_say(ast.PathsIgnoreCase)  # `PlaceResolver` has already read them
    found = k.Kernel(
        package=package,
        packages=tuple(draft.program.packages),
        entities=draft.schema.entities,
        issuers=issuers,
        attesters=trust.lower_attesters(draft),
        binders=binders,
        agents=agents,
        users=users,
        anyones=anyones,
        unrestricted=draft.packages_that_say(ast.UnrestrictedUsers),
        advisory=draft.packages_that_say(ast.TasksAdvisory),
        delegation=sort_declarations(
            delegation.lower_delegation_limits(draft), CanonicalWriters()
        ),  # the order determines which limit is reported first
        guards=guards.lower_guards(draft),
        limits=limits.lower_limits(draft),
        maps=mapped,
        profiles=profiles.lower_profiles(draft),
    )
    found = with_learned_facts(found) if draft.program.learns else found
    return with_retention(found) if draft.program.remembers else found


def check_unsupported(draft: LoweringContext) -> None:
    """Report invariants, which are checked but not enforced yet."""
    for package, invariant in draft.declared(ast.InvariantDecl):
        span = Span(invariant.span.source, invariant.span.start, invariant.name.span.end)
        draft.report("E906", "`invariant` is not enforced yet", span, REMOVE_HINT)
        check_invariant(invariant, package, draft)


def check_invariant(invariant: ast.InvariantDecl, package: str, draft: LoweringContext) -> None:
    for claim in invariant.claims:
        here = draft.places.facts_here(claim.targets, package)
        if claim.when is not None:
            draft.condition(claim.when, package, here or EVERYWHERE)

"""Declarations to kernel: all packages that are loaded become one, and every rule of each of them applies."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.lower import grants, guards, limits, maps, trust
from policyengine.checker.lower.context import Draft
from policyengine.checker.unsupported import check_later
from policyengine.kernel.fingerprint import Writers, in_order
from policyengine.spec.history_records import remembering
from policyengine.syntax import nodes as ast


def lower(draft: Draft, binders: tuple[k.Binder, ...], package: str, *, advice: bool = True) -> k.Kernel:
    """The kernel without what was reported, to be used only when no error was; `ordered` then gives it its revision.

    Without `advice` nothing is sought that only warns.
    """
    issuers = trust.issuers(draft)
    agents = grants.agent_blocks(draft, issuers)
    users, anyones = grants.user_blocks(draft), grants.anyone_blocks(draft)
    if advice:
        grants.check_delegates(agents, draft)
    mapped = maps.maps(draft)
    if advice and (agents or users or anyones):
        opened = grants.index_of([*agents, *users, *anyones])
        guards.check_reach(draft, opened)
        maps.check_reach(mapped, draft, opened)
    check_later(draft)
    draft.packages_that_say(ast.PathsIgnoreCase)  # `Places` has read them
    found = k.Kernel(
        package=package,
        packages=tuple(draft.program.packages),
        entities=draft.schema.entities,
        issuers=issuers,
        attesters=trust.attesters(draft),
        binders=binders,
        agents=agents,
        users=users,
        anyones=anyones,
        unrestricted=draft.packages_that_say(ast.UsersUnrestricted),
        advisory=draft.packages_that_say(ast.TasksAdvisory),
        delegation=in_order(grants.delegation_limits(draft), Writers()),  # which one is told first depends on it
        guards=guards.guards(draft),
        limits=limits.limits(draft),
        maps=mapped,
    )
    return remembering(found) if draft.program.remembers else found

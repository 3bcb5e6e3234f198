"""Declarations to kernel: all packages that are loaded become one, and every rule of each of them applies."""

from __future__ import annotations

from policyengine.semantics import anchors, doors, guards, limits, maps
from policyengine.semantics import kernel as k
from policyengine.semantics.draft import Draft
from policyengine.semantics.later import check_later
from policyengine.semantics.remembering import remembering
from policyengine.semantics.revision import Writers, in_order
from policyengine.syntax import nodes as ast


def lower(draft: Draft, binders: tuple[k.Binder, ...], package: str, *, advice: bool = True) -> k.Kernel:
    """The kernel without what was reported, to be used only when no error was; `ordered` then gives it its revision.

    Without `advice` nothing is sought that only warns.
    """
    issuers = anchors.issuers(draft)
    agents = doors.agent_blocks(draft, issuers)
    users, anyones = doors.user_blocks(draft), doors.anyone_blocks(draft)
    if advice:
        doors.check_delegates(agents, draft)
    mapped = maps.maps(draft)
    if advice and (agents or users or anyones):
        opened = doors.index_of([*agents, *users, *anyones])
        guards.check_reach(draft, opened)
        maps.check_reach(mapped, draft, opened)
    check_later(draft)
    draft.packages_that_say(ast.PathsIgnoreCase)  # `Places` has read them
    found = k.Kernel(
        package=package,
        packages=tuple(draft.program.packages),
        entities=draft.schema.entities,
        issuers=issuers,
        attesters=anchors.attesters(draft),
        binders=binders,
        agents=agents,
        users=users,
        anyones=anyones,
        unrestricted=draft.packages_that_say(ast.UsersUnrestricted),
        advisory=draft.packages_that_say(ast.TasksAdvisory),
        delegation=in_order(doors.delegation_limits(draft), Writers()),  # which one is told first depends on it
        guards=guards.guards(draft),
        limits=limits.limits(draft),
        maps=mapped,
    )
    return remembering(found) if draft.program.remembers else found

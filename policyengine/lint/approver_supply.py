"""Checks that the entities have enough users who can approve each confirm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.plurals import pluralize
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

USER, ROLES = "user", "roles"
NAME_HINT = "name other approvers, or add users to the entities"


def lacking_approvers(
    kernel: k.Kernel, rows: Iterable[EntityData], containers: Callable[[EntityRef], Iterable[EntityRef]]
) -> Iterator[Diagnostic]:
    """Yield a W183 for each confirm that fewer users can approve than it needs. `rows` are all entities, and
    `containers` returns what an entity is in, directly or through others."""
    users = [row for row in rows if row.ref.type == USER]
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm):
                yield from check_approvers(guard, effect, users, containers)


def check_approvers(
    guard: k.Guard,
    confirm: k.Confirm,
    users: Sequence[EntityData],
    containers: Callable[[EntityRef], Iterable[EntityRef]],
) -> Iterator[Diagnostic]:
    """Yield a finding if too few users can approve; nothing if that depends on the request."""
    approvers = confirm.approvers
    match approvers.of:
        case k.RoleHolder(role):
            people = {row.ref for row in users if role in read_roles(row)}
            hint = did_you_mean(role, {name for row in users for name in read_roles(row)} - {role})
        case k.MemberOf(k.Constant(value)):
            named: set[object] = {*value} if isinstance(value, tuple | frozenset) else {value}
            people = {one for one in named if isinstance(one, EntityRef) and one.type == USER}
            above = {row.ref: frozenset(containers(row.ref)) for row in users}
            people |= {ref for ref, refs in above.items() if not named.isdisjoint(refs)}
            hint = suggest_entity(named, frozenset[EntityRef]().union(*above.values()))
        case _:
            return
    if len(people) >= approvers.count:
        return
    who = f"only {pluralize(len(people), 'user')} of the entities" if people else "no user of the entities"
    message = f"{who} can approve `{guard.name}`, which needs an approval by {approvers.words}"
    yield Diagnostic("W183", message, confirm.span, hint or NAME_HINT)


def read_roles(row: EntityData) -> frozenset[str]:
    roles = row.attributes.get(ROLES)
    every = roles if isinstance(roles, list | tuple | set | frozenset) else (roles,)
    return frozenset(role for role in every if isinstance(role, str))


def suggest_entity(named: set[object], known: frozenset[EntityRef]) -> str | None:
    """Return a hint for the first named entity that contains no user, if an entity with users has a similar name."""
    for entity in sorted(named - known, key=str):
        if isinstance(entity, EntityRef) and entity.type != USER:
            return did_you_mean(entity.id, {ref.id for ref in known if ref.type == entity.type})
    return None

"""Warnings about people at the start of a server, when the entities are known: confirms that too few users can approve,
and rules for roles of the console that match no user.
"""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.cli.settings.sections import ConsoleSettings
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.store import EntityStore
from policyengine.plurals import pluralize
from policyengine.server.console.roles import ANYONE, CLAIM_PREFIX, RoleRule, RoleRuleError, has_item
from policyengine.typesystem import EntityRef

USER, ID, ROLES = "user", "id", "roles"
StartWarning = tuple[str, str | None]  # a message and a hint


def lacking_approvers(kernel: k.Kernel, directory: EntityStore) -> Iterator[StartWarning]:
    """Yield a warning for each confirm that too few users of the entities can approve; nothing if entities are looked
    up, because then the users are not known."""
    if directory.lookups is not None:
        return
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm) and (found := lack_of_approvers(effect.approvers, directory)) is not None:
                message, hint = found
                yield f"guard `{guard.name}`: {message}", hint


def lack_of_approvers(approvers: k.Approvers, directory: EntityStore) -> StartWarning | None:
    """Return why too few users can approve, and a suggestion; None if enough can, or if that depends on the request."""
    match approvers.of:
        case k.RoleHolder(role):
            people = {
                row.ref for row in directory if row.ref.type == USER and has_item(row.attributes.get(ROLES), role)
            }
            known = {
                name for row in directory if row.ref.type == USER for name in role_names(row.attributes.get(ROLES))
            }
            hint = did_you_mean(role, known - {role})
        case k.MemberOf(k.Constant(value)):
            named: set[object] = {*value} if isinstance(value, tuple | frozenset) else {value}
            people = {one for one in named if isinstance(one, EntityRef) and one.type == USER}
            people |= {
                row.ref for row in directory if row.ref.type == USER and not named.isdisjoint(above(directory, row.ref))
            }
            hint = suggest_entity(named, directory)
        case _:
            return None
    if len(people) >= approvers.count:
        return None
    count = "no user of the entities" if not people else f"only {pluralize(len(people), 'user')} of the entities"
    return f"{count} can approve, but it needs an approval by {approvers.words}", hint


def above(directory: EntityStore, ref: EntityRef) -> tuple[EntityRef, ...]:
    return directory.ancestors(ref).refs


def role_names(roles: object) -> Iterator[str]:
    for role in roles if isinstance(roles, list | tuple | set | frozenset) else (roles,):
        if isinstance(role, str):
            yield role


def suggest_entity(named: set[object], directory: EntityStore) -> str | None:
    """Return a hint for the first named entity that contains no user, if one that does has a similar name."""
    known = {ref for row in directory if row.ref.type == USER for ref in above(directory, row.ref)}
    for entity in sorted(named - known, key=str):
        if isinstance(entity, EntityRef) and entity.type != USER:
            return did_you_mean(entity.id, {ref.id for ref in known if ref.type == entity.type})
    return None


def unknown_role_attributes(
    settings: ConsoleSettings, kernel: k.Kernel, directory: EntityStore
) -> Iterator[StartWarning]:
    """Yield a warning for each rule for a role of the console that reads an attribute which no user has, and is no type
    of entities."""
    user = kernel.entities.get(USER)
    known = {*kernel.entities, *(() if user is None else (field.name for field in user.fields)), ID}
    for row in directory:
        known.update(row.attributes if row.ref.type == USER else (), (ref.type for ref in row.parents))
    for key in ("view", "approve", "halt"):
        for text in getattr(settings, key) or ():
            try:
                name = RoleRule.parse(text).name
            except RoleRuleError:  # the console refuses it
                continue
            if name != ANYONE and not name.startswith(CLAIM_PREFIX) and name not in known:
                message = (
                    f"`[console] {key}`: `{text}` matches nobody: `{name}` is neither an attribute of users nor a type"
                )
                yield message, did_you_mean(name, known)

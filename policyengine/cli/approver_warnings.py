"""Findings that need the entities: confirms that too few users can approve, and rules for roles of the console that
match no user.
"""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.cli.settings.sections import ConsoleSettings
from policyengine.diagnostics.model import Diagnostic
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.store import EntityStore
from policyengine.lint.approver_supply import USER, lacking_approvers
from policyengine.server.console.roles import ANYONE, CLAIM_PREFIX, RoleRule, RoleRuleError

ID = "id"
StartWarning = tuple[str, str | None]  # a message and a hint


def find_lacking_approvers(kernel: k.Kernel, directory: EntityStore) -> Iterator[Diagnostic]:
    """Yield a finding for each confirm that too few users of the entities can approve; nothing if entities are looked
    up, because then the users are not known."""
    if directory.lookups is None:
        yield from lacking_approvers(kernel, directory, lambda ref: directory.ancestors(ref).refs)


def unknown_role_attributes(
    settings: ConsoleSettings, kernel: k.Kernel, directory: EntityStore
) -> Iterator[StartWarning]:
    """Yield a warning for each rule for a role of the console that reads a name which is neither an attribute of any
    user nor a type of entities."""
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

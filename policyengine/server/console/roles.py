"""The roles of people in the console, by their attributes: settings of the operator, because people need the console
most when the policies are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from policyengine.entities.store import EntityStore
from policyengine.identity.login.open_id_client import Person
from policyengine.runtime.entities import EntityData
from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import CredentialMarks
from policyengine.typesystem import EntityRef

CLAIM_PREFIX = "claim."
ANYONE = "*"


class ConsoleRole(StrEnum):
    VIEW = "view"
    APPROVE = "approve"
    HALT = "halt"


class RoleRuleError(Exception):
    """The error for a malformed rule; the message says why."""


@dataclass(frozen=True, slots=True)
class RoleRule:
    """A rule that gives a role to people: `id:alice`, `roles:finance` (an attribute of the user's entity row, or one of
    its items), `team:ops` (an entity that contains the user), `claim.groups:ops` (a claim of the ID token), or `*` for
    all people who can sign in.
    """

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> RoleRule:
        """Parse a rule. Raises RoleRuleError."""
        if text == ANYONE:
            return cls(ANYONE, "")
        name, sign, value = text.partition(":")
        if not sign or not name.strip() or not value.strip() or name == CLAIM_PREFIX:
            raise RoleRuleError(f"`{text}` is not a rule for a role")
        return cls(name.strip(), value.strip())

    def matches(self, person: Person, row: EntityData | None, containers: frozenset[EntityRef]) -> bool:
        if self.name == ANYONE:
            return True
        if self.name == "id":
            return person.user == self.value
        if self.name.startswith(CLAIM_PREFIX):
            return has_item(person.claims.get(self.name.removeprefix(CLAIM_PREFIX)), self.value)
        if EntityRef(self.name, self.value) in containers:
            return True
        return row is not None and has_item(row.attributes.get(self.name), self.value)


def has_item(found: object, value: str) -> bool:
    """Return whether a text is this value, or a list contains it."""
    if isinstance(found, list | tuple | set | frozenset):
        return any(isinstance(item, str) and item == value for item in found)
    return isinstance(found, str) and found == value


@dataclass(frozen=True, slots=True)
class RoleRules:
    """The rules of all roles. A person with any other role may also view the pages."""

    rules: Mapping[ConsoleRole, tuple[RoleRule, ...]]

    @classmethod
    def of(cls, view: Iterable[str] = (), approve: Iterable[str] = (), halt: Iterable[str] = ()) -> RoleRules:
        """Parse the rules. Raises RoleRuleError."""
        given = {ConsoleRole.VIEW: view, ConsoleRole.APPROVE: approve, ConsoleRole.HALT: halt}
        return cls({role: tuple(map(RoleRule.parse, texts)) for role, texts in given.items()})

    def __bool__(self) -> bool:
        return any(self.rules.values())

    def roles(self, person: Person, entities: EntityStore) -> frozenset[ConsoleRole]:
        """Return the roles of a person. May wait for the source of looked-up entities."""
        if person.issuer is None:  # a person who reads the terminal of the server can also stop it
            return frozenset(ConsoleRole)
        row, containers = user_row(person.user, entities)
        return with_view(
            role for role, rules in self.rules.items() if any(rule.matches(person, row, containers) for rule in rules)
        )


def unrevoked_roles(person: Person, marks: CredentialMarks, now: int) -> frozenset[ConsoleRole]:
    """Return the roles that the person may have: none if the user was revoked; only VIEW if the store does not
    answer.
    """
    if person.issuer is None:
        return frozenset(ConsoleRole)
    try:
        revoked = marks.revoked([f"user:{person.issuer}/{name}" for name in (person.user, *person.aliases)], now)
    except StoreError:
        return frozenset({ConsoleRole.VIEW})
    return frozenset() if revoked else frozenset(ConsoleRole)


def with_view(roles: Iterable[ConsoleRole]) -> frozenset[ConsoleRole]:
    found = frozenset(roles)
    return found | {ConsoleRole.VIEW} if found else found


def user_row(user: str, entities: EntityStore) -> tuple[EntityData | None, frozenset[EntityRef]]:
    """Return the entity row of a user, and the entities that contain the user. An unknown row counts as missing."""
    ref = EntityRef("user", user)
    row, containers = entities.read_all(lambda known: (known.found_of(ref), known.ancestors(ref)))
    return (row if isinstance(row, EntityData) else None), frozenset(containers.refs)


def role_names(roles: Iterable[ConsoleRole]) -> Iterator[str]:
    """Yield the names of roles in the order of the enumeration."""
    held = frozenset(roles)
    return (role.value for role in ConsoleRole if role in held)

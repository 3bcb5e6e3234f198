"""Generated entities and requests of the three applications, the same for both languages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
REQUESTS = 2_000

Ref: TypeAlias = tuple[str, str]
Attribute: TypeAlias = "Ref | bool | list[Ref]"


@dataclass(frozen=True, slots=True)
class EntityRow:
    ref: Ref
    attributes: dict[str, Attribute]
    parents: list[Ref]


@dataclass(frozen=True, slots=True)
class PaperRequest:
    user: str
    action: str
    resource: Ref


@dataclass(frozen=True, slots=True)
class Application:
    """An application; `policy` and `cedar` are the same rules in the two languages."""

    name: str
    rows: tuple[EntityRow, ...]
    requests: tuple[PaperRequest, ...]

    @property
    def policy(self) -> Path:
        return HERE / f"{self.name}.policy"

    @property
    def cedar(self) -> Path:
        return HERE / f"{self.name}.cedar"

    def plain(self) -> list[dict[str, Any]]:
        """Return the rows as in a JSON file of entities, for policyengine."""
        return [
            {
                "type": row.ref[0],
                "id": row.ref[1],
                "attributes": {name: _json_value(value) for name, value in row.attributes.items()},
                "in": [ref_dict(parent) for parent in row.parents],
            }
            for row in self.rows
        ]


def ref_dict(ref: Ref) -> dict[str, str]:
    return {"type": ref[0], "id": ref[1]}


def _json_value(value: Attribute) -> object:
    match value:
        case bool():
            return value
        case list():
            return [ref_dict(ref) for ref in value]
        case _:
            return ref_dict(value)


class ApplicationGenerator:
    """Generates a random graph with `scale` users and everything else in proportion."""

    def __init__(self, name: str, scale: int) -> None:
        self.random = random.Random(f"{name}/{scale}")
        self.scale = scale

    def some(self, refs: Sequence[Ref], most: int) -> list[Ref]:
        return sorted(self.random.sample(refs, min(len(refs), self.random.randint(0, most))))

    def one(self, refs: Sequence[Ref]) -> Ref:
        return self.random.choice(refs)

    def earlier(self, refs: Sequence[Ref], place: int, most: int) -> list[Ref]:
        """Return parents of the same kind, generated earlier, so that there are no cycles."""
        return self.some(refs[:place], most)

    def requests(self, draw: Callable[[], PaperRequest]) -> tuple[PaperRequest, ...]:
        return tuple(draw() for _ in range(REQUESTS))


def numbered_refs(kind: str, count: int) -> list[Ref]:
    return [(kind, f"{kind}{number}") for number in range(max(1, count))]


def drive(scale: int = 100) -> Application:
    make = ApplicationGenerator("drive", scale)
    users, groups = numbered_refs("user", scale), numbered_refs("group", scale // 5)
    folders, documents = numbered_refs("folder", scale), numbered_refs("document", scale * 2)
    views = {ref: ("view", f"of {ref[1]}") for ref in (*users, *groups)}
    member_of = {user: make.some(groups, 3) for user in users}
    owned = {user: (make.some(documents, 5), make.some(folders, 3)) for user in users}
    every_view = list(views.values())
    people = [
        EntityRow(user, {"view": views[user], "owned_documents": docs, "owned_folders": own}, member_of[user])
        for user, (docs, own) in owned.items()
    ]
    seen = [EntityRow(views[user], {}, []) for user in users]
    members: dict[Ref, list[Ref]] = {group: [] for group in groups}
    for user, of in member_of.items():
        for group in of:
            members[group].append(views[user])
    seen += [EntityRow(views[group], {}, members[group]) for group in groups]
    tree = [
        EntityRow(folder, {}, [*make.earlier(folders, place, 2), *make.some(every_view, 2)])
        for place, folder in enumerate(folders)
    ]
    tree += [
        EntityRow(document, {"public": make.random.random() < 0.2}, [*make.some(folders, 2), *make.some(every_view, 2)])
        for document in documents
    ]

    def draw() -> PaperRequest:
        user = make.one(users)
        near = make.random.random() < 0.5
        if make.random.random() < 0.7:
            of = owned[user][0] if near and owned[user][0] else documents
            return PaperRequest(
                user[1], make.random.choice(["read", "read", "write", "share", "change_owner"]), make.one(of)
            )
        of = owned[user][1] if near and owned[user][1] else folders
        return PaperRequest(user[1], make.random.choice(["read", "write", "share", "create_document"]), make.one(of))

    rows = (*people, *(EntityRow(group, {}, []) for group in groups), *seen, *tree)
    return Application("drive", rows, make.requests(draw))


REPOSITORY_ROLES = ("readers", "triagers", "writers", "maintainers", "admins")
ORGANIZATION_ROLES = ("readers", "writers", "admins")
ACTIONS = ("read", "triage", "write", "maintain", "admin")


def codehost(scale: int = 100) -> Application:
    make = ApplicationGenerator("codehost", scale)
    users, teams = numbered_refs("user", scale), numbered_refs("team", scale // 4)
    organizations, repositories = numbered_refs("organization", scale // 10), numbered_refs("repository", scale)
    on = {ref: {role: ("repository_role", f"{ref[1]} {role}") for role in REPOSITORY_ROLES} for ref in repositories}
    of = {
        ref: {role: ("organization_role", f"{ref[1]} {role}") for role in ORGANIZATION_ROLES} for ref in organizations
    }
    owners = {ref: make.one(organizations) for ref in repositories}
    repository_roles = [role for roles in on.values() for role in roles.values()]
    organization_roles = [role for roles in of.values() for role in roles.values()]
    direct = {user: make.some(repository_roles, 6) for user in users}
    people = [
        EntityRow(
            user,
            {},
            [*direct[user], *make.some(teams, 3), *make.some(organizations, 1), *make.some(organization_roles, 1)],
        )
        for user in users
    ]
    grouped = [
        EntityRow(team, {}, [*make.earlier(teams, place, 2), *make.some(repository_roles, 12)])
        for place, team in enumerate(teams)
    ]
    holders = [EntityRow(ref, dict(of[ref]), make.some(organization_roles, 1)) for ref in organizations]
    hosted = [EntityRow(ref, {**on[ref], "owner": owners[ref]}, []) for ref in repositories]
    by_role = {role: repository for repository, roles in on.items() for role in roles.values()}

    def draw() -> PaperRequest:
        user = make.one(users)
        near = [by_role[role] for role in direct[user]] if make.random.random() < 0.6 else []
        return PaperRequest(user[1], make.random.choice(ACTIONS), make.one(near or repositories))

    roles = [EntityRow(role, {}, []) for role in (*repository_roles, *organization_roles)]
    return Application("codehost", (*people, *grouped, *holders, *hosted, *roles), make.requests(draw))


LIST_ACTIONS = ("get_list", "get_list", "update_list", "create_task", "update_task", "delete_task", "delete_list")
APPLICATION: Ref = ("application", "TinyTodo")


def todo(scale: int = 100) -> Application:
    make = ApplicationGenerator("todo", scale)
    users, teams, lists = (
        numbered_refs("user", scale),
        numbered_refs("team", scale // 5),
        numbered_refs("todo_list", scale * 2),
    )
    member_of = {user: make.some(teams, 4) for user in users}
    people = [EntityRow(user, {}, [*member_of[user], APPLICATION]) for user in users]
    grouped = [EntityRow(team, {}, [*make.earlier(teams, place, 2), APPLICATION]) for place, team in enumerate(teams)]
    kept: dict[Ref, dict[str, Attribute]] = {
        ref: {"owner": make.one(users), "readers": make.one(teams), "editors": make.one(teams)} for ref in lists
    }

    def draw() -> PaperRequest:
        user = make.one(users)
        if make.random.random() < 0.1:
            return PaperRequest(user[1], make.random.choice(["create_list", "get_lists"]), APPLICATION)
        near = [ref for ref, has in kept.items() if has["owner"] == user or has["editors"] in member_of[user]]
        chosen = near if near and make.random.random() < 0.4 else lists
        return PaperRequest(user[1], make.random.choice(LIST_ACTIONS), make.one(chosen))

    rows = (
        *people,
        *grouped,
        *(EntityRow(ref, has, [APPLICATION]) for ref, has in kept.items()),
        EntityRow(APPLICATION, {}, []),
    )
    return Application("todo", rows, make.requests(draw))


APPLICATIONS: dict[str, Callable[[int], Application]] = {"drive": drive, "codehost": codehost, "todo": todo}


def question(asked: PaperRequest) -> dict[str, Any]:
    """Return the question as policyengine takes it."""
    kind, name = asked.resource
    return {
        "action": {"name": asked.action},
        "resource": {"type": kind, "id": name},
        "user": {"id": asked.user},
        "credential": {"issuer": "accounts"},
    }

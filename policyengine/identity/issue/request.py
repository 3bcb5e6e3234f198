"""What a client asks of the token endpoint (RFC 8693), read from its form: bounded, each parameter once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from policyengine.identity.issue.clients import ASSERTION_TYPE, Sent
from policyengine.identity.issue.errors import NotIssued, Unissued
from policyengine.identity.verify.claims import reference
from policyengine.identity.verify.strict_json import json_object
from policyengine.runtime.credential_errors import Refused
from policyengine.runtime.values import text_hazard
from policyengine.typesystem import EntityRef

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
TAKEN, MADE = (ACCESS_TOKEN, JWT, ID_TOKEN), (ACCESS_TOKEN, JWT)
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
MOST_SCOPES, MOST_TARGETS, MOST_NAMES = 100, 10, 1_000
LONGEST_NAME = 256
SEVERAL = frozenset({"audience", "resource"})
TASK = frozenset({"id", "tools", "entities"})

Form = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Task:
    """None: as it is."""

    id: str
    tools: tuple[str, ...] | None = None
    entities: tuple[EntityRef, ...] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """`scopes` None: all that there are to be had. `targets`: audiences and resources."""

    sent: Sent
    subject: str = field(repr=False)
    actor: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    task: Task | None = None


def asked_of(form: Form, *, authorization: bool = False) -> Asked:
    """`authorization`: whether there was such a header. Raises NotIssued. What is not known is passed over (RFC 6749,
    3.2)."""
    for name, values in form.items():
        if len(values) > (MOST_TARGETS if name in SEVERAL else 1):
            raise NotIssued(Unissued.PARAMETERS, f"`{name}` is there too often" if name in KNOWN else None)
    if one(form, "grant_type") != GRANT:
        raise NotIssued(Unissued.GRANT_TYPE if one(form, "grant_type") else Unissued.PARAMETERS)
    subject, actor = token_of(form, "subject"), token_of(form, "actor")
    if subject is None:
        raise NotIssued(Unissued.PARAMETERS, "`subject_token` is missing")
    if one(form, "requested_token_type") not in (None, *MADE):
        raise NotIssued(Unissued.TOKEN_TYPE)
    targets = tuple(value for name in ("audience", "resource") for value in form.get(name, ()) if value)
    return Asked(sent_of(form, authorization), subject, actor, scopes_of(form), targets, task_of(one(form, "task")))


KNOWN = (
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type",
    "scope", "audience", "resource", "client_id", "client_assertion", "client_assertion_type", "task", "remedy",
)  # fmt: skip


def one(form: Form, name: str) -> str | None:
    """One that is empty is not there (RFC 6749, 3.2)."""
    values = form.get(name, ())
    return values[0] if values and values[0] else None


def token_of(form: Form, whose: str) -> str | None:
    token, type_ = one(form, f"{whose}_token"), one(form, f"{whose}_token_type")
    if (token is None) != (type_ is None):
        raise NotIssued(Unissued.PARAMETERS, f"`{whose}_token` and `{whose}_token_type` come together")
    if type_ is not None and type_ not in TAKEN:
        raise NotIssued(Unissued.TOKEN_TYPE)
    return token


def sent_of(form: Form, authorization: bool) -> Sent:
    assertion, type_ = one(form, "client_assertion"), one(form, "client_assertion_type")
    if (assertion is None) != (type_ is None) or type_ not in (None, ASSERTION_TYPE):
        raise NotIssued(Unissued.ASSERTION, "`client_assertion` comes with its `client_assertion_type`")
    if one(form, "client_secret") is not None:
        raise NotIssued(Unissued.CLIENT_METHOD, "secrets are not taken")
    return Sent(one(form, "client_id"), assertion, authorization)


def scopes_of(form: Form) -> tuple[str, ...] | None:
    given, remedy = one(form, "scope"), one(form, "remedy")
    if remedy is not None and given is not None:
        raise NotIssued(Unissued.PARAMETERS, "`remedy` stands in place of `scope`")
    given = given if remedy is None else wanted_by(remedy)
    if given is None:
        return None
    found = tuple(dict.fromkeys(given.split(" ")))
    if len(found) > MOST_SCOPES or not all(SCOPE.fullmatch(scope) for scope in found):
        raise NotIssued(Unissued.SCOPE, "`scope` is no list of scopes")
    return found


def wanted_by(remedy: str) -> str | None:
    """The scopes that a remedy names, as it stands in a decision: any of them would do. What a better `credential` is
    for, every token from here is: bound, and short enough."""
    match object_in(remedy):
        case {"kind": "scope", "scopes": [*scopes]} if scopes and all(isinstance(scope, str) for scope in scopes):
            return " ".join(map(str, scopes))
        case {"kind": "credential"}:
            return None
        case _:
            raise NotIssued(Unissued.PARAMETERS, "no token is what `remedy` asks for")


def task_of(given: str | None) -> Task | None:
    """`{"id": …, "tools": ["fs/read"], "entities": [{"type": "invoice", "id": "42"}]}`: the task of the token."""
    if given is None:
        return None
    found = object_in(given)
    if found is None:
        raise NotIssued(Unissued.TASK, "`task` is no JSON object, or could be read in two ways")
    name = found.get("id")
    if not found.keys() <= TASK or not is_name(name):
        raise NotIssued(Unissued.TASK, "`task` has an `id`, and may have `tools` and `entities`")
    return Task(name, tools_of(found.get("tools")), entities_of(found.get("entities")))


def object_in(text: str) -> dict[str, object] | None:
    """Read as strictly as what goes into a token has to be."""
    try:
        return json_object(text.encode())
    except Refused:
        return None


def tools_of(given: object) -> tuple[str, ...] | None:
    """No name is a pattern: one with a `*` would hold nothing, where more was meant."""
    if given is None:
        return None
    if not isinstance(given, list) or len(given) > MOST_NAMES or not all(map(is_name, given)):
        raise NotIssued(Unissued.TASK, "`tools` of a `task` is a list of names: `server/name`, or `name` at any server")
    if any("*" in name for name in given):
        raise NotIssued(Unissued.TASK, "`tools` of a `task` holds no patterns: leave it out for every tool")
    return tuple(dict.fromkeys(given))


def entities_of(given: object) -> tuple[EntityRef, ...] | None:
    if given is None:
        return None
    found = [reference(one) for one in given] if isinstance(given, list) and len(given) <= MOST_NAMES else [None]
    known = [one for one in found if one is not None and is_name(one.type) and is_name(one.id)]
    if len(known) < len(found):
        raise NotIssued(Unissued.TASK, '`entities` of a `task` is a list of things: `{"type": "invoice", "id": "42"}`')
    return tuple(dict.fromkeys(known))


def is_name(given: object) -> TypeGuard[str]:
    return isinstance(given, str) and 0 < len(given) <= LONGEST_NAME and text_hazard(given) is None

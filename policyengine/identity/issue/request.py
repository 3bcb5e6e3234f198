"""Parses the form of a token request (RFC 8693), whose size is limited and whose parameters must not be repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from policyengine.identity.issue.clients import ASSERTION_TYPE, ClientCredentials
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.identity.verify.claims import parse_reference
from policyengine.identity.verify.strict_json import parse_strict_object
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.values import text_hazard
from policyengine.typesystem import EntityRef

TOKEN_EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCEPTED_TOKEN_TYPES, ISSUED_TOKEN_TYPES = (ACCESS_TOKEN, JWT, ID_TOKEN), (ACCESS_TOKEN, JWT)
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
MAX_SCOPES, MAX_TARGETS, MAX_NAMES = 100, 10, 1_000
MAX_NAME_LENGTH = 256
REPEATABLE_PARAMETERS = frozenset({"audience", "resource"})
TASK_MEMBERS = frozenset({"id", "tools", "entities"})

Form = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """The requested task; None keeps the token's value."""

    id: str
    tools: tuple[str, ...] | None = None
    entities: tuple[EntityRef, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenExchangeRequest:
    """A parsed token request. `scopes` None asks for all available scopes. `targets` are audiences and resources."""

    sent: ClientCredentials
    subject: str = field(repr=False)
    actor: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    task: TaskRequest | None = None


def parse_token_exchange(form: Form, *, authorization: bool = False) -> TokenExchangeRequest:
    """Parse the form. `authorization` says whether the request has that header. Unknown parameters are ignored (RFC
    6749, 3.2). Raises TokenIssuanceError.
    """
    for name, values in form.items():
        if len(values) > (MAX_TARGETS if name in REPEATABLE_PARAMETERS else 1):
            raise TokenIssuanceError(
                IssuanceRefusal.PARAMETERS, f"`{name}` is repeated too often" if name in KNOWN_PARAMETERS else None
            )
    if get_single(form, "grant_type") != TOKEN_EXCHANGE_GRANT:
        raise TokenIssuanceError(
            IssuanceRefusal.GRANT_TYPE if get_single(form, "grant_type") else IssuanceRefusal.PARAMETERS
        )
    subject, actor = parse_token(form, "subject"), parse_token(form, "actor")
    if subject is None:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`subject_token` is missing")
    if get_single(form, "requested_token_type") not in (None, *ISSUED_TOKEN_TYPES):
        raise TokenIssuanceError(IssuanceRefusal.TOKEN_TYPE)
    targets = tuple(value for name in ("audience", "resource") for value in form.get(name, ()) if value)
    return TokenExchangeRequest(
        parse_client_credentials(form, authorization),
        subject,
        actor,
        parse_scopes(form),
        targets,
        parse_task(get_single(form, "task")),
    )


KNOWN_PARAMETERS = (
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type",
    "scope", "audience", "resource", "client_id", "client_assertion", "client_assertion_type", "task", "remedy",
)  # fmt: skip


def get_single(form: Form, name: str) -> str | None:
    """Return the value of a parameter; None if it is missing or, which is the same (RFC 6749, 3.2), empty."""
    values = form.get(name, ())
    return values[0] if values and values[0] else None


def parse_token(form: Form, whose: str) -> str | None:
    token, type_ = get_single(form, f"{whose}_token"), get_single(form, f"{whose}_token_type")
    if (token is None) != (type_ is None):
        raise TokenIssuanceError(
            IssuanceRefusal.PARAMETERS, f"`{whose}_token` and `{whose}_token_type` must be sent together"
        )
    if type_ is not None and type_ not in ACCEPTED_TOKEN_TYPES:
        raise TokenIssuanceError(IssuanceRefusal.TOKEN_TYPE)
    return token


def parse_client_credentials(form: Form, authorization: bool) -> ClientCredentials:
    assertion, type_ = get_single(form, "client_assertion"), get_single(form, "client_assertion_type")
    if (assertion is None) != (type_ is None) or type_ not in (None, ASSERTION_TYPE):
        raise TokenIssuanceError(
            IssuanceRefusal.ASSERTION, "`client_assertion` and `client_assertion_type` must be sent together"
        )
    if get_single(form, "client_secret") is not None:
        raise TokenIssuanceError(IssuanceRefusal.CLIENT_METHOD, "a client secret is not accepted")
    return ClientCredentials(get_single(form, "client_id"), assertion, authorization)


def parse_scopes(form: Form) -> tuple[str, ...] | None:
    given, remedy = get_single(form, "scope"), get_single(form, "remedy")
    if remedy is not None and given is not None:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`remedy` and `scope` cannot be combined")
    given = given if remedy is None else scopes_of_remedy(remedy)
    if given is None:
        return None
    found = tuple(dict.fromkeys(given.split(" ")))
    if len(found) > MAX_SCOPES or not all(SCOPE.fullmatch(scope) for scope in found):
        raise TokenIssuanceError(IssuanceRefusal.SCOPE, "`scope` is not a valid list of scopes")
    return found


def scopes_of_remedy(remedy: str) -> str | None:
    """Return the scopes that a remedy of a decision names, any of which suffices. A `credential` remedy needs no
    scopes, so the result is None: every issued token is bound and short-lived. Raises TokenIssuanceError.
    """
    match parse_object(remedy):
        case {"kind": "scope", "scopes": [*scopes]} if scopes and all(isinstance(scope, str) for scope in scopes):
            return " ".join(map(str, scopes))
        case {"kind": "credential"}:
            return None
        case _:
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`remedy` is not one that a token can satisfy")


def parse_task(given: str | None) -> TaskRequest | None:
    """Parse a task: `{"id": …, "tools": ["fs/read"], "entities": [{"type": "invoice", "id": "42"}]}`. None stands for
    no task. Raises TokenIssuanceError.
    """
    if given is None:
        return None
    found = parse_object(given)
    if found is None:
        raise TokenIssuanceError(IssuanceRefusal.TASK, "`task` is not a JSON object, or is ambiguous")
    name = found.get("id")
    if not found.keys() <= TASK_MEMBERS or not is_name(name):
        raise TokenIssuanceError(
            IssuanceRefusal.TASK, "`task` must have an `id`, and may have only `tools` and `entities`"
        )
    return TaskRequest(name, parse_tools(found.get("tools")), parse_entities(found.get("entities")))


def parse_object(text: str) -> dict[str, object] | None:
    """Parse JSON as strictly as the content of a token, or return None."""
    try:
        return parse_strict_object(text.encode())
    except CredentialError:
        return None


def parse_tools(given: object) -> tuple[str, ...] | None:
    """Parse tool names; None stands for every tool. Patterns are refused: a name with `*` would match no tool, although
    the client means several tools. Raises TokenIssuanceError.
    """
    if given is None:
        return None
    if not isinstance(given, list) or len(given) > MAX_NAMES or not all(map(is_name, given)):
        raise TokenIssuanceError(
            IssuanceRefusal.TASK,
            f"`tools` of a `task` must be a list of at most {MAX_NAMES:,} names: `server/name`, "
            "or `name` for any server",
        )
    if any("*" in name for name in given):
        raise TokenIssuanceError(
            IssuanceRefusal.TASK, "`tools` of a `task` cannot contain patterns: omit it to allow every tool"
        )
    return tuple(dict.fromkeys(given))


def parse_entities(given: object) -> tuple[EntityRef, ...] | None:
    if given is None:
        return None
    found = [parse_reference(one) for one in given] if isinstance(given, list) and len(given) <= MAX_NAMES else [None]
    known = [one for one in found if one is not None and is_name(one.type) and is_name(one.id)]
    if len(known) < len(found):
        raise TokenIssuanceError(
            IssuanceRefusal.TASK,
            f"`entities` of a `task` must be a list of at most {MAX_NAMES:,} entities: "
            '`{"type": "invoice", "id": "42"}`',
        )
    return tuple(dict.fromkeys(known))


def is_name(given: object) -> TypeGuard[str]:
    return isinstance(given, str) and 0 < len(given) <= MAX_NAME_LENGTH and text_hazard(given) is None

"""Fields of decision log events about issued tokens and revocations: the actor, the client, the user and the agent.

Events identify a token by its fingerprint and by the facts that decisions derive from the token; they never contain the
token itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, assert_never

from policyengine.identity.facts import build_facts, fingerprint, without_none
from policyengine.identity.issue.clients import AuthenticatedClient, TokenClient
from policyengine.identity.issue.errors import TokenIssuanceError
from policyengine.identity.issue.request import TaskRequest, TokenExchangeRequest
from policyengine.identity.verified import ConfirmedKey, TokenPrincipal, VerifiedCredential, VerifiedToken
from policyengine.identity.verify.claims import MAX_NUMERIC_DATE
from policyengine.identity.verify.task_claim import reference_to_dict
from policyengine.kernel import Kernel
from policyengine.runtime.credential_errors import CredentialError

EventFields: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, who authenticated with a token of `--token-file`; `name` is the name in that file, if
    there is one.
    """

    name: str | None = None


# An operator, a client, or an agent with its token.
EventActor: TypeAlias = Operator | AuthenticatedClient | VerifiedCredential


# ── Issued and refused tokens ─────────────────────────────────────────────────────────────────


def issued_token_fields(
    facts: Mapping[str, object],
    claims: Mapping[str, object],
    actor: AuthenticatedClient,
    subject: tuple[VerifiedToken, TokenPrincipal],
    kernel: Kernel,
) -> EventFields:
    """Return the fields of a `token_issued` event. `facts` are the facts that the token proves, `claims` its claims."""
    own = {} if actor.token is None else {"actor": token_fields(*actor.token)}
    return {
        **client_fields(actor.client), "jti": claims["jti"], "audience": claims["aud"], "bound_to": claims["cnf"],
        "subject": token_fields(*subject), **own, **facts, **policy_fields(kernel),
    }  # fmt: skip


def refused_token_fields(
    why: TokenIssuanceError,
    asked: TokenExchangeRequest,
    actor: AuthenticatedClient,
    subject: tuple[VerifiedToken, TokenPrincipal] | bytes,
    kernel: Kernel,
) -> EventFields:
    """Return the fields of an event about a token that was not issued to an authenticated client. `subject` is the
    subject token, or the digest of a refused subject token."""
    about = {"fingerprint": fingerprint(subject)} if isinstance(subject, bytes) else token_fields(*subject)
    own = {} if actor.token is None else {"actor": token_fields(*actor.token)}
    scopes = {} if asked.scopes is None else {"credential": {"scopes": asked.scopes}}
    wanted = {} if asked.task is None else {"task": task_fields(asked.task)}
    return {
        "code": why.code.value, "error": why.error.value, **client_fields(actor.client), "subject": about, **own,
        **scopes, **wanted, **policy_fields(kernel),
    }  # fmt: skip


def task_fields(task: TaskRequest) -> EventFields:
    entities = None if task.entities is None else [reference_to_dict(one) for one in task.entities]
    return without_none({"id": task.id, "tools": task.tools, "entities": entities})


def client_fields(client: TokenClient) -> EventFields:
    return {"client": client.name, "method": client.method, "agent": {"id": client.agent, "issuer": client.issuer}}


def policy_fields(kernel: Kernel) -> EventFields:
    return {"package": kernel.package, "revision": kernel.revision}


def token_fields(token: VerifiedToken, who: TokenPrincipal) -> EventFields:
    """Return the fields by which the token can be found in this log and at its issuer."""
    jti = token.claims.get("jti")
    return without_none(
        {
            "fingerprint": fingerprint(token.digest), "issuer": token.issuer,
            "jti": jti if isinstance(jti, str) else None, "agent": who.agent, "user": who.user,
        }
    )  # fmt: skip


# ── Revocations ───────────────────────────────────────────────────────────────────────────────


def revocation_fields(kind: str, about: Mapping[str, object], by: EventActor, until: int | None = None) -> EventFields:
    """Return the fields of a revocation event: `kind` is the kind of thing that was revoked, `about` identifies it, and
    `until` (seconds since 1970) is the end of a temporary revocation."""
    ends = {} if until is None or until > MAX_NUMERIC_DATE else {"until": datetime.fromtimestamp(until, UTC)}
    return {"what": kind, "by": actor_fields(by), **about, **ends}


def actor_fields(by: EventActor) -> EventFields:
    match by:
        case Operator(name):
            return {"kind": "operator", **({} if name is None else {"name": name})}
        case AuthenticatedClient(client):
            return {"kind": "client", **client_fields(client)}
        case VerifiedCredential(facts):
            known: EventFields = {root: facts[root] for root in ("agent", "user") if root in facts}
            return {"kind": "agent", **known, "fingerprint": by.fingerprint}
        case _:
            assert_never(by)


def describe_actor(by: EventActor) -> str:
    """Return the actor in words for a log message: the name of a client or agent, or `an operator`."""
    match by:
        case Operator():
            return "an operator"
        case AuthenticatedClient(client):
            return client.name
        case VerifiedCredential(facts):
            return str(facts["agent"]["id"])
        case _:
            assert_never(by)


def revoked_token_facts(token: VerifiedToken, who: TokenPrincipal | None, binding: ConfirmedKey) -> EventFields:
    """Return the facts that decisions derive from this token, without its claims. `who` is None if the token names no
    principal or cannot be read."""
    jti = token.claims.get("jti")
    facts: Mapping[str, object] = {"credential": {"fingerprint": fingerprint(token.digest), "issuer": token.issuer}}
    if who is not None:
        with suppress(CredentialError, ValueError, OverflowError):  # malformed claims are ignored here
            facts = build_facts(token, who, binding)
    return {**({"jti": jti} if isinstance(jti, str) else {}), **facts}


def revoked_name_facts(kind: str, name: str) -> EventFields:
    """Return the facts of a name as an operator writes it: `issuer/name`, or a key alone."""
    issuer, _, rest = name.partition("/")
    match kind:
        case "key":
            return {"key": name}
        case "chain":
            return {"chain": {"issuer": issuer, "jti": rest}}
        case "task":
            return revoked_task_facts(rest, (issuer,))
        case _:
            return {kind: {"id": rest, "issuer": issuer}}


def revoked_task_facts(task: str, issuers: Collection[str]) -> EventFields:
    """Return the task, and the issuers whose tokens belong to it."""
    return {"task": {"id": task}, "issuers": sorted(issuers)}

"""One HTTP request to an MCP endpoint that is a resource server: its caller, proved once, and the challenge with which
its answer asks for another token. The middlewares note denials that a scope would lift; the resource server answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policyengine.identity.verified import VerifiedCredential
from policyengine.integrations.denial_messages import denial_data, format_denial
from policyengine.integrations.enforcement_point import Facts, PolicyDecisionPoint, evaluate
from policyengine.integrations.mcp.clients.sessions import NOBODY, McpSession, Owner, session_owner
from policyengine.integrations.mcp.elicitation import proved_facts
from policyengine.integrations.mcp.methods import ERROR_CODES
from policyengine.integrations.mcp.protected_resource import ResourceAccess
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.observe import needs_challenge

EXCHANGE = "policyengine.mcp.exchange"  # key in the ASGI scope
MAX_CANDIDATES = 8  # scopes of a remedy that are tried


@dataclass(frozen=True, slots=True)
class TokenChallenge:
    """The answer that asks for another token: 403 with the scopes that the request needs, or 401 if the caller has no
    token. `error` is the JSON-RPC error of the denial.
    """

    status: int
    scopes: tuple[str, ...]
    request_id: object
    error: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class HttpExchange:
    """An HTTP request, whose caller `facts` describe. Proofs are accepted once, so all later steps use these facts.
    `facts` is None if the MCP server verifies tokens itself.
    """

    facts: Facts | None
    access: ResourceAccess
    challenge: TokenChallenge | None = None
    owner: Owner = field(default=NOBODY)

    def __post_init__(self) -> None:
        self.owner = session_owner(self.facts)


def find_exchange(request: object) -> HttpExchange | None:
    """Return the exchange of an HTTP request; None without a resource server, and over stdio."""
    scope = getattr(request, "scope", None)
    found = scope.get(EXCHANGE) if isinstance(scope, Mapping) else None
    return found if isinstance(found, HttpExchange) else None


def proved_caller(request: object) -> Facts | None:
    """Return the facts that a resource server has proved for the request; None without a resource server, and for a
    request without credentials."""
    exchange = find_exchange(request)
    return None if exchange is None else exchange.facts


def owned_session(session: McpSession, owner: Owner | None) -> McpSession | None:
    """Return the session if its owner sends the request, otherwise None. A session that began without an identity
    passes to the first caller that has one. None as the owner stands for a request that does not say who sends it."""
    if owner is None or session.owner == owner:
        return session
    if session.owner != NOBODY:
        return None
    session.owner = owner
    return session


async def note_denial(
    request: object, request_id: object, decides: PolicyDecisionPoint, question: Facts, decision: Decision
) -> None:
    """Note a denial in the exchange of its request, if another token would lift it: one with a further scope, or any
    token if the request has none."""
    exchange = find_exchange(request)
    if exchange is None or decision.outcome is not Outcome.DENY:
        return
    if exchange.facts is not None and not exchange.facts.get("credentials"):
        if needs_challenge(decision):
            exchange.challenge = challenge_of(decision, 401, (), request_id)
        return
    scope = await find_lifting_scope(decides, question, decision, exchange.access)
    if scope is not None:
        held = exchange.access.narrowest_first(held_scopes(question))
        exchange.challenge = challenge_of(decision, 403, tuple(dict.fromkeys((*held, scope))), request_id)


def challenge_of(decision: Decision, status: int, scopes: tuple[str, ...], request_id: object) -> TokenChallenge:
    error = {
        "code": ERROR_CODES[decision.outcome], "message": format_denial(decision), "data": denial_data(decision),
    }  # fmt: skip
    return TokenChallenge(status, scopes, request_id, error)


async def find_lifting_scope(
    decides: PolicyDecisionPoint, question: Facts, decision: Decision, access: ResourceAccess
) -> str | None:
    """Return the narrowest scope of the remedies with which the same request would not be denied; None if there is
    none, for example because a guard denies the request, too. Nothing is committed."""
    named = [scope for remedy in decision.remedies if remedy.kind == "scope" for scope in remedy.scopes or ()]
    for scope in access.narrowest_first(named)[:MAX_CANDIDATES]:
        if (await evaluate(decides, with_scope(question, scope))).outcome is not Outcome.DENY:
            return scope
    return None


def held_scopes(question: Facts) -> Sequence[str]:
    credential = proved_facts(question).get("credential")
    scopes = credential.get("scopes") if isinstance(credential, Mapping) else None
    return [one for one in scopes if isinstance(one, str)] if isinstance(scopes, list | tuple | set | frozenset) else ()


def with_scope(question: Facts, scope: str) -> Facts:
    """Return the question of the same caller with a token that also has this scope."""
    scopes = [*held_scopes(question), scope]
    proved = question.get("credentials")
    if isinstance(proved, VerifiedCredential):
        credential = {**proved.facts.get("credential", {}), "scopes": scopes}
        return {**question, "credentials": replace(proved, facts={**proved.facts, "credential": credential})}
    credential_facts = question.get("credential")
    stated = credential_facts if isinstance(credential_facts, Mapping) else {}
    return {**question, "credential": {**stated, "scopes": scopes}}

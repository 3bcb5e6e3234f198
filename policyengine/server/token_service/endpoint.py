"""The token service as plain functions of form data: RFC 8693, 7009, 7662, 7517 and 8414."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl

from policyengine.engine.authenticate import TRANSIENT_REFUSALS
from policyengine.identity.audit_events import Operator
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.challenges import challenge_for_refusal
from policyengine.identity.config.model import IdentityConfigError, check_duration
from policyengine.identity.issue.clients import AuthenticatedClient, ClientCredentials
from policyengine.identity.issue.errors import IssuanceRefusal, TokenErrorCode, TokenIssuanceError, report_refusal
from policyengine.identity.issue.issuer import TokenIssuer
from policyengine.identity.issue.request import (
    TOKEN_EXCHANGE_GRANT,
    get_single,
    parse_client_credentials,
    parse_token_exchange,
)
from policyengine.identity.revocation import RETRY_AFTER_SECONDS, RevocationError, RevocationResult, TokenRevoker
from policyengine.identity.revocation_names import NAME_KINDS, check_token_text, is_name, revocation_name
from policyengine.identity.verified import ProofContext
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_epoch_seconds

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

MAX_FORM_BYTES = 131_072
MAX_FORM_FIELDS = 100
FORM_TYPE = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store"}
JWKS_AGE = 60  # seconds for which clients may cache the keys, well within `ahead` of key rotation
ENDED_UNRECORDED = "the revocation took effect, but could not be recorded: the operator's log says why"
STATUSES = {TokenErrorCode.INVALID_CLIENT: 401, TokenErrorCode.UNAVAILABLE: 503}

NO_OPERATOR = "`Authorization` holds no token of `--token-file`, and client secrets are not accepted there"
NO_AUTHENTICATION = "neither an operator's token, from `--token-file`, nor client authentication was sent"
MIXED_AUTHENTICATION = "a client's key or certificate was sent, which operators do not use"
NOT_OF_TASK = "neither an operator's token, from `--token-file`, nor that of an agent of the task was sent"

FormFields: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TokenServiceReply:
    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=lambda: NO_STORE)


@dataclass(frozen=True, slots=True)
class FormSender:
    """The sender of a form. `operator` means that it has a token of the token file, as gateways and operators have;
    `authorization`, that it has any other token. `credentials` is the sender's proof of a key; `now` is in seconds
    since 1970.
    """

    credentials: Credentials
    operator: Operator | None
    authorization: bool
    now: int

    @property
    def itself(self) -> Operator | None:
        """The operator, or None if a gateway forwards a client's credentials together with its own token, because then
        the client is the sender.
        """
        return self.operator if self.credentials.empty else None

    def operator_of(self, form: FormFields) -> Operator | None:
        """Return the operator that sent the form; None if the form contains client credentials. Raises
        TokenIssuanceError.
        """
        return self.itself if parse_client_credentials(form, False) == ClientCredentials() else None


@dataclass(frozen=True, slots=True)
class TokenServiceContext:
    """The context of token requests. `issuing` is None if this server issues no tokens and serves only operators.
    `issuers` are the issuers of the policy, by name; `log` records revocations.
    """

    identity: CredentialAuthenticator
    issuers: Collection[str]
    issuing: TokenIssuer | None
    log: DecisionLog | None = None

    @property
    def here(self) -> CredentialAuthenticator:
        """The authenticator for introspection and revocation: it accepts tokens of this issuer for any of its
        audiences."""
        issuing, identity = self.issuing, self.identity
        if issuing is None:
            return identity
        return identity.apart(identity.parts.tokens.taking(issuing.name, issuing.audiences))


def parse_form(body: bytes) -> dict[str, list[str]]:
    """Parse a form. Raises TokenIssuanceError."""
    if len(body) > MAX_FORM_BYTES:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"the form is larger than {MAX_FORM_BYTES:,} bytes")
    try:
        text = body.decode("ascii")
        read = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "the body is not a form") from None
    found: dict[str, list[str]] = {}
    for name, value in read:
        found.setdefault(name, []).append(value)
    return found


def oauth_error(error: TokenErrorCode, why: str) -> TokenServiceReply:
    return TokenServiceReply(
        STATUSES.get(error, 400), {"error": error.value, "error_description": error_description(why)}
    )


def error_description(why: str) -> str:
    """Return the text with only those characters that RFC 6749 allows in descriptions."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "'" for one in why)


def log_not_issued(identity: CredentialAuthenticator, why: TokenIssuanceError) -> TokenServiceReply:
    report_refusal(identity, why)
    return not_issued_reply(identity, why)


def not_issued_reply(identity: CredentialAuthenticator, why: TokenIssuanceError) -> TokenServiceReply:
    reply = oauth_error(why.error, why.why)
    nonce = identity.nonce() if why.error is TokenErrorCode.USE_DPOP_NONCE else None
    return reply if nonce is None else replace(reply, headers={**NO_STORE, "DPoP-Nonce": nonce})


# ── /token ────────────────────────────────────────────────────────────────────────────────────


def exchange_token(issuing: TokenIssuer, body: bytes, sender: FormSender) -> TokenServiceReply:
    try:
        asked = parse_token_exchange(parse_form(body), authorization=sender.authorization)
    except TokenIssuanceError as why:
        return log_not_issued(issuing.identity, why)
    try:
        issued = issuing.exchange(asked, sender.credentials, endpoint_request(issuing, "token"), sender.now)
    except TokenIssuanceError as why:
        return not_issued_reply(issuing.identity, why)
    return TokenServiceReply(200, issued.to_dict())


def endpoint_request(issuing: TokenIssuer, endpoint: str) -> ProofContext:
    return ProofContext("POST", f"{issuer_url(issuing)}/{endpoint}")


def issuer_url(issuing: TokenIssuer) -> str:
    return str(issuing.us.url).rstrip("/")


# ── /revoke, /introspect, /tasks/{id}/complete ────────────────────────────────────────────────


def revoke(desk: TokenServiceContext, body: bytes, sender: FormSender) -> TokenServiceReply:
    """Revoke a token for a client that the token names. For an operator, revoke any token, or all credentials that
    depend on one agent, user, task, chain or key.
    """
    revoking = TokenRevoker(desk.identity, None if desk.issuing is None else desk.issuing.name, desk.log)
    try:
        form = parse_form(body)
        by = sender.operator_of(form) or authenticate_client(desk, form, sender, "revoke")
        what = [name for name in ("token", *NAME_KINDS) if get_single(form, name) is not None]
        if len(what) != 1:
            names = ", ".join(("token", *NAME_KINDS))
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"send exactly one of {names}")
        given = get_single(form, what[0]) or ""
        if what == ["token"]:
            if get_single(form, "for") is not None:
                raise TokenIssuanceError(
                    IssuanceRefusal.PARAMETERS, "`for` applies only to names: a token is revoked permanently"
                )
            return ended_reply({}, revoking.token(check_token_text(given), by, sender.now))
        if isinstance(by, AuthenticatedClient):
            return oauth_error(TokenErrorCode.UNAUTHORIZED_CLIENT, "only operators may revoke by name")
        name = revocation_name(what[0], given, desk.issuers, desk.identity.people)
        return ended_reply({}, revoking.named(what[0], given, name, parse_for_field(form), by, sender.now))
    except RevocationError as why:
        return not_ended_reply(why)
    except TokenIssuanceError as why:
        return log_not_issued(desk.identity, why)
    except StoreError:
        return log_not_issued(desk.identity, TokenIssuanceError(IssuanceRefusal.STORE))


def ended_reply(body: Mapping[str, object], came: RevocationResult) -> TokenServiceReply:
    """Return a reply with status 200, because clients take any other status to mean that the token is still valid (RFC
    7009, 2.2.1).
    """
    known = {} if came.verified else {"verified": False}
    return TokenServiceReply(
        200, {**body, **known, **({} if came.recorded else {"recorded": False, "warning": ENDED_UNRECORDED})}
    )


def not_ended_reply(why: RevocationError) -> TokenServiceReply:
    found = oauth_error(why.error, why.why)
    return found if not why.later else replace(found, headers={**NO_STORE, "Retry-After": str(RETRY_AFTER_SECONDS)})


def parse_for_field(form: FormFields) -> int | None:
    given = get_single(form, "for")
    if given is None:
        return None
    try:
        found = check_duration(given)
    except ValueError as error:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"`for`: {error}") from None
    if found < timedelta(seconds=1):
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`for` must be at least a second")
    return int(found.total_seconds())


def authenticate_client(
    desk: TokenServiceContext, form: FormFields, sender: FormSender, endpoint: str
) -> AuthenticatedClient:
    """Authenticate the client. Raises TokenIssuanceError."""
    sent, issuing = parse_client_credentials(form, sender.authorization), desk.issuing
    if sender.authorization:
        raise TokenIssuanceError(IssuanceRefusal.CLIENT_METHOD, NO_OPERATOR)
    if issuing is None:
        raise TokenIssuanceError(IssuanceRefusal.NO_CLIENT, "an operator's token is required, from `--token-file`")
    if sent == ClientCredentials():
        raise TokenIssuanceError(
            IssuanceRefusal.NO_CLIENT, NO_AUTHENTICATION if sender.operator is None else MIXED_AUTHENTICATION
        )
    return issuing.authenticated(sent, None, sender.credentials, endpoint_request(issuing, endpoint), sender.now)


def introspect(desk: TokenServiceContext, body: bytes, sender: FormSender) -> TokenServiceReply:
    """Introspect a token for gateways, operators and clients."""
    try:
        form = parse_form(body)
        if sender.operator_of(form) is None:
            authenticate_client(desk, form, sender, "introspect")
        raw = get_single(form, "token")
        if raw is None:
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`token` is missing")
        return TokenServiceReply(200, TokenRevoker(desk.here).introspected(raw, sender.now))
    except TokenIssuanceError as why:
        return log_not_issued(desk.identity, why)
    except StoreError:
        return log_not_issued(desk.identity, TokenIssuanceError(IssuanceRefusal.STORE))


def complete_task(desk: TokenServiceContext, task: str, sender: FormSender) -> TokenServiceReply:
    """Complete a task. An operator completes it for tokens of any issuer, an agent in the task for tokens of its own
    issuer and user.
    """
    revoking, completed = TokenRevoker(desk.identity, log=desk.log), {"task": task, "state": "completed"}
    try:
        if not is_name(task):
            raise TokenIssuanceError(
                IssuanceRefusal.PARAMETERS, "write the name of a task as in tokens, without surrounding blanks"
            )
        if sender.itself is not None:
            return ended_reply(completed, revoking.task(task, desk.issuers, sender.itself, sender.now))
        issuing = desk.issuing
        if sender.credentials.authorization is None or issuing is None:
            raise TokenIssuanceError(IssuanceRefusal.NO_CLIENT, NOT_OF_TASK)
        proved = desk.here.prove(sender.credentials, ProofContext("POST", sender.credentials.url), sender.now)
        return ended_reply(completed, revoking.own_task(task, proved, sender.now))
    except RevocationError as why:
        return not_ended_reply(why)
    except CredentialError as refused:
        return credential_refused_reply(desk.identity, refused)
    except TokenIssuanceError as why:
        return log_not_issued(desk.identity, why)
    except StoreError:
        return log_not_issued(desk.identity, TokenIssuanceError(IssuanceRefusal.STORE))


def credential_refused_reply(identity: CredentialAuthenticator, refused: CredentialError) -> TokenServiceReply:
    """Return the reply to a refused credential: a challenge, unless the refusal is transient."""
    if refused.refusal.value in TRANSIENT_REFUSALS:
        return oauth_error(TokenErrorCode.UNAVAILABLE, refused.why)
    headers = {**NO_STORE, **dict(challenge_for_refusal(refused.refusal, identity))}
    return TokenServiceReply(
        401, {"error": refused.refusal.error.value, "error_description": error_description(refused.why)}, headers
    )


# ── /attestation/nonce ────────────────────────────────────────────────────────────────────────


def issue_nonce(desk: TokenServiceContext, now: int) -> TokenServiceReply:
    """Return a nonce for an attestation. It is valid only once and briefly, and proves nothing, so every client may
    request one."""
    issue = desk.identity.attestation_nonces
    if issue is None:
        return oauth_error(TokenErrorCode.UNAVAILABLE, "this server does not verify attestations")
    given, expires = issue(now)
    return TokenServiceReply(200, {"nonce": given, "expires_at": format_epoch_seconds(expires)})


# ── Public documents ──────────────────────────────────────────────────────────────────────────


def jwks_reply(issuing: TokenIssuer, now: int) -> TokenServiceReply:
    try:
        keys = issuing.keys.published(now)
    except IdentityConfigError:
        return log_not_issued(issuing.identity, TokenIssuanceError(IssuanceRefusal.KEYS))
    return TokenServiceReply(200, {"keys": keys}, {"Cache-Control": f"public, max-age={JWKS_AGE}"})


def metadata_reply(issuing: TokenIssuer) -> TokenServiceReply:
    """Return the authorization server metadata (RFC 8414)."""
    try:
        url, us = issuer_url(issuing), issuing.us
    except TokenIssuanceError as why:
        return log_not_issued(issuing.identity, why)
    algorithms = ["ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"]
    methods = ["private_key_jwt", "self_signed_tls_client_auth"]
    found: dict[str, object] = {
        "issuer": us.url,
        "token_endpoint": f"{url}/token",
        "jwks_uri": f"{url}/jwks",
        "revocation_endpoint": f"{url}/revoke",
        "introspection_endpoint": f"{url}/introspect",
        "grant_types_supported": [TOKEN_EXCHANGE_GRANT],
        "response_types_supported": [],
        "scopes_supported": sorted(issuing.handing().endpoints),
        "dpop_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": True,
    }
    for endpoint in ("token", "revocation", "introspection"):
        found[f"{endpoint}_endpoint_auth_methods_supported"] = methods
        found[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = algorithms
    return TokenServiceReply(200, found, {"Cache-Control": f"public, max-age={JWKS_AGE}"})

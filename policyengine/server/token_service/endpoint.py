"""The token endpoint and those beside it, as plain functions of what was sent: RFC 8693, 7009, 7662, 7517 and 8414."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl

from policyengine.engine.authenticate import TRANSIENT_REFUSALS
from policyengine.identity.audit_events import Operator
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.challenges import challenge_for_refusal
from policyengine.identity.config.model import IdentityError, parse_duration
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

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

MAX_FORM_BYTES = 131_072  # bytes
MAX_FORM_FIELDS = 100
FORM_TYPE = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store"}
JWKS_AGE = 60  # seconds, well within `ahead` of keys that rotate
ENDED_UNRECORDED = "it has ended, and that could not be put on record: the operator's log says why"
STATUSES = {TokenErrorCode.INVALID_CLIENT: 401, TokenErrorCode.UNAVAILABLE: 503}

NO_OPERATOR = "`Authorization` holds no token of `--token-file`, and secrets of clients are not taken there"
NO_AUTHENTICATION = "neither an operator's token, of `--token-file`, nor what a client proves itself by was sent"
MIXED_AUTHENTICATION = "a client's key or certificate came along: operators send none"
NOT_OF_TASK = "neither an operator's token, of `--token-file`, nor that of an agent of the task was sent"

FormFields: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TokenServiceReply:
    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=lambda: NO_STORE)


@dataclass(frozen=True, slots=True)
class FormSender:
    """Who sent a form. `operator`: with a token of ours, as gateways and operators have it; `authorization`: with one
    that is none of ours; `credentials`: what proves a key; `now` in seconds since 1970."""

    credentials: Credentials
    operator: Operator | None
    authorization: bool
    now: int

    @property
    def itself(self) -> Operator | None:
        """The operator, unless a gateway hands on, beside its token, what a client sent: that is the client's wish."""
        return self.operator if self.credentials.empty else None

    def operator_of(self, form: FormFields) -> Operator | None:
        """The same where a form came along: it has nothing of a client in it either. Raises TokenIssuanceError."""
        return self.itself if parse_client_credentials(form, False) == ClientCredentials() else None


@dataclass(frozen=True, slots=True)
class TokenServiceContext:
    """Where what was issued ends. `issuing` None: no tokens of our own are issued, and operators alone are served.
    `issuers` are those of the policy, by name; `log` is where it goes on record."""

    identity: CredentialAuthenticator
    issuers: Collection[str]
    issuing: TokenIssuer | None
    log: DecisionLog | None = None

    @property
    def here(self) -> CredentialAuthenticator:
        """Where what we issued is asked about and ended: for whichever of its audiences it is."""
        issuing, identity = self.issuing, self.identity
        if issuing is None:
            return identity
        return identity.apart(identity.parts.tokens.taking(issuing.name, issuing.audiences))


def parse_form(body: bytes) -> dict[str, list[str]]:
    """Raises TokenIssuanceError."""
    if len(body) > MAX_FORM_BYTES:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"the form is larger than {MAX_FORM_BYTES:,} bytes")
    try:
        text = body.decode("ascii")
        read = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "the body is no form") from None
    found: dict[str, list[str]] = {}
    for name, value in read:
        found.setdefault(name, []).append(value)
    return found


def oauth_error(error: TokenErrorCode, why: str) -> TokenServiceReply:
    return TokenServiceReply(
        STATUSES.get(error, 400), {"error": error.value, "error_description": error_description(why)}
    )


def error_description(why: str) -> str:
    """In the characters that RFC 6749 has for descriptions."""
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
    """A token, by a client that is in it, or anything by an operator."""
    revoking = TokenRevoker(desk.identity, None if desk.issuing is None else desk.issuing.name, desk.log)
    try:
        form = parse_form(body)
        by = sender.operator_of(form) or authenticate_client(desk, form, sender, "revoke")
        what = [name for name in ("token", *NAME_KINDS) if get_single(form, name) is not None]
        if len(what) != 1:
            raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"name one of {', '.join(('token', *NAME_KINDS))}")
        given = get_single(form, what[0]) or ""
        if what == ["token"]:
            if get_single(form, "for") is not None:
                raise TokenIssuanceError(
                    IssuanceRefusal.PARAMETERS, "a token is revoked for good: `for` goes with a name"
                )
            return ended_reply({}, revoking.token(check_token_text(given), by, sender.now))
        if isinstance(by, AuthenticatedClient):
            return oauth_error(TokenErrorCode.UNAUTHORIZED_CLIENT, "operators revoke that")
        name = revocation_name(what[0], given, desk.issuers, desk.identity.people)
        return ended_reply({}, revoking.named(what[0], given, name, parse_for_field(form), by, sender.now))
    except RevocationError as why:
        return not_ended_reply(why)
    except TokenIssuanceError as why:
        return log_not_issued(desk.identity, why)
    except StoreError:
        return log_not_issued(desk.identity, TokenIssuanceError(IssuanceRefusal.STORE))


def ended_reply(body: Mapping[str, object], came: RevocationResult) -> TokenServiceReply:
    """200 in any case: whoever reads something else takes it that the token holds still (RFC 7009, 2.2.1)."""
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
        found = parse_duration(given)
    except ValueError as error:
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, f"`for`: {error}") from None
    if not isinstance(found, timedelta) or found < timedelta(seconds=1):
        raise TokenIssuanceError(IssuanceRefusal.PARAMETERS, "`for` is a second at least")
    return int(found.total_seconds())


def authenticate_client(
    desk: TokenServiceContext, form: FormFields, sender: FormSender, endpoint: str
) -> AuthenticatedClient:
    """Raises TokenIssuanceError."""
    sent, issuing = parse_client_credentials(form, sender.authorization), desk.issuing
    if sender.authorization:
        raise TokenIssuanceError(IssuanceRefusal.CLIENT_METHOD, NO_OPERATOR)
    if issuing is None:
        raise TokenIssuanceError(IssuanceRefusal.NO_CLIENT, "an operator's token is needed, of `--token-file`")
    if sent == ClientCredentials():
        raise TokenIssuanceError(
            IssuanceRefusal.NO_CLIENT, NO_AUTHENTICATION if sender.operator is None else MIXED_AUTHENTICATION
        )
    return issuing.authenticated(sent, None, sender.credentials, endpoint_request(issuing, endpoint), sender.now)


def introspect(desk: TokenServiceContext, body: bytes, sender: FormSender) -> TokenServiceReply:
    """For gateways, operators and clients."""
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
    """A task ends: by an operator, whoever issued its tokens; or by an agent that acts in it, for tokens of that
    issuer and for the same user."""
    revoking, completed = TokenRevoker(desk.identity, log=desk.log), {"task": task, "state": "completed"}
    try:
        if not is_name(task):
            raise TokenIssuanceError(
                IssuanceRefusal.PARAMETERS, "a task has a name as tokens have it, with no blank around it"
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
    """Whose credential was refused: by a challenge, unless it may count in a moment."""
    if refused.refusal.value in TRANSIENT_REFUSALS:
        return oauth_error(TokenErrorCode.UNAVAILABLE, refused.why)
    headers = {**NO_STORE, **dict(challenge_for_refusal(refused.refusal, identity))}
    return TokenServiceReply(
        401, {"error": refused.refusal.error.value, "error_description": error_description(refused.why)}, headers
    )


# ── /attestation/nonce ────────────────────────────────────────────────────────────────────────


def issue_nonce(desk: TokenServiceContext, now: int) -> TokenServiceReply:
    """One that an attestation is to answer, once and soon: anybody may ask, as it proves nothing by itself."""
    issue = desk.identity.attestation_nonces
    if issue is None:
        return oauth_error(TokenErrorCode.UNAVAILABLE, "no attestations are verified here")
    given, expires = issue(now)
    return TokenServiceReply(
        200, {"nonce": given, "expires_at": datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")}
    )


# ── What everybody may know ───────────────────────────────────────────────────────────────────


def jwks_reply(issuing: TokenIssuer, now: int) -> TokenServiceReply:
    try:
        keys = issuing.keys.published(now)
    except IdentityError:
        return log_not_issued(issuing.identity, TokenIssuanceError(IssuanceRefusal.KEYS))
    return TokenServiceReply(200, {"keys": keys}, {"Cache-Control": f"public, max-age={JWKS_AGE}"})


def metadata_reply(issuing: TokenIssuer) -> TokenServiceReply:
    """RFC 8414."""
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

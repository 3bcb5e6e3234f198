"""The token endpoint and those beside it, as plain functions of what was sent: RFC 8693, 7009, 7662, 7517 and 8414."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl

from policyengine.engine.authenticate import PASSING
from policyengine.identity.audit_events import Operator
from policyengine.identity.authenticator import Identity
from policyengine.identity.challenges import challenge
from policyengine.identity.config.model import IdentityError, seconds
from policyengine.identity.issue.clients import Actor, Sent
from policyengine.identity.issue.errors import NotIssued, TokenError, Unissued, tell
from policyengine.identity.issue.issuer import Issuing
from policyengine.identity.issue.request import GRANT, asked_of, one, sent_of
from policyengine.identity.revocation import RETRY_AFTER, Ended, NotEnded, Revoking
from policyengine.identity.revocation_names import NAMED, is_name, name_of, token_of
from policyengine.identity.verified import Request
from policyengine.runtime.credential_errors import Refused
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

LARGEST_FORM = 131_072  # bytes
MOST_FIELDS = 100
FORM_TYPE = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store"}
JWKS_AGE = 60  # seconds, well within `ahead` of keys that rotate
UNRECORDED = "it has ended, and that could not be put on record: the operator's log says why"
STATUSES = {TokenError.INVALID_CLIENT: 401, TokenError.UNAVAILABLE: 503}

NO_OPERATOR = "`Authorization` holds no token of `--token-file`, and secrets of clients are not taken there"
NOBODY = "neither an operator's token, of `--token-file`, nor what a client proves itself by was sent"
NO_OPERATOR_ITSELF = "a client's key or certificate came along: operators send none"
NOBODY_OF_THE_TASK = "neither an operator's token, of `--token-file`, nor that of an agent of the task was sent"

Form: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=lambda: NO_STORE)


@dataclass(frozen=True, slots=True)
class Sender:
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

    def operator_of(self, form: Form) -> Operator | None:
        """The same where a form came along: it has nothing of a client in it either. Raises NotIssued."""
        return self.itself if sent_of(form, False) == Sent() else None


@dataclass(frozen=True, slots=True)
class Desk:
    """Where what was issued ends. `issuing` None: no tokens of our own are issued, and operators alone are served.
    `issuers` are those of the policy, by name; `log` is where it goes on record."""

    identity: Identity
    issuers: Collection[str]
    issuing: Issuing | None
    log: DecisionLog | None = None

    @property
    def here(self) -> Identity:
        """Where what we issued is asked about and ended: for whichever of its audiences it is."""
        issuing, identity = self.issuing, self.identity
        if issuing is None:
            return identity
        return identity.apart(identity.parts.tokens.taking(issuing.name, issuing.audiences))


def form_of(body: bytes) -> dict[str, list[str]]:
    """Raises NotIssued."""
    if len(body) > LARGEST_FORM:
        raise NotIssued(Unissued.PARAMETERS, f"the form is larger than {LARGEST_FORM:,} bytes")
    try:
        text = body.decode("ascii")
        read = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise NotIssued(Unissued.PARAMETERS, "the body is no form") from None
    found: dict[str, list[str]] = {}
    for name, value in read:
        found.setdefault(name, []).append(value)
    return found


def refusal(error: TokenError, why: str) -> Reply:
    return Reply(STATUSES.get(error, 400), {"error": error.value, "error_description": told(why)})


def told(why: str) -> str:
    """In the characters that RFC 6749 has for descriptions."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "'" for one in why)


def not_issued(identity: Identity, why: NotIssued) -> Reply:
    tell(identity, why)
    return told_not_issued(identity, why)


def told_not_issued(identity: Identity, why: NotIssued) -> Reply:
    reply = refusal(why.error, why.why)
    nonce = identity.nonce() if why.error is TokenError.USE_DPOP_NONCE else None
    return reply if nonce is None else replace(reply, headers={**NO_STORE, "DPoP-Nonce": nonce})


# ── /token ────────────────────────────────────────────────────────────────────────────────────


def token(issuing: Issuing, body: bytes, sender: Sender) -> Reply:
    try:
        asked = asked_of(form_of(body), authorization=sender.authorization)
    except NotIssued as why:
        return not_issued(issuing.identity, why)
    try:
        issued = issuing.exchange(asked, sender.credentials, at(issuing, "token"), sender.now)
    except NotIssued as why:
        return told_not_issued(issuing.identity, why)
    return Reply(200, issued.to_dict())


def at(issuing: Issuing, endpoint: str) -> Request:
    return Request("POST", f"{base(issuing)}/{endpoint}")


def base(issuing: Issuing) -> str:
    return str(issuing.us.url).rstrip("/")


# ── /revoke, /introspect, /tasks/{id}/complete ────────────────────────────────────────────────


def revoke(desk: Desk, body: bytes, sender: Sender) -> Reply:
    """A token, by a client that is in it, or anything by an operator."""
    revoking = Revoking(desk.identity, None if desk.issuing is None else desk.issuing.name, desk.log)
    try:
        form = form_of(body)
        by = sender.operator_of(form) or authenticated(desk, form, sender, "revoke")
        what = [name for name in ("token", *NAMED) if one(form, name) is not None]
        if len(what) != 1:
            raise NotIssued(Unissued.PARAMETERS, f"name one of {', '.join(('token', *NAMED))}")
        given = one(form, what[0]) or ""
        if what == ["token"]:
            if one(form, "for") is not None:
                raise NotIssued(Unissued.PARAMETERS, "a token is revoked for good: `for` goes with a name")
            return ended({}, revoking.token(token_of(given), by, sender.now))
        if isinstance(by, Actor):
            return refusal(TokenError.UNAUTHORIZED_CLIENT, "operators revoke that")
        name = name_of(what[0], given, desk.issuers, desk.identity.people)
        return ended({}, revoking.named(what[0], given, name, lasting(form), by, sender.now))
    except NotEnded as why:
        return not_ended(why)
    except NotIssued as why:
        return not_issued(desk.identity, why)
    except StoreError:
        return not_issued(desk.identity, NotIssued(Unissued.STORE))


def ended(body: Mapping[str, object], came: Ended) -> Reply:
    """200 in any case: whoever reads something else takes it that the token holds still (RFC 7009, 2.2.1)."""
    known = {} if came.verified else {"verified": False}
    return Reply(200, {**body, **known, **({} if came.recorded else {"recorded": False, "warning": UNRECORDED})})


def not_ended(why: NotEnded) -> Reply:
    found = refusal(why.error, why.why)
    return found if not why.later else replace(found, headers={**NO_STORE, "Retry-After": str(RETRY_AFTER)})


def lasting(form: Form) -> int | None:
    given = one(form, "for")
    if given is None:
        return None
    try:
        found = seconds(given)
    except ValueError as error:
        raise NotIssued(Unissued.PARAMETERS, f"`for`: {error}") from None
    if not isinstance(found, timedelta) or found < timedelta(seconds=1):
        raise NotIssued(Unissued.PARAMETERS, "`for` is a second at least")
    return int(found.total_seconds())


def authenticated(desk: Desk, form: Form, sender: Sender, endpoint: str) -> Actor:
    """Raises NotIssued."""
    sent, issuing = sent_of(form, sender.authorization), desk.issuing
    if sender.authorization:
        raise NotIssued(Unissued.CLIENT_METHOD, NO_OPERATOR)
    if issuing is None:
        raise NotIssued(Unissued.NO_CLIENT, "an operator's token is needed, of `--token-file`")
    if sent == Sent():
        raise NotIssued(Unissued.NO_CLIENT, NOBODY if sender.operator is None else NO_OPERATOR_ITSELF)
    return issuing.authenticated(sent, None, sender.credentials, at(issuing, endpoint), sender.now)


def introspect(desk: Desk, body: bytes, sender: Sender) -> Reply:
    """For gateways, operators and clients."""
    try:
        form = form_of(body)
        if sender.operator_of(form) is None:
            authenticated(desk, form, sender, "introspect")
        raw = one(form, "token")
        if raw is None:
            raise NotIssued(Unissued.PARAMETERS, "`token` is missing")
        return Reply(200, Revoking(desk.here).introspected(raw, sender.now))
    except NotIssued as why:
        return not_issued(desk.identity, why)
    except StoreError:
        return not_issued(desk.identity, NotIssued(Unissued.STORE))


def complete(desk: Desk, task: str, sender: Sender) -> Reply:
    """A task ends: by an operator, whoever issued its tokens; or by an agent that acts in it, for tokens of that
    issuer and for the same user."""
    revoking, completed = Revoking(desk.identity, log=desk.log), {"task": task, "state": "completed"}
    try:
        if not is_name(task):
            raise NotIssued(Unissued.PARAMETERS, "a task has a name as tokens have it, with no blank around it")
        if sender.itself is not None:
            return ended(completed, revoking.task(task, desk.issuers, sender.itself, sender.now))
        issuing = desk.issuing
        if sender.credentials.authorization is None or issuing is None:
            raise NotIssued(Unissued.NO_CLIENT, NOBODY_OF_THE_TASK)
        proved = desk.here.prove(sender.credentials, Request("POST", sender.credentials.url), sender.now)
        return ended(completed, revoking.own_task(task, proved, sender.now))
    except NotEnded as why:
        return not_ended(why)
    except Refused as refused:
        return turned_away(desk.identity, refused)
    except NotIssued as why:
        return not_issued(desk.identity, why)
    except StoreError:
        return not_issued(desk.identity, NotIssued(Unissued.STORE))


def turned_away(identity: Identity, refused: Refused) -> Reply:
    """Whose credential was refused: by a challenge, unless it may count in a moment."""
    if refused.refusal.value in PASSING:
        return refusal(TokenError.UNAVAILABLE, refused.why)
    headers = {**NO_STORE, **dict(challenge(refused.refusal, identity))}
    return Reply(401, {"error": refused.refusal.error.value, "error_description": told(refused.why)}, headers)


# ── /attestation/nonce ────────────────────────────────────────────────────────────────────────


def nonce(desk: Desk, now: int) -> Reply:
    """One that an attestation is to answer, once and soon: anybody may ask, as it proves nothing by itself."""
    issue = desk.identity.attestation_nonces
    if issue is None:
        return refusal(TokenError.UNAVAILABLE, "no attestations are verified here")
    given, expires = issue(now)
    return Reply(
        200, {"nonce": given, "expires_at": datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")}
    )


# ── What everybody may know ───────────────────────────────────────────────────────────────────


def jwks(issuing: Issuing, now: int) -> Reply:
    try:
        keys = issuing.keys.published(now)
    except IdentityError:
        return not_issued(issuing.identity, NotIssued(Unissued.KEYS))
    return Reply(200, {"keys": keys}, {"Cache-Control": f"public, max-age={JWKS_AGE}"})


def metadata(issuing: Issuing) -> Reply:
    """RFC 8414."""
    try:
        url, us = base(issuing), issuing.us
    except NotIssued as why:
        return not_issued(issuing.identity, why)
    algorithms = ["ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"]
    methods = ["private_key_jwt", "self_signed_tls_client_auth"]
    found: dict[str, object] = {
        "issuer": us.url,
        "token_endpoint": f"{url}/token",
        "jwks_uri": f"{url}/jwks",
        "revocation_endpoint": f"{url}/revoke",
        "introspection_endpoint": f"{url}/introspect",
        "grant_types_supported": [GRANT],
        "response_types_supported": [],
        "scopes_supported": sorted(issuing.handing().endpoints),
        "dpop_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": True,
    }
    for endpoint in ("token", "revocation", "introspection"):
        found[f"{endpoint}_endpoint_auth_methods_supported"] = methods
        found[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = algorithms
    return Reply(200, found, {"Cache-Control": f"public, max-age={JWKS_AGE}"})

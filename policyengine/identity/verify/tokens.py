"""Verifies tokens: their issuer, their signature, and whether they are valid now and for this server."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Protocol

from policyengine.identity.config.model import IdentityConfig, IssuerSettings
from policyengine.identity.keys.jwks import KeySource
from policyengine.identity.verified import SingleUse, VerifiedToken
from policyengine.identity.verify.claims import Claims, parse_trust_domain, text_claim, text_or_list_claim, time_claim
from policyengine.identity.verify.jws import MAX_TOKEN_LENGTH, Jws, check_signature, normalize_type, read_jws
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

SPIFFE = "spiffe://"
ACCESS, TRANSACTION, ID_JAG, ID_TOKEN = "at+jwt", "txntoken+jwt", "oauth-id-jag+jwt", "id_token"
KINDS: Mapping[str, str] = {TRANSACTION: "txn_token", ID_JAG: "id_jag"}  # kinds by type; other types are `jwt`
WORKLOAD_TYPES = frozenset({"jwt", "jose"})
# Claims that only ID tokens have, and values by which servers that use one `typ` for several kinds state the kind.
ID_TOKEN_CLAIMS = ("nonce", "at_hash", "c_hash", "s_hash")
TOKEN_USES = {"access": False, "bearer": False, "dpop": False, "at+jwt": False, "id": True}
# Required claims by kind; in addition `iss`, except for workloads.
REQUIRED_CLAIMS: Mapping[str, tuple[str, ...]] = {
    "jwt": ("aud", "exp"),
    ACCESS: ("aud", "exp", "sub", "client_id", "iat", "jti"),
    "spiffe": ("sub", "aud", "exp"),
    "txn_token": ("aud", "exp", "iat", "txn", "sub", "req_wl"),
    "id_jag": ("aud", "exp", "iat", "sub", "client_id", "jti"),
}


class TokenIntrospector(Protocol):
    def introspect(self, raw: str, now: int) -> VerifiedToken:
        """Return the issuer's statement about an opaque token, as a token of kind `opaque`. May wait. Raises
        CredentialError.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer of the policy. `audience` is the required audience of its tokens; `ours` is also accepted as the
    audience of ID-JAGs.
    """

    name: str
    audience: str | None
    ours: str | None
    settings: IssuerSettings
    keys: KeySource
    domain: str | None = None  # SPIFFE trust domain
    others: frozenset[str] = frozenset()  # further accepted audiences

    @property
    def types(self) -> frozenset[str]:
        return frozenset(map(normalize_type, self.settings.types))


@dataclass(frozen=True)
class TokenVerifier:
    """The verifier of tokens. `issuers` is keyed by the exact text of `iss`; `leeway` is the tolerated clock difference
    to issuers, in seconds.
    """

    issuers: Mapping[str, TrustedIssuer]
    introspection: TokenIntrospector | None = None
    leeway: int = 30
    _types: dict[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_types", {url: one.types for url, one in self.issuers.items()})

    def verify(self, raw: str, now: int) -> VerifiedToken:
        """Verify a token of `Authorization`: a JWT, or an opaque token by introspection. Raises CredentialError."""
        if len(raw) > MAX_TOKEN_LENGTH:
            raise CredentialError(RefusalCode.TOO_LARGE)
        if is_signed(raw):
            return self._verify(raw, now, transaction=False)
        if self.introspection is None:
            raise CredentialError(RefusalCode.NOT_A_TOKEN)
        return self.introspection.introspect(raw, now)

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        """Verify a transaction token. Raises CredentialError."""
        return self._verify(raw, now, transaction=True)

    def taking(self, issuer: str, audiences: Collection[str]) -> TokenVerifier:
        """Return a copy that accepts tokens of this issuer for any of these audiences."""
        others = frozenset(audiences)
        known = {url: replace(one, others=others) if one.name == issuer else one for url, one in self.issuers.items()}
        return replace(self, issuers=known)

    def authentic(self, raw: str, now: int) -> VerifiedToken:
        """Verify only that the issuer signed the token, or reports it as active, whatever its kind, audience and
        expiry. Use up nothing. Raises CredentialError."""
        if not is_signed(raw):
            return self.verify(raw, now)
        jws = read_jws(raw)
        trusted = self._find_trusted(jws)[1]
        check_signature(jws, trusted.keys.find(jws.kid, jws.alg, now), trusted.settings.algorithms)
        kind = "spiffe" if trusted.domain is not None else KINDS.get(jws.type or "jwt", "jwt")
        return build_signed_token(raw, jws, kind, trusted.name, now)

    def _find_trusted(self, jws: Jws) -> tuple[str, TrustedIssuer]:
        """Return the URL and issuer that the unverified token names. Raises CredentialError if it is not trusted."""
        url = unverified_issuer(jws.claims)
        trusted = self.issuers.get(url)
        if trusted is None:
            raise CredentialError(RefusalCode.TRUST_DOMAIN if url.startswith(SPIFFE) else RefusalCode.UNKNOWN_ISSUER)
        return url, trusted

    def _verify(self, raw: str, now: int, *, transaction: bool) -> VerifiedToken:
        jws = read_jws(raw)
        url, trusted = self._find_trusted(jws)
        allowed = trusted.settings.algorithms
        if jws.alg not in allowed:
            raise CredentialError(RefusalCode.ALGORITHM)
        kind = credential_kind(jws, trusted, self._types[url], transaction)
        check_signature(jws, trusted.keys.find(jws.kid, jws.alg, now), allowed)
        return self._token(raw, jws, trusted, kind, now)

    def _token(self, raw: str, jws: Jws, trusted: TrustedIssuer, kind: str, now: int) -> VerifiedToken:
        """Check the claims of a token with a valid signature. Raises CredentialError."""
        check_required(jws.claims, ACCESS if jws.type == ACCESS else kind)
        check_audience(jws.claims, trusted, kind)
        if trusted.domain is not None and parse_trust_domain(str(jws.claims["sub"])) != trusted.domain:
            raise CredentialError(RefusalCode.TRUST_DOMAIN)
        claims, ends = check_validity(jws.claims, now, self.leeway)
        return VerifiedToken(
            kind,
            trusted.name,
            claims,
            jws.header,
            sha256(raw.encode("ascii")).digest(),
            ends,
            signed=sha256(jws.signed).digest(),
            single_use=self._single_use(trusted, claims, ends) if kind == "id_jag" else None,
            late=claims["exp"] != jws.claims["exp"],
        )

    def _single_use(self, trusted: TrustedIssuer, claims: Claims, ends: int) -> SingleUse:
        """Return the replay mark. It is kept one second longer than the token is valid, because times are truncated to
        seconds.
        """
        return SingleUse(f"id_jag:{trusted.name}/{claims['jti']}", ends + self.leeway + 1)


def trusted_issuers(
    issuers: Mapping[str, Issuer], configuration: IdentityConfig, keys: Mapping[str, KeySource]
) -> dict[str, TrustedIssuer]:
    """Return the issuers with an entry in `keys` (by name), by URL. A URL that two issuers share identifies neither."""
    having = [one for one in issuers.values() if one.url is not None and one.name in keys]
    urls = [one.url for one in having]
    return {
        str(one.url): TrustedIssuer(
            one.name,
            one.audience,
            configuration.identity.url,
            configuration.issuers.get(one.name, IssuerSettings()),
            keys[one.name],
            domain=str(one.url).removeprefix(SPIFFE) if str(one.url).startswith(SPIFFE) else None,
        )
        for one in having
        if urls.count(one.url) == 1
    }


# ── Issuer and kind ───────────────────────────────────────────────────────────────────────────


def unverified_issuer(claims: Claims) -> str:
    """Return the issuer that the unverified token names; for a workload without `iss`, that is its trust domain. Raises
    CredentialError."""
    issuer = text_claim(claims, "iss")
    if issuer is not None:
        return issuer
    subject = claims.get("sub")
    if isinstance(subject, str) and subject.startswith(SPIFFE):
        return f"{SPIFFE}{parse_trust_domain(subject)}"
    raise CredentialError(RefusalCode.MISSING_CLAIM, "the claim `iss` is missing")


def is_signed(raw: str) -> bool:
    """Return whether the token has the form of a JWS (`{` in base64url begins with `e`); otherwise it is opaque."""
    return raw.startswith("e") and raw.count(".") >= 2


def build_signed_token(raw: str, jws: Jws, kind: str, issuer: str, now: int) -> VerifiedToken:
    """Return the VerifiedToken of a token with a valid signature, before its claims are checked."""
    digest, signed = sha256(raw.encode("ascii")).digest(), sha256(jws.signed).digest()
    return VerifiedToken(kind, issuer, jws.claims, jws.header, digest, now, signed=signed)


def credential_kind(jws: Jws, trusted: TrustedIssuer, types: frozenset[str], transaction: bool) -> str:
    """Return the value of `credential.kind`. Raises CredentialError for a type that is not accepted here."""
    type_ = jws.type or "jwt"
    if transaction or type_ == TRANSACTION:
        if not (transaction and type_ == TRANSACTION):
            raise CredentialError(RefusalCode.TOKEN_TYPE)
        return "txn_token"
    if trusted.domain is not None:
        if type_ not in WORKLOAD_TYPES:
            raise CredentialError(RefusalCode.TOKEN_TYPE)
        return "spiffe"
    if type_ not in types:
        raise CredentialError(RefusalCode.TOKEN_TYPE)
    if type_ == ID_JAG:
        return "id_jag"
    if is_id_token(jws.claims, type_) and ID_TOKEN not in types:
        raise CredentialError(
            RefusalCode.TOKEN_TYPE, "the token is an ID token, which is only for the client that requested it"
        )
    return "jwt"


def is_id_token(claims: Claims, type_: str) -> bool:
    """Return whether the token is an ID token. Raises CredentialError if it states another kind."""
    used = [claims[name] for name in ("typ", "token_use") if name in claims]
    if "events" in claims or any(not isinstance(one, str) or one.lower() not in TOKEN_USES for one in used):
        raise CredentialError(RefusalCode.TOKEN_TYPE)
    if any(TOKEN_USES[str(one).lower()] for one in used):
        return True
    return type_ != ACCESS and any(name in claims for name in ID_TOKEN_CLAIMS)


# ── Claims ────────────────────────────────────────────────────────────────────────────────────


def check_required(claims: Claims, kind: str) -> None:
    for name in REQUIRED_CLAIMS[kind]:
        if name not in claims:
            raise CredentialError(RefusalCode.MISSING_CLAIM, f"the claim `{name}` is missing")
    for name in ("sub", "jti", "txn", "client_id"):
        text_claim(claims, name)


def check_audience(claims: Claims, trusted: TrustedIssuer, kind: str) -> None:
    """Check that the token is for this server, possibly among others (RFC 9068); an ID-JAG must be for it alone. Raises
    CredentialError."""
    for_whom = text_or_list_claim(claims, "aud") or ()
    wanted = (trusted.audience, trusted.ours if kind == "id_jag" else None)
    if wanted == (None, None) and not trusted.others:
        raise CredentialError(RefusalCode.AUDIENCE, "the policy does not set `audience` of its issuer")
    if not any(one in wanted or one in trusted.others for one in for_whom):
        raise CredentialError(RefusalCode.AUDIENCE)
    if kind != "id_jag":
        return
    resources = text_or_list_claim(claims, "resource")
    if len(for_whom) > 1 or (resources is not None and trusted.audience not in resources):
        raise CredentialError(RefusalCode.AUDIENCE)


def check_validity(claims: Claims, now: int, leeway: int) -> tuple[dict[str, object], int]:
    """Return the claims and the expiry of a token that is valid now. Times are in seconds since 1970, and `leeway` is
    in seconds. Raises CredentialError.

    Clocks may differ by the leeway: a token issued slightly in the future is treated as issued now, and a token that
    expired slightly in the past expires with the leeway.
    """
    ends, begins, issued = (time_claim(claims, name) for name in ("exp", "nbf", "iat"))
    assert ends is not None  # `exp` is required
    if ends + leeway <= now:
        raise CredentialError(RefusalCode.EXPIRED)
    if begins is not None and begins > now + leeway:
        raise CredentialError(RefusalCode.NOT_YET)
    if issued is not None and issued > now + leeway:
        raise CredentialError(RefusalCode.ISSUED_LATER)
    if any(start is not None and start >= ends for start in (begins, issued)):
        raise CredentialError(RefusalCode.CONTRADICTION, "the token expires before it becomes valid")
    moved: dict[str, object] = dict(claims)
    if issued is not None and issued > now:
        moved["iat"] = now
    if ends <= now:
        moved["exp"] = ends = ends + leeway
    return moved, int(ends)

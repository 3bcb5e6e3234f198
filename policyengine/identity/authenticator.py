"""The entry point of identity: turns credentials into proved facts, and caches facts that were already proved."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from threading import Lock
from typing import TypeAlias, TypeVar

from policyengine.identity.credential_checks import CredentialChecks, OwnIssuer, TokenCheck
from policyengine.identity.facts import (
    build_facts,
    fingerprint,
    own_task_name,
    presenter_name,
    revocable_names,
    revocable_raw_names,
    watched_names,
)
from policyengine.identity.quotas import ClientQuotas
from policyengine.identity.shared_credentials import SharingDetector
from policyengine.identity.verified import (
    PRINCIPAL_MEMBERS,
    PROVABLE_MEMBERS,
    REQUEST_FACT_PREFIXES,
    ConfirmedKey,
    ProofContext,
    SingleUse,
    TokenPrincipal,
    VerifiedCredential,
    VerifiedToken,
)
from policyengine.kernel import Kernel
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import CredentialMarks

MAX_CACHED_CREDENTIALS = 100_000  # maximum number of proved credentials, cached by digest
# Maximum number of expired entries that each new entry evicts, which limits the work of one request.
EVICTIONS_PER_INSERT = 2
RECHECK_SECONDS = 300  # seconds after which a token is verified again, because issuers withdraw keys
MAX_CERTIFICATE_LENGTH = 1_024  # characters; a longer certificate, which is not secret, is cached by its digest
NO_TOKEN = b""
STRINGS = frozenset({str})
CertificateKey: TypeAlias = str | bytes | None  # a digest if the certificate is long
# The digest of the token, and the certificate sent with it.
CredentialCacheKey: TypeAlias = bytes | tuple[bytes, CertificateKey]
T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class CredentialCacheEntry:
    """A credential that was proved together with this certificate; at revocation version `version`, it was
    not revoked.
    """

    proved: VerifiedCredential
    certificate: CertificateKey
    version: int


@dataclass
class CredentialAuthenticator:
    """The authenticator of credentials; safe to share between threads. With `only_proved`, facts about the agent and
    user that a gateway supplies are ignored. `counts` holds the numbers of refusals by code, and the number of accepted
    credentials under `proved`.
    """

    parts: CredentialChecks
    marks: CredentialMarks
    mapped: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by issuer: the claims that the policy uses
    only_proved: bool = False
    of_who: frozenset[str] = frozenset({"agent", "user"})  # types of entities that describe the agent or the user
    people: Mapping[str, Collection[str]] = field(default_factory=dict)  # by issuer: clients that are not agents
    nonces: Callable[[], str] | None = None  # nonces for DPoP, if proofs need them
    attestation_nonces: Callable[[int], tuple[str, int]] | None = None  # returns a nonce with its expiry
    # Builds the authenticator for new policies.
    again: Callable[[Kernel, CredentialAuthenticator], CredentialAuthenticator] | None = None
    sharing: SharingDetector | None = None
    issuing: object | None = None  # a `TokenIssuer`, if this server issues tokens
    own: OwnIssuer | None = None  # set if this server issues tokens
    telling: LogThrottle = field(default_factory=LogThrottle)
    endings: ClientQuotas = field(default_factory=ClientQuotas)  # recent revocations by client
    most_kept: int = MAX_CACHED_CREDENTIALS
    counts: Counter[str] = field(default_factory=Counter)
    _kept: OrderedDict[CredentialCacheKey, CredentialCacheEntry] = field(default_factory=OrderedDict, repr=False)
    _tokens: OrderedDict[bytes, VerifiedToken] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def successor(self, kernel: Kernel) -> CredentialAuthenticator:
        """Return the authenticator for the issuers and attesters of new policies, with the keys that are already
        loaded. Raises IdentityConfigError."""
        return self if self.again is None else self.again(kernel, self)

    def apart(self, tokens: TokenCheck) -> CredentialAuthenticator:
        """Return a copy that verifies tokens with `tokens` and shares no cache with the original."""
        parts = replace(self.parts, tokens=tokens)
        return replace(self, parts=parts, most_kept=0, _kept=OrderedDict(), _tokens=OrderedDict())

    def nonce(self) -> str | None:
        """Return a nonce for the next DPoP proof; None if proofs need no nonce."""
        return None if self.nonces is None else self.nonces()

    def at_once(self, question: dict[str, object], now: int) -> dict[str, object] | None:
        """Return the question with its credentials replaced with the facts that they have already proved (see `known`).
        Return None if the slow path is needed, for example because the question itself states facts about the agent or
        user."""
        if not has_plain_names(question):
            return None
        found = self.known(question.get("credentials"), now)
        if found is None:
            return None
        # With two members, the other member is the endpoint; a question without an endpoint is malformed in any case.
        if len(question) != 2 and not question.keys().isdisjoint(
            PROVABLE_MEMBERS if self.only_proved else PRINCIPAL_MEMBERS
        ):
            return None
        if "pending" in question and not concerns_request_only(question["pending"]):
            return None
        if self.sharing is not None:
            request = question.get("request")
            found = self.sharing.told(found, request.get("ip") if type(request) is dict else None, now)
        kept = question | found.facts
        del kept["credentials"]
        return kept

    def known(self, raw: object, now: int, *, asks: bool = False) -> VerifiedCredential | None:
        """Return the facts that these credentials proved for an earlier request, if they have not expired and nothing
        has since been revoked. Does not block.

        Return None if the credentials must be verified again, or if the store must be asked about revocation; with
        `asks`, the caller checks revocation itself. `raw` is the member `credentials` of a question.
        """
        marks = self.marks
        if type(raw) is not dict or (marks.remote and not asks) or not has_plain_names(raw):
            return None
        token, certificate = raw.get("authorization"), None
        if token is None or len(raw) != 1:
            certificate = raw.get("client_certificate")
            if len(raw) != (1 if token is None else 2) or type(certificate) is not str:
                return None
            if len(certificate) > MAX_CERTIFICATE_LENGTH:
                certificate = digest_text(certificate)
        if token is None:
            digest = NO_TOKEN
        elif type(token) is str and token.isascii():
            digest = sha256(token.encode()).digest()
        else:
            return None
        found = self._kept.get(digest)  # most tokens come with one certificate: comparing it is faster than hashing it
        if found is None or found.certificate != certificate:
            found = self._kept.get((digest, certificate))
        if found is None or found.proved.expires <= now:
            return None
        proved, own = found.proved, self.own
        if proved.own_key is not None and (own is None or not own.has(proved.own_key, now)):
            return None
        try:
            return proved if asks or marks.version == found.version else None
        except StoreError:
            return None  # `prove` reports the error

    def known_of(self, credentials: Credentials, now: int, *, asks: bool = False) -> VerifiedCredential | None:
        """Return the same as `known`, for parsed credentials."""
        return self.known(reusable_members(credentials), now, asks=asks) if is_reusable(credentials) else None

    def prove(self, credentials: Credentials, request: ProofContext, now: int) -> VerifiedCredential:
        """Verify credentials and return the facts that they prove. Raises CredentialError. May wait for an issuer or a
        store, for a bounded time."""
        before = self.known_of(credentials, now)
        if before is not None:
            return self.used(before, request.ip, now)
        try:
            version = self.marks.version  # read before every check, so that a concurrent revocation counts
            found = self.known_of(credentials, now, asks=True) or self._prove(credentials, request, now)
            if self.marks.revoked(found.names, now):
                raise CredentialError(RefusalCode.REVOKED)
            self.use(found.single_use, now)
            if found.reusable:
                self._keep(credentials, found, version, now)
        except CredentialError as refused:
            self.count(refused.refusal.value)
            raise
        except StoreError as error:
            self.count(RefusalCode.STORE.value)
            told = f"a credential was refused because the store does not answer: {error}"
            self.telling.tell(logging.WARNING, "store", told)
            raise CredentialError(RefusalCode.STORE) from None
        self.count("proved")
        return self.used(found, request.ip, now)

    def use(self, single: SingleUse | None, now: int) -> None:
        """Use up a credential that is accepted only once. This is the last check, so that a thief whose request fails
        another check cannot use up the credential. Raises CredentialError, StoreError.
        """
        if single is not None and not self.marks.once(single.name, single.until, now):
            raise CredentialError(RefusalCode.REPLAYED)

    def used(self, found: VerifiedCredential, ip: object, now: int) -> VerifiedCredential:
        """Return the credential for a request from this address, with the fact that says whether the credential is
        shared.
        """
        return found if self.sharing is None else self.sharing.told(found, ip, now)

    # ── Verifying one credential ──────────────────────────────────────────────────────────────

    def _prove(self, credentials: Credentials, request: ProofContext, now: int) -> VerifiedCredential:
        token, who, binding = self._verify_only_credential(credentials, request, now)
        attestation, names = None, revocable_names(token, who, binding)
        if credentials.attestation is not None:
            if self.parts.attests is None:
                raise CredentialError(RefusalCode.ATTESTER)
            attestation = self.parts.attests(credentials.attestation, token, binding, now)
            names |= revocable_raw_names(credentials.attestation)
        facts = build_facts(token, who, binding, attestation, self.mapped.get(token.issuer, frozenset()))
        if self.sharing is not None:
            facts["credential"]["shared"] = False
        return VerifiedCredential(
            facts,
            token.expires if binding.until is None else min(token.expires, binding.until),
            names,
            fingerprint(token.digest),
            reusable=is_reusable(credentials) and token.single_use is None,
            watched=watched_names(token, binding),
            presenter=presenter_name(token, who),
            own_key=self._own_key(token),
            single_use=token.single_use,
            own_task=own_task_name(token, who),
        )

    def _verify_only_credential(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey]:
        """Verify the only credential that identifies the agent and user. Raises CredentialError if there is none or
        more than one.
        """
        if sum(one is not None for one in (credentials.authorization, credentials.txn_token, credentials.api_key)) > 1:
            raise CredentialError(RefusalCode.TWO_CREDENTIALS)
        if credentials.authorization is not None:
            token = self._token(*parse_authorization(credentials.authorization), now)
        elif credentials.txn_token is not None:
            token = self.parts.tokens.verify_txn(credentials.txn_token, now)
        else:
            found = self.parts.presents(credentials, request, now)
            if found is None:
                raise CredentialError(RefusalCode.NO_SCHEME, "the request has no credential")
            return found
        return token, self.parts.reads(token), self.parts.binds(credentials, request, token, now)

    def _token(self, scheme: str, raw: str, now: int) -> VerifiedToken:
        """Verify a token, or return it from the cache: a token that comes with proofs stays the same while the proofs
        change. A cached token is verified again after a while, in case its issuer has withdrawn the key; this server's
        own keys are checked each time. Raises CredentialError.
        """
        digest = sha256(raw.encode()).digest()
        known = self._tokens.get(digest)
        if known is None or known.expires <= now or not self._stands(known, now):
            known = self.parts.tokens.verify(raw, now)
            known = replace(known, expires=min(known.expires, now + RECHECK_SECONDS))
            if known.single_use is None:
                self._remember(digest, known, now)
        if scheme == "dpop" and "cnf" not in known.claims:
            raise CredentialError(RefusalCode.NOT_BOUND)
        return known

    def _own_key(self, token: VerifiedToken) -> str | None:
        """Return the id of this server's key that signed the token, or None if another issuer signed it."""
        return str(token.header.get("kid")) if self.own is not None and token.issuer == self.own.issuer else None

    def _stands(self, token: VerifiedToken, now: int) -> bool:
        own, kid = self.own, self._own_key(token)
        return kid is None or (own is not None and own.has(kid, now))

    def _remember(self, digest: bytes, token: VerifiedToken, now: int) -> None:
        with self._lock:
            put_newest(self._tokens, digest, token, self.most_kept)
            drop_expired(self._tokens, lambda one: one.expires <= now)

    def _keep(self, credentials: Credentials, proved: VerifiedCredential, version: int, now: int) -> None:
        """Cache the credential by the token's digest, so that no secret is kept."""
        token, certificate = credentials.authorization, certificate_cache_key(credentials.client_certificate)
        digest = NO_TOKEN if token is None else digest_text(token)
        with self._lock:
            first = self._kept.get(digest)
            taken = first is not None and first.certificate != certificate
            key = (digest, certificate) if taken else digest
            put_newest(self._kept, key, CredentialCacheEntry(proved, certificate, version), self.most_kept)
            drop_expired(self._kept, lambda one: one.proved.expires <= now)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def put_newest(kept: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    """Insert the newest entry, and evict the oldest entries above `most`."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def drop_expired(kept: OrderedDict[K, T], ended: Callable[[T], bool]) -> None:
    """Evict at most EVICTIONS_PER_INSERT of the oldest entries, if they have expired."""
    for _ in range(EVICTIONS_PER_INSERT):
        if kept and ended(kept[next(iter(kept))]):
            kept.popitem(last=False)


def has_plain_names(members: dict[str, object]) -> bool:
    """Return whether all names are exactly `str`, because a subclass could claim to equal every other name."""
    return STRINGS.issuperset(map(type, members))


def certificate_cache_key(certificate: str | None) -> CertificateKey:
    return (
        certificate if certificate is None or len(certificate) <= MAX_CERTIFICATE_LENGTH else digest_text(certificate)
    )


def concerns_request_only(pending: object) -> bool:
    """Return whether no credential could prove any of the pending facts."""
    return type(pending) is list and all(type(one) is str and one.startswith(REQUEST_FACT_PREFIXES) for one in pending)


def digest_text(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def parse_authorization(authorization: str) -> tuple[str, str]:
    """Return the scheme in lower case and the token. Raises CredentialError."""
    scheme, _, raw = authorization.strip().partition(" ")
    if scheme.lower() not in ("bearer", "dpop") or not raw.strip():
        raise CredentialError(RefusalCode.NO_SCHEME)
    return scheme.lower(), raw.strip()


def reusable_members(credentials: Credentials) -> dict[str, object]:
    """Return those members of a question's `credentials` that can be proved once for many requests."""
    both = {"authorization": credentials.authorization, "client_certificate": credentials.client_certificate}
    return {name: value for name, value in both.items() if value is not None}


def is_reusable(credentials: Credentials) -> bool:
    """Return whether the credentials contain nothing that is valid for one request only."""
    return (
        credentials.dpop is None
        and credentials.signature is None
        and credentials.signature_input is None
        and credentials.attestation is None
        and credentials.txn_token is None
        and credentials.api_key is None
    )

"""The front of identity: credentials in, proved facts out, by way of what was proved before."""

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

MAX_CACHED_CREDENTIALS = 100_000  # credentials that were proved, by digest
EVICTIONS_PER_INSERT = 2  # that have ended, by each that is new: nobody waits for many
RECHECK_SECONDS = 300  # seconds: for so long what was verified stands, as issuers take keys back
MAX_CERTIFICATE_LENGTH = 1_024  # characters of a certificate that is kept as it is, as it is no secret
NO_TOKEN = b""
STRINGS = frozenset({str})
CertificateKey: TypeAlias = str | bytes | None  # of a long one a digest
CredentialCacheKey: TypeAlias = bytes | tuple[bytes, CertificateKey]  # digest of a token, and what came beside it
T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class CredentialCacheEntry:
    """What was proved with this certificate, and the version of all revocations by which none was of it."""

    proved: VerifiedCredential
    certificate: CertificateKey
    version: int


@dataclass
class CredentialAuthenticator:
    """Threads may share one. With `only_proved` what a gateway says of who asks counts for nothing. `counts` are
    refusals by code, and `proved` what was verified."""

    parts: CredentialChecks
    marks: CredentialMarks
    mapped: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by issuer, the claims that its policy asks for
    only_proved: bool = False
    of_who: frozenset[str] = frozenset({"agent", "user"})  # types of entities whose rows speak of who asks
    people: Mapping[str, Collection[str]] = field(default_factory=dict)  # by issuer, clients that are no agents
    nonces: Callable[[], str] | None = None  # for proofs, where they need one
    attestation_nonces: Callable[[int], tuple[str, int]] | None = None  # one, and when it ends
    again: Callable[[Kernel, CredentialAuthenticator], CredentialAuthenticator] | None = None  # for other policies
    sharing: SharingDetector | None = None
    issuing: object | None = None  # a `TokenIssuer`, where tokens of our own are issued
    own: OwnIssuer | None = None  # likewise
    telling: LogThrottle = field(default_factory=LogThrottle)
    endings: ClientQuotas = field(default_factory=ClientQuotas)  # what each client has ended lately
    most_kept: int = MAX_CACHED_CREDENTIALS
    counts: Counter[str] = field(default_factory=Counter)
    _kept: OrderedDict[CredentialCacheKey, CredentialCacheEntry] = field(default_factory=OrderedDict, repr=False)
    _tokens: OrderedDict[bytes, VerifiedToken] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def successor(self, kernel: Kernel) -> CredentialAuthenticator:
        """For the issuers and attesters of other policies, with the keys that are known. Raises IdentityError."""
        return self if self.again is None else self.again(kernel, self)

    def apart(self, tokens: TokenCheck) -> CredentialAuthenticator:
        """The same where tokens are verified by these: nothing that they prove is known elsewhere."""
        parts = replace(self.parts, tokens=tokens)
        return replace(self, parts=parts, most_kept=0, _kept=OrderedDict(), _tokens=OrderedDict())

    def nonce(self) -> str | None:
        """One for the next proof, where proofs need one."""
        return None if self.nonces is None else self.nonces()

    def at_once(self, question: dict[str, object], now: int) -> dict[str, object] | None:
        """The question with what its credentials proved before in their place, as `known` knows it. None where that
        takes a longer look, also at what it says itself of who asks."""
        if not has_plain_names(question):
            return None
        found = self.known(question.get("credentials"), now)
        if found is None:
            return None
        # Of two members the other one names the endpoint: without that it is no question, whatever is said in it.
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
        """What these credentials proved before, where that is enough and nothing was revoked since: quick, and waits
        for nobody. None where somebody has to be asked, be it only whether it was revoked: with `asks` whoever calls
        does that. `raw` is the member `credentials` of a question."""
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
        found = self._kept.get(digest)  # with whichever certificate came first: to compare is quicker than to hash
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
            return None  # who proves it is told

    def known_of(self, credentials: Credentials, now: int, *, asks: bool = False) -> VerifiedCredential | None:
        """The same of credentials that were read."""
        return self.known(reusable_members(credentials), now, asks=asks) if is_reusable(credentials) else None

    def prove(self, credentials: Credentials, request: ProofContext, now: int) -> VerifiedCredential:
        """Raises CredentialError. It may wait for an issuer, or for a store, for a bounded time."""
        before = self.known_of(credentials, now)
        if before is not None:
            return self.used(before, request.ip, now)
        try:
            version = self.marks.version  # as it is before anybody is asked
            found = self.known_of(credentials, now, asks=True) or self._proved(credentials, request, now)
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
            told = f"a credential was refused, as the store does not answer: {error}"
            self.telling.tell(logging.WARNING, "store", told)
            raise CredentialError(RefusalCode.STORE) from None
        self.count("proved")
        return self.used(found, request.ip, now)

    def use(self, single: SingleUse | None, now: int) -> None:
        """What counts once is used last, when all else holds: whoever stole it, and cannot present it, takes nothing
        from its owner. Raises CredentialError, StoreError."""
        if single is not None and not self.marks.once(single.name, single.until, now):
            raise CredentialError(RefusalCode.REPLAYED)

    def used(self, found: VerifiedCredential, ip: object, now: int) -> VerifiedCredential:
        """The same for a request from there, with what that tells of who else has the credential."""
        return found if self.sharing is None else self.sharing.told(found, ip, now)

    # ── One credential ────────────────────────────────────────────────────────────────────────

    def _proved(self, credentials: Credentials, request: ProofContext, now: int) -> VerifiedCredential:
        token, who, binding = self._presented(credentials, request, now)
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

    def _presented(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey]:
        """The one credential that says who asks."""
        if sum(one is not None for one in (credentials.authorization, credentials.txn_token, credentials.api_key)) > 1:
            raise CredentialError(RefusalCode.TWO_CREDENTIALS)
        if credentials.authorization is not None:
            token = self._token(*parse_authorization(credentials.authorization), now)
        elif credentials.txn_token is not None:
            token = self.parts.tokens.verify_txn(credentials.txn_token, now)
        else:
            found = self.parts.presents(credentials, request, now)
            if found is None:
                raise CredentialError(RefusalCode.NO_SCHEME, "no credential is there")
            return found
        return token, self.parts.reads(token), self.parts.binds(credentials, request, token, now)

    def _token(self, scheme: str, raw: str, now: int) -> VerifiedToken:
        """Tokens that come with a proof are the same each time, and only the proof is not. What was verified stands for
        a while only: then its issuer has to have the key still. Of our own keys that is looked at each time."""
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
        """The one of our keys that signed it, if one did."""
        return str(token.header.get("kid")) if self.own is not None and token.issuer == self.own.issuer else None

    def _stands(self, token: VerifiedToken, now: int) -> bool:
        own, kid = self.own, self._own_key(token)
        return kid is None or (own is not None and own.has(kid, now))

    def _remember(self, digest: bytes, token: VerifiedToken, now: int) -> None:
        with self._lock:
            put_newest(self._tokens, digest, token, self.most_kept)
            drop_expired(self._tokens, lambda one: one.expires <= now)

    def _keep(self, credentials: Credentials, proved: VerifiedCredential, version: int, now: int) -> None:
        """By the token's digest, so that no secret is kept."""
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
    """As the newest: whoever comes makes room by what came first."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def drop_expired(kept: OrderedDict[K, T], ended: Callable[[T], bool]) -> None:
    """What came first, where it has ended."""
    for _ in range(EVICTIONS_PER_INSERT):
        if kept and ended(kept[next(iter(kept))]):
            kept.popitem(last=False)


def has_plain_names(members: dict[str, object]) -> bool:
    """Whether no name is of a class of its own: such a one may say that it equals any other."""
    return STRINGS.issuperset(map(type, members))


def certificate_cache_key(certificate: str | None) -> CertificateKey:
    return (
        certificate if certificate is None or len(certificate) <= MAX_CERTIFICATE_LENGTH else digest_text(certificate)
    )


def concerns_request_only(pending: object) -> bool:
    """Whether none of what is pending could be said by a credential."""
    return type(pending) is list and all(type(one) is str and one.startswith(REQUEST_FACT_PREFIXES) for one in pending)


def digest_text(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def parse_authorization(authorization: str) -> tuple[str, str]:
    """Raises CredentialError."""
    scheme, _, raw = authorization.strip().partition(" ")
    if scheme.lower() not in ("bearer", "dpop") or not raw.strip():
        raise CredentialError(RefusalCode.NO_SCHEME)
    return scheme.lower(), raw.strip()


def reusable_members(credentials: Credentials) -> dict[str, object]:
    """As the member of a question had them, of those that can be proved once for all."""
    both = {"authorization": credentials.authorization, "client_certificate": credentials.client_certificate}
    return {name: value for name, value in both.items() if value is not None}


def is_reusable(credentials: Credentials) -> bool:
    """Whether nothing in it is for one request alone."""
    return (
        credentials.dpop is None
        and credentials.signature is None
        and credentials.signature_input is None
        and credentials.attestation is None
        and credentials.txn_token is None
        and credentials.api_key is None
    )

"""Verifies requests that an agent signed (RFC 9421, Web Bot Auth). The key is in the directory at the origin in
`Signature-Agent`; an issuer of the policy must have this origin as its `url`.

The agent is named by the host of that origin, because keys change. Therefore each agent needs its own directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

import http_sf
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureComponentResolver,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from joserfc.jwk import ECKey, RSAKey

from policyengine.identity.base64url import encode_base64url, equal_in_constant_time
from policyengine.identity.config.model import SignatureSettings, to_seconds
from policyengine.identity.keys.agent_directories import SignatureAgentKeys
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.url_compare import ANY_HOST, OwnHosts
from policyengine.identity.verified import UNBOUND, ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import HASHES, Credentials
from policyengine.stores.credential_marks import CredentialMarks

TAG = "web-bot-auth"
MAX_NONCE_LENGTH = 256  # characters
MAX_SIGNATURES = 8
MAX_COMPONENTS = 64
MAX_SIGNATURE_SECONDS = 86_400  # as the draft recommends
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})  # methods that usually have no body
EMPTY_BODY_DIGESTS = {name: of(b"").digest() for name, of in HASHES.items()}
# Each of these sets identifies the request completely, so that a signature over it proves the key for this request.
FULL_TARGET_COMPONENTS = (
    {"@method", "@target-uri"},
    {"@method", "@authority", "@path", "@query"},
    {"@method", "@authority", "@request-target"},
)


@dataclass(frozen=True, slots=True)
class SignatureInput:
    """The signature to verify, as `Signature-Input` describes it."""

    label: str
    components: tuple[tuple[str, Mapping[str, object]], ...]
    parameters: Mapping[str, object]

    @property
    def plain(self) -> frozenset[str]:
        """The components that are covered as a whole, without parameters."""
        return frozenset(name for name, parameters in self.components if not parameters)

    def covers_field(self, name: str) -> bool:
        """Return whether the field is covered: as a whole, or the member that `key` names."""
        return any(one == name and parameters.keys() <= {"key", "sf"} for one, parameters in self.components)


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A request in the form that the library expects."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class MessageSignatureVerifier:
    """The verifier of signed requests. `leeway` is the tolerated clock difference in seconds."""

    settings: SignatureSettings
    directories: SignatureAgentKeys
    marks: CredentialMarks = field(repr=False)
    leeway: int = 30
    hosts: OwnHosts = ANY_HOST

    def present(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey]:
        """Verify the signature. Raises CredentialError; StoreError if the store cannot say whether it was used."""
        message = build_message(credentials, request)
        self.hosts.check(request.url)
        found = parse_signature_input(message)
        origin = signature_agent(message, found)
        self._check_coverage(found, message, request)
        ends = self._check_times(found.parameters, now)
        keyid = found.parameters.get("keyid")
        if not isinstance(keyid, str):
            raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "the signature of the message names no key")
        issuer, key = self.directories.key(origin, keyid, now)
        check_message_signature(message, found, keyid, key)
        check_content_digest(message, request)
        once = self._check_once(found.parameters, keyid, ends, now)
        whole = once and any(all_of <= found.plain for all_of in FULL_TARGET_COMPONENTS)
        agent = str(urlsplit(origin).netloc)
        digest = sha256(message.headers["signature"].encode()).digest()
        claims = {"sub": agent, "iat": found.parameters["created"], "exp": found.parameters["expires"]}
        return (
            VerifiedToken("signature", issuer, claims, {}, digest, ends, key=keyid),
            TokenPrincipal(agent, None),
            ConfirmedKey(jkt=keyid) if whole else UNBOUND,
        )

    def _check_coverage(self, found: SignatureInput, message: SignedMessage, request: ProofContext) -> None:
        wanted = set(self.settings.components)
        if not wanted <= found.plain or not found.covers_field("signature-agent"):
            raise CredentialError(RefusalCode.MESSAGE_COMPONENTS)
        if has_body(message, request) and not found.covers_field("content-digest"):
            raise CredentialError(
                RefusalCode.MESSAGE_COMPONENTS,
                "the signature does not cover `content-digest`, although the request may have a body",
            )

    def _check_times(self, parameters: Mapping[str, object], now: int) -> int:
        """Return when the signature expires, in seconds since 1970: at its own `expires`, or earlier at the end of the
        window. Raises CredentialError.
        """
        created, expires = parameters.get("created"), parameters.get("expires")
        if type(created) is not int or type(expires) is not int:
            raise CredentialError(RefusalCode.MESSAGE_TIME, "the signature of the message lacks `created` or `expires`")
        ends = min(expires, created + to_seconds(self.settings.window))
        if created > now + self.leeway or ends <= now or not 0 < expires - created <= MAX_SIGNATURE_SECONDS:
            raise CredentialError(RefusalCode.MESSAGE_TIME)
        return ends

    def _check_once(self, parameters: Mapping[str, object], keyid: str, ends: int, now: int) -> bool:
        """If the signature has a nonce, check that it is unused, mark it as used and return True. Return False if there
        is no nonce and none is required. Raises CredentialError, StoreError.
        """
        nonce = parameters.get("nonce")
        if nonce is None and not self.settings.nonce:
            return False
        if not isinstance(nonce, str) or not 0 < len(nonce) <= MAX_NONCE_LENGTH:
            raise CredentialError(
                RefusalCode.MESSAGE_REPLAYED, "the signature of the message has no nonce, or one that is too long"
            )
        name = f"signature:{keyid}:{encode_base64url(sha256(nonce.encode()).digest())}"
        if not self.marks.once(name, ends, now):
            raise CredentialError(RefusalCode.MESSAGE_REPLAYED)
        return True


# ── The signed message ────────────────────────────────────────────────────────────────────────


def build_message(credentials: Credentials, request: ProofContext) -> SignedMessage:
    """Build the message to verify. Raises CredentialError."""
    if request.url is None or credentials.signature is None or credentials.signature_input is None:
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "`Signature`, `Signature-Input` or the URL is missing")
    given = {
        "signature": credentials.signature,
        "signature-input": credentials.signature_input,
        "signature-agent": credentials.signature_agent,
        "content-digest": credentials.content_digest,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return SignedMessage(request.method, request.url, {**request.headers, **told})


def parse_signature_input(message: SignedMessage) -> SignatureInput:
    """Return the only signature with the tag of Web Bot Auth. Raises CredentialError."""
    ours = [
        SignatureInput(label, tuple(inner), parameters)
        for label, (inner, parameters) in parse_dictionary(message.headers["signature-input"]).items()
        if isinstance(inner, list) and parameters.get("tag") == TAG
    ]
    if len(ours) != 1:
        why = "no signature of the message" if not ours else "more than one signature of the message"
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, f'{why} has the tag "{TAG}"')
    if len(ours[0].components) > MAX_COMPONENTS:
        raise CredentialError(RefusalCode.TOO_LARGE)
    return ours[0]


def parse_dictionary(text: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Parse a dictionary of RFC 9651 without duplicate keys. Raises CredentialError."""

    def twice(key: str, context: str) -> None:
        raise CredentialError(RefusalCode.DUPLICATE_MEMBER)

    try:
        found: Any = http_sf.parse(text.encode("ascii"), tltype="dictionary", on_duplicate_key=twice)
    except (ValueError, TypeError):
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "a header of the signature is malformed") from None
    if not isinstance(found, dict) or len(found) > MAX_SIGNATURES:
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "a header of the signature is malformed")
    return dict(found)


def signature_agent(message: SignedMessage, found: SignatureInput) -> str:
    """Return the origin in `Signature-Agent`, which is a string or the covered dictionary member. Raises
    CredentialError."""
    text = message.headers.get("signature-agent")
    if text is None:
        raise CredentialError(RefusalCode.UNKNOWN_ISSUER, "the header `Signature-Agent` is missing")
    if text.lstrip().startswith('"'):
        try:
            item: Any = http_sf.parse(text.encode("ascii"), tltype="item")
            value: object = item[0]
        except (ValueError, TypeError):
            raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "`Signature-Agent` is malformed") from None
    else:
        covered = [parameters.get("key") for name, parameters in found.components if name == "signature-agent"]
        members = parse_dictionary(text)
        name = covered[0] if len(covered) == 1 and covered[0] is not None else found.label
        value = members[name][0] if isinstance(name, str) and name in members else None
    if not isinstance(value, str):
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "`Signature-Agent` is malformed")
    return value


def has_body(message: SignedMessage, request: ProofContext) -> bool:
    """Return whether the request has a body, or may have one: if neither the gateway nor the headers say so, the method
    decides.
    """
    length = message.headers.get("content-length")
    said = request.size not in (None, 0) or (length is not None and length.strip().lstrip("0") != "")
    if said or "transfer-encoding" in message.headers:
        return True
    if request.digests:
        return any(found != EMPTY_BODY_DIGESTS[name] for name, found in request.digests.items())
    return request.size is None and length is None and request.method not in BODILESS


def check_content_digest(message: SignedMessage, request: ProofContext) -> None:
    """Check that a covered `Content-Digest` is the digest of the received body. Raises CredentialError."""
    text = message.headers.get("content-digest")
    if text is None:
        return
    if not request.digests:
        raise CredentialError(
            RefusalCode.CONTENT_DIGEST, "the signature covers a digest, but the gateway did not pass the whole body"
        )
    told = parse_dictionary(text)
    if not told:
        raise CredentialError(RefusalCode.CONTENT_DIGEST)
    for algorithm, (digest, _) in told.items():
        known = request.digests.get(algorithm)
        if known is None or not isinstance(digest, bytes) or not compare_digest(digest, known):
            raise CredentialError(RefusalCode.CONTENT_DIGEST)


# ── Verification ──────────────────────────────────────────────────────────────────────────────


class ClockedMessageVerifier(HTTPMessageVerifier):
    """The library's verifier, without its own clock."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Do nothing: `_check_times` checks the times."""


@dataclass(frozen=True, slots=True)
class SingleKeyResolver(HTTPSignatureKeyResolver):
    keyid: str
    key: VerifyingKey

    def resolve_public_key(self, key_id: str) -> Any:
        return self.key.public_key if equal_in_constant_time(key_id, self.keyid) else None


def check_message_signature(message: SignedMessage, found: SignatureInput, keyid: str, key: VerifyingKey) -> None:
    """Verify the signature with this key. Raises CredentialError."""
    verifier = ClockedMessageVerifier(
        signature_algorithm=signature_algorithm(key), key_resolver=SingleKeyResolver(keyid, key)
    )
    try:
        HTTPSignatureComponentResolver(message)  # type: ignore[no-untyped-call]
    except HTTPMessageSignaturesException:
        raise CredentialError(RefusalCode.MESSAGE_COMPONENTS, "the method or URL cannot be signed") from None
    try:
        verified = verifier.verify(message, max_age=None, expect_tag=TAG)
    except InvalidSignature:
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE) from None
    except HTTPMessageSignaturesException:
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE, "a header of the signature is malformed") from None
    if [one.label for one in verified] != [found.label]:
        raise CredentialError(RefusalCode.MESSAGE_SIGNATURE)


def signature_algorithm(key: VerifyingKey) -> type[HTTPSignatureAlgorithm]:
    """Return the only algorithm of this key; an `alg` parameter may only repeat it. Raises CredentialError."""
    match key:
        case RSAKey():
            return algorithms.RSA_PSS_SHA512
        case ECKey(curve_name="P-256"):
            return algorithms.ECDSA_P256_SHA256
        case ECKey(curve_name="P-384"):
            return algorithms.ECDSA_P384_SHA384
        case ECKey():
            raise CredentialError(RefusalCode.WRONG_KEY_USE)
        case _:
            return algorithms.ED25519

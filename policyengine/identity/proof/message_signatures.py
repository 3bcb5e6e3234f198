"""Requests that an agent signed (RFC 9421), as Web Bot Auth has it: whose signature it is says the directory of keys at
the origin in `Signature-Agent`, which an issuer of the policy has as its `url`.

The agent is named by the host of that origin: keys change, and who runs two agents gives each a directory of its own.
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

from policyengine.identity.base64url import b64url, same
from policyengine.identity.config.model import SignatureSettings, in_seconds
from policyengine.identity.keys.agent_directories import Directories
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.url_compare import ANY_HOST, OwnHosts
from policyengine.identity.verified import UNBOUND, Binding, Request, Token, Who
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.credentials import HASHES, Credentials
from policyengine.stores.credential_marks import Marks

TAG = "web-bot-auth"
LONGEST_NONCE = 256  # characters
MOST_SIGNATURES = 8
MOST_COMPONENTS = 64
LONGEST_LIFE = 86_400  # seconds, as the draft recommends
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})  # what has no body as a rule
EMPTY = {name: of(b"").digest() for name, of in HASHES.items()}
# Each of these sets says all of which request it is: then the key is proved for this one and no other.
WHOLE = (
    {"@method", "@target-uri"},
    {"@method", "@authority", "@path", "@query"},
    {"@method", "@authority", "@request-target"},
)


@dataclass(frozen=True, slots=True)
class Input:
    """The one signature that is ours to look at, as `Signature-Input` describes it."""

    label: str
    components: tuple[tuple[str, Mapping[str, object]], ...]
    parameters: Mapping[str, object]

    @property
    def plain(self) -> frozenset[str]:
        """The components that are covered as they are, and not a part of them."""
        return frozenset(name for name, parameters in self.components if not parameters)

    def covers_field(self, name: str) -> bool:
        """Wholly, or the member of it that `key` names."""
        return any(one == name and parameters.keys() <= {"key", "sf"} for one, parameters in self.components)


@dataclass(frozen=True, slots=True)
class Message:
    """As the library wants one."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Signatures:
    """`leeway`: seconds by which clocks may differ."""

    settings: SignatureSettings
    directories: Directories
    marks: Marks = field(repr=False)
    leeway: int = 30
    hosts: OwnHosts = ANY_HOST

    def present(self, credentials: Credentials, request: Request, now: int) -> tuple[Token, Who, Binding]:
        """Raises Refused; StoreError where nobody knows whether it was used."""
        message = message_of(credentials, request)
        self.hosts.check(request.url)
        found = input_of(message)
        origin = agent_of(message, found)
        self._check_coverage(found, message, request)
        ends = self._check_times(found.parameters, now)
        keyid = found.parameters.get("keyid")
        if not isinstance(keyid, str):
            raise Refused(Refusal.MESSAGE_SIGNATURE, "the signature of the message names no key")
        issuer, key = self.directories.key(origin, keyid, now)
        check_signature(message, found, keyid, key)
        check_digest(message, request)
        once = self._check_once(found.parameters, keyid, ends, now)
        whole = once and any(all_of <= found.plain for all_of in WHOLE)
        agent = str(urlsplit(origin).netloc)
        digest = sha256(message.headers["signature"].encode()).digest()
        claims = {"sub": agent, "iat": found.parameters["created"], "exp": found.parameters["expires"]}
        return (
            Token("signature", issuer, claims, {}, digest, ends, key=keyid),
            Who(agent, None),
            Binding(jkt=keyid) if whole else UNBOUND,
        )

    def _check_coverage(self, found: Input, message: Message, request: Request) -> None:
        wanted = set(self.settings.components)
        if not wanted <= found.plain or not found.covers_field("signature-agent"):
            raise Refused(Refusal.MESSAGE_COMPONENTS)
        if has_body(message, request) and not found.covers_field("content-digest"):
            raise Refused(Refusal.MESSAGE_COMPONENTS, "the signature does not cover the digest of the body")

    def _check_times(self, parameters: Mapping[str, object], now: int) -> int:
        """When it ends for us."""
        created, expires = parameters.get("created"), parameters.get("expires")
        if type(created) is not int or type(expires) is not int:
            raise Refused(Refusal.MESSAGE_TIME, "the signature of the message does not say when it was made and ends")
        ends = min(expires, created + in_seconds(self.settings.window))
        if created > now + self.leeway or ends <= now or not 0 < expires - created <= LONGEST_LIFE:
            raise Refused(Refusal.MESSAGE_TIME)
        return ends

    def _check_once(self, parameters: Mapping[str, object], keyid: str, ends: int, now: int) -> bool:
        """Whether it is known to be used for the first time."""
        nonce = parameters.get("nonce")
        if nonce is None and not self.settings.nonce:
            return False
        if not isinstance(nonce, str) or not 0 < len(nonce) <= LONGEST_NONCE:
            raise Refused(Refusal.MESSAGE_REPLAYED, "the signature of the message has no nonce")
        name = f"signature:{keyid}:{b64url(sha256(nonce.encode()).digest())}"
        if not self.marks.once(name, ends, now):
            raise Refused(Refusal.MESSAGE_REPLAYED)
        return True


# ── What was signed ───────────────────────────────────────────────────────────────────────────


def message_of(credentials: Credentials, request: Request) -> Message:
    """Raises Refused."""
    if request.url is None or credentials.signature is None or credentials.signature_input is None:
        raise Refused(Refusal.MESSAGE_SIGNATURE, "of `Signature`, `Signature-Input` and the URL not all are there")
    given = {
        "signature": credentials.signature,
        "signature-input": credentials.signature_input,
        "signature-agent": credentials.signature_agent,
        "content-digest": credentials.content_digest,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return Message(request.method, request.url, {**request.headers, **told})


def input_of(message: Message) -> Input:
    """The one signature with our tag. Raises Refused."""
    ours = [
        Input(label, tuple(inner), parameters)
        for label, (inner, parameters) in dictionary(message.headers["signature-input"]).items()
        if isinstance(inner, list) and parameters.get("tag") == TAG
    ]
    if len(ours) != 1:
        why = "no signature of the message" if not ours else "more than one signature of the message"
        raise Refused(Refusal.MESSAGE_SIGNATURE, f'{why} has the tag "{TAG}"')
    if len(ours[0].components) > MOST_COMPONENTS:
        raise Refused(Refusal.TOO_LARGE)
    return ours[0]


def dictionary(text: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A dictionary of RFC 9651, in which nothing is twice. Raises Refused."""

    def twice(key: str, context: str) -> None:
        raise Refused(Refusal.DUPLICATE_MEMBER)

    try:
        found: Any = http_sf.parse(text.encode("ascii"), tltype="dictionary", on_duplicate_key=twice)
    except (ValueError, TypeError):
        raise Refused(Refusal.MESSAGE_SIGNATURE, "a header of the signature is malformed") from None
    if not isinstance(found, dict) or len(found) > MOST_SIGNATURES:
        raise Refused(Refusal.MESSAGE_SIGNATURE, "a header of the signature is malformed")
    return dict(found)


def agent_of(message: Message, found: Input) -> str:
    """The origin in `Signature-Agent`: a string, or in a dictionary the member that is covered. Raises Refused."""
    text = message.headers.get("signature-agent")
    if text is None:
        raise Refused(Refusal.UNKNOWN_ISSUER, "no `Signature-Agent` says whose signature it is")
    if text.lstrip().startswith('"'):
        try:
            item: Any = http_sf.parse(text.encode("ascii"), tltype="item")
            value: object = item[0]
        except (ValueError, TypeError):
            raise Refused(Refusal.MESSAGE_SIGNATURE, "`Signature-Agent` is malformed") from None
    else:
        covered = [parameters.get("key") for name, parameters in found.components if name == "signature-agent"]
        members = dictionary(text)
        name = covered[0] if len(covered) == 1 and covered[0] is not None else found.label
        value = members[name][0] if isinstance(name, str) and name in members else None
    if not isinstance(value, str):
        raise Refused(Refusal.MESSAGE_SIGNATURE, "`Signature-Agent` is malformed")
    return value


def has_body(message: Message, request: Request) -> bool:
    """Also where nobody says whether it has one, and such requests mostly do."""
    length = message.headers.get("content-length")
    said = request.size not in (None, 0) or (length is not None and length.strip().lstrip("0") != "")
    if said or "transfer-encoding" in message.headers:
        return True
    if request.digests:
        return any(found != EMPTY[name] for name, found in request.digests.items())
    return request.size is None and length is None and request.method not in BODILESS


def check_digest(message: Message, request: Request) -> None:
    """Of `Content-Digest`, where it is covered: that it is the digest of the body that came. Raises Refused."""
    text = message.headers.get("content-digest")
    if text is None:
        return
    if not request.digests:
        raise Refused(Refusal.CONTENT_DIGEST, "a digest is signed, and nobody saw the whole body")
    told = dictionary(text)
    if not told:
        raise Refused(Refusal.CONTENT_DIGEST)
    for algorithm, (digest, _) in told.items():
        known = request.digests.get(algorithm)
        if known is None or not isinstance(digest, bytes) or not compare_digest(digest, known):
            raise Refused(Refusal.CONTENT_DIGEST)


# ── Whether it holds ──────────────────────────────────────────────────────────────────────────


class Verifier(HTTPMessageVerifier):
    """The library's, on the clock that we were given."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """`_check_times` has seen to it."""


@dataclass(frozen=True, slots=True)
class OneKey(HTTPSignatureKeyResolver):
    keyid: str
    key: VerifyingKey

    def resolve_public_key(self, key_id: str) -> Any:
        return self.key.public_key if same(key_id, self.keyid) else None


def check_signature(message: Message, found: Input, keyid: str, key: VerifyingKey) -> None:
    """Raises Refused."""
    verifier = Verifier(signature_algorithm=algorithm_of(key), key_resolver=OneKey(keyid, key))
    try:
        HTTPSignatureComponentResolver(message)  # type: ignore[no-untyped-call]
    except HTTPMessageSignaturesException:
        raise Refused(Refusal.MESSAGE_COMPONENTS, "of this method and URL nothing can be signed") from None
    try:
        verified = verifier.verify(message, max_age=None, expect_tag=TAG)
    except InvalidSignature:
        raise Refused(Refusal.MESSAGE_SIGNATURE) from None
    except HTTPMessageSignaturesException:
        raise Refused(Refusal.MESSAGE_SIGNATURE, "a header of the signature is malformed") from None
    if [one.label for one in verified] != [found.label]:
        raise Refused(Refusal.MESSAGE_SIGNATURE)


def algorithm_of(key: VerifyingKey) -> type[HTTPSignatureAlgorithm]:
    """The one that is this key's; `alg` may say the same and nothing else. Raises Refused."""
    match key:
        case RSAKey():
            return algorithms.RSA_PSS_SHA512
        case ECKey(curve_name="P-256"):
            return algorithms.ECDSA_P256_SHA256
        case ECKey(curve_name="P-384"):
            return algorithms.ECDSA_P384_SHA384
        case ECKey():
            raise Refused(Refusal.WRONG_KEY_USE)
        case _:
            return algorithms.ED25519

"""Keys that verify signatures. Only the public parts of a JWKS are read, and only signature keys that are
strong enough.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.trusted_files import read_trusted

MAX_KEYS = 100  # maximum number of keys of one issuer
MAX_FILE_BYTES = 1_048_576
MAX_CANDIDATE_KEYS = 8  # maximum number of keys that may verify one token
MAX_KEY_ID_LENGTH = 512  # characters of a `kid`
RSA_BITS = range(2_048, 8_193)
MIN_CURVE_BITS = 256
MIN_RSA_EXPONENT, MAX_RSA_EXPONENT_BITS = 65_537, 256  # limits of FIPS 186-5; the second in bits
SIGNATURE_USES = frozenset({"sig"})
_LOG = logging.getLogger("policyengine")

VerifyingKey: TypeAlias = RSAKey | ECKey | OKPKey

# The public members by key type; nothing else of a JWK is read, so that no private key is loaded.
PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
# The algorithms that a key can verify, by type and curve; the key may restrict them by `alg`.
ALGORITHMS: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
# Ed25519 points of small order (ignoring the sign bit), for which anyone can forge signatures.
SMALL_ORDER_POINTS = frozenset(
    bytes.fromhex(one)
    for one in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


class KeySource(Protocol):
    """The keys of one issuer. Threads may share an instance."""

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed a token with this header: at least one and at most `MAX_CANDIDATE_KEYS`,
        all public and suitable for `alg`; without `kid`, all suitable keys.

        `now` is in seconds since 1970. May wait for the issuer for a bounded time. Raises CredentialError: UNKNOWN_KEY,
        KEY_ID, WEAK_KEY, WRONG_KEY_USE, PROVIDER.
        """
        ...


class UnusableKeyError(Exception):
    """The error for a key that cannot verify signatures."""

    def __init__(self, refusal: RefusalCode, why: str) -> None:
        super().__init__(why)
        self.refusal, self.why = refusal, why


@dataclass(frozen=True, slots=True)
class PublicJwk:
    """A usable public key. `ends` is the time when it expires, in seconds since 1970, if its set specifies one."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: VerifyingKey = field(repr=False)
    ends: int | None = None

    def named(self, kid: str | None, now: int) -> bool:
        return (kid is None or self.kid == kid) and (self.ends is None or now < self.ends)


@dataclass(frozen=True, slots=True)
class JwkSet:
    """A parsed JWKS. `unusable` holds the reasons by `kid`, to report when a token names such a key."""

    usable: tuple[PublicJwk, ...]
    unusable: Mapping[str, RefusalCode] = field(default_factory=dict)

    def knows(self, kid: str | None, now: int) -> bool:
        """Return whether the set has an answer for this key id, so that loading it again is pointless."""
        return kid is None or kid in self.unusable or any(one.named(kid, now) for one in self.usable)

    def find(self, kid: str | None, alg: str, now: int = 0) -> tuple[VerifyingKey, ...]:
        """Return the verification keys, as in KeySource. Raises CredentialError."""
        named = [one for one in self.usable if one.named(kid, now)]
        fitting = tuple(one.key for one in named if alg in one.algorithms)
        if len(fitting) > MAX_CANDIDATE_KEYS:
            raise CredentialError(
                RefusalCode.KEY_ID, "too many keys of its issuer match its key ID, or it has no key ID"
            )
        if fitting:
            return fitting
        if kid is not None and kid in self.unusable:
            raise CredentialError(self.unusable[kid])
        raise CredentialError(RefusalCode.WRONG_KEY_USE if kid is not None and named else RefusalCode.UNKNOWN_KEY)


# ── Parsing a JWKS ────────────────────────────────────────────────────────────────────────────


def parse_jwks(data: bytes, name: str, uses: Collection[str] = SIGNATURE_USES) -> JwkSet:
    """Parse a JWKS. `name` is the issuer in log lines about skipped keys; `uses` are the accepted values of `use`, for
    keys that have one. Raises DocumentError.
    """
    given = parse_document(data).get("keys")
    if not isinstance(given, list):
        raise DocumentError("the document is not a JWKS: it has no list `keys`")
    if len(given) > MAX_KEYS:
        raise DocumentError(f"the document has more than {MAX_KEYS} keys")
    usable: list[PublicJwk] = []
    unusable: dict[str, RefusalCode] = {}
    told: list[str] = []
    for number, one in enumerate(given, start=1):
        try:
            usable.append(parse_public_jwk(one, uses))
        except UnusableKeyError as why:
            told.append(f"key {number}: {why.why}")
            if isinstance(one, dict) and isinstance(one.get("kid"), str):
                unusable[one["kid"]] = why.refusal
    if told:
        _LOG.info("skipped some keys of `%s`: %s", name, "; ".join(told))
    return JwkSet(tuple(usable), unusable)


def parse_public_jwk(jwk: object, uses: Collection[str] = SIGNATURE_USES) -> PublicJwk:
    """Parse one key. Raises UnusableKeyError."""
    if not isinstance(jwk, dict):
        raise UnusableKeyError(RefusalCode.UNKNOWN_KEY, "it is not a JSON object")
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KEY_ID_LENGTH):
        raise UnusableKeyError(RefusalCode.UNKNOWN_KEY, "its `kid` is not a string, or is too long")
    check_use(jwk, uses)
    key = import_public_key(jwk)
    check_strength(key)
    return PublicJwk(kid, key_algorithms(jwk, key), key)


def check_use(jwk: Mapping[str, object], uses: Collection[str]) -> None:
    if jwk.get("kty") == "oct":
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "it is a shared secret")
    if "d" in jwk:
        raise UnusableKeyError(
            RefusalCode.WRONG_KEY_USE, "the set publishes its private part, so that any reader could sign"
        )
    if "use" in jwk and jwk["use"] not in tuple(uses):
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "its `use` is not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or not {"verify", "sign"} & {one for one in operations if type(one) is str}:
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "its `key_ops` have neither `verify` nor `sign`")


def import_public_key(jwk: Mapping[str, object]) -> VerifyingKey:
    kind = jwk.get("kty")
    members = PUBLIC_MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None:
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "its type is unknown")
    curve = jwk.get("crv") if "crv" in members else None
    if not isinstance(curve, str | None) or (kind, curve) not in ALGORITHMS:
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "its curve is not supported")
    given = {name: jwk.get(name) for name in members}
    if not all(isinstance(one, str) and 0 < len(one) <= 2_048 for one in given.values()):
        raise UnusableKeyError(RefusalCode.WEAK_KEY, "a member is missing or too long")
    if kind == "RSA" and count_bits(str(given["n"])) not in RSA_BITS:
        raise UnusableKeyError(RefusalCode.WEAK_KEY, f"its size is not from {RSA_BITS[0]:,} to {RSA_BITS[-1]:,} bits")
    try:
        key = JWKRegistry.import_key({"kty": str(kind), **given})  # type: ignore[dict-item]
    except Exception:  # libraries raise many errors for malformed input
        raise UnusableKeyError(RefusalCode.WEAK_KEY, "it is not a valid key of its type") from None
    assert isinstance(key, RSAKey | ECKey | OKPKey)
    return key


def count_bits(number: str) -> int:
    """Count the bits of a base64url number before a library spends time on it."""
    try:
        return int.from_bytes(urlsafe_b64decode(number + "=" * (-len(number) % 4))).bit_length()
    except ValueError:
        return 0


def check_strength(key: VerifyingKey) -> None:
    why = find_weakness(key.public_key)
    if why is not None:
        raise UnusableKeyError(RefusalCode.WEAK_KEY, why)


def find_weakness(key: object) -> str | None:
    """Return why a public key (of the library `cryptography`) is too weak to trust, or None."""
    match key:
        case RSAPublicKey():
            numbers = key.public_numbers()
            if numbers.n.bit_length() not in RSA_BITS:
                return f"its size is not from {RSA_BITS[0]:,} to {RSA_BITS[-1]:,} bits"
            if numbers.n % 2 == 0:
                return "its modulus is even"
            if numbers.e < MIN_RSA_EXPONENT or numbers.e.bit_length() > MAX_RSA_EXPONENT_BITS:
                return "its exponent is too small or too large"
        case EllipticCurvePublicKey():
            if key.curve.key_size < MIN_CURVE_BITS:
                return f"its curve has fewer than {MIN_CURVE_BITS} bits"
        case Ed25519PublicKey():
            raw = key.public_bytes_raw()
            if raw[:-1] + bytes([raw[-1] & 0x7F]) in SMALL_ORDER_POINTS:
                return "its point is of small order"
        case Ed448PublicKey():
            return None
        case _:
            return "its type is unknown"
    return None


def key_algorithms(jwk: Mapping[str, object], key: VerifyingKey) -> tuple[str, ...]:
    """Return the algorithms that the key verifies: all of its type, or only the one that its `alg` names. `EdDSA` is
    the older name of Ed25519, and each name matches the other. Raises UnusableKeyError.
    """
    possible = ALGORITHMS[key.key_type, None if isinstance(key, RSAKey) else key.curve_name]
    own = jwk.get("alg")
    if own is None or (key.key_type == "OKP" and own in possible):
        return possible
    if own not in possible:
        raise UnusableKeyError(RefusalCode.WRONG_KEY_USE, "its `alg` does not fit its type")
    return (str(own),)


# ── JWKS files ────────────────────────────────────────────────────────────────────────────────


class JwksFile:
    """A KeySource that reads a JWKS file, again when it changes. While the file is missing or malformed, its last keys
    remain valid for `stale` seconds."""

    def __init__(self, path: Path, name: str, stale: int, uses: Collection[str] = SIGNATURE_USES) -> None:
        self._path, self._name, self._stale, self._uses = path, name, stale, uses
        self._lock = Lock()
        self._seen: object = ()  # differs from every stamp
        self._keys: JwkSet | None = None
        self._wrong_since: int | None = None

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        with self._lock:
            keys = self._current(now)
        return keys.find(kid, alg, now)

    def look(self) -> JwkSet:
        """Return the current keys of the file. Raises OSError, DocumentError."""
        data = read_trusted(self._path, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DocumentError(f"the file is longer than {MAX_FILE_BYTES:,} bytes")
        return parse_jwks(data, self._name, self._uses)

    def _current(self, now: int) -> JwkSet:
        seen = jwks_file_stamp(self._path)
        if seen != self._seen:
            self._seen = seen
            self._read(now)
        ended = self._wrong_since is not None and now >= self._wrong_since + self._stale
        if self._keys is None or ended:
            raise CredentialError(RefusalCode.PROVIDER)
        return self._keys

    def _read(self, now: int) -> None:
        try:
            self._keys, self._wrong_since = self.look(), None
        except (OSError, DocumentError) as error:
            why = (error.strerror or "").lower() if isinstance(error, OSError) else error
            _LOG.warning("the keys of `%s` in `%s` cannot be read: %s", self._name, self._path, why)
            self._wrong_since = now if self._wrong_since is None else self._wrong_since


def jwks_file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return a stamp that changes with the file, or None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

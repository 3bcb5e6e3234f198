"""Signs with a key that never leaves OpenBao: its transit engine signs, and the key's versions are the signing keys.

A new version is published immediately, signs `ahead` seconds later, and stays published for the longest token lifetime
after the next version signs. All of these times follow from the creation times of the versions, so that rotation needs
only `bao write -f transit/keys/NAME/rotate`.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from joserfc.jwk import ECKey, OKPKey
from joserfc.jws import JWSRegistry

from policyengine.identity.base64url import encode_base64url
from policyengine.identity.config.model import IdentityConfigError
from policyengine.identity.config.secret_references import TransitKeyReference
from policyengine.identity.keys.signing_keys import PrivateKey, signing_input
from policyengine.identity.openbao import OpenBaoClient, RefreshedValue, get_member

ALGORITHMS = {"ecdsa-p256": "ES256", "ed25519": "EdDSA"}
BAD_ANSWER = "OpenBao's answer has an unexpected form"


@dataclass(frozen=True, slots=True)
class TransitKeyVersion:
    number: int
    created: int
    kid: str
    algorithm: str
    public: Mapping[str, object]
    key: PrivateKey = field(repr=False)


@dataclass
class OpenBaoSigner:
    """A TokenSigner with a key in OpenBao. `ahead` and `keep` are in seconds."""

    bao: OpenBaoClient
    place: TransitKeyReference
    ahead: int
    keep: int
    _kept: dict[TransitKeyReference, RefreshedValue[tuple[TransitKeyVersion, ...]]] = field(
        default_factory=dict, repr=False
    )

    def sign(self, header: Mapping[str, object], claims: Mapping[str, object], now: int) -> str:
        version = self.signs(now)
        whole = {**header, "alg": version.algorithm, "kid": version.kid}
        signed = signing_input(whole, claims)
        signature = self._signature(signed, version, now)
        return f"{signed.decode()}.{encode_base64url(signature)}"

    def published(self, now: int) -> list[dict[str, object]]:
        return self._select_published(self.versions(now), now)

    def at_hand(self, now: int) -> list[dict[str, object]] | None:
        kept = self._kept.get(self.place)
        versions = None if kept is None else kept.at_hand(now)
        return None if versions is None else self._select_published(versions, now)

    def _select_published(self, versions: Sequence[TransitKeyVersion], now: int) -> list[dict[str, object]]:
        ended = [one for one, after in pairwise(versions) if after.created + self.ahead + self.keep <= now]
        return [dict(one.public) for one in versions if one not in ended]

    def signs(self, now: int) -> TransitKeyVersion:
        """Return the version that signs now. The first version signs immediately, because there is no other."""
        first, *others = self.versions(now)
        return next((one for one in reversed(others) if one.created + self.ahead <= now), first)

    def versions(self, now: int) -> tuple[TransitKeyVersion, ...]:
        """Return all versions, oldest first. Raises IdentityConfigError."""
        return self.bao.kept(self._kept, self.place, lambda: self._versions(now)).read(now)

    @property
    def name(self) -> str:
        return f"bao-transit:{self.place.mount}/{self.place.key}"

    def _versions(self, now: int) -> tuple[TransitKeyVersion, ...]:
        mount, key = self.place.mount, self.place.key
        data = get_member(
            self.bao.ask(self.name, lambda client: client.secrets.transit.read_key(key, mount), now), "data"
        )
        kind, versions = get_member(data, "type"), get_member(data, "keys")
        if kind not in ALGORITHMS:
            raise IdentityConfigError(
                f"`{self.name}` has an unsupported type", "create it with `type=ecdsa-p256` or `ed25519`"
            )
        try:
            found = [parse_key_version(int(number), one, ALGORITHMS[kind]) for number, one in versions.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IdentityConfigError(f"`{self.name}`: {BAD_ANSWER}") from None
        if not found:
            raise IdentityConfigError(f"`{self.name}` has no version")
        return tuple(sorted(found, key=lambda one: one.number))

    def _signature(self, signed: bytes, version: TransitKeyVersion, now: int) -> bytes:
        """Return the signature after verifying it, so that no token with a wrong signature is issued. Raises
        IdentityConfigError."""
        raw = b64encode(signed).decode()
        more: dict[str, Any] = {"mount_point": self.place.mount, "key_version": version.number}
        if version.algorithm == "ES256":
            more |= {"hash_algorithm": "sha2-256", "marshaling_algorithm": "jws"}
        asked = self.bao.ask(
            self.name, lambda client: client.secrets.transit.sign_data(self.place.key, raw, **more), now
        )
        try:
            text = get_member(asked, "data", "signature").split(":")[2]
            signature = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if "jws" in more.values() else None)
        except (ValueError, AttributeError, IndexError):
            raise IdentityConfigError(f"`{self.name}`: {BAD_ANSWER}") from None
        if not JWSRegistry.algorithms[version.algorithm].verify(signed, signature, version.key):
            raise IdentityConfigError(f"`{self.name}`: OpenBao signed with another key")
        return signature


def parse_key_version(number: int, given: Mapping[str, Any], algorithm: str) -> TransitKeyVersion:
    """Parse a version. Raises ValueError, KeyError or TypeError if it is malformed."""
    created = int(datetime.fromisoformat(given["creation_time"]).timestamp())
    told = given["public_key"]
    if algorithm == "EdDSA":
        raw = b64decode(told, validate=True)
        key: PrivateKey = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(raw)})
    else:
        key = ECKey.import_key(told)
    kid = key.thumbprint()
    public = {**key.as_dict(private=False), "kid": kid, "alg": algorithm, "use": "sig"}
    return TransitKeyVersion(number, created, kid, algorithm, public, key)

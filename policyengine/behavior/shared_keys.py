"""The secret key of a store that processes share, the keys that are derived from it, and signatures of documents."""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Final

from policyengine.behavior.events import Caller, Tagger
from policyengine.behavior.member_keys import MemberKeys
from policyengine.behavior.model import BehaviorModel, ModelError, decode_content

KEY_BYTES: Final = 32
MAC_BYTES: Final = 32


class SharedKeys:
    """The keys that are derived from the secret key of a store: of the tags, of callers, and of signed documents."""

    __slots__ = ("callers", "members", "models", "releases", "requests", "secret", "tagger")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.tagger = Tagger(derive(secret, b"tags"))
        self.callers, self.models = derive(secret, b"callers"), derive(secret, b"models")
        self.releases, self.requests = derive(secret, b"releases"), derive(secret, b"requests")
        self.members = MemberKeys(self.callers)

    def key_of(self, caller: Caller) -> str:
        """Return the key of a caller in the store, which only holders of the secret key can compute."""
        text = "".join(f"{len(part)}:{part}" for part in caller)
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self.callers).hexdigest()

    def hash_agent(self, agent: str) -> str:
        """Return the keyed hash of the name of an agent."""
        return self.members.hash_agent(agent)


def derive(key: bytes, purpose: bytes) -> bytes:
    return blake2b(purpose, digest_size=KEY_BYTES, key=key).digest()


def sign_document(payload: bytes, key: bytes) -> bytes:
    """Return a payload after its keyed digest."""
    return blake2b(payload, digest_size=MAC_BYTES, key=key).digest() + payload


def verify_document(raw: bytes, key: bytes) -> bytes | None:
    """Return the payload of a signed document; None if its signature is not that of the key."""
    payload = raw[MAC_BYTES:]
    return payload if hmac.compare_digest(sign_document(payload, key), raw) else None


def sign_model(model: BehaviorModel, key: bytes) -> bytes:
    return sign_document(model.payload, key)


def verify_model(raw: bytes, number: int, key: bytes) -> BehaviorModel:
    """Verify and decode the model with this number. Raises ModelError."""
    payload = verify_document(raw, key)
    if payload is None:
        raise ModelError("it was not signed with this key")
    model = decode_content(payload)
    if model.content.serial != number:
        raise ModelError(f"it has number {model.content.serial} instead of {number}")
    return model

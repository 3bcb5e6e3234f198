"""The model: what is learned of a class of similar callers, and the signed file that holds it.

A model never changes. Its name is the digest of its content; a newer one replaces it, as a bundle replaces a bundle.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT: Final = "policyengine behavior model"
MODEL_VERSION: Final = 1
READY_RUNS: Final = 200  # of a class
READY_CALLERS: Final = 3
MAX_MODEL_BYTES: Final = 64 * 2**20

ClassName: TypeAlias = tuple[str, str]  # the issuer, and the profile or agent block


class ModelError(Exception):
    """A model cannot be used; the text says why."""


class ClassModel(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds what is learned of a class of callers. `runs` and `callers` count those that teach it. `seen` are the tags
    of endpoints that at least two of them use. The margins are in 1/1024: a level is a burst if it is above the highest
    level of the previous days times the margin. `days` are the caller-days from which the margins come; without any,
    they are 0. `declared` is whether there were enough of them for the declared rate of false alarms.
    """

    issuer: str = ""
    name: str = ""
    runs: int = 0
    callers: int = 0
    seen: frozenset[int] = frozenset()
    margin_slow: int = 0
    margin_fast: int = 0
    days: int = 0
    declared: bool = False

    @property
    def is_ready(self) -> bool:
        return self.runs >= READY_RUNS and self.callers >= READY_CALLERS

    @property
    def has_margins(self) -> bool:
        return self.margin_slow > 0


NO_CLASS: Final = ClassModel()


class ModelContent(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a model file. Times are in milliseconds since 1970. `tags` identifies the key of the tags."""

    format: str
    version: int
    serial: int
    made: int
    tags: str
    classes: tuple[ClassModel, ...]


class BehaviorModel:
    """A model, its classes by name, and its digest."""

    def __init__(self, content: ModelContent) -> None:
        self.content = content
        self.payload = msgspec.json.encode(content, order="deterministic")
        self.digest = f"sha256:{sha256(self.payload).hexdigest()}"
        self._classes: Mapping[ClassName, ClassModel] = {(one.issuer, one.name): one for one in content.classes}

    def class_of(self, name: ClassName) -> ClassModel:
        return self._classes.get(name, NO_CLASS)

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the content of a model file: the model in one line, and its signature in the next."""
        return self.payload + b"\n" + b64encode(key.sign(self.payload)) + b"\n"


EMPTY_MODEL: Final = BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, 0, 0, "", ()))


def decode_model(raw: bytes, key: Ed25519PublicKey) -> BehaviorModel:
    """Return the model of a file. Raises ModelError."""
    from cryptography.exceptions import InvalidSignature

    payload, _, rest = raw.partition(b"\n")
    try:
        signature = b64decode(rest.strip(), validate=True)
        key.verify(signature, payload)
    except (Base64Error, ValueError, InvalidSignature):
        raise ModelError("it was not signed with this key") from None
    return decode_content(payload)


def decode_content(payload: bytes) -> BehaviorModel:
    """Return the model of a payload whose signature was verified. Raises ModelError."""
    try:
        content = msgspec.json.decode(payload, type=ModelContent)
    except msgspec.DecodeError as error:
        raise ModelError(f"its content is not a model: {error}") from None
    if content.format != FORMAT or content.version != MODEL_VERSION:
        raise ModelError(f"it has version {content.version}, but this program reads version {MODEL_VERSION}")
    return BehaviorModel(content)

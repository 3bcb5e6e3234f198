"""Models: what is learned about the classes of similar callers, and the signed file that contains a model.

A model never changes. It is identified by the digest of its content, and a newer model replaces it as a whole.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Container
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import Struct

from policyengine.behavior.deviation_table import DeviationTable
from policyengine.behavior.grams import NO_GRAMS, GramCounts, unpack_grams
from policyengine.behavior.groups import CallerGroup, without_members
from policyengine.behavior.shape import endpoint_part

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT: Final = "policyengine behavior model"
MODEL_VERSION: Final = 3
READY_RUNS: Final = 200  # minimum learned runs of a class that is ready
READY_CALLERS: Final = 3
DAY_MILLISECONDS: Final = 86_400_000
MAX_MODEL_BYTES: Final = 64 * 2**20

ClassName: TypeAlias = tuple[str, str]  # issuer, and name of the profile or agent block


class ModelError(Exception):
    """The error for a model that cannot be used; the text says why."""


class ClassModel(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Learned data about a class of callers. `runs` and `callers` count the runs and the agents from which it was
    learned. `seen` contains the tags of the endpoints that at least two of these agents use. A margin is in 1/1024: a
    level is a burst if it exceeds the base of the caller times the margin. `days` counts the caller-days for the
    margins; if there are too few, the margins are 0. `declared` says whether there were enough caller-days for the
    declared rate of false alarms. `grams` counts the sequences of endpoints that at least two of the agents use.
    `class_tails` and `own_tails` count the scores of runs from each bucket on: to the class, for each class of lengths;
    and to the caller, for each class of numbers of runs and of lengths. They are empty if there are too few runs.
    `shapes` contains the tags of the structures of payloads that at least two agents send, and the part of each tag
    that identifies the endpoint; `free_form` contains these parts for endpoints with too many structures.
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
    grams: GramCounts = NO_GRAMS
    class_tails: tuple[int, ...] = ()
    own_tails: tuple[int, ...] = ()
    shapes: frozenset[int] = frozenset()
    free_form: frozenset[int] = frozenset()

    @cached_property
    def deviations(self) -> DeviationTable:
        """The deviations by scores; an empty table without tails."""
        return DeviationTable(self.class_tails, self.own_tails)

    @property
    def is_ready(self) -> bool:
        return self.runs >= READY_RUNS and self.callers >= READY_CALLERS

    @property
    def shape_count(self) -> int:
        """The number of different structures of payloads."""
        return sum(tag != endpoint_part(tag) for tag in self.shapes)

    @property
    def has_margins(self) -> bool:
        return self.margin_slow > 0


NO_CLASS: Final = ClassModel()


class ModelContent(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of a model file. `made` is the time at which the model was learned, in milliseconds since 1970.
    `tags` identifies the key with which tags are computed. `groups` are the groups of callers that move as one, found
    in the requests before the day `grouped`."""

    format: str
    version: int
    serial: int
    made: int
    tags: str
    classes: tuple[ClassModel, ...]
    groups: tuple[CallerGroup, ...] = ()
    grouped: int = 0


def encode_grams(part: object) -> str:
    """Return the counts of sequences as a text, for JSON."""
    if not isinstance(part, GramCounts):
        raise NotImplementedError
    return b64encode(part.pack()).decode()


def decode_grams(expected: type, part: object) -> GramCounts:
    """Return the counts of sequences from a text. Raises ValueError."""
    if expected is not GramCounts or not isinstance(part, str):
        raise ValueError("the counts of sequences are not a text")
    return unpack_grams(b64decode(part, validate=True))


class BehaviorModel:
    """A learned model of the behavior of callers, with its classes by name, and its digest."""

    def __init__(self, content: ModelContent) -> None:
        self.content = content
        self.payload = msgspec.json.encode(content, order="deterministic", enc_hook=encode_grams)
        self.digest = f"sha256:{sha256(self.payload).hexdigest()}"
        self.classes: dict[ClassName, ClassModel] = {(one.issuer, one.name): one for one in content.classes}
        self._groups = {member.key: group for group in content.groups for member in group.members}

    def class_of(self, name: ClassName) -> ClassModel:
        return self.classes.get(name, NO_CLASS)

    def group_of(self, member: str) -> CallerGroup | None:
        """Return the group of a member, by its key."""
        return self._groups.get(member)

    @property
    def has_groups(self) -> bool:
        return bool(self._groups)

    def with_groups(self, groups: tuple[CallerGroup, ...], day: int) -> BehaviorModel:
        """Return the next model, with the groups that were found in the requests before a day."""
        serial = self.content.serial + 1
        return BehaviorModel(msgspec.structs.replace(self.content, serial=serial, groups=groups, grouped=day))

    def replace_groups(self, groups: tuple[CallerGroup, ...], day: int) -> BehaviorModel:
        """Return this model, which no process has read yet, with these groups."""
        return BehaviorModel(msgspec.structs.replace(self.content, groups=groups, grouped=day))

    def without_members(self, keys: Container[str]) -> BehaviorModel:
        """Return the model without some members of groups: the next model, or this model if none of these members is in
        a group."""
        groups = without_members(self.content.groups, keys)
        return self if groups == self.content.groups else self.with_groups(groups, self.content.grouped)

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the content of a model file: the model on the first line, and its signature on the second."""
        return self.payload + b"\n" + b64encode(key.sign(self.payload)) + b"\n"


EMPTY_MODEL: Final = BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, 0, 0, "", ()))


def decode_model(raw: bytes, key: Ed25519PublicKey) -> BehaviorModel:
    """Verify and decode the content of a model file. Raises ModelError."""
    from cryptography.exceptions import InvalidSignature

    payload, _, rest = raw.partition(b"\n")
    try:
        signature = b64decode(rest.strip(), validate=True)
        key.verify(signature, payload)
    except (Base64Error, ValueError, InvalidSignature):
        raise ModelError("it was not signed with this key") from None
    return decode_content(payload)


def decode_content(payload: bytes) -> BehaviorModel:
    """Decode a payload whose signature was verified. Raises ModelError."""
    try:
        content = msgspec.json.decode(payload, type=ModelContent, dec_hook=decode_grams)
    except msgspec.DecodeError as error:
        raise ModelError(f"its content is not a model: {error}") from None
    if content.format == FORMAT and content.version in (1, 2):
        content = convert_content(content)
    if content.format != FORMAT or content.version != MODEL_VERSION:
        raise ModelError(f"it has version {content.version}, but this program reads version {MODEL_VERSION}")
    return BehaviorModel(content)


def convert_content(content: ModelContent) -> ModelContent:
    """Return a model of version 1 or 2, dated one day earlier, so that the next model is learned at once. Until then,
    its margins, which versions 1 and 2 compared with ceilings, make more levels bursts. Version 1 computed the scores
    of runs differently: there are no deviations until the next model is learned."""
    classes = content.classes
    if content.version == 1:
        classes = tuple(msgspec.structs.replace(one, class_tails=(), own_tails=()) for one in classes)
    made = max(content.made - DAY_MILLISECONDS, 0)
    return msgspec.structs.replace(content, version=MODEL_VERSION, made=made, classes=classes)

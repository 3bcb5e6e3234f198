"""The fingerprint of a policy's meaning: equal for equal kernels, in any order of their declarations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct

from policyengine import kernel as k

# Fields whose order has no meaning: grants are a union, all guards apply. The items of a guard keep their order.
UNORDERED_FIELDS = frozenset(
    "advisory agents anyones attesters binders carriers claims delegates delegation environments excepts fields grants "
    "guards issuers kinds limits maps models openings packages parents patterns profiles requirements scopes "
    "unrestricted users users_like".split()
)


# The version of the policy semantics; increment it with every change of meaning. It is part of the revision, so that
# this version does not accept an approval, an idempotency key or a log line from a version in which the same text has
# another meaning.
SEMANTICS_VERSION = 5

Declared = TypeVar("Declared", bound=k.Node)
Write: TypeAlias = Callable[[Any], str]
SHARED_ITEM_TYPES = (str, k.Segment)  # types of items whose tuples many rules share
# The package appears in decisions but does not change their outcome; watches and `reads_behavior` follow from the
# rules.
EXCLUDED_FIELDS = frozenset({"span", "package", "revision", "watches", "reads_behavior"})
# Members that are left out if they are empty, so that policies without them keep the revisions from before these
# members existed.
LATER_FIELDS = frozenset({"maps", "profiles"})
# The members of declarations, or of their parts, that are left out for the same reason if they are empty.
LATER_MEMBERS: dict[type, str] = {k.Profile: "order", k.Approvers: "issuers"}


def canonicalize(kernel: k.Kernel) -> k.Kernel:
    """Return the kernel with its declarations in canonical order, and with its revision."""
    write = CanonicalWriters()
    found = replace(
        kernel,
        packages=tuple(sorted(kernel.packages)),
        binders=sort_declarations(kernel.binders, write),
        agents=sort_declarations(kernel.agents, write),
        users=sort_declarations(kernel.users, write),
        anyones=sort_declarations(kernel.anyones, write),
        delegation=sort_declarations(kernel.delegation, write),
        guards=tuple(sorted(sort_declarations(kernel.guards, write), key=lambda guard: (guard.package, guard.name))),
        limits=tuple(sorted(sort_declarations(kernel.limits, write), key=lambda one: (one.package, one.name))),
        maps=sort_declarations(kernel.maps, write),
        profiles=tuple(sorted(sort_declarations(kernel.profiles, write), key=lambda one: (one.package, one.name))),
    )
    return replace(found, revision=compute_revision(found, write))


def sort_declarations(declared: tuple[Declared, ...], write: CanonicalWriters) -> tuple[Declared, ...]:
    write.known.update((id(part), write(part)) for part in declared)
    return tuple(sorted(declared, key=lambda part: write.known[id(part)]))


def compute_revision(kernel: k.Kernel, write: CanonicalWriters | None = None) -> str:
    """Return the revision: `sha256:` and 64 hexadecimal digits. `write` may have cached the text of some parts."""
    hashed = hashlib.sha256()
    # Hashed in pieces, because the whole text is longer than the policy.
    for piece in canonical_pieces(kernel, write or CanonicalWriters()):
        hashed.update(piece.encode("utf-8", "surrogatepass"))
    return f"sha256:{hashed.hexdigest()}"


def canonical_pieces(kernel: k.Kernel, write: CanonicalWriters) -> Iterator[str]:
    """Yield the version of the semantics, then the members of the kernel as a `record_writer` would write them."""
    yield f"semantics={SEMANTICS_VERSION}"
    for name in (name for name in field_names(k.Kernel) if name not in EXCLUDED_FIELDS):
        value = getattr(kernel, name)
        if name in LATER_FIELDS and not value:
            continue
        yield f",{name}="
        if name in UNORDERED_FIELDS and isinstance(value, tuple):
            yield from canonical_list(sorted(write.known.get(id(part)) or write(part) for part in value))
        else:
            yield write(value)


def canonical_list(written: Iterable[str]) -> Iterator[str]:
    before = "["
    for text in written:
        yield before
        yield text
        before = ","
    yield "]" if before == "," else "[]"


def canonical_text(part: object) -> str:
    """Return the canonical text of a part. It includes the type of every part, so that different meanings have
    different texts."""
    return CanonicalWriters()(part)


class CanonicalWriters(dict[type, Write]):
    """Writers of canonical text by type, cached because a large policy has hundreds of thousands of parts. `known`
    holds texts by identity, for parts that live as long as the writers: declarations, and paths and names that many
    rules share.
    """

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def __call__(self, part: object) -> str:
        return self[type(part)](part)

    def __missing__(self, kind: type) -> Write:
        self[kind] = found = writer_for(kind, self)
        return found


def writer_for(kind: type, write: CanonicalWriters) -> Write:
    name = kind.__name__
    if issubclass(kind, Enum):
        return {one: f"{name}.{one.value}" for one in kind}.__getitem__
    if issubclass(kind, NoneType | bool | int | str):
        return repr
    if issubclass(kind, ZoneInfo):
        return lambda part: f"ZoneInfo({part.key!r})"
    if issubclass(kind, tuple | list):
        return sequence_writer(write)
    if issubclass(kind, frozenset | set):
        return lambda part: f"{{{','.join(sorted(map(write, part)))}}}"
    if issubclass(kind, Mapping):
        return lambda part: f"{{{','.join(sorted(f'{write(key)}:{write(one)}' for key, one in part.items()))}}}"
    if issubclass(kind, k.DefinitionRef):
        return lambda part: write(part.expression)  # a named condition means the same as the condition
    if is_dataclass(kind) or issubclass(kind, Struct):
        return record_writer(kind, write)
    return lambda part: f"{name}({part})"


def sequence_writer(write: CanonicalWriters) -> Write:
    def write_sequence(part: Sequence[object]) -> str:
        text = write.known.get(id(part))
        if text is None:
            text = f"[{','.join([write[type(one)](one) for one in part])}]"
            if part and type(part[0]) in SHARED_ITEM_TYPES:
                write.known[id(part)] = text
        return text

    return write_sequence


def record_writer(kind: type, write: CanonicalWriters) -> Write:
    """Return a writer of `Kind(member=…,member=…)`, without the span."""
    name, members = kind.__name__, [member for member in field_names(kind) if member != "span"]
    if not members:
        return lambda part: f"{name}()"
    # One member more than needed, so that the result is a tuple even for one member.
    values = attrgetter(*members, members[0])
    heads = [(f"{member}=", member in UNORDERED_FIELDS) for member in members]

    def as_set(value: tuple[object, ...]) -> str:
        return f"[{','.join(sorted(map(write, value)))}]"

    later = f"{LATER_MEMBERS[kind]}=" if kind in LATER_MEMBERS else None

    def write_record(part: object) -> str:
        written = [
            head + (as_set(value) if is_set and type(value) is tuple else write[type(value)](value))
            for (head, is_set), value in zip(heads, values(part), strict=False)
            if value or head != later
        ]
        return f"{name}({','.join(written)})"

    return write_record


def field_names(kind: type) -> tuple[str, ...]:
    if issubclass(kind, Struct):
        return kind.__struct_fields__
    return tuple(field.name for field in fields(kind))  # type: ignore[arg-type]  # a dataclass, if not a Struct

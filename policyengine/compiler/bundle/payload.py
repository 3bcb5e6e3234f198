"""The content of a bundle: a kernel and its tree. Most of it is decoded and checked when a decision first needs it.

Each block, guard and binder is encoded separately, and so are the rules of each pattern. Everything else is small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Any, TypeAlias, TypeVar, cast, overload

import msgpack  # type: ignore[import-untyped]

from policyengine import kernel as k
from policyengine.checker.names.symbols import BUILT_IN_ENTITIES
from policyengine.compiler.bundle.codec import BundleCodec
from policyengine.compiler.bundle.scalars import BundleDataError, DecodeContext, EncodeContext, read_types
from policyengine.compiler.bundle.verify import CHECKS
from policyengine.compiler.bundle.verify_expressions import require
from policyengine.compiler.tree import Tree, Uses
from policyengine.source import Source
from policyengine.typesystem import RefType, Type

NAMED_MEMBERS = ("entities", "issuers", "attesters")
LAZY_MEMBERS = ("binders", "agents", "users", "anyones", "guards", "limits", "watches", "maps")
EAGER_MEMBERS = ("package", "packages", "revision", "unrestricted", "advisory", "delegation")
MEMBERS = ("sources", "types", *EAGER_MEMBERS, *NAMED_MEMBERS, *LAZY_MEMBERS, "tree", "uses")
KINDS = (
    *(
        k.EntityType,
        k.Issuer,
        k.Attester,
        k.DelegationLimits,
        k.Binder,
        k.AgentBlock,
        k.UserBlock,
        k.AnyoneBlock,
        k.Guard,
        k.Limit,
        k.EventRetention,
        k.MapItem,
    ),
    *(Tree, Uses),
)
UNIONS = {"limits": k.Limit, "maps": k.MapItem}
REVISION = re.compile(r"sha256:[0-9a-f]{64}")


Item = TypeVar("Item")
Anchor = TypeVar("Anchor", k.EntityType, k.Issuer, k.Attester)
Refuse: TypeAlias = Callable[[str], Exception]


@cache
def bundle_codec() -> BundleCodec:
    """Return the codec, created for the first bundle that is written or read, because most engines use none."""
    return BundleCodec(KINDS, CHECKS)


def pack(value: object) -> bytes:
    return cast(bytes, msgpack.packb(value))


def unpack(data: bytes) -> Any:
    """Decode MessagePack. Raises BundleDataError."""
    try:
        return msgpack.unpackb(data)
    except (ValueError, RecursionError, MemoryError):  # ValueError: truncated, too deep, not UTF-8, not a text key
        raise BundleDataError("invalid MessagePack") from None


def encode_payload(kernel: k.Kernel, tree: Tree) -> bytes:
    writing = EncodeContext()
    named = {
        field: [bundle_codec().write(one, writing) for _, one in sorted(getattr(kernel, field).items())]
        for field in NAMED_MEMBERS
    }
    parts = {
        field: [pack(bundle_codec().write(one, writing, UNIONS.get(field))) for one in getattr(kernel, field)]
        for field in LAZY_MEMBERS
    }
    members = {
        "package": kernel.package,
        "packages": list(kernel.packages),
        "revision": kernel.revision,
        "unrestricted": list(kernel.unrestricted),
        "advisory": list(kernel.advisory),
        "delegation": [bundle_codec().write(one, writing) for one in kernel.delegation],
        **named,
        **parts,
        "tree": bundle_codec().write(replace(tree, uses=()), writing),
        "uses": [pack(bundle_codec().write(one, writing)) for one in tree.uses],
        # The name of a source below the policy root, so that bundles reveal nothing about the machine that created
        # them.
        "sources": [[source.label or source.name, source.text] for source in writing.sources],
        "types": writing.rows,
    }
    return pack({name: members[name] for name in MEMBERS})


def decode_payload(payload: bytes, refuse: Refuse) -> tuple[k.Kernel, Tree]:
    """Return the content of a payload. Raises BundleDataError; a damaged part raises the error of `refuse` at first
    use."""
    raw = unpack(payload)
    require(isinstance(raw, dict) and tuple(raw) == MEMBERS, "other members")
    reading = DecodeContext(tuple(decode_source(one) for one in decode_list(raw["sources"])), read_types(raw["types"]))
    entities = decode_mapping(k.EntityType, raw["entities"], reading)
    check_entities(reading.types, entities)
    issuers = decode_mapping(k.Issuer, raw["issuers"], reading)
    attesters = decode_mapping(k.Attester, raw["attesters"], reading)
    counts = {field: len(decode_list(raw[field])) for field in (*LAZY_MEMBERS, "uses")}
    reading = replace(
        reading,
        entities=frozenset(entities),
        issuers=frozenset(issuers),
        attesters=frozenset(attesters),
        counts=counts,
    )
    kernel = k.Kernel(
        package=decode_text(raw["package"]),
        packages=decode_texts(raw["packages"]),
        revision=decode_revision(raw["revision"]),
        entities=entities,
        issuers=issuers,
        attesters=attesters,
        unrestricted=decode_texts(raw["unrestricted"]),
        advisory=decode_texts(raw["advisory"]),
        delegation=tuple(
            bundle_codec().read(k.DelegationLimits, one, reading) for one in decode_list(raw["delegation"])
        ),
        binders=lazy_parts(k.Binder, raw["binders"], reading, refuse),
        agents=lazy_parts(k.AgentBlock, raw["agents"], reading, refuse),
        users=lazy_parts(k.UserBlock, raw["users"], reading, refuse),
        anyones=lazy_parts(k.AnyoneBlock, raw["anyones"], reading, refuse),
        guards=lazy_parts(k.Guard, raw["guards"], reading, refuse),
        limits=lazy_parts(cast("type[k.Limit]", k.Limit), raw["limits"], reading, refuse),
        watches=lazy_parts(k.EventRetention, raw["watches"], reading, refuse),
        maps=lazy_parts(cast("type[k.MapItem]", k.MapItem), raw["maps"], reading, refuse),
    )
    return kernel, replace(
        bundle_codec().read(Tree, raw["tree"], reading), uses=lazy_parts(Uses, raw["uses"], reading, refuse)
    )


def read_everything(kernel: k.Kernel, tree: Tree) -> tuple[k.Kernel, Tree]:
    """Return the kernel and the tree with every part decoded, so that no part can fail later."""
    kernel = replace(
        kernel,
        binders=tuple(kernel.binders),
        agents=tuple(kernel.agents),
        users=tuple(kernel.users),
        anyones=tuple(kernel.anyones),
        guards=tuple(kernel.guards),
        limits=tuple(kernel.limits),
        watches=tuple(kernel.watches),
        maps=tuple(kernel.maps),
    )
    return kernel, replace(tree, uses=tuple(tree.uses))


# ── Parts that are decoded when needed ──────────────────────────────────────────────────────────


class LazySequence(Sequence[Item]):
    """Items that are decoded at first use. Threads may share the sequence: all get the same item."""

    __slots__ = ("_items", "_lock", "_read")

    def __init__(self, data: list[bytes], read: Callable[[int, bytes], Item]) -> None:
        self._items: list[bytes | Item] = [*data]
        self._read, self._lock = read, Lock()

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(*index.indices(len(self))))
        item = self._items[index]
        return self._made(range(len(self))[index]) if isinstance(item, bytes) else item

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, LazySequence | tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _made(self, index: int) -> Item:
        with self._lock:
            item = self._items[index]
            if isinstance(item, bytes):
                item = self._items[index] = self._read(index, item)
            return item


def lazy_parts(kind: type[Item], raw: object, reading: DecodeContext, refuse: Refuse) -> tuple[Item, ...]:
    def read(index: int, data: bytes) -> Item:
        fresh = replace(reading, unbound=[], depth=0)
        try:
            made = bundle_codec().read(kind, unpack(data), fresh)
            require(not fresh.unbound, "an unbound variable")
        except BundleDataError as error:
            raise refuse(f"{getattr(kind, '__name__', 'part')} {index + 1}: {error}") from None
        return made

    blobs = [one for one in decode_list(raw) if isinstance(one, bytes)]
    require(len(blobs) == len(decode_list(raw)), "parts that are not bytes")
    # The kernel's classes declare `tuple`; callers use it only as a sequence.
    return cast("tuple[Item, ...]", LazySequence(blobs, read))


# ── The remaining parts ────────────────────────────────────────────────────────────────────────────


def decode_list(raw: object) -> list[Any]:
    require(isinstance(raw, list), "a missing list")
    return cast("list[Any]", raw)


def decode_text(raw: object) -> str:
    require(isinstance(raw, str), "a missing text")
    return cast(str, raw)


def decode_texts(raw: object) -> tuple[str, ...]:
    return tuple(decode_text(one) for one in decode_list(raw))


def decode_revision(raw: object) -> str:
    require(REVISION.fullmatch(decode_text(raw)) is not None, "a revision that is not a digest")
    return decode_text(raw)


def decode_source(raw: object) -> Source:
    match raw:
        case [str(name), str(written)]:
            return Source(name, written, name)
        case _:
            raise BundleDataError("a source without its text")


def decode_mapping(kind: type[Anchor], raw: object, reading: DecodeContext) -> Mapping[str, Anchor]:
    found = [bundle_codec().read(kind, one, reading) for one in decode_list(raw)]
    names = [one.name for one in found]
    require(names == sorted(set(names)), f"{kind.__name__} repeated, or in an unexpected order")
    return dict(zip(names, found, strict=True))


def check_entities(types: Sequence[Type], entities: Mapping[str, k.EntityType]) -> None:
    """Check that all types refer to declared entities."""
    known = {*entities, *BUILT_IN_ENTITIES}
    spoken = [type_.entities for type_ in types if isinstance(type_, RefType)]
    spoken += [frozenset(entity.parents) for entity in entities.values()]
    require(all(names <= known for names in spoken), "an entity that is not declared")

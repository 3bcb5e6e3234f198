"""The content of a bundle: the texts of the policies, and their rules. Most rules are decoded and checked when a
decision first needs them; the tree is built from their outlines when the bundle is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, msgpack

from policyengine import kernel as k
from policyengine.checker.names.symbols import BUILT_IN_ENTITIES
from policyengine.compiler.bundle.outlines import OutlineReader
from policyengine.compiler.bundle.schema import ENCODER, HISTORY_BYTES, BundleSchema, guarded
from policyengine.compiler.bundle.tables import (
    CHUNK,
    ROWS,
    BundleDataError,
    DecodeContext,
    EncodeContext,
    PatternTable,
    add_rows,
    encode_rows,
)
from policyengine.compiler.bundle.verify import CHECKS, check_endpoint
from policyengine.compiler.bundle.verify_expressions import require
from policyengine.compiler.lazy_sequence import LazySequence
from policyengine.compiler.tree import Tree, TreeBuilder, placed_patterns
from policyengine.source import Source
from policyengine.typesystem import RefType, Type

Refuse: TypeAlias = Callable[[str], Exception]
Revision: TypeAlias = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]


class RuleData(Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """The rules of a bundle: the members of a kernel, and the tables that they refer to. Items of type bytes are
    decoded later.
    """

    package: str
    packages: tuple[str, ...]
    revision: Revision
    unrestricted: tuple[str, ...]
    advisory: tuple[str, ...]
    reads_behavior: bool
    types: bytes
    patterns: list[bytes]
    entities: list[bytes]
    issuers: list[bytes]
    attesters: list[bytes]
    delegation: list[bytes]
    binders: list[bytes]
    agents: list[bytes]
    users: list[bytes]
    anyones: list[bytes]
    guards: list[bytes]
    limits: list[bytes]
    watches: list[bytes]
    maps: list[bytes]
    profiles: list[bytes]


class BundleContent(Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """The payload. `rules` are the bytes of RuleData."""

    sources: tuple[tuple[str, str], ...]
    rules: bytes


NAMED_MEMBERS = ("entities", "issuers", "attesters")
LAZY_MEMBERS = ("binders", "agents", "users", "anyones", "guards", "limits", "watches", "maps", "profiles")
KINDS: Mapping[str, Any] = {
    "entities": k.EntityType,
    "issuers": k.Issuer,
    "attesters": k.Attester,
    "delegation": k.DelegationLimits,
    "binders": k.Binder,
    "agents": k.AgentBlock,
    "users": k.UserBlock,
    "anyones": k.AnyoneBlock,
    "guards": k.Guard,
    "limits": k.Limit,
    "watches": k.EventRetention,
    "maps": k.MapItem,
    "profiles": k.Profile,
}
# Blocks that have requirements, and the default values of the fields after these.
HEADS: Mapping[str, dict[str, object]] = {"agents": {"grants": (), "delegates": ()}, "users": {"grants": ()}}
CONTENT: msgpack.Decoder[BundleContent] = msgpack.Decoder(BundleContent)
RULES: msgpack.Decoder[RuleData] = msgpack.Decoder(RuleData)


@cache
def bundle_schema() -> BundleSchema:
    """Return the schema. It is created when the first bundle is written or read, because most engines use
    no bundles.
    """
    return BundleSchema(tuple(KINDS.values()), CHECKS)


@cache
def outline_reader() -> OutlineReader:
    return OutlineReader(bundle_schema())


# ── Writing ───────────────────────────────────────────────────────────────────────────────────


def encode_payload(kernel: k.Kernel, sources: Sequence[Source] = ()) -> tuple[str, bytes]:
    """Encode the rules with the texts that they refer to; return the shape of the schema that they need, and the bytes.
    `sources` are the texts of all policy files, if known.
    """
    context, schema = EncodeContext(sources), bundle_schema()
    for pattern in placed_patterns(kernel):
        context.pattern_number(pattern)  # numbers patterns in the table as `tree_of` does
    parts: dict[str, list[bytes]] = {}
    for name, kind in KINDS.items():
        held: Any = getattr(kernel, name)
        values = [held[one] for one in sorted(held)] if name in NAMED_MEMBERS else held
        parts[name] = [schema.write(value, context, kind) for value in values]
    rules = RuleData(
        kernel.package, tuple(kernel.packages), kernel.revision, tuple(kernel.unrestricted), tuple(kernel.advisory),
        kernel.reads_behavior, ENCODER.encode(context.type_rows), encode_rows(context.pattern_rows),
        **parts,
    )  # fmt: skip
    # The name of a source below the policy root, so that bundles reveal nothing about the machine that created them.
    texts = tuple((source.label or source.name, source.text) for source in context.sources)
    shape = schema.shape if context.has_later_members else schema.early_shape
    return shape, ENCODER.encode(BundleContent(texts, ENCODER.encode(rules)))


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DecodedPayload:
    """The content of a bundle; `sources` are the policy texts."""

    kernel: k.Kernel
    tree: Tree
    sources: tuple[Source, ...]


def decode_payload(payload: bytes, refuse: Refuse) -> DecodedPayload:
    """Return the content of a payload. Raises BundleDataError; a damaged rule raises the error that `refuse` returns
    when it is first used.
    """
    content = guarded(CONTENT.decode, payload)
    rules: RuleData = guarded(RULES.decode, content.rules)
    sources = tuple(Source(name, text, name) for name, text in content.sources)
    context = DecodeContext(sources, (), PatternTable(rules.patterns, check_endpoint))
    context = replace(context, types=bundle_schema().read_types(rules.types, context))
    entities = read_named("entities", rules.entities, context)
    check_entities(context.types, entities)
    issuers, attesters = (
        read_named("issuers", rules.issuers, context),
        read_named("attesters", rules.attesters, context),
    )
    context = replace(context, entities=frozenset(entities), issuers=frozenset(issuers), attesters=frozenset(attesters))
    context = replace(context, reads_behavior=rules.reads_behavior)
    delegation = tuple(bundle_schema().read(k.DelegationLimits, raw, context) for raw in rules.delegation)
    lazy = {name: lazy_parts(name, rules, context, refuse) for name in LAZY_MEMBERS}
    kernel = k.Kernel(
        package=rules.package, packages=rules.packages, revision=rules.revision, entities=entities, issuers=issuers,
        attesters=attesters, unrestricted=rules.unrestricted, advisory=rules.advisory, delegation=delegation,
        reads_behavior=rules.reads_behavior, **lazy,
    )  # fmt: skip
    texts = tuple(source for source in sources if source.text)  # built-in declarations have none
    return DecodedPayload(kernel, build_tree(rules), texts)


def build_tree(rules: RuleData) -> Tree:
    """Build the tree from the outlines of the rules. Raises BundleDataError."""
    builder = TreeBuilder(rules.package, rules.revision)
    for left, raw in zip(reversed(range(len(rules.patterns))), rules.patterns, strict=True):
        rows = guarded(ROWS.decode, raw)
        # If the lengths differed, patterns would have other numbers here than in PatternTable.
        require(len(rows) == CHUNK if left else len(rows) <= CHUNK, "a table of patterns with other chunks")
        add_rows(rows, builder)
    guarded(outline_reader().add_rules, builder, rules)
    return builder.tree()


def read_everything(kernel: k.Kernel) -> k.Kernel:
    """Return the kernel with every rule decoded, so that no rule can fail later."""
    members: Any = {name: tuple(getattr(kernel, name)) for name in LAZY_MEMBERS}
    return replace(kernel, **members)


def lazy_parts(name: str, rules: RuleData, context: DecodeContext, refuse: Refuse) -> Any:
    """Return the rules of one kind. The kernel's classes declare `tuple`, but callers use only methods of a
    sequence.
    """
    kind, data = KINDS[name], getattr(rules, name)

    def read(index: int, raw: bytes) -> object:
        return read_part(index, lambda fresh: bundle_schema().read(kind, raw, fresh))

    def read_head(index: int, raw: bytes) -> object:
        return read_part(
            index, lambda fresh: bundle_schema().read_head(kind, "requirements", raw, fresh, **HEADS[name])
        )

    def read_part(index: int, decode: Callable[[DecodeContext], object]) -> object:
        fresh = replace(context, unbound=[], depth=0)
        try:
            made = decode(fresh)
            require(not fresh.unbound, "an unbound variable")
        except BundleDataError as error:
            raise refuse(f"{name} {index + 1}: {error}") from None
        return made

    may_read_history = bool(rules.watches) and any(HISTORY_BYTES in raw for raw in data)
    return LazySequence(data, read, read_head if name in HEADS else None, may_read_history)


def read_named(name: str, data: list[bytes], context: DecodeContext) -> Any:
    found: list[Any] = [bundle_schema().read(KINDS[name], raw, context) for raw in data]
    names = [one.name for one in found]
    require(names == sorted(set(names)), f"{name} repeated, or in an unexpected order")
    return dict(zip(names, found, strict=True))


def check_entities(types: Sequence[Type], entities: Mapping[str, k.EntityType]) -> None:
    """Check that all types refer to declared entities. Raises BundleDataError."""
    known = {*entities, *BUILT_IN_ENTITIES}
    names = [type_.entities for type_ in types if isinstance(type_, RefType)]
    names += [frozenset(entity.parents) for entity in entities.values()]
    require(all(one <= known for one in names), "an entity that is not declared")

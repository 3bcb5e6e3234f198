"""Encode values of declared types as plain data and decode them, for bundles; decoded data is checked before it is
used.

The declared fields of the kernel's classes define the encoding: a class is an array of its fields, preceded by its
number if several classes are possible. Decoding checks the data against the same declarations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from policyengine import typesystem
from policyengine.compiler.bundle.scalars import (
    SCALARS,
    TYPE,
    VALUE,
    BundleDataError,
    Coder,
    DecodeContext,
    EncodeContext,
    data_error,
    word_coder,
)
from policyengine.kernel.fingerprint import SEMANTICS_VERSION

# The checker allows 150 levels of expressions, and `not in` becomes two levels of the kernel. Decoding takes three of
# Python's thousand frames per level; comprehensions would take an additional frame, so this code uses loops.
MAX_DEPTH = 250

Item = TypeVar("Item")
Check: TypeAlias = Callable[[Any, DecodeContext], None]


# ── Containers ─────────────────────────────────────────────────────────────────────────


def sequence_coder(item: Coder) -> Coder:
    def read(raw: object, reading: DecodeContext) -> tuple[object, ...]:
        if type(raw) is not list:
            raise data_error("a list", raw)
        found = []
        for raw_item in raw:
            found.append(item.read(raw_item, reading))
        return tuple(found)

    return Coder(f"({item.shape}, …)", lambda value, writing: [item.write(one, writing) for one in value], read)


def tuple_coder(parts: tuple[Coder, ...]) -> Coder:
    """Return the coder of a tuple with a fixed number of elements, each of its own type."""

    def read(raw: object, reading: DecodeContext) -> tuple[object, ...]:
        if type(raw) is not list or len(raw) != len(parts):
            raise data_error(f"a list of {len(parts)}", raw)
        return tuple([part.read(one, reading) for part, one in zip(parts, raw, strict=True)])

    def write(value: tuple[object, ...], writing: EncodeContext) -> object:
        return [part.write(one, writing) for part, one in zip(parts, value, strict=True)]

    return Coder(f"({', '.join(part.shape for part in parts)})", write, read)


def set_coder(item: Coder) -> Coder:
    """Return the coder of a set, encoded in ascending order."""

    def read(raw: object, reading: DecodeContext) -> frozenset[object]:
        if type(raw) is not list:
            raise data_error("a set", raw)
        found: list[Any] = [item.read(one, reading) for one in raw]
        if any(one >= other for one, other in pairwise(found)):
            raise BundleDataError("a set whose elements are not in ascending order")
        return frozenset(found)

    return Coder(f"{{{item.shape}}}", lambda value, writing: [item.write(one, writing) for one in sorted(value)], read)


@dataclass(slots=True)
class RecordCoder:
    """The coder of a class: an array of its fields, preceded by `number` if other classes are possible.

    `check` raises an error for a decoded value that the checker could not have produced.
    """

    kind: type
    number: int
    names: tuple[str, ...] = ()
    coders: tuple[Coder, ...] = ()
    check: Check | None = None

    @property
    def shape(self) -> str:
        told = ", ".join(f"{name}: {coder.shape}" for name, coder in zip(self.names, self.coders, strict=True))
        return f"{self.number} {self.kind.__name__}({told})"

    def write(self, value: object, writing: EncodeContext) -> list[object]:
        return [coder.write(getattr(value, name), writing) for name, coder in zip(self.names, self.coders, strict=True)]

    def read(self, raw: Any, reading: DecodeContext, first: int = 0) -> Any:
        if type(raw) is not list or len(raw) - first != len(self.coders):
            raise data_error(f"{self.kind.__name__} with {len(self.coders)} members", raw)
        members = {}
        for name, coder in zip(self.names, self.coders, strict=True):
            members[name] = coder.read(raw[first], reading)
            first += 1
        made = self.kind(**members)
        if self.check is not None:
            self.check(made, reading)
        return made


def union_coder(absent: bool, other: Coder | None, records: Sequence[RecordCoder]) -> Coder:
    """Return the coder of a union; the encoded value identifies its type. With classes, `other` must not be encoded as
    a list."""
    numbered = {record.number: record for record in records}
    by_class = {record.kind: record for record in records}

    def write(value: object, writing: EncodeContext) -> object:
        record = by_class.get(type(value))
        if record is not None:
            return [record.number, *record.write(value, writing)]
        return None if value is None or other is None else other.write(value, writing)

    def read(raw: Any, reading: DecodeContext) -> Any:
        if raw is None and absent:
            return None
        if not numbered or type(raw) is not list:
            if other is None:
                raise data_error(told, raw)
            return other.read(raw, reading)
        record = numbered.get(raw[0]) if raw and type(raw[0]) is int else None
        if record is None:
            raise data_error(told, raw[0] if raw else raw)
        reading.depth += 1
        if reading.depth > MAX_DEPTH:
            raise BundleDataError(f"parts nest more than {MAX_DEPTH} levels deep")
        made = record.read(raw, reading, 1)
        reading.depth -= 1
        return made

    told = " | ".join([*["None"] * absent, *([other.shape] if other else []), *(one.__name__ for one in by_class)])
    return Coder(told, write, read)


# ── Coders of declared types ─────────────────────────────────────────────────────────────────────────


class BundleCodec:
    """The coders of some root classes and of everything that these contain, numbered in the order of first use."""

    def __init__(self, roots: Sequence[Any], checks: Mapping[type, Check]) -> None:
        self.records: dict[type, RecordCoder] = {}
        self._checks = checks
        self._roots: dict[Any, Coder] = {root: self._coder(root) for root in roots}
        told = "\n".join([f"semantics {SEMANTICS_VERSION}", *(record.shape for record in self.records.values())])
        # Equal for codecs with the same encoding; any change of fields, classes, order or meaning changes it.
        self.shape = hashlib.sha256(told.encode()).hexdigest()[:16]

    def write(self, value: object, writing: EncodeContext, kind: Any = None) -> object:
        """Encode a value of one of the roots, which is its class unless `kind` is given."""
        return self._roots[kind or type(value)].write(value, writing)

    def read(self, kind: type[Item], raw: object, reading: DecodeContext) -> Item:
        """Decode a value of the root `kind`. Raises BundleDataError."""
        try:
            made: Item = self._roots[kind].read(raw, reading)
        except RecursionError:
            raise BundleDataError("an infinitely nested part") from None
        return made

    def _record(self, kind: type) -> RecordCoder:
        known = self.records.get(kind)
        if known is None:
            known = self.records[kind] = RecordCoder(kind, len(self.records), check=self._checks.get(kind))
            hints = get_type_hints(kind)
            known.names = tuple(one.name for one in fields(kind))
            known.coders = tuple(self._coder(hints[name]) for name in known.names)
        return known

    def _coder(self, hint: Any) -> Coder:
        if hint in SCALARS:
            return SCALARS[hint]
        if hint == typesystem.Type:
            return TYPE
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Literal:
            return word_coder(inner)
        if origin is frozenset:
            return set_coder(self._coder(inner[0]))
        if origin is tuple:
            parts = tuple(self._coder(one) for one in inner if one is not ...)
            return sequence_coder(parts[0]) if inner[-1] is ... else tuple_coder(parts)
        if origin in (Union, UnionType):
            return self._union(inner)
        record = self._record(hint)
        return Coder(record.kind.__name__, record.write, record.read)

    def _union(self, members: tuple[Any, ...]) -> Coder:
        if Decimal in members:
            return VALUE
        records = [self._record(one) for one in members if isinstance(one, type) and is_dataclass(one)]
        others = [self._coder(one) for one in members if not is_dataclass(one) and one is not NoneType]
        if len(others) > 1:
            raise TypeError(f"the written value does not identify its type among {members}")
        return union_coder(NoneType in members, others[0] if others else None, records)

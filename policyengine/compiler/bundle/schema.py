"""Derives from the declared fields of the kernel's classes how bundles store a kernel: for each class a tagged
`msgspec` struct with the same fields, and conversions to and from it. Decoded parts are checked before they are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

from msgspec import MsgspecError, Raw, defstruct, msgpack

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.bundle import forms
from policyengine.compiler.bundle.forms import Form, Read
from policyengine.compiler.bundle.tables import BundleDataError, DecodeContext, EncodeContext, Index
from policyengine.kernel.fingerprint import SEMANTICS_VERSION
from policyengine.source import Span

# The checker allows 150 levels of expressions, and `not in` becomes two levels of the kernel. Reading takes three of
# Python's thousand frames per level; comprehensions would take an additional frame, so this code uses loops.
MAX_DEPTH = 250
# Tags of conditions on the history. Their bytes are not valid in a text, so a part of a bundle that does not contain
# them has no such condition.
HISTORY_TAGS = {k.HistoryCondition: 0xF1F2F3F4, k.Aggregate: 0xF1F2F3F5}
HISTORY_BYTES = b"\xf1\xf2\xf3"
MAX_TYPE_DEPTH = 100
# The last member of a class, by class, if bundles were written before it existed. It is not written if it is empty, so
# policies without it have the same bundles in every version, and every version can read them.
LATER_MEMBERS: Mapping[type, str] = {k.Approvers: "issuers"}
WIRES, FORM, TAG = "_wires", "_form", "#"  # attributes of the structs; no field has one of these names
ENCODER = msgpack.Encoder()

Item = TypeVar("Item")
Check: TypeAlias = Callable[[Any, DecodeContext], None]
SCALARS: Mapping[object, Form] = {
    bool: forms.plain_form(bool),
    int: forms.plain_form(int),
    str: forms.TEXT,
    tuple[str, ...]: forms.TEXTS,
    typesystem.Scalar: Form("scalar", lambda: typesystem.Scalar),
    Span: forms.SPAN,
    timedelta: forms.DURATION,
    datetime: forms.TIME,
    ZoneInfo: forms.ZONE,
}


# ── Containers ─────────────────────────────────────────────────────────────────────────


def sequence_form(item: Form) -> Form:
    """Return the form of a tuple with any number of elements of one type."""
    shape, wire = f"({item.shape}, …)", lambda: tuple[item.wire(), ...]  # type: ignore[misc]
    convert, revert = item.write, item.read
    if convert is None or revert is None:
        return Form(shape, wire)

    def write(value: Iterable[Any], context: EncodeContext) -> tuple[Any, ...]:
        return tuple([convert(element, context) for element in value])

    def read(raw: tuple[Any, ...], context: DecodeContext) -> tuple[Any, ...]:
        found = []
        for element in raw:
            found.append(revert(element, context))
        return tuple(found)

    return Form(shape, wire, write, read)


def tuple_form(parts: tuple[Form, ...]) -> Form:
    """Return the form of a tuple with a fixed number of elements, each of its own type."""

    def write(value: tuple[Any, ...], context: EncodeContext) -> tuple[Any, ...]:
        return tuple([convert_value(part.write, element, context) for part, element in zip(parts, value, strict=True)])

    def read(raw: tuple[Any, ...], context: DecodeContext) -> tuple[Any, ...]:
        return tuple([convert_value(part.read, element, context) for part, element in zip(parts, raw, strict=True)])

    shape = f"({', '.join(part.shape for part in parts)})"
    wire = lambda: tuple[tuple(part.wire() for part in parts)]  # type: ignore[misc]  # noqa: E731
    return Form(shape, wire, write, read)


def convert_value(convert: Callable[[Any, Any], Any] | None, value: Any, context: Any) -> Any:
    return value if convert is None else convert(value, context)


def set_form(item: Form) -> Form:
    """Return the form of a set of texts or numbers, written in ascending order."""
    return Form(
        f"{{{item.shape}}}",
        lambda: tuple[item.wire(), ...],  # type: ignore[misc]
        lambda value, _: tuple(sorted(value)),
        lambda raw, _: frozenset(raw),
    )


# ── Classes ───────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ClassForm:
    """How a class is stored: the number of the class, then its fields. `check` raises an error for a decoded value that
    the checker could not have produced.
    """

    kind: type
    number: int
    names: tuple[str, ...] = ()
    parts: tuple[Form, ...] = ()
    reads: tuple[tuple[str, Read | None], ...] = ()
    struct: Any = None
    short_struct: Any = None  # without a later member; None if the class has no later member
    check: Check | None = None

    @property
    def shape(self) -> str:
        return self.shape_of(zip(self.names, self.parts, strict=True))

    @property
    def early_shape(self) -> str:
        """The shape without the later member."""
        later = LATER_MEMBERS.get(self.kind)
        return self.shape_of((name, part) for name, part in zip(self.names, self.parts, strict=True) if name != later)

    def shape_of(self, members: Iterable[tuple[str, Form]]) -> str:
        return f"{self.number} {self.kind.__name__}({', '.join(f'{name}: {part.shape}' for name, part in members)})"

    def write(self, value: object, context: EncodeContext) -> Any:
        members = [
            convert_value(part.write, getattr(value, name), context)
            for name, part in zip(self.names, self.parts, strict=True)
        ]
        if self.short_struct is None:
            return self.struct(*members)
        if not members[-1]:
            return self.short_struct(*members[:-1])
        context.has_later_members = True
        return self.struct(*members)

    def read(self, raw: Any, context: DecodeContext) -> Any:
        members = {}
        for name, read in self.reads:
            member = getattr(raw, name)
            members[name] = member if read is None else read(member, context)
        made = self.kind(**members)
        if self.check is not None:
            self.check(made, context)
        return made


def union_form(is_optional: bool, other: Form | None, classes: Sequence[ClassForm]) -> Form:
    """Return the form of a union of classes and at most one other type; `is_optional` adds None."""
    by_class = {one.kind: one for one in classes}

    def wire() -> Any:
        kinds = [*(one.struct for one in classes), *([other.wire()] if other else []), *([None] if is_optional else [])]
        return Union[tuple(kinds)]  # noqa: UP007

    def write(value: object, context: EncodeContext) -> object:
        found = by_class.get(type(value))
        if found is not None:
            return found.write(value, context)
        return value if value is None or other is None else convert_value(other.write, value, context)

    def read(raw: Any, context: DecodeContext) -> Any:
        found: ClassForm | None = getattr(raw, FORM, None)
        if found is None:
            return raw if raw is None or other is None else convert_value(other.read, raw, context)
        context.depth += 1
        if context.depth > MAX_DEPTH:
            raise BundleDataError(f"parts nest more than {MAX_DEPTH} levels deep")
        made = found.read(raw, context)
        context.depth -= 1
        return made

    shape = " | ".join(
        [*["None"] * is_optional, *([other.shape] if other else []), *(one.__name__ for one in by_class)]
    )
    if not classes and other is not None and other.read is None:
        return Form(shape, wire)
    return Form(shape, wire, write, read)


# ── All classes ───────────────────────────────────────────────────────────────────────────────


class BundleSchema:
    """The forms of some root classes and of everything that these contain, numbered in the order of first use."""

    def __init__(self, roots: Sequence[Any], checks: Mapping[type, Check]) -> None:
        self.classes: dict[type, ClassForm] = {}
        self._checks = checks
        self._wires: list[Callable[[], Any]] = []
        self._rows = self._union((*get_args(typesystem.Type),))
        self._roots: dict[Any, Form] = {root: self._form(root) for root in roots}
        self._decoders: dict[Any, msgpack.Decoder[Any]] = {}
        # Equal for schemas that store everything in the same way: changed fields, classes, order or meaning change it.
        self.shape = digest_shapes(one.shape for one in self.classes.values())
        self.early_shape = digest_shapes(one.early_shape for one in self.classes.values())

    def write(self, value: object, context: EncodeContext, kind: Any = None) -> bytes:
        """Encode a value of a root class. `kind` is the root; by default, the class of the value."""
        form = self._roots[kind or type(value)]
        return ENCODER.encode(convert_value(form.write, value, context))

    def read(self, kind: type[Item], raw: bytes, context: DecodeContext) -> Item:
        """Decode a value of the root class `kind`. Raises BundleDataError."""
        form = self._roots[kind]
        made: Item = guarded(lambda: convert_value(form.read, self._decoder(kind, form).decode(raw), context))
        return made

    def read_head(self, kind: type[Item], last: str, raw: bytes, context: DecodeContext, **others: object) -> Item:
        """Decode the fields of a class up to `last`; `others` are the values of the other fields. Raises
        BundleDataError.
        """
        found = self.classes[kind]
        reads = found.reads[: found.names.index(last) + 1]

        def read() -> Item:
            decoder = self._decoders.get((kind, last))
            if decoder is None:
                wires = {name: self.form(kind, name).wire() for name, _ in reads}
                decoder = self._decoders[kind, last] = msgpack.Decoder(self.prefix(kind, **wires))
            head = decoder.decode(raw)
            members = {name: convert_value(part, getattr(head, name), context) for name, part in reads}
            return kind(**members, **others)

        made: Item = guarded(read)
        return made

    def _decoder(self, key: Any, form: Form) -> msgpack.Decoder[Any]:
        found = self._decoders.get(key)
        if found is None:
            found = self._decoders[key] = msgpack.Decoder(form.wire())
        return found

    # ── Types of expressions ──────────────────────────────────────────────────────────────────

    def read_types(self, raw: bytes, context: DecodeContext) -> tuple[typesystem.Type, ...]:
        """Decode the table of types. Each row refers only to earlier rows, so no type contains itself. Raises
        BundleDataError.
        """
        rows = guarded(msgpack.Decoder(tuple[self._rows.wire(), ...]).decode, raw)  # type: ignore[misc]
        found: list[typesystem.Type] = []
        depths: dict[int, int] = {}
        context = replace(context, types=found)
        for row in rows:
            made: typesystem.Type = convert_value(self._rows.read, row, context)
            depth = depths[id(made)] = 1 + max((depths[id(inner)] for inner in inner_types(made)), default=0)
            if depth > MAX_TYPE_DEPTH:
                raise BundleDataError(f"types nest more than {MAX_TYPE_DEPTH} levels deep")
            found.append(made)
        return tuple(found)

    def _write_type(self, type_: typesystem.Type, context: EncodeContext) -> int:
        known = context.types.get(type_)
        if known is None:
            row = convert_value(self._rows.write, type_, context)
            known = context.types[type_] = len(context.type_rows)
            context.type_rows.append(row)
        return known

    # ── Derivation ────────────────────────────────────────────────────────────────────────────

    def form(self, kind: type, name: str) -> Form:
        """Return the form of a field of a class."""
        found = self.classes[kind]
        return found.parts[found.names.index(name)]

    def prefix(self, kind: type, **wires: Any) -> Any:
        """Return a struct that decodes only the first fields of a class; the last of them have the given types."""
        found = self.classes[kind]
        last = max(found.names.index(name) for name in wires)
        members = [(name, wires.get(name, Raw)) for name in found.names[: last + 1]]
        return defstruct(kind.__name__, members, array_like=True, gc=False, tag=found.number, tag_field=TAG)

    def _class(self, kind: type) -> ClassForm:
        known = self.classes.get(kind)
        if known is None:
            number = HISTORY_TAGS.get(kind, len(self.classes))
            known = self.classes[kind] = ClassForm(kind, number, check=self._checks.get(kind))
            hints = get_type_hints(kind)
            known.names = tuple(one.name for one in fields(kind))
            known.parts = tuple(self._form(hints[name]) for name in known.names)
            known.reads = tuple((name, part.read) for name, part in zip(known.names, known.parts, strict=True))
            later = LATER_MEMBERS.get(kind)
            if later is not None:
                known.short_struct = self._struct(known, [name for name in known.names if name != later])
            known.struct = self._struct(known, known.names, later)
        return known

    def _struct(self, form: ClassForm, names: Sequence[str], later: str | None = None) -> Any:
        """Return the struct of some fields of a class. The types of its fields are looked up when the first decoder is
        made, because classes may refer to each other. The field `later` may be missing, and is then empty.
        """
        members: list[tuple[str, str] | tuple[str, str, object]] = []
        for name in names:
            wire = f"{WIRES}[{len(self._wires)}]()"
            members.append((name, wire, ()) if name == later else (name, wire))
            self._wires.append(form.parts[form.names.index(name)].wire)
        return defstruct(
            form.kind.__name__, members, namespace={WIRES: self._wires, FORM: form}, array_like=True, gc=False,
            forbid_unknown_fields=True, tag=form.number, tag_field=TAG,
        )  # fmt: skip

    def _form(self, hint: Any) -> Form:
        if hint in SCALARS:
            return SCALARS[hint]
        if hint == typesystem.Type:
            return Form("type", lambda: Index, self._write_type, forms.read_type)
        if hint == k.Pattern:
            return forms.PATTERN
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Literal:
            return Form(f"word({','.join(inner)})", lambda: hint)
        if origin is frozenset:
            return set_form(self._form(inner[0]))
        if origin is tuple:
            parts = tuple(self._form(one) for one in inner if one is not ...)
            return sequence_form(parts[0]) if inner[-1] is ... else tuple_form(parts)
        if origin in (Union, UnionType):
            return self._union(inner)
        found = self._class(hint)
        return Form(found.kind.__name__, lambda: found.struct, found.write, found.read)

    def _union(self, members: tuple[Any, ...]) -> Form:
        if Decimal in members:
            return forms.CONSTANT
        classes = [self._class(one) for one in members if isinstance(one, type) and is_dataclass(one)]
        others = [self._form(one) for one in members if not is_dataclass(one) and one is not NoneType]
        if len(others) > 1:
            raise TypeError(f"the stored value does not identify its type among {members}")
        return union_form(NoneType in members, others[0] if others else None, classes)


def digest_shapes(shapes: Iterable[str]) -> str:
    described = "\n".join([f"semantics {SEMANTICS_VERSION}", *shapes])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def inner_types(type_: typesystem.Type) -> list[typesystem.Type]:
    match type_:
        case typesystem.SetType(element) | typesystem.ListType(element):
            return [element]
        case typesystem.RecordType(members):
            return [member.type for member in members]
        case _:
            return []


def guarded(read: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of reading data; raise BundleDataError if the data have another shape."""
    try:
        return read(*arguments)
    except MsgspecError as error:
        raise BundleDataError(str(error)) from None
    except RecursionError:
        raise BundleDataError("a part that is nested too deeply") from None

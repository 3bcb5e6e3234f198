"""Parses table cells (CSV text or database values) into the attributes that a policy declares for an entity."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol, TypeAlias, assert_never
from uuid import UUID

from policyengine import typesystem
from policyengine.runtime import decode
from policyengine.runtime.values import ID_NAMES, MAX_STRING_LENGTH, Invalid, Unknown, coerce, coerce_id
from policyengine.typesystem import EntityRef, Scalar

SEPARATOR = ";"
MAX_CACHED_CELLS = 65_536  # maximum distinct cells cached for each column
INT = re.compile(r"[+-]?[0-9]{1,40}")
NUMBER = re.compile(r"[+-]?[0-9]{1,6145}(\.[0-9]{1,6178})?([eE][+-]?[0-9]{1,4})?")
BOOLS = {"true": True, "false": False, "TRUE": True, "FALSE": False, "True": True, "False": False}


class AttributeDeclaration(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> typesystem.Type: ...


class EntityDeclaration(Protocol):
    """The part of an `entity` declaration that readers of entities need."""

    @property
    def fields(self) -> Sequence[AttributeDeclaration]: ...
    @property
    def parents(self) -> tuple[str, ...]: ...


EntityDeclarations: TypeAlias = Mapping[str, EntityDeclaration]


@dataclass(frozen=True, slots=True)
class DeclarationCopy:
    """An entity declaration without its policy, for sending to another process."""

    fields: tuple[typesystem.FieldType, ...]
    parents: tuple[str, ...]


def copy_declarations(declared: EntityDeclarations) -> dict[str, DeclarationCopy]:
    return {
        name: DeclarationCopy(tuple(typesystem.FieldType(field.name, field.type) for field in one.fields), one.parents)
        for name, one in declared.items()
    }


class CellError(Exception):
    """The error for a cell that does not match its declared type: `message` says why, `hint` how to write it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def membership_type(declaration: EntityDeclaration) -> typesystem.Type:
    """Return the type of the column `in`: a set of references to the declared parents."""
    return typesystem.SetType(typesystem.RefType(frozenset(declaration.parents)))


def parse_cell(cell: object, type_: typesystem.Type, name: str) -> object:
    """Return the raw attribute in a cell, or None if the cell is empty. Raises CellError."""
    raw = parse_text(cell, type_) if isinstance(cell, str) else parse_database_value(cell, type_)
    return check_value(raw, type_, name)


def make_cell_parser(type_: typesystem.Type, name: str) -> Callable[[object], object]:
    """Return `parse_cell` for one column, with a cache, because the same text occurs in many rows."""
    known: dict[object, object] = {}

    def read(cell: object) -> object:
        if type(cell) is not str:
            return parse_cell(cell, type_, name)
        found = known.get(cell, known)
        if found is known:
            if len(known) >= MAX_CACHED_CELLS:
                known.clear()
            found = known[cell] = parse_cell(cell, type_, name)
        return found

    return parse_text_cell if type_ is Scalar.STRING and name not in ID_NAMES else read


def parse_text_cell(cell: object) -> object:
    """Parse a cell of a string column; short ASCII text needs no parsing. Raises CellError."""
    if type(cell) is str and cell.isascii() and 0 < len(cell) < MAX_STRING_LENGTH:
        return cell
    return parse_cell(cell, Scalar.STRING, "text")


def check_value(raw: object, type_: typesystem.Type, name: str) -> object:
    if raw is None:
        return None
    value = coerce(raw, type_, name)
    parts = [value, *value] if isinstance(value, tuple) else [value]
    for part in parts:
        if isinstance(part, Unknown):
            cause = min(part.causes, key=lambda cause: cause.why)
            why = "an element is empty" if cause.absent else cause.why
            raise CellError(f"`{name}`: {why}", cell_format_hint(type_))
    # A time stays text, which policies read in the same way and people can read in the decision log.
    return value if isinstance(type_, typesystem.RefType | typesystem.SetType | typesystem.ListType) else raw


def cell_format_hint(type_: typesystem.Type) -> str | None:
    """Return a hint that says how to write a cell of the type; None if every text is valid."""
    match type_:
        case Scalar.BOOL:
            return "write `true` or `false`"
        case Scalar.INT | Scalar.NUMBER:
            return "write digits, with a point before the fraction"
        case Scalar.STRING:
            return None
        case Scalar.DURATION:
            return "write a duration such as `15m`"
        case Scalar.TIME:
            return "write a time such as `2027-01-01T09:00:00Z`"
        case Scalar.IP | Scalar.CIDR:
            return (
                "write an address such as `10.0.0.1`" if type_ is Scalar.IP else "write a network such as `10.0.0.0/8`"
            )
        case typesystem.EnumType(values=values):
            return f"write one of {', '.join(f'`{one}`' for one in values[:8])}"
        case typesystem.RefType(entities=entities):
            one = min(entities, default="type")
            return None if len(entities) == 1 else f"write its type before it, as in `{one}:some-id`"
        case typesystem.SetType(element) | typesystem.ListType(element):
            own = cell_format_hint(element)
            return 'separate the elements with `;`, or write a JSON list: `["a", "b"]`' + (f"; {own}" if own else "")
        case typesystem.RecordType():
            return "write an object as JSON"
        case typesystem.UnresolvedType():
            return None
        case _:
            assert_never(type_)


# ── Text ──────────────────────────────────────────────────────────────────────────────────────


def parse_text(text: str, type_: typesystem.Type) -> object:
    """Return the raw value of a CSV text. An empty cell is None; text that does not match the type is returned
    unchanged. Raises CellError.
    """
    if text == "":
        return None
    match type_:
        case Scalar.BOOL:
            return BOOLS.get(text, text)
        case Scalar.INT:
            return int(text) if INT.fullmatch(text) else text
        case Scalar.NUMBER:
            return parse_number(text)
        case Scalar() | typesystem.EnumType() | typesystem.UnresolvedType():
            return text
        case typesystem.RefType():
            return parse_reference(text, type_)
        case typesystem.SetType(element) | typesystem.ListType(element):
            return parse_list(text, element)
        case typesystem.RecordType():
            return parse_json(text)
        case _:
            assert_never(type_)


def parse_number(text: str) -> object:
    if INT.fullmatch(text):
        return decode.clean(int(text))
    return decode.clean_decimal(Decimal(text)) if NUMBER.fullmatch(text) else text


def parse_reference(text: str, type_: typesystem.RefType) -> object:
    """Parse a reference: the bare id if the type allows one entity type, `team:legal` if it allows several. Raises
    CellError."""
    if len(type_.entities) == 1:
        return make_entity_ref(next(iter(type_.entities)), text)
    name, colon, id_ = text.partition(":")
    if not colon or name not in type_.entities:
        raise CellError(f"`{text[:60]}` does not begin with its type ({type_})", cell_format_hint(type_))
    return make_entity_ref(name, id_)


def make_entity_ref(type_: str, id_: str) -> EntityRef:
    known = coerce_id(id_, "id")
    if isinstance(known, Unknown):
        why = min("the id is empty" if cause.absent else cause.why for cause in known.causes)
        raise CellError(f"a reference to {type_}: {why}")
    return EntityRef(type_, known)


def parse_list(text: str, element: typesystem.Type) -> object:
    if text.startswith("["):
        found = parse_json(text)
        return tuple(parse_database_value(one, element) for one in found) if isinstance(found, tuple) else found
    return tuple(parse_text(one.strip(), element) for one in text.split(SEPARATOR) if one.strip())


def parse_json(text: str) -> object:
    try:
        return decode.from_json(text)
    except decode.DecodeError as error:
        raise CellError(str(error), "write it as JSON") from None


# ── Values of databases ───────────────────────────────────────────────────────────────────────


def parse_database_value(cell: object, type_: typesystem.Type) -> object:
    """Return a database value as a raw attribute. Databases have more types of text and numbers than policies."""
    match cell, type_:
        case None, _:
            return None
        case str(), _:
            return parse_text(cell, type_)
        case bool(), _:
            return cell
        case int(), Scalar.BOOL:  # SQLite has no booleans
            return {0: False, 1: True}.get(cell, cell)
        case ((int() | UUID()), (Scalar.STRING | typesystem.RefType())):
            return (
                parse_text(str(cell), type_)
                if isinstance(type_, typesystem.RefType) or isinstance(cell, UUID)
                else cell
            )
        case ((list() | tuple() | set() | frozenset()), (typesystem.SetType(element) | typesystem.ListType(element))):
            return tuple(parse_database_value(one, element) for one in cell)
        case Mapping(), typesystem.RefType() if cell.keys() == {"type", "id"}:
            return decode.clean(cell)
        case ((IPv4Interface() | IPv6Interface()), _):
            return cell.ip if type_ is Scalar.IP else cell.network
        case ((datetime() | timedelta()), _):
            return cell
        case date(), _:
            return Invalid("a date without a time")
        case _:
            return decode.clean(cell)

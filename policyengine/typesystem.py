"""The types of the policy language; every kernel expression has a type."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct


class Scalar(StrEnum):
    """A simple type. The value is its name in policies."""

    BOOL = "bool"
    INT = "int"
    NUMBER = "number"
    STRING = "string"
    DURATION = "duration"
    TIME = "time"
    IP = "ip"
    CIDR = "cidr"

    __hash__ = str.__hash__  # faster than the hash of Enum, which is not written in C; every fact looks up its type


@dataclass(frozen=True, slots=True)
class EnumType:
    """Named values in ascending order (`free < team`). Built-in enums are not `ordered`: their values can only be
    compared for equality.
    """

    name: str
    values: tuple[str, ...]
    ordered: bool = True

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class RefType:
    """A reference to an entity of one of the named types: `user`, `user or team`."""

    entities: frozenset[str]

    def __str__(self) -> str:
        return " or ".join(sorted(self.entities)) or "entity"


@dataclass(frozen=True, slots=True)
class SetType:
    element: Type

    def __str__(self) -> str:
        return f"set<{self.element}>"


@dataclass(frozen=True, slots=True)
class ListType:
    element: Type

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True, slots=True)
class FieldType:
    """A member of a record or an attribute of an entity. `optional` is `T?`. `inherited` unites a set over the entity
    and its ancestors; with `else_empty`, the set is empty for entities whose row lacks it.
    """

    name: str
    type: Type
    optional: bool = False
    inherited: bool = False
    else_empty: bool = False


@dataclass(frozen=True, slots=True)
class RecordType:
    fields: tuple[FieldType, ...]

    def field(self, name: str) -> FieldType | None:
        return next((f for f in self.fields if f.name == name), None)

    def __str__(self) -> str:
        return "{ " + "  ".join(f"{f.name}: {f.type}{'?' if f.optional else ''}" for f in self.fields) + " }"


@dataclass(frozen=True, slots=True)
class UnresolvedType:
    """The type of an expression with a reported error. It is compatible with every type, so that the error causes no
    further errors.
    """

    def __str__(self) -> str:
        return "unknown type"


Type: TypeAlias = Scalar | EnumType | RefType | SetType | ListType | RecordType | UnresolvedType
Collection: TypeAlias = SetType | ListType


class EntityRef(Struct, frozen=True, gc=False):
    """An entity by type and id. A struct, because entity stores hash and compare references very often."""

    type: str
    id: str

    def __str__(self) -> str:
        return f'{self.type} "{self.id}"'

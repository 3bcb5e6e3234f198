"""The types of the `.policy` language; every expression of the kernel has one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct


class Scalar(StrEnum):
    """A type without parts. The value is the word that policies use for it."""

    BOOL = "bool"
    INT = "int"
    NUMBER = "number"
    STRING = "string"
    DURATION = "duration"
    TIME = "time"
    IP = "ip"
    CIDR = "cidr"

    __hash__ = str.__hash__  # the one of Enum is not written in C, and types are looked up for every fact


@dataclass(frozen=True, slots=True)
class EnumType:
    """Named values in rising order (`free < team`); built-in ones are not `ordered` and compare for equality only."""

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
    """A member of a record or an attribute of an entity. `optional` is `T?`; `inherited` unions a set along `in`, with
    `else_empty` also of entities whose row lacks it."""

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
    """The type of an expression that already has an error: it fits everything, so that one mistake is told once."""

    def __str__(self) -> str:
        return "unknown type"


Type: TypeAlias = Scalar | EnumType | RefType | SetType | ListType | RecordType | UnresolvedType
Collection: TypeAlias = SetType | ListType


class EntityRef(Struct, frozen=True, gc=False):
    """A value: one entity, by type and id. A struct, as directories hash and compare them all the time."""

    type: str
    id: str

    def __str__(self) -> str:
        return f'{self.type} "{self.id}"'

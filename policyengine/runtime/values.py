"""The values of decisions: converts a raw fact to a value of its type, or to an Unknown with the reason."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import NoneType
from typing import Final, TypeAlias, assert_never

from policyengine import typesystem
from policyengine.runtime.literals import parse_cidr, parse_ip, unmap_address, unmap_network
from policyengine.runtime.value_keys import value_key
from policyengine.time_formats import parse_duration, parse_time, to_utc
from policyengine.typesystem import EntityRef

MAX_ELEMENTS: Final = 10_000
MAX_STRING_LENGTH: Final = 65_536
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
# Decimals of 34 digits, as in IEEE 754 decimal128; rounding raises an error.
DECIMAL_CONTEXT: Final = Context(prec=34, Emin=-6143, Emax=6144, traps=[Inexact, InvalidOperation, Overflow])
TOO_MANY_DIGITS = "beyond 34 digits"
TOO_LARGE_INT = "beyond 64 bits"
TOO_MANY_ELEMENTS = "more than 10,000 elements"
SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
ID_NAMES = frozenset({"id", "issuer"})


class MissingValue(Enum):
    """A missing value: absent, or not known yet (partial evaluation)."""

    ABSENT = "absent"
    PENDING = "pending"

    def __repr__(self) -> str:
        return self.name


ABSENT: Final = MissingValue.ABSENT
PENDING: Final = MissingValue.PENDING


class PartialObject(dict[str, object]):
    """A partially known object: a missing member is pending, a null member is absent."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Invalid:
    """A hazardous input, left by a decoder; it coerces to unknown.

    `given` is a digest of the input, if it is one text; a duplicate key has no digest, because its meaning is
    ambiguous.
    """

    why: str
    given: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def in_place_of(cls, given: str | bytes, why: str) -> Invalid:
        """Return an Invalid in place of one text, or of the text of one number."""
        kind, content = (
            ("bytes", given) if isinstance(given, bytes) else ("text", given.encode("utf-8", "surrogatepass"))
        )
        return cls(why, f"{kind} {hashlib.sha256(content).hexdigest()}")


class Cause:
    """The reason why one fact is unknown. `entity` is the entity whose row lacks the fact. Only the operator may see
    the entity, because it may come from the entity store; it is not compared.
    """

    __slots__ = ("absent", "entity", "fact", "why")

    def __init__(self, fact: str, why: str, absent: bool = False, entity: EntityRef | None = None) -> None:
        self.fact = fact
        self.why = why
        self.absent = absent
        self.entity = entity

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cause):
            return NotImplemented
        return self.why == other.why and self.fact == other.fact and self.absent == other.absent

    def __hash__(self) -> int:
        return hash((self.fact, self.why, self.absent))

    def __repr__(self) -> str:
        return f"Cause({self.fact!r}, {self.why!r}, absent={self.absent})"

    def as_present(self) -> Cause:
        """Return the same cause for a fact that counts as present, so that `else` does not replace it."""
        return Cause(self.fact, self.why, False, self.entity)


class Unknown:
    """An unknown value and all its causes. It is `absent` if exactly one fact is the cause and that fact is absent:
    the only unknown that `else` may replace.
    """

    __slots__ = ("absent", "causes")

    def __init__(self, causes: frozenset[Cause]) -> None:
        self.causes = causes
        self.absent = False
        if len(causes) == 1:
            for cause in causes:
                self.absent = cause.absent

    def __eq__(self, other: object) -> bool:
        return self.causes == other.causes if isinstance(other, Unknown) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.causes)

    def __repr__(self) -> str:
        return f"Unknown({set(self.causes)!r})"

    @staticmethod
    def of(fact: str, why: str, entity: EntityRef | None = None) -> Unknown:
        return Unknown(frozenset({Cause(fact, why, False, entity)}))

    @staticmethod
    def missing(fact: str) -> Unknown:
        """Return the unknown of an absent fact."""
        return missing_fact(fact)

    @staticmethod
    def merge(*unknowns: Unknown) -> Unknown:
        causes: frozenset[Cause] = frozenset()
        for unknown in unknowns:
            causes |= unknown.causes
        return Unknown(causes)


@lru_cache(maxsize=4_096)
def missing_fact(fact: str) -> Unknown:
    return Unknown(frozenset({Cause(fact, "absent", True)}))


Known: TypeAlias = (
    bool
    | int
    | Decimal
    | str
    | timedelta
    | datetime
    | IPv4Address
    | IPv6Address
    | IPv4Network
    | IPv6Network
    | EntityRef
    | tuple["Value", ...]
    | Mapping[str, object]
)
Value: TypeAlias = Known | Unknown


# ── Raw facts to values ───────────────────────────────────────────────────────────────────────


def coerce(raw: object, type: typesystem.Type, fact: str) -> Value:
    """Return the raw fact as a value of the type, or Unknown; `fact` is its name in reasons (`body.amount`)."""
    if not isinstance(raw, NO_VALUES):
        return coerce_present(raw, type, fact)
    match raw:
        case None | MissingValue.ABSENT:
            return Unknown.missing(fact)
        case MissingValue.PENDING:
            return Unknown.of(fact, "pending")
        case Invalid(why):
            return Unknown.of(fact, why)
        case _:
            return raw


NO_VALUES = (NoneType, MissingValue, Invalid, Unknown)


def coerce_present(raw: object, type: typesystem.Type, fact: str) -> Value:
    match type:
        case typesystem.Scalar():
            return SCALARS[type](raw, fact)
        case typesystem.EnumType():
            return coerce_enum(raw, type, fact)
        case typesystem.RefType():
            return coerce_ref(raw, type, fact)
        case typesystem.SetType() | typesystem.ListType():
            return coerce_elements(raw, type, fact)
        case typesystem.RecordType():
            return raw if isinstance(raw, Mapping) else type_mismatch("object", raw, fact)
        case typesystem.UnresolvedType():
            return Unknown.of(fact, "the type is not known")
        case _:
            assert_never(type)


def coerce_bool(raw: object, fact: str) -> Value:
    return raw if isinstance(raw, bool) else type_mismatch("bool", raw, fact)


def coerce_duration(raw: object, fact: str) -> Value:
    return (
        raw if isinstance(raw, timedelta) else parse_text_value(raw, parse_duration, typesystem.Scalar.DURATION, fact)
    )


def coerce_int(raw: object, fact: str) -> Value:
    if is_large_int(raw):
        return Unknown.of(fact, TOO_LARGE_INT)
    if isinstance(raw, bool) or not isinstance(raw, int):
        return type_mismatch("int", raw, fact)
    return int(raw) if MIN_INT <= raw <= MAX_INT else Unknown.of(fact, TOO_LARGE_INT)


def is_large_int(raw: object) -> bool:
    """Return whether the value is a whole number beyond 64 bits, which is transmitted as a decimal without a point."""
    return (
        isinstance(raw, Decimal)
        and raw.is_finite()
        and not MIN_INT <= raw <= MAX_INT
        and int(raw.as_tuple().exponent) >= 0
    )


def coerce_number(raw: object, fact: str) -> Value:
    if isinstance(raw, Decimal):
        return exact_decimal(raw, fact)
    if isinstance(raw, bool) or not isinstance(raw, int):
        return type_mismatch("number", raw, fact)
    return int(raw) if MIN_INT <= raw <= MAX_INT else exact_decimal(Decimal(raw), fact)


def exact_decimal(number: Decimal, fact: str) -> Decimal | Unknown:
    """Return the number if 34 digits hold it exactly; otherwise Unknown."""
    if not number.is_finite():
        return Unknown.of(fact, "not a finite number")
    try:
        return DECIMAL_CONTEXT.create_decimal(number)
    except DecimalException:
        return Unknown.of(fact, TOO_MANY_DIGITS)


def coerce_string(raw: object, fact: str) -> Value:
    if not isinstance(raw, str):
        return type_mismatch("string", raw, fact)
    text = str.__str__(raw)
    if text.isascii() and 0 < len(text) <= MAX_STRING_LENGTH:  # the common case, which needs no further checks
        return text
    if is_id_fact(fact):
        return coerce_id(text, fact)
    why = text_hazard(text)
    return Unknown.of(fact, why) if why else text


@lru_cache(maxsize=4_096)  # there are few names of facts, and each is used repeatedly
def is_id_fact(fact: str) -> bool:
    """Return whether the fact is an id: an empty id is absent, and each id has only one spelling."""
    return fact.rpartition(".")[2] in ID_NAMES


def coerce_id(raw: str, fact: str) -> str | Unknown:
    if raw == "":
        return Unknown.missing(fact)
    why = text_hazard(raw)
    if why is None and not raw.isascii() and not unicodedata.is_normalized("NFC", raw):
        why = "not in Unicode NFC"
    return Unknown.of(fact, why) if why else str.__str__(raw)


def text_hazard(text: str) -> str | None:
    """Return why a text cannot be a string value; None if it can."""
    if len(text) > MAX_STRING_LENGTH:
        return "longer than 65,536 characters"
    if not text.isascii() and SURROGATE.search(text):
        return "a lone surrogate"
    return None


def coerce_enum(raw: object, type: typesystem.EnumType, fact: str) -> Value:
    if not isinstance(raw, str):
        return type_mismatch(type, raw, fact)
    return str.__str__(raw) if raw in type.values else Unknown.of(fact, f"not a value of {type}")


def coerce_time(raw: object, fact: str) -> Value:
    if not isinstance(raw, datetime):
        return parse_text_value(raw, parse_time, typesystem.Scalar.TIME, fact)
    if raw.utcoffset() is None:
        return Unknown.of(fact, "a time without a zone")
    try:
        return to_utc(raw)
    except OverflowError:
        return Unknown.of(fact, "beyond the years 2 to 9998")


def coerce_ip(raw: object, fact: str) -> Value:
    if not isinstance(raw, IPv4Address | IPv6Address):
        return parse_text_value(raw, parse_ip, typesystem.Scalar.IP, fact)
    return unmap_address(raw) or Unknown.of(fact, "an address with a scope")


def coerce_cidr(raw: object, fact: str) -> Value:
    if not isinstance(raw, IPv4Network | IPv6Network):
        return parse_text_value(raw, parse_cidr, typesystem.Scalar.CIDR, fact)
    return unmap_network(raw)


SCALARS: dict[typesystem.Scalar, Callable[[object, str], Value]] = {
    typesystem.Scalar.BOOL: coerce_bool,
    typesystem.Scalar.INT: coerce_int,
    typesystem.Scalar.NUMBER: coerce_number,
    typesystem.Scalar.STRING: coerce_string,
    typesystem.Scalar.DURATION: coerce_duration,
    typesystem.Scalar.TIME: coerce_time,
    typesystem.Scalar.IP: coerce_ip,
    typesystem.Scalar.CIDR: coerce_cidr,
}


def parse_text_value(raw: object, parse: Callable[[str], Known | None], type: typesystem.Scalar, fact: str) -> Value:
    """Return a value that is transmitted as text, or Unknown."""
    if not isinstance(raw, str):
        return type_mismatch(type, raw, fact)
    value = parse(raw)
    return Unknown.of(fact, f"not a valid {type}") if value is None else value


def coerce_ref(raw: object, type: typesystem.RefType, fact: str) -> Value:
    match raw:
        case EntityRef(name, id):
            return checked_entity_ref(name, id, type, fact)
        case str() if len(type.entities) == 1:
            return entity_ref(next(iter(type.entities)), raw, fact)
        case Mapping() if raw.keys() == {"type", "id"}:
            return checked_entity_ref(raw["type"], raw["id"], type, fact)
        case _:
            return type_mismatch(type, raw, fact)


def checked_entity_ref(name: object, id: object, type: typesystem.RefType, fact: str) -> EntityRef | Unknown:
    if isinstance(name, str) and name in type.entities:
        return entity_ref(str.__str__(name), id, fact)
    return Unknown.of(fact, f"expected {type}, got another entity")


def entity_ref(type: str, id: object, fact: str) -> EntityRef | Unknown:
    """Return a reference from a raw id, for `invoice(args.invoice_id)`; Unknown if the id is not a valid string. An
    empty id is absent.
    """
    known = coerce(id, typesystem.Scalar.STRING, fact)
    if isinstance(known, str):
        known = coerce_id(known, fact)
    match known:
        case str():
            return EntityRef(type, known)
        case Unknown():
            return known
        case _:
            return type_mismatch("string", id, fact)


COLLECTIONS = (list, tuple, Set)
UNHASHABLE = (tuple, Mapping)


def coerce_elements(raw: object, type: typesystem.Collection, fact: str) -> Value:
    if not isinstance(raw, COLLECTIONS):
        return type_mismatch(type, raw, fact)
    if len(raw) > MAX_ELEMENTS:
        return Unknown.of(fact, TOO_MANY_ELEMENTS)
    items = sorted(raw, key=repr) if isinstance(raw, Set) else raw
    elements = tuple(coerce(item, type.element, fact) for item in items)
    return unique_elements(elements) if isinstance(type, typesystem.SetType) else elements


def unique_elements(elements: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return each element once, in order of first appearance. Records are not comparable, so all of them stay."""
    if any(isinstance(element, UNHASHABLE) for element in elements):
        return elements
    if all(type(element) is str for element in elements):  # the common case
        return tuple(dict.fromkeys(elements))
    found: dict[Hashable, Value] = {}
    for element in elements:
        found.setdefault(value_key(element), element)
    return tuple(found.values())


def type_mismatch(expected: object, raw: object, fact: str) -> Unknown:
    return Unknown.of(fact, f"expected {expected}, got {describe_raw_value(raw)}")


def describe_raw_value(raw: object) -> str:
    """Return the type of a raw value, as policies and JSON name it."""
    match raw:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int"
        case Decimal():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "list"
        case Set():
            return "set"
        case Mapping():
            return "object"
        case EntityRef(type):
            return type
        case timedelta():
            return "duration"
        case datetime():
            return "time"
        case IPv4Address() | IPv6Address():
            return "ip"
        case IPv4Network() | IPv6Network():
            return "cidr"
        case _:
            return "something else"

"""The hash of a tool's definition: SHA-256 over its canonical JSON (RFC 8785). It covers every member that the server
lists: name, title, description, schemas, annotations, icons, execution, `_meta`, and members of later versions.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from hashlib import sha256
from threading import Lock
from typing import Any, TypeAlias

Definition: TypeAlias = Mapping[str, Any]
MAX_LISTED_TOOLS = 5_000  # of one server
MAX_DEFINITION_BYTES = 256 * 1024
MAX_DEFINITION_DEPTH = 64
MAX_CACHED_HASHES = 4_096
MAX_DECIMAL_EXPONENT = 21  # numbers from 10²¹ on are written with an exponent, as in JavaScript
MIN_DECIMAL_EXPONENT = -6


class DefinitionError(ValueError):
    """The error for a definition that has no hash; the text says why."""


class HashCache:
    """The hashes of the definitions that were hashed most recently, by a digest of their JSON. Threads may share it."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[bytes, str] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            found = self._hashes.get(key)
            if found is not None:
                self._hashes.move_to_end(key)
            return found

    def put(self, key: bytes, value: str) -> None:
        with self._lock:
            self._hashes[key] = value
            if len(self._hashes) > MAX_CACHED_HASHES:
                self._hashes.popitem(last=False)


_CACHE = HashCache()


def hash_definition(definition: Definition) -> str:
    """Return `sha256:…`. Members of the definition that are null count as absent. Raises DefinitionError."""
    try:
        text = json.dumps(definition, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        raise DefinitionError("its definition is not JSON of a moderate depth") from None
    if len(text) > MAX_DEFINITION_BYTES:
        raise DefinitionError(f"its definition is larger than {MAX_DEFINITION_BYTES // 1024} KiB")
    key = sha256(text.encode()).digest()  # the text is ASCII
    known = _CACHE.get(key)
    if known is None:
        known = f"sha256:{sha256(canonical_text(without_nulls(definition)).encode()).hexdigest()}"
        _CACHE.put(key, known)
    return known


def without_nulls(definition: Definition) -> dict[str, Any]:
    return {name: value for name, value in definition.items() if value is not None}


def canonical_text(value: object) -> str:
    """Return the canonical JSON of a value, as in RFC 8785, but with all digits of large integers. Raises
    DefinitionError."""
    try:
        text = "".join(canonical_parts(value, 0))
        text.encode()
    except UnicodeError:
        raise DefinitionError("its definition contains half of a surrogate pair") from None
    return text


def canonical_parts(value: object, depth: int) -> Iterator[str]:
    if depth > MAX_DEFINITION_DEPTH:
        raise DefinitionError(f"its definition is nested more than {MAX_DEFINITION_DEPTH} levels deep")
    match value:
        case None | bool() | str() | int():
            yield json.dumps(value, ensure_ascii=False)
        case float():
            yield format_double(value)
        case Mapping():
            opening = "{"
            for name in sorted(value, key=utf16_order):
                yield f"{opening}{json.dumps(name, ensure_ascii=False)}:"
                yield from canonical_parts(value[name], depth + 1)
                opening = ","
            yield "}" if value else "{}"
        case list() | tuple():
            opening = "["
            for element in value:
                yield opening
                yield from canonical_parts(element, depth + 1)
                opening = ","
            yield "]" if value else "[]"
        case _:
            raise DefinitionError("its definition is not JSON")


def utf16_order(name: object) -> bytes:
    if not isinstance(name, str):
        raise DefinitionError("its definition is not JSON")
    return name.encode("utf-16-be", "surrogatepass")


def format_double(number: float) -> str:
    """Return a finite number as JavaScript writes it. Raises DefinitionError."""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise DefinitionError("its definition contains a number that is not finite")
    text, minus = "".join(map(str, digits)), "-" if sign and any(digits) else ""
    point = len(text) + exponent
    if text == "0":
        return "0"
    if exponent >= 0 and point <= MAX_DECIMAL_EXPONENT:
        return f"{minus}{text}{'0' * exponent}"
    if 0 < point <= MAX_DECIMAL_EXPONENT:
        return f"{minus}{text[:point]}.{text[point:]}"
    if MIN_DECIMAL_EXPONENT < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
    return f"{minus}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"

"""The fast path from bytes to a raw tree: returns the tree that `decode` would return, or None if that is not certain.

`decode` checks every member in Python, which is slow. This module uses msgspec, which silently keeps the last of two
equal keys, and then proves that the tree contains the whole input. If the result is None, the caller takes the slow
path. A returned tree has no name, depth or length that `decode` would refuse, so a caller that reads one fact need not
check the rest. Strings and numbers may still be too large for a value.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from policyengine.runtime.decode import MAX_DEPTH
from policyengine.runtime.values import DECIMAL_CONTEXT, MAX_ELEMENTS, MAX_STRING_LENGTH

Tree = dict[str, Any]
# The start of `\u003a`, an escaped colon.
MAYBE_A_COLON: Final = b"\\u003"
DECODE_ERRORS: Final = (msgspec.MsgspecError, ArithmeticError, ValueError, RecursionError)
SHORT = 2 * MAX_ELEMENTS  # bytes of JSON; each element has a separator, so no list or object is too long
MAX_FAST_DEPTH = 6
BOUNDED = msgspec.Meta(max_length=MAX_ELEMENTS)


def nested_type(levels: int) -> Any:
    """Return the type of plain values nested `levels` deep, with string keys. The size of the type grows by
    2 ** levels.
    """
    leaf = None | bool | int | float | str
    if not levels:
        return leaf
    below = nested_type(levels - 1)
    return leaf | Annotated[list[below], BOUNDED] | Annotated[dict[str, below], BOUNDED]  # type: ignore[valid-type]


def parse_decimal(text: str) -> Decimal:
    """Return the exact number. Raises DecimalException if it has too many digits for `decode`."""
    return DECIMAL_CONTEXT.create_decimal(text)


_json = msgspec.json.Decoder(Tree, float_hook=parse_decimal).decode
_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


def decode_json_fast(data: bytes) -> Tree | None:
    """Return the JSON object with exact numbers, as plain dicts, lists, strings, ints, Decimals, booleans and None.
    Return None if the slow path must decode it.
    """
    if len(data) > SHORT:
        return None
    try:
        tree = _json(data)
        return tree if has_unique_keys(data, _to_json(tree)) and is_shallow(data, tree) else None
    except DECODE_ERRORS:
        return None


def is_shallow(data: bytes, tree: Tree) -> bool:
    """Return whether the tree is not too deep. Levels are counted only if there are many brackets, because few brackets
    cannot nest deeply.
    """
    return data.count(b"{") + data.count(b"[") <= MAX_DEPTH or fits_depth(tree, MAX_DEPTH)


def fits_depth(value: object, levels: int) -> bool:
    match value:
        case dict():
            return levels > 0 and all(fits_depth(one, levels - 1) for one in value.values())
        case list():
            return levels > 0 and all(fits_depth(one, levels - 1) for one in value)
        case _:
            return True


def has_unique_keys(data: bytes, again: bytes) -> bool:
    """Return whether `data` has no duplicate key; `again` is its decoded tree, encoded again.

    Equal bytes have the same content. Otherwise colons are counted: `data` has one colon for each member, and the
    colons in its strings; `again` has the colons of the members and strings that were kept. Encoders never escape a
    colon, and the result is False if `data` may contain an escaped colon. So equal counts mean that nothing was
    dropped.
    """
    return again == data or (again.count(b":") == data.count(b":") and MAYBE_A_COLON not in data)


def make_msgpack_decoder(type: Any) -> Callable[[bytes], Any]:
    """Return a MessagePack decoder of a type; the decoder returns None if the slow path must decode.

    The decoder encodes the tree again and requires the same bytes, so the data contains nothing that the tree lacks.
    Data with numbers or lengths in a longer form than necessary, or with 32-bit floats, takes the slow path.
    """
    decode = msgspec.msgpack.Decoder(type).decode

    def read(data: bytes) -> Any:
        if len(data) > MAX_STRING_LENGTH:  # longer data could have a name that is too long
            return None
        try:
            tree = decode(data)
            return tree if _to_msgpack(tree) == data else None
        except DECODE_ERRORS:
            return None

    return read


QuestionType: Final[Any] = dict[str, nested_type(MAX_FAST_DEPTH)]  # type: ignore[misc]
_decode_msgpack = make_msgpack_decoder(QuestionType)


def decode_msgpack_fast(data: bytes) -> Tree | None:
    """Return the MessagePack object as plain dicts, lists, strings, ints, floats, booleans and None. Return None if the
    slow path must decode it.
    """
    tree: Tree | None = _decode_msgpack(data)
    return tree

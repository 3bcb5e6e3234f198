"""The quick way from bytes to a raw tree: the tree that `decode` would read, or None where that is not certain.

`decode` sees every member as it is decoded and pays for that in Python. Here msgspec decodes, which silently keeps the
last of two equal keys, and what it read is then proved to be all there was. Whoever gets None goes the careful way.

What is read has no name and no depth that `decode` would refuse, and no list or object that would be too long for it:
who asks for one fact of a tree need not look at the rest. Strings and numbers may be beyond what is a value.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from policyengine.runtime.decode import MAX_DEPTH
from policyengine.runtime.values import DECIMAL_CONTEXT, MAX_ELEMENTS, MAX_STRING_LENGTH

Tree = dict[str, Any]
# What stands for a colon begins so: `\u003a`.
MAYBE_A_COLON: Final = b"\\u003"
DECODE_ERRORS: Final = (msgspec.MsgspecError, ArithmeticError, ValueError, RecursionError)
SHORT = 2 * MAX_ELEMENTS  # bytes of JSON in which nothing has more elements, as each has a separator
MAX_FAST_DEPTH = 6
BOUNDED = msgspec.Meta(max_length=MAX_ELEMENTS)


def nested_type(levels: int) -> Any:
    """The type of plain values so many levels deep: every name in them is a string. It grows by 2 ** levels."""
    leaf = None | bool | int | float | str
    if not levels:
        return leaf
    below = nested_type(levels - 1)
    return leaf | Annotated[list[below], BOUNDED] | Annotated[dict[str, below], BOUNDED]  # type: ignore[valid-type]


def parse_decimal(text: str) -> Decimal:
    """Raises a DecimalException where `decode` says that the number has too many digits."""
    return DECIMAL_CONTEXT.create_decimal(text)


_json = msgspec.json.Decoder(Tree, float_hook=parse_decimal).decode
_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


def decode_json_fast(data: bytes) -> Tree | None:
    """The object in the JSON, its numbers exact, as plain dicts, lists, strings, ints, Decimals, booleans and None."""
    if len(data) > SHORT:
        return None
    try:
        tree = _json(data)
        return tree if has_unique_keys(data, _to_json(tree)) and is_shallow(data, tree) else None
    except DECODE_ERRORS:
        return None


def is_shallow(data: bytes, tree: Tree) -> bool:
    """Few brackets open few levels; only with many of them are the levels counted."""
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
    """That no key came twice in `data`, whose tree, written anew, is `again`.

    The same bytes say the same. Otherwise: a text has one colon for each member and those within its strings; so has
    the tree written anew, for each member and each string that was kept. A writer of JSON never escapes a colon; where
    the text may escape one the answer is no. So equally many colons mean that everything was kept.
    """
    return again == data or (again.count(b":") == data.count(b":") and MAYBE_A_COLON not in data)


def make_msgpack_decoder(type: Any) -> Callable[[bytes], Any]:
    """Reads MessagePack of a type, or gives None.

    The tree written anew must be the very bytes that came: so they say nothing that the tree does not hold. Whoever
    writes numbers or lengths longer than need be, or floats of 32 bits, goes the careful way.
    """
    decode = msgspec.msgpack.Decoder(type).decode

    def read(data: bytes) -> Any:
        if len(data) > MAX_STRING_LENGTH:  # a name could be too long
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
    """The object in the MessagePack, as plain dicts, lists, strings, ints, floats, booleans and None."""
    tree: Tree | None = _decode_msgpack(data)
    return tree

"""The quick way from bytes to a raw tree: the tree that `wire` would read, or None where that is not certain.

`wire` sees every member as it is decoded and pays for that in Python. Here msgspec decodes, which silently keeps the
last of two equal keys, and what it read is then proved to be all there was. Whoever gets None goes the careful way.

What is read has no name and no depth that `wire` would refuse, and no list or object that would be too long for it: who
asks for one fact of a tree need not look at the rest. Strings and numbers may be beyond what is a value.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from policyengine.runtime.decode import DEEPEST
from policyengine.runtime.values import EXACT, LONGEST_STRING, MOST_ELEMENTS

Tree = dict[str, Any]
# What stands for a colon begins so: `\u003a`.
MAYBE_A_COLON: Final = b"\\u003"
UNSURE: Final = (msgspec.MsgspecError, ArithmeticError, ValueError, RecursionError)
SHORT = 2 * MOST_ELEMENTS  # bytes of JSON in which nothing has more elements, as each has a separator
LEVELS = 6
BOUNDED = msgspec.Meta(max_length=MOST_ELEMENTS)


def nested(levels: int) -> Any:
    """The type of plain values so many levels deep: every name in them is a string. It grows by 2 ** levels."""
    leaf = None | bool | int | float | str
    if not levels:
        return leaf
    below = nested(levels - 1)
    return leaf | Annotated[list[below], BOUNDED] | Annotated[dict[str, below], BOUNDED]  # type: ignore[valid-type]


def exact(text: str) -> Decimal:
    """Raises a DecimalException where `wire` says that the number has too many digits."""
    return EXACT.create_decimal(text)


_json = msgspec.json.Decoder(Tree, float_hook=exact).decode
_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


def json_question(data: bytes) -> Tree | None:
    """The object in the JSON, its numbers exact, as plain dicts, lists, strings, ints, Decimals, booleans and None."""
    if len(data) > SHORT:
        return None
    try:
        tree = _json(data)
        return tree if all_kept(data, _to_json(tree)) and shallow(data, tree) else None
    except UNSURE:
        return None


def shallow(data: bytes, tree: Tree) -> bool:
    """Few brackets open few levels; only with many of them are the levels counted."""
    return data.count(b"{") + data.count(b"[") <= DEEPEST or within(tree, DEEPEST)


def within(value: object, levels: int) -> bool:
    match value:
        case dict():
            return levels > 0 and all(within(one, levels - 1) for one in value.values())
        case list():
            return levels > 0 and all(within(one, levels - 1) for one in value)
        case _:
            return True


def all_kept(data: bytes, again: bytes) -> bool:
    """That no key came twice in `data`, whose tree, written anew, is `again`.

    The same bytes say the same. Otherwise: a text has one colon for each member and those within its strings; so has
    the tree written anew, for each member and each string that was kept. A writer of JSON never escapes a colon; where
    the text may escape one the answer is no. So equally many colons mean that everything was kept.
    """
    return again == data or (again.count(b":") == data.count(b":") and MAYBE_A_COLON not in data)


def msgpack_reader(type: Any) -> Callable[[bytes], Any]:
    """Reads MessagePack of a type, or gives None.

    The tree written anew must be the very bytes that came: so they say nothing that the tree does not hold. Whoever
    writes numbers or lengths longer than need be, or floats of 32 bits, goes the careful way.
    """
    decode = msgspec.msgpack.Decoder(type).decode

    def read(data: bytes) -> Any:
        if len(data) > LONGEST_STRING:  # a name could be too long
            return None
        try:
            tree = decode(data)
            return tree if _to_msgpack(tree) == data else None
        except UNSURE:
            return None

    return read


Question: Final[Any] = dict[str, nested(LEVELS)]  # type: ignore[misc]
_msgpack_question = msgpack_reader(Question)


def msgpack_question(data: bytes) -> Tree | None:
    """The object in the MessagePack, as plain dicts, lists, strings, ints, floats, booleans and None."""
    tree: Tree | None = _msgpack_question(data)
    return tree

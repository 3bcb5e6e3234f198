"""The fast decoder returns what the decoder does, or None if it is not certain."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyengine.runtime import decode, fast_decode

# Names and texts in which the proof could go wrong: colons, quotes, escapes, and names that come twice.
TEXTS = st.text('a":\\u{}, \x00é😀', max_size=6) | st.text(max_size=6)
NAMES = st.sampled_from(["a", "b", "", ":", '":', "\\u003a"]) | TEXTS
NUMBERS = st.sampled_from(
    [*"0 -0 1 -1.0 0.10 1e5 1E+400 -0.0 1e9999 9223372036854775808".split(), "1" * 40, "0." + "3" * 40]
)
SPACES = st.sampled_from(["", "", "", " ", "\t", "\n", "\r "])


@st.composite
def escaped(draw: st.DrawFn, text: str) -> str:
    """The JSON of a text, any character of it escaped or not."""
    plain = {'"', "\\"} | {chr(code) for code in range(32)}
    shown = (json.dumps(one)[1:-1] if one in plain or draw(st.integers(0, 9)) == 0 else one for one in text)
    coded = "".join(f"\\u{ord(one):04x}" if one in ":a" and draw(st.integers(0, 9)) == 0 else one for one in shown)
    return f'"{coded}"'


@st.composite
def texts_of_json(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON as people and programs write it: spaces anywhere, names twice, numbers of every spelling."""
    kind = draw(st.integers(0, 3 if depth else 1))
    if kind == 0:
        return draw(NUMBERS | st.sampled_from(["true", "false", "null", "NaN", '"\\ud800"']))
    if kind == 1:
        return draw(escaped(draw(TEXTS)))
    if kind == 2:
        return spaced(draw, [draw(texts_of_json(depth - 1)) for _ in range(draw(st.integers(0, 3)))], "[", "]")
    return draw(objects(depth))


@st.composite
def objects(draw: st.DrawFn, depth: int = 3) -> str:
    members = [
        f"{draw(escaped(draw(NAMES)))}{draw(SPACES)}:{draw(SPACES)}{draw(texts_of_json(depth - 1))}"
        for _ in range(draw(st.integers(0, 3)))
    ]
    return spaced(draw, members, "{", "}")


def spaced(draw: st.DrawFn, items: list[str], opened: str, closed: str) -> str:
    return f"{opened}{draw(SPACES)}{','.join(item + draw(SPACES) for item in items)}{closed}"


def spelled(tree: object) -> object:
    """With its types, as 1, 1.0 and True are equal, and so are 1.0 and 1.00."""
    match tree:
        case dict():
            return {name: spelled(value) for name, value in tree.items()}
        case list() | tuple():
            return [spelled(item) for item in tree]
        case _:
            return (type(tree), repr(tree))


def lists(levels: int) -> list[object]:
    return [lists(levels - 1)] if levels > 1 else []


def agrees(found: dict[str, Any] | None, decoder: Callable[[Any], object], data: bytes) -> None:
    """Check that the fast decoder returned nothing, or the tree of the decoder, which then raises no error."""
    assert found is None or spelled(decode.from_python(found)) == spelled(decoder(data))


@given(text=objects())
def test_the_fast_json_decoder_agrees_with_the_slow_one(text: str) -> None:
    data = text.encode()
    agrees(fast_decode.decode_json_fast(data), decode.from_json, data)


@given(data=st.binary() | objects().map(str.encode).flatmap(lambda data: st.just(data + b"\x00")))
def test_the_fast_json_decoder_agrees_with_the_slow_one_on_arbitrary_bytes(data: bytes) -> None:
    agrees(fast_decode.decode_json_fast(data), decode.from_json, data)


@given(text=objects(), at=st.integers(0, 60), byte=st.integers(0, 255))
def test_the_fast_json_decoder_agrees_with_the_slow_one_on_damaged_json(text: str, at: int, byte: int) -> None:
    data = bytearray(text.encode())
    data[at : at + 1] = bytes([byte])
    agrees(fast_decode.decode_json_fast(bytes(data)), decode.from_json, bytes(data))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a" : 1,"a" :2}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": {"b": 1, "b": 1}}',
        '{"a": [{"b": 1}, {"b": 1, "b": 2}]}',
        '{"a": 1, "a": "\\u003a"}',
        '{"a": "\\u003a", "a": "::"}',
        '{"a": "x", "a": "\\\\u003a:"}',
        '{"":":", "":":"}',
        '{"a": {"b": 1}, "a": 2}',
        '{"a": 0.1234567890123456789012345678901234567}',
        '{"a": 1e9999}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        "[]",
        "5",
        "",
        "\ufeff{}",
        '{"a": ' * 33 + "1" + "}" * 33,
        '{"a": ' + "[" * 32 + "]" * 32 + "}",
        '{"a": ' * 100_000 + "1" + "}" * 100_000,
        '{"a": [' + "0," * 10_000 + "0]}",
        '{"a": ' + "1" * 5_000 + "}",
    ],
)
def test_the_fast_json_decoder_leaves_uncertain_input_to_the_slow_one(text: str) -> None:
    assert fast_decode.decode_json_fast(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("{}", {}),
        ('{"a": {"b": [1, -2, true, null]}, "c": "d"}', {"a": {"b": [1, -2, True, None]}, "c": "d"}),
        ('{"at" : "2027-01-01T09:00:00Z", "urn:x": "a:\\n:b"}', {"at": "2027-01-01T09:00:00Z", "urn:x": "a:\n:b"}),
        ('{"n": 18446744073709551616}', {"n": 2**64}),
        ('{"a": ' + "[" * 31 + "]" * 31 + ', "b": []}', {"a": lists(31), "b": []}),
        ('{"a": [' + "0," * 9_900 + "0]}", {"a": [0] * 9_901}),
        ('{"caf\\u00e9": "\\ud83d\\ude00 \\" \\\\"}', {"café": '😀 " \\'}),
    ],
)
def test_the_fast_json_decoder_reads_ordinary_json(text: str, tree: object) -> None:
    assert fast_decode.decode_json_fast(text.encode()) == tree


def test_the_fast_json_decoder_reads_decimals_exactly() -> None:
    found = fast_decode.decode_json_fast(b'{"a": 0.1, "b": 1e5, "c": 1.00}')
    assert spelled(found) == spelled({"a": Decimal("0.1"), "b": Decimal("1E+5"), "c": Decimal("1.00")})


# ── MessagePack ───────────────────────────────────────────────────────────────────────────────

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | TEXTS
    | st.binary(max_size=4)
    | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
OBJECTS = st.dictionaries(NAMES, TREES, max_size=4)


@given(tree=OBJECTS, single=st.booleans())
def test_the_fast_messagepack_decoder_agrees_with_the_slow_one(tree: object, single: bool) -> None:
    try:
        data = msgpack.packb(tree, datetime=True, use_single_float=single)
    except OverflowError:
        assume(False)
    agrees(fast_decode.decode_msgpack_fast(data), decode.from_msgpack, data)


@given(data=st.binary())
def test_the_fast_messagepack_decoder_agrees_with_the_slow_one_on_arbitrary_bytes(data: bytes) -> None:
    agrees(fast_decode.decode_msgpack_fast(b"\x81\xa1a" + data), decode.from_msgpack, b"\x81\xa1a" + data)


@given(tree=OBJECTS, at=st.integers(0, 60), byte=st.integers(0, 255))
def test_the_fast_messagepack_decoder_agrees_with_the_slow_one_on_damaged_input(
    tree: object, at: int, byte: int
) -> None:
    data = bytearray(msgpack.packb(tree, datetime=True))
    data[at : at + 1] = bytes([byte])
    agrees(fast_decode.decode_msgpack_fast(bytes(data)), decode.from_msgpack, bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\xa1b\x82\xa1a\x01\xa1a\x01",
        b"\x81\xd9\x01a\x01",  # a longer header than need be
        b"\x81\xa1a\xcc\x01",
        b"\x81\xa1a\xca\x3f\x80\x00\x00",  # a float of 32 bits
        b"\x81\xa1a\xd4\x05\x00",  # an extension
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",  # a time
        b"\x81\xa1a\xc4\x01a",  # bytes
        b"\x81\xa1a\x81\xc4\x01a\x01",  # a name that is bytes
        b"\x81\xa1a\x81\x01\x01",
        b"\x81\xa1a\xa1\xff",  # no UTF-8
        b"\x81\x01\x01",  # a name that is no text
        b"\x90",
        b"",
        b"\x80\x00",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a" * 8 + b"\x01",
        b"\x81\xa1a" * 20_000 + b"\x01",
        msgpack.packb({"a": [0] * 10_001}),
        msgpack.packb({"a": {f"{number}": 0 for number in range(10_001)}}),
        msgpack.packb({"a": "x" * 65_536}),
    ],
)
def test_the_fast_messagepack_decoder_leaves_uncertain_input_to_the_slow_one(data: bytes) -> None:
    assert fast_decode.decode_msgpack_fast(data) is None


@pytest.mark.parametrize("pack", [msgpack.packb, msgspec.msgpack.encode])
def test_the_fast_messagepack_decoder_reads_the_output_of_common_encoders(pack: Any) -> None:
    tree = {"request": {"method": "GET", "path": "/" + "x" * 300}, "n": [1, -1, 2**40, 1.5], "deep": [{"a": None}] * 20}
    assert fast_decode.decode_msgpack_fast(pack(tree)) == tree

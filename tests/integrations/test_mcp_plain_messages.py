"""Messages that are read without a second parse: the result is that of the careful parse, and nothing ambiguous is
plain."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.jsonrpc import jsonrpc_message_adapter

from policyengine.http.json_members import DECODER
from policyengine.integrations.mcp import plain_messages
from policyengine.integrations.mcp.plain_messages import is_plain_message
from policyengine.integrations.mcp.relay.line_streams import encode_message, parse_message_line
from policyengine.integrations.mcp.unambiguous_messages import (
    MEMBERS_BY_FOLDED_NAME,
    NESTED_MEMBERS,
    AmbiguousMessageError,
    drop_ambiguous_arguments,
    get_part,
    parse_message,
)

NAMES = st.sampled_from(
    ["name", "Name", "arguments", "a", "A", "ß", "ss", "__proto__", "constructor", "uri", "ref", "_meta", ":", " :"]
)
NUMBERS = st.one_of(st.integers(), st.sampled_from([10**15, 1.5, 1e30]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", ":", " :", "é", '"']))


def contain(inner: Any) -> Any:
    return st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(NAMES, inner), max_size=4))


VALUES = st.recursive(SCALARS, contain, max_leaves=8)
MEMBERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


def write(value: Any) -> str:
    """Return the JSON of a value; a list of pairs is an object, whose names may be repeated."""
    if isinstance(value, list) and value and all(isinstance(one, tuple) for one in value):
        members = ", ".join(f"{json.dumps(name, ensure_ascii=False)}:{write(one)}" for name, one in value)
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(write, value))}]"
    return json.dumps(value, ensure_ascii=False)


def careful(params: Any, raw: str) -> Any:
    """Return the parameters as the careful parse for a server of another process does."""
    tree = parse_message(raw, DECODER)
    for outer in (get_part(tree, "params"), *(get_part(get_part(tree, "params"), name) for name in NESTED_MEMBERS)):
        if isinstance(outer, dict) and any(MEMBERS_BY_FOLDED_NAME.get(str(n).casefold(), n) != n for n in outer):
            raise AmbiguousMessageError
    return drop_ambiguous_arguments(params, tree)


@example([("name", "a"), ("arguments", [("a", 1), ("a", 2)])], [])
@example([("name", "a"), ("arguments", [("a", 1), ("A", 2)])], [])
@example([("name", "a"), ("name", "b")], [])
@example([("name", "a")], [("method", "x")])
@given(MEMBERS, st.lists(st.tuples(st.sampled_from(["method", "Method", "x", "params"]), SCALARS), max_size=2))
def test_the_careful_parse_of_a_plain_message_changes_nothing(members: Any, more: Any) -> None:
    inner = write(members) if members else "{}"
    extra = "".join(f", {json.dumps(name)}: {write(value)}" for name, value in more)
    raw = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {inner}{extra}}}'
    params = json.loads(raw)["params"]
    if isinstance(params, dict) and is_plain_message(params, raw):
        assert is_plain_message(params, raw.encode())
        assert careful(params, raw) == params


@pytest.mark.parametrize(
    "params",
    [
        '{"name": "a", "arguments": {"x": 1, "x": 1}}',
        '{"name": "a", "arguments": {"x": {"y": 1, "Y": 1}}}',
        '{"name": "a", "arguments": {"x": 9007199254740993}}',
        '{"name": "a", "arguments": {"x": 1.10}}',
        '{"name": "a", "arguments": {"x": [{"__proto__": 1}]}}',
        '{"name": "a", "arguments": {"x": {"constructor": {"prototype": 1}}}}',
        '{"name": "a", "arguments": {"\\u0078": 1, "x": 2}}',
        '{"name": "a", "NAME": "b"}',
        '{"name": "a", "arguments": ' + '{"x": ' * 20 + "1" + "}" * 20 + "}",
        '{"name": "a", "arguments": ' + '{"x":' + "[" * 20 + "]" * 20 + "}}",
        '{"name": "a", "arguments": {"x": NaN}}',
    ],
)
def test_a_message_that_a_parser_may_read_otherwise_is_not_plain(params: str) -> None:
    raw = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'
    assert not is_plain_message(json.loads(raw)["params"], raw)
    assert not is_plain_message(json.loads(raw)["params"], raw.encode())


def test_a_usual_call_is_plain_and_that_of_another_message_is_not() -> None:
    params = {"name": "read", "arguments": {"path": "/a", "lines": [1, 2], "deep": {"x": None}}, "_meta": {}}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert is_plain_message(params, raw)
    assert not is_plain_message({**params, "name": "write"}, raw)
    assert not is_plain_message(params, raw.replace('"id": 1', '"id": 1, "id": 1'))
    assert not is_plain_message(params, "[" + raw + "]")


def test_names_that_were_checked_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[tuple[str, ...]] = set()
    monkeypatch.setattr(plain_messages, "_plain_shapes", known)
    for number in range(plain_messages.MAX_SHAPES + 10):
        plain_messages.count_plain_names({f"x{number}": 1})
    plain_messages.count_plain_names({"x" * 1_000: 1})
    assert len(known) == plain_messages.MAX_SHAPES


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────

LINES = [
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": 1}}',
    b'{"jsonrpc": "2.0", "id": "a", "result": {"x": 1.5}}',
    b'{"jsonrpc": "2.0", "id": true, "result": {}}',
    b'{"jsonrpc": "2.0", "id": 1.0, "result": {}}',
    b'{"jsonrpc": "2.0", "id": null, "result": {}}',
    b'{"jsonrpc": "1.0", "id": 1, "result": {}}',
    b'{"jsonrpc": "2.0", "id": 1, "result": []}',
    b'{"jsonrpc": "2.0", "id": 1, "method": 1, "params": {}}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "a", "params": null}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "a", "params": [1]}',
    b'{"jsonrpc": "2.0", "id": 1, "result": {"x": 1e999, "y": NaN}}',
    b'{"jsonrpc": "2.0", "id": 1, "result": {"x": 123456789012345678901234567890}}',
    b'{"jsonrpc": "2.0", "id": 123456789012345678901234567890, "result": {}}',
    b'{"jsonrpc": "2.0", "id": 1, "result": {"x": "\\ud800"}}',
    b'{"jsonrpc": "2.0", "id": 1, "result": {"x": "\xff"}}',
    b'{"jsonrpc": "2.0", "id": 1, "result": {}, "method": "a"}',
    b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "a"}}',
    b'{"jsonrpc": "2.0", "method": "a"}',
    b'{"jsonrpc": "2.0", "id": 1, "id": 2, "result": {"a": 1, "a": 2}}',
    b'\xef\xbb\xbf{"jsonrpc": "2.0", "id": 1, "result": {}}',
    b"[]",
    b"1",
    b"{",
    b"",
    b'{"jsonrpc": "2.0", "id": 1, "result": {"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_the_message_that_the_sdk_reads(line: bytes) -> None:
    expected: Any = None
    with suppress(ValueError):
        expected = jsonrpc_message_adapter.validate_json(line, by_name=False)
    if expected is None:
        with pytest.raises(ValueError):  # noqa: PT011
            parse_message_line(line)
        return
    found = parse_message_line(line)
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)
    assert found.model_fields_set == expected.model_fields_set


@pytest.mark.parametrize(
    "message",
    [
        JSONRPCResponse(jsonrpc="2.0", id=1, result={"x": [1, 1.5, None, True, "é\u2028"], "y": {"a": float("inf")}}),
        JSONRPCResponse(jsonrpc="2.0", id="a", result={"x": 2**70, "y": float("nan"), "z": 1e22}),
        JSONRPCResponse(jsonrpc="2.0", id=1, result={"x": {1: 2}}),
        JSONRPCRequest(jsonrpc="2.0", id=1, method="a", params={"_meta": {}}),
        JSONRPCRequest(jsonrpc="2.0", id=1, method="a", params=None),
        JSONRPCRequest(jsonrpc="2.0", id=1, method="a"),
        JSONRPCNotification(jsonrpc="2.0", method="a"),
        jsonrpc_message_adapter.validate_json(LINES[16]),
    ],
)
def test_a_message_is_written_as_the_sdk_writes_it(message: Any) -> None:
    expected = message.model_dump_json(by_alias=True, exclude_unset=True)
    assert json.loads(encode_message(message)) == json.loads(expected)

"""The hash of a definition: canonical JSON, every member, and bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyengine.tool_pins.definitions import (
    MAX_DEFINITION_BYTES,
    MAX_DEFINITION_DEPTH,
    DefinitionError,
    canonical_text,
    format_double,
    hash_definition,
)

TOOL: dict[str, Any] = {
    "name": "read",
    "title": "Read",
    "description": "Read a note.",
    "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "outputSchema": {"type": "object"},
    "annotations": {"readOnlyHint": True},
    "icons": [{"src": "https://example.com/i.png"}],
    "execution": {"taskSupport": "forbidden"},
    "_meta": {"ui": {"resourceUri": "ui://notes"}},
}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (1.0, "1"), (-12.5, "-12.5"), (333333333.33333329, "333333333.3333333"),
        (1e20, "100000000000000000000"), (1e21, "1e+21"), (1.5e-7, "1.5e-7"), (1e-6, "0.000001"), (1e-7, "1e-7"),
        (5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"), (1e23, "1e+23"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_in_rfc_8785(number: float, text: str) -> None:
    assert format_double(number) == text


def test_members_are_sorted_by_utf_16_as_in_rfc_8785() -> None:
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical_text(value)).values()) == [2, 4, 6, 7, 1, 5, 3]


def test_text_is_escaped_as_in_rfc_8785() -> None:
    assert canonical_text('€$\u000f\nA\'B"\\\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'


def test_the_order_of_members_and_the_spelling_of_numbers_do_not_matter() -> None:
    turned = json.loads(json.dumps(dict(reversed(TOOL.items()))))
    assert hash_definition(turned) == hash_definition(TOOL)
    assert hash_definition({**TOOL, "x": 1.0}) == hash_definition({**TOOL, "x": 1})


def test_a_null_member_counts_as_absent() -> None:
    assert hash_definition({**TOOL, "later": None}) == hash_definition(TOOL)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]


@pytest.mark.parametrize("path", leaves(TOOL), ids=lambda path: ".".join(map(str, path)))
def test_every_member_is_part_of_the_hash(path: tuple[Any, ...]) -> None:
    changed = json.loads(json.dumps(TOOL))
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = "changed"
    assert hash_definition(changed) != hash_definition(TOOL)
    del holder[path[-1]]
    assert hash_definition(changed) != hash_definition(TOOL)


def test_a_member_of_a_later_version_is_part_of_the_hash() -> None:
    assert hash_definition({**TOOL, "later": {}}) != hash_definition(TOOL)


def test_numbers_that_doubles_cannot_distinguish_have_different_hashes() -> None:
    assert hash_definition({**TOOL, "x": 2**53}) != hash_definition({**TOOL, "x": 2**53 + 1})


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    "attack",
    [
        {"description": "x" * MAX_DEFINITION_BYTES},
        {"inputSchema": nested(MAX_DEFINITION_DEPTH + 1)},
        {"inputSchema": nested(100_000)},
        {"description": "\ud800"},
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": b"bytes"},
    ],
    ids=["MBs", "deep", "very deep", "half a surrogate pair", "nan", "infinity", "no JSON"],
)
def test_attack_an_oversized_or_malformed_definition_has_no_hash(attack: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        hash_definition({**TOOL, **attack})

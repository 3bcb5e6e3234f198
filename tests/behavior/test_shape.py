"""The structure of a payload: what has the same tag, what has none, and limits."""

from decimal import Decimal
from random import Random
from time import process_time

import pytest

from policyengine.behavior.events import Tagger
from policyengine.behavior.shape import (
    LARGE,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_FIELD_CHARACTERS,
    MAX_VISITS,
    NO_SHAPE,
    endpoint_part,
    structure_of,
    structure_tag,
)
from policyengine.runtime.request import Request
from policyengine.runtime.values import PENDING, Invalid, PartialObject
from tests.depth import examples, scaled

TAG = Tagger(b"a key of the tests").tag
POST = "POST /orders"
ORDER = {"id": "a-1", "amount": Decimal("9.50"), "lines": ({"sku": "x", "n": 1}, {"sku": "y", "n": 2}), "gift": True}


def shape(body, endpoint=POST, tag=TAG):
    return structure_tag(tag, endpoint, {"body": body})


# ── What is equal ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "other",
    [
        {**ORDER, "id": "../../etc/passwd", "amount": 3},
        {**ORDER, "lines": ORDER["lines"] * 9},
        dict(reversed(ORDER.items())),
        {**ORDER, "gift": False},
    ],
    ids=["other values", "more elements", "another order", "another truth"],
)
def test_payloads_of_the_same_fields_and_kinds_have_the_same_tag(other):
    assert shape(other) == shape(ORDER) != NO_SHAPE


@pytest.mark.parametrize(
    "other",
    [
        {**ORDER, "admin": True},
        {name: value for name, value in ORDER.items() if name != "gift"},
        {**ORDER, "id": 7},
        {**ORDER, "id": None},
        {**ORDER, "id": ("a-1",)},
        {**ORDER, "id": {"$ne": None}},
        {**ORDER, "lines": ({"sku": "x", "n": 1}, {"sku": "y", "n": "2"})},
        {**ORDER, "lines": ({"sku": "x", "n": 1}, "y")},
        {**ORDER, "lines": ()},
        {**ORDER, "Id": "a-1"},
        {**ORDER, "id": Invalid("a duplicate key")},
        {**ORDER, "gift": 1},
    ],
    ids=[
        "a new field", "a missing field", "a number", "null", "a list where a text was", "an object where a text was",
        "an element of another kind", "elements of two kinds", "an empty list", "another case", "an unreadable field",
        "a number where a boolean was",
    ],
)  # fmt: skip
def test_a_payload_with_other_fields_or_kinds_has_another_tag(other):
    assert shape(other) not in (shape(ORDER), NO_SHAPE)


def test_names_cannot_imitate_nesting():
    structures = [
        {"a": {"b": 1}}, {"a.b": 1}, {"a\0b": 1}, {"a\1b": 1}, {"a\0b\1n": 1}, {"a": ({"b": 1},)}, {"a\2": {"b": 1}},
        {"a": 1, "b": 1}, {"a\1n\3body\0b": 1},
    ]  # fmt: skip
    assert len({structure_of({"body": body}) for body in structures}) == len(structures)


def test_arguments_and_query_are_parts_of_the_payload():
    facts = {"request": {"method": "GET", "path": "/a", "query": {"page": "1"}}}
    plain = structure_tag(TAG, POST, facts)
    more = {"request": {**facts["request"], "query": {"page": "1", "debug": "1"}}}
    assert len({NO_SHAPE, plain, structure_tag(TAG, POST, more), structure_tag(TAG, POST, {**facts, "args": {}})}) == 4
    assert structure_tag(TAG, POST, {"args": {"to": "a"}}) != shape({"to": "a"})


def test_the_endpoint_has_the_upper_half_of_the_tag():
    assert shape(ORDER) != shape(ORDER, "PUT /orders")
    assert endpoint_part(shape(ORDER)) == endpoint_part(shape({})) == endpoint_part(TAG(POST))


def test_a_tag_depends_on_the_key():
    other = Tagger(b"another key").tag
    assert len({shape({f"f{number}": 1}, tag=tag) for tag in (TAG, other) for number in range(20)}) == 40


def test_json_and_python_objects_have_the_same_structure():
    text = '{"request": {"method": "POST", "path": "/o"}, "body": {"a": 1.5, "b": [1, 2.5], "c": {"d": null}}}'
    one = Request.from_json(text)
    other = Request.from_mapping(
        {"request": {"method": "POST", "path": "/o"}, "body": {"a": 3, "b": [2.5, 1], "c": {"d": None}}}
    )
    assert structure_of(one.facts) == structure_of(other.facts) != ""


# ── What is unknown ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"request": {"method": "GET", "path": "/a"}},
        {"body": Invalid("not valid JSON")},
        {"body": PartialObject({"amount": 1})},
        {"body": {"amount": 1, "memo": PENDING}},
        {"body": {"amount": 1}, "request": PartialObject({"method": "GET"})},
        {"body": {"amount": 1}, "request": {"query": PartialObject({})}},
        {"body": {"a": ({"b": PENDING},)}},
    ],
)
def test_a_payload_that_is_not_known_completely_has_no_shape(facts):
    assert structure_tag(TAG, POST, facts) == NO_SHAPE


def test_an_empty_payload_has_a_shape_of_its_own():
    assert shape({}) not in (NO_SHAPE, shape({"a": 1}))


# ── Limits ────────────────────────────────────────────────────────────────────────────────────


def deep(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "body",
    [
        deep(MAX_DEPTH + 2),
        deep(500),
        {f"f{number}": 1 for number in range(MAX_VISITS + 1)},
        {"a": tuple({"b": 1} for _ in range(MAX_VISITS + 1))},
        {"a": tuple(range(MAX_ELEMENTS + 1))},
        {"a": ({f"f{number}": 1 for number in range(MAX_VISITS)},)},
        {"f" * (MAX_FIELD_CHARACTERS + 1): 1},
    ],
)
def test_payloads_beyond_a_limit_have_one_tag(body):
    assert structure_of({"body": body}) == LARGE
    assert shape(body) == shape({"a" * 1_000: 1}) != NO_SHAPE


@pytest.mark.parametrize(
    "body",
    [
        deep(MAX_DEPTH),
        {f"f{number}": 1 for number in range(MAX_VISITS)},
        {"a": tuple(range(MAX_ELEMENTS))},
        {"f" * MAX_FIELD_CHARACTERS: 1},
    ],
)
def test_payloads_at_a_limit_are_read_completely(body):
    assert structure_of({"body": body}) not in ("", LARGE)


def hostile(random):
    def value(depth):
        kind = random.randrange(8 if depth < 6 else 5)
        if kind < 5:
            return (1, "a", None, True, Decimal(2))[kind]
        if kind == 5:
            return tuple(value(depth + 1) for _ in range(random.randrange(5)))
        return {random.choice(("a", "b", "\0", "é", "c" * 200)): value(depth + 1) for _ in range(random.randrange(5))}

    return {f"f{random.randrange(50)}": value(0) for _ in range(random.randrange(8))}


@scaled
def test_random_payloads_are_read_within_the_limits():
    random = Random(24)
    structures = {structure_of({"body": hostile(random)}) for _ in range(examples(6_000, 20_000))}
    assert "" not in structures
    assert max(map(len, structures)) < 2 * MAX_VISITS * (MAX_DEPTH + 2) * 4 * MAX_FIELD_CHARACTERS


def test_a_hostile_payload_takes_less_time_than_its_decoding():
    bodies = [{f"field {number}": {"a": {"b": 1}} for number in range(10_000)}, deep(30), {"a": (1,) * 10_000}]
    began = process_time()
    for body in bodies * 20:
        shape(body)
    assert process_time() - began < 2

"""Marks of fields, their counts, which merge, and how unusual a payload is."""

from decimal import Decimal
from functools import cache
from random import Random

import pytest

from policyengine.behavior.events import Tagger
from policyengine.behavior.field_marks import MAX_MARKED_FIELDS, MarkReader, payload_marks, value_marks
from policyengine.behavior.field_profile import (
    LEAST_SCORES,
    MAX_ENDPOINTS,
    MAX_FIELDS,
    MAX_MARKS,
    SCALE,
    PayloadCounts,
    ScoreRanks,
    learn_profile,
    log2,
    merge_counts,
    payload_weights,
)
from policyengine.behavior.learn import WEIGHT_UNIT
from policyengine.runtime.values import PENDING, Invalid

TAG = Tagger(b"a key of the tests", size=1_000_000).tag
POST = "POST /users"
AT = TAG(POST)
NAMES = "Ada Ben Chloe Dana Eve Finn Gus Hana Ida Jon".split()


def marks(body):
    return payload_marks(TAG, POST, {"body": body})


def user(random):
    return {
        "name": f"{random.choice(NAMES)} {random.choice(NAMES)}",
        "age": random.randint(18, 80),
        "plan": random.choice(("free", "pro")),
        "tags": tuple(random.choices(("a-1", "b-2"), k=random.randint(0, 2))),
    }


def learned(principals=6, payloads=1_200, more=lambda counts: None):
    """A profile from payloads of several principals."""
    random, counts = Random(1), PayloadCounts()
    for number in range(payloads):
        counts.add(number % principals, AT, marks(user(random)))
    more(counts)
    profile = learn_profile(counts)
    profile.calibrate((AT, marks(user(random))) for _ in range(600))
    return profile


usual_profile = cache(learned)  # a profile is not changed by ranks


# ── Marks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ab1", {"t", "size 2", "has 0", "has 2", "first 0", "last 2"}),
        ("", {"t", "size 0"}),
        ("é", {"t", "size 1", "has 23", "first 23", "last 23"}),
        ("\0", {"t", "size 1", "has 22", "first 22", "last 22"}),
        (1_234, {"n", "size 3", "integer"}),
        (Decimal("-0.05"), {"n", "size -2 negative", "fraction"}),
        (0, {"n", "size zero", "integer"}),
        (Decimal("1e300"), {"n", "size 300", "integer"}),
        (True, {"b"}),
        (None, {"z"}),
        ((1, 2, 3), {"l", "size 2"}),
        ({"a": 1}, {"o", "size 1"}),
        (Invalid("redacted"), {"x"}),
    ],
)
def test_marks_of_a_value(value, expected):
    assert set(value_marks(value, False)) == expected


@pytest.mark.parametrize("name", ["password", "Api_Key", "token"])
def test_only_the_kind_of_a_secret_is_marked(name):
    reader = MarkReader()
    reader.read_members("body", {name: {"value": "hunter2"}, "note": "hi"}, 0, False)
    assert {path: found for path, found in reader.fields.items() if name in path} == {
        f"body\0'{name}'": {"o"}, f"body\0'{name}'\0'value'": {"t"},
    }  # fmt: skip


def test_no_value_is_kept():
    assert not any("hunter" in mark or "2027" in mark for mark in value_marks("hunter 2027", False))
    assert all(type(mark) is int for found in marks({"a": "hunter"}).values() for mark in found)


def test_pending_members_have_no_marks():
    assert marks({"a": PENDING, "b": 1}).keys() == marks({"b": 2}).keys()


def test_the_number_of_marked_fields_is_limited():
    assert len(marks({f"f{number}": {"a": 1} for number in range(10_000)})) == MAX_MARKED_FIELDS
    assert len(marks({"a": tuple({f"f{number}": 1} for number in range(10_000))})) == MAX_MARKED_FIELDS


# ── Counts ────────────────────────────────────────────────────────────────────────────────────


def flooded(seed, payloads):
    """Counts of payloads with more fields, marks and endpoints than the tables hold."""
    random, counts = Random(seed), PayloadCounts()
    for _ in range(payloads):
        found = {random.randrange(200): tuple({random.randrange(300) for _ in range(6)}) for _ in range(9)}
        counts.add(random.randrange(3), random.randrange(400), found)
    for _ in range(payloads):
        counts.add(0, 1, {random.randrange(200): tuple({random.randrange(300) for _ in range(6)}) for _ in range(9)})
    return counts


def test_merging_counts_of_two_parts_gives_the_counts_of_all():
    parts = []
    for seed in range(3):
        random = Random(seed)
        parts.append([(random.randrange(3), AT, marks(user(random))) for _ in range(80)])
    counts = [PayloadCounts() for _ in parts]
    whole = PayloadCounts()
    for part, own in zip(parts, counts, strict=True):
        for payload in part:
            own.add(*payload)
            whole.add(*payload)
    one = merge_counts(merge_counts(counts[0], counts[1]), counts[2])
    other = merge_counts(counts[2], merge_counts(counts[1], counts[0]))
    assert one.to_table() == other.to_table() == whole.to_table() != []


def test_full_tables_merge_as_well():
    payloads = []
    for seed in range(2):
        random = Random(seed)
        payloads.append(
            [
                (random.randrange(2), random.choice((1, random.randrange(2, 600))), {
                    random.randrange(150): tuple({random.randrange(300) for _ in range(6)}) for _ in range(6)
                })
                for _ in range(1_500)
            ]
        )  # fmt: skip
    one, other, whole = PayloadCounts(), PayloadCounts(), PayloadCounts()
    for counts, part in ((one, payloads[0]), (other, payloads[1])):
        for payload in part:
            counts.add(*payload)
            whole.add(*payload)
    endpoints = whole.principals[0]
    assert len(endpoints) == MAX_ENDPOINTS
    assert len(endpoints[1].fields) == MAX_FIELDS
    assert max(len(field.marks) for field in endpoints[1].fields.values()) == MAX_MARKS
    assert merge_counts(one, other).to_table() == merge_counts(other, one).to_table() == whole.to_table()


def test_a_flood_of_fields_of_one_principal_leaves_the_fields_of_others():
    def flood(counts):
        for number in range(3_000):
            counts.add(99, AT, marks({f"flood{number}": 1}))

    profile = learned(more=flood)
    assert profile.rank(AT, marks({"name": "Ada Ben", "age": 30, "plan": "pro", "tags": ()})) > SCALE // 50
    assert profile.rank(AT, marks({"name": "<script>", "age": 30, "plan": "pro", "tags": ()})) <= SCALE // 100


def test_a_principal_has_at_most_a_twentieth_of_the_weight():
    weights = payload_weights([10] * 40 + [10_000])
    total = sum(weight * count for weight, count in zip(weights, [10] * 40 + [10_000], strict=True))
    assert weights[0] == WEIGHT_UNIT
    assert weights[-1] * 10_000 / total < 0.6
    assert payload_weights([5, 5]) == [WEIGHT_UNIT] * 2


# ── Ranks ─────────────────────────────────────────────────────────────────────────────────────

USUAL = {"name": "Eve Finn", "age": 41, "plan": "free", "tags": ("a-1",)}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../../etc/passwd"}, {"name": "' OR 1=1 --"}, {"name": "<script>alert(1)</script>"},
        {"name": "Ada Ben" * 50}, {"name": 7}, {"name": ("Ada",)}, {"name": None}, {"name": {"$ne": 1}},
        {"name": "Ada\r\nX: y"}, {"age": "30"}, {"age": 10**9}, {"age": Decimal("30.5")}, {"age": -5},
        {"plan": "$(id)"}, {"role": "admin"}, {"tags": ("a-1", "../b")}, {"tags": "a-1"},
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_payload_is_seen(change):
    assert usual_profile().rank(AT, marks({**USUAL, **change})) <= SCALE // 100


def test_usual_payloads_raise_false_alarms_as_declared():
    profile, random = learned(payloads=3_000), Random(7)
    found = sum(profile.rank(AT, marks(user(random))) <= SCALE // 100 for _ in range(3_000))
    assert found <= 45


def test_a_mark_counts_only_if_two_principals_have_it():
    def poison(principals):
        def add(counts):
            for number in range(400):
                counts.add(number % principals, AT, marks({**USUAL, "name": "<a href=x>"}))

        return add

    attack = marks({**USUAL, "name": "<b href=y>"})
    alone, together = learned(more=poison(1)), learned(more=poison(2))
    assert alone.rank(AT, attack) <= SCALE // 100
    assert alone.endpoints[AT].score(attack) > together.endpoints[AT].score(attack) + 10 * 1_024


def test_nothing_is_odd_where_nothing_is_known():
    profile = usual_profile()
    assert profile.rank(TAG("GET /other"), marks({"a": "<script>"})) == SCALE
    assert profile.rank(AT, {}) == SCALE
    fresh = learn_profile(PayloadCounts())
    assert fresh.rank(AT, marks(USUAL)) == SCALE


def test_a_profile_without_enough_held_out_payloads_finds_nothing_odd():
    counts, random = PayloadCounts(), Random(1)
    for number in range(600):
        counts.add(number % 3, AT, marks(user(random)))
    profile = learn_profile(counts)
    profile.calibrate((AT, marks(user(random))) for _ in range(LEAST_SCORES - 1))
    assert profile.rank(AT, marks({**USUAL, "name": "<script>"})) == SCALE


def test_the_endpoint_of_one_principal_is_not_judged():
    assert learned(principals=1).rank(AT, marks({**USUAL, "name": "<script>"})) == SCALE


def test_a_rank_counts_the_payload_itself_and_those_as_unusual():
    ranks = ScoreRanks()
    for score in (1, 2, 2, 3):
        ranks.add(score)
    assert [ranks.rank(score) for score in (0, 1, 2, 3, 4)] == [
        SCALE,
        SCALE,
        4 * SCALE // 5,
        2 * SCALE // 5,
        SCALE // 5,
    ]


def test_logarithms_are_whole_numbers():
    assert [log2(number) for number in (1, 2, 3, 1_024, 2**100)] == [0, 1_024, 1_623, 10_240, 102_400]

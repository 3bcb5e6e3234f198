"""From raw facts to values: the right type, or unknown with the reason."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from policyengine.runtime.values import ABSENT, PENDING, Cause, Invalid, Unknown, coerce
from policyengine.time_formats import parse_duration, parse_time
from policyengine.typesystem import (
    EntityRef,
    EnumType,
    FieldType,
    ListType,
    RecordType,
    RefType,
    Scalar,
    SetType,
    UnresolvedType,
)

PLAN = EnumType("plan", ("free", "team"))
USER = RefType(frozenset({"user"}))
USER_OR_TEAM = RefType(frozenset({"user", "team"}))
ADDRESS = RecordType((FieldType("city", Scalar.STRING),))
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


def why(value: object) -> str:
    assert isinstance(value, Unknown), f"expected unknown, got {value!r}"
    (cause,) = value.causes
    assert cause.fact == "body.x"
    return cause.why


@pytest.mark.parametrize(
    ("raw", "type", "reason"),
    [
        (1, Scalar.BOOL, "expected bool, got int"),
        ("true", Scalar.BOOL, "expected bool, got string"),
        ((True,), Scalar.BOOL, "expected bool, got list"),
        (True, Scalar.INT, "expected int, got bool"),
        ("900", Scalar.INT, "expected int, got string"),
        (Decimal("900.0"), Scalar.INT, "expected int, got number"),
        (2**63, Scalar.INT, "beyond 64 bits"),
        (-(2**63) - 1, Scalar.INT, "beyond 64 bits"),
        (False, Scalar.NUMBER, "expected number, got bool"),
        ("15000", Scalar.NUMBER, "expected number, got string"),
        (Decimal(2**63), Scalar.INT, "beyond 64 bits"),
        (Decimal("-1E+40"), Scalar.INT, "beyond 64 bits"),
        (Decimal("1E+3"), Scalar.INT, "expected int, got number"),
        (int("1" * 35), Scalar.NUMBER, "beyond 34 digits"),
        (Decimal("1." + "1" * 34), Scalar.NUMBER, "beyond 34 digits"),
        (Decimal("1E+7000"), Scalar.NUMBER, "beyond 34 digits"),
        (Decimal("1E-7000"), Scalar.NUMBER, "beyond 34 digits"),
        (Decimal("NaN"), Scalar.NUMBER, "not a finite number"),
        (Decimal("sNaN"), Scalar.NUMBER, "not a finite number"),
        (Decimal("-Infinity"), Scalar.NUMBER, "not a finite number"),
        ({"amount": 1}, Scalar.NUMBER, "expected number, got object"),
        (900, Scalar.STRING, "expected string, got int"),
        (b"abc", Scalar.STRING, "expected string, got something else"),
        ("\ud800", Scalar.STRING, "a lone surrogate"),
        ("x" * 65_537, Scalar.STRING, "longer than 65,536 characters"),
        ("Free", PLAN, "not a value of plan"),
        ("", PLAN, "not a value of plan"),
        (1, PLAN, "expected plan, got int"),
        (600, Scalar.DURATION, "expected duration, got int"),
        ("10", Scalar.DURATION, "not a valid duration"),
        ("-10m", Scalar.DURATION, "not a valid duration"),
        (1_800_000_000, Scalar.TIME, "expected time, got int"),
        ("2027-01-01", Scalar.TIME, "not a valid time"),
        ("2027-01-01T12:00:00", Scalar.TIME, "not a valid time"),
        (datetime(2027, 1, 1), Scalar.TIME, "a time without a zone"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), Scalar.TIME, "beyond the years 2 to 9998"),
        (167_772_161, Scalar.IP, "expected ip, got int"),
        ("10.0.0.01", Scalar.IP, "not a valid ip"),
        ("10.1", Scalar.IP, "not a valid ip"),
        ("10.0.0.1 ", Scalar.IP, "not a valid ip"),
        ("10.0.0.0/8", Scalar.IP, "not a valid ip"),
        ("fe80::1%eth0", Scalar.IP, "not a valid ip"),
        (IPv6Address("fe80::1%eth0"), Scalar.IP, "an address with a scope"),
        ("10.0.0.1", Scalar.CIDR, "not a valid cidr"),
        ("10.1.2.3/8", Scalar.CIDR, "not a valid cidr"),
        ("10.0.0.0/255.0.0.0", Scalar.CIDR, "not a valid cidr"),
        ("10.0.0.0/08", Scalar.CIDR, "not a valid cidr"),
        (ip_address("10.0.0.1"), Scalar.CIDR, "expected cidr, got ip"),
        (ip_network("10.0.0.0/8"), Scalar.IP, "expected ip, got cidr"),
        (EntityRef("team", "x"), USER, "expected user, got another entity"),
        ({"type": "team", "id": "x"}, USER, "expected user, got another entity"),
        ({"type": ["user"], "id": "x"}, USER, "expected user, got another entity"),
        ({"type": "user", "id": "x", "admin": True}, USER, "expected user, got object"),
        ({"type": "user", "id": 7}, USER, "expected string, got int"),
        ("alice", USER_OR_TEAM, "expected team or user, got string"),
        (7, USER, "expected user, got int"),
        ("e\u0301", USER, "not in Unicode NFC"),
        (EntityRef("user", "e\u0301"), USER, "not in Unicode NFC"),
        ("clerk", SetType(Scalar.STRING), "expected set<string>, got string"),
        ({"clerk": True}, SetType(Scalar.STRING), "expected set<string>, got object"),
        ("abc", ListType(Scalar.STRING), "expected list<string>, got string"),
        ((0,) * 10_001, ListType(Scalar.INT), "more than 10,000 elements"),
        (("Berlin",), ADDRESS, "expected object, got list"),
        (PENDING, Scalar.INT, "pending"),
        (Invalid("a duplicate key"), Scalar.INT, "a duplicate key"),
        (1, UnresolvedType(), "the type is not known"),
    ],
)
def test_a_wrongly_typed_fact_is_unknown(raw, type, reason):
    assert why(coerce(raw, type, "body.x")) == reason


def test_an_int_may_have_as_many_trailing_zeros_as_a_decimal():
    assert coerce(10**6144, Scalar.NUMBER, "body.x") == Decimal("1E+6144")
    assert why(coerce(10**6145, Scalar.NUMBER, "body.x")) == "beyond 34 digits"


@pytest.mark.parametrize(
    ("raw", "type", "value"),
    [
        (True, Scalar.BOOL, True),
        (-(2**63), Scalar.INT, -(2**63)),
        (7, Scalar.NUMBER, 7),
        (2**63, Scalar.NUMBER, Decimal(2**63)),
        (-(10**34) + 1, Scalar.NUMBER, Decimal("-" + "9" * 34)),
        (10**40, Scalar.NUMBER, Decimal("1E+40")),
        (Decimal("0.1"), Scalar.NUMBER, Decimal("0.1")),
        (Decimal("9" * 34), Scalar.NUMBER, Decimal("9" * 34)),
        ("", Scalar.STRING, ""),
        ("x" * 65_536, Scalar.STRING, "x" * 65_536),
        ("e\u0301", Scalar.STRING, "e\u0301"),
        ("team", PLAN, "team"),
        ("1h30m", Scalar.DURATION, timedelta(minutes=90)),
        (timedelta(seconds=-1), Scalar.DURATION, timedelta(seconds=-1)),
        ("2027-01-01T13:00:00+01:00", Scalar.TIME, NOON),
        (NOON.astimezone(timezone(timedelta(hours=-8))), Scalar.TIME, NOON),
        ("10.0.0.1", Scalar.IP, IPv4Address("10.0.0.1")),
        ("::ffff:10.0.0.1", Scalar.IP, IPv4Address("10.0.0.1")),
        (IPv6Address("::ffff:a00:1"), Scalar.IP, IPv4Address("10.0.0.1")),
        ("2001:DB8::1", Scalar.IP, ip_address("2001:db8::1")),
        ("10.0.0.0/8", Scalar.CIDR, ip_network("10.0.0.0/8")),
        ("::ffff:10.0.0.0/104", Scalar.CIDR, ip_network("10.0.0.0/8")),
        ("::/0", Scalar.CIDR, ip_network("::/0")),
        (ip_network("10.0.0.0/8"), Scalar.CIDR, ip_network("10.0.0.0/8")),
        (ip_network("::ffff:10.0.0.0/104"), Scalar.CIDR, ip_network("10.0.0.0/8")),
        ("alice", USER, EntityRef("user", "alice")),
        (EntityRef("team", "x"), USER_OR_TEAM, EntityRef("team", "x")),
        ({"type": "user", "id": "alice"}, USER_OR_TEAM, EntityRef("user", "alice")),
        ([2, 1, 2], SetType(Scalar.INT), (2, 1)),
        ([2, 1, 2], ListType(Scalar.INT), (2, 1, 2)),
        ({"b", "a"}, SetType(Scalar.STRING), ("a", "b")),
        ((), SetType(Scalar.STRING), ()),
        ({"city": 7}, ADDRESS, {"city": 7}),
        ([{"city": "x"}, {"city": "x"}], SetType(ADDRESS), ({"city": "x"}, {"city": "x"})),
    ],
)
def test_a_correctly_typed_fact_becomes_a_value(raw, type, value):
    assert coerce(raw, type, "body.x") == value


@pytest.mark.parametrize("raw", [None, ABSENT])
def test_null_is_absent(raw):
    unknown = coerce(raw, Scalar.INT, "body.x")
    assert unknown == Unknown(frozenset({Cause("body.x", "absent", absent=True)}))
    assert unknown.absent


@pytest.mark.parametrize(
    ("raw", "type", "fact"),
    [
        ("", Scalar.STRING, "user.id"),
        ("", Scalar.STRING, "agent.issuer"),
        ("", USER, "resource.owner"),
        (EntityRef("user", ""), USER, "resource.owner"),
        ({"type": "user", "id": None}, USER, "resource.owner"),
    ],
)
def test_an_empty_id_is_absent(raw, type, fact):
    unknown = coerce(raw, type, fact)
    assert isinstance(unknown, Unknown)
    assert unknown.absent


def test_an_id_that_is_not_in_nfc_is_unknown():
    assert isinstance(coerce("e\u0301", Scalar.STRING, "user.id"), Unknown)


def test_a_wrongly_typed_fact_is_not_absent():
    assert not coerce("900", Scalar.INT, "body.x").absent


def test_an_invalid_element_leaves_the_others_known():
    good, bad = coerce(["clerk", 7], SetType(Scalar.STRING), "body.x")
    assert good == "clerk"
    assert why(bad) == "expected string, got int"


def test_true_in_a_set_of_ints_is_not_the_int_1():
    one, bad = coerce([1, True], SetType(Scalar.INT), "body.x")
    assert one == 1
    assert why(bad) == "expected int, got bool"


def test_equal_numbers_are_one_element():
    assert coerce([1, Decimal("1.0")], SetType(Scalar.NUMBER), "body.x") == (1,)


def test_a_subclass_of_str_becomes_a_plain_str():
    class Level(StrEnum):
        FREE = "free"

    assert type(coerce(Level.FREE, Scalar.STRING, "body.x")) is str
    assert type(coerce(Level.FREE, PLAN, "body.x")) is str


def test_a_record_is_returned_unchanged():
    raw: Mapping[str, object] = {"city": None}
    assert coerce(raw, ADDRESS, "body.x") is raw


def test_merged_unknowns_keep_every_cause():
    merged = Unknown.merge(Unknown.missing("a"), Unknown.of("b", "pending"))
    assert {cause.fact for cause in merged.causes} == {"a", "b"}


def test_two_merged_absences_are_not_absent():
    assert not Unknown.merge(Unknown.missing("a"), Unknown.missing("b")).absent


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(minutes=90)),
        ("2w1d", timedelta(days=15)),
        ("0s", timedelta()),
        ("", None),
        ("10", None),
        ("m", None),
        ("1.5h", None),
        (" 1h", None),
        ("1h\n", None),
        ("1H", None),
        ("\u0661m", None),
        ("9" * 40 + "w", None),
        ("1s" * 40, None),
    ],
)
def test_parse_duration_accepts_only_the_duration_syntax(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2027-01-01T12:00:00Z", NOON),
        ("2027-01-01t12:00:00z", NOON),
        ("2027-01-01 12:00:00.000Z", NOON),
        ("2027-01-01T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
        ("2027-01-01T12:00:00.000001999Z", NOON + timedelta(microseconds=1)),
        ("2027-01-01T06:30:00-05:30", NOON),
        ("2027-01-01T12:00:00-00:00", NOON),
        ("2027-02-29T12:00:00Z", None),
        ("2027-01-01T24:00:00Z", None),
        ("2027-01-01T12:00:60Z", None),
        ("2027-01-01T12:00Z", None),
        ("2027-01-01T12:00:00+25:00", None),
        ("2027-01-01T12:00:00+01:60", None),
        ("2027-01-01T12:00:00Z\n", None),
        ("2027-W01-1T12:00:00Z", None),
        ("20270101T120000Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59Z", None),
        ("\u0662027-01-01T12:00:00Z", None),
    ],
)
def test_parse_time_accepts_only_rfc_3339_with_a_zone(text, time):
    assert parse_time(text) == time

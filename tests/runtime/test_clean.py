"""What becomes of each kind of value that a question may hold: exact types only, whatever class it came in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from policyengine.runtime.decode import clean, is_clean
from policyengine.runtime.values import Invalid
from policyengine.typesystem import EntityRef

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


class Text(str):
    pass


class Moment(datetime):
    pass


class Length(timedelta):
    pass


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, None),
        (True, True),
        (Text("x"), "x"),
        (7, 7),
        (1.5, Decimal("1.5")),
        (Decimal("0.10"), Decimal("0.10")),
        (NOON, NOON),
        (NOON.astimezone(timezone(timedelta(hours=1))), NOON),
        (Moment(2027, 1, 1, 12, tzinfo=UTC), NOON),
        (timedelta(minutes=1), timedelta(minutes=1)),
        (Length(minutes=1), timedelta(minutes=1)),
        (IPv4Address("10.0.0.1"), ip_address("10.0.0.1")),
        (IPv6Address("a::1"), ip_address("a::1")),
        (IPv4Network("10.0.0.0/8"), ip_network("10.0.0.0/8")),
        (IPv6Network("a::/16"), ip_network("a::/16")),
        (EntityRef("user", "alice"), EntityRef("user", "alice")),
        (EntityRef(Text("user"), "alice"), EntityRef("user", "alice")),
        ([1, (2,)], (1, (2,))),
        ({Text("a"): [1]}, {"a": (1,)}),
        (Invalid("no number"), Invalid("no number")),
    ],
    ids=lambda one: f"{type(one).__name__} {one!r}",
)
def test_a_value_comes_out_equal_and_of_an_exact_type(raw: object, value: object) -> None:
    found = clean(raw)
    assert found == value
    assert type(found) is type(value)
    assert is_clean(found)


@pytest.mark.parametrize(
    "raw",
    [
        b"x", bytearray(b"x"), memoryview(b"x"), object(), 1j, float("nan"), Decimal("Infinity"), 10**9_000,
        EntityRef("user", 7), EntityRef(None, "alice"), Invalid(Text("why")), Invalid("why", Text("x")),
    ],
    ids=lambda one: f"{type(one).__name__}",
)  # fmt: skip
def test_data_that_is_not_a_value_is_invalid(raw: object) -> None:
    found = clean(raw)
    assert type(found) is Invalid
    assert is_clean(found)


def test_networks_lose_what_a_class_adds() -> None:
    class Everywhere(IPv4Network):
        def __contains__(self, other: object) -> bool:
            return True

    assert not isinstance(clean(Everywhere("10.0.0.0/8")), Everywhere)

"""The functions of the language: an answer for what they are made for, unknown for the rest."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime.functions import call_function, host
from policyengine.runtime.values import Unknown
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import FUNCTIONS

HOUR = timedelta(hours=1)
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
UNKNOWN_ELEMENT = Unknown.of("body.tags", "expected string, got int")


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("lower", ("ABC Ä",), "abc ä"),
        ("upper", ("abc ß",), "ABC SS"),
        ("starts_with", ("abc", "ab"), True),
        ("starts_with", ("abc", ""), True),
        ("starts_with", ("abc", "B"), False),
        ("ends_with", ("abc", "bc"), True),
        ("ends_with", ("abc", "abcd"), False),
        ("contains", ("abc", "b"), True),
        ("contains", ("abc", "ac"), False),
        ("size", ("äbc",), 3),
        ("size", ((),), 0),
        ("size", ((1, 2),), 2),
        ("bucket", ("alice", 1), 0),
        ("bucket", ("alice", 100), 20),
        ("min", (1, Decimal("0.5")), Decimal("0.5")),
        ("max", (1, Decimal("0.5")), 1),
        ("min", (HOUR, 2 * HOUR), HOUR),
        ("max", (NOON, NOON + HOUR), NOON + HOUR),
        ("abs", (-(2**63),), 2**63),
        ("abs", (Decimal("-0.5"),), Decimal("0.5")),
        ("abs", (-HOUR,), HOUR),
        ("abs", (7,), 7),
    ],
)
def test_a_function_returns_its_value(name, arguments, value):
    assert call_function(name, arguments) == value


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lower", (7,)),
        ("lower", ("a", "b")),
        ("starts_with", (("a", "b"), "a")),
        ("contains", (("a", "b"), "a")),
        ("size", (7,)),
        ("size", ({"a": 1},)),
        ("bucket", ("alice", 0)),
        ("bucket", ("alice", -3)),
        ("bucket", ("alice", True)),
        ("bucket", ("alice", Decimal(10))),
        ("min", (1, HOUR)),
        ("min", (True, 1)),
        ("max", ("a", "b")),
        ("abs", (True,)),
        ("abs", ("-1",)),
        ("abs", (NOON,)),
        ("host", (EntityRef("site", "https://x"),)),
        ("no_such_function", ("a",)),
    ],
)
def test_unsupported_arguments_make_a_function_return_unknown(name, arguments):
    assert isinstance(call_function(name, arguments), Unknown)


def test_the_size_of_a_set_with_an_unknown_element_is_unknown():
    assert call_function("size", (("a", UNKNOWN_ELEMENT),)) == UNKNOWN_ELEMENT


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.example", "api.example"),
        ("https://API.Example/x?y#z", "api.example"),
        ("https://api.example:8443/x", "api.example"),
        ("https://api.example:/x", "api.example"),
        ("https://api.example./x", "api.example"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://api.example/@evil.example", "api.example"),
        ("https://api.example?u=https://evil.example", "api.example"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("http://[2001:DB8::0:1]/", "2001:db8::1"),
        ("http://[::ffff:127.0.0.1]/", "127.0.0.1"),
    ],
)
def test_host_returns_the_host_of_a_url(url, name):
    assert host(url) == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example",
        "//api.example",
        "https:api.example",
        "https:/api.example",
        "https:///x",
        "https://",
        "https://good.example@evil.example",
        "https://good.example:pw@evil.example",
        "https://good.example%40evil.example",
        "https://evil.example\\@good.example",
        "https://good.example\\.evil.example",
        "https://good.example/\\evil.example",
        "https://good.example\t.evil.example",
        "https://good.example\n",
        " https://good.example",
        "https://good.example /",
        "https://good.example%00.evil.example",
        "https://g%6fod.example",
        "https://bücher.example",
        "https://good。example",
        "https://good..example",
        "https://.example",
        "https://-x.example",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 150 + "example",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::1",
        "https://[127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://good.example:80a/",
        "https://good.example:99999999/",
        "mailto:a@good.example",
    ],
)
def test_host_of_an_ambiguous_url_is_unknown(url):
    assert isinstance(host(url), Unknown)


@pytest.mark.parametrize(
    ("address", "name"),
    [("a@Acme.Example", "acme.example"), ("a.b+c@x", "x"), ("ä@x.example", "x.example")],
)
def test_domain_returns_the_domain_of_an_email_address(address, name):
    assert call_function("domain", (address,)) == name


@pytest.mark.parametrize(
    "address",
    ["", "acme.example", "@acme.example", "a@", "a@b@acme.example", '"a@evil"@acme.example', "a b@acme.example",
     "a@acme.example, b@evil.example", "A <a@acme.example>", "a@acme.example\n", "a@[127.0.0.1]", "a@acme..example",
     "a@äcme.example", "a(x)@acme.example", "a@acme.example;b"],
)  # fmt: skip
def test_domain_of_an_invalid_email_address_is_unknown(address):
    assert isinstance(call_function("domain", (address,)), Unknown)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 1000))
def test_a_bucket_is_less_than_the_number_of_buckets(text, buckets):
    assert 0 <= call_function("bucket", (text, buckets)) < buckets


def test_buckets_are_about_equally_full():
    counts = [0] * 10
    for number in range(2_000):
        counts[call_function("bucket", (f"user-{number}", 10))] += 1
    assert min(counts) > 150


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_every_function_of_the_vocabulary_is_implemented(function):
    samples = {
        "host": ("https://a",),
        "domain": ("a@b",),
        "abs": (1,),
        "bucket": ("a", 2),
        "address": (ip_address("10.0.0.1"),),
        "min": (1, 2),
        "max": (1, 2),
    }
    arguments = samples.get(function.name, ("a",) * len(function.parameters))
    assert not isinstance(call_function(function.name, arguments), Unknown)

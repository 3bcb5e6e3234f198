"""One spelling of every host; what two readers could understand differently is none."""

import pytest

from policyengine.runtime.functions import call_function
from policyengine.runtime.host_names import NO_HOST, parse_host
from policyengine.runtime.request import Request
from policyengine.runtime.values import Invalid, Unknown


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("api.example", "api.example"),
        ("API.Example.:8443", "api.example"),
        ("api.example.", "api.example"),
        ("api.example:", "api.example"),
        ("localhost:80", "localhost"),
        ("a_b.example", "a_b.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[::1]:80", "::1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("::1", "::1"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
    ],
)
def test_a_host_is_compared_without_port_final_dot_and_case(authority: str, host: str):
    assert parse_host(authority) == host
    assert parse_host(host) == host


@pytest.mark.parametrize(
    "authority",
    ["", ".", "a..", "..a", "a b", " a", "a\n", "a,b", "a@b", "http://a", "a/b", "a%2eb", "a\\b", "bücher.example",
     "a:b", "a:80:80", "a:123456", "-a", "a-", "[::1", "::1]", "[::1%eth0]", "[10.0.0.1]", "127.1", "0x7f.1",
     "2130706433",     "010.0.0.1", "10.0.0.256", "x" * 64, "x." * 200, "x" * 70_000],
)  # fmt: skip
def test_an_invalid_host_is_unknown(authority: str):
    assert parse_host(authority) is NO_HOST


@pytest.mark.parametrize("given", ["API.Example.:8443", "api.example", "[::1]:443", "10.0.0.1.", "a@b", "0x7f.1", ""])
def test_the_function_host_agrees_with_the_fact(given: str):
    fact = Request.from_mapping({"request": {"method": "GET", "path": "/", "host": given}}).fact("request", "host")
    found = call_function("host", (f"https://{given}/x",))
    assert isinstance(found, Unknown) if isinstance(fact, Invalid) else found == fact


@pytest.mark.parametrize("given", [7, ["a", "b"], {"a": 1}])
def test_a_host_that_is_not_a_string_is_unknown(given: object):
    request = Request.from_mapping({"request": {"method": "GET", "path": "/", "host": given}})
    assert not isinstance(request.fact("request", "host"), str)


def test_a_proof_is_checked_against_the_host_as_sent_with_its_port():
    asked = {"request": {"method": "GET", "path": "/x/", "host": "API.example:8443"}, "credentials": {"dpop": "p"}}
    request = Request.from_mapping(asked)
    assert request.fact("request", "host") == "api.example"
    assert request.credentials is not None
    assert request.credentials.url == "https://API.example:8443/x"

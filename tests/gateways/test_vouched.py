"""Headers to a question: what a gateway vouches for, and what is refused rather than guessed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyengine.runtime.completeness import HandsOn
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.values import PENDING
from policyengine.runtime.vouched import Target, Vouched, body_of, given_headers, query_of, question_of, spiffe_facts

TARGET = Target("GET", "/things/7?page=2", "api.example")


def asked(
    *lines: tuple[str, str],
    names: Vouched | None = None,
    target: Target = TARGET,
    hands_on: HandsOn | None = None,
    content: bytes | None = None,
) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in lines]
    question = question_of(target, given_headers(raw), names or Vouched(), hands_on or HandsOn(None), content)
    return Request.from_mapping(question)


def refusal(*lines: tuple[str, str], names: Vouched | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        asked(*lines, names=names)
    return caught.value.message


def test_every_fact_is_read_from_its_header() -> None:
    found = asked(
        ("x-agent-id", "invoice-bot"), ("x-agent-issuer", "acme"), ("x-agent-instance", "pod-7"),
        ("x-agent-groups", "billing, night shift"), ("x-agent-user", "alice"), ("x-agent-credential", "jwt"),
        ("x-agent-credential-issuer", "acme"), ("x-agent-scopes", "read:a  write:b"),
        ("x-agent-issued-at", "1798794000"),
        ("x-agent-expires-at", "2027-01-01T09:10:00Z"), ("x-agent-lifetime", "10m"), ("x-agent-bound", "true"),
        ("x-forwarded-for", "10.1.2.3"), ("x-agent-size", "512"),
    )  # fmt: skip
    assert found.facts["agent"] == {
        "id": "invoice-bot", "issuer": "acme", "instance": "pod-7", "groups": ("billing", "night shift"),
        "model": PENDING, "publisher": PENDING,
    }  # fmt: skip
    assert found.facts["user"] == {"id": "alice"}
    assert found.facts["credential"] == {
        "kind": "jwt", "issuer": "acme", "scopes": ("read:a", "write:b"),
        "issued_at": datetime(2027, 1, 1, 9, 0, tzinfo=UTC), "expires_at": "2027-01-01T09:10:00Z", "lifetime": "10m",
        "bound": True,
    }  # fmt: skip
    assert found.fact("request", "ip") == "10.1.2.3"
    assert found.fact("request", "host") == "api.example"
    assert found.fact("request", "query", "page") == "2"
    assert found.fact("request", "size") == 512


@pytest.mark.parametrize("name", sorted(Vouched().facts.values()))
def test_a_header_that_is_there_twice_is_refused(name: str) -> None:
    assert refusal((name, "true"), (name, "true")) == f"the header `{name}` came twice"


@pytest.mark.parametrize("name", sorted(set(Vouched().facts.values()) - {"x-agent-groups", "x-agent-bound"}))
def test_a_value_that_was_joined_of_two_is_refused(name: str) -> None:
    assert "comma" in refusal((name, "invoice-bot, admin"))


@pytest.mark.parametrize("value", ["a\x01b", "a\tb", "a\u200bb", "x" * 4_097])
def test_a_value_that_nobody_can_read_is_refused(value: str) -> None:
    assert refusal(("x-agent-id", value)) == "the header `x-agent-id` has a value that nobody can read"


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(RequestError):
        question_of(TARGET, given_headers([(b"x-agent-id", b"\xff")]), Vouched(), HandsOn())


@pytest.mark.parametrize("value", ["yes", "1", "True", "true,true"])
def test_bound_is_true_or_false_and_nothing_else(value: str) -> None:
    assert refusal(("x-agent-bound", value)) == "the header `x-agent-bound` is neither `true` nor `false`"


def test_an_empty_header_says_nothing() -> None:
    """Gateways send one where they have nothing to say."""
    assert "agent" not in asked(("x-agent-id", ""), ("x-agent-scopes", "  ")).facts


@pytest.mark.parametrize("name", ["x_agent_id", "x-agent_id", "x_auth_subject", "x-auth_user", "x_forwarded_uri"])
def test_another_spelling_of_a_name_that_we_trust_is_refused(name: str) -> None:
    assert "another spelling" in refusal((name, "root"))


@pytest.mark.parametrize("name", ["x-original-url", "x-rewrite-url", "x-original-uri", "x_original_url"])
def test_a_header_that_could_lead_elsewhere_is_refused(name: str) -> None:
    assert refusal((name, "/admin"))


def test_a_fact_without_a_header_is_not_taken() -> None:
    assert "user" not in asked(("x-agent-user", "alice"), names=Vouched(user_id="")).facts


def test_a_header_of_another_name_carries_the_fact_instead() -> None:
    found = asked(("x-consumer", "shop-bot"), ("x-agent-id", "other"), names=Vouched(agent_id="x-consumer"))
    assert found.fact("agent", "id") == "shop-bot"


def test_secrets_and_what_is_vouched_for_are_no_headers_of_the_request() -> None:
    found = asked(("authorization", "Bearer x"), ("cookie", "a=b"), ("x-agent-id", "bot"), ("x-trace", "7"))
    assert found.fact("request", "headers", "x-trace") == "7"
    for name in ("authorization", "cookie", "x-agent-id"):
        assert found.fact("request", "headers", name) is PENDING


def test_a_header_of_the_client_that_came_twice_is_unknown() -> None:
    found = asked(("x-trace", "7"), ("x-trace", "8"))
    assert not isinstance(found.fact("request", "headers", "x-trace"), str)


@pytest.mark.parametrize(
    "query", ["_method=DELETE", "a=1;_method=DELETE", "a=1&_METHOD", "%5Fmethod=DELETE", "a;_method"]
)
def test_a_method_override_in_the_query_is_malformed(query: str) -> None:
    found = asked(target=Target("GET", f"/things?{query}", None))
    assert "override" in getattr(found.endpoint, "why", "")


def test_a_parameter_that_is_there_twice_or_unreadable_has_no_value() -> None:
    found = query_of("a=1&a=1&b=%ff&c=%20+&d&&%ff=1")
    assert [name for name, value in found.items() if isinstance(value, str)] == ["c", "d", "%ff"]
    assert (found["c"], found["d"]) == ("  ", "")


@pytest.mark.parametrize(
    ("principal", "trusted"),
    [
        ("spiffe://acme.example/ns/a/sa/b", True),
        ("spiffe://evil.example/ns/a/sa/b", False),
        ("spiffe://acme.example", False),
        ("spiffe://ACME.example/x", False),
        ("CN=bot", False),
        ("", False),
    ],
)
def test_a_certificate_names_an_agent_where_it_holds_a_spiffe_id(principal: str, trusted: bool) -> None:
    found = spiffe_facts(principal, Vouched(trust_domains=(("acme.example", "acme"),)))
    assert found.get("agent") == ({"id": principal, "issuer": "acme"} if trusted else None)
    assert found.get("credential", {}).get("kind") == ("mtls" if trusted else None)
    assert spiffe_facts(principal, Vouched()) == {}


def test_a_body_is_an_object_in_json_that_came_whole() -> None:
    def body(content: bytes, **headers: str) -> object:
        return body_of({name.replace("_", "-"): (value,) for name, value in headers.items()}, content)

    assert body(b'{"a": 1}', content_type="application/json; charset=utf-8") == {"a": 1}
    assert body(b'{"a": 1}', content_type="application/json", x_envoy_auth_partial_body="true") is None
    assert body(b'{"a": 1}', content_type="application/json", content_encoding="gzip") is None
    assert body(b'{"a": 1}', content_type="text/plain") is None
    assert body(b'{"a": 1}') is None
    assert body(b"[1]", content_type="application/json") is None
    assert body(b"{", content_type="application/json") is None

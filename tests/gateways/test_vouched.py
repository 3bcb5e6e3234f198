"""Headers to a question: what a gateway vouches for, and what is refused rather than guessed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from policyengine.http.gateway_headers import (
    GatewayHeaders,
    collect_headers,
    read_spiffe_facts,
)
from policyengine.http.gateway_omissions import ForwardedParts, GatewayAdapter
from policyengine.http.gateway_questions import BODY_AS_TEXT, GatewayQuestionBuilder, RequestTarget, read_query
from policyengine.runtime.request import HttpEndpoint, Request, RequestError
from policyengine.runtime.values import ABSENT, PENDING, Invalid

TARGET = RequestTarget("GET", "/things/7?page=2", "api.example")
FORM = "application/x-www-form-urlencoded"
WHOLE, PIECE = ("x-envoy-auth-partial-body", "false"), ("x-envoy-auth-partial-body", "true")


def asked(
    *lines: tuple[str, str],
    names: GatewayHeaders | None = None,
    target: RequestTarget = TARGET,
    hands_on: ForwardedParts | None = None,
    content: bytes | str | None = None,
) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in lines]
    named = names or GatewayHeaders(request_size="x-agent-size")
    builder = GatewayQuestionBuilder(named, hands_on or ForwardedParts(None))
    return Request.from_mapping(builder.build(target, collect_headers(raw), content))


def refusal(*lines: tuple[str, str], names: GatewayHeaders | None = None) -> str:
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


@pytest.mark.parametrize("name", sorted(GatewayHeaders().facts.values()))
def test_a_repeated_fact_header_is_rejected(name: str) -> None:
    assert refusal((name, "true"), (name, "true")) == f"the header `{name}` is repeated"


@pytest.mark.parametrize("name", sorted(set(GatewayHeaders().facts.values()) - {"x-agent-groups", "x-agent-bound"}))
def test_a_fact_header_with_a_comma_is_rejected(name: str) -> None:
    assert "comma" in refusal((name, "invoice-bot, admin"))


@pytest.mark.parametrize("value", ["a\x01b", "a\tb", "a\u200bb", "x" * 4_097])
def test_an_unreadable_fact_header_is_rejected(value: str) -> None:
    assert refusal(("x-agent-id", value)) == "the header `x-agent-id` is too long or has invisible characters"


def test_a_fact_header_that_is_not_utf_8_is_rejected() -> None:
    builder = GatewayQuestionBuilder(GatewayHeaders(), ForwardedParts())
    with pytest.raises(RequestError):
        builder.build(TARGET, collect_headers([(b"x-agent-id", b"\xff")]))


@pytest.mark.parametrize("value", ["yes", "1", "True", "true,true"])
def test_the_bound_header_must_be_true_or_false(value: str) -> None:
    assert refusal(("x-agent-bound", value)) == "the header `x-agent-bound` is neither `true` nor `false`"


def test_an_empty_fact_header_is_ignored() -> None:
    """Gateways send one where they have nothing to say."""
    assert "agent" not in asked(("x-agent-id", ""), ("x-agent-scopes", "  ")).facts


@pytest.mark.parametrize("name", [
    "x_agent_id", "x-agent_id", "x_auth_subject", "x-auth_user", "x_forwarded_uri", "x.auth.subject", "x-auth.user",
    "x.agent.id", "x_auth_groups", "x.forwarded.port", "content_type", "content.encoding", "transfer_encoding",
    "x.api.key", "x.decision.id", "signature_input", "x_real_ip",
])  # fmt: skip
def test_another_spelling_of_a_trusted_header_is_rejected(name: str) -> None:
    assert "another spelling" in refusal((name, "root"))


@pytest.mark.parametrize("name", ["x-original-url", "x-rewrite-url", "x-original-uri", "x_original_url"])
def test_a_url_rewriting_header_is_rejected(name: str) -> None:
    assert refusal((name, "/admin"))


def test_a_fact_without_a_configured_header_is_not_read() -> None:
    assert "user" not in asked(("x-agent-user", "alice"), names=GatewayHeaders(user_id="")).facts


def test_a_configured_header_name_replaces_the_default() -> None:
    found = asked(("x-consumer", "shop-bot"), ("x-agent-id", "other"), names=GatewayHeaders(agent_id="x-consumer"))
    assert found.fact("agent", "id") == "shop-bot"


@pytest.mark.parametrize("name", ["x_role", "x.role"])
def test_a_header_in_another_spelling_makes_both_spellings_invalid(name: str) -> None:
    assert isinstance(asked((name, "admin")).fact("request", "headers", "x-role"), Invalid)
    for order in ((name, "x-role"), ("x-role", name)):
        found = asked(*((one, "guest") for one in order), hands_on=ForwardedParts(frozenset({"x-role"})))
        assert isinstance(found.fact("request", "headers", "x-role"), Invalid)
        assert isinstance(found.fact("request", "headers", name), Invalid)
    assert asked(("x-roles", "admin")).fact("request", "headers", "x-role") is ABSENT


def test_secret_and_fact_headers_are_not_request_headers() -> None:
    found = asked(("authorization", "Bearer x"), ("cookie", "a=b"), ("x-agent-id", "bot"), ("x-trace", "7"))
    assert found.fact("request", "headers", "x-trace") == "7"
    for name in ("authorization", "cookie", "x-agent-id"):
        assert found.fact("request", "headers", name) is PENDING


def test_a_repeated_client_header_has_no_string_value() -> None:
    found = asked(("x-trace", "7"), ("x-trace", "8"))
    assert not isinstance(found.fact("request", "headers", "x-trace"), str)


@pytest.mark.parametrize(
    "query", ["_method=DELETE", "a=1;_method=DELETE", "a=1&_METHOD", "%5Fmethod=DELETE", "a;_method"]
)
def test_a_method_override_in_the_query_is_malformed(query: str) -> None:
    found = asked(target=RequestTarget("GET", f"/things?{query}", None))
    assert "names another method" in getattr(found.endpoint, "why", "")


@pytest.mark.parametrize(
    ("query", "known"),
    [
        ("to=alice", "alice"), ("to=", ""), ("%74o=alice", "alice"), ("to=a%3Bb", "a;b"), ("x=1", ABSENT), ("", ABSENT),
        ("to=a&to=b", None), ("to=a&%74o=b", None), ("x=1;to=mallory", None), ("to=alice;x=1", None),
        ("to[]=mallory", None), ("to[x]=mallory", None), ("to%5B%5D=mallory", None), ("to=alice&to[]=mallory", None),
        ("+to=mallory", None), ("to%00x=mallory", None), ("x=%5Bto", ABSENT), ("toe=1", ABSENT),
    ],
)  # fmt: skip
def test_an_ambiguous_query_parameter_is_invalid(query: str, known: object) -> None:
    fact = asked(target=RequestTarget("GET", f"/x?{query}", None)).fact("request", "query", "to")
    assert fact == known or (known is None and isinstance(fact, Invalid))


def test_a_parameter_name_with_a_dot_or_space_invalidates_its_underscore_form() -> None:
    found = read_query("send.to=a&send+cc=b")
    assert {"send_to", "send_cc"} <= found.keys()
    assert not any(isinstance(value, str) for value in found.values())


def test_a_repeated_or_unreadable_parameter_has_no_value() -> None:
    found = read_query("a=1&a=1&b=%ff&c=%20+&d=&&%ff=1&e[]=1&f")
    assert {name: value for name, value in found.items() if isinstance(value, str)} == {"c": "  ", "d": ""}
    assert {"a", "b", "e", "f"} <= found.keys()


def test_a_query_with_too_many_parameters_is_rejected() -> None:
    with pytest.raises(RequestError, match="more than 1,000 parameters"):
        asked(target=RequestTarget("GET", "/things?" + "a&" * 1_000, None))


def test_a_query_with_a_hash_is_rejected() -> None:
    with pytest.raises(RequestError, match="a `#`"):
        asked(target=RequestTarget("GET", "/things?x=1#&tenant=acme", None))
    assert asked(target=RequestTarget("GET", "/things?tenant=%23", None)).fact("request", "query", "tenant") == "#"


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
def test_a_certificate_names_an_agent_when_its_spiffe_id_is_trusted(principal: str, trusted: bool) -> None:
    found = read_spiffe_facts(principal, GatewayHeaders(trust_domains=(("acme.example", "acme"),)))
    assert found.get("agent") == ({"id": principal, "issuer": "acme"} if trusted else None)
    assert found.get("credential", {}).get("kind") == ("mtls" if trusted else None)
    assert read_spiffe_facts(principal, GatewayHeaders()) == {}


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b'{"a": 1}', {"content-type": "application/json", "content-encoding": "gzip"}, "has a `Content-Encoding`"),
        (b'{"a": 1}', {"content-type": "text/plain"}, "was sent as `text/plain`: only JSON and forms in UTF-8"),
        (b'{"a": 1}', {}, "has no `Content-Type`"),
        (b"[1]", {"content-type": "application/json"}, "is not a JSON object"),
        (b"{", {"content-type": "application/json"}, "is not valid JSON"),
        (b'{"to": "a"}', {"content-type": FORM}, "was sent as a form, but could be read as JSON"),
        (b"{}", {"content-type": "application/json; charset=utf-7"}, "was sent as `application/json; charset=utf-7`"),
        ('{"to": "a"}', {"content-type": "application/json"}, "was sent as text, not as bytes"),
    ],
)  # fmt: skip
def test_an_unread_body_states_the_reason(content: bytes | str, headers: dict[str, str], why: str) -> None:
    found = asked(WHOLE, *headers.items(), content=content)
    reason = f"the body {why}"
    assert all(found.fact("body", *path).why.startswith(reason) for path in ((), ("a",), ("card", "number")))


@pytest.mark.parametrize(
    ("type_", "content"),
    [("application/json; charset=utf-8", b'{"to": "alice"}'), (FORM, b"to=alice"), (FORM, b"to=%61lice")],
)
def test_a_json_or_form_body_is_read_as_an_object(type_: str, content: bytes) -> None:
    assert asked(WHOLE, ("content-type", type_), content=content).facts["body"] == {"to": "alice"}


@pytest.mark.parametrize("type_", ["application/json", FORM, "multipart/form-data; boundary=x", "text/plain", ""])
@pytest.mark.parametrize("heads", [(WHOLE,), (PIECE,), ()])
@pytest.mark.parametrize("form", [bytes, bytes.decode])
def test_a_method_override_in_a_body_is_detected_even_in_a_partial_body(
    type_: str, heads: tuple[tuple[str, str], ...], form: Callable[[bytes], bytes | str]
) -> None:
    def endpoint(content: bytes) -> object:
        return asked(*heads, ("content-type", type_), content=form(content)).endpoint

    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\nDELETE\r\n--x--\r\n'
    before, after = (b"", b"=DELETE") if "multipart" not in type_ else part.split(b"%s")
    assert "names another method" in getattr(endpoint(before + b"_method" + after), "why", "")
    assert isinstance(endpoint(before + b"method" + after), HttpEndpoint)


# ── What did not arrive ───────────────────────────────────────────────────────────────────────

NAMED = ForwardedParts(frozenset({"x-role", "x-agent-groups"}))


def header_of(found: Request, name: str) -> object:
    return found.fact("request", "headers", name)


@pytest.mark.parametrize(
    ("hands_on", "arrived", "name", "fact"),
    [
        (ForwardedParts(), (), "x-role", PENDING),
        (ForwardedParts(), (("x-role", "guest"),), "x-role", "guest"),
        (NAMED, (), "x-role", ABSENT),
        (NAMED, (("x-role", "guest"),), "x-role", "guest"),
        (NAMED, (("x-role", ""),), "x-role", ""),
        (NAMED, (), "x-other", PENDING),
        (NAMED, (), "x-agent-groups", PENDING),
        (ForwardedParts(None), (), "x-role", ABSENT),
        (ForwardedParts(None), (("cookie", "a=b"),), "cookie", PENDING),
        (ForwardedParts(None), (), "cookie", ABSENT),
        (ForwardedParts(None), (), "authorization", PENDING),
        (ForwardedParts(None), (), "upgrade", PENDING),
        (ForwardedParts(None), (), "host", PENDING),
        (ForwardedParts(None), (("x-envoy-internal", "true"),), "x-envoy-internal", PENDING),
        (ForwardedParts(None), (("x-agent-id", "bot"),), "x-agent-id", PENDING),
        (ForwardedParts(frozenset({"cookie"})), (), "cookie", PENDING),
    ],
)
def test_a_request_header_is_known_absent_or_pending_depending_on_what_is_forwarded(
    hands_on: ForwardedParts, arrived: tuple[tuple[str, str], ...], name: str, fact: object
) -> None:
    assert header_of(asked(*arrived, hands_on=hands_on), name) == fact


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("x-role", "a", True), ("x-role", "a,b", False), ("x-role", "a, b", False), ("content-type", "a,b", False),
        ("accept", "a,b", True), ("user-agent", "Mozilla (KHTML, like Gecko)", True),
    ],
)  # fmt: skip
def test_a_header_with_a_comma_is_invalid_when_the_gateway_joins_values(name: str, value: str, known: bool) -> None:
    found = asked((name, value), hands_on=ForwardedParts(None, joins=True))
    assert (header_of(found, name) == value) is known
    assert isinstance(header_of(found, name), str | Invalid)
    assert header_of(asked((name, value), hands_on=ForwardedParts(None)), name) == value


def test_facts_no_gateway_sends_are_pending_and_the_query_is_known() -> None:
    found = asked(target=RequestTarget("GET", "/x?page=2", None))
    for path in (("context", "risk"), ("body", "to"), ("request", "ip"), ("request", "host"), ("request", "size")):
        assert found.fact(*path) is PENDING
    assert found.fact("request", "query", "page") == "2"
    assert found.fact("request", "query", "other") is ABSENT
    assert found.fact("args", "to") is ABSENT
    assert "agent" not in found.facts


AS_JSON = ("content-type", "application/json")
SENDING = ForwardedParts(None, bodies=True)


@pytest.mark.parametrize(
    ("headers", "content", "hands_on", "to", "size"),
    [
        ((WHOLE, AS_JSON), b'{"to": 1}', ForwardedParts(None), 1, 9),
        ((WHOLE, AS_JSON), b"{}", ForwardedParts(None), ABSENT, 2),
        ((WHOLE, AS_JSON), b'["to"]', SENDING, Invalid("the body is not a JSON object"), 6),
        ((WHOLE,), b'{"to": 1}', SENDING, Invalid("the body has no `Content-Type`"), 9),
        ((WHOLE, AS_JSON), '{"to": "é"}', SENDING, BODY_AS_TEXT, 12),
        ((AS_JSON,), b'{"to": 1}', SENDING, PENDING, PENDING),
        ((PIECE, AS_JSON), b"{}", SENDING, PENDING, PENDING),
        ((WHOLE, WHOLE, AS_JSON), b"{}", SENDING, PENDING, PENDING),
        ((), b"", SENDING, ABSENT, 0),
        ((WHOLE,), b"", SENDING, ABSENT, 0),
        ((PIECE,), b"", SENDING, PENDING, PENDING),
        ((), b"", ForwardedParts(None), PENDING, PENDING),
        ((WHOLE,), b"", ForwardedParts(None), PENDING, PENDING),
        ((), None, SENDING, PENDING, PENDING),
        ((("x-agent-size", "0"),), None, ForwardedParts(None), ABSENT, 0),
        ((("x-agent-size", "7"),), None, ForwardedParts(None), PENDING, 7),
        ((("x-agent-size", ""),), None, ForwardedParts(None), PENDING, PENDING),
        ((("x-agent-size", "0"),), b"", ForwardedParts(None), PENDING, PENDING),
        ((("x-agent-size", "0"), PIECE), b"{}", ForwardedParts(None), PENDING, PENDING),
    ],
)
def test_a_body_is_known_when_read_completely_and_absent_when_shown_empty(
    headers: tuple[tuple[str, str], ...], content: bytes | None, hands_on: ForwardedParts, to: object, size: object
) -> None:
    found = asked(*headers, hands_on=hands_on, content=content)
    assert (found.fact("body", "to"), found.fact("request", "size")) == (to, size)


def test_a_size_header_that_is_not_configured_is_ignored() -> None:
    found = asked(("x-agent-size", "0"), names=GatewayHeaders())
    assert (found.fact("body", "to"), found.fact("request", "size")) == (PENDING, PENDING)


@pytest.mark.parametrize("value", ["-1", "1.5", "7, 7", "x", "9" * 16])
def test_an_invalid_size_header_is_rejected(value: str) -> None:
    assert refusal(("x-agent-size", value)).startswith("the header `x-agent-size` ")


@pytest.mark.parametrize(
    ("hands_on", "headers", "groups"),
    [
        (ForwardedParts(), (), PENDING),
        (ForwardedParts(), (("x-agent-groups", ""),), ABSENT),
        (ForwardedParts(), (("x-agent-groups", "ops"),), ("ops",)),
        (NAMED, (), ABSENT),
        (ForwardedParts(None), (), ABSENT),
    ],
)
def test_agent_groups_are_pending_unless_the_gateway_forwards_their_header(
    hands_on: ForwardedParts, headers: tuple[tuple[str, str], ...], groups: object
) -> None:
    found = asked(("x-agent-id", "bot"), *headers, hands_on=hands_on)
    assert found.fact("agent", "groups") == groups
    assert found.fact("agent", "model") is PENDING


def test_a_fact_without_a_configured_header_is_pending() -> None:
    found = asked(("x-agent-id", "bot"), names=GatewayHeaders(agent_groups=""))
    assert found.fact("agent", "groups") is PENDING


def test_each_adapter_has_default_forwarded_headers() -> None:
    names = GatewayHeaders()
    known = {one: names.hands_on(one).headers for one in GatewayAdapter}
    every = dict.fromkeys((GatewayAdapter.FORWARD_AUTH, GatewayAdapter.ENVOY_GRPC))
    assert known == {**every, GatewayAdapter.NGINX: frozenset(), GatewayAdapter.ENVOY: frozenset()}
    assert not any(names.hands_on(one).bodies for one in GatewayAdapter)

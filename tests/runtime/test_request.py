"""From the wire to a request: structure is checked and told by member, leaves are kept and judged later."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime.request import (
    ActionEndpoint,
    Approval,
    EntityData,
    HttpEndpoint,
    MalformedEndpoint,
    Options,
    Request,
    RequestError,
    ToolEndpoint,
)
from policyengine.runtime.values import ABSENT, PENDING, Invalid
from policyengine.typesystem import EntityRef

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
TOOL = {"tool": {"server": "billing", "name": "refund"}}


def http(**more: object) -> Request:
    return Request.from_mapping({"request": {"method": "GET", "path": "/v1", **more}})


def tool(**more: object) -> Request:
    return Request.from_mapping({**TOOL, **more})


def from_json_text(facts: str) -> Request:
    return Request.from_json('{"tool": {"name": "t"}, ' + facts + "}")


def refused(data: object) -> RequestError:
    with pytest.raises(RequestError) as error:
        Request.from_mapping(data)
    return error.value


def refused_json(data: bytes | str) -> RequestError:
    with pytest.raises(RequestError) as error:
        Request.from_json(data)
    return error.value


# ── The whole message ─────────────────────────────────────────────────────────────────────────

EXAMPLE = {
    "request": {"method": "POST", "path": "/v1/invoices/42/refunds", "host": "api.acme.example", "ip": "10.1.2.3",
                "headers": {"txn": "…"}, "query": {}, "size": 812},
    "tool": None, "action": None,
    "agent": {"id": "invoice-bot", "issuer": "acme", "instance": "pod-7", "groups": ["billing"]},
    "user": {"id": "alice"},
    "chain": {"hops": [{"agent": "planner", "issuer": "acme", "issued_at": "2027-01-01T09:00:00Z", "scopes": ["r"]}]},
    "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["create:refunds"], "bound": True, "claims": {"a": 1}},
    "attestation": {"verified": True, "by": "lab", "model": "summarizer-7b"},
    "task": {"id": "t-9", "tools": ["refund_invoice"], "entities": ["42"]},
    "body": {"amount": 900}, "args": {}, "resource": None, "context": {}, "pending": [],
    "options": {"consume": False, "explain": True, "obligations_supported": ["redact"], "at": "2027-01-01T12:00:00Z"},
}  # fmt: skip


def test_the_documented_example_is_read():
    request = Request.from_json(json.dumps(EXAMPLE))
    assert request.endpoint == HttpEndpoint("POST", "/v1/invoices/42/refunds", ("v1", "invoices", "42", "refunds"))
    assert request.fact("body", "amount") == 900
    assert request.fact("agent", "groups") == ("billing",)
    assert request.fact("resource") is ABSENT
    assert request.options == Options(False, True, frozenset({"redact"}), NOON)


def test_json_messagepack_and_python_give_the_same_request():
    one = Request.from_json(json.dumps(EXAMPLE).encode())
    assert Request.from_msgpack(msgpack.packb(EXAMPLE)) == one
    assert Request.from_mapping(EXAMPLE) == one


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON at line 1, column 1: the text ends too early"),
        (b"{", "not valid JSON at line 1, column 2: the text ends too early"),
        (b'{"tool": {"name": "t"}} x', "not valid JSON at line 1, column 25: nothing more was expected"),
        (b"{'tool': 1}", "not valid JSON at line 1, column 2: a name in double quotes was expected"),
        (b'\xef\xbb\xbf{"tool": {"name": "t"}}', "the JSON begins with a byte order mark; send it without one"),
        (b'{"tool": {"name": "\xff"}}', "not valid UTF-8"),
        ('{"tool": {"name": "t"}}'.encode("utf-16"), "not valid UTF-8"),
        (b"[]", "a request must be an object, got list"),
        (b"7", "a request must be an object, got int"),
        (b"null", "a request must be an object, got null"),
        (b"[" * 100_000, "nested more than 32 levels deep"),
        (b'{"a":' * 100_000, "nested more than 32 levels deep"),
        (b"[" * 33 + b"]" * 33, "nested more than 32 levels deep"),
        (b'{"body": {"\\ud800": 1}}', "a member name that is too long or not valid Unicode"),
    ],
)
def test_the_error_states_why_json_is_not_a_request(data, message):
    error = refused_json(data)
    assert (error.member, error.message) == ("", message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid MessagePack"),
        (b"\xc1", "not valid MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "not valid MessagePack"),
        (b"\xdb\xff\xff\xff\xff", "not valid MessagePack"),
        (msgpack.packb(TOOL) + b"\x00", "not valid MessagePack"),
        (msgpack.packb({1: 2}), "not valid MessagePack"),
        (msgpack.packb({b"tool": 2}), "a member name that is not a string"),
        (b"\x81\xa1\xff\x01", "not valid UTF-8"),
        (b"\x91" * 5_000 + b"\x00", "not valid MessagePack"),
        (b"\x91" * 33 + b"\x00", "nested more than 32 levels deep"),
        (b"\x90", "a request must be an object, got list"),
    ],
)
def test_the_error_states_why_messagepack_is_not_a_request(data, message):
    with pytest.raises(RequestError) as error:
        Request.from_msgpack(data)
    assert error.value.message == message


# ── Hazards become invalid leaves ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("NaN", "not a finite number"),
        ("Infinity", "not a finite number"),
        ("-Infinity", "not a finite number"),
        ("1" * 35, "beyond 34 digits"),
        ("-" + "1" * 35, "beyond 34 digits"),
        ("1" * 5_000, "beyond 34 digits"),
        ("1" + "0" * 6_145, "beyond 34 digits"),
        ("0." + "1" * 35, "beyond 34 digits"),
        ("1e99999", "beyond 34 digits"),
        ("1e-99999999999999999999", "beyond 34 digits"),
        ('"\\ud800"', "a lone surrogate"),
        ('"' + "x" * 65_537 + '"', "longer than 65,536 characters"),
        ("[" + "0," * 10_000 + "0]", "more than 10,000 elements"),
    ],
)
def test_a_hazardous_json_value_is_invalid(text, why):
    assert from_json_text(f'"body": {{"x": {text}}}').fact("body", "x") == Invalid(why)


def test_a_duplicate_key_is_invalid_whatever_its_values():
    request = from_json_text('"body": {"amount": 1, "amount": 1, "other": 2}')
    assert request.fact("body", "amount") == Invalid("a duplicate key")
    assert request.fact("body", "other") == 2


def test_a_duplicate_key_with_escapes_is_invalid():
    assert from_json_text('"body": {"amount": 1, "\\u0061mount": 2}').fact("body", "amount") == Invalid(
        "a duplicate key"
    )


def test_members_of_an_invalid_object_are_invalid():
    request = from_json_text('"body": {"card": {"limit": 1}, "card": {"limit": 9}}')
    assert request.fact("body", "card", "limit") == Invalid("a duplicate key")


def test_an_object_with_too_many_members_is_invalid():
    many = {str(number): 0 for number in range(10_001)}
    assert tool(body={"x": many}).fact("body", "x") == Invalid("more than 10,000 members")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Decimal("0.1")),
        ("1e3", Decimal("1E+3")),
        ("900.0", Decimal("900.0")),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", Decimal(2**63)),
        ("-9223372036854775809", Decimal(-(2**63) - 1)),
        ("12345678901234567890", Decimal("12345678901234567890")),
        ("9" * 34, Decimal("9" * 34)),
        ("1" + "0" * 40, Decimal("1E+40")),
        ("-1" + "0" * 6_144, Decimal("-1E+6144")),
    ],
)
def test_json_numbers_are_exact(text, value):
    found = from_json_text(f'"body": {{"x": {text}}}').fact("body", "x")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, Decimal("0.1")),
        (1e300, Decimal("1E+300")),
        (float("nan"), Invalid("not a finite number")),
        (float("inf"), Invalid("not a finite number")),
        (2**64 - 1, Decimal(2**64 - 1)),
        (b"abc", Invalid("bytes")),
        (msgpack.ExtType(5, b"x"), Invalid("a MessagePack extension")),
        (msgpack.Timestamp.from_datetime(NOON), NOON),
        (True, True),
    ],
)
def test_messagepack_values_become_facts(value, expected):
    request = Request.from_msgpack(msgpack.packb({**TOOL, "body": {"x": value}}))
    assert request.fact("body", "x") == expected


def test_a_duplicate_messagepack_key_is_invalid():
    body = b"\x82\xa1x\x01\xa1x\x02"
    data = b"\x82\xa4tool\x81\xa4name\xa1t\xa4body" + body
    assert Request.from_msgpack(data).fact("body", "x") == Invalid("a duplicate key")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, Decimal("0.1")),
        (Decimal("0.10"), Decimal("0.10")),
        (Decimal("1" * 35), Invalid("beyond 34 digits")),
        (Decimal("sNaN"), Invalid("not a finite number")),
        (NOON, NOON),
        (timedelta(1), timedelta(1)),
        ({"b", "a"}, ("a", "b")),
        ([1, (2,)], (1, (2,))),
        (EntityRef("user", "x"), EntityRef("user", "x")),
        (ip_address("::1"), ip_address("::1")),
        (object(), Invalid("of a type that policies do not support")),
        (1j, Invalid("of a type that policies do not support")),
    ],
)
def test_python_values_become_facts(value, expected):
    assert tool(body={"x": value}).fact("body", "x") == expected


def test_a_request_does_not_share_mutable_objects_of_the_caller():
    body = {"roles": ["clerk"]}
    request = tool(body=body)
    body["roles"].append("admin")
    assert request.fact("body", "roles") == ("clerk",)


def test_a_cycle_in_python_objects_is_rejected_as_too_deep():
    body: dict[str, object] = {}
    body["body"] = body
    assert refused({**TOOL, "body": body}).message == "nested more than 32 levels deep"


# ── Structure ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given_", "member", "message"),
    [
        ({"agnt": {}}, "agnt", "unknown member `agnt`"),
        ({"user": {"id": "a", "roles": []}}, "user.roles", "unknown member `user.roles`"),
        ({"agent": {"trust": 1}}, "agent.trust", "unknown member `agent.trust`"),
        ({"resource": {"type": "x", "id": "1", "tenant": "t"}}, "resource.tenant", "unknown member `resource.tenant`"),
        ({"credential": {"knd": "jwt"}}, "credential.knd", "unknown member `credential.knd`"),
        ({"chain": {"depth": 1}}, "chain.depth", "unknown member `chain.depth`"),
        ({"chain": {"hops": [{}, {"user": "x"}]}}, "chain.hops[1].user", "unknown member `chain.hops[1].user`"),
        ({"request": {"ip": "::1", "cookies": {}}}, "request.cookies", "unknown member `request.cookies`"),
        ({"options": {"dry": True}}, "options.dry", "unknown member `options.dry`"),
        ({"approvals": [{"token": "x"}]}, "approvals[0].token", "unknown member `approvals[0].token`"),
        ({"agent": 5}, "agent", "`agent` must be an object, got int"),
        ({"agent": []}, "agent", "`agent` must be an object, got list"),
        ({"user": "alice"}, "user", "`user` must be an object, got string"),
        ({"body": [1]}, "body", "`body` must be an object, got list"),
        ({"chain": {"hops": {}}}, "chain.hops", "`chain.hops` must be a list, got object"),
        ({"chain": {"hops": ["a"]}}, "chain.hops[0]", "`chain.hops[0]` must be an object, got string"),
        ({"credential": {"claims": 1}}, "credential.claims", "`credential.claims` must be an object, got int"),
        ({"request": {"headers": []}}, "request.headers", "`request.headers` must be an object, got list"),
        ({"request": {"query": "a=b"}}, "request.query", "`request.query` must be an object, got string"),
        ({"options": {"consume": 1}}, "options.consume", "`options.consume` must be true or false, got int"),
        ({"options": {"at": "now"}}, "options.at", "`options.at` must be a time with a zone"),
        ({"options": {"obligations_supported": "x"}}, "options.obligations_supported",
         "`options.obligations_supported` must be a list, got string"),
        ({"approvals": [{"id": "1", "by": ""}]}, "approvals[0].by", "`approvals[0].by` is missing"),
        ({"approvals": [{"id": "1", "by": "bob", "granted_at": 5}]}, "approvals[0].granted_at",
         "`approvals[0].granted_at` must be a time with a zone"),
        ({"entities": [{"type": "user"}]}, "entities[0].id", "`entities[0].id` is missing"),
        ({"entities": [{"type": "user", "id": "e\u0301"}]}, "entities[0].id", "`entities[0].id` is not in Unicode NFC"),
        ({"entities": [{"type": "user", "id": "a", "in": ["x"]}]}, "entities[0].in[0]",
         "`entities[0].in[0]` must be an object, got string"),
        ({"entities": [{"type": "user", "id": "a"}, {"type": "user", "id": "a"}]}, "entities[1]",
         'user "a" is given twice'),
        ({"pending": "body"}, "pending", "`pending` must be a list, got string"),
        ({"pending": [1]}, "pending[0]", "`pending[0]` must be a string, got int"),
        ({"pending": ["bdy.x"]}, "pending[0]", "unknown fact `bdy.x`"),
        ({"pending": ["body..x"]}, "pending[0]", "`body..x` is not the name of a fact"),
        ({"pending": ["credential.x"]}, "pending[0]", "unknown fact `credential.x`"),
        ({"pending": ["tool.name"]}, "pending[0]", "`tool.name` names the endpoint and cannot be pending"),
        ({"pending": ["body.x"], "body": {"x": 1}}, "pending[0]", "`body.x` is both present and pending"),
        ({"pending": ["body.x.y"], "body": {"x": 1}}, "pending[0]", "`body.x.y` is pending, but `x` is not an object"),
        ({"pending": ["body.x.*"], "body": {"x": 1}}, "pending[0]", "`body.x.*` is pending, but `x` is not an object"),
        ({"pending": ["request.*"]}, "pending[0]", "`request` names the endpoint and cannot be pending"),
        ({"pending": ["task.*"]}, "pending[0]", "`task.*` is pending, but the members of `task` are fixed"),
        ({"pending": ["agent.*"]}, "pending[0]", "`agent.*` is pending, but the members of `agent` are fixed"),
        ({"pending": ["body.*.x"]}, "pending[0]", "`body.*.x` is not the name of a fact"),
        ({"pending": ["*"]}, "pending[0]", "`*` is not the name of a fact"),
        ({"pending": ["body", "body.*"], "body": {}}, "pending[0]", "`body` is both present and pending"),
    ],
)  # fmt: skip
def test_a_structural_error_names_the_member(given_, member, message):
    error = refused({**TOOL, **given_})
    assert (error.member, error.message) == (member, message)


@pytest.mark.parametrize(
    ("given_", "hint"),
    [
        ({"agnt": {}}, "did you mean `agent`?"),
        ({"credential": {"knd": "jwt"}}, "did you mean `kind`?"),
        ({"agent": {"isuer": "x"}}, "did you mean `issuer`?"),
        ({"credentials": {"DPoP": "x"}}, "did you mean `dpop`?"),
        ({"Request": {}}, "did you mean `request`?"),
        ({"zzz": 1}, None),
        ({"user": {"roles": []}}, "attributes of a declared entity come from the entity store, from the credential's "
                                  "`claims`, or from `entities` in this request"),
    ],
)  # fmt: skip
def test_a_structural_error_has_a_hint(given_, hint):
    assert refused({**TOOL, **given_}).hint == hint


def test_user_input_in_error_messages_is_truncated_to_one_line():
    error = refused({**TOOL, "\n" * 500: 1})
    assert error.message == f"unknown member `{'?' * 100}…`"


@pytest.mark.parametrize(
    "text",
    [
        '"agent": {"id": "a"}, "agent": {"id": "b"}',
        '"body": {}, "body": {}',
        '"tool": {"name": "u"}',
        '"options": {}, "options": {}',
    ],
)
def test_a_duplicate_structural_member_is_rejected(text):
    assert refused_json('{"tool": {"name": "t"}, ' + text + "}").message.endswith("got a duplicate key")


@pytest.mark.parametrize("value", [5, "x", ["a"], {"a": 1}, True])
def test_a_fact_of_the_wrong_type_is_not_a_structural_error(value):
    request = tool(agent={"id": value}, credential={"scopes": value}, request={"ip": value, "size": value})
    assert request.fact("agent", "id") is not ABSENT


def test_null_members_count_as_absent():
    nothing = dict.fromkeys(["action", "agent", "user", "chain", "body", "approvals", "entities", "pending", "options"])
    assert Request.from_mapping({**TOOL, **nothing}) == Request.from_mapping(TOOL)


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def test_head_becomes_get_in_the_endpoint_and_the_facts():
    request = http(method="HEAD", path="/v1/caf%C3%A9/")
    assert request.endpoint == HttpEndpoint("GET", "/v1/café", ("v1", "café"))
    assert request.fact("request", "method") == "GET"
    assert request.fact("request", "path") == "/v1/café"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"path": "/v1/../admin"}, "a dot segment"),
        ({"path": ""}, "no slash at the start"),
        ({"path": "/\ud800"}, "a lone surrogate"),
        ({"path": "/" + "x" * 70_000}, "longer than 65,536 characters"),
    ],
)
def test_a_path_without_a_canonical_spelling_is_malformed(members, why):
    endpoint = http(**members).endpoint
    assert isinstance(endpoint, MalformedEndpoint)
    assert endpoint.why == f"the path is not canonical: {why}"


def test_a_method_that_is_not_an_upper_case_word_is_malformed():
    endpoint = http(method="get").endpoint
    assert isinstance(endpoint, MalformedEndpoint)
    assert endpoint.why == "the method is not an upper-case word: write `GET`"


@pytest.mark.parametrize(
    ("headers", "query", "body", "why"),
    [
        ({"X-HTTP-Method-Override": "DELETE"}, {}, {}, "a header names another method (`x-http-method-override`)"),
        ({"x_method_override ": "DELETE"}, {}, {}, "a header names another method (`x-method-override`)"),
        ({}, {"_METHOD": ["DELETE"]}, {}, "the query names another method (`_method`)"),
        ({}, {"x-http-method": "DELETE"}, {}, "the query names another method (`x-http-method`)"),
        ({}, {}, {"_method": "DELETE"}, "the body names another method (`_method`)"),
    ],
)
def test_a_method_override_is_malformed_and_the_reason_names_its_location(headers, query, body, why):
    asked = {"request": {"method": "POST", "path": "/v1", "headers": headers, "query": query}, "body": body}
    endpoint = Request.from_mapping(asked).endpoint
    assert isinstance(endpoint, MalformedEndpoint)
    assert endpoint.why == why


def test_a_tool_is_qualified_by_its_server():
    assert tool().endpoint == ToolEndpoint("billing", "refund")
    assert tool().endpoint.qualified == "billing/refund"


def test_a_tool_without_a_server_is_its_name():
    endpoint = Request.from_mapping({"tool": {"server": None, "name": "refund"}}).endpoint
    assert (endpoint, endpoint.qualified) == (ToolEndpoint(None, "refund"), "refund")


def test_an_action_takes_its_type_from_the_resource():
    request = Request.from_mapping({"action": {"name": "view"}, "resource": {"type": "invoice", "id": 42}})
    assert request.endpoint == ActionEndpoint("view", "invoice")
    assert request.fact("resource", "id") == 42


@pytest.mark.parametrize(
    ("given_", "member"),
    [
        ({}, ""),
        ({"request": {"ip": "::1"}}, ""),
        ({**TOOL, "request": {"method": "GET", "path": "/"}}, "tool"),
        ({**TOOL, "request": {"path": "/"}}, "tool"),
        ({**TOOL, "action": {"name": "view"}, "resource": {"type": "x", "id": "1"}}, "action"),
        ({"request": {"method": "GET"}}, "request.path"),
        ({"request": {"path": "/"}}, "request.method"),
        ({"request": {"method": 7, "path": "/"}}, "request.method"),
        ({"request": {"method": "GET", "path": ["/"]}}, "request.path"),
        ({"tool": {}}, "tool.name"),
        ({"tool": {"name": ""}}, "tool.name"),
        ({"tool": {"name": 7}}, "tool.name"),
        ({"tool": {"name": "x", "server": ""}}, "tool.server"),
        ({"tool": {"name": "billing/refund"}}, "tool.name"),
        ({"tool": {"server": "a/b", "name": "refund"}}, "tool.server"),
        ({"tool": {"name": "e\u0301"}}, "tool.name"),
        ({"action": {"name": "view"}}, "resource.type"),
        ({"action": {"name": "view"}, "resource": {"id": "1"}}, "resource.type"),
        ({"action": {}, "resource": {"type": "x", "id": "1"}}, "action.name"),
    ],
)
def test_a_request_has_exactly_one_whole_endpoint(given_, member):
    assert refused(given_).member == member


def test_a_duplicate_path_is_rejected():
    error = refused_json('{"request": {"method": "GET", "path": "/a", "path": "/b"}}')
    assert error.member == "request.path"


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def test_header_and_host_names_are_case_insensitive():
    request = http(headers={"X-Id": "7"}, host="API.Acme.Example")
    assert request.fact("request", "headers", "x-ID") == "7"
    assert request.fact("request", "host") == "api.acme.example"


def test_a_header_given_in_two_spellings_is_invalid():
    assert http(headers={"X-Id": "7", "x-id": "7"}).fact("request", "headers", "x-id") == Invalid("a duplicate header")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("body",), {"x": 1, "n": None, "l": (1,)}),
        (("body", "x"), 1),
        (("body", "y"), ABSENT),
        (("body", "y", "z"), ABSENT),
        (("body", "n"), ABSENT),
        (("body", "n", "z"), ABSENT),
        (("body", "x", "z"), Invalid("expected an object, got int")),
        (("body", "l", "z"), Invalid("expected an object, got list")),
        (("args",), ABSENT),
        (("args", "x"), ABSENT),
    ],
)
def test_a_fact_is_looked_up_by_its_path(path, expected):
    assert tool(body={"x": 1, "n": None, "l": [1]}).fact(*path) == expected


@pytest.mark.parametrize(
    ("pending", "path"),
    [
        ("body.amount", ("body", "amount")),
        ("body.card.limit", ("body", "card", "limit")),
        ("body", ("body", "amount")),
        ("user", ("user", "id")),
        ("agent.groups", ("agent", "groups")),
        ('args["content-type"]', ("args", "content-type")),
        ('request.headers["x-id"]', ("request", "headers", "X-Id")),
    ],
)
def test_a_pending_fact_is_neither_present_nor_absent(pending, path):
    request = tool(pending=[pending])
    assert request.fact(*path) is PENDING
    assert request.pending == {pending}


GIVEN = {"to": "alice", "note": None, "card": {"number": "4"}}


@pytest.mark.parametrize(
    ("pending", "path", "fact"),
    [
        (["body.*"], ("body", "to"), "alice"),
        (["body.*"], ("body", "note"), ABSENT),
        (["body.*"], ("body", "role"), PENDING),
        (["body.*"], ("body", "role", "name"), PENDING),
        (["body.*"], ("body", "card", "number"), "4"),
        (["body.*"], ("body", "card", "limit"), ABSENT),
        (["body.card.*"], ("body", "card", "limit"), PENDING),
        (["body.card.*"], ("body", "card", "number"), "4"),
        (["body.card.*"], ("body", "role"), ABSENT),
        (["body.other.*"], ("body", "other"), PENDING),
        (["body.*", "body.role"], ("body", "role"), PENDING),
        (["body.role.name", "body.*"], ("body", "role"), PENDING),
        (["args.*"], ("args", "x"), PENDING),
        (["context.*"], ("context", "x"), PENDING),
        (["request.headers.*"], ("request", "headers", "X-Role"), "guest"),
        (["request.headers.*"], ("request", "headers", "X-None"), ABSENT),
        (["request.headers.*"], ("request", "headers", "x-other"), PENDING),
        (['request.headers["x-a"]', "request.headers.*"], ("request", "headers", "x-b"), PENDING),
        (['request.headers["x-a"]'], ("request", "headers", "x-b"), ABSENT),
        (["request.query.*"], ("request", "query", "page"), PENDING),
        (["credential.claims.*"], ("credential", "claims", "tenant"), PENDING),
    ],
)
def test_only_members_not_given_of_a_partly_known_object_are_pending(pending, path, fact):
    request = tool(body=GIVEN, request={"headers": {"X-Role": "guest", "x-none": None}}, pending=pending)
    assert request.fact(*path) == fact


def test_all_members_of_an_absent_object_may_be_pending():
    assert tool(pending=["body.*"]).fact("body", "to") is PENDING
    assert tool(body=None, pending=["body.*"]).fact("body", "to") is PENDING


def test_a_pending_member_makes_its_absent_object_pending():
    request = tool(pending=["body.card.limit"])
    assert request.fact("body", "card") is PENDING
    assert request.fact("body", "card", "number") is PENDING
    assert tool(body={"card": {}}, pending=["body.card.limit"]).fact("body", "card", "number") is ABSENT


def test_a_pending_entity_attribute_is_not_part_of_the_facts():
    request = tool(user={"id": "alice"}, pending=["user.roles", "resource.tenant"])
    assert request.facts["user"] == {"id": "alice"}
    assert "resource" not in request.facts
    assert request.pending == {"user.roles", "resource.tenant"}


def test_approvals_are_read():
    given_ = {"id": "a-1", "by": "bob", "granted_at": "2027-01-01T12:00:00Z", "binding": "sha256:00"}
    assert tool(approvals=[given_]).approvals == (Approval("a-1", "bob", NOON, "sha256:00"),)


def test_entity_rows_are_read():
    row = {"type": "user", "id": "alice", "attributes": {"roles": ["clerk"]}, "in": [{"type": "team", "id": "x"}]}
    expected = EntityData(EntityRef("user", "alice"), {"roles": ("clerk",)}, (EntityRef("team", "x"),))
    assert tool(entities=[row]).entities == (expected,)


# ── Fuzz: a request or a RequestError, whatever comes ─────────────────────────────────────────

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from([*EXAMPLE, "approvals", "entities", "credentials"])
PARTS = st.dictionaries(st.sampled_from("method path headers query name server type id hops claims at".split()), JSON)
REQUESTS = st.dictionaries(MEMBERS, PARTS | JSON, max_size=5)


def is_answered(decode, data) -> bool:
    try:
        return isinstance(decode(data), Request)
    except RequestError:
        return True


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_answered(data):
    assert is_answered(Request.from_json, data)
    assert is_answered(Request.from_msgpack, data)


@given(st.text(max_size=200))
def test_arbitrary_text_is_answered(text):
    assert is_answered(Request.from_json, text)


@given(REQUESTS | JSON)
def test_arbitrary_json_is_answered(data):
    assert is_answered(Request.from_json, json.dumps(data))
    assert is_answered(Request.from_mapping, data)


@given(REQUESTS)
def test_arbitrary_messagepack_is_answered(data):
    try:
        packed = msgpack.packb(data)
    except (OverflowError, UnicodeEncodeError):  # ints and texts that MessagePack cannot carry
        return
    assert is_answered(Request.from_msgpack, packed)


@given(st.binary(max_size=20), st.integers(0, 300))
def test_a_broken_message_is_answered(noise, place):
    for decode, whole in (
        (Request.from_json, json.dumps(EXAMPLE).encode()),
        (Request.from_msgpack, msgpack.packb(EXAMPLE)),
    ):
        assert is_answered(decode, whole[:place] + noise + whole[place + len(noise) :])

"""Facts of the wrong kind, through a whole decision: every confusion ends closed, and the answer names the fact."""

import json

import pytest

from policyengine.runtime.request import RequestError
from tests.spec.deciding import codes, decide, unknown, verdict

DECLARED = """
enum plan = free < team
entity user { roles: set<string>  tenant: string?  plan: plan?  limit: number? }
entity doc { tenant: string }
facts { body.amount: number?  body.count: int?  body.flag: bool?  body.note: string?  body.scopes: set<string>?
  body.at: time? body.wait: duration? body.ip: ip?  body.net: cidr?  body.plan: plan?  body.who: user?  body.id: string?
  body.items: list<{ price: number? tags: set<string>? }>?  body.card: { number: string?  holder: { name: string? } }? }
"""
OPEN = "anyone { may POST /x }\n"
SCOPED = "issuer acme { scopes none }\nusers unrestricted\n"

# How a rule stops what it is unsure of: each of these conditions must be true for the request to pass.
STOPS = {
    "deny when not": OPEN + 'guard "g" { deny when not (CONDITION) }',
    "require": OPEN + 'guard "g" { require CONDITION }',
    "may when": SCOPED + 'agent "bot" { issued by acme  acts for any user  may POST /x when CONDITION }',
}


def stopping(stop: str, condition: str) -> str:
    return DECLARED + STOPS[stop].replace("CONDITION", condition)


# Condition, the JSON of `body` (raw: what no honest encoder writes), and the fact that has to be named.
CASES = [
    ("body.amount <= 10_000", '{"amount": NaN}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": -Infinity}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": true}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": "15"}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": "0x10"}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": "10m"}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": null}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": [1]}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": {"value": 1}}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": -1e9999}', "body.amount"),
    ("body.amount > -1", '{"amount": 1e9999}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": 1, "amount": 99999}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": 1, "\\u0061mount": 2}', "body.amount"),
    ("body.amount <= 10_000", '{"Amount": 1}', "body.amount"),
    ("body.amount <= 10_000", '{"amount\\u0000": 1}', "body.amount"),
    ("body.amount <= 10_000", '{"amount": 0.12345678901234567890123456789012345}', "body.amount"),
    ("body.amount <= 10_000", f'{{"amount": -{"9" * 400}}}', "body.amount"),
    ("body.count <= 3", '{"count": true}', "body.count"),
    ("body.count <= 3", '{"count": 3.0}', "body.count"),
    ("body.count <= 3", '{"count": 2e0}', "body.count"),
    ("body.count <= 3", '{"count": -9223372036854775809}', "body.count"),
    ("body.count == 15000", '{"count": "15000"}', "body.count"),
    ("body.flag", '{"flag": 1}', "body.flag"),
    ("body.flag", '{"flag": "true"}', "body.flag"),
    ("not body.flag", '{"flag": 0}', "body.flag"),
    ("not body.flag", '{"flag": ""}', "body.flag"),
    ("not body.flag", '{"flag": null}', "body.flag"),
    ('body.note != "evil"', '{"note": "\\ud800"}', "body.note"),
    ('body.note != "evil"', '{"note": ["ok"]}', "body.note"),
    ('body.note != "evil"', '{"note": 7}', "body.note"),
    ('(body.note else "ok") == "ok"', '{"note": false}', "body.note"),
    ('(body.note else "ok") == "ok"', '{"note": {}}', "body.note"),
    ("body.note is absent", '{"note": 0}', "body.note"),
    ("body.note is absent", '{"note": []}', "body.note"),
    ('not (body.note like "*evil*")', '{"note": ["evil"]}', "body.note"),
    ('not (body.note matches "e.*")', '{"note": 1}', "body.note"),
    ('body.note != "evil"', json.dumps({"note": "x" * 65_537}), "body.note"),
    ('body.scopes has "read"', '{"scopes": "read"}', "body.scopes"),
    ('body.scopes has "read"', '{"scopes": "read-only"}', "body.scopes"),
    ('body.scopes has "read"', '{"scopes": {"read": true}}', "body.scopes"),
    ('not (body.scopes has "root")', '{"scopes": ["read", 7]}', "body.scopes"),
    ('not (body.scopes has "root")', '{"scopes": ["read", null]}', "body.scopes"),
    ('not (body.scopes has "root")', '{"scopes": [["root"]]}', "body.scopes"),
    ('body.scopes subset of ["read", "write"]', '{"scopes": ["read", true]}', "body.scopes"),
    ('body.scopes subset of ["read", "write"]', '{"scopes": null}', "body.scopes"),
    ('not (body.scopes overlaps ["root"])', '{"scopes": "root"}', "body.scopes"),
    ("size(body.scopes) < 3", '{"scopes": [1, 2]}', "body.scopes"),
    ('not (body.scopes has "root")', json.dumps({"scopes": [str(n) for n in range(10_001)]}), "body.scopes"),
    ("body.at < 2030-01-01", '{"at": "2026-01-01"}', "body.at"),
    ("body.at < 2030-01-01", '{"at": "2026-01-01T00:00:00"}', "body.at"),
    ("body.at < 2030-01-01", '{"at": 1700000000}', "body.at"),
    ("body.at < 2030-01-01", '{"at": "2026-02-30T00:00:00Z"}', "body.at"),
    ("body.wait < 1h", '{"wait": 60}', "body.wait"),
    ("body.wait < 1h", '{"wait": "-10m"}', "body.wait"),
    ("body.wait < 1h", '{"wait": "1.5m"}', "body.wait"),
    ("body.wait < 1h", '{"wait": "10 m"}', "body.wait"),
    ("body.ip within 10.0.0.0/8", '{"ip": "010.1.2.3"}', "body.ip"),
    ("body.ip within 10.0.0.0/8", '{"ip": "10.1.2.3, 8.8.8.8"}', "body.ip"),
    ("body.ip within 10.0.0.0/8", '{"ip": 167838211}', "body.ip"),
    ("not (body.ip within 10.0.0.0/8)", '{"ip": "0x0a.1.2.3"}', "body.ip"),
    ("body.net == 10.0.0.0/8", '{"net": "10.0.0.1/8"}', "body.net"),
    ("body.plan >= free", '{"plan": "platinum"}', "body.plan"),
    ("body.plan >= free", '{"plan": "Team"}', "body.plan"),
    ("body.plan >= free", '{"plan": 1}', "body.plan"),
    ('body.who == user "alice"', '{"who": {"type": "admin", "id": "alice"}}', "body.who"),
    ('body.who == user "alice"', '{"who": {"id": "alice"}}', "body.who"),
    ('body.who == user "alice"', '{"who": ["alice"]}', "body.who"),
    ('body.who != user "mallory"', '{"who": ""}', "body.who"),
    ('body.id != "x"', '{"id": ""}', "body.id"),
    ('body.id != "x"', '{"id": "e\\u0301"}', "body.id"),
    ("all i in body.items: i.price < 5", '{"items": {"0": {"price": 1}}}', "body.items"),
    ("all i in body.items: i.price < 5", '{"items": [1]}', "body.items"),
    ("all i in body.items: (i.price else 0) < 5", '{"items": [null]}', "body.items"),
    ("all i in body.items: (i.price else 0) < 5", '{"items": [{"price": "1"}]}', "i.price"),
    ("all i in body.items: i.price < 5", '{"items": [{"price": 1}, {"price": 1, "price": 9}]}', "i.price"),
    ('(body.card.number else "4") == "4"', '{"card": "4"}', "body.card"),
    ('(body.card.number else "4") == "4"', '{"card": [{"number": "4"}]}', "body.card"),
    ('(body.card.number else "4") == "4"', '{"card": {"number": 4}}', "body.card.number"),
    ("body.card.holder.name is absent", '{"card": {"holder": "x"}}', "body.card.holder"),
    ("body.amount + 1 < 10", '{"amount": "1"}', "body.amount"),
    ("body.amount * 3 != 0", f'{{"amount": 0.{"3" * 33}4}}', "body.amount * 3"),
    ("body.count * body.count >= 0", '{"count": 9223372036854775807}', "body.count * body.count"),
    ("body.at + body.wait > body.at", '{"at": "9998-12-31T00:00:00Z", "wait": "52w"}', "body.at + body.wait"),
    ('host(body.note) == "ok.example"', '{"note": "https://ok.example@evil.example/"}', "host()"),
    ('host(body.note) != "evil.example"', '{"note": "https:\\\\\\\\evil.example"}', "host()"),
    ('domain(body.note) != "evil.example"', '{"note": "a@b@evil.example"}', "domain()"),
]  # fmt: skip


def raw(body: str, user: str = '{"id": "alice"}') -> str:
    agent = '"agent": {"id": "bot", "issuer": "acme"}'
    return f'{{"request": {{"method": "POST", "path": "/x"}}, {agent}, "user": {user}, "body": {body}}}'


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("condition", "body", "fact"), CASES)
def test_a_request_with_a_wrongly_typed_fact_is_denied_and_the_fact_is_named(condition, body, fact, stop):
    decision = decide(stopping(stop, condition), raw(body))
    assert verdict(decision) == ("deny by default" if stop == "may when" else 'deny by "g"')
    assert unknown(decision) == {fact}
    assert f"`{fact}` is unknown" in decision.reasons[0].message


def test_a_number_too_large_for_a_float_keeps_its_value():
    decision = decide(stopping("require", "body.amount <= 10_000"), raw('{"amount": 1e400}'))
    assert verdict(decision) == 'deny by "g"'
    assert unknown(decision) == set()


@pytest.mark.parametrize(
    ("condition", "body"),
    [
        ("body.amount == 900", '{"amount": 900.0}'),
        ("body.amount == 900", '{"amount": 9e2}'),
        ("body.count == 9_223_372_036_854_775_807", '{"count": 9223372036854775807}'),
        ("body.note is absent", '{"note": null}'),
        ('body.note == "10m"', '{"note": "10m"}'),
        ("body.wait == 10m", '{"wait": "10m"}'),
        ("body.wait == 10m", '{"wait": "600s"}'),
        ("body.at == 2027-01-01T09:00:00Z", '{"at": "2027-01-01T10:00:00+01:00"}'),
        ("body.ip within 10.0.0.0/8", '{"ip": "::ffff:10.1.2.3"}'),
        ('body.scopes == ["a", "b"]', '{"scopes": ["b", "a", "b"]}'),
        ('body.who == user "alice"', '{"who": "alice"}'),
        ('body.who == user "alice"', '{"who": {"type": "user", "id": "alice"}}'),
    ],
)  # fmt: skip
def test_an_unusual_but_valid_fact_is_accepted(condition, body):
    assert decide(stopping("require", condition), raw(body)).allowed


# Attributes of the directory are checked as facts are.
ROWS = [
    ('user.roles has "clerk"', {"roles": "clerk"}, "user.roles"),
    ('user.roles has "clerk"', {"roles": {"clerk": True}}, "user.roles"),
    ('not (user.roles has "banned")', {"roles": ["clerk", None]}, "user.roles"),
    ('not (user.roles has "banned")', {}, "user.roles"),
    ('user.tenant == "acme"', {"tenant": ["acme"]}, "user.tenant"),
    ('(user.tenant else "acme") == "acme"', {"tenant": 7}, "user.tenant"),
    ("user.tenant is absent", {"tenant": False}, "user.tenant"),
    ("user.plan >= free", {"plan": "gold"}, "user.plan"),
    ("body.amount <= user.limit", {"limit": "1000"}, "user.limit"),
    ("body.amount <= user.limit", {"limit": True}, "user.limit"),
]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("condition", "attributes", "fact"), ROWS)
def test_a_request_with_a_wrongly_typed_entity_attribute_is_denied_and_the_attribute_is_named(
    condition, attributes, fact, stop
):
    decision = decide(stopping(stop, condition), raw('{"amount": 1}'), {"user alice": attributes})
    assert not decision.allowed
    assert unknown(decision) == {fact}


# Who asks, and with what: opening a door takes facts of the right type.
DOOR = """
attester lab { age <= 1h  model "m" sha256:aa  environment in ["tdx"] }
scope x { POST /x }
issuer acme { }
user any { may x }
agent "bot" { issued by acme  acts for any user  credential { kind in [jwt]  lifetime <= 15m  age <= 10m  bound }
  attested by lab  may x }
"""
GOOD = {
    "request": {"method": "POST", "path": "/x"},
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["x"], "lifetime": "10m", "age": "1m", "bound": True},
    "attestation": {
        "verified": True, "by": "lab", "age": "5m", "model": "m", "model_hash": "sha256:aa", "environment": "tdx",
    },
}  # fmt: skip


# Values of the list below that are right where they stand: one issuer stands for the other when that is absent.
HONEST = {
    ("agent", "issuer", "None"), ("agent", "issuer", "''"), ("credential", "issuer", "None"),
    ("credential", "issuer", "''"),
    ("user", "id", "'X'"), ("credential", "bound", "True"), ("attestation", "verified", "True"),
}  # fmt: skip


def test_a_valid_caller_is_allowed():
    assert decide(DOOR, GOOD).allowed


@pytest.mark.parametrize("bad", [5, True, None, "", [], {}, ["x"], {"x": 1}, "\ud800", "X", 1e300, "e\u0301"], ids=repr)
@pytest.mark.parametrize(
    ("root", "member"),
    [("agent", "id"), ("agent", "issuer"), ("user", "id"), ("credential", "kind"), ("credential", "issuer"),
     ("credential", "scopes"), ("credential", "lifetime"), ("credential", "age"), ("credential", "bound"),
     ("attestation", "verified"), ("attestation", "by"), ("attestation", "age"), ("attestation", "model"),
     ("attestation", "model_hash"), ("attestation", "environment")],
)  # fmt: skip
def test_no_invalid_identity_value_is_allowed(root, member, bad):
    honest = bad == ["x"] if member == "scopes" else (root, member, repr(bad)) in HONEST
    decision = decide(DOOR, json.dumps({**GOOD, root: {**GOOD[root], member: bad}}))
    assert decision.allowed is honest


@pytest.mark.parametrize("root", ["agent", "user", "credential", "attestation"])
@pytest.mark.parametrize("bad", [5, "x", [], True])
def test_a_member_of_the_wrong_structure_raises_a_request_error(root, bad):
    with pytest.raises(RequestError) as told:
        decide(DOOR, {**GOOD, root: bad})
    assert told.value.member == root


# What never gets as far as a request: the checker refuses confusions that the policy itself writes.
REFUSED = [
    ('"invoices.read" in "invoices.read-only"', "E222"),
    ('"read" in body.note', "E222"),
    ("body.flag <= 3", "E220"),
    ("true <= 3", "E220"),
    ('"15000" == 15000', "E220"),
    ('body.amount == "900"', "E220"),
    ("body.wait < 10", "E220"),
    ('body.at < "2027-01-01"', "E220"),
    ('body.ip == "10.0.0.1"', "E220"),
    ('user == "alice"', "E220"),
    ("body.scopes == body.note", "E220"),
    ("body.plan > 1", "E220"),
    ("body.flag < true", "E221"),
    ("body.amount + body.note > 1", "E226"),
    ("body.amount + 10m > 1m", "E226"),
    ("1 < body.amount < 3", None),
    ("body.amount / 2 > 1", None),
    ('(body.amount else "x") == 1', "E230"),
    ("body.amount", None),
    ("body.note and body.flag", None),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "code"), REFUSED)
def test_the_checker_rejects_a_condition_that_mixes_types(condition, code):
    found = codes(stopping("require", condition))
    assert found
    assert code is None or code in found

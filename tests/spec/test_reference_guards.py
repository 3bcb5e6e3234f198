"""How a request is decided, step 6: guards, what they oblige to, what they say, and to whom."""

from dataclasses import replace

import pytest

from policyengine import kernel as k
from tests.spec.deciding import NOW, bot, decide, gates, kernel, question, spending, unknown, verdict

OPEN = "anyone { may ANY /**, TOOL *, ACTION view doc }\nentity doc { tenant: string }\n"

# ── Places ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "where", "covered"),
    [
        ("", "GET /x", True), ("", "TOOL mail/send", True), ("", "ACTION view doc 7", True),
        ("on /**", "GET /x", True), ("on /**", "TOOL mail/send", False), ("on /**", "ACTION view doc 7", False),
        ("on /v1/**", "DELETE /v1", True), ("on /v1/**", "DELETE /v1/a/b", True), ("on /v1/**", "DELETE /v10", False),
        ("on GET /v1/*", "GET /v1/a", True), ("on GET /v1/*", "HEAD /v1/a", True),
        ("on GET /v1/*", "POST /v1/a", False),
        ("on GET /v1/*", "GET /v1", False), ("on GET /v1/*", "GET /v1/a/b", False),
        ("on TOOL mail/*", "TOOL mail/send", True), ("on TOOL mail/*", "GET /mail/send", False),
        ("on TOOL mail/* except TOOL mail/draft", "TOOL mail/draft", False),
        ("on /v1/** except GET /v1/**", "GET /v1/a", False), ("on /v1/** except GET /v1/**", "PUT /v1/a", True),
        ("on GET|PUT /x", "PUT /x", True), ("on GET|PUT /x", "POST /x", False),
        ("on ACTION view doc", "ACTION view doc 7", True),
    ],
)  # fmt: skip
def test_a_guard_covers_its_endpoints_or_all_endpoints_without_on(place, where, covered):
    decision = decide(f'{OPEN}guard "g" {place} {{ deny }}', question(where))
    assert verdict(decision) == ('deny by "g"' if covered else "allow")


def test_a_guard_applies_to_every_grant_of_its_endpoint():
    policy = "issuer acme { scopes none }\nusers unrestricted\nanyone { may GET /x }\n"
    policy += 'agent "bot" { issued by acme  acts for any user  may GET /x }\nguard "g" on GET /x { deny }'
    for who in ({}, bot()):
        assert verdict(decide(policy, question("GET /x", **who))) == 'deny by "g"'


# ── Outcomes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("items", "outcome"),
    [("", "allow"), ("audit full", "allow"), ("confirm by user", "confirm"), ("deny", "deny"),
     ("confirm by user  deny", "deny"), ("deny  confirm by user", "deny"), ("audit full  confirm by user", "confirm")],
)  # fmt: skip
def test_deny_beats_confirm_beats_allow(items, outcome):
    guard = f'guard "g" {{ {items} }}' if items else ""
    assert str(decide(OPEN + guard, question("GET /x")).outcome) == outcome


def test_every_reason_has_its_rule_location_and_outcome():
    policy = f'{OPEN}guard "a" {{ confirm by user }}\nguard "b" {{\n  deny message "never"\n  deny when 2 > 1\n}}'
    decision = decide(policy, question("GET /x"))
    told = [(one.rule, one.at, str(one.outcome), one.message) for one in decision.reasons]
    assert told == [
        ("b", "0.policy:5", "deny", "never"),
        ("b", "0.policy:6", "deny", "`deny when 2 > 1`"),
        ("a", "0.policy:3", "confirm", "`confirm by user`"),
    ]


def test_a_remedy_must_change_the_strongest_outcome():
    policy = (
        f'{OPEN}guard "a" {{ confirm by user }}\nguard "b" {{ deny when context.n > 1 }}\nfacts {{ context.n: int }}'
    )
    assert decide(policy, question("GET /x", context={"n": 2})).remedies == ()
    [remedy] = decide(policy, question("GET /x", context={"n": 1})).remedies
    assert (remedy.kind, remedy.rule, remedy.by) == ("approval", "a", "user")


@pytest.mark.parametrize(
    ("condition", "kind", "need"),
    [("attestation.verified", "attestation", "a verified attestation"),
     ("attestation.age <= 1h", "attestation", "a fresh attestation"),
     ("credential.bound", "credential", "a bound credential"),
     ("credential.age <= 5m", "credential", "a fresh credential")],
)  # fmt: skip
def test_a_better_proof_is_a_remedy_if_it_would_satisfy_the_guard(condition, kind, need):
    [remedy] = decide(f'{OPEN}guard "g" {{ require {condition} }}', question("GET /x")).remedies
    assert (remedy.kind, remedy.rule, remedy.need) == (kind, "g", need)


def test_a_better_proof_is_not_a_remedy_if_another_condition_fails():
    policy = OPEN + 'guard "g" { require attestation.verified and request.ip within [10.0.0.0/8] }'
    assert decide(policy, question("GET /x", request={"ip": "8.8.8.8"})).remedies == ()
    assert len(decide(policy, question("GET /x", request={"ip": "10.0.0.1"})).remedies) == 1


# ── Obligations ───────────────────────────────────────────────────────────────────────────────

ALL = 'audit full  redact body.x  notify "soc"  warn  step_up high  header "N" "V"'
DUTIES = OPEN + "facts { body.x: string? }\n"


def kinds(decision):
    return [one.kind for one in decision.obligations]


def test_an_allow_carries_every_obligation_that_applies():
    decision = decide(f'{DUTIES}guard "g" {{ {ALL} }}', question("GET /x"))
    assert [(one.kind, one.arguments, one.rule) for one in decision.obligations] == [
        ("audit", ("full",), "g"), ("redact", ("body.x",), "g"), ("notify", ("soc",), "g"), ("warn", (), "g"),
        ("step_up", ("high",), "g"), ("header", ("N", "V"), "g"),
    ]  # fmt: skip


@pytest.mark.parametrize("stop", ["deny", "confirm by user"])
def test_a_deny_or_confirm_carries_only_audit_and_notify(stop):
    assert kinds(decide(f'{DUTIES}guard "g" {{ {ALL}  {stop} }}', question("GET /x"))) == ["audit", "notify"]


@pytest.mark.parametrize(
    ("supported", "allowed"),
    [(None, True), (["redact", "step_up", "header"], True), (["redact", "step_up"], False), ([], False),
     (["audit", "notify", "warn"], False)],
)  # fmt: skip
def test_an_allow_with_an_obligation_that_the_caller_does_not_support_is_denied(supported, allowed):
    asked = question("GET /x", options={"obligations_supported": supported})
    decision = decide(f'{DUTIES}guard "g" {{ {ALL} }}', asked)
    assert verdict(decision) == ("allow" if allowed else 'deny by "g"')
    assert allowed or kinds(decision) == ["audit", "notify"]


def test_audit_notify_and_warn_need_no_support_of_the_caller():
    policy = f'{DUTIES}guard "g" {{ audit full  notify "soc"  warn }}'
    assert decide(policy, question("GET /x", options={"obligations_supported": []})).allowed


def test_an_obligation_that_does_not_apply_needs_no_support_of_the_caller():
    policy = f'{DUTIES}guard "g" {{ redact body.x when body.x is present }}'
    assert decide(policy, question("GET /x", options={"obligations_supported": []})).allowed


def test_an_unsupported_obligation_spends_and_opens_no_approval():
    policy = f'{DUTIES}guard "g" {{ redact body.x }}'
    decision, effects = spending(policy, question("GET /x", options={"obligations_supported": []}))
    assert (str(decision.outcome), effects.spends, effects.opens) == ("deny", (), ())


# ── Messages ──────────────────────────────────────────────────────────────────────────────────

TOLD = """
entity user { tenant: string  roles: set<string> }
entity doc { owner: user }
facts { body.who: string?  body.n: number?  body.when: time? }
anyone { may POST /x, POST /docs/{id: doc} }
"""


def said(text: str, where: str = "POST /x", body: object = None, **more: object) -> str:
    on = "on POST /docs/{id: doc}" if "docs" in where else ""
    policy = f'{TOLD}guard "g" {on} {{ deny message "{text}" }}'
    rows = {"user alice": {"tenant": "secret-tenant"}, "doc 7": {"owner": "mallory"}}
    return decide(policy, question(where, body=body or {}, **more), rows).reasons[0].message


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"who": "bob"}, '"bob"'),
        ({"who": 'b"ob\\'}, '"b\\"ob\\\\"'),
        ({"who": "a\nb\u2028c\x1b[31m"}, '"a\\nb\\u2028c\\u001b[31m"'),
        ({"who": "\u202eevil"}, '"\\u202eevil"'),
        ({"who": "x" * 65}, '"' + "x" * 63 + '…"'),
        ({"who": "x" * 64}, '"' + "x" * 64 + '"'),
        ({"who": "{body.n}"}, '"{body.n}"'),
        ({"who": 7}, "(unknown)"),
        ({}, "(absent)"),
        ({"who": None}, "(absent)"),
    ],
)  # fmt: skip
def test_a_fact_in_a_message_is_quoted_escaped_and_truncated(given, shown):
    assert said("to {body.who}", body=given) == f"to {shown}"


def test_a_message_shows_an_attribute_that_an_entity_does_not_have_as_absent_and_one_that_is_not_known_as_unknown():
    policy = f'{TOLD}guard "g" on POST /docs/{{id: doc}} {{ confirm by user message "of {{resource.owner}}" }}'
    for rows, shown in (({"user alice": {}, "doc 7": {"owner": None}}, "(absent)"), ({"user alice": {}}, "(unknown)")):
        _, effects = spending(policy, question("POST /docs/7", user={"id": "alice"}), rows)
        assert [each.summary for each in effects.opens] == [f"of {shown}"]


def test_double_braces_in_a_message_are_literal_braces():
    assert said("{{body.who}}", body={"who": "bob"}) == "{body.who}"


@pytest.mark.parametrize("fact", ["user.tenant", "resource.owner", "resource.owner.tenant"])
def test_entity_store_facts_are_hidden_from_the_caller_and_shown_to_the_approver(fact):
    policy = f'{TOLD}guard "g" on POST /docs/{{id: doc}} {{ confirm by user message "of {{{fact}}}" }}'
    rows = {"user alice": {"tenant": "shh"}, "doc 7": {"owner": "mallory"}, "user mallory": {"tenant": "shh"}}
    decision, effects = spending(policy, question("POST /docs/7", user={"id": "alice"}), rows)
    assert decision.reasons[0].message == "of (not shown)"
    assert effects.opens[0].summary in ('of "shh"', 'of user "mallory"')


def test_a_message_shows_facts_that_the_caller_sent():
    text = "{user.id} asks for {resource.id} by {request.method}"
    assert said(text, "POST /docs/7", user={"id": "alice"}) == '"alice" asks for 7 by "POST"'


CAPTURES = """
entity org { plan: string }
entity doc { owner: string }
anyone { may POST /d/{o: org}/{id: doc}/{raw} }
guard "g" { deny message "{params.o}/{params.o.id}/{params.id}/{params.raw} {resource.id}" }
"""


@pytest.mark.parametrize(
    ("segment", "shown"),
    [
        ("7", "7"),
        ("inv-2.a_b~c:d@e+f", "inv-2.a_b~c:d@e+f"),
        ("x" * 65, '"' + "x" * 63 + '…"'),
        ("7 approved", '"7 approved"'),
        ('7" of the test', r'"7\" of the test"'),
        ("7,8", '"7,8"'),
        ("é", '"é"'),
    ],
)  # fmt: skip
def test_a_capture_in_a_message_is_quoted_if_it_is_ambiguous(segment, shown):
    said = decide(CAPTURES, question(f"POST /d/{segment}/{segment}/{segment}")).reasons[0].message
    assert said == f"{shown}/{shown}/{shown}/{shown} {shown}"


def test_an_entity_in_a_message_has_its_id_quoted_escaped_and_truncated():
    text = TOLD + 'guard "g" on POST /docs/{id: doc} { deny message "{resource}" }'
    for id_, shown in (("7", '"7"'), ('7" x', r'"7\" x"'), ("x" * 65, '"' + "x" * 63 + '…"')):
        assert decide(text, question(f"POST /docs/{id_}")).reasons[0].message == f"doc {shown}"


def test_an_unknown_membership_does_not_reveal_entity_store_facts():
    policy = """
    entity team { }
    entity user { } in team
    entity doc { owner: user }
    anyone { may GET /docs/{id: doc} }
    guard "g" on GET /docs/{id: doc} { require resource.owner in team "legal" }
    """
    decision = decide(policy, question("GET /docs/7"), {"doc 7": {"owner": "mallory"}})
    assert unknown(decision) == {'resource.owner in team "legal"'}
    assert "mallory" not in str(decision.to_dict())


# ── Where facts come from ─────────────────────────────────────────────────────────────────────

FACTS = """
entity user { tenant: string?  roles: set<string>  level: int? }
entity doc { tenant: string }
issuer acme { scopes none  claims { org -> user.tenant  lvl -> user.level } }
issuer other { scopes none }
users unrestricted
agent "bot" { issued by acme, other  acts for any user  may GET /x, TOOL t, ACTION view doc, GET /docs/{id: doc} }
"""


@pytest.mark.parametrize(
    ("claims", "issuer", "rows", "allowed"),
    [
        ({"org": "acme"}, "acme", {}, True),
        ({"org": "acme"}, "acme", {"user alice": {"tenant": "evil"}}, True),
        ({"org": "evil"}, "acme", {"user alice": {"tenant": "acme"}}, False),
        ({}, "acme", {"user alice": {"tenant": "acme"}}, True),
        ({"org": None}, "acme", {"user alice": {"tenant": "acme"}}, True),
        ({"org": 7}, "acme", {"user alice": {"tenant": "acme"}}, False),
        ({"tenant": "acme"}, "acme", {}, False),
        ({"org": "acme"}, "other", {}, False),
        ({"org": "acme"}, "other", {"user alice": {"tenant": "evil"}}, False),
    ],
)  # fmt: skip
def test_a_mapped_claim_overrides_the_entity_store(claims, issuer, rows, allowed):
    policy = FACTS + 'guard "g" { require user.tenant == "acme" }'
    asked = question("GET /x", **bot(issuer=issuer, claims=claims))
    assert decide(policy, asked, rows).allowed is allowed


def test_the_entity_store_overrides_a_row_sent_by_the_caller():
    policy = FACTS + 'guard "g" { require user.roles has "admin" }'
    sent = [{"type": "user", "id": "alice", "attributes": {"roles": ["admin"]}}]
    asked = question("GET /x", **bot(), entities=sent)
    assert decide(policy, asked).allowed
    assert not decide(policy, asked, {"user alice": {"roles": ["guest"]}}).allowed
    assert not decide(policy, asked, {"user alice": {}}).allowed


@pytest.mark.parametrize("where", ["GET /x", "TOOL t"])
def test_the_resource_member_is_ignored_except_for_actions(where):
    policy = FACTS + 'guard "g" on GET /x, TOOL t, GET /docs/{id: doc} { deny when resource is present }'
    asked = question(where, **bot(), resource={"type": "doc", "id": "mine"})
    assert decide(policy, asked, {"doc mine": {"tenant": "acme"}}).allowed


def test_an_action_binds_the_resource_that_it_names():
    policy = FACTS + 'guard "g" on ACTION view doc { require resource.tenant == "acme" }'
    rows = {"doc 7": {"tenant": "acme"}, "doc 8": {"tenant": "evil"}}
    assert decide(policy, question("ACTION view doc 7", **bot()), rows).allowed
    assert not decide(policy, question("ACTION view doc 8", **bot()), rows).allowed
    assert not decide(policy, question("ACTION view doc 9", **bot()), rows).allowed


def test_the_resource_captured_from_the_path_overrides_the_resource_member():
    policy = FACTS + 'guard "g" on GET /docs/{id: doc} { require resource.tenant == "acme" and resource == doc "8" }'
    rows = {"doc 7": {"tenant": "acme"}, "doc 8": {"tenant": "evil"}}
    asked = question("GET /docs/8", **bot(), resource={"type": "doc", "id": "7"})
    assert not decide(policy, asked, rows).allowed


TOOLS = """
entity invoice { tenant: string }
facts on TOOL refund { args.invoice: string?  args.amount: number?  args.card: { number: string? }? }
facts on POST /refunds/{id: invoice} { body.amount: number }
facts on refunds { body.amount: number  body.card: { number: string? }?  }
scope refunds {
  TOOL refund with resource = invoice(args.invoice), body.amount = args.amount, body.card = args.card
  POST /refunds/{id: invoice}
}
anyone { may refunds }
"""


@pytest.mark.parametrize(
    ("args", "allowed"),
    [
        ({"invoice": "7", "amount": 5}, True),
        ({"invoice": "8", "amount": 5}, False),
        ({"invoice": "7", "amount": 500}, False),
        ({"invoice": "7", "amount": "5"}, False),
        ({"invoice": "", "amount": 5}, False),
        ({"invoice": 7, "amount": 5}, False),
        ({"invoice": {"type": "invoice", "id": "7"}, "amount": 5}, False),
        ({"amount": 5}, False),
        ({"invoice": "7"}, False),
    ],
)
def test_with_bindings_cannot_be_replaced_by_the_caller(args, allowed):
    policy = TOOLS + 'guard "g" on refunds { require resource.tenant == "acme"  deny when body.amount > 100 }'
    rows = {"invoice 7": {"tenant": "acme"}, "invoice 8": {"tenant": "evil"}}
    more = {"body": {"amount": 5}, "resource": {"type": "invoice", "id": "7"}}
    assert decide(policy, question("TOOL refund", args=args, **more), rows).allowed is allowed


def test_with_bindings_also_cover_separately_declared_members():
    policy = TOOLS + "facts on TOOL refund { body.card.number: string }\n"
    policy += 'guard "g" on TOOL refund { require body.card.number == "4" }'
    asked = {"invoice": "7", "amount": 5, "card": {"number": "9"}}
    assert not decide(policy, question("TOOL refund", args=asked, body={"card": {"number": "4"}})).allowed
    assert decide(policy, question("TOOL refund", args={**asked, "card": {"number": "4"}})).allowed


def test_conflicting_bindings_of_one_name_make_it_unknown():
    """The checker refuses such policies; the specification does not rely on it."""
    policy = "entity doc { }\nanyone { may GET /docs/{id: doc}/{other} }\n"
    policy += 'guard "g" on GET /docs/{id: doc}/{other} { require params.id == doc "7"  require resource == doc "7" }'
    one = kernel(policy)
    asked = question("GET /docs/7/8")
    assert decide(one, asked).allowed
    pattern = one.binders[0].pattern
    assert isinstance(pattern, k.HttpPattern)
    first, *middle, last = pattern.segments
    moved = replace(
        pattern, segments=(first, *(replace(s, capture=None, entity=None) for s in middle), replace(last, capture="id"))
    )
    twice = replace(one, binders=(*one.binders, k.Binder(moved, ("doc", "id"), span=pattern.span)))
    decision = decide(twice, asked)
    assert unknown(decision) == {"params.id", "resource"}
    assert gates(decision) == ["guard", "guard"]


def test_with_bindings_also_cover_nested_members():
    policy = TOOLS + 'guard "g" on refunds { require body.card.number == "4" }'
    asked = {"invoice": "7", "amount": 5, "card": {"number": "9"}}
    assert not decide(policy, question("TOOL refund", args=asked, body={"card": {"number": "4"}})).allowed
    assert decide(policy, question("TOOL refund", args={**asked, "card": {"number": "4"}})).allowed


@pytest.mark.parametrize(
    ("credential", "condition", "allowed"),
    [
        ({"issued_at": "2027-01-04T11:55:00Z"}, "credential.age == 5m", True),
        ({"issued_at": "2027-01-04T12:00:01Z"}, "credential.age <= 5m", False),
        ({"age": "5m", "issued_at": "2027-01-01T00:00:00Z"}, "credential.age == 5m", True),
        ({"age": "x", "issued_at": "2027-01-04T11:55:00Z"}, "credential.age <= 5m", False),
        ({"issued_at": "2027-01-04T11:00:00Z", "expires_at": "2027-01-04T12:30:00Z"},
        "credential.lifetime == 90m", True),
        ({"issued_at": "2027-01-04T13:00:00Z", "expires_at": "2027-01-04T12:30:00Z"},
        "credential.lifetime <= 15m", False),
        ({"expires_at": "2027-01-04T12:30:00Z"}, "credential.lifetime <= 15m", False),
        ({"lifetime": "5m", "issued_at": "x"}, "credential.lifetime <= 15m", True),
    ],
)  # fmt: skip
def test_credential_age_and_lifetime_count_from_the_issue_time(credential, condition, allowed):
    decision = decide(f'{OPEN}guard "g" {{ require {condition} }}', question("GET /x", credential=credential))
    assert decision.allowed is allowed


def test_time_is_the_time_of_the_clock():
    assert decide(OPEN + 'guard "g" { require time == 2027-01-04T12:00:00Z }', question("GET /x"), now=NOW).allowed


def test_entities_are_looked_up_by_type_and_id():
    policy = FACTS + 'guard "g" on GET /docs/{id: doc} { require resource.tenant == "acme" }'
    asked = question("GET /docs/7", **bot())
    assert not decide(policy, asked, {"user 7": {"tenant": "acme"}}).allowed
    assert decide(policy, asked, {"user 7": {"tenant": "evil"}, "doc 7": {"tenant": "acme"}}).allowed


CAPTURED = """
entity invoice { tenant: string }
facts { body.label: string? }
scope labels {
  POST /labels/{name} with body.label = lower(params.name)
  POST /tenants/{tenant}/invoices/{number} with resource = invoice(params.number), body.label = params.tenant
}
anyone { may labels }
guard "label" on POST /labels/* { deny when body.label == "secret" }
guard "tenant" on POST /tenants/** { require body.label == resource.tenant }
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/labels/public", True),
        ("/labels/SECRET", False),
        ("/LABELS/secret", False),
        ("/tenants/acme/invoices/7", True),
        ("/tenants/evil/invoices/7", False),
        ("/tenants/acme/invoices/8", False),
    ],
)
def test_with_reads_the_captures_of_its_pattern(path, allowed):
    """A label in the body, which a caller could choose, is not read."""
    rows = {"invoice 7": {"tenant": "acme"}, "invoice 8": {"tenant": "evil"}}
    assert decide(CAPTURED, question(f"POST {path}", body={"label": "acme"}), rows).allowed == allowed


def test_an_approval_binds_the_captures_that_with_reads():
    policy = CAPTURED + 'entity user { roles: set<string> } guard "ask" { confirm by role boss bound to (body.label) }'
    bindings = [decide(policy, question(f"POST /labels/{name}")).remedies[0].binding for name in ("a", "b", "a")]
    assert bindings[0] == bindings[2] != bindings[1]

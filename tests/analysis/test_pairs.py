"""Before and after: for every construct what a small change of it changes for requests."""

from __future__ import annotations

from functools import cache

import pytest

from policyengine import kernel as k
from policyengine.analysis import Diff, compare
from policyengine.engine import Engine
from policyengine.runtime.decision import Outcome

SAMPLES = 40
BASE = """
enum plan = free < team < enterprise
entity team in team
entity user { roles: set<string>   tenant: string   plan: plan   manager: user? } in team
entity invoice { tenant: string   owner: user   tags: set<string> }
facts on refunds.create { body.amount: number   body.note: string?   body.parts: list<number>? }
scope invoices.read as "read:invoices" { GET /v1/invoices   GET /v1/invoices/{id: invoice}   ACTION view invoice }
scope refunds.create as "create:refunds" { POST /v1/invoices/{id: invoice}/refunds }
scope tools { TOOL mail/send }
scope reports { GET /reports/** }
issuer acme { url "https://login.acme.example"   records chains }
issuer other { url "https://other.example"   records chains }
attester lab { age <= 1h   model "small-7b" sha256:9f2c41 }
define office_hours = time within mon..fri 08:00..18:00 "Europe/Berlin"
user where user.roles has "clerk" { may invoices.read, refunds.create, tools }
anyone { may GET /health }
agent "invoice-bot" {
  issued by acme
  acts for any user
  credential { kind in [jwt, mtls]   lifetime <= 15m   bound }
  may invoices.read
  may refunds.create when user.plan >= team
  valid until 2030-01-01
}
agent "archivist" { issued by acme   acts for any user   attested by lab   may invoices.read }
agent "planner" {
  issued by acme   acts for any user   may invoices.read
  may delegate invoices.read to agent "summarizer" for 30m
}
agent "summarizer" { issued by acme   acts for any user   may invoices.read }
agent "report-*" { issued by acme   acts alone   may reports }
agent group "ops" { issued by acme   acts for any user   may tools }
delegation { depth <= 3   lifetime <= 1h }
guard "islands" on /v1/invoices/{id}/** { require user.tenant == resource.tenant }
guard "large" on refunds.create {
  deny when body.amount > 10_000
  confirm by role finance within 15m when body.amount > 500
}
guard "night" on refunds.create { deny unless office_hours or request.ip within [10.0.0.0/8] }
guard "tools" on TOOL mail/* except TOOL mail/draft { audit full   redact args.to when args.urgent == true }
facts on TOOL mail/* { args.to: string?   args.urgent: bool? }
"""


@cache
def engine_of(text: str) -> Engine:
    return Engine.from_text(text)


@cache
def kernel_of(text: str) -> k.Kernel:
    return engine_of(text).kernel


@cache
def changed(old: str, new: str) -> Diff:
    assert BASE.count(old) >= 1, old
    return compare(kernel_of(BASE), kernel_of(BASE.replace(old, new, 1)), samples=SAMPLES)


# What is written, what takes its place; the direction, an endpoint and a caller that are told, and when it differs.
# ruff: noqa: E501
PAIRS = [
    ("body.amount > 500", "body.amount > 600", "widening", "POST /v1/invoices/*/refunds", 'agent "invoice-bot" for any user', "body.amount > 500 and body.amount <= 600"),
    ("body.amount > 500", "body.amount >= 500", "narrowing", "POST /v1/invoices/*/refunds", "any user", "body.amount == 500"),
    ("  deny when body.amount > 10_000\n", "", "widening", "POST /v1/invoices/*/refunds", "any user", "(body.amount > 10000 or body.amount is unknown)"),
    ("lifetime <= 15m", "lifetime <= 30m", "widening", "GET /v1/invoices", 'agent "invoice-bot" for any user', "credential.lifetime > 15m and credential.lifetime <= 30m"),
    ("   bound }", " }", "widening", "GET /v1/invoices", 'agent "invoice-bot" for any user', "(not credential.bound or credential.bound is unknown)"),
    ("kind in [jwt, mtls]", "kind in [mtls]", "narrowing", "GET /v1/invoices", 'agent "invoice-bot" for any user', "credential.kind == jwt"),
    ("user.plan >= team", "user.plan >= free", "widening", "POST /v1/invoices/*/refunds", 'agent "invoice-bot" for any user', "user.plan == free"),
    ("valid until 2030-01-01", "valid until 2029-01-01", "narrowing", "GET /v1/invoices", 'agent "invoice-bot" for any user', "time >= 2029-01-01T00:00:00Z and time < 2030-01-01T00:00:00Z"),
    ("acts for any user   attested by lab", "acts for any user", "widening", "GET /v1/invoices", 'agent "archivist" for any user', ""),
    ("age <= 1h", "age <= 2h", "widening", "GET /v1/invoices", 'agent "archivist" for any user', 'attestation.verified and attestation.by == "lab" and attestation.age > 1h and attestation.age <= 2h and attestation.model == "small-7b" and attestation.model_hash == "sha256:9f2c41"'),
    ("issued by acme   acts for any user   attested", "issued by acme, other   acts for any user   attested", "widening", "GET /v1/invoices", 'agent "archivist" for any user', 'issuer == "other"'),
    ('guard "islands"', 'tasks advisory\nguard "islands"', "widening", "TOOL mail/send", "any user", ""),
    ('guard "islands"', 'tasks advisory\nguard "islands"', "widening", "GET /v1/invoices/*", 'agent "archivist" for any user', ""),
    ("anyone { may", "paths ignore case\nanyone { may", "widening", "GET /HEALTH", "nobody", ""),
    ("anyone { may", "paths ignore case\nanyone { may", "widening", "GET /v1/INVOICES", "any user", ""),
    ("GET /health", "GET /health/{x}", "widening", "GET /health/*", "any user", ""),
    ("GET /health", "GET /health/{x}", "narrowing", "GET /health", "any user", ""),
    ('user.roles has "clerk" {', 'user.roles has "boss" {', "widening", "GET /v1/invoices", "any user", ""),
    ('agent "report-*"', 'agent "rep-*"', "narrowing", "GET /reports/**", 'agent "report-*" alone', ""),
    ('agent group "ops"', 'agent group "dev"', "widening", "TOOL mail/send", 'any agent for any user', ""),
    ("except TOOL mail/draft ", "", "narrowing", "TOOL mail/draft", "any user", ""),
    ("require user.tenant == resource.tenant", "require user.tenant is present", "widening", "GET /v1/invoices/*", "any user", ""),
    ("mon..fri 08:00", "mon..fri 07:00", "widening", "POST /v1/invoices/*/refunds", "any user", 'not (time within mon..fri 08:00..18:00 "Europe/Berlin") and time within mon..fri 07:00..18:00 "Europe/Berlin"'),
    ("10.0.0.0/8", "10.0.0.0/9", "narrowing", "POST /v1/invoices/*/refunds", "any user", ""),
    ("audit full   ", "", "widening", "TOOL mail/send", "any user", ""),
    ("redact args.to when args.urgent == true", "redact args.to", "narrowing", "TOOL mail/send", "any user", "not args.urgent"),
    ("by role finance", "by role admin", "changed", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("by role finance", "by role finance from acme", "changed", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 30m when", "widening", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 5m when", "narrowing", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 15m bound to (body, request.query) when", "widening", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 15m bound to (args, body, context, request.host, request.query) when", "narrowing", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 5m bound to (body) when", "changed", "POST /v1/invoices/*/refunds", "any user", "body.amount > 500 and body.amount <= 10000"),
    ("within 15m when", "within 15m bound to (args, body, request.host, request.query) when", "none", "", "", ""),
    ('as "read:invoices"', 'as "list:invoices"', "widening", "GET /v1/invoices", "any user", ""),
    ("ACTION view invoice }", "}", "narrowing", "ACTION view invoice", "any user", ""),
    ("for 30m", "for 45m", "widening", "GET /v1/invoices", 'agent "summarizer" (delegated) for any user', ""),
    ('to agent "summarizer"', 'to agent "archivist"', "widening", "GET /v1/invoices", 'agent "archivist" (delegated) for any user', ""),
    ("delegation { depth <= 3   lifetime <= 1h }", "delegation { depth <= 3   lifetime <= 5m }", "narrowing", "GET /v1/invoices", 'agent "summarizer" (delegated) for any user', ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "direction", "endpoint", "caller", "when"), PAIRS)
def test_a_change_is_reported_with_its_endpoint_caller_and_condition(
    old: str, new: str, direction: str, endpoint: str, caller: str, when: str
) -> None:
    found = changed(old, new)
    if direction == "none":
        assert not found.differs
        return
    regions = [
        one.region for each in found.differences if each.direction == direction for one in each.witnesses
    ]  # fmt: skip
    fitting = [one for one in regions if (one.endpoint, one.caller) == (endpoint, caller)]
    assert fitting, [one.words for one in regions]
    assert not when or when in [one.condition for one in fitting]


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new, *_ in PAIRS])
def test_every_witness_request_has_the_reported_outcomes(old: str, new: str) -> None:
    engines = engine_of(BASE), engine_of(BASE.replace(old, new, 1))
    for difference in changed(old, new).differences:
        for witness in difference.witnesses:
            answers = [engine.evaluate(witness.request) for engine in engines]
            assert [one.outcome for one in answers] == [difference.old.outcome, difference.new.outcome]


WIDE = 'anyone { may GET /** }\nguard "g" on /a/** except /a/b { deny when request.size > 1 }\n'


@pytest.mark.parametrize(
    ("new", "direction", "endpoints"),
    [
        (WIDE.replace("/a/**", "/a/*"), "widening", {"GET /a", "GET /A", "GET /a/*/**", "GET /A/*/**"}),
        (WIDE.replace(" except /a/b", ""), "narrowing", {"GET /a/b"}),
        ("paths ignore case\n" + WIDE, "widening", {"GET /a/B"}),
        (WIDE.replace("on /a", "on /A").replace("/a/b", "/A/b"), "changed", {"GET /a/b", "GET /A/b"}),
    ],
)
def test_a_guard_change_is_reported_for_paths_in_another_letter_case(
    new: str, direction: str, endpoints: set[str]
) -> None:
    found = compare(kernel_of(WIDE), kernel_of(new), samples=SAMPLES)
    directions = {str(one.direction) for one in found.differences}
    assert directions == ({direction} if direction != "changed" else {"widening", "narrowing"})
    assert endpoints <= {each.region.endpoint for one in found.differences for each in one.witnesses}
    assert found.proved


SAME = [
    ("require user.tenant == resource.tenant", "deny unless user.tenant == resource.tenant"),
    ("body.amount > 500", "body.amount > 500.0"),
    ("body.amount > 500", "not body.amount <= 500"),
    ("body.amount > 500", "500 < body.amount"),
    ("deny when body.amount > 10_000\n", "deny when body.amount > 10_000\n  deny when body.amount > 20_000\n"),
    ("deny unless office_hours or request.ip within [10.0.0.0/8]",
     "deny when not office_hours and not request.ip within [10.0.0.0/8]"),
    ("kind in [jwt, mtls]", "kind in [mtls, jwt]"),
    ('guard "large"', 'guard "big"'),
    ("may refunds.create when user.plan >= team",
     "may refunds.create when user.plan == team   may refunds.create when user.plan == enterprise"),
    ("request.ip within [10.0.0.0/8]", "request.ip within [10.0.0.0/9, 10.128.0.0/9]"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SAME)
def test_equivalent_policies_are_proved_the_same(old: str, new: str) -> None:
    found = changed(old, new)
    assert not found.differs
    assert found.proved, found.doubts


def test_a_never_true_deny_narrows_when_its_facts_are_unknown() -> None:
    never = 'deny when body.amount > 10_000\n  deny when body.note == "a" and body.note == "b"\n'
    found = changed("deny when body.amount > 10_000\n", never)
    assert {str(one.direction) for one in found.differences} == {"narrowing"}
    assert {each.region.condition for one in found.differences for each in one.witnesses} == {"body.note is unknown"}


def test_the_rules_responsible_are_named_with_their_places() -> None:
    difference = changed("body.amount > 500", "body.amount > 600").differences[0]
    line = BASE[: BASE.index("confirm by role finance")].count("\n") + 1
    assert [(one.name, one.at) for one in difference.removed] == [('guard "large"', f"policy.policy:{line}")]
    assert difference.old.outcome is Outcome.CONFIRM
    assert [one.name for one in difference.old.rules] == ['guard "large"']
    assert difference.new.outcome is Outcome.ALLOW
    assert 'user where user.roles has "clerk"' in [one.name for one in difference.new.rules]


def test_a_changed_requirement_is_named_and_not_the_grants_of_its_block() -> None:
    difference = changed("lifetime <= 15m", "lifetime <= 30m").differences[0]
    assert [one.text for one in difference.removed] == ["lifetime <= 15m"]
    assert [one.text for one in difference.added] == ["lifetime <= 30m"]


def test_a_sampled_comparison_is_not_proved_and_states_why() -> None:
    found = changed("for 30m", "for 45m")
    assert not found.proved
    assert all(one.sampled > 0 for one in found.doubts)
    assert {one.why for one in found.doubts} == {
        "the agents that may delegate changed, so chains of agents were only sampled"
    }


def test_a_change_that_depends_on_approvals_is_found_or_suspected() -> None:
    old = BASE.replace("deny when body.amount > 10_000", "deny when body.amount > 10_000 and not approval.granted")
    found = compare(kernel_of(old), kernel_of(old.replace("10_000", "20_000")), samples=SAMPLES)
    assert "widening" in {str(one.direction) for one in found.differences}
    only_with = old.replace("10_000 and not approval.granted", "10_000 and approval.granted")
    found = compare(kernel_of(BASE.replace("  deny when body.amount > 10_000\n", "")), kernel_of(only_with), samples=0)
    assert found.suspects or found.differs


def test_reasons_are_compared_when_asked_for() -> None:
    old, new = kernel_of(BASE), kernel_of(BASE.replace('guard "large"', 'guard "big"'))
    assert not compare(old, new, samples=SAMPLES).differs
    found = compare(old, new, samples=SAMPLES, reasons=True)
    assert {str(one.direction) for one in found.differences} == {"reasons"}
    assert not found.widens


def test_attributes_from_other_claims_are_not_proved_the_same() -> None:
    old = BASE.replace("records chains }", "records chains   claims { tenant -> user.tenant } }")
    found = compare(kernel_of(old), kernel_of(old.replace("{ tenant ->", "{ org ->")), samples=SAMPLES)
    assert found.differs or not found.proved


def test_the_same_seed_samples_the_same_requests() -> None:
    again = compare(kernel_of(BASE), kernel_of(BASE.replace("for 30m", "for 45m")), samples=SAMPLES)
    assert again is not (found := changed("for 30m", "for 45m"))
    assert again == found

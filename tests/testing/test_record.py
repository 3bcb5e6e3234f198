"""What a log comes to as tests: the same decisions by the same policies, and nothing left out unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog, DecisionRecord, read_records
from policyengine.check import CheckResult, check
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Outcome
from policyengine.runtime.decode import from_python
from policyengine.runtime.entities import read_entity_rows
from policyengine.runtime.request import RequestError
from policyengine.source import Source
from policyengine.stores.memory.store import MemoryStore
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from policyengine.testing import RunReport, run
from policyengine.testing.recording.convert import RecordingResult, convert_log
from tests.generate.asking import askings, setting
from tests.generate.requests import approved
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, 0, 0, 250_000, tzinfo=UTC)
POLICY = """package shop
entity team in team
entity user { roles: set<string>   tenant: string } in team
entity invoice { tenant: string }
facts { body.amount: number   body.note: string? }
scope pay as "pay" { POST /v1/invoices/{id: invoice}/pay }
issuer acme { url "https://login.acme.example"   records chains }
attester lab { url "https://attest.acme.example"   age <= 1h   model "small-7b" sha256:9f2c41 }
users unrestricted
agent "bot" { issued by acme   acts for any user   may pay }
agent "planner" { issued by acme   acts for any user   may pay   may delegate pay to agent "bot" for 30m }
agent "tester" { issued by acme   acts for any user   attested by lab   may pay }
anyone { may GET /health, TOOL mail/* }
guard "tenants" on pay { require user.tenant == resource.tenant }
guard "large" on pay { confirm by role finance within 15m when body.amount > 500 }
guard "odd" on GET /health { deny when (request.headers["authorization"] else "") == "x" }
"""
ROWS = [
    {"type": "user", "id": "alice", "attributes": {"tenant": "acme", "roles": ["clerk"]}, "in": []},
    {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}},
    {"type": "user", "id": "unasked", "attributes": {"tenant": "acme"}},
    {"type": "invoice", "id": "42", "attributes": {"tenant": "acme", "colour": "red"}},
    {"type": "invoice", "id": "66", "attributes": {"tenant": "evil"}},
]
BOT: dict[str, Any] = {
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {"scopes": ["pay"]},
}
HEALTH: dict[str, Any] = {"request": {"method": "GET", "path": "/health"}}


def pay(invoice: str = "42", **more: Any) -> dict[str, Any]:
    return {"request": {"method": "POST", "path": f"/v1/invoices/{invoice}/pay"}, **BOT, "body": {"amount": 5}, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def engine(path: Path) -> Engine:
    directory = EntityStore(read_entity_rows(from_python(ROWS), "entities"))
    return Engine.from_text(POLICY, directory=directory, clock=lambda: NOW, log=DecisionLog(path), approvals=TRUSTING)


def checked(*texts: str) -> CheckResult:
    sources = [Source(f"{number}.policy", text) for number, text in enumerate(texts)]
    parsed = [parse(source) for source in sources]
    assert not [one.render() for _, found in parsed for one in found]
    return check([module for module, _ in parsed if module])


def made(path: Path, policy: str = POLICY, **options: Any) -> RecordingResult:
    return convert_log(read_records(path), checked(policy), **options)


def report(text: str, *policies: str) -> RunReport:
    """The tests of a text, run against policies."""
    whole = checked(*policies, text)
    assert [one.render() for one in whole.diagnostics if one.is_error] == []
    assert whole.kernel is not None
    written = f"{len(policies)}.policy"
    return run([case for case in whole.cases if case.span.source.name == written], whole.kernel)


def passes(path: Path, cases: int) -> RecordingResult:
    """That so many requests are recorded, and that their tests pass."""
    found = made(path)
    result = report(found.text, POLICY)
    assert result.ok, result.render()
    assert len(result.results) == found.cases == cases
    return found


# ── What is said ──────────────────────────────────────────────────────────────────────────────


def test_a_decision_becomes_a_test(engine, path):
    engine.decide(pay())
    assert passes(path, 1).text.split("language 1\n")[1] == (
        "package shop\n\n"
        "fixture recorded {\n"
        "  given entities {\n"
        '    invoice "42" { tenant: "acme" }\n'
        '    user "alice" { tenant: "acme", roles: ["clerk"] }\n'
        "  }\n"
        "}\n\n"
        'test "recorded: bot, POST /v1/invoices/{id}/pay" {\n'
        "  use recorded\n"
        '  given agent "bot" from acme for user "alice"\n'
        '  given credential { scopes: ["pay"] }\n'
        "  given body { amount: 5 }\n"
        "  at 2027-01-04T12:00:00Z POST /v1/invoices/42/pay => allow\n"
        "}\n"
    )


def test_each_caller_and_endpoint_has_its_own_test_and_all_share_one_fixture(engine, path):
    for question in (pay(), pay("66"), pay(agent={"id": "planner", "issuer": "acme"}), HEALTH, {**HEALTH, **BOT}):
        engine.decide(question)
    found = passes(path, 5)
    assert found.text.count("fixture ") == 1
    assert [line for line in found.text.splitlines() if line.startswith("test ")] == [
        'test "recorded: bot, GET /health" {',
        'test "recorded: bot, POST /v1/invoices/{id}/pay" {',
        'test "recorded: nobody, GET /health" {',
        'test "recorded: planner, POST /v1/invoices/{id}/pay" {',
    ]


def test_equal_decisions_are_merged_and_counted(engine, path):
    for trace in "abc":
        engine.decide({**HEALTH, "request": {**HEALTH["request"], "headers": {"x-trace": trace}}})
    assert passes(path, 1).merged == 2


@pytest.mark.parametrize(
    "question",
    [
        pay(body={"amount": "900"}),
        pay(body={"amount": 5, "note": 'a "quoted"\nnote \\ of é\u2028 {amount}'}),
        pay(body={"amount": -7.50, "note": ["no", {"text": None}]}),
        pay(user={"id": 'al"ice'}),
        pay(user={}),
        pay(agent={"id": 7}),
        pay(agent={}),
        pay(credential={"scopes": ["pay"], "issuer": "other"}),
        pay(chain={"hops": [{"agent": "planner", "scopes": ["pay"], "issuer": "acme"}]}),
        pay(chain={"hops": [{"agent": "planner", "issuer": "acme", "issued_at": "2027-01-04T11:50:00Z"}]}),
        pay(chain={"hops": [{"agent": "planner", "scopes": ["pay"], "issued_at": "2027-01-04T12:00:00.2Z"}]}),
        pay(agent={"id": "tester", "issuer": "acme"}, attestation={"verified": True, "by": "lab", "age": "5m"}),
        pay(credential={"scopes": ["pay"], "issued_at": "2027-01-04T12:00:00.1Z"}),
        {"request": {"method": "GET", "path": "/health//"}},
        {"request": {"method": "GET", "path": "/v1/{x}/é"}},
        {"request": {"method": "HEAD", "path": "/health/", "headers": {"X-A": "7"}}},
        {"tool": {"server": "mail", "name": "send"}},
        {"tool": {"server": "mail", "name": "odd name"}},
        {"action": {"name": "view"}, "resource": {"type": "invoice", "id": '4"2'}},
        {"action": {"name": "view"}, "resource": {"type": "invoice"}},
        pay("77", entities=[{"type": "invoice", "id": "77", "attributes": {"tenant": "acme"}}]),
    ],
)
def test_the_recorded_test_contains_the_logged_question(engine, path, question):
    engine.decide(question)
    passes(path, 1)


def test_a_recorded_approval_has_its_rule_and_age(engine, path):
    asked = pay(body={"amount": 900})
    binding = engine.decide(asked).remedies[0].binding
    granted = {"id": "a", "by": "carol", "binding": binding, "granted_at": "2027-01-04T11:55:00Z"}
    assert engine.decide({**asked, "approvals": [granted]}).allowed
    assert not engine.decide({**asked, "approvals": [granted]}).allowed
    found = passes(path, 2)
    assert found.merged == 1  # what was spent counts for nothing, as if it had not come along
    assert 'approval: { rule: "large", by: "carol", age: 5m' in found.text


def test_a_recorded_approval_has_its_issuer(path):
    policy = POLICY.replace("by role finance within", "by role finance from acme within")
    directory = EntityStore(read_entity_rows(from_python(ROWS), "entities"))
    made_by = Engine.from_text(
        policy, directory=directory, clock=lambda: NOW, log=DecisionLog(path), approvals=TRUSTING
    )
    asked = pay(body={"amount": 900})
    binding = made_by.decide(asked).remedies[0].binding
    granted = {"id": "a", "by": "carol", "issuer": "acme", "binding": binding, "granted_at": "2027-01-04T11:55:00Z"}
    assert made_by.decide({**asked, "approvals": [granted]}).allowed
    found = made(path, policy)
    assert 'approval: { rule: "large", by: "carol", issuer: "acme", age: 5m' in found.text


@settings(max_examples=max(4, settings.default.max_examples // 10))  # a dozen questions each
@given(st.integers(0, 2_000))
def test_recorded_tests_pass_against_the_policies_that_decided(tmp_path_factory, seed):
    asked, path, now = setting(seed), tmp_path_factory.mktemp("log") / "decisions.jsonl", NOW
    made = Engine(asked.kernel, directory=asked.directory, clock=lambda: now, log=(log := DecisionLog(path)))
    for one in askings(seed, 12):
        now = max(now, one.now)  # a store is not asked where the clock is set back
        try:
            decision = made.decide(one.question)
        except RequestError:
            continue
        if decision.outcome is Outcome.CONFIRM and isinstance(one.question, dict):
            made.decide(approved(Random(seed), one.question, decision, now))
    log.close()
    found = convert_log(read_records(path), checked(*asked.policy.texts))
    assert found.changed == ()
    assert found.cases + found.merged + len(found.left_out) == found.decisions
    assert {one.why for one in found.left_out if not is_a_reason(one.why)} == set()
    if found.text:
        result = report(found.text, *asked.policy.texts)
        assert result.ok, result.render()
        assert len(result.results) == found.cases
        assert format_module(Source("again.policy", found.text)) == found.text


def is_a_reason(why: str) -> bool:
    reasons = (
        "a test cannot",
        "the path is not a string",
        "the policy declares no",
        "the id of the resource is not a string",
        "the decision depends on",
    )
    return why.startswith(reasons)


# ── What is not said, is told ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"request": {"method": "get", "path": "/health"}}, "a test cannot use the method `get`"),
        ({"request": {"method": "ANY", "path": "/health"}}, "a test cannot use the method `ANY`"),
        ({**HEALTH, "pending": ['request.headers["authorization"]']}, "a test cannot express `pending facts`"),
        ({**HEALTH, "body": {"_method": "DELETE"}}, "a test cannot express `body._method`"),
        ({"action": {"name": "view"}, "resource": {"type": "ship", "id": "1"}}, "the policy declares no entity `ship`"),
    ],
)
def test_a_question_no_test_can_express_is_left_out_with_a_reason(engine, path, question, why):
    decision = engine.decide(question)
    found = made(path)
    assert [(one.id, one.why) for one in found.left_out] == [(decision.id, why)]
    assert (found.text, found.cases) == ("", 0)


def test_a_decision_that_depends_on_a_redacted_secret_is_left_out_with_a_reason(engine, path):
    engine.decide({**HEALTH, "request": {**HEALTH["request"], "headers": {"Authorization": "x"}}})
    assert [one.why for one in made(path).left_out] == ["the decision depends on a secret that is not in the log"]


def test_an_inexpressible_fact_without_effect_is_listed(engine, path):
    engine.decide(pay(credential={"scopes": ["pay"], "kind": "\ud800"}))
    assert passes(path, 1).unsaid == ("credential.kind",)


def test_a_decision_changed_by_other_policies_is_listed_and_its_test_fails(engine, path):
    decision = engine.decide(pay("66"))
    other = POLICY.replace('guard "tenants" on pay { require user.tenant == resource.tenant }\n', "")
    found = made(path, other)
    assert found.changed == (decision.id,)
    assert not report(found.text, other).ok
    assert "=> deny by guard" in found.text  # a rule of that name is no more


def test_recording_filters_by_outcome_and_limit(engine, path):
    for invoice in ("42", "66", "67", "68"):
        engine.decide(pay(invoice))
    assert made(path, only={Outcome.ALLOW}).cases == 1
    limited = made(path, only={Outcome.DENY}, limit=2)
    assert (limited.cases, limited.over, limited.decisions) == (2, 1, 3)


def test_the_order_of_the_log_does_not_change_the_recorded_tests(engine, path):
    for question in (pay(), pay("66"), HEALTH):
        engine.decide(question)
    records = list(read_records(path))

    def text(several: Iterator[DecisionRecord]) -> str:
        return convert_log(several, checked(POLICY)).text

    assert text(iter(records)) == text(reversed(records))


def test_recorded_names_avoid_names_of_the_package(engine, path):
    engine.decide(pay())
    first = made(path).text
    again = convert_log(read_records(path), checked(POLICY, first)).text
    assert "fixture recorded_2 {" in again
    assert 'test "recorded: bot, POST /v1/invoices/{id}/pay 2"' in again
    assert report(again, POLICY, first).ok


def test_an_approval_of_one_of_several_confirmations_is_left_out_when_it_matters(path):
    guard = """guard "large" on pay { confirm by role finance within 15m when body.amount > 500 }"""
    assert guard in POLICY
    twice = POLICY.replace(guard, guard[:-1] + "  confirm by role finance within 15m when body.amount > 800 }")
    directory = EntityStore(read_entity_rows(from_python(ROWS), "rows"))
    made_by = Engine.from_text(twice, directory=directory, clock=lambda: NOW, log=DecisionLog(path), approvals=TRUSTING)
    asked = pay(body={"amount": 900})
    first, second = (one.binding for one in made_by.decide(asked).remedies)
    granted = [{"id": one[-4:], "by": "carol", "binding": one, "granted_at": "2027-01-04T11:55:00Z"}
               for one in (first, second)]  # fmt: skip
    assert not made_by.decide({**asked, "approvals": granted[:1]}).allowed
    assert made_by.decide({**asked, "approvals": granted}).allowed
    found = made(path, twice)
    why = 'a test cannot express `which confirmation of "large" an approval is for`'
    assert [one.why for one in found.left_out] == [why]
    assert report(found.text, twice).ok


# ── What happened before ──────────────────────────────────────────────────────────────────────

REMEMBERING = """package shop
issuer acme { url "https://login.acme.example"   scopes none }
user any { may POST /review, POST /pay }
guard "reviewed" on POST /pay { require after (POST /review by another user) within 1h }
"""


def test_only_decisions_independent_of_history_are_recorded_and_others_are_listed(path):
    log = DecisionLog(path)
    made = Engine.from_text(REMEMBERING, clock=lambda: NOW, log=log, store=MemoryStore(history_complete=True))
    for user, what in (("ann", "/pay"), ("ben", "/review"), ("ann", "/pay"), ("cleo", "/review")):
        asked = {"request": {"method": "POST", "path": what}, "user": {"id": user}, "credential": {"issuer": "acme"}}
        made.decide(asked)
    log.close()
    found = convert_log(read_records(path), checked(REMEMBERING))
    assert [one.why for one in found.left_out] == ["the decision depends on earlier requests"]
    assert (found.tests, found.cases) == (3, 3)
    assert report(found.text, REMEMBERING).ok

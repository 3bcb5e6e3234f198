"""What AuthZEN spends: no allow that would spend where nobody said whether it does. And obligations of an answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.engine import Engine
from policyengine.server import BearerTokenError, serve
from policyengine.stores.memory.store import MemoryStore
from tests.server.authzen.asking import MANY, ONE, TOKEN, Call, Free, caller, decision, decisions
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """language 1
package bank
anyone { may ACTION pay account, ACTION close account, ACTION look account, ACTION ask account }
entity account
facts { context.step: int?   args.note: string? }
rate "two" per user.id on ACTION pay account { 2/1h }
guard "told" on ACTION close account {
  audit full   notify "owner"   step_up high
  redact args.note   deny when context.step == 7 message "not at step {context.step}"
}
guard "asked" on ACTION ask account { confirm by user within 15m message "may it be asked?" }
"""
PAY: Free = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "pay"},
    "resource": {"type": "account", "id": "7"},
}
SPENDS: Free = {**PAY, "context": {"consume": True}}
LOOKS: Free = {**PAY, "context": {"consume": False}}
REMEMBERS = """
entity account
anyone { may ACTION pay account }
guard "once" on ACTION pay account { require no ACTION pay account within 1h per (resource.id) }
"""
READS = """
entity account
facts { context.approval.by: string?   context.consume: bool? }
anyone { may ACTION pay account when context.approval.by is present or context.consume is present }
"""


def doing(verb: str, **context: object) -> Free:
    return {**PAY, "action": {"name": verb}, "context": context}


@pytest.fixture
def call() -> Call:
    return caller(Engine.from_text(POLICY, clock=lambda: NOW, approvals=TRUSTING))


def test_an_allow_that_would_spend_is_denied_if_consume_is_unset(call: Call) -> None:
    """Else limits would not hold, and nobody would know."""
    answer = call("POST", ONE, json=PAY)
    assert decision(answer) is False
    context = answer.json()["context"]
    assert context["reason"] == "consume_unset"
    assert context["reason_user"]["en"] == (
        "the answer would spend (`two`), but the question does not say whether it may: "
        "send `context.consume`, or ask the operator for `[authzen] consume`"
    )
    assert "obligations" not in context
    assert decisions(call("POST", MANY, json={"evaluations": [PAY] * 5})) == [False] * 5
    assert [decision(call("POST", ONE, json=SPENDS)) for _ in range(3)] == [True, True, False]


def test_an_allow_that_would_enter_the_history_is_denied_if_consume_is_unset() -> None:
    call = caller(Engine.from_text(REMEMBERS, clock=lambda: NOW, store=MemoryStore(history_complete=True)))
    assert call("POST", ONE, json=PAY).json()["context"]["reason"] == "consume_unset"
    assert [decision(call("POST", ONE, json=SPENDS)) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("question", [doing("look"), doing("close", step=1)], ids=["plain", "with obligations"])
def test_an_allow_that_spends_nothing_does_not_need_consume(call: Call, question: Free) -> None:
    assert decision(call("POST", ONE, json=question))


def test_consume_false_spends_nothing(call: Call) -> None:
    assert [decision(call("POST", ONE, json=LOOKS)) for _ in range(5)] == [True] * 5
    assert decisions(call("POST", MANY, json={"evaluations": [LOOKS] * 5})) == [True] * 5


def test_a_deny_and_a_throttle_do_not_depend_on_consume(call: Call) -> None:
    for _ in range(2):
        call("POST", ONE, json=SPENDS)
    assert call("POST", ONE, json=PAY).json()["context"]["reason"] == "throttled"
    assert call("POST", ONE, json=doing("unheard")).json()["context"]["reason"] == "denied"


def test_consume_true_spends(call: Call) -> None:
    assert [decision(call("POST", ONE, json=SPENDS)) for _ in range(3)] == [True, True, False]


def test_only_evaluations_with_consume_true_spend(call: Call) -> None:
    items = [LOOKS, SPENDS, LOOKS, SPENDS, LOOKS, SPENDS]
    assert decisions(call("POST", MANY, json={"evaluations": items})) == [True, True, True, True, False, False]


@pytest.mark.parametrize("consume", [1, 0, "true", "", [True], {}])
def test_a_consume_value_that_is_not_a_boolean_is_rejected(call: Call, consume: object) -> None:
    question = {**PAY, "context": {"consume": consume}}
    answer = call("POST", ONE, json=question)
    assert (answer.status_code, answer.json()["member"]) == (400, "context.consume")
    assert decisions(call("POST", MANY, json={"evaluations": [question, SPENDS]})) == [False, True]


def test_consume_null_counts_as_unset(call: Call) -> None:
    assert call("POST", ONE, json={**PAY, "context": {"consume": None}}).json()["context"]["reason"] == "consume_unset"


# ── By the settings ───────────────────────────────────────────────────────────────────────────

TOKENS = ("edge: the-token-of-the-edge", "other: the-token-of-another", "an-unnamed-token-of-somebody")


def asked_by(call: Call, token: str, question: Free, times: int = 3) -> list[bool]:
    headers = {"authorization": f"Bearer {token.split()[-1]}"}
    return [decision(call("POST", ONE, json=question, headers=headers)) for _ in range(times)]


@pytest.mark.parametrize(
    ("consume", "spends"),
    [((), ()), (("edge",), (0,)), (("edge", "other"), (0, 1)), (("*",), (0, 1, 2)), (("name edge", ""), ())],
)
def test_questions_of_callers_in_authzen_consume_spend(consume: tuple[str, ...], spends: tuple[int, ...]) -> None:
    for number, token in enumerate(TOKENS):
        call = caller(Engine.from_text(POLICY, clock=lambda: NOW), token=TOKENS, authzen_consume=consume)
        assert asked_by(call, token, PAY) == ([True, True, False] if number in spends else [False] * 3)
        assert asked_by(call, token, LOOKS, 1) == [number not in spends]  # nothing was taken where it did not spend


def test_consume_false_overrides_the_authzen_consume_setting() -> None:
    call = caller(Engine.from_text(POLICY, clock=lambda: NOW), authzen_consume=["*"])
    assert [decision(call("POST", ONE, json=LOOKS)) for _ in range(5)] == [True] * 5
    assert [decision(call("POST", ONE, json=PAY)) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("names", "missing"), [(["edge", "edgy"], "edgy"), (["other"], "other")])
def test_serve_rejects_an_unknown_caller_in_authzen_consume(names: list[str], missing: str) -> None:
    engine = Engine.from_text(POLICY, approvals=TRUSTING)
    with pytest.raises(BearerTokenError, match=f"names the caller `{missing}`"):
        serve(engine, port=0, token=TOKENS[:1], authzen_consume=names)


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────


def test_an_approval_is_spent_even_with_consume_false(call: Call) -> None:
    (wanted,) = call("POST", ONE, json=doing("ask")).json()["context"]["approvals"]
    assert {name: wanted[name] for name in wanted if name != "binding"} == {
        "rule": "asked",
        "by": "user",
        "within": "15m",
        "bound": ["args", "body", "context"],
    }
    granted = {"id": "a-1", "by": "alice", "granted_at": "2027-01-04T11:59:00Z", "binding": wanted["binding"]}
    answers = [call("POST", ONE, json=doing("ask", approval=granted, consume=False)) for _ in range(2)]
    assert [decision(answer) for answer in answers] == [True, False]
    assert answers[1].json()["context"]["reason"] == "approval_required"


def test_an_approval_names_the_issuers_of_its_approvers_and_counts_only_with_one() -> None:
    policy = POLICY.replace("confirm by user within", "confirm by user from acme within")
    assert policy != POLICY
    call = caller(Engine.from_text(f"{policy}\nissuer acme {{ }}", clock=lambda: NOW, approvals=TRUSTING))
    (wanted,) = call("POST", ONE, json=doing("ask")).json()["context"]["approvals"]
    assert (wanted["by"], wanted["issuers"]) == ("user from acme", ["acme"])
    granted = {"id": "a-1", "by": "alice", "granted_at": "2027-01-04T11:59:00Z", "binding": wanted["binding"]}
    approvals = [granted, {**granted, "issuer": "other"}, {**granted, "issuer": "acme"}]
    answers = [call("POST", ONE, json=doing("ask", approval=approval)) for approval in approvals]
    assert [decision(answer) for answer in answers] == [False, False, True]


def test_an_evaluation_that_spends_opens_an_approval_and_passes_once_after_it() -> None:
    issuer = 'issuer acme { url "https://login.acme.example"   scopes none }\nusers unrestricted'
    engine = Engine.from_text(f"{POLICY}\n{issuer}", clock=lambda: NOW)
    assert engine.approvals is not None
    call = caller(engine)
    call("POST", ONE, json=doing("ask", consume=False))
    assert engine.approvals.list() == []
    (wanted,) = call("POST", ONE, json=doing("ask", consume=True)).json()["context"]["approvals"]
    assert wanted["approval"]["state"] == "pending"
    engine.approvals.approve(wanted["approval"]["id"], ProvedPerson("alice", "acme"))
    assert [decision(call("POST", ONE, json=doing("ask", consume=True))) for _ in range(2)] == [True, False]


def test_each_evaluation_of_a_list_names_its_approval() -> None:
    call = caller(Engine.from_text(POLICY, clock=lambda: NOW))
    asked = {"evaluations": [doing("ask", consume=True, note=note) for note in ("a", "b", "a")]}
    answers = [one["context"]["approvals"] for one in call("POST", MANY, json=asked).json()["evaluations"]]
    ids = [wanted["approval"]["id"] for (wanted,) in answers]
    assert (ids[0] == ids[2], ids[0] == ids[1]) == (True, False)
    assert {wanted["approval"]["state"] for (wanted,) in answers} == {"pending"}


def test_an_approval_request_spends_a_rate_once_and_a_budget_when_granted() -> None:
    limits = """rate "calls" per user.id on ACTION ask account { 5/1h }
    budget "asks" per user.id on ACTION ask account { count <= 1 within 1h }"""
    engine = Engine.from_text(f"{POLICY}\n{limits}", clock=lambda: NOW, approvals=TRUSTING)
    call = caller(engine)
    asked = [call("POST", ONE, json=doing("ask", consume=True)).json()["context"] for _ in range(3)]
    assert [one["reason"] for one in asked] == ["approval_required"] * 3
    granted = {"by": "alice", "granted_at": "2027-01-04T11:59:00Z", "binding": asked[0]["approvals"][0]["binding"]}
    answers = [call("POST", ONE, json=doing("ask", approval={"id": one, **granted})) for one in ("a-1", "a-2")]
    assert [decision(answer) for answer in answers] == [True, False]
    assert answers[1].json()["context"]["reason"] == "throttled"
    question = {"action": {"name": "ask"}, "resource": {"type": "account", "id": "7"}, "user": {"id": "alice"}}
    assert {one.rule: one.remaining for one in engine.evaluate(question).rates} == {"calls": 4, "asks": 0}


@pytest.mark.parametrize(
    "other",
    [
        {"action": {"name": "ask", "properties": {"amount": 500}}},
        {"action": {"name": "ask", "properties": {"amount": 1, "to": "mallory"}}},
        {"resource": {"type": "account", "id": "8"}},
        {"subject": {"type": "user", "id": "bob"}},
        {"context": {"step": 2}},
        {"context": {"step": 1, "more": True}},
    ],
)
def test_an_approval_of_one_question_does_not_allow_another(call: Call, other: Free) -> None:
    asked = {**doing("ask", step=1), "action": {"name": "ask", "properties": {"amount": 1}}}
    (wanted,) = call("POST", ONE, json=asked).json()["context"]["approvals"]
    granted = {"id": "a-1", "by": "alice", "granted_at": "2027-01-04T11:59:00Z", "binding": wanted["binding"]}

    def again(question: Free) -> Free:
        context = question["context"]
        assert isinstance(context, dict)
        return {**question, "context": {**context, "approval": granted}}

    assert decision(call("POST", ONE, json=again({**asked, **other}))) is False
    assert decision(call("POST", ONE, json=again(asked))) is True


def test_the_context_may_carry_a_list_of_approvals(call: Call) -> None:
    (wanted,) = call("POST", ONE, json=doing("ask")).json()["context"]["approvals"]
    granted = {"id": "a-1", "by": "alice", "granted_at": "2027-01-04T11:59:00Z", "binding": wanted["binding"]}
    others = {**granted, "id": "a-2", "by": "mallory"}
    assert decision(call("POST", ONE, json=doing("ask", approval=[others, granted])))


@pytest.mark.parametrize("approval", [[], "a-1", 7, True, [7], {"id": 7}, {"id": "a", "by": "b", "foreign": 1}])
def test_a_malformed_approval_allows_nothing(call: Call, approval: object) -> None:
    answer = call("POST", ONE, json=doing("ask", approval=approval))
    assert answer.status_code == 400 or decision(answer) is False


def test_approval_and_consume_are_not_facts(call: Call) -> None:
    """Else a policy could read who approved from what the question says."""
    engine = Engine.from_text(READS, clock=lambda: NOW)
    question = {**PAY, "context": {"approval": {"id": "a-1", "by": "alice"}, "consume": True}}
    assert decision(caller(engine)("POST", ONE, json=question)) is False


def test_an_answer_that_spent_has_an_evaluation_id(call: Call) -> None:
    answer = call("POST", ONE, json=SPENDS)
    named = answer.json()["context"]["evaluation_id"]
    assert named == answer.headers["x-decision-id"]
    assert call("POST", "/events", json={"decision": named, "status": 200}).status_code in (200, 404)


def test_an_allow_with_consume_false_has_a_consume_obligation(call: Call) -> None:
    (one,) = call("POST", ONE, json=LOOKS).json()["context"]["obligations"]
    assert (one["type"], one["properties"]["kind"]) == ("custom", "consume")


def test_a_throttle_has_its_reason_and_retry_after(call: Call) -> None:
    for _ in range(2):
        call("POST", ONE, json=SPENDS)
    answer = call("POST", ONE, json=SPENDS)
    assert (answer.json()["context"]["reason"], answer.headers["retry-after"]) == ("throttled", "1800")


def test_a_confirm_has_the_reason_approval_required(call: Call) -> None:
    context = call("POST", ONE, json=doing("ask")).json()["context"]
    assert (context["reason"], context["reason_user"]) == ("approval_required", {"en": "may it be asked?"})


def test_a_retry_with_the_same_idempotency_key_spends_once() -> None:
    call = caller(Engine.from_text(POLICY, clock=lambda: NOW), token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}", "idempotency-key": "k-1"}
    first, second = (call("POST", ONE, json=SPENDS, headers=headers) for _ in range(2))
    assert first.content == second.content
    other = {"authorization": f"Bearer {TOKEN}"}
    assert [decision(call("POST", ONE, json=SPENDS, headers=other)) for _ in range(2)] == [True, False]


# ── Obligations ───────────────────────────────────────────────────────────────────────────────

RULE = "told"
CUSTOM = {"rule": RULE}


def test_obligations_come_with_an_allow(call: Call) -> None:
    answer = call("POST", ONE, json=doing("close", step=1)).json()
    assert answer["decision"] is True
    assert answer["context"] == {
        "obligations": [
            {"id": "obligation-1", "type": "custom", "properties": {**CUSTOM, "kind": "audit", "arguments": ["full"]}},
            {"id": "obligation-2", "type": "notification", "properties": {"to": "owner", "body": RULE}},
            {"id": "obligation-3", "type": "step-up", "properties": {"acr_value": "high"}},
            {
                "id": "obligation-4",
                "type": "custom",
                "properties": {"kind": "redact", "arguments": ["args.note"], "rule": RULE},
            },
        ]
    }


def test_audit_and_notify_obligations_come_with_a_deny(call: Call) -> None:
    answer = call("POST", ONE, json=doing("close", step=7)).json()
    assert answer["decision"] is False
    assert answer["context"]["reason_user"] == {"en": "not at step 7"}
    assert [one["type"] for one in answer["context"]["obligations"]] == ["custom", "notification"]


@pytest.mark.parametrize(
    ("supported", "expected"),
    [
        (None, True),
        (["step-up", "notification", "custom"], True),
        (["step-up", "custom", "unheard-of", 7], True),
        (["step-up"], False),
        (["custom"], False),
        ([], False),
        ("step-up", False),
    ],
)
@pytest.mark.parametrize("name", ["supported_obligations", "obligations_supported"])
def test_an_allow_with_unsupported_obligations_is_denied(
    call: Call, name: str, supported: object, expected: bool
) -> None:
    assert decision(call("POST", ONE, json=doing("close", step=1, **{name: supported}))) is expected


def test_an_allow_without_obligations_needs_no_supported_obligations(call: Call) -> None:
    assert decision(call("POST", ONE, json=doing("look", supported_obligations=[])))

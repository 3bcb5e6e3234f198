"""AuthZEN only looks, unless `context.consume` is true; and what a gateway has to do with an answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyengine.engine import Engine
from tests.server.authzen.asking import MANY, ONE, TOKEN, Call, Free, caller, decision, decisions

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


def doing(verb: str, **context: object) -> Free:
    return {**PAY, "action": {"name": verb}, "context": context}


@pytest.fixture
def call() -> Call:
    return caller(Engine.from_text(POLICY, clock=lambda: NOW))


def test_looking_takes_nothing(call: Call) -> None:
    assert [decision(call("POST", ONE, json=PAY)) for _ in range(5)] == [True] * 5
    assert decisions(call("POST", MANY, json={"evaluations": [PAY] * 5})) == [True] * 5


def test_what_says_so_is_spent(call: Call) -> None:
    assert [decision(call("POST", ONE, json=SPENDS)) for _ in range(3)] == [True, True, False]


def test_an_item_that_says_so_is_spent_and_no_other(call: Call) -> None:
    assert decisions(call("POST", MANY, json={"evaluations": [PAY, SPENDS, PAY, SPENDS, PAY, SPENDS]})) == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("consume", [False, None, 1, "true", [True], {}])
def test_only_true_is_true(call: Call, consume: object) -> None:
    question = {**PAY, "context": {"consume": consume}}
    assert [decision(call("POST", ONE, json=question)) for _ in range(3)] == [True] * 3


def test_what_was_spent_is_named_for_its_report(call: Call) -> None:
    answer = call("POST", ONE, json=SPENDS)
    named = answer.json()["context"]["evaluation_id"]
    assert named == answer.headers["x-decision-id"]
    assert call("POST", "/events", json={"decision": named, "status": 200}).status_code in (200, 404)


def test_an_allow_that_was_only_looked_at_says_so(call: Call) -> None:
    (one,) = call("POST", ONE, json=PAY).json()["context"]["obligations"]
    assert (one["type"], one["properties"]["kind"]) == ("custom", "consume")


def test_a_throttle_says_so_and_when_to_come_again(call: Call) -> None:
    for _ in range(2):
        call("POST", ONE, json=SPENDS)
    answer = call("POST", ONE, json=SPENDS)
    assert (answer.json()["context"]["reason"], answer.headers["retry-after"]) == ("throttled", "1800")


def test_a_confirm_says_that_an_approval_would_help(call: Call) -> None:
    context = call("POST", ONE, json=doing("ask")).json()["context"]
    assert (context["reason"], context["reason_user"]) == ("approval_required", {"en": "may it be asked?"})


def test_a_gateway_asks_again_by_the_same_key() -> None:
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


def test_what_is_for_the_operator_comes_with_a_deny_too(call: Call) -> None:
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
def test_a_gateway_that_cannot_do_it_is_denied(call: Call, name: str, supported: object, expected: bool) -> None:
    assert decision(call("POST", ONE, json=doing("close", step=1, **{name: supported}))) is expected


def test_what_asks_for_nothing_needs_nothing_supported(call: Call) -> None:
    assert decision(call("POST", ONE, json=doing("look", supported_obligations=[])))

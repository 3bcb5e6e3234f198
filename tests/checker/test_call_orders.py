"""Orders of calls: what `expect` becomes, its mistakes, and orders that do not do what they seem to."""

from __future__ import annotations

import pytest

from policyengine import kernel as k
from policyengine.check import check, check_text
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.kernel.fingerprint import canonical_text
from policyengine.kernel.sequence_automaton import order_text
from policyengine.source import Source
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

AGENTS = """issuer idp { scopes none }
scope data { GET /data/**   TOOL files/* }
agent "bot*" { issued by idp   acts alone   may POST /auth, data, POST /report, GET /status }
"""
READS = 'guard "reads" { deny when not behavior.sequence }\n'


def policy(order: str, rules: str = READS) -> str:
    return f'{AGENTS}{rules}profile "p" for agent "bot*" {{ {order} }}\n'


def found(order: str, rules: str = READS) -> list[tuple[str, str]]:
    return [(one.code, " ".join(one.span.text.split())) for one in check_text(policy(order, rules))]


def profile(order: str) -> k.Profile:
    module, diagnostics = parse(Source("p", policy(order)))
    checked = check([module] if module else [], diagnostics)
    assert checked.kernel is not None, checked.diagnostics
    return checked.kernel.profiles[0]


ORDERS = [
    "POST /auth -> GET /data/** repeated -> POST /report",
    "POST /auth optional -> data repeated -> (POST /report | GET /status -> GET /status optional) optional repeated",
    "(POST /auth -> data repeated) repeated",
    "TOOL files/read -> (GET /data/{id} | (TOOL files/* | GET /status)) -> POST|GET /report",
]


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_kept_as_it_is_written(order: str) -> None:
    assert found(f"expect {order}") == []
    assert order_text(profile(f"expect {order}").order) == order


def test_a_step_may_be_a_scope() -> None:
    step = profile("expect data repeated -> POST /report").order[0]
    assert isinstance(step, k.CallStep)
    assert (len(step.patterns), step.repeated, step.optional) == (2, True, False)


def test_an_order_is_part_of_the_revision_and_its_absence_is_not() -> None:
    without, ordered = profile("learn 14d"), profile("learn 14d   expect POST /auth -> data")
    assert "order" not in canonical_text(without)
    assert canonical_text(without) != canonical_text(ordered)
    assert canonical_text(ordered) == canonical_text(profile("expect  POST /auth\n -> data"))
    assert canonical_text(ordered) != canonical_text(profile("expect POST /auth -> data repeated"))


@pytest.mark.parametrize(
    ("order", "code", "underlined"),
    [
        ("POST /auth -> nowhere", "E207", "nowhere"),
        ("POST /auth -> (data | nowhere)", "E207", "nowhere"),
        ("POST /auth repeated repeated -> data", "E911", "repeated"),
        ("(POST /auth) optional repeated optional -> data", "E911", "optional"),
        (" -> ".join(["POST /auth"] * 33), "E915", "expect " + " -> ".join(["POST /auth"] * 33)),
    ],
)
def test_a_mistake_in_an_order_is_reported(order: str, code: str, underlined: str) -> None:
    assert found(f"expect {order}") == [(code, underlined)]


def test_an_order_that_is_too_large_says_what_exceeds_the_bound() -> None:
    (one,) = check_text(policy("expect " + " -> ".join(["data"] * 33)))
    assert one.message == "the order of calls is too large: 33 steps, and at most 32 are possible"
    assert one.hint == "write fewer steps, or steps that share no endpoints"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("expect", "expected a scope, a method, `TOOL`, `ACTION`, …, got `}`"),
        ("expect POST /auth ->", "expected a scope, a method, `TOOL`, `ACTION`, …, got `}`"),
        ("expect ()", "expected a scope, a method, `TOOL`, `ACTION`, …, got `)`"),
        ("expect (POST /auth", "`)` is missing before this `}`"),
    ],
)
def test_an_incomplete_order_is_explained(order: str, message: str) -> None:
    assert [one.message for one in check_text(policy(order))] == [message]


# ── Orders that do not do what they seem to ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("order", "unmatched"),
    [
        ("POST /auth -> GET /data/x", []),
        ("POST /auth -> GET /dat/**", ["GET /dat/**"]),
        ("PUT /auth -> (data | POST /reports optional) repeated", ["PUT /auth", "POST /reports optional"]),
        ("ANY /auth -> GET /**", []),
        ("TOOL files/read -> TOOL mail/*", ["TOOL mail/*"]),
    ],
)  # fmt: skip
def test_a_step_that_no_granted_call_matches_is_reported(order: str, unmatched: list[str]) -> None:
    assert found(f"expect {order}") == [("W915", step) for step in unmatched]


def test_a_step_is_looked_for_in_the_blocks_of_the_agents_of_the_profile() -> None:
    other = 'agent "other" { issued by idp   acts alone   may DELETE /data }\n'
    assert found("expect POST /auth -> DELETE /data", READS + other) == [("W915", "DELETE /data")]
    assert found("expect POST /auth -> DELETE /data", READS + "anyone { may DELETE /data }\n") == []
    message = "no agent of the profile `p` may call `DELETE /data`"
    assert [one.message for one in check_text(policy("expect POST /auth -> DELETE /data repeated"))] == [message]


@pytest.mark.parametrize(
    ("order", "satisfied"),
    [
        ("(POST /auth | data | POST /report | GET /status) repeated optional", True),
        ("(ANY /** | TOOL files/*) repeated", True),
        ("(ANY /** | TOOL files/read) repeated", False),
        ("(POST /auth | data | POST /report) repeated", False),
        ("(ANY /** | TOOL *) repeated -> GET /status", True),  # each prefix can still become such a sequence
        ("(ANY /** | TOOL *) repeated -> GET /status -> GET /status repeated", True),
        ("(ANY /** | TOOL *) -> GET /status", False),
    ],
)
def test_an_order_that_every_sequence_follows_is_reported(order: str, satisfied: bool) -> None:
    assert found(f"expect {order}") == ([("W916", order)] if satisfied else [])


def test_a_sequence_without_an_order_is_reported() -> None:
    rules = 'define good = behavior.sequence\nguard "g" { deny unless good   warn when behavior.burst or not good }\n'
    assert found("learn 14d", rules) == [("W917", "behavior.sequence")]
    assert found("learn 14d", 'rate "r" per agent.id { 9/1m   clamp 2/1m when not behavior.sequence }\n') == [
        ("W917", "behavior.sequence")
    ]


def test_an_order_that_no_rule_reads_is_reported() -> None:
    order = "expect POST /auth -> data repeated"
    reads_another = 'guard "g" { warn when behavior.burst }\n'
    assert found(order, reads_another) == [("W918", "POST /auth -> data repeated")]
    assert [code for code, _ in found(order, "")] == ["W914"]


def test_a_clamp_on_the_order_of_calls_does_not_spare_new_callers() -> None:
    order, rate = "expect POST /auth -> data", 'rate "r" per agent.id {{ 9/1m   clamp 2/1m when {} }}\n'
    assert found(order, rate.format("not behavior.sequence")) == []
    assert [code for code, _ in found(order, rate.format("not behavior.sequence and behavior.burst"))] == ["W913"]
    assert [code for code, _ in found(order, rate.format("behavior.burst"))] == ["W913", "W918"]


# ── How an order is written ───────────────────────────────────────────────────────────────────


def test_the_formatter_keeps_an_order_on_its_lines() -> None:
    written = (
        'profile "p" for agent "x" {\nexpect POST /auth->( GET /a|TOOL b\n->things )repeated optional\n'
        "-> POST|PUT /c\nlearn 14d }"
    )
    formatted = (
        'profile "p" for agent "x" {\n'
        "  expect POST /auth -> (GET /a | TOOL b\n"
        "    -> things) repeated optional\n"
        "    -> POST|PUT /c\n"
        "  learn 14d }\n"
    )
    assert format_module(Source("p", written)) == formatted
    assert format_module(Source("p", formatted)) == formatted


def test_equal_orders_of_two_policies_have_equal_automata() -> None:
    one, other = (order_automaton(profile(f"expect {order}").order) for order in (ORDERS[0], f"  {ORDERS[0]}"))
    assert (one.rows, one.digest, one.steps) == (other.rows, other.digest, other.steps)

"""Faults in declared orders of calls, and which of them no test can detect."""

from __future__ import annotations

import pytest
from hypothesis import given

from policyengine.checker.patterns.step_letters import order_automaton, same_order
from policyengine.kernel.sequence_automaton import LEFT, START, Order
from policyengine.testing.mutation import mutate
from policyengine.testing.mutation.operators import find_faults
from policyengine.testing.mutation.report import MutantStatus
from tests.checker.test_sequence_automaton import ENDPOINTS, ORDERS, group, letter, step
from tests.testing.running import checked

POLICY = """
issuer acme { scopes none }
agent "*" { issued by acme   acts alone   may POST /auth, GET /data/**, POST /report }
profile "reporting" for agent "bot" { learn 14d   expect %s   run within 5m }
guard "order" { deny when not behavior.sequence }
"""


def orders(order: str, policy: str = POLICY) -> list[tuple[str, str]]:
    """Return the operator and the changed order of each fault in an order."""
    faults = (one for one in find_faults(checked(policy % order).program) if 'in profile "reporting"' in one.name)
    return [(one.operator, one.text.split("expect ")[1].split("   run")[0]) for one in faults]


def test_the_faults_of_a_sequence() -> None:
    assert sorted(orders("POST /auth -> GET /data/** optional repeated")) == [
        ("drop a step", "GET /data/** optional repeated"),
        ("drop a step", "POST /auth"),
        ("drop optional", "POST /auth -> GET /data/** repeated"),
        ("drop repeated", "POST /auth -> GET /data/** optional"),
        ("make a step optional", "POST /auth optional -> GET /data/** optional repeated"),
        ("repeat a step", "POST /auth repeated -> GET /data/** optional repeated"),
    ]


def test_the_faults_of_a_group() -> None:
    found = orders("(POST /auth repeated | GET /data/** repeated -> POST /report repeated) optional repeated")
    assert {one for one in found if "optional" not in one[0]} == {
        ("drop a step", "(POST /auth repeated | GET /data/** repeated) optional repeated"),
        ("drop a step", "(POST /auth repeated | POST /report repeated) optional repeated"),
        ("drop an alternative", "(GET /data/** repeated -> POST /report repeated) optional repeated"),
        ("drop an alternative", "(POST /auth repeated) optional repeated"),
        ("drop repeated", "(POST /auth | GET /data/** repeated -> POST /report repeated) optional repeated"),
        ("drop repeated", "(POST /auth repeated | GET /data/** -> POST /report repeated) optional repeated"),
        ("drop repeated", "(POST /auth repeated | GET /data/** repeated -> POST /report repeated) optional"),
        ("drop repeated", "(POST /auth repeated | GET /data/** repeated -> POST /report) optional repeated"),
    }


def test_only_the_order_of_a_profile_is_changed_and_only_if_a_rule_reads_it() -> None:
    assert len(orders("POST /auth")) == 2
    assert orders("POST /auth", POLICY.replace("not behavior.sequence", "behavior.burst")) == []


def fates(order: str, tests: str) -> dict[str, MutantStatus]:
    given = f'test "t" {{ given agent "bot" from acme\n{tests} }}'
    outcomes = mutate(checked(f"{POLICY % order}\n{given}")).outcomes
    return {one.diff.split("expect ")[2].split("   run")[0]: one.fate for one in outcomes if "-profile" in one.diff}


def test_a_fault_is_detected_by_a_test_that_leaves_the_order() -> None:
    order = "POST /auth -> POST /report"
    assert fates(order, "POST /auth => allow  POST /report => allow") == {
        "POST /auth": MutantStatus.KILLED,
        "POST /report": MutantStatus.KILLED,
        "POST /auth optional -> POST /report": MutantStatus.SURVIVED,
        "POST /auth repeated -> POST /report": MutantStatus.SURVIVED,
        "POST /auth -> POST /report optional": MutantStatus.SAME,
        "POST /auth -> POST /report repeated": MutantStatus.SURVIVED,
    }
    whole = """POST /report => deny  POST /auth => allow  POST /auth => deny
      POST /report => allow  POST /report => deny"""
    assert set(fates(order, whole).values()) == {MutantStatus.KILLED, MutantStatus.SAME}


def test_a_fault_in_a_scope_changes_the_order_that_uses_it() -> None:
    scope = "scope work { POST /auth   POST /report }\n"
    policy = scope + POLICY % "work -> GET /data/**"
    tests = 'test "t" { given agent "bot" from acme POST /auth => allow }'
    outcomes = mutate(checked(f"{policy}\n{tests}")).outcomes
    narrowed = [one for one in outcomes if one.name == "narrow a place in scope work: scope work { POST /report }"]
    assert [one.fate for one in narrowed] == [MutantStatus.KILLED]


# ── Equal orders ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((step(0), step(5)), (step(0), step(5, optional=True)), True),  # a run need not be complete
        ((step(0), step(5)), (step(0, optional=True), step(5)), False),
        ((step(0, repeated=True),), (group((step(0),), repeated=True),), True),
        ((group((step(0, repeated=True),), repeated=True),), (step(0, repeated=True),), True),
        ((group((step(0),), (step(5),)),), (group((step(5),), (step(0),)),), True),
        ((step(0),), (step(1),), False),
        ((), (step(0),), False),
        ((), (), True),
    ],
)
def test_orders_are_the_same_if_the_same_calls_follow_them(one: Order, other: Order, same: bool) -> None:
    assert same_order(one, other) is same
    assert same_order(other, one) is same


def follows_alike(one: Order, other: Order) -> bool:
    """Return whether the same calls of the samples follow both orders at each point."""
    automata = order_automaton(one), order_automaton(other)
    reached, pending = {(START, START)}, [(START, START)]
    while pending:
        states = pending.pop()
        for endpoint in ENDPOINTS:
            a, b = (
                automaton.next(state, letter(order, endpoint))
                for automaton, state, order in zip(automata, states, (one, other), strict=True)
            )
            if (a == LEFT) != (b == LEFT):
                return False
            if a != LEFT and (a, b) not in reached:
                reached.add((a, b))
                pending.append((a, b))
    return True


@given(ORDERS, ORDERS)
def test_orders_that_are_the_same_are_followed_alike(one: Order, other: Order) -> None:
    assert same_order(one, one)
    assert not same_order(one, other) or follows_alike(one, other)
    longer = (*one, *other)
    assert not same_order(one, longer) or follows_alike(one, longer)

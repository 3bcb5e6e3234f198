"""Conditions that decide nothing and rules that never matter: exact code, message, underlined text and hint."""

from __future__ import annotations

import pytest

from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_rules import DECIDED_EXAMPLES

VOCABULARY = """
enum plan = free < team < enterprise
entity user { roles: set<string> }
facts { body.amount: number  body.count: int  body.note: string?  body.plan: plan?  body.urgent: bool?
  context.note: string? }
users unrestricted
issuer acme { url "https://login.acme.example"  scopes none }
agent "used" { issued by acme  acts alone  may GET /used when body.plan == free }
"""
OURS = ("E7", "W7")
REDUNDANT_GRANT = "this `may` is redundant: another `may` of the block grants everything that it grants"


def found(policy: str) -> list[Diagnostic]:
    return [d for d in check_text(VOCABULARY + policy) if d.code.startswith(OURS)]


def told(policy: str) -> list[tuple[str, str, str, str | None]]:
    return [(d.code, d.message, d.span.text, d.hint) for d in found(policy)]


@pytest.mark.parametrize(("name", "example"), [pytest.param(*row, id=row[0]) for row in DECIDED_EXAMPLES])
def test_each_listed_decided_condition_is_found(name: str, example: str) -> None:
    assert {d.code for d in found(f'guard "g" {{ warn when {example} message "m" }}')} & {"E702", "W702", "W703"}


def test_the_listed_decided_conditions_have_unique_names() -> None:
    assert len({name for name, _ in DECIDED_EXAMPLES}) == len(DECIDED_EXAMPLES)


NEVER = "body.amount > 10 and body.amount < 5"
CLASH = "`body.amount > 10` and `body.amount < 5` are never true together"
EVER = "body.amount > 5 or body.amount < 10"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(
            f"anyone {{ may GET /a when {NEVER} }}",
            ("E701", "this `may` grants nothing: its condition is never true", NEVER, CLASH),
            id="may",
        ),
        pytest.param(
            "anyone { may GET /a when 1 > 2 }",
            ("E701", "this `may` grants nothing: its condition is always false", "1 > 2", None),
            id="constants",
        ),
        pytest.param(
            'agent "x" { issued by acme  acts for users where user.id == "a" and user.id == "b"  may GET /a }',
            (
                "E701",
                "this agent acts for no user: its condition is never true",
                'user.id == "a" and user.id == "b"',
                '`user.id == "a"` and `user.id == "b"` are never true together',
            ),
            id="acts for",
        ),
        pytest.param(
            'agent where agent.id == "a" and agent.id == "b" { issued by acme  acts alone  may GET /a }',
            (
                "E701",
                "this block applies to no caller: its condition is never true",
                'agent.id == "a" and agent.id == "b"',
                '`agent.id == "a"` and `agent.id == "b"` are never true together',
            ),
            id="agent where",
        ),
        pytest.param(
            "user where size(user.roles) < 0 { may GET /a }",
            ("E701", "this block applies to no caller: its condition is never true", "size(user.roles) < 0", None),
            id="user where",
        ),
        pytest.param(
            f"anyone {{ may GET /a when body.urgent and ({NEVER}) }}",
            (
                "E701",
                "this `may` grants nothing: its condition is never true",
                f"body.urgent and ({NEVER})",
                CLASH,
            ),
            id="three parts, two at odds",
        ),
        pytest.param(
            "anyone { may GET /a when body.urgent and body.count > 2 and 1 > 2 }",
            (
                "E701",
                "this `may` grants nothing: its condition is always false",
                "body.urgent and body.count > 2 and 1 > 2",
                "`1 > 2` is never true",
            ),
            id="one part alone",
        ),
        pytest.param(
            "anyone { may GET /a when time >= 2026-01-01 or time < 2027-01-01 }",
            ("W701", "this condition is always true", "time >= 2026-01-01 or time < 2027-01-01", "remove it"),
            id="always true",
        ),
        pytest.param(
            f"anyone {{ may GET /a when {EVER} }}",
            ("W704", "this condition is never false", EVER, None),
            id="never false and still not always true",
        ),
        pytest.param(
            'guard "g" { deny when 1 > 2 }',
            ("E702", "this `deny` never acts: its condition is always false", "1 > 2", None),
            id="deny never",
        ),
        pytest.param(
            'guard "g" { require 1 < 2 }',
            ("E702", "this `require` never acts: its condition is always true", "1 < 2", None),
            id="require always met",
        ),
        pytest.param(
            'guard "g" { deny unless 1 < 2 }',
            ("E702", "this `deny` never acts: its condition is always true", "1 < 2", None),
            id="unless always met",
        ),
        pytest.param(
            'guard "g" { confirm by user within 1h when 1 > 2 }',
            ("E702", "this `confirm` never acts: its condition is always false", "1 > 2", None),
            id="confirm never",
        ),
        pytest.param(
            'guard "g" { audit full when 1 > 2 }',
            ("E702", "this `audit` never acts: its condition is always false", "1 > 2", None),
            id="audit never",
        ),
        pytest.param(
            f'guard "g" {{ require {NEVER} }}',
            ("E703", "this `require` denies everything here: its condition is never true", NEVER, CLASH),
            id="require never met",
        ),
        pytest.param(
            f'guard "g" {{ deny when {NEVER} }}',
            ("W702", "this `deny` acts only on unknown facts: its condition is never true", NEVER, CLASH),
            id="deny on unknown only",
        ),
        pytest.param(
            f'guard "g" {{ require {EVER} }}',
            ("W702", "this `require` acts only on unknown facts: its condition is never false", EVER, None),
            id="require on unknown only",
        ),
        pytest.param(
            f'guard "g" {{ deny when {EVER} }}',
            (
                "W703",
                "this `deny` always acts: its condition is never false",
                EVER,
                "write `deny` without a condition if that is meant",
            ),
            id="deny always",
        ),
        pytest.param(
            f'guard "g" {{ deny unless {NEVER} }}',
            (
                "W703",
                "this `deny` always acts: its condition is never true",
                NEVER,
                "write `deny` without a condition if that is meant",
            ),
            id="deny unless never",
        ),
        pytest.param(
            f'guard "g" {{ deny when body.urgent or ({NEVER}) }}',
            ("W704", "this part of a condition is never true", f"({NEVER})", CLASH),
            id="a part never true",
        ),
        pytest.param(
            f'guard "g" {{ require body.urgent and ({EVER}) }}',
            ("W704", "this part of a condition is never false", f"({EVER})", None),
            id="a part never false",
        ),
        pytest.param(
            "define odd = body.count > 1 and body.count < 2\nanyone { may GET /a when body.urgent or odd }",
            (
                "W704",
                "this part of a condition is never true",
                "body.count > 1 and body.count < 2",
                "`body.count > 1` and `body.count < 2` are never true together",
            ),
            id="a definition",
        ),
        pytest.param(
            'guard "g" { deny when any r in user.roles: r == "a" and r == "b" }',
            (
                "W702",
                "this `deny` acts only on unknown facts: its condition is never true",
                'any r in user.roles: r == "a" and r == "b"',
                None,
            ),
            id="no element fits",
        ),
    ],
)
def test_a_condition_with_a_constant_result_is_reported(
    policy: str, expected: tuple[str, str, str, str | None]
) -> None:
    assert told(policy) == [expected]


@pytest.mark.parametrize(
    ("policy", "expected", "related"),
    [
        pytest.param(
            "anyone { may GET /a   may GET /** }",
            ("W711", REDUNDANT_GRANT, "may GET /a", "remove it"),
            "may GET /**",
            id="a wider path",
        ),
        pytest.param(
            "anyone { may GET /a   may GET|POST /a when body.urgent   may ANY /a }",
            ("W711", REDUNDANT_GRANT, "may GET /a", "remove it"),
            "may ANY /a",
            id="more methods",
        ),
        pytest.param(
            "anyone { may GET /a when body.count > 5   may GET /a when body.count > 3 }",
            ("W711", REDUNDANT_GRANT, "may GET /a when body.count > 5", "remove it"),
            "may GET /a when body.count > 3",
            id="a weaker condition",
        ),
        pytest.param(
            "anyone { may GET /a }\nanyone { may GET /b   may GET /b }",
            ("W711", REDUNDANT_GRANT, "may GET /b", "remove it"),
            "may GET /b",
            id="the same in one block",
        ),
        pytest.param(
            'guard "g" { deny when body.count > 10   deny when body.count > 100 }',
            (
                "W712",
                "this `deny` changes nothing: `deny` already acts whenever it does",
                "deny when body.count > 100",
                "remove it, or narrow the other one",
            ),
            "deny when body.count > 10",
            id="a stronger condition after a weaker one",
        ),
        pytest.param(
            'guard "g" { require body.count <= 10   require body.count <= 20 }',
            (
                "W712",
                "this `require` changes nothing: `require` already acts whenever it does",
                "require body.count <= 20",
                "remove it, or narrow the other one",
            ),
            "require body.count <= 10",
            id="a weaker demand after a stronger one",
        ),
        pytest.param(
            'guard "g" { confirm by user within 1h when body.count > 10   deny when body.count > 5 }',
            (
                "W712",
                "this `confirm` changes nothing: `deny` already acts whenever it does",
                "confirm by user within 1h when body.count > 10",
                "remove it, or narrow the other one",
            ),
            "deny when body.count > 5",
            id="nobody is asked about what is denied",
        ),
        pytest.param(
            'guard "g" on /used { deny when body.count > 5   step_up high when body.count > 7 }',
            (
                "W712",
                "this `step_up` changes nothing: `deny` already acts whenever it does",
                "step_up high when body.count > 7",
                "remove it, or narrow the other one",
            ),
            "deny when body.count > 5",
            id="a duty of what is denied",
        ),
        pytest.param(
            'guard "g" { audit full   audit full when body.urgent }',
            (
                "W712",
                "this `audit` changes nothing: `audit` already acts whenever it does",
                "audit full when body.urgent",
                "remove it, or narrow the other one",
            ),
            "audit full",
            id="the same duty",
        ),
        pytest.param(
            'guard "shut" on /a/** { deny }\nguard "late" on /a/b { deny when body.urgent }\nanyone { may GET /a/** '
            "when body.urgent   may GET /** }",
            (
                "W713",
                "this `may` grants nothing: guard `shut` denies everything there",
                "may GET /a/** when body.urgent",
                "remove the `may` or the guard",
            ),
            None,
            id="behind a shut guard",
        ),
    ],
)
def test_a_rule_without_effect_is_reported(
    policy: str, expected: tuple[str, str, str, str | None], related: str | None
) -> None:
    assert expected in told(policy)
    finding = next(d for d in found(policy) if d.span.text == expected[2] and d.code == expected[0])
    assert related is None or [other.span.text for other in finding.related] == [related]


def test_a_guard_after_a_guard_that_denies_everything_is_reported() -> None:
    (finding,) = found('guard "shut" on /u/** { deny }\nguard "late" on /u/b { require body.urgent }')
    assert (finding.code, finding.message) == (
        "W712",
        "guard `late` changes nothing: guard `shut` denies everything there",
    )


def test_the_later_of_two_guards_that_deny_everything_is_reported() -> None:
    policy = 'guard "one" on /u/** { deny }\nguard "two" on /u/** { deny message "closed" }'
    assert [(d.code, d.message) for d in found(policy)] == [
        ("W712", "guard `two` changes nothing: guard `one` denies everything there")
    ]


def test_a_repeated_block_is_reported_at_the_second() -> None:
    (finding,) = found("anyone { may GET /a }\nanyone { may GET /a }")
    assert (finding.code, finding.message, finding.hint) == (
        "W714",
        "`anyone` repeats an earlier block",
        "remove it",
    )
    assert finding.span.start > finding.related[0].span.start


def test_a_copy_of_a_guard_under_another_name_is_reported() -> None:
    policy = 'guard "one" on /used { require body.urgent }\nguard "two" on /used { require body.urgent }'
    assert [(d.code, d.message) for d in found(policy)] == [("W714", "guard `two` is a copy of guard `one`")]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("anyone { may GET /a   may POST /a }", id="another method"),
        pytest.param("anyone { may GET /a when body.count > 3   may GET /a when body.urgent }", id="unrelated"),
        pytest.param("anyone { may GET /a   may GET /** when body.urgent }", id="wider on a condition"),
        pytest.param('anyone { may GET /a }\nuser "a" { may GET /a }', id="another block"),
        pytest.param('guard "g" { deny when body.count > 100   deny when body.count > 10 }', id="its own reason first"),
        pytest.param('guard "g" { deny when body.note == "a"   deny when body.note is present }', id="unknown acts"),
        pytest.param('guard "g" { deny when body.urgent   audit full when body.urgent }', id="denials are audited"),
        pytest.param('guard "g" { deny when body.count > 5   confirm by user when body.count > 3 }', id="asks earlier"),
        pytest.param('guard "g" on /used { deny when body.urgent }\nguard "h" on /used { warn }', id="more"),
        pytest.param('guard "shut" on /a/b { deny }\nanyone { may GET /a/** }', id="a door that is only partly shut"),
        pytest.param('guard "shut" on /a/** except /a/b { deny }\nanyone { may GET /a/b }', id="an exception"),
        pytest.param('guard "g" { deny when approval.granted or body.count > 3 }', id="an ordinary deny"),
        pytest.param('guard "g" { require body.note is absent or size(body.note) < 9 }', id="optional facts"),
        pytest.param('guard "g" { deny when (body.note else "") == "" }', id="a default"),
        pytest.param('guard "g" { require body.plan in [free, team] or time within 08:00..18:00 "UTC" }', id="windows"),
    ],
)  # fmt: skip
def test_a_rule_with_effect_is_not_reported(policy: str) -> None:
    assert told(policy) == []


def test_hundreds_of_ordinary_rules_are_not_reported() -> None:
    policy = "".join(
        f'agent "a{i}" {{ issued by acme  acts alone  may GET /a/{i}/** when body.count > {i} and body.urgent }}\n'
        f'guard "g{i}" on /a/{i}/** {{ deny when body.amount > {i} }}\n'
        for i in range(300)
    )
    assert told(policy) == []

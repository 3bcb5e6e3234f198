"""Tables and matrices stand for cases: which they are, in which order, with which facts."""

import sys

from policyengine.check import check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testcases import Case

WORLD = """
entity user { roles: set<string>  tenant: string }
entity invoice { tenant: string }
facts on POST /a { body.amount: number }
anyone { may GET /a, POST /a, GET /i/{id: invoice} when resource.tenant == "x" }
"""


def cases(inside: str) -> tuple[Case, ...]:
    module, findings = parse(Source("p.policy", f'{WORLD}\ntest "t" {{\n{inside}\n}}'))
    assert module
    assert not findings
    checked = check([module])
    assert checked.ok, [finding.render() for finding in checked.diagnostics]
    return checked.cases


def told(inside: str) -> list[str]:
    return [f"{case.request} => {case.expected.text}" for case in cases(inside)]


TABLE = """given user "alice" given body.amount 1
cases {
  | request         | user.tenant | body.amount | =>              |
  | GET /a          | "x"         | 5           | allow           |
  | GET|POST /a     | absent      | absent      | deny by default |
  | ACTION view invoice "4" | "y" | "7"         | not allow       |
}"""


def test_a_table_row_becomes_a_case_for_each_of_its_methods() -> None:
    assert told(TABLE) == [
        'GET /a { user.tenant: "x", body.amount: 5 } => allow',
        "GET /a { user.tenant: absent, body.amount: absent } => deny by default",
        "POST /a { user.tenant: absent, body.amount: absent } => deny by default",
        'ACTION view invoice "4" { user.tenant: "y", body.amount: "7" } => not allow',
    ]


def test_the_cells_of_a_table_row_become_facts() -> None:
    first, second, *_, last = cases(TABLE)
    assert (first.attributes, first.question["body"]) == ({("user", "tenant"): "x"}, {"amount": 5})
    assert (second.attributes, second.question["body"]) == ({("user", "tenant"): None}, {"amount": None})
    assert (last.question["body"], last.question["resource"]) == ({"amount": "7"}, {"type": "invoice", "id": "4"})


def test_each_table_row_has_its_own_sequence() -> None:
    assert [case.sequence for case in cases(TABLE + "GET /a => allow GET /a => allow")] == [1, 2, 2, 3, 0, 0]


def test_a_case_has_the_span_of_its_row() -> None:
    assert [case.span.line for case in cases(TABLE)] == [11, 12, 12, 13]


MATRIX = """cases for user.id in ["alice", "bob"], request in [GET /a, TOOL x/y] {
  given user.tenant "x"
  | "alice" | GET /a   | allow |
  | "bob"   | TOOL x/y | confirm |
  otherwise deny
}"""


def test_a_matrix_has_a_case_for_every_combination_with_the_last_axis_varying_first() -> None:
    assert told(MATRIX) == [
        'GET /a { user.id: "alice" } => allow',
        'TOOL x/y { user.id: "alice" } => deny',
        'GET /a { user.id: "bob" } => deny',
        'TOOL x/y { user.id: "bob" } => confirm',
    ]
    assert [case.question["user"] for case in cases(MATRIX)] == [{"id": "alice"}] * 2 + [{"id": "bob"}] * 2


def test_a_matrix_case_has_the_span_of_its_row_or_of_its_choice() -> None:
    assert [case.span.text for case in cases(MATRIX)] == [
        '| "alice" | GET /a   | allow |', "TOOL x/y", "GET /a", '| "bob"   | TOOL x/y | confirm |',
    ]  # fmt: skip


def test_requests_in_a_matrix_run_in_order_for_every_combination() -> None:
    inside = "cases for n in [1, 2] { GET /a { request.size: n } => allow after 5s POST /a => allow }"
    found = cases(inside)
    assert [(case.request, case.sequence) for case in found] == [
        ("GET /a { n: 1, request.size: n }", 1), ("POST /a { n: 1 }", 1),
        ("GET /a { n: 2, request.size: n }", 2), ("POST /a { n: 2 }", 2),
    ]  # fmt: skip
    assert [case.now.second for case in found] == [0, 5, 0, 5]


def test_a_matrix_variable_is_substituted_in_givens_values_paths_and_ids() -> None:
    shots = 'GET /i/{id} => deny ACTION view invoice "{id}" => deny'
    inside = f'cases for id in ["42", "4 3"] {{ given user.roles ["r", id] {shots} }}'
    http, action, *others = cases(inside)
    assert http.question["request"] == {"method": "GET", "path": "/i/42"}
    assert http.attributes == {("user", "roles"): ("r", "42")}
    assert action.question["resource"] == {"type": "invoice", "id": "42"}
    assert others[0].question["request"] == {"method": "GET", "path": "/i/4 3"}


def test_an_absent_choice_removes_the_fact() -> None:
    found = cases("given request.size 5 cases for request.size in [absent, 1] { GET /a => allow }")
    assert [case.question["request"] for case in found] == [
        {"size": None, "method": "GET", "path": "/a"}, {"size": 1, "method": "GET", "path": "/a"},
    ]  # fmt: skip


def test_any_becomes_a_case_for_each_of_its_methods() -> None:
    assert told("ANY /b => deny") == [f"{method} /b => deny" for method in ("GET", "POST", "PUT", "PATCH", "DELETE")]


def test_an_incomplete_matrix_is_rejected() -> None:
    module, _ = parse(
        Source("p.policy", WORLD + 'test "t" { cases for request in [GET /a, GET /b] { | GET /a | allow | } }')
    )
    assert module
    assert not check([module]).ok


def test_every_case_of_a_skipped_test_keeps_its_reason() -> None:
    inside = 'GET /a => allow skip "later" cases { | request | => | | GET /a | allow | } GET /a => allow'
    assert [case.skip for case in cases(inside)] == ["later"] * 3


def test_checking_a_test_takes_work_linear_in_its_requests() -> None:
    """Counted, not timed: a test with very many requests is read once, not once for each of them."""

    def calls(count: int) -> int:
        made = 0

        def counted(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        text = "\n".join(f"GET /a {{ body.amount: {number} }} => allow" for number in range(count))
        module, _ = parse(Source("p.policy", f'{WORLD}\ntest "t" {{\n{text}\n}}'))
        assert module
        sys.setprofile(counted)
        try:
            check([module])
        finally:
            sys.setprofile(None)
        return made

    assert calls(400) < 3 * calls(200)

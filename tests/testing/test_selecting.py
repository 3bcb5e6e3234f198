"""Which tests are asked."""

from policyengine.testing import Selection, collect
from tests.testing.running import checked

TEXT = """package shop
anyone { may GET /a, GET /b }
guard "small" on GET /b { deny when request.size > 9 }
test "about a" { GET /a => allow }
test "about b" { GET /a => allow   GET /b => allow }
test "odd" { GET "/b/../a" => deny by malformed_path }
"""
NAMED = 'test "named" { GET /a { request.size: 10 } => not deny by "small" }'


def names(selection: Selection) -> list[str]:
    return list(dict.fromkeys(case.test for case in collect(checked(TEXT), selection)))


def test_an_empty_selection_selects_all_tests() -> None:
    assert names(Selection()) == ["about a", "about b", "odd"]


def test_a_rule_selects_tests_with_a_request_its_guard_covers() -> None:
    assert [case.request for case in collect(checked(TEXT), Selection(rule="small"))] == ["GET /a", "GET /b"]


def test_a_rule_selects_tests_that_expect_it_by_name() -> None:
    text = TEXT + 'test "named" { GET /c => deny by default   GET /b { request.size: 10 } => deny by "small" }'
    assert [case.test for case in collect(checked(text), Selection(rule="small"))][-2:] == ["named", "named"]


def test_an_unknown_rule_selects_nothing() -> None:
    assert names(Selection(rule="smal")) == []


def test_a_package_selects_its_own_tests() -> None:
    other = 'package bank\nanyone { may GET /c }\ntest "money" { GET /c => allow }'
    found = collect(checked(TEXT, other), Selection(package="bank"))
    assert [case.test for case in found] == ["money"]


def test_selection_criteria_are_combined_with_and() -> None:
    assert names(Selection(name="ABOUT", rule="small")) == ["about b"]
    assert names(Selection(name="about a", rule="small")) == []
    assert names(Selection(package="bank")) == []

"""How results are told: to people and to programs."""

from tests.testing.running import report

TEXT = """anyone { may GET /a }
guard "small" on GET /a { deny when request.size > 9 message "too large" }
test "sizes" {
  GET /a { request.size: 5 }  => allow
  GET /a { request.size: 10 } => allow
}
test "later" { skip "not now" GET /a => deny }
test "odd" { GET /a { user.id: absent, request.headers: { a: 1 } } => deny by "small" }
"""
FAILURE = """0.policy:5:3: failed test "sizes"
    GET /a { request.size: 10 } => allow
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  request:  GET /a { request.size: 10 }
  expected: allow
  actual:   deny by guard "small"
            deny by guard "small": too large  (0.policy:2)
  walk:
    ✗ identity"""


def test_a_failure_shows_its_place_request_expected_and_actual_outcome_and_walk() -> None:
    assert report(TEXT).results[1].render().startswith(FAILURE.removesuffix("✗ identity"))


def test_a_failure_counts_many_unrelated_rules_instead_of_listing_them() -> None:
    doors = "anyone { may GET /a " + "".join(f"may GET /b/{n} " for n in range(1200)) + "}"
    few = "".join(f'guard "g{n}" on GET /b/{n} {{ deny }} ' for n in range(3))
    text = report(f'{doors} {few} test "t" {{ GET /a => deny }}').results[0].render()
    assert "      ✓ may GET /a — anyone  (0.policy:1)\n      · 1,200 others — not about this endpoint\n" in text
    assert text.count("not about this endpoint  (0.policy:1)") == 3  # so few are listed


def test_a_report_shows_failures_and_a_summary() -> None:
    text = report(TEXT).render()
    assert text.endswith("\n\n2 passed, 1 failed, 1 skipped")
    assert text.startswith('0.policy:5:3: failed test "sizes"')
    assert "odd" not in text


def test_a_verbose_report_lists_every_request() -> None:
    text = report(TEXT).render(verbose=True)
    assert text.startswith(
        "main: sizes\n"
        "  ✓ GET /a { request.size: 5 } => allow\n"
        "  ✗ GET /a { request.size: 10 } => allow\n\n"
        "main: later\n"
        "  · GET /a => deny — skipped: not now\n"
    )


def test_a_test_with_an_impossible_setup_reports_the_problem_and_is_not_ok() -> None:
    found = report('entity user { a: string } anyone { may GET /a } test "t" { GET /a { user.a: "" } => allow }')
    assert found.results[0].render().endswith("problem:  `user.a` is given, but there is no user")
    assert not found.ok


def test_a_report_without_failures_is_ok() -> None:
    assert not report(TEXT).ok
    assert report('anyone { may GET /a } test "t" { GET /a => allow }').ok
    assert report("anyone { may GET /a }").summary == "no tests"


def test_the_json_report_counts_and_lists_the_requests() -> None:
    found = report(TEXT)
    data = found.to_dict()
    results = data.pop("results")
    assert data == {"revision": found.revision, "passed": 2, "failed": 1, "errored": 0, "undecided": 0, "skipped": 1}
    assert results[0] == {
        "test": "sizes", "package": "main", "number": 1, "file": "0.policy", "line": 4, "column": 3,
        "request": "GET /a { request.size: 5 }", "expected": "allow", "status": "passed", "outcome": "allow",
    }  # fmt: skip
    assert results[2]["reason"] == "not now"


def test_a_json_failure_contains_the_decision_and_the_walk() -> None:
    failed = report(TEXT).to_dict()["results"][1]
    assert failed["decision"]["reasons"][0]["rule"] == "small"
    assert [gate["text"] for gate in failed["walk"]["gates"]][-1] == "guards"

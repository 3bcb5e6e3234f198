"""What `policyengine test` measures beside the results: coverage, faults, and claims about all requests."""

import sys
from xml.etree import ElementTree

import pytest

DOOR = "anyone { may GET /health }\n"
GUARD = 'guard "small" on GET /health { deny when request.size > 9 }\n'
SMALL = 'test "small" {\n  GET /health { request.size: 9 } => allow\n}\n'
WHOLE = """test "sizes" {
  GET /health { request.size: 9 }  => allow
  GET /health { request.size: 10 } => deny by "small"
  GET /health                      => deny by "small"
  POST /health                     => deny by identity
  GET /healthy                     => deny by identity
  GET /                            => deny by identity
}
"""
ELSEWHERE = """
# survives: widen a place in guard "small": guard "small" { deny when request.size > 9 } because no other door is open
# survives: widen a place in guard "small": guard "small" on ANY /health { deny when request.size > 9 } because the same
# survives: widen a place in guard "small": guard "small" on GET /* { deny when request.size > 9 } because the same
# survives: widen a place in guard "small": guard "small" on GET /** { deny when request.size > 9 } because the same
"""


@pytest.fixture
def policy(run, tmp_path):
    def write(text: str) -> None:
        (tmp_path / "some.policy").write_text(text)

    return write


# ── Coverage ──────────────────────────────────────────────────────────────────────────────────


def test_coverage_names_untested_conditions(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("1 passed\n\ncoverage ")
    assert "`request.size > 9` was never true" in ended.out


def test_coverage_below_fail_under_exits_with_1(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--fail-under", "90")
    assert ended.code == 1
    assert ended.err.startswith("error: coverage is ")
    assert ended.err.endswith(" %, below 90 %\n")


def test_coverage_at_fail_under_exits_with_0(run, policy):
    policy(DOOR + GUARD + WHOLE)
    ended = run("test", "some.policy", "--fail-under", "100")
    assert (ended.code, ended.err) == (0, "")
    assert "coverage 100 %" in ended.out


def test_the_fail_under_option_overrides_the_settings_file(run, policy, tmp_path):
    policy(DOOR + GUARD + SMALL)
    (tmp_path / "policyengine.toml").write_text("[coverage]\nfail_under = 99\n")
    assert run("test", "some.policy").code == 0
    assert run("test", "some.policy", "--coverage").code == 1
    assert run("test", "some.policy", "--fail-under", "10").code == 0


def test_coverage_is_written_as_html_and_lcov(run, policy, tmp_path):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage-html", "pages", "--coverage-lcov", "lcov.info")
    assert ended.code == 0
    assert "<html" in (tmp_path / "pages/index.html").read_text()
    assert "SF:some.policy" in (tmp_path / "lcov.info").read_text()


@pytest.mark.parametrize("option", ["--coverage-html", "--coverage-lcov"])
def test_coverage_that_cannot_be_written_is_reported_in_one_message(run, policy, tmp_path, option):
    policy(DOOR + GUARD + SMALL)
    (tmp_path / "file").write_text("")
    ended = run("test", "some.policy", option, "file/below")
    assert (ended.code, ended.err) == (1, "error: `file/below`: not a directory\n")


def test_coverage_covers_several_policy_sets_together(run, tmp_path):
    for name, tests in (("one", WHOLE), ("two", SMALL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".policyroot").touch()
        (tmp_path / name / f"{name}.policy").write_text(DOOR + GUARD + tests)
    ended = run("test", tmp_path, "--coverage")
    assert ended.code == 0
    assert "two/two.policy" in ended.out
    assert "was never true" in ended.out


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def test_a_surviving_mutant_exits_with_1_and_is_shown_as_a_diff(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--mutate")
    assert ended.code == 1
    assert "-" + GUARD.rstrip() in ended.out
    assert "survived" in ended.out.splitlines()[-1]


def test_mutation_passes_if_no_unexplained_mutant_survives(run, policy):
    policy(DOOR + GUARD + WHOLE + ELSEWHERE)
    ended = run("test", "some.policy", "--mutate")
    assert ended.out.splitlines()[-1].endswith("score 100 %")
    assert ended.code == 0


def test_the_mutants_option_limits_the_number_of_mutants(run, policy):
    policy(DOOR + GUARD + SMALL)
    first, second = (run("test", "some.policy", "--mutants", "2", "--seed", "7").out for _ in range(2))
    assert first == second
    assert "2 mutants of " in first
    assert "(seed 7)" in first


def test_no_mutants_are_tried_if_tests_fail(run, policy):
    policy(DOOR + GUARD + SMALL.replace("allow", "deny"))
    ended = run("test", "some.policy", "--mutate")
    assert (ended.code, ended.err) == (1, "note: no faults were tried, because tests fail\n")


# ── For programs ──────────────────────────────────────────────────────────────────────────────


def test_json_output_contains_coverage_and_mutation(run, policy):
    policy(DOOR + GUARD + SMALL)
    data = run("test", "some.policy", "--coverage", "--mutate", "--format", "json").json
    assert data["coverage"]["seen"] < data["coverage"]["total"]
    assert data["mutation"]["survived"] > 0


def test_a_junit_report_on_stdout_stays_valid_with_coverage(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage", "--format", "junit")
    assert ElementTree.fromstring(ended.out).get("tests") == "1"
    assert "coverage " in ended.err


# ── Claims ────────────────────────────────────────────────────────────────────────────────────


def test_a_property_that_holds_passes(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 9 => not allow }\n')
    ended = run("test", "some.policy", "-v")
    assert (ended.code, ended.err) == (0, "")
    assert "✓ forall request where request.size > 9 => not allow" in ended.out


def test_a_violated_property_fails_and_prints_a_regression_test(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 8 => not allow }\n')
    ended = run("test", "some.policy")
    assert ended.code == 1
    assert ended.out.endswith("\n1 failed\n")
    assert "as a test:" in ended.out
    assert "given request { size: 9 }\n      GET /health => not allow" in ended.out


def test_a_property_without_matching_requests_is_undecided_and_fails(run, policy):
    policy(DOOR + 'test "claim" { forall request where request.size > 9 and request.size < 9 => not allow }\n')
    ended = run("test", "some.policy")
    assert (ended.code, ended.out.splitlines()[-1]) == (1, "1 undecided")


def test_the_same_seed_generates_the_same_requests(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 8 => not allow }\n')
    first, second = (run("test", "some.policy", "--seed", "3", "--format", "json").json for _ in range(2))
    assert first == second


def test_a_property_without_hypothesis_reports_what_to_install(run, policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    policy(DOOR + 'test "claim" { forall request => not confirm }\n')
    ended = run("test", "some.policy")
    assert (ended.code, ended.out) == (2, "")
    assert "hint: in a checkout of policyengine: `pip install -c constraints.txt '.[testing]'`" in ended.err


def test_with_exitfirst_a_failed_test_skips_properties(run, policy):
    policy(DOOR + GUARD + SMALL.replace("allow", "deny") + 'test "claim" { forall request => not confirm }\n')
    assert run("test", "some.policy", "-x").out.splitlines()[-1] == "1 failed"

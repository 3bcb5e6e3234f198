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


def test_coverage_names_what_no_test_shows(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("1 passed\n\ncoverage ")
    assert "`request.size > 9` was never true" in ended.out


def test_too_little_coverage_fails_and_says_so(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--fail-under", "90")
    assert ended.code == 1
    assert ended.err.startswith("error: coverage is ")
    assert ended.err.endswith(" %, below 90 %\n")


def test_enough_coverage_passes(run, policy):
    policy(DOOR + GUARD + WHOLE)
    ended = run("test", "some.policy", "--fail-under", "100")
    assert (ended.code, ended.err) == (0, "")
    assert "coverage 100 %" in ended.out


def test_what_is_enough_may_stand_in_the_projects_file_and_an_option_goes_before_it(run, policy, tmp_path):
    policy(DOOR + GUARD + SMALL)
    (tmp_path / "policyengine.toml").write_text("[coverage]\nfail_under = 99\n")
    assert run("test", "some.policy").code == 0
    assert run("test", "some.policy", "--coverage").code == 1
    assert run("test", "some.policy", "--fail-under", "10").code == 0


def test_coverage_is_written_as_pages_and_for_lcov(run, policy, tmp_path):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage-html", "pages", "--coverage-lcov", "lcov.info")
    assert ended.code == 0
    assert "<html" in (tmp_path / "pages/index.html").read_text()
    assert "SF:some.policy" in (tmp_path / "lcov.info").read_text()


@pytest.mark.parametrize("option", ["--coverage-html", "--coverage-lcov"])
def test_coverage_that_cannot_be_written_is_one_message(run, policy, tmp_path, option):
    policy(DOOR + GUARD + SMALL)
    (tmp_path / "file").write_text("")
    ended = run("test", "some.policy", option, "file/below")
    assert (ended.code, ended.err) == (1, "error: `file/below`: not a directory\n")


def test_several_sets_are_covered_as_one(run, tmp_path):
    for name, tests in (("one", WHOLE), ("two", SMALL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".policyroot").touch()
        (tmp_path / name / f"{name}.policy").write_text(DOOR + GUARD + tests)
    ended = run("test", tmp_path, "--coverage")
    assert ended.code == 0
    assert "two/two.policy" in ended.out
    assert "was never true" in ended.out


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def test_a_fault_that_no_test_notices_fails_and_is_shown_as_a_difference(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--mutate")
    assert ended.code == 1
    assert "-" + GUARD.rstrip() in ended.out
    assert "survived" in ended.out.splitlines()[-1]


def test_tests_that_notice_every_fault_but_those_explained_pass(run, policy):
    policy(DOOR + GUARD + WHOLE + ELSEWHERE)
    ended = run("test", "some.policy", "--mutate")
    assert ended.out.splitlines()[-1].endswith("score 100 %")
    assert ended.code == 0


def test_only_so_many_faults_are_tried_on_request(run, policy):
    policy(DOOR + GUARD + SMALL)
    first, second = (run("test", "some.policy", "--mutants", "2", "--seed", "7").out for _ in range(2))
    assert first == second
    assert "2 mutants of " in first
    assert "(seed 7)" in first


def test_no_fault_is_made_in_what_does_not_pass_its_tests(run, policy):
    policy(DOOR + GUARD + SMALL.replace("allow", "deny"))
    ended = run("test", "some.policy", "--mutate")
    assert (ended.code, ended.err) == (1, "note: no faults were tried, because tests fail\n")


# ── For programs ──────────────────────────────────────────────────────────────────────────────


def test_json_holds_all_that_was_measured(run, policy):
    policy(DOOR + GUARD + SMALL)
    data = run("test", "some.policy", "--coverage", "--mutate", "--format", "json").json
    assert data["coverage"]["seen"] < data["coverage"]["total"]
    assert data["mutation"]["survived"] > 0


def test_a_report_for_programs_on_stdout_stays_one(run, policy):
    policy(DOOR + GUARD + SMALL)
    ended = run("test", "some.policy", "--coverage", "--format", "junit")
    assert ElementTree.fromstring(ended.out).get("tests") == "1"
    assert "coverage " in ended.err


# ── Claims ────────────────────────────────────────────────────────────────────────────────────


def test_a_claim_that_holds_passes(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 9 => not allow }\n')
    ended = run("test", "some.policy", "-v")
    assert (ended.code, ended.err) == (0, "")
    assert "✓ forall request where request.size > 9 => not allow" in ended.out


def test_a_claim_that_does_not_hold_fails_with_a_test_to_keep(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 8 => not allow }\n')
    ended = run("test", "some.policy")
    assert ended.code == 1
    assert ended.out.endswith("\n1 failed\n")
    assert "as a test:" in ended.out
    assert "given request { size: 9 }\n      GET /health => not allow" in ended.out


def test_a_claim_about_hardly_any_request_is_undecided_and_fails(run, policy):
    policy(DOOR + 'test "claim" { forall request where request.size > 9 and request.size < 9 => not allow }\n')
    ended = run("test", "some.policy")
    assert (ended.code, ended.out.splitlines()[-1]) == (1, "1 undecided")


def test_the_same_seed_draws_the_same(run, policy):
    policy(DOOR + GUARD + 'test "claim" { forall request where request.size > 8 => not allow }\n')
    first, second = (run("test", "some.policy", "--seed", "3", "--format", "json").json for _ in range(2))
    assert first == second


def test_a_claim_without_hypothesis_says_what_to_install(run, policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    policy(DOOR + 'test "claim" { forall request => not confirm }\n')
    ended = run("test", "some.policy")
    assert (ended.code, ended.out) == (2, "")
    assert "hint: in a checkout of policyengine: `pip install -c constraints.txt '.[testing]'`" in ended.err


def test_the_first_failure_ends_the_run_before_claims(run, policy):
    policy(DOOR + GUARD + SMALL.replace("allow", "deny") + 'test "claim" { forall request => not confirm }\n')
    assert run("test", "some.policy", "-x").out.splitlines()[-1] == "1 failed"

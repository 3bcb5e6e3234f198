"""`policyengine test`: the tests of policies, as a command; how tests run is tested with the runner."""

import pytest

DOOR = "anyone { may GET /health }\n"
PASSES = 'test "health is open" {\n  GET /health => allow\n}\n'
FAILS = 'test "health is shut" {\n  GET /health => deny by default\n}\n'


@pytest.fixture
def policy(run, tmp_path):
    def write(text: str) -> None:
        (tmp_path / "some.policy").write_text(text)

    return write


def test_passing_tests_exit_with_0(run, policy):
    policy(DOOR + PASSES)
    ended = run("test", "some.policy")
    assert (ended.code, ended.err) == (0, "")
    assert "1 passed" in ended.out


def test_a_failing_test_exits_with_1_and_shows_request_expectation_and_decision(run, policy):
    policy(DOOR + PASSES + FAILS)
    ended = run("test", "some.policy")
    assert ended.code == 1
    for shown in ("some.policy:6", "health is shut", "GET /health", "deny by default", "allow", "1 passed", "1 failed"):
        assert shown in ended.out


def test_a_policy_without_tests_exits_with_3(run, policy):
    policy(DOOR)
    ended = run("test", "some.policy")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith("error: no tests")


def test_a_filter_without_matching_tests_exits_with_3(run, policy):
    policy(DOOR + PASSES)
    assert run("test", "some.policy", "-k", "refund").code == 3


def test_a_filter_skips_tests_that_do_not_match(run, policy):
    policy(DOOR + PASSES + FAILS)
    assert run("test", "some.policy", "-k", "open").code == 0


def test_a_policy_with_errors_exits_with_4(run, policy):
    policy("anyone { may GET /health when nonsense }\n" + PASSES)
    ended = run("test", "some.policy")
    assert (ended.code, ended.out) == (4, "")
    assert "some.policy:1:31: E" in ended.err


def test_verbose_lists_passing_tests(run, policy):
    policy(DOOR + PASSES)
    assert "health is open" not in run("test", "some.policy").out
    assert "health is open" in run("test", "some.policy", "-v").out


@pytest.mark.parametrize(("text", "code"), [(PASSES, 0), (FAILS, 1)])
def test_results_as_json_are_one_document(run, policy, text, code):
    policy(DOOR + text)
    ended = run("test", "some.policy", "--format", "json")
    assert ended.code == code
    assert isinstance(ended.json, dict)


def test_a_policy_without_tests_is_reported_as_json(run, policy):
    policy(DOOR)
    ended = run("test", "some.policy", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (3, "tests")


def test_a_policy_with_errors_is_reported_as_json_with_diagnostics(run, policy):
    policy("anyone { may GET /health when nonsense }\n")
    error = run("test", "some.policy", "--format", "json").json["error"]
    assert error["kind"] == "policy"
    assert error["diagnostics"][0]["line"] == 1


def test_each_policy_set_of_a_folder_is_tested_separately(run, policy, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / ".policyroot").touch()
        (tmp_path / "sets" / name / "p.policy").write_text(
            f'anyone {{ may GET /{name} }}\ntest "t" {{ GET /one => allow }}'
        )
    ended = run("test", "sets")
    assert ended.code == 1
    assert ended.out.endswith("1 passed, 1 failed\n")
    assert run("check", "sets").out == "no mistakes in 2 files\n"
    assert "this folder has several sets of policies" in run("serve", "sets").err


def test_exitfirst_stops_at_the_first_failure(run, policy):
    policy(DOOR + FAILS + PASSES)
    ended = run("test", "some.policy", "-x")
    assert (ended.code, ended.out.splitlines()[-1]) == (1, "1 failed")
    assert run("test", "some.policy").out.splitlines()[-1] == "1 passed, 1 failed"


@pytest.mark.parametrize("jobs", ["0", pytest.param("2", marks=pytest.mark.deep)])
def test_parallel_jobs_give_the_same_output(run, policy, jobs):
    policy(DOOR + "".join(PASSES.replace("is open", f"is open {number}") for number in range(100)) + FAILS)
    alone, together = run("test", "some.policy"), run("test", "some.policy", "-j", jobs)
    assert (together.code, together.out, together.err) == (alone.code, alone.out, alone.err)


GUARD = 'guard "small" on GET /health { notify "ops" }\n'


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (["--rule", "smal"], "error: no tests: there is no guard `smal`\nhint: did you mean `small`?\n"),
        (["--package", "mian"], "error: no tests: there is no package `mian`\nhint: did you mean `main`?\n"),
        (["--rule", "small", "-k", "x"], "error: no tests with `x` in their names and about the guard `small`\n"),
    ],
)
def test_selections_without_matching_tests_name_the_misspelling(run, policy, wishes, message):
    policy(DOOR + GUARD + PASSES)
    ended = run("test", "some.policy", *wishes)
    assert (ended.code, ended.out, ended.err) == (3, "", message)


def test_the_rule_option_selects_tests_of_a_guard(run, policy):
    policy(DOOR + GUARD + PASSES + 'test "elsewhere" { GET /x => deny }\n')
    assert run("test", "some.policy", "--rule", "small", "-v").out.endswith("/health => allow\n\n1 passed\n")


@pytest.mark.parametrize(
    ("form", "start"), [("junit", "<?xml"), ("tap", "TAP version 14"), ("github", "1 passed"), ("text", "1 passed")]
)
def test_a_report_goes_to_stdout_or_to_the_output_file(run, policy, tmp_path, form, start):
    policy(DOOR + PASSES)
    assert run("test", "some.policy", "--format", form).out.startswith(start)
    ended = run("test", "some.policy", "--format", form, "-o", "report")
    assert (ended.code, ended.out) == (0, "1 passed\n")
    assert (tmp_path / "report").read_text().startswith(start)


def test_a_report_that_cannot_be_written_is_reported_in_one_message(run, policy):
    policy(DOOR + PASSES)
    ended = run("test", "some.policy", "--format", "junit", "-o", "no/such/folder.xml")
    assert (ended.code, ended.err) == (
        1,
        "error: `no/such/folder.xml`: no such file or directory\nhint: paths are relative to the current folder\n",
    )

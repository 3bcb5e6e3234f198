"""`policyengine record`: what it writes, what it never overwrites, and what it says."""

import pytest

from policyengine.audit import DecisionLog
from policyengine.engine import Engine


@pytest.fixture
def log(project, tmp_path):
    """A log of a few decisions of the project."""
    path = tmp_path / "decisions.jsonl"
    engine = Engine.load(project, entities=project / "entities.json", log=DecisionLog(path))
    engine.decide((project / "request.json").read_bytes())
    for _ in range(2):
        engine.decide({"request": {"method": "GET", "path": "/nowhere"}})
    return path


def test_the_tests_it_writes_pass(run, project, log):
    before = run("test", project, "--format", "json").json["passed"]
    ended = run("record", project, "--log", log, "-o", project / "regression_test.policy")
    assert ended.code == 0
    assert "2 tests with 2 requests, of 3 decisions, 1 decision like others" in ended.out
    after = run("test", project, "--format", "json").json
    assert (after["passed"], after["failed"]) == (before + 2, 0)
    assert run("fmt", "--check", project).code == 0


def test_it_replaces_what_it_wrote(run, project, log):
    target = project / "regression_test.policy"
    run("record", project, "--log", log, "-o", target)
    first = target.read_text()
    assert run("record", project, "--log", log, "-o", target).code == 0
    assert target.read_text() == first


def test_it_never_replaces_what_somebody_wrote(run, project, log):
    target = project / "my_test.policy"
    target.write_text("# mine\n")
    ended = run("record", project, "--log", log, "-o", target)
    assert (ended.code, target.read_text()) == (1, "# mine\n")
    assert "was not written by `record`: it stays" in ended.err


def test_a_file_that_engines_would_load_is_refused(run, project, log):
    ended = run("record", project, "--log", log, "-o", project / "regression.policy")
    assert ended.code == 2
    assert "name it `regression_test.policy`" in ended.err


def test_without_a_file_it_prints_the_tests_alone(run, project, log):
    ended = run("record", project, "--log", log)
    assert ended.out.startswith("# Written by `policyengine record`")
    assert "2 tests with 2 requests" in ended.err


def test_json_says_what_was_done(run, project, log):
    said = run("record", project, "--log", log, "--format", "json").json
    assert said.pop("text").startswith("# Written by")
    assert said == {
        "tests": 2, "cases": 2, "decisions": 3, "merged": 1, "over": 0, "changed": [], "left_out": [], "unsaid": [],
    }  # fmt: skip


def test_only_some_outcomes_are_recorded(run, project, log):
    said = run("record", project, "--log", log, "--format", "json", "--only", "deny", "--limit", "1").json
    assert (said["cases"], said["decisions"]) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log", "missing.jsonl"], "`missing.jsonl`: no such file"),
        (["--log", "empty.jsonl"], "no decisions in `empty.jsonl` to make tests of"),
        (["--log", "empty.jsonl", "--only", "throttle"], "no decisions with the outcome throttle in"),
    ],
)
def test_nothing_to_record_is_an_error(run, project, tmp_path, arguments, message):
    (tmp_path / "empty.jsonl").touch()
    ended = run("record", project, *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert message in ended.err


def test_a_policy_with_mistakes_is_told(run, project, log):
    (project / "bad.policy").write_text("nonsense")
    ended = run("record", project, "--log", log)
    assert ended.code == 1
    assert "the policy cannot be used" in ended.err


def test_lines_that_cannot_be_read_are_told(run, project, log):
    log.write_bytes(log.read_bytes() + b'{"v":1,"ti')
    ended = run("record", project, "--log", log)
    assert ended.code == 0
    assert "skipped the last line: it was cut off" in ended.err

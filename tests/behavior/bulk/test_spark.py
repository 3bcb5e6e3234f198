"""Learning on a local session of Spark gives the same as in a thread, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SITE = ROOT / f".venv-spark/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def environment():
    """The environment in which a process finds Spark."""
    if not (SITE / "pyspark").is_dir():
        pytest.skip("pyspark is missing: `make .venv-spark/.installed` installs it")
    if shutil.which("java") is None:
        pytest.skip("java is missing")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, SITE)))}


def run(environment, *arguments, cwd=ROOT):
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def compared(environment):
    """What is the same in each case."""
    done = run(environment, "-m", "tests.behavior.bulk.spark_cases")
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout)


SAME = ("rows", "model", "requests", "tally", "day", "messages")


def test_two_servers_whose_lines_are_damaged(compared):
    case = compared["two_servers"]
    assert all(case[name] for name in SAME)
    assert case["learned"] > 200


def test_a_log_of_which_a_part_is_known(compared):
    case = compared["continued"]
    assert all(case[name] for name in SAME)
    assert case["known"] > 20


def test_days_that_do_not_follow_each_other(compared):
    case = compared["days_that_return"]
    assert all(case[name] for name in SAME)
    assert case["late"] > 20


def test_groups_in_the_logs_of_two_servers(compared):
    case = compared["groups_of_two_servers"]
    assert all(case[name] for name in SAME)
    assert case["groups"] == [4]
    assert case["known"] > 20


def test_groups_on_days_that_do_not_follow_each_other(compared):
    case = compared["groups_on_days_that_return"]
    assert all(case[name] for name in SAME)
    assert case["groups"] == [3]


def test_the_command_learns_on_spark(environment, tmp_path):
    from policyengine.behavior.folder import BehaviorFolder
    from tests.behavior.bulk.logs import make_moving_lines, write_lines

    write_lines(tmp_path / "log.jsonl", make_moving_lines(1, days=2))
    (tmp_path / "work.policy").write_text(
        'language 1\npackage work\nissuer acme { url "https://a.example"  scopes none }\n'
        'agent "*" { issued by acme  acts alone  may GET /data/** }\n'
        'profile "work" for agent "*" { run by task.id within 5m  ready 3 runs, 2d }\n'
        'rate "r" per cluster.id on /** { 60/1m floor 1/1m  clamp 2/1m when behavior.deviation > 0.99 }\n'
    )
    BehaviorFolder(tmp_path / "spark")
    shutil.copytree(tmp_path / "spark", tmp_path / "thread")  # with the same key
    for place in ("spark", "thread"):
        done = run(
            environment, "-m", "policyengine", "behavior", "learn", "log.jsonl", "-o", place, "--on", place,
            "--policies", "work.policy", "--since", "2026-01-05T12:00Z", "--until", "2026-01-06T12:00Z", cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3_000:]
        assert "learned" in done.stdout
        assert "outside the period" in done.stdout.splitlines()[0]
    for name in ("rows", "recent", *(f"models/{each.name}" for each in (tmp_path / "thread" / "models").iterdir())):
        assert (tmp_path / "spark" / name).read_bytes() == (tmp_path / "thread" / name).read_bytes()


def test_an_error_of_spark_is_one_message(environment, tmp_path):
    (tmp_path / "log.jsonl").touch()
    learn = ("-m", "policyengine", "behavior", "learn", "log.jsonl", "-o", "learned", "--on", "spark")
    done = run(environment | {"MASTER": "nonsense"}, *learn, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot learn with `--on spark`: Spark did not start" in done.stderr
    assert "Traceback" not in done.stderr

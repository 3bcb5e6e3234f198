"""`policyengine behavior evaluate`."""

import shutil
from datetime import timedelta

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question, work
from tests.behavior.traffic import write_lines, write_traffic

WORDS = ("behavior", "evaluate", "--train", "train.jsonl", "--test", "test.jsonl", "--labels", "labels.jsonl")
FIGURES = {"auc", "ties", "tpr_at_1", "tpr_at_0_1", "declared", "observed", "events_until_detection"}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traffic")
    write_traffic(folder, later=5)
    return folder


@pytest.fixture
def world(template, run, tmp_path):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_figures_are_given_for_each_fact_and_each_kind(run, world):
    ended = run(*WORDS, "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json
    assert (found["normal"], found["kinds"]) == (120, {"flood": 5, "probe": 5, "scan": 5})
    assert list(found["facts"]) == [
        "burst",
        "novelty",
        "new_endpoints",
        "new_shapes",
        "error_rate",
        "deviation",
        "trust_loss",
    ]
    for one in (*found["facts"].values(), found["all"]):
        assert set(one) >= FIGURES
        assert {name for name in FIGURES if one[name] is None} == set(one["reasons"])
        assert set(one["kinds"]) == {"flood", "probe", "scan"}
    assert found["facts"]["burst"]["kinds"]["flood"]["tpr_at_1"] == 1
    assert found["all"]["tpr_at_1"] == 1


def test_the_text_says_what_the_figures_lack(run, world):
    ended = run(*WORDS)
    assert "tested on 1,300 events: 120 normal runs, 15 others (5 flood, 5 probe, 5 scan)\n" in ended.out
    assert "- `at 0.1 %`: needs 1,000 normal runs, and there are 120\n" in ended.out
    assert "- `declared` of burst: the training has too few days of callers to calibrate it\n" in ended.out
    assert next(line for line in ended.out.splitlines() if line.startswith("flood  burst")).split()[2] == "1.000"


def test_policies_say_the_class_and_its_settings(run, world):
    policy = POLICY.replace("report-", "bot-").replace("ready 20 runs, 3d", "ready 20 runs, 3d  burst once in 20d")
    (world / "p.policy").write_text(policy)
    found = run(*WORDS, "--policies", "p.policy", "--format", "json").json
    assert found["facts"]["burst"]["declared"] == pytest.approx(1 / 20)


def test_doubts_are_said(run, world):
    write_lines(world / "labels.jsonl", [{"run": "none", "label": "odd"}, {"run": "flood-14", "label": "flood"}])
    write_lines(world / "train.jsonl", [])
    ended = run(*WORDS)
    assert ended.code == 0
    assert "no class is ready after the training" in ended.err
    assert "runs of the test traffic that have no label, and are not counted: 134" in ended.err
    assert "labels of runs that the test traffic does not have: 1" in ended.err
    assert "- `auc`: there are no normal runs\n" in ended.out


def test_a_bad_line_is_one_message(run, world):
    with (world / "test.jsonl").open("a") as file:
        file.write("nonsense\n")
    ended = run(*WORDS, "--format", "json")
    assert ended.code == 1
    assert ended.json["error"]["kind"] == "events"
    assert ended.json["error"]["message"].startswith("`test.jsonl`, line 1301: ")
    assert len(ended.err.splitlines()) == 2


@pytest.mark.parametrize("file", ["train.jsonl", "test.jsonl", "labels.jsonl"])
def test_a_missing_file_is_one_message(run, world, file):
    (world / file).unlink()
    ended = run(*WORDS)
    assert ended.code == 1
    assert f"error: `{file}`: no such file or directory" in ended.err


def test_decision_logs_are_evaluated(run, world):
    (world / "p.policy").write_text(POLICY)
    clock = FakeClock()
    for name, days in (("train.jsonl", range(10)), ("test.jsonl", range(10, 12))):
        log = DecisionLog(world / f"{name}.log", seal=None)
        engine = Engine.from_text(POLICY, clock=clock, log=log)
        work(engine, clock, days=days)
        for number in range(60 if days[0] else 0):
            clock.now = BEGIN + timedelta(days=12, hours=9, seconds=number / 10)
            engine.decide(question(path="/data/x", task="flood"))
        log.close()
    labels = [{"run": f"{day}/{hour}", "label": "normal", "issuer": "idp", "agent": f"report-{agent}"}
              for day in range(10, 12) for hour in range(9, 15) for agent in range(4)]  # fmt: skip
    write_lines(world / "labels.jsonl", [*labels, {"run": "flood", "label": "flood"}])
    words = ["--train", "train.jsonl.log", "--test", "test.jsonl.log", "--labels", "labels.jsonl"]
    ended = run("behavior", "evaluate", *words, "--policies", "p.policy", "--format", "json")
    assert (ended.json["normal"], ended.json["kinds"], ended.json["unlabelled"]) == (48, {"flood": 1}, 0)
    assert ended.json["facts"]["burst"]["auc"] == 1
    assert ended.err == ""
    without = run("behavior", "evaluate", *words, "--format", "json")
    assert without.json["normal"] == 48  # with the class of the lines
    assert without.err == (
        "warning: the settings of `profile reporting` are not known, and the defaults are used: name the policies with "
        "`--policies`\n"
    )


def test_a_file_that_is_neither_a_log_nor_events_is_one_message(run, world):
    (world / "train.jsonl").write_text("package x\n")
    ended = run(*WORDS)
    assert ended.code == 1
    assert ended.err.startswith("error: `train.jsonl`, line 1: ")

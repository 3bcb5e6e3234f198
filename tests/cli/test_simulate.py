"""`policyengine simulate`: traffic against rates and budgets, and how that ends."""

import json
from xml.etree import ElementTree

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.simulation import WORKFLOWS
from tests.pages import EXAMPLES
from tests.simulation.playing import MAIL, POLICY, SEARCH

ACCOUNTS = """language 1
issuer acme { url "https://login.acme.example"  audience "api"  scopes none }
entity account { balance: int }
agent "worker*" {
  issued by acme
  acts alone
  credential { kind in [jwt]  lifetime <= 15m }
  may GET /accounts/{id: account} when resource.balance > 1
}
"""
TESTS = """
test "a worker searches" {
  given agent "worker" from acme
  given credential { kind: jwt, lifetime: 10m }
  GET /search    => allow
  DELETE /search => deny by default
}
"""


@pytest.fixture
def policy(run, tmp_path):
    (tmp_path / "calls.policy").write_text(POLICY + TESTS)
    (tmp_path / "search.json").write_text(json.dumps(SEARCH))
    return "calls.policy"


def lines(path, *several):
    path.write_text("".join(json.dumps(one) + "\n" for one in several))
    return path.name


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_workflow_plays_the_allowed_request_of_the_policy_tests(run, policy, name):
    ended = run("simulate", policy, "--workflow", name, "--for", "20s", "--rate", "5/s", "--format", "json")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.json["played"]["workflow"] == name
    assert ended.json["events"] > 0
    assert ended.json["outcomes"]["deny"] == 0
    assert ended.json["limits"][-1]["rule"] == "searches"
    assert ended.json["limits"][-1]["asked"] == ended.json["events"]


def test_simulate_prints_the_played_traffic_and_its_limits(run, policy):
    ended = run("simulate", policy, "--workflow", "steady", "--rate", "2/s", "--for", "1m")
    assert ended.code == 0
    assert "steady: evenly spaced requests; 2/s for 1m, one caller, seed 0" in ended.out
    assert "requests: the allowed request of the policy's tests" in ended.out
    assert 'rate "searches": 60/1m burst 5' in ended.out


def test_simulate_names_the_fact_that_distinguishes_callers(run, policy):
    ended = run("simulate", policy, "--workflow", "lockstep", "--callers", 4, "--rate", "4/s", "--for", "1m")
    assert "4 callers that differ by `agent.id`" in ended.out


def test_simulate_plays_the_requests_of_a_file(run, policy, tmp_path):
    lines(tmp_path / "two.jsonl", {**SEARCH, "options": {"consume": False}}, MAIL)
    ended = run("simulate", policy, "--workflow", "steady", "-r", "two.jsonl", "--for", "1m", "--format", "json")
    found = {one["rule"]: one for one in ended.json["limits"]}
    assert (found["mail"]["asked"], found["mail"]["throttled"]) == (30, 27)
    assert (found["searches"]["asked"], found["searches"]["remaining"]) == (30, 4)


def test_simulate_plays_a_trace(run, policy, tmp_path):
    name = lines(tmp_path / "trace.jsonl", *({"at": second / 10, **SEARCH} for second in range(100)))
    ended = run("simulate", policy, "--trace", name, "--format", "json", "--start", "2027-01-01", "--every", "5s")
    assert ended.json["outcomes"] == {"allow": 14, "confirm": 0, "throttle": 86, "deny": 0}
    assert [one["at"] for one in ended.json["series"]] == ["2027-01-01T00:00:00Z", "2027-01-01T00:00:05Z"]
    assert ended.json["callers"] == [{"agent": "worker", "issuer": "acme", "user": None, "throttled": 86}]


def test_simulate_does_not_replace_its_trace(run, policy, tmp_path):
    name = lines(tmp_path / "trace.jsonl", {"at": 0, **SEARCH})
    ended = run("simulate", policy, "--trace", name, "-o", name)
    assert (ended.code, "is not replaced" in ended.err) == (2, True)


def test_simulate_reads_a_trace_from_stdin(run, policy):
    ended = run("simulate", policy, "--trace", "-", stdin=json.dumps({"at": 0, **SEARCH}).encode())
    assert ended.code == 0
    assert ended.out.startswith("1 request of ")


def test_simulate_uses_the_entities_of_the_policy_tests(run, project):
    ended = run("simulate", project, "--workflow", "steady", "--for", "1m", "--format", "json")
    assert ended.json["outcomes"]["allow"] == 60


@pytest.mark.parametrize("name", ["chart.svg", "chart.html", "chart.json", "chart.txt"])
def test_the_suffix_of_the_simulate_output_selects_its_format(run, policy, tmp_path, name):
    ended = run("simulate", policy, "--workflow", "steady", "--for", "1m", "-o", name)
    assert (ended.code, ended.out) == (0, f"wrote {name}\n")
    text = (tmp_path / name).read_text()
    match name.rpartition(".")[2]:
        case "svg":
            assert ElementTree.fromstring(text).tag.endswith("svg")
        case "html":
            assert text.startswith("<!doctype html>")
        case "json":
            assert json.loads(text)["events"] == 60
        case _:
            assert text.startswith("steady: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either `--trace` or `--workflow`"),
        (["--workflow", "steady", "--trace", "x"], "give either `--trace` or `--workflow`"),
        (["--workflow", "steady", "--rate", "fast"], "`--rate fast` is not a rate"),
        (["--workflow", "steady", "--rate", "0/s"], "`--rate 0/s` is not a rate"),
        (["--workflow", "steady", "--for", "long"], "`--for long` is not a duration"),
        (["--workflow", "steady", "--for", "0s"], "`--for 0s` must be longer than zero"),
        (["--workflow", "steady", "--start", "now"], "`--start now` is not a time"),
        (["--workflow", "steady", "--every", "1ms"], "`--every` is too short for the duration of the traffic"),
        (["--workflow", "steady", "--rate", "1000000/s"], "that would be 3,600,000,000 requests"),
        (["--workflow", "many", "--vary", "nobody"], "`--vary nobody`: callers cannot differ by this fact"),
    ],
)
def test_wrong_usage_exits_with_2(run, policy, options, message):
    ended = run("simulate", policy, *options)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"at": 0, "usr": {}}', "`trace.jsonl:1` at `usr`: unknown member `usr`"),
        ('{"at": "noon"}', "`trace.jsonl:1` at `at`: `noon` is not a time"),
        ("{", "`trace.jsonl:1`: not valid JSON at column 2: the text ends too early"),
        ("\n", "no request in `trace.jsonl`"),
    ],
)
def test_simulate_reports_an_invalid_trace_in_one_message(run, policy, tmp_path, text, message):
    (tmp_path / "trace.jsonl").write_text(text)
    ended = run("simulate", policy, "--trace", "trace.jsonl", "--format", "json")
    assert ended.code == 1
    assert ended.err.startswith(f"error: {message}\n")
    assert ended.json["error"]["kind"] == "request"
    assert ended.json["error"]["file"] == "trace.jsonl"


def test_simulate_reports_a_missing_trace(run, policy):
    ended = run("simulate", policy, "--trace", "nowhere.jsonl")
    assert (ended.code, ended.err) == (
        1,
        "error: `nowhere.jsonl`: no such file or directory\nhint: paths are relative to the current folder\n",
    )


def test_simulate_needs_a_request_if_the_policy_has_no_tests(run, tmp_path):
    (tmp_path / "bare.policy").write_text(POLICY)
    ended = run("simulate", "bare.policy", "--workflow", "steady")
    assert ended.code == 1
    assert "the policy has no tests with a request that is allowed" in ended.err
    assert "--request" in ended.err


def test_simulate_invents_no_callers_that_the_policy_does_not_allow(run, tmp_path):
    (tmp_path / "one.policy").write_text((POLICY + TESTS).replace('"worker*"', '"worker"'))
    ended = run("simulate", "one.policy", "--workflow", "many")
    assert ended.code == 1
    assert "the policies allow this request for no other agent or user" in ended.err
    assert run("simulate", "one.policy", "--workflow", "many", "--vary", "body.tenant", "--for", "1m").code == 0


def test_simulate_rejects_a_policy_with_mistakes(run, tmp_path):
    (tmp_path / "bad.policy").write_text("language 1\nanyone { may GET a }\n")
    ended = run("simulate", "bad.policy", "--workflow", "steady", "-r", "x.json")
    assert ended.code == 1
    assert "the policy cannot be used" in ended.err


def test_simulate_says_that_it_does_not_use_the_entities_of_a_log(run, policy, tmp_path):
    (tmp_path / "rows.json").write_text('{"entities": [{"type": "account", "id": "7", "attributes": {"balance": 5}}]}')
    (tmp_path / "accounts.policy").write_text(ACCOUNTS)
    log = DecisionLog(tmp_path / "d.jsonl", seal=None)
    engine = Engine.load(tmp_path / "accounts.policy", entities=tmp_path / "rows.json", log=log)
    assert engine.decide({**SEARCH, "request": {"method": "GET", "path": "/accounts/7"}}).allowed
    log.close()
    note = "the entities of the log are not used: name the entities to use with `--entities`"
    assert note in run("simulate", policy, "--trace", "d.jsonl").out


# ── Learned behavior ──────────────────────────────────────────────────────────────────────────

LEARNING = POLICY.replace("60/1m burst 5", "60/1m burst 5   clamp 1/1m when not behavior.ready")
NEUTRAL = "the policies read learned facts, which are neutral here: `--learn` learns them from the traffic"
REPEATED = {"at": 0, **SEARCH, "repeat": [{"every": "2s", "times": 3}, {"every": "1d", "times": 2}]}


def test_simulate_says_that_learned_facts_are_neutral_without_learn(run, tmp_path):
    (tmp_path / "calls.policy").write_text(LEARNING)
    name = lines(tmp_path / "trace.jsonl", REPEATED)
    ended = run("simulate", "calls.policy", "--trace", name)
    assert (ended.code, f"note: {NEUTRAL}\n" in ended.out) == (0, True)
    assert "learned" not in run("simulate", "calls.policy", "--trace", name, "--format", "json").json


def test_simulate_learns_from_the_traffic(run, tmp_path):
    (tmp_path / "calls.policy").write_text(LEARNING)
    name = lines(tmp_path / "trace.jsonl", REPEATED)
    ended = run("simulate", "calls.policy", "--trace", name, "--learn")
    assert ended.code == 0
    assert "6 requests of `trace.jsonl`" in ended.out
    assert "learned: 0 of 1 caller ready" in ended.out
    assert NEUTRAL not in ended.out


def test_simulate_learns_with_the_entities_of_the_tests(run, tmp_path):
    (tmp_path / "calls.policy").write_text(LEARNING + TESTS)
    ended = run("simulate", "calls.policy", "--workflow", "steady", "--for", "1m", "--learn", "--format", "json")
    assert (ended.code, ended.json["learned"]["callers"]) == (0, 1)


def test_simulate_says_that_nothing_is_learned_if_no_policy_reads_it(run, policy):
    ended = run("simulate", policy, "--workflow", "steady", "--for", "1m", "--learn")
    assert "nothing is learned: the policies read no learned facts" in ended.out
    assert "ready" not in ended.out


@pytest.mark.parametrize("name", WORKFLOWS)
def test_callers_follow_the_declared_order_of_calls(run, name):
    example = str(EXAMPLES / "fingerprint")
    length = {"daily": "3h", "runaway": "10m"}.get(name, "1h")
    ended = run(
        "simulate", example, "--workflow", name, "--rate", "5/m", "--for", length, "--learn", "--format", "json"
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["events"] > 100
    assert ended.json["outcomes"]["deny"] == 0


def test_the_traffic_is_described_as_ordered(run):
    ended = run("simulate", str(EXAMPLES / "fingerprint"), "--workflow", "steady", "--for", "1m", "--learn")
    assert "requests: 5 allowed requests of the policy's tests, in the declared order\n" in ended.out

"""`policyengine why`: a decision of a log, explained as it was."""

import json
import re
from datetime import timedelta

import pytest

from policyengine.audit import DecisionLog
from policyengine.audit.seal.options import SealOptions
from policyengine.engine import Engine
from policyengine.evaluator import is_compiled, walker


@pytest.fixture
def log(tmp_path):
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def decided(project, log):
    """A decision of the project's own request, with a secret in it."""
    engine = Engine.load(project, entities=project / "entities.json", log=DecisionLog(log))
    question = json.loads((project / "request.json").read_bytes())
    question["request"]["headers"] = {"authorization": "Bearer s3cret"}
    return engine.decide(question)


def test_why_shows_the_walk_and_the_redacted_facts(run, project, log, decided):
    ended = run("why", decided.id, project, "--log", log)
    assert ended.code == 0
    first, left_out, outcome, *walk = ended.out.splitlines()
    assert first.startswith(f"{decided.id} at 2")
    assert left_out.startswith("  redacted from the log: request.headers.authorization (fingerprint ")
    assert outcome.startswith(str(decided.outcome))
    assert any(line.startswith("✓ identity") for line in walk)
    assert "s3cret" not in ended.out


def test_a_decision_id_is_case_insensitive(run, project, log, decided):
    assert run("why", decided.id.lower(), project, "--log", log).code == 0


def test_why_shows_both_decisions_if_other_policies_decide_differently(run, project, log, decided):
    other = project.parent / "other"
    other.mkdir()
    (other / "other.policy").write_text("anyone { may GET /health }\n")
    ended = run("why", decided.id, other, "--log", log)
    assert ended.code == 3
    assert f"decided by {decided.revision}" in ended.out
    assert "other policies" in ended.out
    assert "the decision differs:\ndeny by" in ended.out


def test_why_reports_that_other_policies_decide_the_same(run, project, log, decided):
    (project / "more.policy").write_text(
        'package documents\nguard "elsewhere" on DELETE /elsewhere { deny message "no" }\n'
    )
    ended = run("why", decided.id, project, "--log", log)
    assert ended.code == 0
    assert "the decision is the same:" in ended.out


def test_why_shows_the_record_without_policies(run, log, decided):
    ended = run("why", decided.id, "--log", log)
    assert ended.code == 0
    assert f"revision: {decided.revision}" in ended.out
    assert "pass the policies as arguments to see the explanation" in ended.out


@pytest.mark.skipif(is_compiled(), reason="compiled functions call each other directly")
def test_why_reports_the_decision_of_the_evaluator_or_an_error(run, project, log, decided, monkeypatch):
    no_caller_is_identified(monkeypatch)
    ended = run("why", decided.id, project, "--log", log)
    assert ended.code == 1
    assert "the evaluator decides `" in ended.err
    assert "but the specification decides `" in ended.err


def no_caller_is_identified(patch):
    plain = walker.pass_grants

    def passed(st, rules, found):
        plain(st, rules, found)
        found.identified, found.closed = False, None
        return False

    patch.setattr(walker, "pass_grants", passed)


def test_why_json_contains_the_record_and_the_walk(run, project, log, decided):
    said = run("why", decided.id, project, "--log", log, "--format", "json").json
    assert said["recorded"] == decided.to_dict()
    assert (said["same"], said["same_revision"], said["call"]) == (True, True, "decide")
    assert said["decision"]["outcome"] == decided.outcome
    assert said["walk"]["gates"]
    assert [one["fact"] for one in said["redacted"]] == ["request.headers.authorization"]


def test_an_unknown_decision_id_is_an_error(run, project, log, decided):
    ended = run("why", "01M87PQTAN82Y0JAKZA7JY4YXN", project, "--log", log, "--format", "json")
    assert ended.code == 1
    assert ended.json["error"]["kind"] == "log"
    assert "no decision `01M87PQTAN82Y0JAKZA7JY4YXN`" in ended.err


def test_why_reports_a_missing_log(run, project):
    ended = run("why", "01M87PQTAN82Y0JAKZA7JY4YXN", project, "--log", "missing.jsonl")
    assert (ended.code, "`missing.jsonl`: no such file" in ended.err) == (1, True)


def test_why_reports_a_log_without_the_entities_of_a_decision(run, project, log, decided):
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if not line.startswith('{"v":2,"directory"')))
    ended = run("why", decided.id, project, "--log", log)
    assert ended.code == 1
    assert "the log does not contain the entities" in ended.err


def test_why_reports_an_observed_decision(run, project, log):
    from datetime import UTC, datetime, timedelta

    from policyengine.engine.observe_mode import Observe

    engine = Engine.load(project, entities=project / "entities.json", log=DecisionLog(log))
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    given = engine.decide({**json.loads((project / "request.json").read_bytes()), "agent": {"id": "x", "issuer": "y"}})
    assert given.observed
    ended = run("why", given.id, project, "--log", log)
    assert (ended.code, ended.out.splitlines()[0].partition("Z: ")[2]) == (
        0,
        "deny, but the request was only observed, and passed",
    )
    assert run("why", given.id, project, "--log", log, "--format", "json").json["observed"] is True


THROTTLING = """language 1
package shop
issuer acme { url "https://login.example"   scopes none }
agent "bot" { issued by acme   acts alone   may GET /v1/orders }
rate "few" per agent.id on GET /v1/orders { 1/1m }
"""


@pytest.fixture
def throttled(tmp_path, log):
    (tmp_path / "shop.policy").write_text(THROTTLING)
    engine = Engine.load(tmp_path / "shop.policy", log=DecisionLog(log))
    question = {"request": {"method": "GET", "path": "/v1/orders"}, "agent": {"id": "bot", "issuer": "acme"}}
    return [engine.decide(question) for _ in range(2)][1]


@pytest.mark.parametrize("policies", [[], ["shop.policy"]])
def test_why_prints_a_throttled_decision_as_json(run, log, throttled, policies):
    ended = run("why", throttled.id, *policies, "--log", log, "--format", "json")
    assert ended.code == 0
    assert ended.json["recorded"] == throttled.to_dict()
    assert ended.json["recorded"]["outcome"] == "throttle"


@pytest.mark.parametrize("written", [{"sort_keys": True}, {"separators": (", ", " : ")}, {"ensure_ascii": False}])
def test_why_and_record_read_a_log_whose_json_was_reformatted(run, project, log, decided, written):
    before = run("why", decided.id, project, "--log", log, "--format", "json").json
    lines = [json.dumps({"host": "a1", **json.loads(line)}, **written) for line in log.read_text().splitlines()]
    log.write_text("".join(f"{line}\n" for line in lines))
    assert run("why", decided.id, project, "--log", log, "--format", "json").json == before
    ended = run("record", project, "--log", log)
    assert (ended.code, "left out" in ended.out) == (0, False)


# ── The seal ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def sealed(project, log):
    """Two decisions of a sealed log; and a third one that is not sealed."""
    question = json.loads((project / "request.json").read_bytes())
    ids = []
    for count, seal in ((2, SealOptions(interval=3_600)), (1, None)):
        writer = DecisionLog(log, seal=seal)
        engine = Engine.load(project, entities=project / "entities.json", log=writer)
        ids += [engine.decide(question).id for _ in range(count)]
        writer.close()
    return ids


def test_why_shows_the_proof_of_a_sealed_record(run, log, sealed):
    ended = run("why", sealed[0], "--log", log)
    lines = ended.out.splitlines()
    place = lines.index("✓ sealed as line 2 of 3")
    assert (ended.code, lines[place + 1].startswith("  checkpoint signed by ")) == (0, True)
    assert lines[place + 2].startswith("  the key is from the folder of the seal itself")
    ended = run("why", sealed[0], "--log", log, "--key", f"{log}.tlog/vkey", "--checkpoint", f"{log}.tlog/checkpoint")
    assert (ended.code, "✓ sealed as line 2 of 3" in ended.out, "from the folder" in ended.out) == (0, True, False)


def test_why_json_contains_the_proof(run, project, log, sealed):
    found = run("why", sealed[1], project, "--log", log, "--format", "json").json["seal"]
    assert (found["status"], found["entry"], found["key_given"], found["problem"]) == ("sealed", 2, False, None)
    assert (found["checkpoint"]["size"], len(found["keys"])) == (3, 1)
    assert found["checkpoint_file_time"].endswith("Z")


def test_why_reports_a_record_that_is_not_sealed_yet(run, project, log, sealed):
    ended = run("why", sealed[2], project, "--log", log)
    assert (ended.code, ended.out.splitlines()[-1]) == (
        0, "not sealed yet: 1 line after the last checkpoint, which covers 3"
    )  # fmt: skip
    ended = run("why", sealed[2], project, "--log", log, "--key", f"{log}.tlog/vkey")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "✗ this record is not sealed")


def test_why_ends_with_1_if_the_seal_does_not_contain_the_record(run, project, log, sealed):
    log.write_bytes(log.read_bytes().replace(b'"outcome":"allow"', b'"outcome":"deny"', 1))
    for arguments in ([], [project]):
        ended = run("why", sealed[0], *arguments, "--log", log)
        assert (ended.code, ended.out.splitlines()[0]) == (
            1,
            "✗ the seal of the log does not prove this record: the seal does not contain this line: "
            "it was changed or added; line 2 of the seal is a different line",
        )
        found = run("why", sealed[0], *arguments, "--log", log, "--format", "json")
        assert (found.code, found.json["seal"]["status"]) == (1, "broken")


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--key", "KEY"], 1), (["--seal", "elsewhere"], 0)])
def test_why_reports_a_log_without_a_seal(run, log, sealed, options, code):
    options = [str(log.with_name("vkey")) if option == "KEY" else option for option in options]
    log.with_name(f"{log.name}.tlog").rename(log.with_name("moved"))
    log.with_name("vkey").write_bytes((log.with_name("moved") / "vkey").read_bytes())
    ended = run("why", sealed[0], "--log", log, *options)
    assert (ended.code, "the log has no seal: `" in ended.out) == (code, True)


def test_why_parses_only_the_lines_that_it_needs(run, project, log, sealed, monkeypatch):
    from policyengine.audit import reader

    parsed, parse = [], reader.parse_entry
    monkeypatch.setattr(reader, "parse_entry", lambda *arguments: parsed.append(arguments[0]) or parse(*arguments))
    assert run("why", sealed[1], "--log", log).code == 0
    assert parsed == [3]


def test_why_states_where_a_run_left_the_declared_order(run, tmp_path, log):
    from tests.behavior.test_call_orders import AUTH, DENY, HEAD, PROFILE, REPORT, question

    policy, decisions = tmp_path / "order.policy", DecisionLog(log)
    policy.write_text(HEAD + PROFILE + DENY)
    engine = Engine.load(policy, log=decisions)
    assert engine.decide(question(AUTH)).allowed
    denied = engine.decide(question(REPORT))
    decisions.close()
    ended = run("why", denied.id, policy, "--log", log)
    assert ended.code == 0
    note = "after POST /auth, the order expects GET /data/** or TOOL files/read, not POST /report"
    assert f"behavior.sequence = false — {note}\n" in ended.out
    policy.write_text(HEAD + PROFILE.replace("POST /auth ->", "") + DENY)
    ended = run("why", denied.id, policy, "--log", log)
    assert "behavior.sequence = false\n" in ended.out  # the recorded step is one of another order


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    """The policy, the log and the decisions of a run with an unusual request, after ten usual days."""
    from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question, work

    folder, clock = tmp_path_factory.mktemp("odd"), FakeClock()
    policy, decisions = folder / "odd.policy", DecisionLog(folder / "decisions.jsonl", seal=None)
    policy.write_text(POLICY)
    engine = Engine.load(policy, clock=clock, log=decisions)
    work(engine, clock, range(12))
    clock.now = BEGIN + timedelta(days=12, hours=9)
    found = []
    for path in ("/data/x", "/secret/1", "/data/x"):
        found.append(engine.decide(question(path=path, task="odd")))
        clock.now += timedelta(seconds=10)
    decisions.close()
    return policy, decisions.path, found


def test_why_names_the_request_with_which_the_deviation_rose(run, odd_run):
    policy, log, (first, odd, last) = odd_run
    ended = run("why", last.id, policy, "--log", log)
    assert ended.code == 0, ended.err
    assert re.search(
        r"  behavior\.deviation = 0\.\d+, at request 3 of its run: it rose most, from 0\.\d+ to 0\.9\d+, "
        rf"with request 2, GET /secret/\{{id\}} \({odd.id}\)\n",
        ended.out,
    )
    ended = run("why", odd.id, policy, "--log", log)
    assert ", at request 2 of its run: it rose most, from " in ended.out
    assert ", with this request\n" in ended.out
    assert "behavior.deviation = 0," not in run("why", first.id, policy, "--log", log).out


def test_why_json_contains_the_request_with_which_the_deviation_rose(run, odd_run):
    policy, log, (_, odd, last) = odd_run
    found = json.loads(run("why", last.id, policy, "--log", log, "--format", "json").out)["deviation"]
    assert (found["request"], found["complete"]) == (3, True)
    assert (found["rise"]["id"], found["rise"]["endpoint"], found["rise"]["request"]) == (odd.id, "GET /secret/{id}", 2)
    assert found["rise"]["from"] < found["rise"]["to"] <= found["value"]


def test_why_says_that_the_log_lacks_requests_of_the_run(run, odd_run, tmp_path):
    policy, log, (_, _, last) = odd_run
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[-2:]))
    ended = run("why", last.id, policy, "--log", short)
    assert (
        ", at request 2 of its run in this log, which does not have all requests of the run: it rose most" in ended.out
    )

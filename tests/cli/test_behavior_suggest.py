"""`policyengine behavior suggest`: what it proposes, writes and refuses."""

import json
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog, read_records
from policyengine.runtime.decision import Outcome

BEGIN = datetime(2027, 1, 4, 9, tzinfo=UTC)
POLICY = """language 1
package acme.reports
scope reports.write as "write:reports" { POST /auth   GET /data/**   POST /report }
issuer acme { url "https://login.acme.example" }
agent "report-*" { issued by acme   acts alone   credential { kind in [jwt] }   may reports.write }
"""
GUARD = 'guard "order" on reports.write { deny when not behavior.sequence }\n'
CALLS = ("POST /auth", "GET /data/7", "GET /data/8", "POST /report")


def write_events(file, *, runs=20, calls=CALLS, agents=("report-a", "report-b"), odd=(), issuer="acme"):
    lines = []
    for number in range(runs + len(odd)):
        at = BEGIN + timedelta(hours=number)
        for place, call in enumerate(calls if number < runs else odd[number - runs]):
            lines.append({
                "at": (at + timedelta(seconds=place)).isoformat(), "issuer": issuer,
                "agent": agents[number % len(agents)],
                "run": f"run-{number}", "endpoint": call,
            })  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def write_log(file, policy, *, runs=20, calls=CALLS, odd=(), task=True):
    now, log = BEGIN, DecisionLog(file, seal=None)
    engine = Engine.from_text(policy, clock=lambda: now, log=log)
    for number in range(runs + len(odd)):
        for call in calls if number < runs else odd[number - runs]:
            now += timedelta(seconds=5)
            method, path = call.split()
            engine.decide({
                "agent": {"id": f"report-{'ab'[number % 2]}", "issuer": "acme", "groups": ["writers"]},
                "credential": {"kind": "jwt", "lifetime": "30m", "scopes": ["write:reports"]},
                "request": {"method": method, "path": path}, **({"task": {"id": f"t{number}"}} if task else {}),
            })  # fmt: skip
        now += timedelta(hours=1)
    log.close()
    return file


@pytest.fixture
def events(tmp_path):
    return write_events(tmp_path / "events.jsonl")


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "reports.policy"
    file.write_text(POLICY)
    return file


def profile_of(text):
    return text[text.index("\nprofile ") + 1 :].split("}\n")[0]


# ── What it proposes ─────────────────────────────────────────────────────────────────────────


def test_a_log_yields_a_profile_in_the_package_of_the_policies(run, tmp_path, policy):
    log = write_log(tmp_path / "log.jsonl", POLICY, odd=[("GET /data/1", "POST /auth")])
    ended = run("behavior", "suggest", log, "--policies", policy)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        "language 1\npackage acme.reports\n\n"
        "# 20 of 21 runs (95.2 %), of 2 of 2 agents, follow this order;\n"
        "# 97 % of runs with the same calls in another order would leave it.\n"
        "# The most frequent runs that leave it:\n"
        '# - 1 run of "report-a": "GET /data/** -> POST /auth", from call 1 on, such as "'
    )
    assert profile_of(ended.out) == (
        'profile "report" for agent "report-*" {\n'
        "  expect POST /auth -> GET /data/** repeated -> POST /report\n"
        "  run by task.id\n"
    )
    assert '# guard "order" { warn when not behavior.sequence }' in ended.out
    assert "test " not in ended.out


def test_a_guard_that_reads_the_order_gets_tests_that_pass(run, tmp_path, policy):
    log = write_log(tmp_path / "log.jsonl", POLICY)
    policy.write_text(POLICY + GUARD)
    ended = run("behavior", "suggest", log, "--policies", policy, "-o", tmp_path / "order.policy")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "profile report: 20 of 20 runs follow POST /auth -> GET /data/** repeated -> POST /report",
        f"wrote {tmp_path / 'order.policy'}: review it, then `policyengine check`",
    ]
    text = (tmp_path / "order.policy").read_text()
    assert 'test "runs of report follow the order" {' in text
    assert 'test "a thief does not know the order of report" {' in text
    assert 'POST /report => deny by "order"' in text
    assert "# guard" not in text
    assert run("check", policy, tmp_path / "order.policy").code == 0
    tested = run("test", policy, tmp_path / "order.policy")
    assert (tested.code, "5 passed" in tested.out) == (0, True), tested.out
    assert run("fmt", "--check", tmp_path / "order.policy").code == 0


@pytest.mark.parametrize(
    ("guard", "refusal"),
    [
        ('{ warn when not behavior.sequence message "odd" }', 'allow with { obligation: "warn*" }'),
        ("{ confirm by user within 5m when not behavior.sequence }", 'confirm by "order"'),
    ],
)
def test_tests_expect_what_the_guard_does(run, tmp_path, policy, events, guard, refusal):
    policy.write_text(
        POLICY.replace('"https://login.acme.example"', '"https://login.acme.example"   scopes none')
        .replace("   credential { kind in [jwt] }   may reports.write", "   may POST /auth, GET /data/**, POST /report")
        .replace('scope reports.write as "write:reports" { POST /auth   GET /data/**   POST /report }\n', "")
        + f'guard "order" on /** {guard}\n'
    )
    ended = run("behavior", "suggest", events, "--policies", policy)
    assert f"=> {refusal}" in ended.out


def test_tests_that_would_fail_are_left_out(run, policy, events):
    policy.write_text(POLICY + GUARD)  # plain events have no credentials, so the policy allows no call
    ended = run("behavior", "suggest", events, "--policies", policy, "--format", "json")
    (found,) = ended.json["suggestions"]
    assert (found["tests"], "test " in ended.json["policy"]) == (False, False)


def test_a_declared_profile_keeps_its_items_and_its_rule(run, tmp_path, policy):
    declared = 'profile "reporting" for agent "report-*" { run by task.id within 10m   burst once in 50d }\n'
    policy.write_text(POLICY + GUARD + declared)
    log = write_log(tmp_path / "log.jsonl", POLICY)
    ended = run("behavior", "suggest", log, "--policies", policy)
    assert profile_of(ended.out) == (
        'profile "reporting" for agent "report-*" {\n'
        "  expect POST /auth -> GET /data/** repeated -> POST /report\n"
        "  run by task.id within 10m\n"
        "  burst once in 50d\n"
    )
    assert '# Use it in place of the profile at "reports.policy:7"' in ended.out
    assert "=> deny by" in ended.out
    out = tmp_path / "order.policy"
    shown = run("behavior", "suggest", log, "--policies", policy, "-o", out).out
    assert "profile reporting is to replace the profile at reports.policy:7" in shown
    policy.write_text(POLICY + GUARD)
    assert run("test", policy, out).code == 0


def test_denied_calls_do_not_count(run, tmp_path, policy):
    calls = ("POST /auth", "GET /secret", "GET /data/7", "GET /secret", "POST /report")
    log = write_log(tmp_path / "log.jsonl", POLICY, calls=calls)
    ended = run("behavior", "suggest", log, "--policies", policy, "--format", "json")
    assert ended.json["suggestions"][0]["expect"] == "POST /auth -> GET /data/** -> POST /report"
    assert ended.json["calls"] == 60


def test_a_log_of_learned_facts_needs_no_policies(run, tmp_path):
    log = write_log(tmp_path / "log.jsonl", POLICY + 'guard "b" on /** { warn when behavior.burst }\n', task=False)
    ended = run("behavior", "suggest", log)
    assert profile_of(ended.out) == (
        'profile "report" for agent "report-*" {\n  expect POST /auth -> GET /data/** repeated -> POST /report\n'
    ), ended.out + ended.err


def test_a_log_that_names_a_profile_needs_no_policies(run, tmp_path):
    profile = 'profile "daily" for agent "report-*" { run by task.id }\n'
    log = write_log(tmp_path / "log.jsonl", POLICY + 'guard "b" on /** { warn when behavior.burst }\n' + profile)
    ended = run("behavior", "suggest", log)
    assert profile_of(ended.out).startswith(
        'profile "daily" for agent "report-*" {\n  expect POST /auth -> GET /data/**'
    )


def test_a_log_without_classes_is_told(run, tmp_path):
    ended = run("behavior", "suggest", write_log(tmp_path / "log.jsonl", POLICY))
    assert ended.code == 0
    assert ended.out == "# No order: the traffic has no allowed calls of agents.\n"
    assert (
        "decisions that do not state the class of their caller (name the policies with `--policies`): 80" in ended.err
    )


def test_without_policies_endpoints_are_those_of_the_events(run, events):
    ended = run("behavior", "suggest", events)
    assert profile_of(ended.out).splitlines()[1] == "  expect POST /auth -> GET /data/7 -> GET /data/8 -> POST /report"


def test_json_has_the_support_and_the_exceptions(run, tmp_path):
    events = write_events(tmp_path / "e.jsonl", runs=40, odd=[("POST /report",), ("POST /report",)])
    ended = run("behavior", "suggest", events, "--format", "json")
    (found,) = ended.json["suggestions"]
    assert found["exceptions"] == [
        {
            "runs": 2, "calls": [{"endpoint": "POST /report", "times": 1}], "length": 1, "follows": 0,
            "agents": ["report-a", "report-b"],
            "agents_in_all": 2, "examples": ["run-40", "run-41"],
        }
    ]  # fmt: skip
    assert {name: found[name] for name in ("profile", "agents_of", "class", "run", "runs", "accepted", "support")} == {
        "profile": "report", "agents_of": 'agent "report-*"', "class": "issuer acme", "run": "run by task.id",
        "runs": 42, "accepted": 40, "support": 0.9524,
    }  # fmt: skip
    assert ended.json["policy"].startswith("language 1\n")


def test_all_runs_are_counted_if_too_many_are_different(run, tmp_path, monkeypatch):
    odd = [(CALLS[0], *CALLS[1:3] * number, CALLS[3]) for number in range(2, 22)]
    events = write_events(tmp_path / "e.jsonl", runs=40, odd=odd)
    whole = run("behavior", "suggest", events, "--format", "json").json["suggestions"]
    monkeypatch.setattr("policyengine.analysis.call_orders.run_collector.MAX_VARIANTS", 8)
    (found,) = run("behavior", "suggest", events, "--format", "json").json["suggestions"]
    assert (found["runs"], found["accepted"], found["complete"], found["followers"]) == (60, 60, 60, 2)
    assert found["expect"] == whole[0]["expect"]


def test_an_order_that_only_the_compared_runs_follow_is_not_proposed(run, tmp_path, monkeypatch):
    odd = [(f"GET /{number}", "POST /auth", f"GET /x/{number}") for number in range(30)]
    events = write_events(tmp_path / "e.jsonl", runs=40, odd=odd)
    monkeypatch.setattr("policyengine.analysis.call_orders.run_collector.MAX_VARIANTS", 1)
    ended = run("behavior", "suggest", events)
    assert ended.out == '# No order for "issuer acme": the best order is followed by 57.1 % of the 70 runs.\n'


def test_an_engine_with_the_suggested_order_denies_exactly_the_exceptions(run, tmp_path, policy):
    random = Random(7)
    runs = [
        [
            "POST /auth",
            *(f"GET /data/{n}" for n in range(random.randint(1, 3))),
            *["POST /report"] * random.randint(0, 1),
        ]
        for _ in range(120)
    ]
    odd = [random.sample(calls, len(calls)) if random.random() < 0.06 else calls for calls in runs]
    log = write_log(tmp_path / "log.jsonl", POLICY, runs=0, odd=odd)
    ended = run("behavior", "suggest", log, "--policies", policy, "--support", "0.9", "--format", "json")
    (found,) = ended.json["suggestions"]
    assert (found["runs"], found["accepted"] < 120) == (120, True)
    again = write_log(tmp_path / "again.jsonl", f"{POLICY}{GUARD}{profile_of(ended.json['policy'])}}}", runs=0, odd=odd)
    denied = {
        record.request["task"]["id"] for record in read_records(again, print) if record.outcome is not Outcome.ALLOW
    }
    assert len(denied) == found["runs"] - found["accepted"]


@pytest.mark.parametrize(
    ("who", "head", "is_guess"),
    [
        ('agent group "writers"', 'group "writers"', False),
        ('agent where agent.id like "report-*"', 'agent "report-*"', True),
    ],
)
def test_the_profile_is_for_the_agents_of_the_block(run, tmp_path, who, head, is_guess):
    text = POLICY.replace('agent "report-*"', who)
    (tmp_path / "p.policy").write_text(text)
    log = write_log(tmp_path / "log.jsonl", text, runs=20)
    ended = run("behavior", "suggest", log, "--policies", tmp_path / "p.policy")
    assert f" for {head} {{" in ended.out
    assert ("# Check that no other agents have such names" in ended.out) is is_guess


def test_blocks_of_single_agents_are_classes_of_their_own(run, tmp_path):
    text = POLICY.replace("report-*", "report-a")
    text += text[text.index("agent ") :].replace("report-a", "report-*")
    (tmp_path / "p.policy").write_text(text)
    log = write_log(tmp_path / "log.jsonl", text, runs=40)
    ended = run("behavior", "suggest", log, "--policies", tmp_path / "p.policy")
    assert ended.out.count("all runs are of one agent") == 2


def test_policies_are_sources(run, tmp_path, policy, events):
    assert run("compile", policy, "-o", tmp_path / "p.policybundle").code == 0
    ended = run("behavior", "suggest", events, "--policies", tmp_path / "p.policybundle")
    assert (ended.code, "policybundle" in ended.err) == (1, True)


# ── What it does not propose ─────────────────────────────────────────────────────────────────


def test_an_empty_log_has_no_order(run, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    ended = run("behavior", "suggest", tmp_path / "empty.jsonl", "-o", tmp_path / "x.policy")
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'x.policy'} is not written\n")
    assert not (tmp_path / "x.policy").exists()
    assert run("behavior", "suggest", tmp_path / "empty.jsonl").out.startswith("# No order: ")


def test_one_agent_is_told(run, tmp_path):
    events = write_events(tmp_path / "e.jsonl", agents=("report-a",))
    ended = run("behavior", "suggest", events)
    assert ended.out == (
        '# No order for "issuer acme": all runs are of one agent, and a habit of one agent is not a habit of the '
        "class.\n"
    )
    assert run("behavior", "suggest", events, "--format", "json").json["without_order"][0]["calls"] == 80


def test_a_profile_of_another_package_is_left_to_it(run, tmp_path, policy, events):
    other = tmp_path / "other.policy"
    other.write_text('language 1\npackage other\nprofile "reporting" for agent "report-*" { run by task.id }\n')
    policy.write_text(POLICY + 'guard "b" on reports.write { warn when behavior.burst }\n')
    ended = run("behavior", "suggest", events, "--policies", policy, "--policies", other)
    assert '# No order for "profile reporting": the policies allow no profile for it.' in ended.out


# ── Hostile names ────────────────────────────────────────────────────────────────────────────

HOSTILE = (
    'x"} guard "a" { deny } #',
    "a\nb",
    "\u202eevil",
    "*",
    "\\",
    "{agent.id}",
    "é" * 300,
    "# lint: allow W911",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_agents_and_runs_are_escaped(run, tmp_path, name):
    events = write_events(
        tmp_path / "e.jsonl", runs=40, agents=(f"{name}1", f"{name}2"), odd=[("POST /report",)], issuer=name
    )
    ended = run("behavior", "suggest", events)
    assert ended.code == 0
    assert "expect POST /auth" in ended.out
    (tmp_path / "out.policy").write_text(ended.out)
    checked = run("check", tmp_path / "out.policy", "--format", "json")
    assert checked.code == 0, ended.out
    assert {one["code"] for one in checked.json["diagnostics"]} <= {"W911", "W914"}
    assert ended.out.count("\nprofile ") == 1
    assert "\nguard " not in ended.out


@pytest.mark.parametrize(
    "name",
    [
        'agent "x" { run within 5m } guard "a" { deny } profile "b" for agent "report-*"',
        'agent "x" # \n',
        'profile a" for agent "x" { run within 5m } #',
        "agent where",
        "# lint: allow W911",
    ],
)
def test_names_of_classes_in_a_log_become_no_policy(run, tmp_path, name):
    log = write_log(tmp_path / "log.jsonl", POLICY + 'guard "b" on /** { warn when behavior.burst }\n')
    text = log.read_text()
    assert '"class":"agent \\"report-*\\""' in text
    log.write_text(text.replace('"class":"agent \\"report-*\\""', f'"class":{json.dumps(name)}'))
    ended = run("behavior", "suggest", log)
    (tmp_path / "out.policy").write_text(ended.out)
    assert run("check", tmp_path / "out.policy").code == 0, ended.out
    assert ended.out.count("\nprofile ") == 1
    assert ' for agent "report-*" {\n' in ended.out
    assert "\nguard " not in ended.out


@pytest.mark.parametrize(
    "endpoint",
    [
        'GET /x } guard "a" { deny',
        "GET /x -> POST /y",
        "GET /x # y",
        "reports.write",
        'TOOL a" }',
        "GET /\u202e",
        "",
        "ÄÖ /x",
    ],
)
def test_names_of_endpoints_become_no_policy(run, tmp_path, endpoint):
    events = write_events(tmp_path / "e.jsonl", runs=40, calls=("POST /auth", endpoint, "GET /x", "POST /report"))
    ended = run("behavior", "suggest", events)
    assert ended.code == 0
    (tmp_path / "out.policy").write_text(ended.out)
    if "profile " in ended.out:
        assert run("check", tmp_path / "out.policy").code == 0, ended.out
        assert "\nguard " not in ended.out
        assert "-> POST /y" not in ended.out
    else:
        assert ended.out.startswith('# No order for "issuer acme": no order of at most 32 steps')


def test_a_tool_with_an_odd_name_is_quoted(run, tmp_path):
    events = write_events(tmp_path / "e.jsonl", calls=("TOOL github/search", "TOOL odd name", "TOOL github/close"))
    ended = run("behavior", "suggest", events)
    assert 'expect TOOL github/search -> TOOL "odd name" -> TOOL github/close' in ended.out
    (tmp_path / "out.policy").write_text(ended.out)
    assert run("check", tmp_path / "out.policy").code == 0


# ── What it refuses ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("support", ["0", "0.49", "1.01", "nan"])
def test_the_support_is_a_share(run, events, support):
    ended = run("behavior", "suggest", events, "--support", support)
    assert (ended.code, "`--support` takes a share from 0.5 to 1" in ended.err) == (2, True)


def test_no_file_of_the_policies_is_replaced(run, events, policy):
    ended = run("behavior", "suggest", events, "--policies", policy, "-o", policy, "--force")
    assert (ended.code, policy.read_text()) == (1, POLICY)


def test_a_file_is_replaced_only_by_force(run, tmp_path, events):
    (tmp_path / "o.policy").write_text("mine")
    assert run("behavior", "suggest", events, "-o", tmp_path / "o.policy").code == 1
    assert (tmp_path / "o.policy").read_text() == "mine"
    assert run("behavior", "suggest", events, "-o", tmp_path / "o.policy", "--force").code == 0
    assert "profile " in (tmp_path / "o.policy").read_text()


def test_a_file_that_is_no_traffic_is_refused(run, policy):
    ended = run("behavior", "suggest", policy)
    assert (ended.code, "line 1" in ended.err) == (1, True)


def test_policies_with_errors_are_refused(run, tmp_path, events):
    (tmp_path / "bad.policy").write_text("language 1\nagent\n")
    assert run("behavior", "suggest", events, "--policies", tmp_path / "bad.policy").code == 1

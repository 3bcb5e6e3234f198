"""`policyengine behavior learn`, `show`, `forget` and `release`."""

import gzip
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.query.pack import pack_log
from policyengine.behavior.events import Caller
from policyengine.behavior.folder import BehaviorFolder
from policyengine.behavior.row import pack_row
from policyengine.behavior.tracker import BehaviorTracker
from tests import forking
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, packed, question, work
from tests.processes import stop

PLAIN = "\n".join(line for line in POLICY.splitlines() if "behavior." not in line)


def write_log(path, policy, **options):
    clock = FakeClock()
    log = DecisionLog(path, seal=None)
    engine = Engine.from_text(policy, clock=clock, log=log, **options)
    work(engine, clock)
    log.close()
    return engine


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A log of policies that learn, one of policies that do not, the policies, and what the first have learned."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "p.policy").write_text(POLICY)
    engine = write_log(folder / "log.jsonl", POLICY, behavior=folder / "served")
    engine.behavior.close()
    write_log(folder / "plain.jsonl", PLAIN)
    return folder


@pytest.fixture
def world(template, run, tmp_path):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def server(world):
    """A process that keeps the folder `served`."""
    tracker = BehaviorTracker.open(world / "served")
    tracker.keep()
    yield tracker
    tracker.close()


def state_of(path):
    return BehaviorTracker.open(path, locks=False).state


# ── Learn ─────────────────────────────────────────────────────────────────────────────────────


def test_a_log_is_learned_into_a_new_folder(run, world):
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new")
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "learned 1,200 of 1,200 decisions"
    assert "4 callers, 4 of them ready" in ended.out
    assert "not yet once in 100d: 24 caller-days of 199" in ended.out
    assert ended.err == ""
    state = state_of(world / "new")
    assert len(state.rows) == 4
    assert state.model.class_of(("idp", "profile reporting")).is_ready


def test_a_learned_folder_gives_the_rows_that_a_server_has(run, world):
    shutil.copytree(world / "served", world / "again")
    for name in ("rows", "models"):
        path = world / "again" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "again")  # with the key of the server
    assert packed(state_of(world / "again")) == packed(state_of(world / "served"))


def test_lines_of_policies_that_learn_nothing_give_the_same_rows(run, world):
    for log in ("log", "plain"):
        (world / log).mkdir()
        shutil.copy(world / "served" / "key", world / log / "key")
        run("behavior", "learn", f"{log}.jsonl", "--policies", "p.policy", "-o", log)
    assert packed(state_of(world / "plain")) == packed(state_of(world / "log"))


def test_questions_that_only_ask_teach_nothing(run, world):
    log = DecisionLog(world / "more.jsonl", seal=None)
    engine = Engine.from_text(PLAIN, log=log)
    engine.decide({**question(), "options": {"consume": False}})
    engine.evaluate(question())
    engine.decide(question())
    log.close()
    ended = run("behavior", "learn", "more.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert ended.json["learned"] == 1


def test_such_lines_need_the_policies(run, world):
    ended = run("behavior", "learn", "plain.jsonl", "-o", "new")
    assert "learned 0 of 1,200 decisions" in ended.out
    assert "left out 1,200 decisions that do not state the class of their caller: name the policies" in ended.err


def test_without_policies_the_defaults_are_used_and_said(run, world):
    ended = run("behavior", "learn", "log.jsonl", "-o", "new", "--format", "json")
    assert "the settings of `profile reporting` are not known" in ended.err
    assert (ended.json["learned"], ended.json["classes"][0]["class"]) == (1_200, "profile reporting")


def test_policies_that_name_none_of_the_callers_are_reported(run, world):
    (world / "other.policy").write_text(POLICY.replace("report-", "planner-"))
    ended = run("behavior", "learn", "log.jsonl", "--policies", "other.policy", "-o", "new")
    assert "no profile and no agent block of the policies names 4 callers: check that the log comes" in ended.err
    assert "names" not in run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "newer").err


def test_a_log_can_be_learned_twice(run, world):
    run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new")
    before = (world / "new" / "rows").read_bytes()
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new")
    assert ended.out.splitlines()[0] == "learned 0 of 1,200 decisions, 1,200 already known"
    assert ended.out.splitlines()[-1] == "nothing new was learned: new is unchanged"
    assert (world / "new" / "rows").read_bytes() == before


def test_a_log_in_two_parts_gives_the_rows_of_the_whole(run, world):
    lines = (world / "log.jsonl").read_bytes().splitlines(keepends=True)
    (world / "a.jsonl").write_bytes(b"".join(lines[:700]))
    (world / "b.jsonl").write_bytes(b"".join(lines[700:]))
    (world / "a.jsonl.gz").write_bytes(gzip.compress((world / "a.jsonl").read_bytes()))
    for name, logs in {"whole": ["log.jsonl"], "one": ["b.jsonl", "a.jsonl"], "two": ["a.jsonl.gz"]}.items():
        (world / name).mkdir()
        shutil.copy(world / "served" / "key", world / name / "key")
        assert run("behavior", "learn", *logs, "--policies", "p.policy", "-o", name).code == 0
    run("behavior", "learn", "b.jsonl", "--policies", "p.policy", "-o", "two")
    whole = packed(state_of(world / "whole"))
    assert packed(state_of(world / "one")) == whole
    assert {caller: row.row.serial for caller, row in state_of(world / "two").rows.items()} == dict.fromkeys(whole, 300)


def test_a_packed_log_is_learned(run, world):
    pack_log([world / "log.jsonl"], world / "log.parquet")
    ended = run("behavior", "learn", "log.parquet", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert ended.json["learned"] == 1_200


@pytest.mark.parametrize("groups", [pytest.param(False, marks=pytest.mark.deep), True])
def test_duckdb_writes_the_same_folder(run, world, groups):
    policy = world / "p.policy"
    if groups:
        policy.write_text(policy.read_text() + 'rate "groups" per cluster.id on GET /** { 6/1m floor 1/1m }\n')
    for place in ("thread", "duckdb"):
        (world / place).mkdir()
        shutil.copy(world / "served" / "key", world / place / "key")
        for log in ("log.jsonl", "plain.jsonl"):
            ended = run("behavior", "learn", log, "--policies", "p.policy", "-o", place, "--on", place)
            assert ended.out.splitlines()[-1] == (
                f"wrote {place}" if log == "log.jsonl" else f"nothing new was learned: {place} is unchanged"
            )
    names = ["rows", *(f"models/{file.name}" for file in (world / "thread" / "models").iterdir())]
    assert len(names) > 1
    names += ["recent"] if groups else []
    for name in names:
        assert (world / "duckdb" / name).read_bytes() == (world / "thread" / name).read_bytes()


BULK = "policyengine.behavior.bulk."


@pytest.mark.parametrize(
    ("place", "names", "message", "hint"),
    [
        ("duckdb", {"event_table.find_spec": None}, "DuckDB and numpy are not installed", "'.[audit,behavior]'"),
        ("spark", {"spark_session.find_spec": None}, "pyspark and pyarrow are not installed", "'.[spark]'"),
        (
            "spark", {"spark_session.find_spec": object(), "spark_session.find_java": None},
            "Spark needs Java, which was not found", "apt install openjdk-17-jre-headless",
        ),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_message(run, world, monkeypatch, place, names, message, hint):
    for name, found in names.items():
        monkeypatch.setattr(BULK + name, lambda *_, found=found: found)
    ended = run("behavior", "learn", "log.jsonl", "-o", "new", "--on", place)
    assert ended.code == 1
    assert ended.err.splitlines()[0] == f"error: cannot learn with `--on {place}`: {message}"
    assert hint in ended.err.splitlines()[1]
    assert len(ended.err.splitlines()) == 2
    assert not (world / "new").exists()


def test_damaged_lines_are_skipped_with_a_few_messages(run, world):
    lines = (world / "log.jsonl").read_bytes().splitlines(keepends=True)
    for place in range(100, 200, 10):
        lines[place] = b'{"v":2,"time":"broken"}\n'
    lines[300] = b'{"v":9}\n'
    (world / "log.jsonl").write_bytes(b"".join(lines))
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert (ended.json["learned"], ended.json["skipped_lines"]) == (1_189, 11)
    assert ended.err.count("warning: ") == 4
    assert "8 more lines were skipped" in ended.err


def test_a_log_out_of_order_says_so(run, world):
    lines = (world / "log.jsonl").read_bytes().splitlines(keepends=True)
    (world / "log.jsonl").write_bytes(b"".join(lines[600:] + lines[:600]))
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert ended.json["late"] > 400
    assert "are dated more than a day before a preceding decision of their caller: sort the log" in ended.err


def test_decisions_of_the_future_are_left_out(run, world):
    text = (world / "log.jsonl").read_text().replace('"time":"2026-01-07', '"time":"2996-01-07')
    (world / "log.jsonl").write_text(text)
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert (ended.json["future"], ended.json["learned"]) == (120, 1_080)
    assert "have a time in the future" in ended.err


@pytest.mark.parametrize("place", ["thread", "duckdb"])
def test_a_period_is_learned(run, world, place):
    ended = run(
        "behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--on", place,
        "--since", "2026-01-07", "--until", "2026-01-12T12:00Z",
    )  # fmt: skip
    assert ended.out.splitlines()[0] == "learned 660 of 1,200 decisions, 540 outside the period"
    days = {found.row.level_at // 86_400_000 for found in state_of(world / "new").rows.values()}
    assert days == {20_465}  # 2026-01-12


def test_the_time_around_an_attack_can_be_learned_in_two_steps(run, world):
    options = ("--policies", "p.policy", "-o", "new", "--format", "json")
    first = run("behavior", "learn", "log.jsonl", *options, "--until", "2026-01-09").json
    second = run("behavior", "learn", "log.jsonl", *options, "--since", "2026-01-10").json
    assert (first["learned"], first["outside"]) == (480, 720)
    assert (second["learned"], second["outside"], second["known"]) == (600, 600, 0)
    assert second["classes"][0]["class_ready"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until", "yesterday"], "`yesterday` is neither a time nor a duration"),
        (["--since", "2026-01-07T10:00"], "`2026-01-07T10:00` has no zone"),
        (["--since", "2026-01-08", "--until", "2026-01-07"], "the time of `--since` is not before that of `--until`"),
    ],
)
def test_a_wrong_period_is_one_message(run, world, options, message):
    ended = run("behavior", "learn", "log.jsonl", "-o", "new", *options)
    assert ended.code == 2
    assert ended.err.splitlines()[0] == f"error: {message}"
    assert not (world / "new").exists()


def write_attacked_log(path):
    """Write a log in which one agent sends ten requests a second after its work on the eighth day."""
    clock, log = FakeClock(), DecisionLog(path, seal=None)
    engine = Engine.from_text(PLAIN.replace("60/1m burst 100", "6000/1m burst 5000"), clock=clock, log=log)
    work(engine, clock, range(8))
    clock.now = BEGIN + timedelta(days=7, hours=16)
    for _ in range(100):
        clock.now += timedelta(milliseconds=100)
        engine.decide(question(agent=3, task="attack"))
    work(engine, clock, range(8, 10))
    log.close()


def test_margins_that_an_attack_made_high_are_a_warning_with_the_time_to_leave_out(run, world):
    write_attacked_log(world / "attacked.jsonl")
    ended = run("behavior", "learn", "attacked.jsonl", "--policies", "p.policy", "-o", "new")
    assert ended.code == 0
    assert ended.err == (
        "warning: the margins of `profile reporting` of idp are × 44.05, × 43.22: smaller bursts are not found. The "
        "highest level is that of report-3 of idp on 2026-01-12. If this was an attack, leave it out: learn into a new "
        "folder with `--until 2026-01-12`\n"
    )
    again = run("behavior", "learn", "attacked.jsonl", "--policies", "p.policy", "-o", "other", "--until", "2026-01-12")
    assert again.err == ""


@pytest.mark.parametrize("place", ["thread", "duckdb"])
def test_a_log_whose_days_jump_is_a_warning(run, world, place):
    lines = (world / "log.jsonl").read_text().splitlines(keepends=True)
    lines.append(lines[-1].replace('"time":"2026-01-14', '"time":"2026-02-23').replace('"id":"', '"id":"later-'))
    (world / "log.jsonl").write_text("".join(lines))
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--on", place)
    assert ended.err == (
        "warning: no decision is dated between 2026-01-14 and 2026-02-23, which is longer than the 14 days that are "
        "learned: callers count as new, and classes are not ready. If a clock was wrong, leave these decisions out: "
        "`--until`, `--since`\n"
    )
    assert run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "o", "--until", "2026-02-01").err == ""


def test_a_file_that_is_no_log_is_refused(run, world):
    ended = run("behavior", "learn", "p.policy", "-o", "new", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "log")
    assert not (world / "new").exists()


def test_a_file_of_plain_events_is_refused_with_the_commands_that_read_it(run, world):
    (world / "events.jsonl").write_text(
        '{"at": "2026-06-01T09:00:00Z", "agent": "report-1", "endpoint": "GET /data"}\n'
    )
    ended = run("behavior", "learn", "events.jsonl", "-o", "new")
    assert ended.code == 1
    assert "hint: the file has plain events, which only `behavior evaluate`, `behavior suggest` and tests" in ended.err


def test_a_folder_that_a_server_keeps_is_not_learned_into(run, world, server):
    ended = run("behavior", "learn", "log.jsonl", "-o", "served")
    assert ended.code == 1
    assert ended.err.splitlines() == [
        "error: a running server keeps learned behavior in `served`",
        "hint: stop that server first, or name another folder",
    ]


@pytest.mark.parametrize(
    ("path", "why"), [(".", "a folder that contains other files"), ("log.jsonl", "`log.jsonl` is a file")]
)
def test_a_path_with_something_else_is_not_learned_into(run, world, path, why):
    before = sorted(file.name for file in world.iterdir())
    ended = run("behavior", "learn", "log.jsonl", "-o", path)
    assert ended.code == 1
    assert why in ended.err
    assert sorted(file.name for file in world.iterdir()) == before


def test_learning_says_when_the_declared_rate_is_calibrated(run, world):
    policy = POLICY.replace("ready 20 runs, 3d", "ready 20 runs, 3d   burst once in 10d")
    (world / "p.policy").write_text(policy)
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    [found] = ended.json["classes"]
    assert (found["calibrated"], found["caller_days"], found["burst_once_in_days"]) == (True, 24, 10)


def test_broken_policies_are_one_error(run, world):
    (world / "p.policy").write_text("package x\nagent {")
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "policy")


def test_a_damaged_folder_is_one_error(run, world):
    (world / "served" / "rows").write_bytes(b"damaged")
    ended = run("behavior", "learn", "log.jsonl", "-o", "served", "--format", "json")
    assert ended.json["error"]["kind"] == "behavior"
    assert "changed, or are damaged" in ended.json["error"]["message"]


def test_the_report_names_the_margins_the_caller_days_and_the_ready_callers_that_are_learned(run, world):
    lines = (world / "log.jsonl").read_text().splitlines(keepends=True)
    (world / "few.jsonl").write_text("".join(line for line in lines if "report-3" not in line))
    for log in ("log.jsonl", "few.jsonl"):  # the class of the second is not ready
        learned = run("behavior", "learn", log, "--policies", "p.policy", "-o", log[:3], "--format", "json")
        [expected] = learned.json["classes"]
        [found] = run("behavior", "report", log, "p.policy", "--format", "json").json["classes"]
        margins = expected["margins"] or {"slow": None, "fast": None}
        assert found["margins"] == {
            **{name: margin and round(margin, 3) for name, margin in margins.items()},
            "caller_days": expected["caller_days"], "reach_declared": expected["calibrated"],
        }  # fmt: skip
        assert (found["callers"], found["ready"]) == (expected["callers"], expected["ready"])
    assert expected["class_ready"] is False


def test_a_decision_with_an_unknown_outcome_is_skipped_with_the_known_outcomes(run, world):
    text = (world / "log.jsonl").read_text()
    (world / "log.jsonl").write_text(text.replace('"outcome":"allow"', '"outcome":"maybe"', 1))
    ended = run("behavior", "learn", "log.jsonl", "--policies", "p.policy", "-o", "new")
    assert ended.err == (
        "warning: log.jsonl:1: skipped this line: it is not a valid record of a decision (its outcome is not one of "
        "deny, throttle, confirm, allow)\n"
    )


# ── Serve ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(run, monkeypatch):
    """Load what `serve` serves, without a listener, and return what it printed on stderr."""
    monkeypatch.setattr("policyengine.server.serve", lambda held, *_, **__: held.current.behavior.close())

    def serve(policy, folder):
        ended = run("serve", policy, "--behavior", folder)
        assert ended.code == 0
        return ended.err

    return serve


FOREIGN = POLICY.replace("idp", "other").replace("report", "write")


@pytest.mark.parametrize(
    ("policy", "warns"),
    [
        (POLICY, False),
        (POLICY.replace('"reporting"', '"writing"'), True),
        (POLICY.replace("idp", "other"), True),
        (FOREIGN, True),
    ],
)
def test_serve_warns_of_a_folder_without_a_class_of_its_policies(world, served, policy, warns):
    (world / "other.policy").write_text(policy)
    err = served("other.policy", "served")
    assert (
        err.startswith(
            "warning: no class of the callers in `served` is in these policies, so these callers count as new; the "
            "folder has `profile reporting` of idp: name the folder of these policies with `--behavior`"
        )
        is warns
    )


def test_serve_accepts_an_empty_folder_and_one_with_callers_of_one_of_its_classes(world, served):
    (world / "other.policy").write_text(FOREIGN)
    assert served("other.policy", "new") == ""
    both = POLICY + FOREIGN.partition("package learning")[2].replace('"r"', '"s"').replace('"odd"', '"b"').replace(
        '"failing"', '"c"'
    )
    (world / "both.policy").write_text(both)
    assert served("both.policy", "served") == ""


# ── Show ──────────────────────────────────────────────────────────────────────────────────────


def test_all_callers_are_shown_as_a_table(run, world):
    ended = run("behavior", "show", "--behavior", "served", "--policies", "p.policy", "--limit", "3")
    head, *rows = ended.out.splitlines()
    assert head.split()[:4] == ["caller", "issuer", "class", "ready"]
    assert [row.split()[0] for row in rows[:3]] == ["report-3", "report-2", "report-1"]
    assert rows[3] == "and 1 more caller: `--limit 0` shows all"
    assert ended.err == ""


@pytest.mark.parametrize(("sort", "first"), [("name", "report-0"), ("trust", "report-2"), ("errors", "report-1")])
def test_callers_are_sorted(run, world, sort, first):
    tracker = BehaviorTracker.open(world / "served")
    tracker.state.rows[Caller("idp", "report-2")].row.trust = 1
    tracker.state.rows[Caller("idp", "report-1")].row.errors = 500_000
    tracker.learner.has_changed = True
    tracker.close()
    ended = run("behavior", "show", "--behavior", "served", "--sort", sort, "--format", "json")
    assert ended.json["callers"][0]["agent"] == first


def test_a_caller_is_shown_with_its_class(run, world):
    ended = run("behavior", "show", "report-1", "--behavior", "served", "--policies", "p.policy")
    assert "report-1 of idp\n" in ended.out
    assert "  active days  10 of the last 14\n" in ended.out
    assert "a burst above" in ended.out
    assert "2026-01-14  GET /data/**\n" in ended.out
    assert "its class has 4 callers, 4 of them ready, and is ready" in ended.out


def test_a_class_that_is_not_ready_is_shown_with_what_it_needs(run, world):
    lines = (world / "log.jsonl").read_text().splitlines(keepends=True)
    (world / "one.jsonl").write_text("".join(line for line in lines if "report-1" in line))
    run("behavior", "learn", "one.jsonl", "--policies", "p.policy", "-o", "one")
    ended = run("behavior", "show", "report-1", "--behavior", "one", "--policies", "p.policy")
    assert "and is not ready (it needs 200 runs, of at least 3 agents that have enough runs and days" in ended.out


def test_endpoints_are_tags_without_the_policies(run, world):
    ended = run("behavior", "show", "report-1", "--behavior", "served", "--format", "json")
    [found] = ended.json["callers"]
    assert [one["endpoint"] for one in found["endpoints"]] == [None]
    assert len(found["pace"]) == 24
    assert found["pace"][9] == 5


def test_an_unknown_caller_gets_a_suggestion(run, world):
    ended = run("behavior", "show", "report-l", "--behavior", "served", "--format", "json")
    assert ended.code == 1
    assert "did you mean" in ended.json["error"]["hint"]


@pytest.mark.parametrize("command", [["show"], ["show", "x"], ["forget", "x"], ["release", "x", "--end"]])
def test_a_folder_that_does_not_exist_is_not_made(run, tmp_path, command):
    ended = run("behavior", *command, "--behavior", "none")
    assert ended.code == 1
    assert "is not a folder with learned behavior" in ended.err
    assert not (tmp_path / "none").exists()


def test_a_new_folder_knows_no_caller(run, tmp_path):
    BehaviorFolder(tmp_path / "new")
    assert run("behavior", "show", "--behavior", "new").out == "nothing is known about any caller yet\n"


# ── Forget ────────────────────────────────────────────────────────────────────────────────────


def test_a_caller_is_forgotten_in_a_folder_without_a_server(run, world):
    ended = run("behavior", "forget", "report-1", "--behavior", "served")
    assert (ended.code, ended.out) == (0, "forgot report-1 of idp\n")
    state = state_of(world / "served")
    assert sorted(caller.agent for caller in state.rows) == ["report-0", "report-2", "report-3"]
    assert state.model.content.classes
    assert not list((world / "served").glob("requests/*"))


def test_a_running_server_forgets_within_a_minute(run, world, server):
    ended = run("behavior", "forget", "report-1", "--behavior", "served")
    assert ended.out == "the server that keeps `served` forgets report-1 of idp within a minute\n"
    assert len(server.state.rows) == 4
    server.keep()
    assert len(server.state.rows) == 3


def test_a_served_folder_is_held_from_the_start_and_follows_requests(run, world):
    words = ["serve", "p.policy", "--behavior", "served", "--port", "0", "--format", "json"]
    with subprocess.Popen([*forking.command(), *words], cwd=world, stdout=subprocess.PIPE) as server:
        try:
            url = json.loads(server.stdout.readline())["listening"]
            with urlopen(f"{url}/healthz", timeout=30) as answer:  # it listens before it serves
                assert answer.status == 200
            refused = run("behavior", "learn", "log.jsonl", "-o", "served")
            ended = run("behavior", "forget", "report-1", "--behavior", "served")
        finally:
            stop(server)
    assert "a running server keeps learned behavior" in refused.err
    assert ended.out == "the server that keeps `served` forgets report-1 of idp within a minute\n"
    assert Caller("idp", "report-1") not in BehaviorFolder(world / "served").load_rows(10**6)


def test_all_callers_and_classes_are_forgotten(run, world):
    assert run("behavior", "forget", "--all", "--behavior", "served").out == "forgot all 4 callers and their classes\n"
    state = state_of(world / "served")
    assert (state.rows, state.model.content.classes) == ({}, ())


@pytest.fixture
def namesakes(world):
    """Four callers with one name."""
    tracker = BehaviorTracker.open(world / "served")
    known = tracker.state.rows[Caller("idp", "report-1")]
    for caller in (("x", "report-1"), ("idp", "report-1", "a"), ("idp", "report-1", "a", "v2")):
        tracker.state.rows[Caller(*caller)] = known
    tracker.learner.has_changed = True
    tracker.close()


@pytest.mark.parametrize("command", ["forget", "show"])
def test_a_name_of_several_callers_is_refused_with_the_list(run, world, namesakes, command):
    ended = run("behavior", command, "report-1", "--behavior", "served", "--format", "json")
    assert ended.code == 1
    assert ended.json["error"]["message"] == "`report-1` is the name of 3 callers"
    assert ended.json["error"]["callers"][1] == {"issuer": "idp", "agent": "report-1", "instance": "a"}
    assert "report-1 of x" in ended.err
    assert len(state_of(world / "served").rows) == 7


def test_issuer_and_instance_name_one_caller_in_all_its_versions(run, world, namesakes):
    ended = run("behavior", "forget", "report-1", "--issuer", "idp", "--instance", "a", "--behavior", "served")
    assert ended.out == "forgot report-1 of idp, instance a\n"
    left = [caller for caller in state_of(world / "served").rows if caller.agent == "report-1"]
    assert left == [Caller("idp", "report-1"), Caller("x", "report-1")]


@pytest.mark.parametrize("words", [[], ["report-1", "--all"], ["--all", "--issuer", "idp"]])
def test_forgetting_needs_one_caller_or_all(run, world, words):
    assert run("behavior", "forget", *words, "--behavior", "served").code == 2


# ── Release ───────────────────────────────────────────────────────────────────────────────────


def test_a_change_is_planned_listed_and_ended(run, world):
    ended = run("behavior", "release", "reporting", "--until", "2d", "--behavior", "served")
    assert ended.out.startswith("planned a change of profile reporting until 20")
    assert ended.out.endswith("in 2d\n")
    assert "planned change of profile reporting until" in run("behavior", "show", "--behavior", "served").out
    until = state_of(world / "served").releases["profile reporting"]
    assert until / 1_000 == pytest.approx((datetime.now(UTC) + timedelta(days=2)).timestamp(), abs=120)
    ended = run("behavior", "release", "reporting", "--end", "--behavior", "served")
    assert ended.out == "the planned change of profile reporting has ended\n"
    assert state_of(world / "served").releases == {}


def test_a_running_server_follows_a_planned_change(run, world, server):
    ended = run("behavior", "release", "profile reporting", "--until", "1h", "--behavior", "served")
    assert ended.out.endswith("in 1h; the running server applies this within a minute\n")
    clock = FakeClock()
    clock.now = BEGIN + timedelta(days=10)
    log = DecisionLog(world / "later.jsonl", seal=None)
    engine = Engine.from_text(POLICY, clock=clock, behavior=server, log=log)
    engine.decide(question())
    server.keep()
    engine.decide(question())
    log.close()
    lines = [json.loads(line)["behavior"] for line in (world / "later.jsonl").read_bytes().splitlines()]
    assert [line.get("released") for line in lines] == [None, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--until", "15d"], "at most 14 days"),
        (["--until", "2099-01-01"], "at most 14 days"),
        (["--until", "2020-01-01T00:00:00Z"], "in the past"),
        (["--until", "2020-01-01T00:00:00"], "has no zone"),
        (["--until", "soon"], "neither a time nor a duration"),
        ([], "exactly one of `--until` and `--end`"),
        (["--until", "1d", "--end"], "exactly one of `--until` and `--end`"),
    ],
)
def test_a_change_needs_an_end_in_the_next_days(run, world, words, message):
    ended = run("behavior", "release", "reporting", *words, "--behavior", "served")
    assert ended.code == 2
    assert message in ended.err


def test_a_change_of_an_unknown_class_is_refused(run, world):
    ended = run("behavior", "release", "reportin", "--until", "1d", "--behavior", "served", "--format", "json")
    assert ended.code == 1
    assert ended.json["error"]["hint"] == "did you mean `reporting`?"
    ended = run("behavior", "release", "reporting", "--end", "--behavior", "served")
    assert "no change of `reporting` is planned" in ended.err


def test_what_cannot_be_written_is_one_error(run, world, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, os.strerror(28), "served/rows")

    monkeypatch.setattr(BehaviorFolder, "save_rows", fail)
    before = packed(state_of(world / "served"))
    ended = run("behavior", "forget", "report-1", "--behavior", "served")
    assert (ended.code, ended.err) == (1, "error: `served/rows`: no space left on device\n")
    assert packed(state_of(world / "served")) == before
    assert all(pack_row(found.row) for found in state_of(world / "served").rows.values())


# ── Orders of calls ───────────────────────────────────────────────────────────────────────────

ORDERED = POLICY.replace("ready 20 runs, 3d", "expect GET /data/** repeated -> POST /report") + (
    'guard "order" { warn when not behavior.sequence }\n'
)


@pytest.fixture
def ordered(world):
    """The policies `order.policy`, and what is known about two agents: one is in a run, and the other has left it."""
    (world / "order.policy").write_text(ORDERED)
    engine = Engine.from_text(ORDERED, clock=FakeClock(), behavior=world / "ordered")
    for agent, path, method in [(0, "/data/x", "GET"), (1, "/report", "POST")]:
        assert engine.decide(question(agent, path, method)).allowed
    engine.behavior.close()
    return world


def test_the_place_of_a_run_in_its_order_is_shown(run, ordered):
    ended = run("behavior", "show", "report-0", "--behavior", "ordered", "--policies", "order.policy")
    assert ended.code == 0
    (line,) = (line.split() for line in ended.out.splitlines() if line.startswith("  order "))
    assert " ".join(line[1:]) == (
        "its latest run is after GET /data/** (last call 2026-01-05T00:00:00Z), and GET /data/** or POST /report "
        "may follow"
    )
    ended = run("behavior", "show", "report-1", "--behavior", "ordered", "--policies", "order.policy")
    assert "  order        its latest run left the order of calls; last call 2026-01-05T00:00:00Z" in ended.out


def test_the_place_of_a_run_is_data(run, ordered):
    asked = "behavior", "show", "report-0", "--behavior", "ordered", "--format", "json"
    (found,) = json.loads(run(*asked, "--policies", "order.policy").out)["callers"]
    assert found["order"] == {
        "follows": True, "state": 1, "last_call": "2026-01-05T00:00:00Z", "latest": ["GET /data/**"],
        "expected": ["GET /data/**", "POST /report"],
    }  # fmt: skip
    (found,) = json.loads(run(*asked).out)["callers"]
    assert found["order"] is None
    (found,) = json.loads(run(*asked, "--policies", "p.policy").out)["callers"]
    assert found["order"] is None

"""`policyengine suggest`: what it writes and where, and what it refuses."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.policy").write_text(
        'language 1\npackage shop\nissuer acme { url "https://login.example"   scopes none }\n'
        'agent "bot" { issued by acme   acts alone   may GET /v1/orders }\n'
    )
    return folder


@pytest.fixture
def log(shop, tmp_path):
    file = tmp_path / "decisions.jsonl"
    engine = Engine.load(shop, log=DecisionLog(file))
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    for agent, path in (("bot", "/v1/orders"), ("bot", "/v1/stock"), ("a\nb", "/v1/stock")):
        engine.decide({"request": {"method": "GET", "path": path}, "agent": {"id": agent, "issuer": "acme"}})
    return file


def test_suggest_shows_grants_remaining_denials_and_the_proof(run, shop, log):
    ended = run("suggest", shop, "--log", log)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "3 decisions: 1 allowed, 2 stopped"
    assert '1  agent "bot"  may GET /v1/stock' in lines
    assert "1  a\\nb  GET /v1/stock  the request contains a name that a policy cannot express" in lines
    assert lines[-1] == "proof: with these grants, 1 of 3 decisions change, exactly as intended"


def test_suggest_merges_remaining_denials_by_path_pattern(run, shop, tmp_path):
    with (shop / "shop.policy").open("a") as file:
        file.write('guard "shut" on GET /v1/orders/{id} { deny }\n')
    engine = Engine.load(shop, log=DecisionLog(tmp_path / "shut.jsonl"))
    for path in (*(f"/v1/orders/{n}" for n in range(30)), "/v1/orders/7"):
        engine.decide({"request": {"method": "GET", "path": path}, "agent": {"id": "bot", "issuer": "acme"}})
    ended = run("suggest", shop, "--log", tmp_path / "shut.jsonl")
    assert '31  bot  GET /v1/orders/*  the guard "shut" stops the request' in ended.out.splitlines()


def test_suggest_distinguishes_no_useful_grant_from_no_needed_grant(run, shop, log):
    run("suggest", shop, "--log", log, "-o", shop / "observed.policy")
    left = run("suggest", shop, "--log", log)
    assert (left.code, left.out.splitlines()[-1]) == (0, "no grant would help")
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert run("suggest", shop, "--log", log).out.splitlines()[-1] == "no grant is needed"


def test_suggest_writes_a_valid_canonical_policy_that_satisfies_the_log(run, shop, log):
    target = shop / "observed.policy"
    assert run("suggest", shop, "--log", log, "-o", target).out.splitlines()[-1].startswith(f"wrote {target}: ")
    assert run("check", "--strict", shop).code == 0
    assert run("fmt", "--check", shop).code == 0
    told = run("suggest", shop, "--log", log, "--format", "json").json
    assert (told["doors"], told["policy"], told["allowed"]) == ([], "", 2)


def test_suggest_prints_only_the_policy_to_stdout(run, shop, log):
    ended = run("suggest", shop, "--log", log, "--format", "policy")
    assert ended.out.startswith("language 1\npackage shop\n")
    assert ended.err == "proof: with these grants, 1 of 3 decisions change, exactly as intended\n"


def test_suggest_json_contains_grants_denials_and_proof(run, shop, log):
    told = run("suggest", shop, "--log", log, "--format", "json").json
    assert told["doors"] == [
        {"agent": "bot", "issuer": "acme", "may": "GET /v1/stock", "decisions": 1, "confirm": False}
    ]
    assert told["not_by_a_door"][0]["why"] == "the request contains a name that a policy cannot express"
    assert told["proof"] == {"meant": 1, "flips": 1, "others": []}


def test_an_existing_file_is_not_replaced(run, shop, log, tmp_path):
    target = tmp_path / "mine.policy"
    target.write_text("mine")
    ended = run("suggest", shop, "--log", log, "-o", target)
    assert (ended.code, target.read_text()) == (1, "mine")
    assert "add `--force`" in ended.err
    assert run("suggest", shop, "--log", log, "-o", target, "--force").code == 0
    assert target.read_text().startswith("language 1\n")


def test_suggest_does_not_replace_a_loaded_policy(run, shop, log):
    before = (shop / "shop.policy").read_text()
    ended = run("suggest", shop, "--log", log, "-o", shop / "shop.policy", "--force")
    assert (ended.code, (shop / "shop.policy").read_text()) == (1, before)
    assert "its grants would be lost" in ended.err


@pytest.mark.parametrize("name", ["observed.txt", "observed_test.policy"])
def test_suggest_rejects_an_output_that_is_not_a_policy_file(run, shop, log, name):
    assert run("suggest", shop, "--log", log, "-o", name).code == 2


def test_suggest_without_a_proof_writes_nothing_and_exits_with_3(run, shop, log, monkeypatch):
    from policyengine.analysis.suggest import policy

    lines_of = policy.policy_lines
    wide = "anyone { may GET /v1/** }"
    monkeypatch.setattr(policy, "policy_lines", lambda doors, guards: [*lines_of(doors, guards), wide])
    ended = run("suggest", shop, "--log", log, "-o", "observed.policy")
    assert ended.code == 3
    assert ended.out.splitlines()[-2] == "no proof: 1 of 1 intended changes found, 1 unintended"
    assert not (shop.parent / "observed.policy").exists()


def test_suggest_reports_a_missing_log(run, shop):
    ended = run("suggest", shop, "--log", "none.jsonl", "--format", "json")
    assert (ended.code, json.loads(ended.out)["error"]["kind"]) == (1, "file")


def test_suggest_grants_both_the_agent_and_its_user_if_no_user_block_exists(run, shop, tmp_path):
    log = tmp_path / "users.jsonl"
    engine = Engine.load(shop, log=DecisionLog(log))
    who = {"agent": {"id": "new", "issuer": "acme"}, "user": {"id": "ann"}}
    engine.decide({"request": {"method": "GET", "path": "/v1/stock"}, **who})
    ended = run("suggest", shop, "--log", log, "--format", "policy")
    assert ended.code == 0
    assert 'user "ann" {' in ended.out
    assert "acts for any user" in ended.out
    assert "1970" not in ended.out
    assert ended.err == "proof: with these grants, 1 of 1 decisions change, exactly as intended\n"


def test_suggest_adds_no_grant_for_a_user_name_that_a_policy_cannot_express(run, shop, tmp_path):
    log = tmp_path / "users.jsonl"
    engine = Engine.load(shop, log=DecisionLog(log))
    who = {"agent": {"id": "new", "issuer": "acme"}, "user": {"id": "a\nb"}}
    engine.decide({"request": {"method": "GET", "path": "/v1/stock"}, **who})
    ended = run("suggest", shop, "--log", log)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "no grant would help")

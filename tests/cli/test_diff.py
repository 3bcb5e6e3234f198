"""`policyengine diff`: two policies, what changes for requests, and how that ends."""

import json

import pytest

OLD = """
entity user { level: int }
issuer acme { url "https://acme.example" }
scope notes as "notes" { GET /notes/{id}   POST /notes }
user any { may notes }
agent "bot" { issued by acme   acts for any user   may notes }
guard "size" on POST /notes { deny when request.size > 1000 }
"""
WIDER, NARROWER = OLD.replace("> 1000", "> 2000"), OLD.replace("> 1000", "> 500")


@pytest.fixture
def policies(tmp_path):
    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.policy").write_text(text)

    return write


def test_an_equivalent_policy_is_proved_the_same(run, policies):
    policies(old=OLD, new="# the same\n" + "\n".join(reversed(OLD.strip().splitlines())))
    ended = run("diff", "old.policy", "new.policy")
    assert (ended.code, ended.out, ended.err) == (0, "no difference: proved for all requests\n", "")


def test_a_difference_exits_with_1_and_shows_region_rules_and_request(run, policies):
    policies(old=OLD, new=WIDER)
    ended = run("diff", "old.policy", "new.policy")
    assert ended.code == 1
    for shown in (
        "widening: deny -> allow",
        'POST /notes · agent "bot" for any user · when request.size > 1000 and request.size <= 2000',
        '- old.policy:7: guard "size": deny when request.size > 1000',
        '+ new.policy:7: guard "size": deny when request.size > 2000',
        'old: deny by guard "size" (old.policy:7)',
        "everything else is proved equal",
    ):
        assert shown in ended.out


@pytest.mark.parametrize(("new", "code"), [(WIDER, 1), (NARROWER, 0), (OLD, 0)])
def test_fail_on_widening_exits_with_1_only_for_a_widening(run, policies, new, code):
    policies(old=OLD, new=new)
    assert run("diff", "old.policy", "new.policy", "--fail-on", "widening").code == code


def test_decide_answers_the_witness_request_as_diff_reports(run, policies, tmp_path):
    policies(old=OLD, new=WIDER)
    difference = run("diff", "old.policy", "new.policy", "--format", "json").json["differences"][0]
    (tmp_path / "request.json").write_text(json.dumps(difference["witness"]))
    answers = [
        run("decide", f"{name}.policy", "--request", "request.json", "--format", "json").json["outcome"]
        for name in ("old", "new")
    ]
    assert answers == [difference["old"]["outcome"], difference["new"]["outcome"]] == ["deny", "allow"]


def test_diff_json_contains_the_proof_status_and_the_differences(run, policies):
    policies(old=OLD, new=WIDER)
    found = run("diff", "old.policy", "new.policy", "--format", "json").json
    assert (found["same"], found["proved"], found["widens"], found["doubts"], found["log"]) == (
        False,
        True,
        True,
        [],
        None,
    )
    assert found["regions"]["differing"] == 2
    first = found["differences"][0]["regions"][0]
    assert first == {
        "endpoint": "POST /notes", "caller": 'agent "bot" for any user',
        "when": "request.size > 1000 and request.size <= 2000",
    }  # fmt: skip


def test_diff_markdown_has_a_table_and_folds_details(run, policies):
    policies(old=OLD, new=WIDER)
    out = run("diff", "old.policy", "new.policy", "--format", "markdown").out
    assert out.startswith("### Policy diff: 1 widening difference; everything else is proved equal\n")
    assert "| 1 | 🔓 widening | deny | allow | POST /notes ·" in out
    assert out.count("<details>") == out.count("</details>") == 1
    assert "request.size &#62; 1000" in out


def test_names_in_a_policy_are_escaped_in_diff_markdown(run, policies):
    name = "a|b <img src=x> ``` **c**"
    policies(old=OLD.replace('"size"', f'"{name}"'), new=WIDER.replace('"size"', f'"{name}"'))
    out = run("diff", "old.policy", "new.policy", "--format", "markdown").out
    outside = "".join(part for number, part in enumerate(out.split("\n```")) if number % 2 == 0)
    assert "<img" not in outside
    assert "|b" not in outside.replace("\\|b", "")


def test_diff_accepts_a_bundle_in_place_of_a_policy(run, policies):
    policies(old=OLD, new=WIDER)
    run("compile", "old.policy", "-o", "old.policybundle")
    assert run("diff", "old.policybundle", "old.policy").code == 0
    ended = run("diff", "old.policybundle", "new.policy")
    assert ended.code == 1
    assert "widening: deny -> allow" in ended.out


def test_a_policy_with_errors_exits_with_4(run, policies):
    policies(old=OLD, new="anyone { may nothing.known }")
    ended = run("diff", "old.policy", "new.policy")
    assert ended.code == 4
    assert "new.policy:1" in ended.err
    assert "error: the policy cannot be used" in ended.err


def test_a_missing_policy_file_exits_with_3(run, policies):
    policies(old=OLD)
    ended = run("diff", "old.policy", "nowhere.policy")
    assert ended.code == 3
    assert "the file does not exist" in ended.err


def test_a_missing_log_exits_with_3(run, policies):
    policies(old=OLD, new=WIDER)
    ended = run("diff", "old.policy", "new.policy", "--log", "nowhere.jsonl")
    assert ended.code == 3
    assert "nowhere.jsonl" in ended.err


HISTORY = OLD + 'guard "calm" on POST /notes { deny when count of POST /notes within 1h > 10 }\n'


def test_an_unproved_change_exits_with_5_and_names_the_rule(run, policies):
    policies(old=HISTORY, new=HISTORY.replace("> 10 ", "> 20 "))
    for options in ([], ["--fail-on", "widening"]):
        ended = run("diff", "old.policy", "new.policy", *options)
        assert ended.code == 5
        assert 'guard "calm" (old.policy:8), guard "calm" (new.policy:8)' in ended.out
        assert "a generated request has no history" in ended.out
        assert ended.out.splitlines()[-1].startswith("not proved: the changed rules may allow more in ")


def test_an_unproved_change_counts_as_widening_and_appears_in_the_title(run, policies):
    policies(old=HISTORY, new=HISTORY.replace("> 10 ", "> 20 "))
    found = run("diff", "old.policy", "new.policy", "--format", "json").json
    assert (found["same"], found["proved"], found["widens"], found["differences"]) == (False, False, True, [])
    assert [rule["rule"] for rule in found["doubts"][0]["rules"]] == ['guard "calm"', 'guard "calm"']
    out = run("diff", "old.policy", "new.policy", "--format", "markdown").out
    assert out.startswith("### Policy diff: not proved: the changed rules may allow more in ")
    assert "<details>" not in out


def test_an_unfinished_comparison_is_not_proved(run, policies):
    policies(old=OLD, new=NARROWER)
    ended = run("diff", "old.policy", "new.policy", "--seconds", "0", "--fail-on", "widening")
    assert (ended.code, "the comparison did not finish within 0 s" in ended.out) == (5, True)


ANCHORS = 'issuer acme { url "https://acme.example" audience "notes" claims { lvl -> user.level } }'


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("acme.example", "acme.dev", 1),
        ('audience "notes"', 'audience "all"', 1),
        (' audience "notes"', "", 1),
        ("lvl ->", "grade ->", 1),
        ("issuer acme", 'issuer other { url "https://other.example" }\nissuer acme', 1),
    ],
)
def test_a_changed_trust_anchor_counts_as_a_widening(run, policies, old, new, code):
    before = OLD.replace('issuer acme { url "https://acme.example" }', ANCHORS)
    policies(old=before, new=before.replace(old, new))
    ended = run("diff", "old.policy", "new.policy", "--fail-on", "widening")
    assert (ended.code, "issuer" in ended.out, "same: proved" in ended.out) == (code, True, False)


def test_adding_an_audience_to_an_issuer_is_a_narrowing(run, policies):
    policies(old=OLD, new=OLD.replace("acme.example", 'acme.example" audience "notes'))
    ended = run("diff", "old.policy", "new.policy", "--fail-on", "widening")
    assert (ended.code, "narrowing: issuer" in ended.out) == (0, True)


CONFIRMED = (
    OLD.replace("level: int", "level: int   roles: set<string>")
    + """
guard "one" on POST /notes { confirm by role lead within 15m when request.size > 10   step_up mfa }
guard "two" on POST /notes { confirm by role lead within 15m when request.size > 10   notify "soc" }
"""
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("   step_up mfa", ""),
        ('   notify "soc"', ""),
        ('guard "two" on POST /notes { confirm by role lead within 15m when request.size > 10   notify "soc" }', ""),
        ("within 15m when request.size > 10   step_up", "when request.size > 10   step_up"),
    ],
)
def test_removing_a_requirement_of_an_approval_rule_is_a_widening(run, policies, old, new):
    policies(old=CONFIRMED, new=CONFIRMED.replace(old, new, 1))
    found = run("diff", "old.policy", "new.policy", "--format", "json").json
    assert "widening" in {one["direction"] for one in found["differences"]}


def test_diff_names_a_budget_that_would_throttle_the_witness_request(run, policies):
    spent = OLD + (
        "facts on POST /notes { body.amount: number }\n"
        'guard "much" on POST /notes { deny when body.amount > 5000 }\n'
        'budget "spent" per request.method on POST /notes { sum body.amount <= 1000 within 24h }\n'
    )
    policies(old=spent, new=spent.replace("> 5000", "> 6000"))
    ended = run("diff", "old.policy", "new.policy")
    assert 'which "spent" would throttle' in ended.out


def test_splitting_a_budget_in_two_is_not_a_difference(run, policies):
    both = OLD + 'budget "spent" per user.id on POST /notes { count <= 5 within 1h   count <= 20 within 24h }\n'
    apart = OLD + (
        'budget "spent" per user.id on POST /notes { count <= 5 within 1h }\n'
        'budget "daily" per user.id on POST /notes { count <= 20 within 24h }\n'
    )
    policies(old=both, new=apart)
    assert run("diff", "old.policy", "new.policy").code == 0


def test_with_all_a_changed_reason_is_a_difference_but_not_a_widening(run, policies):
    policies(old=OLD, new=OLD.replace('"size"', '"length"'))
    assert run("diff", "old.policy", "new.policy").code == 0
    ended = run("diff", "old.policy", "new.policy", "--all")
    assert (ended.code, "reasons: deny -> deny" in ended.out) == (1, True)
    assert run("diff", "old.policy", "new.policy", "--all", "--fail-on", "widening").code == 0


# ── Recorded decisions ────────────────────────────────────────────────────────────────────────


def question(size: int) -> dict:
    return {
        "request": {"method": "POST", "path": "/notes", "size": size},
        "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"},
        "credential": {"issuer": "acme", "scopes": ["notes"]},
    }  # fmt: skip


@pytest.fixture
def log(tmp_path):
    from policyengine.audit import DecisionLog
    from policyengine.engine import Engine

    kept = DecisionLog(tmp_path / "decisions.jsonl")
    engine = Engine.from_text(OLD, log=kept)
    ids = [engine.decide(question(size)).id for size in (10, 1500, 1600, 3000)]
    kept.close()
    return ids


def test_diff_counts_and_names_recorded_decisions_that_flip(run, policies, log):
    policies(old=OLD, new=WIDER)
    ended = run("diff", "old.policy", "new.policy", "--log", "decisions.jsonl")
    assert "2 recorded decisions of 4 in `decisions.jsonl` flip" in ended.out
    assert f"widening: deny -> allow: 2 ({log[1]}, {log[2]})" in ended.out
    found = run("diff", "old.policy", "new.policy", "--log", "decisions.jsonl", "--format", "json").json["log"]
    assert (found["records"], [one["id"] for one in found["flips"]]) == (4, [log[1], log[2]])


def test_decisions_recorded_by_another_policy_are_compared_with_the_new_one(run, policies, log):
    policies(old=WIDER, new=WIDER)
    ended = run("diff", "old.policy", "new.policy", "--log", "decisions.jsonl", "--fail-on", "widening")
    assert (ended.code, "2 recorded decisions of 4" in ended.out) == (1, True)
    assert f"widening: recorded deny -> allow: 2 ({log[1]}, {log[2]})" in ended.out


def test_diff_reports_a_log_without_flipped_decisions(run, policies, log):
    policies(old=OLD, new=OLD.replace("POST /notes {", "POST /notes/** {"))
    ended = run("diff", "old.policy", "new.policy", "--log", "decisions.jsonl")
    assert "0 recorded decisions of 4" in ended.out

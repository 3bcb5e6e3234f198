"""Mutants and tests: who is killed by what, who survives, and how that is told."""

from __future__ import annotations

import json
import re

import pytest

from policyengine.testing.mutation import FailingTestError, MutantStatus, MutationReport, mutants, mutate, run
from tests.testing.mutation.faulty import checked, example

POLICY = """
facts on /a { body.amount: int }
anyone { may GET /a, POST /a }
guard "large" on POST /a {
  deny when body.amount > 500 message "too much"
  confirm by user when body.amount > 100
}
"""
HALF = """
test "amounts" {
  given user "ann"
  GET /a => allow
  POST /a { body.amount: 100 } => allow
  POST /a { body.amount: 501 } => deny by "large"
}
"""
MOVED = 'move a bound in guard "large": deny when body.amount > 501 message "too much"'
CONFIRMS = """test "confirms" {
  given user "ann"
  POST /a { body.amount: 500 } => confirm by "large"
  POST /a { body.amount: 101 } => confirm by "large"
}
"""


def report(*more: str, limit: int | None = None, seed: int = 0) -> MutationReport:
    return mutate(checked(POLICY + HALF + "\n".join(more)), limit=limit, seed=seed)


def fate(found: MutationReport, name: str) -> MutantStatus:
    [outcome] = [one for one in found.outcomes if one.name == name]
    return outcome.fate


def test_a_failing_test_kills_the_mutant() -> None:
    [outcome] = [one for one in report().outcomes if one.name == MOVED]
    assert outcome.fate is MutantStatus.KILLED
    assert outcome.killer is not None
    assert (outcome.killer.test, outcome.killer.request) == ("amounts", "POST /a { body.amount: 501 }")
    assert outcome.killer == outcome.asked[-1]


def test_a_mutant_survives_until_a_test_kills_it() -> None:
    dropped = 'drop a line of a guard in guard "large": confirm by user when body.amount > 100'
    assert fate(report(), dropped) is MutantStatus.SURVIVED
    assert fate(report(CONFIRMS), dropped) is MutantStatus.KILLED


def test_mutation_runs_only_the_selected_tests() -> None:
    policy = checked(POLICY + HALF + CONFIRMS)
    found = mutate(policy, tests=frozenset({("main", "confirms")}))
    assert {shown.test for outcome in found.outcomes for shown in outcome.asked} == {"confirms"}


def test_a_request_that_a_mutant_cannot_affect_is_not_run() -> None:
    asked = [one.asked for one in report().outcomes if one.operator == "move a bound"]
    assert asked
    assert all(shown.request != "GET /a" for shown in sum(asked, ()))


def test_a_survivor_is_shown_as_a_unified_diff() -> None:
    [outcome] = [one for one in report().survivors if "confirm by user when body.amount > 101" in one.name]
    assert outcome.diff == "\n".join([
        "--- 0.policy", "+++ 0.policy", "@@ -4,5 +4,5 @@",
        ' guard "large" on POST /a {', '   deny when body.amount > 500 message "too much"',
        "-  confirm by user when body.amount > 100", "+  confirm by user when body.amount > 101", " }", " ",
    ])  # fmt: skip
    assert outcome.line == 6


def test_a_mutant_of_an_uncovered_rule_is_reported_as_uncovered() -> None:
    more = 'agent "bot" { issued by i  acts alone  may GET /c }\nissuer i { url "https://i.example"  scopes none }'
    [outcome] = [
        one
        for one in report(more).outcomes
        if one.name == 'drop a may in agent "bot": agent "bot" { issued by i acts alone }'
    ]
    assert outcome.asked == ()
    assert "no test covers this" in outcome.render()


def test_mutants_see_the_approvals_spent_by_earlier_requests() -> None:
    approved = """guard "twice" on GET /a { confirm by role boss within 5m }
    entity user { roles: set<string> }
    test "spent" {
      given user "ann"
      given entities { user "eve" { roles: ["boss"] } }
      given approval { rule: "twice", by: "eve" }
      GET /a => allow
      GET /a => confirm by "twice"
      given approval { rule: "twice", by: "eve", age: 5m }
      GET /a => allow
      given approval { rule: "twice", by: "eve", age: 6m }
      GET /a => confirm by "twice"
    }"""
    found = mutate(checked(POLICY + approved))
    bounds = [one for one in found.outcomes if one.operator == "move a bound" and "within" in one.name]
    assert [one.fate for one in bounds] == [MutantStatus.KILLED, MutantStatus.KILLED]


@pytest.mark.parametrize(
    ("shots", "survivors"),
    [
        ('GET /a { approval: { rule: "asks", by: "eve", issuer: acme } } => allow', 1),
        ('GET /a { approval: { rule: "asks", by: "eve", issuer: partner } } => confirm', 0),
        ('GET /a { approval: { rule: "asks", by: "eve" } } => confirm', 1),
    ],
)
def test_tests_must_notice_another_issuer_of_approvers(shots: str, survivors: int) -> None:
    asks = f"""issuer acme {{ scopes none }}
    issuer partner {{ scopes none }}
    guard "asks" on GET /a {{ confirm by role boss from acme within 5m }}
    entity user {{ roles: set<string> }}
    test "asks" {{ given user "ann"  given entities {{ user "eve" {{ roles: ["boss"] }} }} {shots} }}"""
    found = mutate(checked(POLICY + asks))
    changed = [one for one in found.outcomes if "from" in one.render() and one.operator == "change who approves"]
    dropped = [one for one in changed if "by role boss within 5m" in one.name or "from partner" in one.name]
    assert [one.fate for one in dropped].count(MutantStatus.SURVIVED) == survivors


BOUND = """guard "asks" on GET /a { confirm by role boss within 5m bound to (body except body.id, request.host) }
entity user { roles: set<string> }
facts { body.id: string?  body.amount: int? }
fixture asked {
  given user "ann"
  given entities { user "eve" { roles: ["boss"] } }
  given body { id: "1", amount: 1 }
  given request { host: "a.example" }
}
test "approved" { use asked  GET /a { approval: { rule: "asks", by: "eve" } } => allow  OTHERS }"""
NOTICED = (
    'GET /a { approval: { rule: "asks", by: "eve", of: { body.id: "2" } } } => allow',
    'GET /a { approval: { rule: "asks", by: "eve", of: { body.amount: 2 } } } => confirm',
    'GET /a { approval: { rule: "asks", by: "eve", of: { request.host: "b.example" } } } => confirm',
    'GET /a { approval: { rule: "asks", by: "eve", of: { request.query: { x: "1" } } } } => allow',
)


@pytest.mark.parametrize(("shown", "killed"), [((), 0), (NOTICED[:1], 2), (NOTICED, 4)])
def test_approvals_of_other_requests_kill_mutants_of_the_approval_binding(shown: tuple[str, ...], killed: int) -> None:
    found = mutate(checked(POLICY + BOUND.replace("OTHERS", "  ".join(shown))))
    bound = [one for one in found.outcomes if one.operator == "change what is approved"]
    assert len(bound) == 4
    assert [one.fate for one in bound].count(MutantStatus.KILLED) == killed


def test_mutation_rejects_a_policy_whose_tests_fail() -> None:
    with pytest.raises(FailingTestError, match="test `wrong` fails on the unchanged policy"):
        report('test "wrong" { GET /a => deny }')


def test_each_mutant_has_its_own_kernel() -> None:
    policy = checked(POLICY)
    gone = [one.kernel for one in mutants(policy) if one.fault.operator == "drop a guard"]
    assert [kernel.guards for kernel in gone] == [()]


# ── Survivors that are explained ──────────────────────────────────────────────────────────────

SURVIVOR = 'move a bound in guard "large": confirm by user when body.amount > 101'


CLOSER = 'test "closer" { given user "u"  POST /a { body.amount: 101 } => confirm by "large" }'


def explained(text: str, *more: str) -> MutationReport:
    return report(f"# survives: {text}\n", *more)


def test_an_explanation_accepts_only_its_own_survivor() -> None:
    before, after = report(), explained(f"{SURVIVOR} because nobody counts so closely")
    assert {one.name for one in before.survivors} - {one.name for one in after.survivors} == {SURVIVOR}
    [outcome] = [one for one in after.outcomes if one.fate is MutantStatus.EXPLAINED]
    assert outcome.reason == "nobody counts so closely"
    assert after.stale == ()


def test_the_reason_of_an_explanation_may_contain_because() -> None:
    [one] = [one for one in explained(f"{SURVIVOR} because it is, because I say so").outcomes if one.reason]
    assert one.reason == "it is, because I say so"


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        (f"{SURVIVOR} because x", CLOSER, "a test now detects the mutant"),
        (f"{MOVED} because it is noticed", "", "a test now detects the mutant"),
        (f"{SURVIVOR}9 because the line is another one", "", "no mutant has this name"),
        (SURVIVOR, "", "the reason is missing: add `because …`"),
        (f"{SURVIVOR} because a\n# survives: {SURVIVOR} because b", "", "another comment already explains it"),
    ],
)
def test_an_explanation_without_a_survivor_is_reported_as_stale(text: str, more: str, why: str) -> None:
    found = explained(text, more)
    assert [one.why for one in found.stale] == [why]
    assert not found.ok
    assert found.stale[0].render().startswith("0.policy:")


def test_a_trailing_comment_is_not_an_explanation() -> None:
    found = report(f"enum e = a # survives: {SURVIVOR} because x\n")
    assert found.stale == ()
    assert SURVIVOR in {one.name for one in found.survivors}


# ── Reports ───────────────────────────────────────────────────────────────────────────────────


def test_the_score_is_the_share_of_killed_mutants() -> None:
    found = report()
    killed, survived = found.counts[MutantStatus.KILLED], found.counts[MutantStatus.SURVIVED]
    assert 0 < found.score < 100
    assert found.score == 100 * killed / (killed + survived)
    assert not found.ok


def test_the_json_report_lists_every_mutant() -> None:
    found = report()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["tried"] == data["made"] == len(data["mutants"]) == sum(found.counts.values())
    assert sum(sum(counts.values()) for counts in data["operators"].values()) == data["tried"]
    [killed] = [one for one in data["mutants"] if one["name"] == MOVED]
    assert killed["killed_by"] == {"test": "amounts", "request": "POST /a { body.amount: 501 }", "at": "0.policy:13"}
    survivors = [one for one in data["mutants"] if one["fate"] == "survived"]
    assert all(one["diff"].startswith("--- 0.policy") for one in survivors)


def test_coloured_output_adds_only_colours() -> None:
    found = report()
    assert "\033" not in found.render()
    assert re.sub(r"\033\[\d*m", "", found.render(colour=True)) == found.render()


def test_the_same_seed_selects_the_same_sample() -> None:
    one, again, other = (report(limit=8, seed=seed) for seed in (1, 1, 2))
    assert one.to_dict() == again.to_dict()
    assert [o.name for o in one.outcomes] != [o.name for o in other.outcomes]
    assert len(one.outcomes) == 8
    assert f"8 mutants of {one.made} (seed 1)" in one.summary


def test_an_explanation_of_an_untried_mutant_is_not_stale() -> None:
    assert mutate(checked(f"{POLICY}{HALF}# survives: {MOVED} because x\n"), limit=0).stale == ()


def test_several_processes_report_the_same_as_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, done = example("delegation"), []
    alone = mutate(policy, limit=24)
    monkeypatch.setattr(run, "MIN_PARALLEL_FAULTS", 1)
    monkeypatch.setattr(run, "_run_here", lambda *_: pytest.fail("they ran in this process"))
    together = mutate(policy, limit=24, jobs=2, progress=lambda: done.append(1))
    assert together.to_dict() == alone.to_dict()
    assert len(done) == len(alone.outcomes)

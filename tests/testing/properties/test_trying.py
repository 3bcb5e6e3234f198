"""What a claim comes to: how much is tried, what is kept as given, what is told, and how small it gets."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.diagnostics.model import format_location
from policyengine.testcases import Case
from policyengine.testing import ResultStatus, collect, run
from policyengine.testing.properties import ClaimVerdict, HypothesisMissingError, PropertyResult, try_properties
from tests import forking
from tests.depth import examples as sized
from tests.depth import scaled
from tests.testing.properties.trials import OF_PAYMENTS, PAYMENTS, checked, tried, with_hole

BROKEN = with_hole((PAYMENTS,), "  require same_tenant\n", "  audit full\n")
ISLANDS = "forall request where user.tenant != resource.tenant => not allow"
OFFICE = """
fixture office {
  given time 2026-03-02T10:00:00Z
  given request { ip: 10.1.2.3 }
  given entities {
    user "alice" { roles: ["clerk"], tenant: "acme", plan: team }
    user "carol" { roles: ["finance"], tenant: "acme", plan: team }
    invoice "42" { tenant: "acme" }
    invoice "66" { tenant: "evil" }
  }
  given agent "invoice-bot" from acme for user "alice"
  given credential { kind: jwt, scopes: ["write:invoices", "create:refunds"], lifetime: 10m, bound: true }
}
"""


def one(inside: str, *texts: str, seed: int = 0, examples: int = 200) -> PropertyResult:
    [result] = tried(texts or (PAYMENTS,), f'{OF_PAYMENTS}{OFFICE}test "c" {{ {inside} }}', seed, examples)
    return result


def counterexample(result: PropertyResult) -> Case:
    assert result.counterexample is not None, result.render()
    return result.counterexample


# ── Verdicts ──────────────────────────────────────────────────────────────────────────────────


def test_a_true_claim_passes_after_the_requested_number_of_examples() -> None:
    result = one(ISLANDS, examples=70)
    assert (result.verdict, result.examples) == (ClaimVerdict.PASSED, 70)
    assert result.drawn >= 70


def test_a_claim_about_impossible_requests_is_undecided_and_does_not_pass() -> None:
    result = one("forall request where request.size > 5 and request.size < 3 => deny", examples=20)
    assert (result.verdict, result.ok, result.examples) == (ClaimVerdict.UNDECIDED, False, 0)
    assert result.drawn > 0
    assert "0 of " in result.in_short
    assert "20 are needed" in result.render()


def test_a_skipped_claim_is_not_tried() -> None:
    result = one(f'skip "later" {ISLANDS}', *BROKEN)
    assert (result.verdict, result.ok, result.examples) == (ClaimVerdict.SKIPPED, True, 0)


def test_the_same_seed_tries_the_same_requests() -> None:
    first, again = (one(ISLANDS, *with_hole((PAYMENTS,), "/**, ACTION view invoice,", "/**,")) for _ in range(2))
    assert (first.text, first.examples, first.drawn) == (again.text, again.examples, again.drawn)


def test_different_seeds_try_different_requests() -> None:
    hole = with_hole((PAYMENTS,), "  require same_tenant\n", "  require same_tenant or user.plan == enterprise\n")
    assert len({one(ISLANDS, *hole, seed=seed).drawn for seed in range(4)}) > 1


def test_claims_of_one_test_are_tried_separately() -> None:
    claims = f'{OF_PAYMENTS}test "c" {{ {ISLANDS} forall request where user.id is absent => not confirm }}'
    results = tried(BROKEN, claims, examples=30)
    assert [(r.prop.number, r.verdict) for r in results] == [(1, ClaimVerdict.FAILED), (2, ClaimVerdict.PASSED)]


@scaled
@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ('where user.tenant != resource.tenant => deny by "tenants are islands"', ClaimVerdict.FAILED),
        ('where user.tenant != resource.tenant and request.path == "/v1/invoices/66" => deny',
         ClaimVerdict.PASSED),
        ('where request.path == "/health" => allow', ClaimVerdict.FAILED),  # of other methods, or one segment further
        ('where request.path == "/health" and request.method == "GET" => allow', ClaimVerdict.PASSED),
        ("=> not throttle", ClaimVerdict.PASSED),
        ("where time >= 2036-01-01 and agent.id == \"invoice-bot\" and request.path like \"/v1/*\" => not allow",
         ClaimVerdict.PASSED),
    ],
)  # fmt: skip
def test_any_expectation_can_be_claimed(claim: str, verdict: ClaimVerdict) -> None:
    result = one(f"forall request {claim}", examples=sized(40, 200))
    assert result.verdict is verdict, result.render()


# ── What the world gives ──────────────────────────────────────────────────────────────────────


def test_given_facts_are_never_changed_in_counterexamples() -> None:
    case = counterexample(one("use office forall request where body.amount > 400 => not allow"))
    assert case.now.isoformat() == "2026-03-02T10:00:00+00:00"
    question = case.question
    assert question["agent"] == {"id": "invoice-bot", "issuer": "acme"}
    assert question["user"] == {"id": "alice"}
    assert question["credential"] == {
        "issuer": "acme", "kind": "jwt", "scopes": ("write:invoices", "create:refunds"),
        "lifetime": timedelta(minutes=10), "bound": True,
    }  # fmt: skip


def test_a_fact_given_as_absent_is_never_drawn() -> None:
    result = one("use office given request.size absent forall request where request.size > 0 => deny", examples=20)
    assert (result.verdict, result.examples) == (ClaimVerdict.UNDECIDED, 0)


def test_a_counterexample_leaves_out_irrelevant_entity_rows() -> None:
    result = one('use office forall request where request.path == "/v1/invoices/42" => not allow')
    assert result.text is not None
    assert 'invoice "42"' in result.text
    assert 'user "carol"' not in result.text
    assert 'invoice "66"' not in result.text


# ── How small it gets ─────────────────────────────────────────────────────────────────────────


def test_a_counterexample_has_no_removable_line_or_fact() -> None:
    case = counterexample(one(ISLANDS, *BROKEN))
    assert {str(ref): sorted(row.attributes) for ref, row in case.rows.items()} == {
        'user "alice"': ["roles", "tenant"], 'invoice "1"': ["tenant"],
    }  # fmt: skip
    found = one(ISLANDS, *BROKEN).text
    assert found is not None
    lines = found.splitlines()
    given = [index for index, line in enumerate(lines) if line.startswith("  given ") and not line.endswith("{")]
    for index in given:
        less = "\n".join(line for number, line in enumerate(lines) if number != index)
        pasted = checked(*BROKEN, OF_PAYMENTS + less)
        assert pasted.kernel is not None
        assert run(collect(pasted), pasted.kernel).results[0].status is ResultStatus.PASSED, lines[index]


def test_a_counterexample_shrinks_numbers_to_the_wrong_bound() -> None:
    hole = with_hole((PAYMENTS,), "when body.amount > 500 message", "when body.amount > 501 message")
    claim = (
        'forall request where request.path like "*/refunds" and body.amount > 500 and not approval.granted => not allow'
    )
    case = counterexample(one(claim, *hole))
    assert case.question["body"] == {"amount": 501}


# ── Output ──────────────────────────────────────────────────────────────────────────────


def test_a_failed_claim_shows_its_place_request_outcomes_and_a_test() -> None:
    result = one(ISLANDS, *BROKEN)
    told = result.render().splitlines()
    assert told[0] == f'{format_location(result.prop.span)}: failed test "c"'
    assert told[1].strip().startswith("test")
    assert "^" * len(ISLANDS) in told[2]
    assert f"  request:  {counterexample(result).request}" in told
    assert "  expected: not allow" in told
    assert "  actual:   allow" in told
    assert '    test "c: counterexample to 1" {' in told
    assert any(line.startswith("    ✓ door") for line in told)


def test_property_results_convert_to_json() -> None:
    failed = one(ISLANDS, *BROKEN)
    found = failed.to_dict()
    assert found["claim"] == ISLANDS
    assert (found["status"], found["expected"], found["line"]) == ("failed", "not allow", failed.prop.span.line)
    assert found["counterexample"] == failed.text
    assert found["result"]["outcome"] == "allow"
    assert "counterexample" not in one(ISLANDS, examples=20).to_dict()
    assert one(f'skip "later" {ISLANDS}').to_dict()["reason"] == "later"


def test_the_error_about_missing_hypothesis_states_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(PAYMENTS, f'{OF_PAYMENTS}test "c" {{ {ISLANDS} }}')
    assert found.kernel is not None
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(HypothesisMissingError, match="`hypothesis`, which is not installed") as caught:
        try_properties(found.properties, found.kernel)
    assert caught.value.hint == "in a checkout of policyengine: `pip install -c constraints.txt '.[testing]'`"


def test_policies_without_claims_do_not_need_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(PAYMENTS)
    assert found.kernel is not None
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert try_properties(found.properties, found.kernel) == ()


def test_the_page_shows_the_printed_output() -> None:
    page = (Path(__file__).parents[3] / "docs" / "properties.md").read_text(encoding="utf-8")
    policy, _ = re.findall(r"^```policy\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    [shown] = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    found = checked(policy)
    assert found.kernel is not None
    verdicts = [one.verdict for one in try_properties(found.properties, found.kernel, examples=30)]
    assert verdicts == [ClaimVerdict.PASSED] * 2
    [guard] = re.findall(r"^guard .*?^}$", policy, re.DOTALL | re.MULTILINE)
    without = checked(policy.replace(guard, ""))
    assert without.kernel is not None
    assert shown in try_properties(without.properties, without.kernel)[0].render() + "\n"


TWO_HOUSES = """issuer ours { url "https://a"   records chains }
issuer theirs { url "https://b"   records chains }
scope notes { POST /notes }
user any { may notes }
agent "planner" { issued by ours   acts for any user   may notes   may delegate notes to agent "courier" }
agent "courier" { issued by theirs   acts for any user   may notes }
"""
HANDED_ON = """test "t" { forall request where chain.root == "planner" => not allow }
"""


def test_a_counterexample_can_delegate_to_an_agent_of_another_issuer() -> None:
    (result,) = tried((TWO_HOUSES,), HANDED_ON)
    assert result.verdict is ClaimVerdict.FAILED


IN_YEARS = """anyone { may POST /notes when time > 2031-01-01 and time within sat..sun "Europe/Berlin" }
"""
NEVER = """test "t" { forall request where request.method == "POST" => not allow }
"""


def test_a_counterexample_can_need_a_weekend_years_ahead() -> None:
    (result,) = tried((IN_YEARS,), NEVER)
    assert result.verdict is ClaimVerdict.FAILED


def test_claims_write_no_files_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.policy").write_text(
        'anyone { may GET /a }\ntest "t" { forall request where request.path == "/c" => not allow }\n'
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HYPOTHESIS_STORAGE_DIRECTORY", raising=False)
    # Hypothesis reads the source of modules and caches what it finds: here that of one which no process has read yet.
    (tmp_path / "unread.py").write_text("NUMBER = 4_711\n")
    unread = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import unread; del sys.path[0]; {forking.COMMAND}"
    command = forking.code("claims", unread)
    done = subprocess.run([*command, "test", "."], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "1 passed\n"
    assert [file.name for file in folder.iterdir()] == ["a.policy"]
    assert (tmp_path / "cache" / "policyengine" / "hypothesis").is_dir()

"""Policies in pytest: their tests are items, and Python tests ask them by the fixture `policy`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from policyengine.testing.pytest import collect, fixture
from tests import forking

pytest_plugins = ["pytester"]
LOADED = (fixture, collect)  # what a run in this process loads first it takes away again: the next would load it anew

POLICY = """package shop
entity user { tenant: string }
entity order { tenant: string }
scope orders.read { GET /orders/{id: order} }
issuer idp { url "https://idp.example" }
anyone { may GET /health }
users unrestricted
agent "clerk" { issued by idp   acts for any user   may orders.read }
guard "own tenant only" on /orders/** { require user.tenant == resource.tenant }
guard "approved deletes" on DELETE /orders/** { confirm by user within 5m }
"""
TESTS = """package shop
fixture clerk {
  given agent "clerk" from idp for user "ann"
  given credential { scopes: ["orders.read"] }
  given user.tenant "a"
}
test "clerk's orders" {
  use clerk
  GET /orders/1 { resource.tenant: "a" } => allow
  GET /orders/2 { resource.tenant: "b" } => deny by "own tenant only"
}
test "health" { GET /health => allow }
test "later" { skip "waits for the shop" GET /shop => allow }
test "islands" { forall request where user.tenant != resource.tenant => not allow }
"""
PLUGIN = ("-p", "policyengine.testing.pytest.plugin", "-p", "no:cacheprovider", "-p", "no:unraisableexception")
FEW = ("--policies-examples", "25")
ITEMS = [
    'shop_test.policy::clerk\'s orders::1 GET /orders/1 { resource.tenant: "a" }',
    'shop_test.policy::clerk\'s orders::2 GET /orders/2 { resource.tenant: "b" }',
    "shop_test.policy::health::1 GET /health",
    "shop_test.policy::later::1 GET /shop",
    "shop_test.policy::islands::1 forall request where user.tenant != resource.tenant => not allow",
]


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.path.joinpath("shop.policy").write_text(POLICY, encoding="utf-8")
    pytester.path.joinpath("shop_test.policy").write_text(TESTS, encoding="utf-8")
    return pytester


def ran(shop: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the tests; claims are tried with fewer requests than by default, unless `options` say how many."""
    return shop.runpytest_inprocess(*PLUGIN, *FEW, *options)


def broken(shop: pytest.Pytester, sound: str, other: str, file: str = "shop.policy") -> None:
    path = shop.path / file
    text = path.read_text(encoding="utf-8")
    assert sound in text
    path.write_text(text.replace(sound, other), encoding="utf-8")


# ── What is collected ─────────────────────────────────────────────────────────────────────────


def test_the_plugin_collects_no_policies_by_default(shop: pytest.Pytester) -> None:
    assert ran(shop).ret is pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_option_a_setting_or_a_file_argument_collects_policies(shop: pytest.Pytester) -> None:
    for options in (["--policies"], ["-o", "policies=true"], ["shop_test.policy"]):
        ran(shop, *options).assert_outcomes(passed=4, skipped=1)


def test_items_are_named_by_file_test_number_and_request(shop: pytest.Pytester) -> None:
    items = ran(shop, "--policies", "--collect-only", "-q").outlines
    assert [line for line in items if "::" in line] == ITEMS


def test_names_select_items(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "-k", "health").assert_outcomes(passed=1, deselected=4)
    ran(shop, ITEMS[1]).assert_outcomes(passed=1)


def test_a_skipped_item_shows_its_reason(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "-rs").stdout.fnmatch_lines(["SKIPPED*waits for the shop"])


def test_a_file_without_tests_loads_no_policies(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("a.policy").write_text("no policy at all", encoding="utf-8")
    assert ran(pytester, "--policies").ret is pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_plugin_imports_no_other_policyengine_module() -> None:
    code = (
        "import sys, pytest, policyengine.testing.pytest.plugin; print([m for m in sys.modules if m[:6] == 'policy'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    packages = ["policyengine", "policyengine.testing", "policyengine.testing.pytest"]
    assert loaded == str([*packages, "policyengine.testing.pytest.plugin"])


def test_the_package_registers_the_plugin_as_an_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = "policyengine.testing.pytest.plugin"
    assert project["entry-points"]["pytest11"] == {name: name}


# ── What comes of it ──────────────────────────────────────────────────────────────────────────


def test_a_failure_is_reported_as_the_test_runner_reports_it(shop: pytest.Pytester) -> None:
    broken(shop, '{ resource.tenant: "a" } => allow', '{ resource.tenant: "b" } => allow', "shop_test.policy")
    result = ran(shop, "--policies", "-rf")
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    result.stdout.fnmatch_lines([
        "shop_test.policy:9:3: failed test \"clerk's orders\"",
        "  expected: allow",
        "  actual:   deny by guard \"own tenant only\"*",
        "  walk:",
        "FAILED shop_test.policy::clerk's orders::1 GET /orders/1*",
    ])  # fmt: skip


def test_exit_first_stops_after_the_first_failure(shop: pytest.Pytester) -> None:
    broken(shop, "require user.tenant == resource.tenant", "audit full")
    ran(shop, "--policies", "-x").assert_outcomes(passed=1, failed=1)


def test_a_failed_claim_prints_a_counterexample_test(shop: pytest.Pytester) -> None:
    broken(shop, "require user.tenant == resource.tenant", "audit full")
    result = shop.runpytest_inprocess(*PLUGIN, "--policies", "-k", "islands")
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(['    test "islands: counterexample to 1" {', "*GET /orders/1 => not allow"])


def test_the_seed_and_examples_options_are_accepted(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "--policies-seed", "7", "--policies-examples", "30").assert_outcomes(passed=4, skipped=1)


def test_an_error_in_a_test_file_is_a_collection_error(shop: pytest.Pytester) -> None:
    broken(shop, "GET /health => allow", "GET /health => allaw", "shop_test.policy")
    result = ran(shop, "--policies")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["shop_test.policy:12:*: E*", "*^^^*"])


def test_an_error_in_another_policy_file_names_its_place(shop: pytest.Pytester) -> None:
    broken(shop, "user.tenant == resource.tenant", "user.tenent == resource.tenant")
    result = ran(shop, "--policies")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the policies of this file have errors:", "shop.policy:9:*: E*tenent*"])


def test_junit_has_every_item(shop: pytest.Pytester) -> None:
    broken(shop, "GET /health => allow", "GET /health => deny", "shop_test.policy")
    ran(shop, "--policies", "--junitxml", "found.xml")
    cases = ElementTree.parse(shop.path / "found.xml").getroot().iter("testcase")
    found = {str(case.get("name")): [child.tag for child in case] for case in cases}
    assert found["1 GET /health"] == ["failure"]
    assert found["1 GET /shop"] == ["skipped"]
    assert len(found) == len(ITEMS)


def test_several_processes_run_the_same_items(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", forking.python())
    python = f"2*popen//python={forking.python()}"  # workers are forked: each would import everything for a second
    result = shop.runpytest_subprocess(*PLUGIN, "-p", "xdist", "--policies", "--dist", "load", "--tx", python, "-v")
    result.assert_outcomes(passed=4, skipped=1)


def test_a_single_selected_item_sees_approvals_spent_by_earlier_requests(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("a.policy").write_text("""
        entity user { roles: set<string> }
        user any { may POST /pay }
        issuer idp { scopes none }
        guard "two eyes" on POST /pay { confirm by role finance within 1h }
        test "once" {
          given user "ann"
          given credential { issuer: "idp" }
          given entities { user "bob" { roles: ["finance"] } }
          given approval { rule: "two eyes", by: "bob" }
          POST /pay => allow
          POST /pay => confirm by "two eyes"
        }
    """, encoding="utf-8")  # fmt: skip
    ran(pytester, "--policies").assert_outcomes(passed=2)
    ran(pytester, "a.policy::once::2 POST /pay").assert_outcomes(passed=1)


# ── The page ──────────────────────────────────────────────────────────────────────────────────


def test_the_examples_on_the_page_run(shop: pytest.Pytester) -> None:
    """Its setting, and its Python test of the policy that stands there."""
    page = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text(encoding="utf-8")
    [policy_], [python], [setting] = (
        re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for language in ("policy", "py", "ini")
    )
    folder = shop.mkdir("health")
    folder.joinpath("health.policy").write_text(policy_, encoding="utf-8")
    shop.makeini(setting)
    shop.makepyfile(python)
    ran(shop, "health", *map(str, shop.path.glob("test_*.py"))).assert_outcomes(passed=3)


# ── The fixture ───────────────────────────────────────────────────────────────────────────────


FIXTURE_TESTS = [
    'def test_{}(policy): assert policy("shop.policy").allows("GET /health")',
    '@pytest.mark.policy("shop.policy")\ndef test_{}(policy): assert policy.allows("GET /health")',
    'def test_{}(policy): assert policy("shop.policy").decide("GET /x").outcome == "deny"',
    'def test_{}(policy): assert policy("shop.policy").engine.packages == ("shop",)',
    'def test_{}(policy): assert not policy("shop.policy").allows({"request": {"method": "GET", "path": "/x"}})',
    'def test_{}(policy): assert policy("shop.policy").allows(request={"method": "GET", "path": "/health"})',
    'def test_{}(policy): assert policy("shop.policy").allows("GET /health", request={"ip": "10.0.0.1"})',
    'def test_{}(policy): assert not policy("shop.policy").allows("GET /orders/1", agent="clerk", user="ann")',
    'def test_{}(policy): assert not policy("shop.policy").allows("TOOL mail/send")',
    'def test_{}(policy): assert not policy("shop.policy").allows(\'ACTION view order "1"\')',
]


def test_the_policy_fixture_decides_requests(shop: pytest.Pytester) -> None:
    tests = [text.replace("{}", str(number), 1) for number, text in enumerate(FIXTURE_TESTS)]
    shop.makepyfile("\n".join(["import pytest", *tests]))
    ran(shop).assert_outcomes(passed=len(FIXTURE_TESTS))


def test_the_policy_fixture_reads_the_policy_paths_setting(shop: pytest.Pytester) -> None:
    shop.makeini("[pytest]\npolicy_paths = shop.policy")
    shop.makepyfile('def test_a(policy): assert policy.allows("GET /health")')
    ran(shop).assert_outcomes(passed=1)


def test_a_failed_assertion_shows_the_decision(shop: pytest.Pytester) -> None:
    shop.makepyfile('def test_a(policy): assert policy("shop.policy").allows("GET /x")')
    ran(shop).stdout.fnmatch_lines(["E*assert deny*", "E*deny by identity*"])


def test_the_policy_fixture_reports_missing_policy_paths(shop: pytest.Pytester) -> None:
    shop.makepyfile('def test_a(policy): policy.allows("GET /x")')
    ran(shop).stdout.fnmatch_lines(["*no policies: call `policy(*"])

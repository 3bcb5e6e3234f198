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
    return shop.runpytest_inprocess(*PLUGIN, *options)


def broken(shop: pytest.Pytester, sound: str, other: str, file: str = "shop.policy") -> None:
    path = shop.path / file
    text = path.read_text(encoding="utf-8")
    assert sound in text
    path.write_text(text.replace(sound, other), encoding="utf-8")


# ── What is collected ─────────────────────────────────────────────────────────────────────────


def test_policies_are_left_alone_unless_they_are_asked_for(shop: pytest.Pytester) -> None:
    assert ran(shop).ret is pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_option_or_a_setting_asks_for_them_and_so_does_naming_a_file(shop: pytest.Pytester) -> None:
    for options in (["--policies"], ["-o", "policies=true"], ["shop_test.policy"]):
        ran(shop, *options).assert_outcomes(passed=4, skipped=1)


def test_items_are_named_by_file_test_number_and_request(shop: pytest.Pytester) -> None:
    items = ran(shop, "--policies", "--collect-only", "-q").outlines
    assert [line for line in items if "::" in line] == ITEMS


def test_names_choose_among_them(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "-k", "health").assert_outcomes(passed=1, deselected=4)
    ran(shop, ITEMS[1]).assert_outcomes(passed=1)


def test_what_is_skipped_says_why(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "-rs").stdout.fnmatch_lines(["SKIPPED*waits for the shop"])


def test_a_file_without_tests_loads_no_policies(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("a.policy").write_text("no policy at all", encoding="utf-8")
    assert ran(pytester, "--policies").ret is pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_plugin_itself_loads_nothing() -> None:
    code = (
        "import sys, pytest, policyengine.testing.pytest.plugin; print([m for m in sys.modules if m[:6] == 'policy'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    packages = ["policyengine", "policyengine.testing", "policyengine.testing.pytest"]
    assert loaded == str([*packages, "policyengine.testing.pytest.plugin"])


def test_whoever_installs_the_package_has_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = "policyengine.testing.pytest.plugin"
    assert project["entry-points"]["pytest11"] == {name: name}


# ── What comes of it ──────────────────────────────────────────────────────────────────────────


def test_a_failure_is_told_as_our_own_runner_tells_it(shop: pytest.Pytester) -> None:
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


def test_the_first_failure_can_be_the_last(shop: pytest.Pytester) -> None:
    broken(shop, "require user.tenant == resource.tenant", "audit full")
    ran(shop, "--policies", "-x").assert_outcomes(passed=1, failed=1)


def test_a_claim_that_does_not_hold_prints_a_test_that_shows_it(shop: pytest.Pytester) -> None:
    broken(shop, "require user.tenant == resource.tenant", "audit full")
    result = ran(shop, "--policies", "-k", "islands")
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(['    test "islands: counterexample to 1" {', "*GET /orders/1 => not allow"])


def test_claims_are_tried_with_the_seed_and_the_number_that_are_given(shop: pytest.Pytester) -> None:
    ran(shop, "--policies", "--policies-seed", "7", "--policies-examples", "30").assert_outcomes(passed=4, skipped=1)


def test_mistakes_in_policies_are_errors_of_collection(shop: pytest.Pytester) -> None:
    broken(shop, "GET /health => allow", "GET /health => allaw", "shop_test.policy")
    result = ran(shop, "--policies")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["shop_test.policy:12:*: E*", "*^^^*"])


def test_a_mistake_elsewhere_says_where(shop: pytest.Pytester) -> None:
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


def test_several_processes_run_the_same_items(shop: pytest.Pytester) -> None:
    result = shop.runpytest_subprocess(*PLUGIN, "-p", "xdist", "--policies", "-n", "2", "-v")
    result.assert_outcomes(passed=4, skipped=1)


def test_what_an_earlier_request_spent_is_spent_also_where_it_is_not_asked_for(pytester: pytest.Pytester) -> None:
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


def test_what_the_page_shows_works(shop: pytest.Pytester) -> None:
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


@pytest.mark.parametrize(
    "inside",
    [
        'def test_a(policy): assert policy("shop.policy").allows("GET /health")',
        '@pytest.mark.policy("shop.policy")\ndef test_a(policy): assert policy.allows("GET /health")',
        'def test_a(policy): assert policy("shop.policy").decide("GET /x").outcome == "deny"',
        'def test_a(policy): assert policy("shop.policy").engine.packages == ("shop",)',
        'def test_a(policy): assert not policy("shop.policy").allows({"request": {"method": "GET", "path": "/x"}})',
        'def test_a(policy): assert policy("shop.policy").allows(request={"method": "GET", "path": "/health"})',
        'def test_a(policy): assert policy("shop.policy").allows("GET /health", request={"ip": "10.0.0.1"})',
        'def test_a(policy): assert not policy("shop.policy").allows("GET /orders/1", agent="clerk", user="ann")',
        'def test_a(policy): assert not policy("shop.policy").allows("TOOL mail/send")',
        'def test_a(policy): assert not policy("shop.policy").allows(\'ACTION view order "1"\')',
    ],
)
def test_the_fixture_asks_policies(shop: pytest.Pytester, inside: str) -> None:
    shop.makepyfile(f"import pytest\n{inside}")
    ran(shop).assert_outcomes(passed=1)


def test_the_fixture_asks_those_of_a_setting(shop: pytest.Pytester) -> None:
    shop.makeini("[pytest]\npolicy_paths = shop.policy")
    shop.makepyfile('def test_a(policy): assert policy.allows("GET /health")')
    ran(shop).assert_outcomes(passed=1)


def test_a_failed_assertion_shows_what_was_decided(shop: pytest.Pytester) -> None:
    shop.makepyfile('def test_a(policy): assert policy("shop.policy").allows("GET /x")')
    ran(shop).stdout.fnmatch_lines(["E*assert deny*", "E*deny by identity*"])


def test_the_fixture_says_when_it_does_not_know_whom_to_ask(shop: pytest.Pytester) -> None:
    shop.makepyfile('def test_a(policy): policy.allows("GET /x")')
    ran(shop).stdout.fnmatch_lines(["*no policies: call `policy(*"])

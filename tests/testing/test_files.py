"""Tests and fixtures over several files and packages, and that nothing of them is ever enforced."""

from pathlib import Path

import pytest

from policyengine.check import CheckResult, check
from policyengine.compiler.bundle.file import read_bundle, write_bundle
from policyengine.engine import Engine
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import ResultStatus, collect, run

POLICY = 'package shop\nentity user { roles: set<string> }\nuser where user.roles has "clerk" { may GET /a }\n'
PEOPLE = 'package shop\nfixture people { given entities { user "alice" { roles: ["clerk"] } } }\n'
TESTS = (
    'package shop\nfixture alice { use people   given user "alice"   given credential { scopes: [] } }\n'
    'test "a clerk" { use alice   GET /a => deny by default   GET /b => deny }\n'
)


def checked(**texts: str) -> CheckResult:
    parsed = [parse(Source(f"{name}.policy", text)) for name, text in texts.items()]
    assert not [finding for _, found in parsed for finding in found]
    return check([module for module, _ in parsed if module])


def told(found: CheckResult) -> list[tuple[str, str, str | None]]:
    return [(one.code, one.message, one.hint) for one in found.diagnostics]


def test_a_fixture_is_visible_in_all_files_of_its_package() -> None:
    found = checked(shop=POLICY, people=PEOPLE, shop_test=TESTS)
    assert found.kernel is not None
    assert {result.status for result in run(collect(found), found.kernel).results} == {ResultStatus.PASSED}
    first = found.cases[0]
    assert [str(ref) for ref in first.rows] == ['user "alice"']


def test_a_fixture_is_private_to_its_package() -> None:
    """Its facts, entities and words mean what they mean there."""
    other = 'package other\nimport shop\nanyone { may GET /o }\ntest "o" { use shop.people   GET /o => allow }\n'
    found = checked(shop=POLICY, people=PEOPLE, shop_test=TESTS, other=other)
    assert found.kernel is None
    message = "`shop.people` is private to package `shop`"
    assert told(found) == [("E208", message, "fixtures are private to their package: declare one here")]


def test_a_fixture_cannot_be_exported() -> None:
    _, [finding] = parse(Source("a.policy", 'export fixture a { given user "x" }\n'))
    assert (finding.code, finding.span.text) == ("E129", "fixture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("shop", POLICY), ("people_test", PEOPLE), ("shop_test", TESTS)):
        (tmp_path / f"{name}.policy").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_engine_ignores_test_files(folder: Path) -> None:
    loaded = Engine.load(folder)
    (folder / "broken_test.policy").write_text("package shop\nanyone { may DELETE /everything }\nnonsense", "utf-8")
    assert Engine.load(folder).kernel == loaded.kernel == Engine.from_text(POLICY).kernel
    assert Engine.load(folder).revision == loaded.revision
    assert not Engine.load(folder).decide({"request": {"method": "DELETE", "path": "/everything"}}).allowed


def test_a_bundle_contains_no_test_files(folder: Path) -> None:
    with_tests = write_bundle(Engine.load(folder).kernel, "1")
    for file in folder.glob("*_test.policy"):
        file.unlink()
    assert write_bundle(Engine.load(folder).kernel, "1") == with_tests
    assert b"people" not in with_tests
    (folder / "p.policybundle").write_bytes(with_tests)
    assert read_bundle(folder / "p.policybundle").kernel.revision == Engine.load(folder / "shop.policy").revision


def test_tests_in_a_policy_file_do_not_change_the_policy() -> None:
    beside = POLICY + (TESTS + PEOPLE).replace("package shop\n", "")
    assert Engine.from_text(beside).kernel == Engine.from_text(POLICY).kernel
    assert Engine.from_text(beside).revision == Engine.from_text(POLICY).revision

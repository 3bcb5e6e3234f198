"""Every diagnostic is documented by a policy that yields it and by the same policy mended."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import policyengine
from policyengine import syntax
from policyengine.check import check_text, lint_text
from policyengine.checker.names.definitions import MAX_PARTS
from policyengine.checker.patterns.places import MAX_INCLUDED
from policyengine.compiler.bundle.file import MAX_BUNDLE_BYTES
from policyengine.diagnostics.catalog import CODES, DiagnosticDoc
from policyengine.diagnostics.catalog.syntax import CODES as SYNTAX
from policyengine.diagnostics.model import Diagnostic
from policyengine.entities.store import MAX_MEMBERSHIPS
from policyengine.source import Source
from policyengine.spec.work import MAX_STEPS
from policyengine.syntax.parse import MAX_DECLARATIONS, parse
from policyengine.syntax.text_checks import MAX_BRACKETS, MAX_CHARACTERS


def codes_in(text: str) -> set[str]:
    """What parsing alone finds: examples about syntax are too small to mean anything."""
    return codes_of(parse(Source("example.policy", text))[1])


def codes_of(findings: Iterable[Diagnostic]) -> set[str]:
    return {diagnostic.code for diagnostic in findings}


def by_code(codes: Iterable[DiagnosticDoc]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", [pytest.param(code, id=code.code) for code in codes])


SHOWN = [code for code in SYNTAX if code.bad]  # the others are about size: tests/syntax/test_bounds.py


# After so many mistakes one says so beside them.
BESIDE_OTHERS = {"E123": {"E116"}}


@by_code(SHOWN)
def test_the_bad_syntax_example_reports_only_its_code(code: DiagnosticDoc) -> None:
    assert codes_in(code.bad) - BESIDE_OTHERS.get(code.code, set()) == {code.code}


@by_code(SHOWN)
def test_the_good_syntax_example_has_no_findings(code: DiagnosticDoc) -> None:
    assert codes_in(code.good) == set()


MEANT = [code for code in CODES.values() if code.bad and code not in SYNTAX and not code.opinion]
OPINIONS = [code for code in CODES.values() if code.opinion]


@by_code(MEANT)
def test_check_reports_only_its_code_in_the_bad_example(code: DiagnosticDoc) -> None:
    assert codes_of(check_text(code.bad)) == {code.code}


@by_code(MEANT)
def test_check_reports_nothing_in_the_good_example(code: DiagnosticDoc) -> None:
    assert codes_of(check_text(code.good)) == set()


@by_code(OPINIONS)
def test_lint_reports_only_its_code_in_the_bad_example_and_check_nothing(code: DiagnosticDoc) -> None:
    assert codes_of(lint_text(code.bad, (code.code,))) == {code.code}
    assert check_text(code.bad) == []


@by_code(OPINIONS)
def test_lint_reports_nothing_in_the_good_example(code: DiagnosticDoc) -> None:
    assert codes_of(lint_text(code.good, (code.code,))) == set()


@by_code(CODES.values())
def test_every_code_has_a_title_and_an_explanation(code: DiagnosticDoc) -> None:
    assert re.fullmatch(r"[EW][1-9]\d\d", code.code)
    assert code.title
    assert not code.title.endswith(".")
    assert code.explanation.endswith(".")
    assert bool(code.bad) == bool(code.good)
    assert code.bad != code.good or not code.bad


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("E121", MAX_CHARACTERS),
        ("E122", MAX_BRACKETS),
        ("E124", MAX_DECLARATIONS),
        ("E153", MAX_CHARACTERS),
        ("E166", MAX_BUNDLE_BYTES),
        ("E188", MAX_MEMBERSHIPS),
        ("E248", MAX_PARTS),
        ("E323", MAX_INCLUDED),
        ("W715", MAX_STEPS),
    ],
)
def test_an_explanation_states_the_limit_of_the_code(code: str, limit: int) -> None:
    assert f"at most {limit:,} " in CODES[code].explanation


def test_the_catalog_contains_every_syntax_code() -> None:
    assert len(CODES) >= len(SYNTAX)
    assert set(CODES) >= {code.code for code in SYNTAX}


def reported_in(files: Iterable[Path]) -> set[str]:
    return {code for file in files for code in re.findall(r'"([EW]\d{3})"', file.read_text(encoding="utf-8"))}


def test_the_syntax_package_reports_exactly_the_documented_codes() -> None:
    assert reported_in(Path(syntax.__file__).parent.rglob("*.py")) == {code.code for code in SYNTAX}


def test_every_reported_code_is_documented() -> None:
    package = Path(policyengine.__file__).parent
    assert reported_in(f for f in package.rglob("*.py") if f.parent.name != "catalog") <= set(CODES)

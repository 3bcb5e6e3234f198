"""Every diagnostic is documented by a policy that yields it and by the same policy mended."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from policyengine import syntax
from policyengine.codes import CODES, Code
from policyengine.codes.syntax import CODES as SYNTAX
from policyengine.diagnostics import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse


def check_text(text: str) -> list[Diagnostic]:
    return parse(Source("example.policy", text))[1]


def codes_in(text: str) -> set[str]:
    return {diagnostic.code for diagnostic in check_text(text)}


def by_code(codes: Iterable[Code]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", [pytest.param(code, id=code.code) for code in codes])


SHOWN = [code for code in SYNTAX if code.bad]  # the others are about size: tests/syntax/test_bounds.py


# After so many mistakes one says so beside them.
BESIDE_OTHERS = {"E123": {"E116"}}


@by_code(SHOWN)
def test_the_bad_example_yields_its_code_and_no_other(code: Code) -> None:
    assert codes_in(code.bad) - BESIDE_OTHERS.get(code.code, set()) == {code.code}


@by_code(SHOWN)
def test_the_good_example_is_good(code: Code) -> None:
    assert codes_in(code.good) == set()


@by_code(CODES.values())
def test_a_code_is_explained_in_sentences(code: Code) -> None:
    assert re.fullmatch(r"[EW][1-9]\d\d", code.code)
    assert code.title
    assert not code.title.endswith(".")
    assert code.explanation.endswith(".")
    assert bool(code.bad) == bool(code.good)
    assert code.bad != code.good or not code.bad


def test_every_code_has_one_place() -> None:
    assert len(CODES) >= len(SYNTAX)
    assert set(CODES) >= {code.code for code in SYNTAX}


def test_syntax_reports_no_code_that_is_not_documented() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(syntax.__file__).parent.glob("*.py")]
    reported = {code for text in texts for code in re.findall(r'"([EW]\d{3})"', text)}
    assert reported == {code.code for code in SYNTAX}

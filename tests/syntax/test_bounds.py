"""What a policy may cost to read; and texts that are no policy at all."""

import time

import pytest

from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax import text_checks
from policyengine.syntax.parse import MAX_DECLARATIONS, MAX_DEPTH, MAX_ERRORS, parse
from policyengine.syntax.text_checks import MAX_BRACKETS, read_source


def codes(text: str) -> list[str]:
    return [diagnostic.code for diagnostic in parse(Source("x.policy", text))[1]]


def nested(size: int, opening: str, closing: str) -> str:
    return f"define x = {opening * size}a{closing * size}"


def test_the_maximum_number_of_nested_brackets_is_accepted() -> None:
    assert codes(nested(MAX_BRACKETS, "(", ")")) == []


def test_too_many_nested_brackets_are_rejected_at_the_first_excess_one() -> None:
    (diagnostic,) = parse(Source("x", nested(MAX_BRACKETS + 1, "(", ")")))[1]
    assert (diagnostic.code, diagnostic.span.start) == ("E122", len("define x = ") + MAX_BRACKETS)
    assert diagnostic.related[0].span.start == len("define x = ")


@pytest.mark.parametrize(
    "text",
    [
        "define x = " + "not " * 100_000 + "a",
        "define x = " + "-" * 20_000 + "a",
        "define x = a" + " + a" * 20_000,
        "define x = a" + " else a" * 10_000,
        "define x = " + "any a in b: " * 10_000 + "c",
        "entity a { b: " + "set<" * 10_000 + "int" + ">" * 10_000 + " }",
        "define x = " + "(a and not a == -(" * 32 + "b" + "))" * 32,
    ],
    ids=["not", "minus", "sum", "else", "any", "set", "brackets"],
)
def test_a_too_deep_syntax_tree_is_rejected(text: str) -> None:
    module, diagnostics = parse(Source("x", text + "\nanyone { may GET /a }\n"))
    assert [diagnostic.code for diagnostic in diagnostics] == ["E125"]
    assert module is not None
    assert len(module.declarations) == 1


@pytest.mark.parametrize(
    "text",
    [
        "define x = a" + " + a" * (MAX_DEPTH - 1),
        "define x = a" + " and a" * 5_000,
        "let x = [" + "1, " * 5_000 + "]",
    ],
    ids=["sum", "and", "list"],
)
def test_a_long_but_shallow_expression_is_accepted(text: str) -> None:
    assert codes(text) == []


def test_a_too_large_file_is_rejected_without_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/security/test_bounds.py` has one of that size."""
    assert text_checks.MAX_CHARACTERS == 32 * 2**20
    monkeypatch.setattr(text_checks, "MAX_CHARACTERS", 10_000)
    assert codes("#" * 10_000) == []
    assert codes("#" * 10_001) == ["E121"]


def test_too_many_declarations_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_DECLARATIONS == 200_000
    monkeypatch.setattr("policyengine.syntax.parse.MAX_DECLARATIONS", 1_000)
    assert codes("anyone{}" * 1_000) == []
    assert codes("anyone{}" * 1_001) == ["E124"]


def test_parsing_stops_after_the_maximum_number_of_errors() -> None:
    assert codes("guard\n" * 500) == ["E116"] * MAX_ERRORS + ["E123"]


@pytest.mark.parametrize(
    "text",
    [
        "$" * 300_000,
        '"' * 300_000,
        'define x = "' + "\\" * 300_000,
        "gaurd\n" * 50_000,
        "scope a { GET /a" + "-" * 300_000,
        "scope a { TOOL a" + "-" * 300_000,
        "define x = [" + "a:a, " * 60_000,
        "define x = " + "1" * 300_000 + "x",
        "define x = " + "1m" * 150_000 + "x",
        "anyone{}\n" * 10_000 + "define x = = 1\n" + "anyone{}\n" * 10_000,
        'rate "x" per a {' + "1/1m " * 30_000 + "}",
    ],
)
def test_no_text_makes_the_parser_slow(text: str) -> None:
    started = time.process_time()
    parse(Source("x", text))
    assert time.process_time() - started < 10  # quadratic would be minutes


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\ufeffanyone {}", "E100"),
        ("anyone {}\0", "E128"),
        ("anyone {} # a\rguard", "E128"),
        ("anyone {} # \x1b[2J", "E128"),
        ("anyone {} # a\u2028guard", "E128"),
        ('agent "\ud800" {}', "E128"),
    ],
)
def test_deceptive_characters_are_rejected(text: str, code: str) -> None:
    module, diagnostics = parse(Source("x", text))
    assert module is None
    assert [diagnostic.code for diagnostic in diagnostics] == [code]


@pytest.mark.parametrize("escape", ["\\d", "\\x41", "\\u12", "\\ud800", "\\udc00", "\\ud800\\u0041", "\\'"])
def test_an_invalid_escape_is_an_error(escape: str) -> None:
    text = f'define x = a matches "^{escape}$"'
    (diagnostic,) = parse(Source("x", text))[1]
    assert (diagnostic.code, diagnostic.span.start) == ("E126", text.index("\\"))


@pytest.mark.parametrize(
    ("escape", "value"),
    [
        ('\\"', '"'),
        ("\\\\d", "\\d"),
        ("\\n", "\n"),
        ("\\u00e9", "é"),
        ("\\ud83d\\ude00", "😀"),
        ("\\/", "/"),
        ("\t", "\t"),
    ],
)
def test_a_valid_escape_becomes_its_character(escape: str, value: str) -> None:
    module, diagnostics = parse(Source("x", f'let x = "{escape}"'))
    assert diagnostics == []
    assert module is not None
    assert module.declarations[0].value.value == value  # type: ignore[union-attr]


def test_utf_8_bytes_become_a_source() -> None:
    source = read_source("x", "anyone {} # é".encode())
    assert isinstance(source, Source)
    assert (source.name, source.text) == ("x", "anyone {} # é")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"anyone {}\n# \xe9", "this file is not UTF-8: line 2 contains the byte 0xe9"),
        ("anyone {}".encode("utf-16"), "this file is UTF-16, but a policy must be UTF-8"),
    ],
)
def test_bytes_that_are_not_utf_8_are_rejected_with_the_reason(data: bytes, message: str) -> None:
    found = read_source("x", data)
    assert isinstance(found, Diagnostic)
    assert (found.code, found.message, found.span.source.name) == ("E100", message, "x")

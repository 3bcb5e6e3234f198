"""The canonical form: the same policy, the author's line breaks and comments, one way to write the rest."""

import re

import pytest
from hypothesis import given, settings

from policyengine.diagnostics.model import PolicyError
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from tests.depth import examples, scaled
from tests.syntax.layouts import CORPUS, layouts


def formatted(text: str) -> str:
    return format_module(Source("x.policy", text))


def module(text: str) -> ast.Module:
    found, diagnostics = parse(Source("x.policy", text))
    assert diagnostics == []
    assert found is not None
    return found


def without_space(text: str) -> str:
    return re.sub(r"\s", "", text)


@scaled
@settings(max_examples=examples(30, 240))
@given(layouts())
def test_formatting_does_not_change_the_syntax_tree(text: str) -> None:
    assert module(formatted(text)) == module(text)


@scaled
@settings(max_examples=examples(30, 240))
@given(layouts())
def test_formatting_changes_only_whitespace(text: str) -> None:
    assert without_space(formatted(text)) == without_space(text)


@scaled
@settings(max_examples=examples(30, 240))
@given(layouts())
def test_formatting_is_idempotent(text: str) -> None:
    once = formatted(text)
    assert formatted(once) == once


@scaled
@settings(max_examples=examples(30, 240))
@given(layouts())
def test_formatting_leaves_no_invisible_whitespace(text: str) -> None:
    result = formatted(text)
    assert not re.search(r"[ \t\r]\n|\n\n\n|\A\n|\n\n\Z|[^\n]\Z", result)


@pytest.mark.parametrize("name", CORPUS)
def test_formatting_the_corpus_keeps_its_syntax_tree_and_comments(name: str) -> None:
    before, after = module(CORPUS[name]), module(formatted(CORPUS[name]))
    assert after == before
    assert [c.text for c in after.comments] == [c.text.rstrip() for c in before.comments]


CASES = [
    ("spaces are one", "define   x=a   ==b", "define x = a == b\n"),
    ("items stand three apart", 'guard "x"{deny  when a audit full}', 'guard "x" { deny when a   audit full }\n'),
    ("line breaks stay", 'guard "x" {\ndeny\naudit full }', 'guard "x" {\n  deny\n  audit full }\n'),
    ("nothing in braces", "anyone {  }", "anyone {}\n"),
    ("a list is tight", "let x = [ 1,2 , 3,]", "let x = [1, 2, 3,]\n"),
    ("parentheses are tight", "define x = ( a  or b )and not( c )", "define x = (a or b) and not (c)\n"),
    ("a call is tight", "define x = lower ( a )", "define x = lower(a)\n"),
    ("a key is tight", 'define x = args [ "a" ] [ "b" ]', 'define x = args["a"]["b"]\n'),
    ("a list is no key", 'fixture f { given a.b["x"] }', 'fixture f { given a.b ["x"] }\n'),
    ("types are tight", "entity e { a : set < b or c > ? }", "entity e { a: set<b or c>? }\n"),
    ("comparisons are not", "define x = a<b", "define x = a < b\n"),
    ("a sign is tight", "define x = - a - - 1", "define x = -a - -1\n"),
    ("methods are tight", "scope s { GET | HEAD /a }", "scope s { GET|HEAD /a }\n"),
    ("windows are tight", 'define x = time within mon .. fri 08:00 .. 09:00 "UTC"', None),
    ("an export is one item", "export   enum a=b", "export enum a = b\n"),
    ("a continued line is indented", "define x = a\nor b", "define x = a\n  or b\n"),
    ("a continued item too", 'guard "x" {\ndeny\nwhen a\n}', 'guard "x" {\n  deny\n    when a\n}\n'),
    ("a list over lines", "let x = [\n1,\n2\n]", "let x = [\n  1,\n  2\n]\n"),
    ("one blank line", "anyone {}\n\n\n\nanyone {}", "anyone {}\n\nanyone {}\n"),
    ("no blank line inside of braces", "anyone {\n\nmay a\n\n}", "anyone {\n  may a\n}\n"),
    ("a comment has one space", "anyone {}     # x  ", "anyone {} # x\n"),
    ("comments are aligned", "anyone {} # x\nenum a = b # y", "anyone {}  # x\nenum a = b # y\n"),
    ("a comment is indented as what follows", "anyone {\n# x\nmay a\n# y\n}", "anyone {\n  # x\n  may a\n  # y\n}\n"),
    ("only a comment", "   # x", "# x\n"),
    ("nothing", "  \n ", ""),
    (
        "outcomes are aligned",
        'test "t" {\nGET /a => deny\nGET /abc   => allow\n\nGET /a => deny\n}',
        'test "t" {\n  GET /a   => deny\n  GET /abc => allow\n\n  GET /a => deny\n}\n',
    ),
    (
        "a long test pushes no other",
        f'test "t" {{\nGET /a => deny\nGET /{"a" * 90} => deny\nGET /abc => deny\n}}',
        f'test "t" {{\n  GET /a   => deny\n  GET /{"a" * 90} => deny\n  GET /abc => deny\n}}\n',
    ),
    (
        "tables are aligned",
        'test "t" { cases {\n|a.b|=>|\n|GET|HEAD /x|not allow|\n|1|deny|\n} }',
        'test "t" { cases {\n  | a.b         | =>        |\n  | GET|HEAD /x | not allow |\n'
        "  | 1           | deny      |\n} }\n",
    ),
    (
        "tables with details are aligned",
        'test "t" { cases {\n|a|=>|\n|GET /x|deny with{reasons:[user ,default]}|\n|GET /long|allow|\n} }',
        'test "t" { cases {\n  | a         | =>                                     |\n'
        "  | GET /x    | deny with { reasons: [user, default] } |\n"
        "  | GET /long | allow                                  |\n} }\n",
    ),
    (
        "details stand beside their outcome",
        'test "t" {\nGET /a => deny   with{message:"x" ,user :absent}\nGET /abc=>allow responded  201{output.id:7}\n}',
        'test "t" {\n  GET /a   => deny with { message: "x", user: absent }\n'
        "  GET /abc => allow responded 201 { output.id: 7 }\n}\n",
    ),
    (
        "details over lines are indented",
        'test "t" {\nGET /a\n=> deny\nwith {\nmessage: "x",\nuser: absent\n}\n}',
        'test "t" {\n  GET /a\n    => deny\n    with {\n      message: "x",\n      user: absent\n    }\n}\n',
    ),
]


@pytest.mark.parametrize(("text", "result"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_policy_is_formatted_to_its_canonical_layout(text: str, result: str | None) -> None:
    expected = 'define x = time within mon..fri 08:00..09:00 "UTC"\n' if result is None else result
    assert formatted(text) == expected


def test_a_policy_with_errors_is_not_formatted() -> None:
    with pytest.raises(PolicyError) as caught:
        formatted("anyone { may /a }")
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["E113"]

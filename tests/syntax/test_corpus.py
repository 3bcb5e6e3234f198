"""Two policies that hold every construct: nothing written in them is lost, and every node knows its place."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lark import Token

from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse
from tests.syntax.by_lark import lark

CORPUS = sorted(Path(__file__).parent.glob("corpus/*.policy"))
LEXEME = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[^\s"#]+')

corpus = pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)


def read(path: Path) -> Source:
    return Source(path.name, path.read_text(encoding="utf-8"))


def module(source: Source) -> ast.Module:
    found, diagnostics = parse(source)
    assert diagnostics == []
    assert found is not None
    return found


def test_the_grammar_has_no_conflict() -> None:
    pytest.importorskip("interegular")
    assert lark(strict=True).parse("anyone { may GET /health }")


@corpus
def test_the_tree_and_comments_contain_every_written_token(path: Path) -> None:
    source = read(path)
    tree = lark().parse(source.text)
    tokens = list(tree.scan_values(lambda value: isinstance(value, Token)))
    comments = [comment.text for comment in module(source).comments]
    between = source.text
    for token in sorted(tokens, key=lambda token: token.start_pos or 0, reverse=True):
        between = between[: token.start_pos] + between[token.end_pos :]
    for comment in comments:
        between = between.replace(comment, "", 1)
    assert not between.strip()


def nodes(path: Path) -> Iterator[ast.Node]:
    return ast.walk(module(read(path)))


@corpus
def test_the_span_of_a_node_lies_inside_the_span_of_its_parent(path: Path) -> None:
    for node in nodes(path):
        for child in ast.children(node):
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end, (node, child)


@corpus
def test_a_span_neither_begins_nor_ends_with_whitespace(path: Path) -> None:
    for node in nodes(path):
        if not isinstance(node, ast.Module | ast.Comment):
            assert node.span.text == node.span.text.strip() != "", node


@corpus
def test_spans_of_names_and_literals_are_exact(path: Path) -> None:
    for node in nodes(path):
        match node:
            case ast.Name(text) | ast.Literal(_, text) | ast.WordValue(text):
                assert node.span.text.strip("( )") == text
            case ast.Text(value):
                assert node.span.text.strip("( )") == f'"{value}"'
            case ast.Reference(name):
                assert node.span.text.lstrip("( ").startswith(name)
            case ast.HttpPattern(_, path_text):
                assert node.path_span.text == path_text
            case ast.Binary(operator):
                assert re.sub(r"\s+", " ", node.operator_span.text) == operator


@corpus
def test_a_declaration_parses_the_same_on_its_own(path: Path) -> None:
    for declaration in module(read(path)).declarations:
        assert module(Source("alone", declaration.span.text)).declarations == (declaration,)


@corpus
def test_a_condition_parses_the_same_on_its_own(path: Path) -> None:
    for node in nodes(path):
        if isinstance(
            node, ast.Logic | ast.Not | ast.Binary | ast.Else | ast.Quantifier | ast.HistoryCondition | ast.Aggregate
        ):
            (declaration,) = module(Source("alone", f"define x = {node.span.text}")).declarations
            assert isinstance(declaration, ast.DefineDecl)
            assert declaration.condition == node


@corpus
def test_every_comment_is_kept_with_its_location(path: Path) -> None:
    source = read(path)
    written = [match for match in LEXEME.finditer(source.text) if match[0].startswith("#")]
    comments = module(source).comments
    assert [(c.text, c.span.start) for c in comments] == [(match[0], match.start()) for match in written]


@pytest.mark.parametrize(
    ("text", "kind", "span"),
    [
        ("scope s { GET|HEAD /a }", ast.HttpPattern, "GET|HEAD /a"),
        ('test "t" { GET "/a//" => deny }', ast.Shot, 'GET "/a//" => deny'),
        ("define x = not (a) and (b or (c))", ast.Logic, "not (a) and (b or (c))"),
        ("define x = not (a)", ast.Not, "not (a)"),
        ("define x = no a within 1h per (a, b)", ast.HistoryCondition, "no a within 1h per (a, b)"),
        ('profile "p" for group "g" { expect POST /x repeated }', ast.ProfileStep, "POST /x repeated"),
        ("entity e { a: set<b>? inherited }", ast.FieldDecl, "a: set<b>? inherited"),
        ("entity e { a: set<b> inherited else [] }", ast.FieldDecl, "a: set<b> inherited else []"),
        ("define x = not (a.b is known)", ast.HasRow, "(a.b is known)"),
        ("entity e in a, b", ast.EntityDecl, "entity e in a, b"),
        ("anyone { may GET /a, b }", ast.May, "may GET /a, b"),
        ("export let x = 1", ast.Export, "export let x = 1"),
    ],
)
def test_a_span_covers_the_whole_phrase(text: str, kind: type[ast.Node], span: str) -> None:
    node = next(node for node in ast.walk(module(Source("x", text))) if isinstance(node, kind))
    assert node.span.text == span

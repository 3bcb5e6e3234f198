"""The formatter: writes a policy text in canonical form.

The parsed module determines the spaces. Line breaks and comments of the author stay; everything else is normalized:
text inside a bracket that is still open at the end of its line is indented by two spaces, items on the same line are
separated by three spaces, and tokens by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, zip_longest

from policyengine.diagnostics.model import PolicyError
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse, tokenize
from policyengine.syntax.tokens import Token

INDENT = 2
BETWEEN_ITEMS = "   "

ITEMS = (
    ast.Export | ast.Import | ast.Declaration | ast.FieldDecl
    | ast.Include | ast.ScopeEndpoint | ast.TrustAnchorOption | ast.UsersLike | ast.ClaimMap | ast.ClaimsClause
    | ast.AttestedModel | ast.AttestedEnvironment | ast.IssuedBy | ast.ActsClause
    | ast.CredentialDecl | ast.CredentialKinds | ast.CredentialLimit | ast.ProofOfPossession | ast.AttestedBy
    | ast.May | ast.MayDelegate | ast.ValidityPeriod | ast.DelegationLimit | ast.GuardItem | ast.RateItem
    | ast.BudgetLimit | ast.ProfileItem | ast.InvariantClaim | ast.TestItem | ast.EntityRow | ast.CaseTableRow
    | ast.RecordEntry | ast.MapEntity | ast.MapAction | ast.MapFact
)  # fmt: skip
FIRST_WORDS = frozenset(["LANGUAGE", "PACKAGE", "OTHERWISE"])  # words that begin an item without a node
OPENING = frozenset(["LBRACE", "LPAR", "LSQB"])
CLOSING = frozenset(["RBRACE", "RPAR", "RSQB"])
OPERANDS = frozenset("NAME NUMBER STRING DURATION DATE CLOCK IP HASH TRUE FALSE RPAR RSQB".split())
TIGHT_BEFORE = frozenset(["COMMA", "COLON", "RPAR", "RSQB", "OPTIONAL"])
TIGHT_AFTER = frozenset(["LPAR", "LSQB"])
# The `=>` of a longer test is not aligned, because it would move all others too far to the right.
MAX_ALIGNED_COLUMNS = 72


@dataclass(frozen=True, slots=True)
class FormattedLine:
    """A formatted line. `arrow` is the offset of a test's `=>` in `code`; `cells` are the cells of a table row."""

    indent: str
    code: str
    comment: str = ""
    arrow: int | None = None
    cells: tuple[str, ...] = ()

    @property
    def trails(self) -> bool:
        return bool(self.code and self.comment)


def format_module(source: Source) -> str:
    """Return the canonical form of the text. Raises PolicyError if the text has syntax errors."""
    module, diagnostics = parse(source)
    if module is None or diagnostics:
        raise PolicyError(diagnostics)
    lexemes = _lexemes(source, module)
    lines = list(_indent_lines(_lines(source, lexemes)))
    return "".join(f"{line}\n" for line in align_lines(lines))


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token or comment, and the space before it, which is ignored at the beginning of a line."""

    text: str
    type: str
    start: int
    end: int
    space: str = " "
    begins_item: bool = False
    begins_shot: bool = False


# ── Spaces ────────────────────────────────────────────────────────────────────────────────────


def _lexemes(source: Source, module: ast.Module) -> list[Lexeme]:
    places = LayoutOffsets.of(module)
    written = tokenize(source)
    before = [None, None, *written]
    code = [_lexeme(places, *three) for three in zip(before, before[1:], written, strict=False)]
    comments = [Lexeme(c.text.rstrip(), "COMMENT", c.span.start, c.span.end) for c in module.comments]
    return sorted(code + comments, key=lambda lexeme: lexeme.start)


@dataclass(frozen=True, slots=True)
class LayoutOffsets:
    """Offsets on which the layout depends but that tokens do not show: the offsets of items, test shots and type
    parameters.
    """

    items: frozenset[int]
    shots: frozenset[int]
    angles: frozenset[int]  # `<` and `>` of `set<…>`

    @classmethod
    def of(cls, module: ast.Module) -> LayoutOffsets:
        items, shots, angles = set[int](), set[int](), set[int]()
        for node in ast.walk(module):
            if isinstance(node, ITEMS):
                items.add(node.span.start)
            if isinstance(node, ast.Shot):
                shots.add(node.span.start)
            if isinstance(node, ast.NamedTypeExpr):
                text = node.span.text
                angles.update(node.span.start + i for i, char in enumerate(text) if char in "<>")
        return cls(frozenset(items), frozenset(shots), frozenset(angles))


def _lexeme(places: LayoutOffsets, before: Token | None, previous: Token | None, token: Token) -> Lexeme:
    start, end = token.start, token.end
    begins = start in places.items or token.type in FIRST_WORDS or (previous is not None and previous.type == "LBRACE")
    return Lexeme(
        token.text,
        token.type,
        start,
        end,
        _space(places, before, previous, token),
        begins and not (previous is not None and previous.type == "EXPORT"),
        start in places.shots,
    )


def _space(places: LayoutOffsets, before: Token | None, previous: Token | None, token: Token) -> str:
    """Return the space between two tokens of a line."""
    if previous is None or _tight(places, before, previous, token):
        return ""
    separated = previous.type not in ("LBRACE", "COMMA", "EXPORT")
    return BETWEEN_ITEMS if token.start in places.items and separated else " "


def _tight(places: LayoutOffsets, before: Token | None, previous: Token, token: Token) -> bool:
    match previous.type, token.type:
        case "LBRACE", "RBRACE":
            return True
        case ("METHOD", "VBAR") | ("VBAR", "METHOD"):
            return previous.type == "METHOD" or (before is not None and before.type == "METHOD")
        case "NAME", "LPAR":
            return True
        case (("NAME" | "RSQB"), "LSQB"):
            return before is None or before.type != "GIVEN"
        case "MINUS", _:
            return before is None or before.type not in OPERANDS
    if ".." in (previous.text, token.text):
        return True
    if token.start in places.angles or (previous.start in places.angles and previous.text == "<"):
        return True
    return token.type in TIGHT_BEFORE or previous.type in TIGHT_AFTER


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


def _lines(source: Source, lexemes: list[Lexeme]) -> Iterator[list[Lexeme]]:
    """Yield the lexemes of each line, and an empty list for a blank line."""
    line: list[Lexeme] = []
    for previous, lexeme in zip([None, *lexemes], lexemes, strict=False):
        breaks = source.text.count("\n", previous.end, lexeme.start) if previous else 0
        if breaks:
            yield line
            line = []
        if breaks > 1 and previous and previous.type not in OPENING and lexeme.type not in CLOSING:
            yield []
        line.append(lexeme)
    if line:
        yield line


@dataclass(slots=True)
class OpenBracket:
    """An open bracket: the indentation of its line, and whether it contains items."""

    indent: int
    holds_items: bool


def _indent_lines(lines: Iterator[list[Lexeme]]) -> Iterator[FormattedLine]:
    opened: list[OpenBracket] = []
    waiting: list[list[Lexeme]] = []  # comments and blank lines, indented like the code after them
    for line in lines:
        if not line or line[0].type == "COMMENT":
            waiting.append(line)
            continue
        indent = _indent(opened, line[0])
        inner = _indent(opened, None) if line[0].type in CLOSING else indent
        yield from (_line(comment, inner) for comment in waiting)
        waiting.clear()
        yield _line(line, indent)
        _track(opened, line, indent)
    yield from (_line(comment, 0) for comment in waiting)


def _indent(opened: list[OpenBracket], first: Lexeme | None) -> int:
    """Return the indentation of a line that begins with `first`; None stands for the beginning of an item."""
    innermost = opened[-1] if opened else None
    if first is not None and first.type in CLOSING and innermost is not None:
        return innermost.indent
    inner = innermost.indent + INDENT if innermost is not None else 0
    continues = first is not None and not first.begins_item and first.type not in OPENING
    return inner + INDENT if continues and (innermost is None or innermost.holds_items) else inner


def _track(opened: list[OpenBracket], line: list[Lexeme], indent: int) -> None:
    for lexeme in line:
        if lexeme.type in OPENING:
            opened.append(OpenBracket(indent, lexeme.type == "LBRACE"))
        elif lexeme.type in CLOSING and opened:
            opened.pop()


def _line(lexemes: list[Lexeme], indent: int) -> FormattedLine:
    comment = lexemes[-1].text if lexemes and lexemes[-1].type == "COMMENT" else ""
    code = lexemes[:-1] if comment else lexemes
    return FormattedLine(" " * indent, _join_lexemes(code), comment, _arrow(code), _cells(code))


def _join_lexemes(lexemes: list[Lexeme]) -> str:
    return "".join(lexeme.text if i == 0 else lexeme.space + lexeme.text for i, lexeme in enumerate(lexemes))


def _arrow(code: list[Lexeme]) -> int | None:
    """Return the offset of `=>` if the line holds exactly one test; otherwise None."""
    arrows = [i for i, lexeme in enumerate(code) if lexeme.text == "=>"]
    if len(arrows) != 1 or not code[0].begins_shot or sum(lexeme.begins_shot for lexeme in code) != 1:
        return None
    return len(_join_lexemes(code[: arrows[0]]))


def _cells(code: list[Lexeme]) -> tuple[str, ...]:
    """Return the cells if the line is exactly one table row; otherwise nothing."""
    if len(code) < 2 or code[0].text != "|" or code[-1].text != "|":
        return ()
    bars = [i for i, lexeme in enumerate(code) if lexeme.text == "|" and lexeme.space]
    return tuple(_join_lexemes(code[left + 1 : right]) for left, right in pairwise([0, *(bar for bar in bars if bar)]))


# ── Columns ────────────────────────────────────────────────────────────────────────────────────


def align_lines(lines: list[FormattedLine]) -> Iterator[str]:
    lines = _runs(lines, lambda line: bool(line.cells), _with_cells)
    lines = _runs(lines, lambda line: line.arrow is not None, _with_arrows)
    lines = _runs(lines, lambda line: line.trails, _with_comments)
    for line in lines:
        yield (line.indent + line.code + line.comment).rstrip()


def _runs(
    lines: list[FormattedLine],
    belongs: Callable[[FormattedLine], bool],
    align: Callable[[list[FormattedLine]], Iterable[FormattedLine]],
) -> list[FormattedLine]:
    """Align each run of consecutive lines that have the same indent and match `belongs`; keep the others unchanged."""
    result: list[FormattedLine] = []
    for (_, together), group in groupby(lines, lambda line: (line.indent, belongs(line))):
        run = list(group)
        result += align(run) if together else run
    return result


def _with_cells(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    widths = [max(map(len, column)) for column in zip_longest(*(line.cells for line in run), fillvalue="")]
    for line in run:
        cells = (cell.ljust(width) for cell, width in zip(line.cells, widths, strict=False))
        yield replace(line, code=f"| {' | '.join(cells)} |")


def _with_arrows(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    places = [line.arrow or 0 for line in run]
    column = max((place for place in places if place <= MAX_ALIGNED_COLUMNS), default=0)
    for line, place in zip(run, places, strict=True):
        yield replace(line, code=f"{line.code[:place].ljust(column)}{line.code[place:]}")


def _with_comments(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    column = max(len(line.code) for line in run)
    return (replace(line, code=line.code.ljust(column) + " ") for line in run)

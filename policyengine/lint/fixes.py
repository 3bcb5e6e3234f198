"""Findings to changes of the text that mend them, where that is safe: the policy means afterwards what it meant."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.allowances import WHOLE, WORD
from policyengine.lint.findings import declared
from policyengine.lint.unused import spoken
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` in place of what stands at `span`."""

    span: Span
    text: str = ""


Mend: TypeAlias = Callable[[Sequence[Diagnostic], Sequence[ast.Module]], Iterator[Edit]]


def edits(found: Iterable[Diagnostic], modules: Sequence[ast.Module], own: Collection[Source]) -> list[Edit]:
    """What mends the findings that can be mended, in the files that are `own`. No two edits overlap."""
    by_code: dict[str, list[Diagnostic]] = {}
    for one in found:
        if one.code in FIXES and one.span.source in own:
            by_code.setdefault(one.code, []).append(one)
    return apart(edit for code, several in by_code.items() for edit in FIXES[code](several, modules))


def apart(found: Iterable[Edit]) -> list[Edit]:
    """In the order of the text, and of two that overlap the first: the other one comes in the next round."""
    kept: list[Edit] = []
    for edit in sorted(found, key=lambda one: (one.span.source.name, one.span.start, -one.span.end)):
        last = kept[-1].span if kept else None
        if last is None or last.source is not edit.span.source or last.end <= edit.span.start:
            kept.append(edit)
    return kept


def edited(source: Source, changes: Iterable[Edit]) -> str:
    """The text of the source with the changes that are about it."""
    pieces, at = [], 0
    for edit in (one for one in changes if one.span.source is source):
        pieces += [source.text[at : edit.span.start], edit.text]
        at = edit.span.end
    return "".join([*pieces, source.text[at:]])


# ── What mends which finding ──────────────────────────────────────────────────────────────────


def get_for_head(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[Edit]:
    """`HEAD` becomes `GET`; beside `GET` it goes."""
    at = {(one.span.source, one.span.start) for one in found}
    nodes = (node for module in modules for node in ast.walk(module) if isinstance(node, ast.Http))
    for node in (one for one in nodes if "HEAD" in one.methods):
        source, start = node.span.source, node.span.start + node.span.text.find("HEAD")
        if (source, start) in at:
            written = Span(source, node.span.start, node.path_span.start)
            methods = dict.fromkeys("GET" if method == "HEAD" else method for method in node.methods)
            yield Edit(Span(source, written.start, written.start + len(written.text.rstrip())), "|".join(methods))


def without_declaration(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[Edit]:
    """Names that are in no kernel: an entity is one that the directory knows, too."""
    at = {(one.span.source, one.span.start) for one in found}
    for one in declared(modules):
        match one:
            case ast.LetDecl(name) | ast.DefineDecl(name) | ast.EnumDecl(name) | ast.FixtureDecl(name):
                if (name.span.source, name.span.start) in at:
                    yield Edit(around(one.span))
            case _:
                pass


def without_fact(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[Edit]:
    """A fact that no test speaks of either; with the last one the block goes, unless its place binds something."""
    at = {(one.span.source, one.span.start) for one in found}
    tests = (one for one in declared(modules) if isinstance(one, ast.FixtureDecl | ast.TestDecl))
    tried = {name for one in tests for name in spoken_in_test(one)}
    for block in (one for one in declared(modules) if isinstance(one, ast.FactsDecl)):
        unread = [one for one in block.fields if (one.name.span.source, one.name.span.start) in at]
        going = [one for one in unread if not any(starts(name, one.name.text) for name in tried)]
        if len(going) < len(block.fields):
            yield from (Edit(around(one.span)) for one in going)
        elif going and not binds(block.place):
            yield Edit(around(block.span))


def spoken_in_test(declaration: ast.Node) -> Iterator[str]:
    yield from spoken(declaration)
    for node in ast.walk(declaration):
        match node:
            case ast.Pair(key=ast.Reference(name)) | ast.GivenFact(fact=ast.Reference(name)) | ast.Reference(name):
                yield name
            case _:
                pass


def binds(place: ast.Place | None) -> bool:
    """`facts on GET /v1/{id: invoice}` says what `resource` is there, even where it declares nothing."""
    targets = place.targets if place else ()
    return any(isinstance(target, ast.Http) and "{" in target.path for target in targets)


def starts(a: str, b: str) -> bool:
    """One name is the other, or a member of it."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def without_empty_block(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[Edit]:
    """`facts { }` and `credential { }` are in no kernel; an empty block of users is, and does nothing there."""
    at = {(one.span.source, one.span.start) for one in found}
    for one in declared(modules):
        for node in (one, *(one.items if isinstance(one, ast.AgentDecl) else ())):
            if says_nothing(node) and (node.span.source, node.span.start) in at:
                yield Edit(around(node.span))


def says_nothing(node: ast.Node) -> bool:
    match node:
        case ast.FactsDecl(place=place, fields=()):
            return not binds(place)
        case ast.CredentialDecl(items=()):
            return True
        case _:
            return False


def without_allowance(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[Edit]:
    """The comment goes, or only one of several rules that it names."""
    at = {(one.span.source, one.span.start) for one in found}
    for comment in (one for module in modules for one in module.comments if "lint:" in one.text):
        match = WHOLE.fullmatch(comment.text.rstrip())
        words = list(WORD.finditer(comment.text, *match.span("rules"))) if match else []
        left = [word[0] for word in words if (comment.span.source, comment.span.start + word.start()) not in at]
        if match and not left:
            yield Edit(around(comment.span))
        elif match and len(left) < len(words):
            start, end = match.span("rules")
            begin = comment.span.start
            yield Edit(Span(comment.span.source, begin + start, begin + end), ", ".join(left))


FIXES: Mapping[str, Mend] = {
    "W172": without_allowance,
    "W260": without_declaration,
    "W262": without_fact,
    "W350": get_for_head,
    "W455": without_empty_block,
    "W650": without_declaration,
}


# ── How much goes with what goes ──────────────────────────────────────────────────────────────


def around(span: Span) -> Span:
    """With the spaces, the line and the comment at its end that would be left over."""
    text, start, end = span.source.text, span.start, span.end
    line_start, line_end = text.rfind("\n", 0, start) + 1, line_end_after(text, end)
    before, after = text[line_start:start], text[end:line_end].strip()
    if before.strip() or (after and not after.startswith("#")):
        return beside(span, line_end)
    following = line_end + 1
    if is_blank(text, line_start - 1, backwards=True):
        while following < len(text) and is_blank(text, following):
            following = line_end_after(text, following) + 1
    return Span(span.source, line_start, min(following, len(text)))


def beside(span: Span, line_end: int) -> Span:
    """What shares its line with others goes alone: with the comma and the spaces after it, or else those before it."""
    text, start, end = span.source.text, span.start, span.end
    while end < line_end and text[end] in " \t,":
        end += 1
    if end == line_end:
        while start > 0 and text[start - 1] in " \t":
            start -= 1
    return Span(span.source, start, end)


def line_end_after(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def is_blank(text: str, at: int, backwards: bool = False) -> bool:
    """Whether the line that begins here, or the one that ends here, holds nothing; before the text there is nothing."""
    if backwards:
        return at <= 0 or not text[text.rfind("\n", 0, at) + 1 : at].strip()
    return not text[at : line_end_after(text, at)].strip()

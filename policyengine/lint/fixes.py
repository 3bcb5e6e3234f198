"""Safe fixes: edits of the policy text that remove a finding and keep the meaning of the policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.allow_comments import COMPLETE_ALLOWANCE, WORD
from policyengine.lint.policy_mistakes import declarations_in
from policyengine.lint.unused import names_in
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast


@dataclass(frozen=True, slots=True)
class TextEdit:
    """The replacement of the text at `span` with `text`."""

    span: Span
    text: str = ""


Fix: TypeAlias = Callable[[Sequence[Diagnostic], Sequence[ast.Module]], Iterator[TextEdit]]


def fix_edits(found: Iterable[Diagnostic], modules: Sequence[ast.Module], own: Collection[Source]) -> list[TextEdit]:
    """Return the edits that fix the fixable findings in the files `own`. No two edits overlap."""
    by_code: dict[str, list[Diagnostic]] = {}
    for diagnostic in found:
        if diagnostic.code in FIXES and diagnostic.span.source in own:
            by_code.setdefault(diagnostic.code, []).append(diagnostic)
    return drop_overlapping(edit for code, several in by_code.items() for edit in FIXES[code](several, modules))


def drop_overlapping(found: Iterable[TextEdit]) -> list[TextEdit]:
    """Return the edits in source order. If two edits overlap, only the first is returned; the next run returns the
    other edit.
    """
    kept: list[TextEdit] = []
    for edit in sorted(found, key=lambda one: (one.span.source.name, one.span.start, -one.span.end)):
        last = kept[-1].span if kept else None
        if last is None or last.source is not edit.span.source or last.end <= edit.span.start:
            kept.append(edit)
    return kept


def apply_edits(source: Source, changes: Iterable[TextEdit]) -> str:
    """Return the text of the source after its edits."""
    pieces, at = [], 0
    for edit in (one for one in changes if one.span.source is source):
        pieces += [source.text[at : edit.span.start], edit.text]
        at = edit.span.end
    return "".join([*pieces, source.text[at:]])


# ── The fix of each finding ──────────────────────────────────────────────────────────────────


def get_for_head(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[TextEdit]:
    """Yield edits that replace `HEAD` with `GET`, or remove it next to `GET`."""
    at = {(one.span.source, one.span.start) for one in found}
    nodes = (node for module in modules for node in ast.walk(module) if isinstance(node, ast.HttpPattern))
    for node in (one for one in nodes if "HEAD" in one.methods):
        source, start = node.span.source, node.span.start + node.span.text.find("HEAD")
        if (source, start) in at:
            written = Span(source, node.span.start, node.path_span.start)
            methods = dict.fromkeys("GET" if method == "HEAD" else method for method in node.methods)
            yield TextEdit(Span(source, written.start, written.start + len(written.text.rstrip())), "|".join(methods))


def without_declaration(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[TextEdit]:
    """Yield edits that remove unused declarations that are not in the kernel. Entities stay, because the entity store
    reads them, too.
    """
    at = {(one.span.source, one.span.start) for one in found}
    for declaration in declarations_in(modules):
        match declaration:
            case ast.LetDecl(name) | ast.DefineDecl(name) | ast.EnumDecl(name) | ast.FixtureDecl(name):
                if (name.span.source, name.span.start) in at:
                    yield TextEdit(whole_line_span(declaration.span))
            case _:
                pass


def without_fact(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[TextEdit]:
    """Yield edits that remove facts that no rule and no test mentions. A block without remaining facts is also removed,
    unless its place binds a resource.
    """
    at = {(one.span.source, one.span.start) for one in found}
    tests = (one for one in declarations_in(modules) if isinstance(one, ast.FixtureDecl | ast.TestDecl))
    tried = {name for one in tests for name in names_in_test(one)}
    for block in (one for one in declarations_in(modules) if isinstance(one, ast.FactsDecl)):
        unread = [one for one in block.fields if (one.name.span.source, one.name.span.start) in at]
        going = [one for one in unread if not any(are_nested_names(name, one.name.text) for name in tried)]
        if len(going) < len(block.fields):
            yield from (TextEdit(whole_line_span(one.span)) for one in going)
        elif going and not has_typed_capture(block.place):
            yield TextEdit(whole_line_span(block.span))


def names_in_test(declaration: ast.Node) -> Iterator[str]:
    yield from names_in(declaration)
    for node in ast.walk(declaration):
        match node:
            case (
                ast.RecordEntry(key=ast.Reference(name)) | ast.GivenFact(fact=ast.Reference(name)) | ast.Reference(name)
            ):
                yield name
            case _:
                pass


def has_typed_capture(place: ast.Place | None) -> bool:
    """Return whether a place binds `resource`, as `facts on GET /v1/{id: invoice}` does even if it declares no fact."""
    targets = place.targets if place else ()
    return any(isinstance(target, ast.HttpPattern) and "{" in target.path for target in targets)


def are_nested_names(a: str, b: str) -> bool:
    """Return whether the names are equal, or one is a member of the other."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def without_empty_block(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[TextEdit]:
    """Yield edits that remove empty `facts { }` and `credential { }` blocks. An empty user block is part of the kernel,
    so it stays.
    """
    at = {(one.span.source, one.span.start) for one in found}
    for declaration in declarations_in(modules):
        for node in (declaration, *(declaration.items if isinstance(declaration, ast.AgentDecl) else ())):
            if is_empty_block(node) and (node.span.source, node.span.start) in at:
                yield TextEdit(whole_line_span(node.span))


def is_empty_block(node: ast.Node) -> bool:
    match node:
        case ast.FactsDecl(place=place, fields=()):
            return not has_typed_capture(place)
        case ast.CredentialDecl(items=()):
            return True
        case _:
            return False


def without_allowance(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[TextEdit]:
    """Yield edits that remove a `lint: allow` comment, or only some of the rules that it names."""
    at = {(one.span.source, one.span.start) for one in found}
    for comment in (one for module in modules for one in module.comments if "lint:" in one.text):
        match = COMPLETE_ALLOWANCE.fullmatch(comment.text.rstrip())
        words = list(WORD.finditer(comment.text, *match.span("rules"))) if match else []
        left = [word[0] for word in words if (comment.span.source, comment.span.start + word.start()) not in at]
        if match and not left:
            yield TextEdit(whole_line_span(comment.span))
        elif match and len(left) < len(words):
            start, end = match.span("rules")
            begin = comment.span.start
            yield TextEdit(Span(comment.span.source, begin + start, begin + end), ", ".join(left))


FIXES: Mapping[str, Fix] = {
    "W172": without_allowance,
    "W260": without_declaration,
    "W262": without_fact,
    "W350": get_for_head,
    "W455": without_empty_block,
    "W650": without_declaration,
}


# ── How much text to remove ──────────────────────────────────────────────────────────────


def whole_line_span(span: Span) -> Span:
    """Return the span with its surrounding spaces, its line and the comment at its end, which would otherwise be left
    over.
    """
    text, start, end = span.source.text, span.start, span.end
    line_start, line_end = text.rfind("\n", 0, start) + 1, line_end_after(text, end)
    before, after = text[line_start:start], text[end:line_end].strip()
    if before.strip() or (after and not after.startswith("#")):
        return inline_span(span, line_end)
    following = line_end + 1
    if is_blank(text, line_start - 1, backwards=True):
        while following < len(text) and is_blank(text, following):
            following = line_end_after(text, following) + 1
    return Span(span.source, line_start, min(following, len(text)))


def inline_span(span: Span, line_end: int) -> Span:
    """Return the span without the rest of its line: with the comma and spaces after the span, or those before it."""
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
    """Return whether the line that begins at `at` (or, with `backwards`, ends there) is blank. The start of the text
    counts as a blank line.
    """
    if backwards:
        return at <= 0 or not text[text.rfind("\n", 0, at) + 1 : at].strip()
    return not text[at : line_end_after(text, at)].strip()

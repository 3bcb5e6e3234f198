"""Comments that allow a warning, `# lint: allow RULE because …`: which they silence, and which say something wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from policyengine.diagnostics.catalog import RULES, Code, rule
from policyengine.diagnostics.model import Diagnostic, suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast

FORM = "# lint: allow RULE because …"
MARKED = re.compile(r"#\s*lint:\s*(?P<verb>\w*)")
WHOLE = re.compile(r"#\s*lint:\s*allow\s+(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*)\s+because\s+(?P<reason>\S.*)")
WORD = re.compile(r"[\w-]+")
QUOTED = re.compile(r"#\s*lint:\s*allow\s+[\w,\s-]+\"[^\"]+\"\s*")
ALWAYS_TOLD = frozenset({"W170", "W171", "W172"})  # about allowances themselves

Place = tuple[str, int]  # by the name of the source: a finding may show another text than the file has


@dataclass(frozen=True, slots=True)
class Allowed:
    """One rule that a comment names: `word` as it is written, `line` where findings of it are allowed."""

    rule: Code
    word: Span
    comment: Span
    line: int


def allowed_in(modules: Iterable[ast.Module]) -> list[Allowed]:
    """Every allowance that gives its reason and names warnings."""
    return [one for module in modules for one in allowed_by_comments(module)]


def allowed_by_comments(module: ast.Module) -> Iterator[Allowed]:
    for comment in module.comments:
        match = WHOLE.fullmatch(comment.text.rstrip()) if "lint:" in comment.text else None
        for word in words_of(comment.span, match) if match else ():
            known = rule(word.text)
            if known is not None and known.name:
                yield Allowed(known, word, comment.span, line_for(comment.span))


def words_of(comment: Span, match: re.Match[str]) -> Iterator[Span]:
    for word in WORD.finditer(match.string, *match.span("rules")):
        yield Span(comment.source, comment.start + word.start(), comment.start + word.end())


def line_for(comment: Span) -> int:
    """A comment beside something speaks of its line; one alone on its line, of the next line that is no comment."""
    line, column = comment.source.position(comment.start)
    if comment.source.line(line)[: column - 1].strip():
        return line
    line += 1
    while comment.source.line(line).lstrip().startswith("#"):
        line += 1
    return line


def is_allowed(found: Diagnostic, one: Allowed) -> bool:
    return found.code == one.rule.code and found.code not in ALWAYS_TOLD


def without_allowed(found: Iterable[Diagnostic], modules: Sequence[ast.Module]) -> list[Diagnostic]:
    """Warnings that a comment allows are left out; errors never are."""
    allowed = by_place(allowed_in(modules))
    return [one for one in found if one.is_error or not any(is_allowed(one, by) for by in allowed[place_of(one)])]


def by_place(allowed: Iterable[Allowed]) -> defaultdict[Place, list[Allowed]]:
    found = defaultdict[Place, list[Allowed]](list)
    for one in allowed:
        found[one.comment.source.name, one.line].append(one)
    return found


def place_of(found: Diagnostic) -> Place:
    return found.span.source.name, found.span.line


# ── What is wrong with allowances ─────────────────────────────────────────────────────────────


def problems(modules: Iterable[ast.Module]) -> Iterator[Diagnostic]:
    for module in modules:
        for comment in module.comments:
            if "lint:" in comment.text and (marked := MARKED.match(comment.text)) is not None:
                yield from problems_of(comment.span, marked["verb"])


def problems_of(comment: Span, verb: str) -> Iterator[Diagnostic]:
    text = comment.text.rstrip()
    match = WHOLE.fullmatch(text)
    if match is None:
        yield incomplete(Span(comment.source, comment.start, comment.start + len(text)), verb)
        return
    for word in words_of(comment, match):
        known = rule(word.text)
        if known is None:
            meant = suggest(word.text, RULES)
            hint = f"did you mean `{meant}`?" if meant else "`policyengine explain-code` lists all rules"
            yield Diagnostic("W171", f"there is no rule `{word.text}`, so this allows nothing", word, hint)
        elif not known.name:
            message = f"`{known.code}` is an error, and no comment allows an error"
            yield Diagnostic("W171", message, word, "mend what it is about, and leave this out")


def incomplete(comment: Span, verb: str) -> Diagnostic:
    if verb != "allow":
        return Diagnostic("W170", "this allows nothing", comment, f"an allowance is written `{FORM}`")
    if QUOTED.fullmatch(comment.text):
        return Diagnostic("W170", "this allows nothing", comment, "write `because` before the reason, without quotes")
    return Diagnostic("W170", "this allows nothing: it gives no reason", comment, f"write it `{FORM}`")


def stale(found: Sequence[Diagnostic], modules: Iterable[ast.Module], sought: Collection[Code]) -> Iterator[Diagnostic]:
    """Allowances of rules that were sought and had nothing to tell there. `found` is before anything was left out."""
    told = {(*place_of(one), one.code) for one in found}
    for one in allowed_in(modules):
        if one.rule in sought and (one.comment.source.name, one.line, one.rule.code) not in told:
            message = f"nothing here is `{one.word.text}`, so this allows nothing"
            yield Diagnostic("W172", message, one.word, "leave it out: what it allowed is gone")

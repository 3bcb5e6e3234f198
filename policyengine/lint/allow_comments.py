"""Comments that allow a warning, `# lint: allow RULE because …`: the findings that they silence, and mistakes in the
comments.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from policyengine.diagnostics.catalog import CODES_BY_NAME, DiagnosticDoc, find_code
from policyengine.diagnostics.model import Diagnostic
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.source import Span
from policyengine.syntax import nodes as ast

ALLOWANCE_FORM = "# lint: allow RULE because …"
LINT_COMMENT = re.compile(r"#\s*lint:\s*(?P<verb>\w*)")
COMPLETE_ALLOWANCE = re.compile(r"#\s*lint:\s*allow\s+(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*)\s+because\s+(?P<reason>\S.*)")
WORD = re.compile(r"[\w-]+")
QUOTED = re.compile(r"#\s*lint:\s*allow\s+[\w,\s-]+\"[^\"]+\"\s*")
NEVER_ALLOWED = frozenset({"W170", "W171", "W172"})  # codes of findings about allowances themselves

Place = tuple[str, int]  # source name and line; not the source, because a finding may show a masked text of the file


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rule that a comment allows: `word` is its name as written, `line` is the line on which its findings are
    allowed.
    """

    rule: DiagnosticDoc
    word: Span
    comment: Span
    line: int


def allowances_in(modules: Iterable[ast.Module]) -> list[Allowance]:
    """Return every complete allowance that names a warning; an allowance without a reason is incomplete."""
    return [one for module in modules for one in module_allowances(module)]


def module_allowances(module: ast.Module) -> Iterator[Allowance]:
    for comment in module.comments:
        match = COMPLETE_ALLOWANCE.fullmatch(comment.text.rstrip()) if "lint:" in comment.text else None
        for word in rule_word_spans(comment.span, match) if match else ():
            known = find_code(word.text)
            if known is not None and known.name:
                yield Allowance(known, word, comment.span, allowed_line(comment.span))


def rule_word_spans(comment: Span, match: re.Match[str]) -> Iterator[Span]:
    for word in WORD.finditer(match.string, *match.span("rules")):
        yield Span(comment.source, comment.start + word.start(), comment.start + word.end())


def allowed_line(comment: Span) -> int:
    """Return the line to which a comment applies: its own line if code precedes it, otherwise the next line that is not
    a comment.
    """
    line, column = comment.source.position(comment.start)
    if comment.source.line(line)[: column - 1].strip():
        return line
    line += 1
    while comment.source.line(line).lstrip().startswith("#"):
        line += 1
    return line


def is_allowed(found: Diagnostic, one: Allowance) -> bool:
    return found.code == one.rule.code and found.code not in NEVER_ALLOWED


def drop_allowed(found: Iterable[Diagnostic], modules: Sequence[ast.Module]) -> list[Diagnostic]:
    """Return the findings without the warnings that comments allow. Errors always stay."""
    allowed = allowances_by_line(allowances_in(modules))
    return [
        one for one in found if one.is_error or not any(is_allowed(one, by) for by in allowed[diagnostic_line(one)])
    ]


def allowances_by_line(allowed: Iterable[Allowance]) -> defaultdict[Place, list[Allowance]]:
    found = defaultdict[Place, list[Allowance]](list)
    for allowance in allowed:
        found[allowance.comment.source.name, allowance.line].append(allowance)
    return found


def diagnostic_line(found: Diagnostic) -> Place:
    return found.span.source.name, found.span.line


# ── Mistakes in allowances ─────────────────────────────────────────────────────────────────────


def check_allowances(modules: Iterable[ast.Module]) -> Iterator[Diagnostic]:
    for module in modules:
        for comment in module.comments:
            if "lint:" in comment.text and (marked := LINT_COMMENT.match(comment.text)) is not None:
                yield from check_allowance(comment.span, marked["verb"])


def check_allowance(comment: Span, verb: str) -> Iterator[Diagnostic]:
    text = comment.text.rstrip()
    match = COMPLETE_ALLOWANCE.fullmatch(text)
    if match is None:
        yield incomplete_allowance(Span(comment.source, comment.start, comment.start + len(text)), verb)
        return
    for word in rule_word_spans(comment, match):
        known = find_code(word.text)
        if known is None:
            hint = did_you_mean(word.text, CODES_BY_NAME) or "`policyengine explain-code` lists all rules"
            yield Diagnostic("W171", f"no rule is named `{word.text}`, so this comment allows nothing", word, hint)
        elif not known.name:
            message = f"`{known.code}` is an error, and a comment cannot allow an error"
            yield Diagnostic("W171", message, word, "fix the error, and remove this comment")


def incomplete_allowance(comment: Span, verb: str) -> Diagnostic:
    if verb != "allow":
        return Diagnostic("W170", "this comment allows nothing", comment, f"write it `{ALLOWANCE_FORM}`")
    if QUOTED.fullmatch(comment.text):
        return Diagnostic(
            "W170", "this comment allows nothing", comment, "write `because` before the reason, without quotes"
        )
    return Diagnostic(
        "W170", "this comment allows nothing, because it gives no reason", comment, f"write it `{ALLOWANCE_FORM}`"
    )


def stale_allowances(
    found: Sequence[Diagnostic], modules: Iterable[ast.Module], sought: Collection[DiagnosticDoc]
) -> Iterator[Diagnostic]:
    """Yield a W172 for each allowance whose rule was checked and reported nothing on its line. `found` holds the
    findings before `drop_allowed` removes any.
    """
    told = {(*diagnostic_line(one), one.code) for one in found}
    for allowance in allowances_in(modules):
        if (
            allowance.rule in sought
            and (allowance.comment.source.name, allowance.line, allowance.rule.code) not in told
        ):
            message = f"the warning `{allowance.word.text}` does not occur here, so this comment allows nothing"
            yield Diagnostic("W172", message, allowance.word, "remove the comment: nothing here needs it")

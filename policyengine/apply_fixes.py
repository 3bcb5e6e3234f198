"""Automatic fixes, applied in rounds; a fix that would change the meaning of the policy is dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from policyengine.check import CheckResult, lint
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.lint import fixes
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

MAX_ROUNDS = 10  # maximum rounds: removing an unused name may make another name unused, which the next round removes

DiagnosticFilter = Callable[[Diagnostic], bool]


@dataclass(frozen=True, slots=True)
class LintState:
    """Sources with their modules and diagnostics."""

    sources: tuple[Source, ...]
    modules: tuple[ast.Module, ...]
    checked: CheckResult


@dataclass(frozen=True, slots=True)
class FixResult:
    """The result of fixing. `texts` are the new texts of changed files by name; `fixed` is the number of resolved
    findings."""

    linted: LintState
    texts: Mapping[str, str]
    fixed: int


def lint_sources(
    sources: Sequence[Source], problems: Sequence[Diagnostic], optional: Collection[str] = ()
) -> LintState:
    """Parse and lint sources. `problems` are earlier diagnostics to include, about files that could not be read;
    `optional` are the codes of rules to run although they are off by default.
    """
    parsed = [parse(source) for source in sources]
    modules = tuple(module for module, _ in parsed if module is not None)
    found = [*problems, *(one for _, several in parsed for one in several)]
    return LintState(tuple(sources), modules, lint(modules, found, optional))


def apply_fixes(
    first: LintState, own: Collection[str], chosen: DiagnosticFilter, optional: Collection[str] = ()
) -> FixResult:
    """Fix the `chosen` findings that have an automatic fix, in the sources named in `own`."""
    now = first
    for _ in range(MAX_ROUNDS):
        after = run_round(now, own, chosen, optional)
        if after is None:
            break
        now = after
    pairs = zip(first.sources, now.sources, strict=True)
    texts = {source.name: after.text for source, after in pairs if after.text != source.text}
    return FixResult(now, texts, max(0, count_findings(first, own, chosen) - count_findings(now, own, chosen)))


def count_findings(of: LintState, own: Collection[str], chosen: DiagnosticFilter) -> int:
    return sum(1 for one in of.checked.diagnostics if chosen(one) and one.span.source.name in own)


def run_round(
    now: LintState, own: Collection[str], chosen: DiagnosticFilter, optional: Collection[str]
) -> LintState | None:
    """Apply one round of fixes. Returns None if there is nothing to fix, or if every fix would change the meaning of
    the policy."""
    if now.checked.kernel is None:
        return None
    found = [one for one in now.checked.diagnostics if chosen(one)]
    changes = fixes.fix_edits(found, now.modules, [source for source in now.sources if source.name in own])
    after = apply_edits(now, changes, optional)
    if changes and not same_meaning(now.checked, after.checked):
        changes = safe_edits(changes, now, optional)
        after = apply_edits(now, changes, optional)
    return after if changes and same_meaning(now.checked, after.checked) else None


def safe_edits(changes: list[fixes.TextEdit], now: LintState, optional: Collection[str]) -> list[fixes.TextEdit]:
    """Return the edits that keep the meaning. They are found by bisection, so that a fix that changes the meaning does
    not prevent the others.
    """
    middle = len(changes) // 2
    halves = (changes[:middle], changes[middle:]) if middle else ()
    kept = []
    for half in halves:
        alone = same_meaning(now.checked, apply_edits(now, half, optional).checked)
        kept += half if alone else safe_edits(half, now, optional)
    return kept


def apply_edits(now: LintState, changes: Sequence[fixes.TextEdit], optional: Collection[str]) -> LintState:
    touched = {edit.span.source.name for edit in changes}
    return lint_sources(
        [rewrite_source(one, changes) if one.name in touched else one for one in now.sources], (), optional
    )


def same_meaning(a: CheckResult, b: CheckResult) -> bool:
    """Return whether both results have the same rules and the same tests with the same expectations."""
    expected = [[(case.package, case.test, case.expected) for case in one.cases] for one in (a, b)]
    return a.kernel == b.kernel and expected[0] == expected[1]


def rewrite_source(source: Source, changes: Sequence[fixes.TextEdit]) -> Source:
    """Return the source with its edits applied, and formatted if it was in canonical form before."""
    after = replace(source, text=fixes.apply_edits(source, changes))
    return replace(after, text=format_source(after)) if format_source(source) == source.text else after


def format_source(source: Source) -> str:
    try:
        return format_module(source)
    except PolicyError:
        return source.text  # a text with syntax errors is not formatted

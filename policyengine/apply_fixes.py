"""Mends what can be mended, round after round, and lets no change stand that alters what the policy means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from policyengine.check import Checked, lint
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.lint import fixes
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

MOST_ROUNDS = 10  # a name that only an unused name uses is unused in the next round

Chosen = Callable[[Diagnostic], bool]


@dataclass(frozen=True, slots=True)
class Linted:
    """Sources, what they mean, and what was found."""

    sources: tuple[Source, ...]
    modules: tuple[ast.Module, ...]
    checked: Checked


@dataclass(frozen=True, slots=True)
class Mended:
    """`texts` are the changed files, by name; `fixed` counts the findings that are gone."""

    linted: Linted
    texts: Mapping[str, str]
    fixed: int


def linted(sources: Sequence[Source], problems: Sequence[Diagnostic], optional: Collection[str] = ()) -> Linted:
    """`problems` were found before: files that could not be read."""
    parsed = [parse(source) for source in sources]
    modules = tuple(module for module, _ in parsed if module is not None)
    found = [*problems, *(one for _, several in parsed for one in several)]
    return Linted(tuple(sources), modules, lint(modules, found, optional))


def mended(first: Linted, own: Collection[str], chosen: Chosen, optional: Collection[str] = ()) -> Mended:
    """The sources named in `own` without the findings that are `chosen` and can be mended."""
    now = first
    for _ in range(MOST_ROUNDS):
        after = one_round(now, own, chosen, optional)
        if after is None:
            break
        now = after
    pairs = zip(first.sources, now.sources, strict=True)
    texts = {source.name: after.text for source, after in pairs if after.text != source.text}
    return Mended(now, texts, max(0, count(first, own, chosen) - count(now, own, chosen)))


def count(of: Linted, own: Collection[str], chosen: Chosen) -> int:
    return sum(1 for one in of.checked.diagnostics if chosen(one) and one.span.source.name in own)


def one_round(now: Linted, own: Collection[str], chosen: Chosen, optional: Collection[str]) -> Linted | None:
    """None when there is nothing more to mend, or when mending would alter what the policy means."""
    if now.checked.kernel is None:
        return None
    found = [one for one in now.checked.diagnostics if chosen(one)]
    changes = fixes.edits(found, now.modules, [source for source in now.sources if source.name in own])
    after = changed(now, changes, optional)
    if changes and not means_the_same(now.checked, after.checked):
        changes = harmless(changes, now, optional)
        after = changed(now, changes, optional)
    return after if changes and means_the_same(now.checked, after.checked) else None


def harmless(changes: list[fixes.Edit], now: Linted, optional: Collection[str]) -> list[fixes.Edit]:
    """Where all together alter the meaning, those that do not: one that goes wrong keeps no other from helping."""
    middle = len(changes) // 2
    halves = (changes[:middle], changes[middle:]) if middle else ()
    kept = []
    for half in halves:
        alone = means_the_same(now.checked, changed(now, half, optional).checked)
        kept += half if alone else harmless(half, now, optional)
    return kept


def changed(now: Linted, changes: Sequence[fixes.Edit], optional: Collection[str]) -> Linted:
    touched = {edit.span.source.name for edit in changes}
    return linted([rewritten(one, changes) if one.name in touched else one for one in now.sources], (), optional)


def means_the_same(a: Checked, b: Checked) -> bool:
    """The same rules, and as many tests that expect the same."""
    expected = [[(case.package, case.test, case.expected) for case in one.cases] for one in (a, b)]
    return a.kernel == b.kernel and expected[0] == expected[1]


def rewritten(source: Source, changes: Sequence[fixes.Edit]) -> Source:
    """A file that was in canonical form stays so; of another one nothing is touched but what is mended."""
    after = replace(source, text=fixes.edited(source, changes))
    return replace(after, text=canonical(after)) if canonical(source) == source.text else after


def canonical(source: Source) -> str:
    try:
        return format_module(source)
    except PolicyError:
        return source.text  # with mistakes in it, it is not taken

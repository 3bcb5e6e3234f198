"""The whole check: modules in, a kernel and every finding out. Nothing here raises, whatever the modules hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from policyengine.diagnostics import Diagnostic, in_order
from policyengine.semantics import binders, examples, lints, logic, text
from policyengine.semantics import kernel as k
from policyengine.semantics.draft import Draft
from policyengine.semantics.expressions import check_definitions
from policyengine.semantics.lower import lower
from policyengine.semantics.places import Places
from policyengine.semantics.revision import ordered
from policyengine.semantics.schema import Schema
from policyengine.semantics.symbols import MAIN, Program, Reporter, package_of, report_unused_imports
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse
from policyengine.syntax.pause import uncollected

LANGUAGE = "1"
ALLOWED = re.compile(r"#\s*lint:\s*allow\s+(?P<codes>W\d{3}(?:\s*,\s*W\d{3})*)\s+\"[^\"]+\"\s*$")
# What a declaration that could not be read may have said: told only once the syntax is right.
NEEDS_ALL = frozenset("E201 E202 E203 E204 E205 E206 E207 E208 E209 E242 E311 E404 E412 E504 E505 W209".split())
# What holds an error is not in the kernel: only without any is it known what doors open and what places hold.
NEEDS_DOORS = frozenset({"W322", "W421", "W521"})


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check came to. `kernel` is None exactly when a diagnostic is an error; `cases` and
    `properties` are of its tests."""

    kernel: k.Kernel | None
    diagnostics: tuple[Diagnostic, ...]
    program: Program
    schema: Schema
    cases: tuple[examples.Case, ...] = ()
    properties: tuple[examples.Property, ...] = ()

    @property
    def ok(self) -> bool:
        return self.kernel is not None


@uncollected()
def check(modules: Sequence[ast.Module], syntax: Sequence[Diagnostic] = ()) -> Checked:
    """`syntax` is what parsing found already; `modules` then hold what could be read all the same."""
    found = unordered(modules, syntax)
    return replace(found, kernel=found.kernel and ordered(found.kernel))


@uncollected()
def compiled(
    sources: Iterable[Source], problems: Iterable[Diagnostic] = (), *, advice: bool = False
) -> tuple[k.Kernel | None, tuple[Diagnostic, ...]]:
    """The kernel of sources, None when there is an error, and what is wrong with them; `problems` were found before.

    Nothing else is kept: trees and tables, larger than the kernel, are gone before it is put in order.
    Without `advice` only errors are sought; if there is one, all is told.
    """
    kernel, found = read(sources, problems, advice)
    return kernel and ordered(kernel), found


def read(
    sources: Iterable[Source], problems: Iterable[Diagnostic], advice: bool
) -> tuple[k.Kernel | None, tuple[Diagnostic, ...]]:
    parsed = [parse(source) for source in sources]
    modules = [module for module, _ in parsed if module is not None]
    found = [*problems, *(diagnostic for _, some in parsed for diagnostic in some)]
    checked = unordered(modules, found, advice)
    if checked.kernel is None and not advice:
        checked = unordered(modules, found)  # whoever has to mend it is told everything
    return checked.kernel, checked.diagnostics


def unordered(modules: Sequence[ast.Module], syntax: Sequence[Diagnostic], advice: bool = True) -> Checked:
    """The check, but for the kernel's order and revision. Without `advice` only errors are sought."""
    report = Reporter()
    program = Program.of(modules, report)
    places = Places(program)
    schema = Schema.of(program, places)
    places.check_scopes()
    bound = binders.collect(program, places, schema)
    check_definitions(program, schema)
    draft = Draft.of(program, schema, places)
    check_languages(modules, report)
    kernel = lower(draft, bound, package_of(modules[0]) if modules else MAIN)
    shown = examples.Examples() if syntax else examples.lower(program, schema)
    report_unused_imports(program)
    seek = (logic.findings, lints.findings) if advice else (logic.mistakes, lints.mistakes)
    return replace(
        concluded(kernel, modules, program, schema, syntax, seek), cases=shown.cases, properties=shown.properties
    )


Seek: TypeAlias = tuple[
    Callable[[k.Kernel], Iterable[Diagnostic]], Callable[[k.Kernel, Sequence[ast.Module]], Iterable[Diagnostic]]
]


def concluded(
    kernel: k.Kernel,
    modules: Sequence[ast.Module],
    program: Program,
    schema: Schema,
    syntax: Sequence[Diagnostic],
    seek: Seek,
) -> Checked:
    """Lints and logic speak of a policy that means something: they wait until nothing is wrong with it."""
    found = [d for d in program.report.diagnostics if not (syntax and d.code in NEEDS_ALL)]
    found += [*syntax, *(finding for module in modules for finding in text.findings(module))]
    if has_error(found):
        found = [finding for finding in found if finding.code not in NEEDS_DOORS]
    else:
        of_logic, of_writing = seek
        found += [*of_logic(kernel), *of_writing(kernel, modules)]
    kept = in_order(without_allowed(found, modules))
    return Checked(None if has_error(kept) else kernel, kept, program, schema)


def has_error(found: Iterable[Diagnostic]) -> bool:
    return any(diagnostic.is_error for diagnostic in found)


def check_languages(modules: Sequence[ast.Module], report: Reporter) -> None:
    for module in modules:
        if module.language is not None and module.language.text != LANGUAGE:
            message = f"language {module.language.text} is not known"
            report("E150", message, module.language.span, f"write `language {LANGUAGE}`")


# ── `# lint: allow W203 "reason"` ─────────────────────────────────────────────────────────────


def without_allowed(found: Iterable[Diagnostic], modules: Sequence[ast.Module]) -> list[Diagnostic]:
    """Warnings that a comment allows, on their line or the line before, are left out; errors never are."""
    allowed = {place for module in modules for place in allowances(module)}
    return [d for d in found if d.is_error or (d.span.source, d.span.line, d.code) not in allowed]


def allowances(module: ast.Module) -> Iterator[tuple[Source, int, str]]:
    for comment in module.comments:
        match = ALLOWED.fullmatch(comment.text)
        for code in re.findall(r"W\d{3}", match["codes"]) if match else ():
            yield comment.span.source, comment.span.line, code
            yield comment.span.source, comment.span.line + 1, code


def check_text(text_: str) -> list[Diagnostic]:
    """Every finding about one policy, in the order of its text."""
    module, found = parse(Source("policy", text_))
    return list(check([module] if module else [], found).diagnostics)

"""The complete check, from modules to a kernel and all diagnostics: checker, test cases, lint. It never raises an
exception for an invalid policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from policyengine import kernel as k
from policyengine import lint as lints
from policyengine import testcases
from policyengine.checker import confusable_text
from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.lower.expressions import check_definitions
from policyengine.checker.lower.policy import lower_policy
from policyengine.checker.names.program import Program, merge_misspelled_packages, report_unused_imports
from policyengine.checker.names.symbols import MAIN_PACKAGE, package_of
from policyengine.checker.patterns import binders
from policyengine.checker.patterns.overlap import forget_places
from policyengine.checker.patterns.places import PlaceResolver
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.entity_hierarchy import check_inherited
from policyengine.checker.types.schema import Schema
from policyengine.diagnostics.catalog import CODES, DiagnosticDoc
from policyengine.diagnostics.model import BoundExceededError, Diagnostic, sort_diagnostics
from policyengine.gc_pause import gc_paused
from policyengine.kernel.fingerprint import canonicalize
from policyengine.lint import allow_comments, dead_limit_conditions, dead_rules, unbound_resource
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

LANGUAGE_VERSION = "1"
# Errors that declarations with syntax errors may cause, reported only if the syntax is valid.
SYNTAX_DEPENDENT_CODES = frozenset(
    "E201 E202 E203 E204 E205 E206 E207 E208 E209 E242 E311 E404 E412 E504 E505 W209".split()
)
# Warnings that depend on all grants and places. They are reported only if there are no errors, because a rule with an
# error is not in the kernel.
GRANT_DEPENDENT_CODES = frozenset({"W322", "W421", "W521", "W936"})


class CheckDepth(Enum):
    """The findings that a check reports: only errors, also warnings, or also opinions."""

    ERRORS = 1
    WARNINGS = 2
    OPINIONS = 3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check. `kernel` is None if and only if a diagnostic is an error; `cases` and `properties` come
    from the tests.
    """

    kernel: k.Kernel | None
    diagnostics: tuple[Diagnostic, ...]
    program: Program
    schema: Schema
    cases: tuple[testcases.Case, ...] = ()
    properties: tuple[testcases.Property, ...] = ()

    @property
    def ok(self) -> bool:
        return self.kernel is not None


@gc_paused()
def check(modules: Sequence[ast.Module], syntax: Sequence[Diagnostic] = ()) -> CheckResult:
    """Check modules and return their kernel and diagnostics. `syntax` are the errors from parsing; with errors,
    `modules` hold the declarations that could be parsed.
    """
    found = check_unordered(modules, syntax)
    return replace(found, kernel=found.kernel and canonicalize(found.kernel))


@gc_paused()
def lint(
    modules: Sequence[ast.Module], syntax: Sequence[Diagnostic] = (), optional: Collection[str] = ()
) -> CheckResult:
    """Check modules and also report opinions; `optional` are the codes of rules that are off by default."""
    return check_unordered(modules, syntax, CheckDepth.OPINIONS, optional)


@gc_paused()
def compile_sources(
    sources: Iterable[Source], problems: Iterable[Diagnostic] = (), *, advice: bool = False
) -> tuple[k.Kernel | None, tuple[Diagnostic, ...]]:
    """Return the kernel of sources, or None if there is an error, and their diagnostics. `problems` are earlier
    diagnostics to include.

    Syntax trees and tables, which are larger than the kernel, are freed before the kernel is put in canonical order.
    With `advice`, the diagnostics include all warnings. Without `advice`, the search for warnings that need lint rules
    runs only if there is an error.
    """
    kernel, found = check_sources(sources, problems, advice)
    return kernel and canonicalize(kernel), found


def check_sources(
    sources: Iterable[Source], problems: Iterable[Diagnostic], advice: bool
) -> tuple[k.Kernel | None, tuple[Diagnostic, ...]]:
    parsed = [parse(source) for source in sources]
    modules = [module for module, _ in parsed if module is not None]
    found = [*problems, *(diagnostic for _, some in parsed for diagnostic in some)]
    checked = check_unordered(modules, found, CheckDepth.WARNINGS if advice else CheckDepth.ERRORS)
    if checked.kernel is None and not advice:
        checked = check_unordered(modules, found)  # the author of the policy gets all diagnostics
    return checked.kernel, checked.diagnostics


def check_unordered(
    modules: Sequence[ast.Module],
    syntax: Sequence[Diagnostic],
    depth: CheckDepth = CheckDepth.WARNINGS,
    optional: Collection[str] = (),
) -> CheckResult:
    """Check modules without giving the kernel its canonical order and revision."""
    report = Reporter()
    program = Program.of(modules, report)
    places = PlaceResolver(program)
    schema = Schema.of(program, places)
    try:
        return _checked(modules, syntax, CheckScope(depth, optional), program, places, schema)
    except BoundExceededError as beyond:
        return CheckResult(None, sort_diagnostics([*syntax, beyond.diagnostic]), program, schema)
    finally:
        forget_places()


def _checked(
    modules: Sequence[ast.Module],
    syntax: Sequence[Diagnostic],
    sought: CheckScope,
    program: Program,
    places: PlaceResolver,
    schema: Schema,
) -> CheckResult:
    """Check modules. Raises BoundExceededError if the policies exceed a limit of the checker."""
    report = program.report
    places.check_scopes()
    bound = binders.collect_binders(program, places, schema)
    check_definitions(program, schema)
    check_inherited(program, schema)
    draft = LoweringContext.of(program, schema, places)
    check_language_versions(modules, report)
    kernel = lower_policy(draft, bound, package_of(modules[0]) if modules else MAIN_PACKAGE)
    shown = testcases.LoweredTests() if syntax else testcases.lower(program, schema)
    report_unused_imports(program)
    found = [d for d in program.report.diagnostics if not (syntax and d.code in SYNTAX_DEPENDENT_CODES)]
    found = merge_misspelled_packages(found, program, SYNTAX_DEPENDENT_CODES)
    found += [
        *syntax,
        *(finding for module in modules for finding in confusable_text.find_confusable_text(module)),
        *find_empty_files(modules, syntax),
    ]
    kept = sort_diagnostics(add_lint_findings(found, kernel, modules, shown, sought))
    return CheckResult(None if has_error(kept) else kernel, kept, program, schema, shown.cases, shown.properties)


def find_empty_files(modules: Sequence[ast.Module], syntax: Sequence[Diagnostic]) -> Iterator[Diagnostic]:
    """Yield an error for each file without a declaration, unless its syntax errors are already reported."""
    mistaken = {id(one.span.source) for one in syntax}
    for module in modules:
        source = module.span.source
        if not module.declarations and id(source) not in mistaken:
            hint = "add a declaration, or remove the file"
            yield Diagnostic("E155", "this file declares nothing", Span(source, 0, 0), hint)


@dataclass(frozen=True, slots=True)
class CheckScope:
    """The diagnostics to report: those up to `depth`, and those of the `optional` rules, which are off by default."""

    depth: CheckDepth
    optional: Collection[str]

    @property
    def rules(self) -> list[DiagnosticDoc]:
        return [code for code in CODES.values() if not code.optional or code.code in self.optional]


def add_lint_findings(
    found: list[Diagnostic],
    kernel: k.Kernel,
    modules: Sequence[ast.Module],
    shown: testcases.LoweredTests,
    sought: CheckScope,
) -> list[Diagnostic]:
    """Add lint findings, and drop allowed warnings. Lint rules run only on a policy without errors."""
    found = [*found, *allow_comments.check_allowances(modules)]
    if has_error(found):
        return allow_comments.drop_allowed((one for one in found if one.code not in GRANT_DEPENDENT_CODES), modules)
    found += lint_findings(kernel, modules, shown, sought)
    if sought.depth is CheckDepth.OPINIONS and not has_error(found):
        found += allow_comments.stale_allowances(found, modules, sought.rules)
    return allow_comments.drop_allowed(found, modules)


def lint_findings(
    kernel: k.Kernel, modules: Sequence[ast.Module], shown: testcases.LoweredTests, sought: CheckScope
) -> Iterator[Diagnostic]:
    yield from unbound_resource.unbound_resource_errors(kernel)
    if sought.depth is CheckDepth.ERRORS:
        yield from dead_rules.dead_rule_errors(kernel)
        yield from dead_limit_conditions.dead_limit_errors(kernel)
        yield from lints.wrong_tests(kernel, modules)
        return
    yield from dead_rules.dead_rule_findings(kernel)
    yield from dead_limit_conditions.dead_limit_findings(kernel)
    yield from lints.probable_mistakes(kernel, modules)
    if sought.depth is CheckDepth.OPINIONS:
        yield from lints.opinions(kernel, modules, shown.cases, sought.optional)


def has_error(found: Iterable[Diagnostic]) -> bool:
    return any(diagnostic.is_error for diagnostic in found)


def check_language_versions(modules: Sequence[ast.Module], report: Reporter) -> None:
    for module in modules:
        if module.language is not None and module.language.text != LANGUAGE_VERSION:
            message = f"language version {module.language.text} is not supported"
            report("E150", message, module.language.span, f"write `language {LANGUAGE_VERSION}`")


def check_text(text_: str) -> list[Diagnostic]:
    """Return the errors and warnings of one policy, in source order."""
    module, found = parse(Source("policy", text_))
    return list(check([module] if module else [], found).diagnostics)


def lint_text(text_: str, optional: Collection[str] = ()) -> list[Diagnostic]:
    """Return all diagnostics of one policy, including opinions."""
    module, found = parse(Source("policy", text_))
    return list(lint([module] if module else [], found, optional).diagnostics)

"""Lowers fixtures and tests to cases: each `given` changes the scenario for the items after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_condition
from policyengine.checker.names.declarations import declarations
from policyengine.checker.names.program import Program
from policyengine.checker.names.symbols import Package, Symbol
from policyengine.checker.type_names import quote_source
from policyengine.checker.types.constants import lower_literal
from policyengine.checker.types.schema import Schema
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span, is_test_file
from policyengine.syntax import nodes as ast
from policyengine.testcases import fixtures as givens
from policyengine.testcases.expectations import read_expectation
from policyengine.testcases.fact_catalogue import FactCatalogue
from policyengine.testcases.facts_outside_rules import all_facts_context, check_capture
from policyengine.testcases.raw_facts import ValueContext
from policyengine.testcases.repeats_and_responses import RequestExtras, read_extras, repeat_clauses
from policyengine.testcases.requests import CaseEndpoint, build_question, read_endpoints
from policyengine.testcases.scenario import (
    Case,
    ExpectedOutcome,
    GivenApproval,
    LoweredTests,
    Property,
    Repetition,
    Scenario,
    ScenarioStep,
    learned_facts_in,
)
from policyengine.testcases.tables import ExpandedRow, expand_matrix, expand_table
from policyengine.time_formats import format_duration, to_utc
from policyengine.typesystem import UnresolvedType

NO_EXTRAS = RequestExtras()
MAIN_SEQUENCE = 0  # a sequence is a list of requests in order; each table row and matrix cell has its own sequence


def lower(program: Program, schema: Schema) -> LoweredTests:
    """Lower all tests to cases and properties; report mistakes to `program.report`."""
    fixtures = FixtureReader(FactCatalogue.of(program, schema))
    found = [one for package in program.packages.values() for one in lower_package(package, fixtures)]
    cases = tuple(one for one in found if isinstance(one, Case))
    return LoweredTests(cases, tuple(one for one in found if isinstance(one, Property)))


def lower_package(package: Package, fixtures: FixtureReader) -> Iterator[Case | Property]:
    names: dict[str, Span] = {}
    for module in package.modules:
        check_test_file(module, fixtures)
        for declared, _ in declarations(module):
            if isinstance(declared, ast.FixtureDecl):
                fixtures.check(declared, package.name)
            elif isinstance(declared, ast.TestDecl):
                check_name(declared, names, fixtures)
                yield from TestLowerer(declared, package.name, fixtures, skip_reason(declared)).examples()


def check_name(test: ast.TestDecl, names: dict[str, Span], fixtures: FixtureReader) -> None:
    first = names.setdefault(test.name.value, test.name.span)
    if first is not test.name.span:
        message, related = f"two tests are named `{test.name.value}`", [RelatedLocation("the other one", first)]
        fixtures.catalogue.program.report("E612", message, test.name.span, "rename one of them", related)


def check_test_file(module: ast.Module, fixtures: FixtureReader) -> None:
    """Report declarations in a test file. An engine does not load test files, so tests must not depend on their
    declarations.
    """
    for declared, _ in declarations(module):
        if is_test_file(declared.span.source.name) and not isinstance(declared, ast.FixtureDecl | ast.TestDecl):
            first_word = declared.span.text.split(maxsplit=1)[0]
            span = Span(declared.span.source, declared.span.start, declared.span.start + len(first_word))
            message = f"`{first_word}` is in a test file, which no engine loads"
            hint = "move it to a policy file: a test file may contain only fixtures and tests"
            fixtures.catalogue.program.report("E620", message, span, hint)


# ── Fixtures ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class FixtureReader:
    """The steps of every fixture, computed once. `reading` is the stack of fixtures in progress, to find cycles."""

    catalogue: FactCatalogue
    known: dict[tuple[str, str], tuple[ScenarioStep, ...]] = field(default_factory=dict)
    reading: list[tuple[str, str]] = field(default_factory=list)

    def check(self, declared: ast.FixtureDecl, package: str) -> None:
        """Lower a fixture, so that mistakes are reported even if no test uses it."""
        symbol = self.catalogue.program.lookup(package, "fixture", declared.name.text)
        if symbol is not None and symbol.declaration is declared:
            self.steps(symbol, declared.name)

    def setup(self, item: ast.Setup, reading: ValueContext) -> Iterator[ScenarioStep]:
        if not isinstance(item, ast.UseFixtures):
            yield from givens.given_steps(item, reading)
            return
        for name in item.fixtures:
            symbol = self.catalogue.program.find(reading.package, "fixture", name)
            yield from self.steps(symbol, name) if symbol else ()

    def steps(self, symbol: Symbol, used: ast.Name) -> tuple[ScenarioStep, ...]:
        key = (symbol.package, symbol.name)
        if key in self.reading:
            hint = "move the shared givens into a third fixture"
            self.catalogue.program.report("E601", f"the fixture `{symbol.name}` uses itself", used.span, hint)
            return ()
        if key not in self.known:
            assert isinstance(symbol.declaration, ast.FixtureDecl)
            self.reading.append(key)
            here = ValueContext(self.catalogue, symbol.package)
            self.known[key] = tuple(step for item in symbol.declaration.setup for step in self.setup(item, here))
            self.reading.pop()
        return self.known[key]


# ── One test ──────────────────────────────────────────────────────────────────────────────────


def skip_reason(test: ast.TestDecl) -> str | None:
    return next((item.reason.value for item in test.items if isinstance(item, ast.Skip)), None)


@dataclass(slots=True)
class TestLowerer:
    """Lowers one test. It numbers the cases, and the sequences that share state."""

    __test__ = False  # not a test class for pytest

    declared: ast.TestDecl
    package: str
    fixtures: FixtureReader
    skip: str | None
    number: int = 0
    sequence: int = MAIN_SEQUENCE

    def examples(self) -> Iterator[Case | Property]:
        world, started = Scenario(), False
        reading = ValueContext(self.fixtures.catalogue, self.package)
        for item in self.declared.items:
            match item:
                case ast.Shot():
                    world = self.moved(world, item, started, reading)
                    yield from self.shot(item, world, MAIN_SEQUENCE, {}, reading)
                    world, started = after_repeats(world, item, reading), True
                case ast.CaseTable():
                    for row in expand_table(item, reading):
                        yield from self.filled(row, world)
                case ast.CaseMatrix():
                    yield from self.matrix(item, world, reading)
                case ast.Forall():
                    yield from self.forall(item, world, reading)
                case ast.Skip():
                    pass
                case _:
                    world = world.then(self.fixtures.setup(item, reading))

    def shot(
        self, shot: ast.Shot, world: Scenario, sequence: int, cell: Mapping[str, str], reading: ValueContext
    ) -> Iterator[Case]:
        """Lower one request. `cell` holds the values of a matrix, for display."""
        wanted = read_expectation(shot.expected, reading, repeated=bool(repeat_clauses(shot)))
        trace = read_extras(shot, wanted, reading)
        given = {pair.key.span.text: pair.value.span.text for pair in shot.facts.pairs} if shot.facts else {}
        brought = world.then(givens.fact_steps(shot.facts, reading))
        endpoints = read_endpoints(shot.request, reading)
        if trace is not None and trace.repeated is not None and len(endpoints) > 1:
            message, hint = (
                "`repeat` takes one request, but this line has several",
                "write a separate line for each method",
            )
            reading.report("E621", message, shot.request.span, hint)
        for endpoint in endpoints:
            if wanted is not None and trace is not None:
                yield self.case(endpoint, brought, {**cell, **given}, wanted, sequence, shot.span, trace)

    def filled(self, row: ExpandedRow, world: Scenario) -> Iterator[Case]:
        """Lower one row of a table, or one cell of a matrix that names its request."""
        self.sequence += 1
        world = world.then(row.steps)
        for endpoint in read_endpoints(row.request, row.reading):
            yield self.case(endpoint, world, row.given, row.expected, self.sequence, row.span)

    def matrix(self, matrix: ast.CaseMatrix, world: Scenario, reading: ValueContext) -> Iterator[Case]:
        for cell in expand_matrix(matrix, reading):
            inside = world.then(s for item in matrix.setup for s in self.fixtures.setup(item, cell.reading))
            if cell.filled is not None:
                yield from self.filled(cell.filled, inside)
                continue
            self.sequence += 1
            inside = inside.then(cell.steps)
            for index, shot in enumerate(matrix.shots):
                inside = self.moved(inside, shot, index > 0, cell.reading)
                yield from self.shot(shot, inside, self.sequence, cell.given, cell.reading)
                inside = after_repeats(inside, shot, reading)

    def case(
        self,
        endpoint: CaseEndpoint,
        world: Scenario,
        given: Mapping[str, str],
        wanted: ExpectedOutcome,
        sequence: int,
        span: Span,
        trace: RequestExtras = NO_EXTRAS,
    ) -> Case:
        self.number += 1
        facts = ", ".join(f"{name}: {' '.join(text.split())}" for name, text in given.items())
        return Case(
            test=self.declared.name.value,
            package=self.package,
            number=self.number,
            sequence=sequence,
            request=f"{repeat_text(trace.repeated)}{endpoint.text}{f' {{ {facts} }}' if facts else ''}",
            question=build_question(endpoint, world, self.fixtures.catalogue),
            rows=world.rows,
            attributes=world.attributes,
            approvals=tuple(self.approved(one, endpoint, world) for one in world.approvals),
            now=world.now,
            expected=wanted,
            skip=self.skip,
            span=span,
            repeated=trace.repeated,
            responded=trace.responded,
            behavior=learned_facts_in(world.facts),
            traces=world.traces,
        )

    def approved(self, one: GivenApproval, endpoint: CaseEndpoint, world: Scenario) -> GivenApproval:
        """Return the approval with the request for which it was granted, if its facts differ."""
        if not one.of:
            return one
        return replace(one, question=build_question(endpoint, world.then(one.of), self.fixtures.catalogue))

    def moved(self, world: Scenario, shot: ast.Shot, started: bool, reading: ValueContext) -> Scenario:
        """Return the scenario at the time of the request: `after` advances the clock and `at` sets it; the clock never
        goes back.
        """
        now = world.now
        for moment in shot.moments:
            match moment:
                case ast.Repeat():
                    pass  # no time passes before the first request; `after_repeats` adds the time of all repetitions
                case ast.AfterClause(literal):
                    now = add_duration(now, literal, reading)
                case ast.AtClause(literal):
                    constant = lower_literal(literal, reading.report)
                    then = constant.value if constant and isinstance(constant.value, datetime) else now
                    if then < now and started:
                        message = "the clock of a test cannot go back"
                        hint = f"the clock is already at {now:%Y-%m-%dT%H:%M:%SZ}: put earlier requests first"
                        reading.report("E617", message, moment.span, hint)
                    now = then
        return world.at(now)

    def forall(self, item: ast.Forall, world: Scenario, reading: ValueContext) -> Iterator[Property]:
        where = None if item.where is None else read_condition(item.where, reading)
        wanted = read_claim(item, reading)
        if wanted is not None and (where is not None or item.where is None):
            self.number += 1
            name = self.declared.name.value
            yield Property(name, self.package, self.number, world, where, wanted, self.skip, item.span)


def after_repeats(world: Scenario, shot: ast.Shot, reading: ValueContext) -> Scenario:
    """Return the scenario after all repetitions of a request, when their time has passed."""
    for repeat in repeat_clauses(shot):
        world = world.at(add_duration(world.now, repeat.within, reading))
    return world


def repeat_text(times: Repetition | None) -> str:
    return "" if times is None else f"repeat {times.times:,} in {format_duration(times.within)} ".replace(",", "_")


def add_duration(now: datetime, literal: ast.Literal, reading: ValueContext) -> datetime:
    constant = lower_literal(literal, reading.report)
    try:
        return to_utc(now + constant.value) if constant and isinstance(constant.value, timedelta) else now
    except OverflowError:
        reading.report(
            "E617", f"the clock cannot advance by `{literal.text}`", literal.span, "write a shorter duration"
        )
        return now


# ── Properties ─────────────────────────────────────────────────────────────────────────────────


def read_condition(where: ast.Expr, reading: ValueContext) -> k.Expr | None:
    """Lower the condition of a `forall`; return None if a mistake was reported. It may read any fact of any request."""
    context = all_facts_context(reading, where.span)
    found = lower_condition(where, context)
    facts = [part for part in k.walk(found) if isinstance(part, k.Fact | k.Attribute)] if found is not None else []
    if not all(check_capture(part, context) for part in facts):
        return None
    for part in facts:
        if isinstance(part.type, UnresolvedType):  # no value can have this type
            message = (
                f"{quote_source(part.span)} has different types at different endpoints, but must have one type here"
            )
            reading.report("E217", message, part.span, "declare it with one type everywhere, or use another fact")
            return None
    return found


def read_claim(item: ast.Forall, reading: ValueContext) -> ExpectedOutcome | None:
    """Parse the outcome of a `forall` and its rule or gate; return None if a mistake was reported."""
    details = item.expected.details
    if details is None:
        return read_expectation(item.expected, reading)
    message = "`with` describes one decision, but `forall` makes many decisions"
    reading.report("E619", message, details.span, "remove it, or write a separate request: `GET /a => … with { … }`")
    return None

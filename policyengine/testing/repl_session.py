"""A test that is written line by line, and asked as it is written: what `policyengine repl` is about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from policyengine.check import CheckResult
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.diagnostics.model import Diagnostic
from policyengine.explain.explanation import Explanation, explain
from policyengine.explain.lines import ExplanationLine, Mark
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.testcases import Case
from policyengine.testing.adhoc import AdhocTestReader
from policyengine.testing.expectations import meets_expectation
from policyengine.testing.properties.render_test import quote_string as quoted
from policyengine.testing.runner import CaseRunner, CaseSetupError, CaseTrace

HEAD = 'test "session" {\n'
# One of these begins a request: a method, `TOOL`, `ACTION`; the clock may move before it.
MOMENTS = r"(?:(?:after|at|repeat\s+\S+\s+in)\s+\S+\s+)*"
REQUEST = re.compile(rf"{MOMENTS}[A-Z]+(?:\|[A-Z]+)*\s+\S")
CLOCK_MOVE = re.compile(r"(?:after|at)\s+[^\s{]+")
SETUP = re.compile(r"(?:given|use)\b")
ASSIGNED = re.compile(r"(?P<name>[a-z_][\w.]*)(?P<key>\[\s*\"(?:[^\"\\]|\\.)*\"\s*\])?\s*=(?![=>])\s*")
EXPECTATION = re.compile(r"=>\s*(?:not\s+|first\s+)?(?:allow|deny|confirm|throttle)\b")
LEXEME = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[{}()\[\]]', re.DOTALL)
BLOCKING_MARKS = (Mark.NO, Mark.UNKNOWN)


class StatementError(Exception):
    """A line means nothing: why, and where in it."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(one.render() for one in self.diagnostics))


def combined_expectation(came: Sequence[str]) -> str:
    """What a test can expect of requests that came to this, one after the other."""
    if len(set(came)) == 1:
        return came[0]
    outcomes = [one.partition(" ")[0] for one in came]
    number = next((i for i, one in enumerate(outcomes) if one != outcomes[0]), None)
    if number is None:
        return outcomes[0]
    _, by, reason = came[number].partition(" by ")
    return f"first {outcomes[number]} at {number + 1}{by}{reason}"


class UndecidableRequestError(Exception):
    """A request is one that nothing can be decided about."""


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """What came of a request. `met` is None where nothing was expected; `comes_to` is what could have been.

    Of one that is repeated the first is shown that came to something else than was expected, or else the last one.
    """

    case: Case
    explanation: Explanation
    met: bool | None = None
    comes_to: str = ""

    @property
    def decision(self) -> Decision:
        return self.explanation.decision

    def in_the_way(self) -> Iterator[str]:
        """The walk without all that is as it should be."""
        for gate in self.explanation.gates:
            if gate.mark in BLOCKING_MARKS:
                yield from prune_passing(gate).render()


@dataclass(frozen=True, slots=True)
class SessionStatement:
    """A line as the language of tests has it: by how much what was typed is moved in it, and its value, if it has one.

    `value` is where that begins.
    """

    text: str
    shift: int
    value: int = 0
    value_shift: int = 0

    def typed_at(self, offset: int) -> int:
        """Where in the line something was typed."""
        return offset - (self.value_shift if self.value and offset >= self.value else self.shift)


@dataclass(slots=True)
class ReplSession:
    """The items of a test so far, the clock that moved since, and what was spent."""

    checked: CheckResult
    package: str
    scratch: AdhocTestReader
    runner: CaseRunner
    items: list[str] = field(default_factory=list)
    moved: str = ""
    asked: int = 0
    last: SessionAnswer | None = None

    @classmethod
    def of(cls, checked: CheckResult) -> ReplSession:
        """For policies without errors."""
        assert checked.kernel is not None
        package = checked.kernel.package
        return cls(checked, package, AdhocTestReader.of(checked, package), CaseRunner.of(checked.kernel))

    # ── What a line does ──────────────────────────────────────────────────────────────────────

    def take(self, line: str, number: int = 1) -> list[SessionAnswer]:
        """Give what the line gives, or ask what it asks. Raises StatementError, UndecidableRequestError; then nothing
        has changed."""
        if REQUEST.match(line):
            return self._ask(line, number)
        if CLOCK_MOVE.fullmatch(line):
            self._lowered(SessionStatement(f"{self.moved}{line} GET / => allow", len(self.moved)), line, number)
            self.moved += f"{line} "
            return []
        statement = parse_setup(line)
        cases = self._lowered(statement, line, number)[self.asked :]
        answers = [self._answer(case, expects=True) for case in cases]  # requests may stand behind what is given
        self._remember([statement.text], answers)
        if statement.text.split()[:2] == ["given", "time"]:
            self.moved = ""  # it stands from where it was set
        return answers

    def _ask(self, line: str, number: int) -> list[SessionAnswer]:
        expects = EXPECTATION.search(line) is not None
        whole = f"{self.moved}{line}" if expects else f"{self.moved}{line}\n=> allow"  # behind any comment
        cases = self._lowered(SessionStatement(whole, len(self.moved)), line, number)[self.asked :]
        answers = [self._answer(case, expects) for case in cases]
        if expects:
            items = [whole]
        else:
            items = [f"{one.case.request} => {one.comes_to}" for one in answers]
            items[:1] = [f"{self._moments(whole)}{items[0]}"]
        self._remember(items, answers)
        self.moved = ""
        return answers

    def _remember(self, items: Sequence[str], answers: Sequence[SessionAnswer]) -> None:
        self.items += items
        self.asked += len(answers)
        self.last = answers[-1] if answers else self.last

    @staticmethod
    def _moments(whole: str) -> str:
        """When it is asked; how often is a part of the request."""
        found = re.match(MOMENTS, whole)
        return "".join(re.findall(r"\b(?:after|at)\s+\S+\s+", found[0])) if found else ""

    def _answer(self, case: Case, expects: bool) -> SessionAnswer:
        """All of it is asked, also where it is repeated."""
        shown: CaseTrace | None = None
        met, came = True, list[str]()
        for request in case.requests:
            try:
                seen = self.runner.specified(request)
            except (CaseSetupError, RequestError) as problem:
                raise UndecidableRequestError(str(problem)) from None
            came.append(self.expected(seen.decision))
            shown = seen if met or shown is None else shown
            met = met and meets_expectation(request.expected, seen.decision)
        assert shown is not None
        explanation = explain(shown.decision, shown.facts, shown.walk)
        return SessionAnswer(case, explanation, met if expects else None, combined_expectation(came))

    def expected(self, decision: Decision) -> str:
        """The outcome and the first rule or gate that is a reason for just it."""
        reasons = [one for one in decision.reasons if one.outcome is decision.outcome]
        if decision.allowed or not reasons:
            return str(decision.outcome)
        rules = [one.rule for one in reasons if one.rule in self.scratch.catalogue.rules]
        return f"{decision.outcome} by {quoted(str(rules[0])) if rules else reasons[0].gate}"

    def _lowered(self, statement: SessionStatement, typed: str, number: int) -> Sequence[Case]:
        """Every request of the test with one more statement in it. Raises StatementError, told in the line as typed."""
        before = HEAD + "".join(f"{item}\n" for item in self.items)
        cases, mistakes = self.scratch.cases(Source("session", f"{before}{statement.text}\n}}\n"))
        if mistakes:
            raise StatementError([relocate_diagnostic(one, statement, typed, len(before), number) for one in mistakes])
        return cases

    # ── What is so ────────────────────────────────────────────────────────────────────────────

    @property
    def now(self) -> datetime:
        """The clock of the test."""
        cases = self._lowered(SessionStatement(f"{self.moved}GET / => allow", 0), "", 1)
        return cases[-1].now

    @property
    def given(self) -> list[str]:
        """What was given, in the order in which it was."""
        return [item for item in self.items if SETUP.match(item)]

    def reset(self) -> None:
        """A test from its beginning."""
        fresh = ReplSession.of(self.checked)
        self.items, self.moved, self.asked, self.last, self.runner = [], "", 0, None, fresh.runner

    def with_policies(self, checked: CheckResult) -> ReplSession:
        """The same test of other policies. Raises StatementError where they do not know what it gives."""
        other = ReplSession.of(checked)
        other.items, other.moved, other.asked = list(self.items), self.moved, self.asked
        cases = other._lowered(SessionStatement("", 0), "", 1)
        other.asked = len(cases)
        return other

    def test(self, name: str) -> str:
        """The session as a file of tests, in canonical form."""
        package = "" if self.package == MAIN_PACKAGE else f"package {self.package}\n"
        items = "".join(f"  {item}\n" for item in self.items)
        name = quoted(unused_test_name(name, self.checked, self.package))
        return format_module(Source("session", f"language 1\n{package}\ntest {name} {{\n{items}}}\n"))

    def words(self) -> list[str]:
        """What may be typed: facts, agents, entities, fixtures."""
        kernel = self.checked.kernel
        assert kernel is not None
        facts = [".".join(path) for path in self.scratch.catalogue.leaves if all(name.isidentifier() for name in path)]
        named = [block.who.name for block in kernel.agents if hasattr(block.who, "name")]
        agents = [f"agent {quoted(name)}" for name in named]
        return sorted({*facts, *agents, *(f"use {name}" for name in self.scratch.package.names("fixture"))})


def parse_setup(line: str) -> SessionStatement:
    """`body.amount = 900`, `agent "bot"`, `given …`: a line that gives something, as tests have it."""
    if SETUP.match(line):
        return SessionStatement(line, 0)
    assigned = ASSIGNED.match(line)
    if assigned is None:
        return SessionStatement(f"given {line}", len("given "))
    rest = line[assigned.end() :]
    if assigned["key"] is None:
        before, after = f"given {assigned['name']} ", ""
    else:
        before, after = f"given {assigned['name']} {{ {assigned['key'].strip('[] ')}: ", "\n}"  # behind any comment
    return SessionStatement(f"{before}{rest}{after}", len("given "), len(before), len(before) - assigned.end())


def relocate_diagnostic(
    found: Diagnostic, statement: SessionStatement, typed: str, start: int, number: int
) -> Diagnostic:
    """The finding, told in the line as it was typed."""
    source = Source("repl", "\n" * (number - 1) + typed)
    first, size = number - 1, len(source.text)

    def place(offset: int) -> int:
        return min(max(statement.typed_at(offset - start) + first, first), size)

    begin = place(found.span.start)
    if begin == size and typed.strip():  # what is missing, is missing at the end
        begin = size - 1
    span = Span(source, begin, max(place(found.span.end), begin + 1))
    return Diagnostic(found.code, found.message, span, found.hint)


def is_complete(text: str) -> bool:
    """Whether every bracket that is opened is closed; strings and comments aside."""
    depth = 0
    for lexeme in LEXEME.findall(text):
        depth += 1 if lexeme in ("{", "(", "[") else -1 if lexeme in ("}", ")", "]") else 0
    return depth <= 0


def prune_passing(line: ExplanationLine) -> ExplanationLine:
    parts = tuple(prune_passing(part) for part in line.parts if part.mark in BLOCKING_MARKS)
    return ExplanationLine(line.mark, line.text, line.note, line.at, parts or line.parts)


def unused_test_name(name: str, checked: CheckResult, package: str) -> str:
    known = checked.program.packages.get(package)
    every = (one for module in known.modules for one in module.declarations) if known else ()
    taken = {one.name.value for one in every if isinstance(one, ast.TestDecl)}
    numbered = (name if number == 1 else f"{name} {number}" for number in range(1, len(taken) + 2))
    return next(one for one in numbered if one not in taken)

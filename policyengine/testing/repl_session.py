"""A test that is written and run line by line, as in `policyengine repl`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from policyengine.check import CheckResult
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.diagnostics.model import Diagnostic
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.explain.explanation import Explanation, explain
from policyengine.explain.lines import ExplanationLine, Mark
from policyengine.runtime.decision import Decision
from policyengine.runtime.format_values import quote_string as quoted
from policyengine.runtime.request import RequestError
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.testcases import Case
from policyengine.testing.adhoc import AdhocTestReader
from policyengine.testing.decide_case import CaseSetupError
from policyengine.testing.expectations import meets_expectation
from policyengine.testing.runner import CaseRunner, CaseTrace

HEAD = 'test "session" {\n'
# A request begins with a method, `TOOL` or `ACTION`, optionally after a change of the clock.
MOMENTS = r"(?:(?:after|at|repeat\s+\S+\s+in)\s+\S+\s+)*"
REQUEST = re.compile(rf"{MOMENTS}[A-Z]+(?:\|[A-Z]+)*\s+\S")
CLOCK_MOVE = re.compile(r"(?:after|at)\s+[^\s{]+")
SETUP = re.compile(r"(?:given|use)\b")
ASSIGNED = re.compile(r"(?P<name>[a-z_][\w.]*)(?P<key>\[\s*\"(?:[^\"\\]|\\.)*\"\s*\])?\s*=(?![=>])\s*")
EXPECTATION = re.compile(r"=>\s*(?:not\s+|first\s+)?(?:allow|deny|confirm|throttle)\b")
LEXEME = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[{}()\[\]]', re.DOTALL)
BLOCKING_MARKS = (Mark.NO, Mark.UNKNOWN)


class StatementError(Exception):
    """The error for an invalid statement, with its position."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(one.render() for one in self.diagnostics))


def combined_expectation(came: Sequence[str]) -> str:
    """Return one expectation that covers repeated requests with these results."""
    if len(set(came)) == 1:
        return came[0]
    outcomes = [one.partition(" ")[0] for one in came]
    number = next((i for i, one in enumerate(outcomes) if one != outcomes[0]), None)
    if number is None:
        return outcomes[0]
    _, by, reason = came[number].partition(" by ")
    return f"first {outcomes[number]} at {number + 1}{by}{reason}"


class UndecidableRequestError(Exception):
    """The error for a request that cannot be decided."""


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """The result of a request; for a repeated request, the first unexpected result, or else the last result. `met` is
    None if nothing was expected; `comes_to` is an expectation that the request meets.
    """

    case: Case
    explanation: Explanation
    met: bool | None = None
    comes_to: str = ""

    @property
    def decision(self) -> Decision:
        return self.explanation.decision

    def in_the_way(self) -> Iterator[str]:
        """Yield the trace of the gates that stop the request, without the parts that pass."""
        for gate in self.explanation.gates:
            if gate.mark in BLOCKING_MARKS:
                yield from prune_passing(gate).render()


@dataclass(frozen=True, slots=True)
class SessionStatement:
    """A line as a statement of the test language. `shift` is the number of characters inserted before the typed text,
    `value` the position of its value, if any, with its own shift.
    """

    text: str
    shift: int
    value: int = 0
    value_shift: int = 0

    def typed_at(self, offset: int) -> int:
        """Return the position in the typed line for an offset in the statement."""
        return offset - (self.value_shift if self.value and offset >= self.value else self.shift)


@dataclass(slots=True)
class ReplSession:
    """The items of the test so far, the clock changes since the last item, and the spent state."""

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
        """Start a session for policies without errors."""
        assert checked.kernel is not None
        package = checked.kernel.package
        return cls(checked, package, AdhocTestReader.of(checked, package), CaseRunner.of(checked.kernel))

    # ── Statements ─────────────────────────────────────────────────────────────────────────────

    def take(self, line: str, number: int = 1) -> list[SessionAnswer]:
        """Add the facts of a line, or run its request. Raises StatementError or UndecidableRequestError; then nothing
        has changed.
        """
        if REQUEST.match(line):
            return self._ask(line, number)
        if CLOCK_MOVE.fullmatch(line):
            self._lower(SessionStatement(f"{self.moved}{line} GET / => allow", len(self.moved)), line, number)
            self.moved += f"{line} "
            return []
        statement = parse_setup(line)
        cases = self._lower(statement, line, number)[self.asked :]
        answers = [self._answer(case, expects=True) for case in cases]  # a request may follow facts on the same line
        self._remember([statement.text], answers)
        if statement.text.split()[:2] == ["given", "time"]:
            self.moved = ""  # the clock continues from the time that was set
        return answers

    def _ask(self, line: str, number: int) -> list[SessionAnswer]:
        expects = EXPECTATION.search(line) is not None
        whole = f"{self.moved}{line}" if expects else f"{self.moved}{line}\n=> allow"  # after any comment
        cases = self._lower(SessionStatement(whole, len(self.moved)), line, number)[self.asked :]
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
        """Return the clock changes of a line, without its repetition."""
        found = re.match(MOMENTS, whole)
        return "".join(re.findall(r"\b(?:after|at)\s+\S+\s+", found[0])) if found else ""

    def _answer(self, case: Case, expects: bool) -> SessionAnswer:
        """Run a request with all its repetitions. Raises UndecidableRequestError."""
        shown: CaseTrace | None = None
        met, came = True, list[str]()
        for request in case.requests:
            try:
                seen = self.runner.traced(request)
            except (CaseSetupError, RequestError) as problem:
                raise UndecidableRequestError(str(problem)) from None
            except EngineDisagreementError as problem:
                raise UndecidableRequestError(f"internal error: {problem}") from None
            came.append(self.expected(seen.decision))
            shown = seen if met or shown is None else shown
            met = met and meets_expectation(request.expected, seen.decision)
        assert shown is not None
        explanation = explain(shown.decision, shown.facts, shown.walk)
        return SessionAnswer(case, explanation, met if expects else None, combined_expectation(came))

    def expected(self, decision: Decision) -> str:
        """Return the outcome, and the first rule or gate among its reasons."""
        reasons = [one for one in decision.reasons if one.outcome is decision.outcome]
        if decision.allowed or not reasons:
            return str(decision.outcome)
        rules = [one.rule for one in reasons if one.rule in self.scratch.catalogue.rules]
        return f"{decision.outcome} by {quoted(str(rules[0])) if rules else reasons[0].gate}"

    def _lower(self, statement: SessionStatement, typed: str, number: int) -> Sequence[Case]:
        """Return all requests of the test with one more statement. Raises StatementError with positions in the typed
        line."""
        before = HEAD + "".join(f"{item}\n" for item in self.items)
        cases, mistakes = self.scratch.cases(Source("session", f"{before}{statement.text}\n}}\n"))
        if mistakes:
            raise StatementError([relocate_diagnostic(one, statement, typed, len(before), number) for one in mistakes])
        return cases

    # ── State ──────────────────────────────────────────────────────────────────────────────────

    @property
    def now(self) -> datetime:
        """The current time of the test."""
        cases = self._lower(SessionStatement(f"{self.moved}GET / => allow", 0), "", 1)
        return cases[-1].now

    @property
    def given(self) -> list[str]:
        """The given facts, in order."""
        return [item for item in self.items if SETUP.match(item)]

    def reset(self) -> None:
        """Restart the test with an empty state."""
        fresh = ReplSession.of(self.checked)
        self.items, self.moved, self.asked, self.last, self.runner = [], "", 0, None, fresh.runner

    def with_policies(self, checked: CheckResult) -> ReplSession:
        """Return the same test with other policies. Raises StatementError if its facts are invalid with them."""
        other = ReplSession.of(checked)
        other.items, other.moved, other.asked = list(self.items), self.moved, self.asked
        cases = other._lower(SessionStatement("", 0), "", 1)
        other.asked = len(cases)
        return other

    def test(self, name: str) -> str:
        """Return the session as a test file in canonical form."""
        package = "" if self.package == MAIN_PACKAGE else f"package {self.package}\n"
        items = "".join(f"  {item}\n" for item in self.items)
        name = quoted(unused_test_name(name, self.checked, self.package))
        return format_module(Source("session", f"language 1\n{package}\ntest {name} {{\n{items}}}\n"))

    def words(self) -> list[str]:
        """Return words for completion: facts, agents, entities and fixtures."""
        kernel = self.checked.kernel
        assert kernel is not None
        facts = [".".join(path) for path in self.scratch.catalogue.leaves if all(name.isidentifier() for name in path)]
        named = [block.who.name for block in kernel.agents if hasattr(block.who, "name")]
        agents = [f"agent {quoted(name)}" for name in named]
        return sorted({*facts, *agents, *(f"use {name}" for name in self.scratch.package.names("fixture"))})


def parse_setup(line: str) -> SessionStatement:
    """Parse a line with facts: `body.amount = 900`, `agent "bot"` or `given …`."""
    if SETUP.match(line):
        return SessionStatement(line, 0)
    assigned = ASSIGNED.match(line)
    if assigned is None:
        return SessionStatement(f"given {line}", len("given "))
    rest = line[assigned.end() :]
    if assigned["key"] is None:
        before, after = f"given {assigned['name']} ", ""
    else:
        has_comment = any(lexeme.startswith("#") for lexeme in LEXEME.findall(rest))
        before, after = f"given {assigned['name']} {{ {assigned['key'].strip('[] ')}: ", "\n}" if has_comment else " }"
    return SessionStatement(f"{before}{rest}{after}", len("given "), len(before), len(before) - assigned.end())


def relocate_diagnostic(
    found: Diagnostic, statement: SessionStatement, typed: str, start: int, number: int
) -> Diagnostic:
    """Return the diagnostic with its position in the typed line."""
    source = Source("repl", "\n" * (number - 1) + typed)
    first, size = number - 1, len(source.text)

    def place(offset: int) -> int:
        return min(max(statement.typed_at(offset - start) + first, first), size)

    begin = place(found.span.start)
    if begin == size and typed.strip():  # an error at the end of the input
        begin = size - 1
    span = Span(source, begin, max(place(found.span.end), begin + 1))
    return Diagnostic(found.code, found.message, span, found.hint)


def is_complete(text: str) -> bool:
    """Return whether every bracket is closed, ignoring strings and comments."""
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

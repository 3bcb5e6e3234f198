"""Test results, one for each request, with their counts, as text and as JSON-compatible data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

from policyengine.control_characters import one_line
from policyengine.diagnostics.model import format_location, source_excerpt
from policyengine.explain.explanation import Explanation, headline
from policyengine.runtime.decision import Decision
from policyengine.runtime.format_values import format_value
from policyengine.source import Span
from policyengine.testcases import Case
from policyengine.testing.expectations import DetailDifference


class ResultStatus(StrEnum):
    """The status of a request or claim. FAILED: the outcome is not as expected; ERRORED: the request could not be
    decided; UNDECIDED: too few generated requests match the claim."""

    PASSED = "passed"
    FAILED = "failed"
    ERRORED = "errored"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"


STATUS_SIGNS = {
    ResultStatus.PASSED: "✓",
    ResultStatus.FAILED: "✗",
    ResultStatus.ERRORED: "!",
    ResultStatus.UNDECIDED: "?",
    ResultStatus.SKIPPED: "·",
}
FAILURE_STATUSES = (ResultStatus.FAILED, ResultStatus.ERRORED, ResultStatus.UNDECIDED)


class ExampleInfo(Protocol):
    """The test and position of a request or claim. A `number` is unique in its test."""

    @property
    def test(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def span(self) -> Span: ...
    @property
    def skip(self) -> str | None: ...


class ExampleResult(Protocol):
    """The result of a request or of a claim."""

    @property
    def example(self) -> ExampleInfo: ...
    @property
    def status(self) -> ResultStatus: ...
    @property
    def seconds(self) -> float: ...
    @property
    def asks(self) -> str: ...
    @property
    def in_short(self) -> str: ...
    def render(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The result of one request of a test. `walk` is its trace if it failed; `problem` says why it errored.
    `differences` are details after `with` that differ although the outcome is as expected. For a repeated request,
    `request` is the number of the repetition that the result describes.
    """

    case: Case
    status: ResultStatus
    decision: Decision | None = None
    walk: Explanation | None = None
    problem: str | None = None
    differences: tuple[DetailDifference, ...] = ()
    seconds: float = field(default=0.0, compare=False)  # the duration of the decision
    request: int | None = None

    @property
    def example(self) -> Case:
        return self.case

    @property
    def asks(self) -> str:
        """The request and its expectation: `GET /v1/invoices => allow`."""
        return f"{self.case.request} => {self.case.expected.text}"

    def of(self, case: Case) -> CaseResult:
        """Return the result for an equal case."""
        return replace(self, case=case)

    def took(self, seconds: float) -> CaseResult:
        """Return the result with its duration."""
        how = (self.case, self.status, self.decision, self.walk, self.problem, self.differences)
        return CaseResult(*how, seconds, self.request)

    @property
    def in_short(self) -> str:
        """The failure in one line."""
        if self.problem is not None:
            return self.problem
        if self.differences:
            return "; ".join(one.render() for one in self.differences)
        came = "" if self.decision is None else headline(self.decision)
        which = "it" if self.request is None else f"request {self.request:,}"
        return f"expected {self.case.expected.text}, but {which} resulted in {came}"

    def render(self) -> str:
        """Return the full text of a failure: its position, the expectation, the decision and the trace."""
        lines = [
            f"{format_location(self.case.span)}: {self.status} test {format_value(self.case.test)}",
            *source_excerpt(self.case.span),
        ]
        lines += [f"  request:  {self.case.request}", f"  expected: {self.case.expected.text}"]
        if self.problem is not None:
            return "\n".join(map(one_line, [*lines, f"  problem:  {self.problem}"]))
        if self.decision is not None:
            which = "" if self.request is None else f"request {self.request:,}: "
            lines.append(f"  actual:   {which}{headline(self.decision)}")
            lines += [f"            {reason}" for reason in reason_lines(self.decision)]
        heads = ["differs:", *[""] * len(self.differences)]
        lines += [f"  {head:<9} {one.render()}" for head, one in zip(heads, self.differences, strict=False)]
        walk = [] if self.walk is None else [line for gate in self.walk.gates for line in gate.brief().render()]
        return "\n".join(map(one_line, [*lines, *(["  walk:", *(f"    {line}" for line in walk)] if walk else [])]))

    def to_dict(self) -> dict[str, Any]:
        case = self.case
        found: dict[str, Any] = {
            "test": case.test,
            "package": case.package,
            "number": case.number,
            "file": case.span.source.name,
            "line": case.span.line,
            "column": case.span.column,
            "request": case.request,
            "expected": case.expected.text,
            "status": str(self.status),
            "outcome": None if self.decision is None else str(self.decision.outcome),
        }
        found |= {} if self.request is None else {"request_number": self.request}
        found |= {} if case.skip is None else {"reason": case.skip}
        found |= {} if self.problem is None else {"problem": self.problem}
        found |= {"differences": [one.to_dict() for one in self.differences]} if self.differences else {}
        return found if self.walk is None else {**found, **self.walk.to_dict()}


def reason_lines(decision: Decision) -> Iterator[str]:
    for reason in decision.reasons:
        rule = f" {format_value(reason.rule)}" if reason.rule else ""
        at = f"  ({reason.at})" if reason.at else ""
        yield f"{reason.outcome} by {reason.gate}{rule}: {reason.message}{at}"


@dataclass(frozen=True)
class RunReport:
    """The results of all requests, then of all claims, each in source order. `revision` identifies the policy; it is
    empty for several policies.
    """

    results: tuple[ExampleResult, ...]
    revision: str = ""

    @cached_property
    def counts(self) -> dict[ResultStatus, int]:
        every = [result.status for result in self.results]
        return {status: every.count(status) for status in ResultStatus}

    @property
    def ok(self) -> bool:
        """Whether no result failed. True without results: the caller decides what that means."""
        return not any(self.counts[status] for status in FAILURE_STATUSES)

    @property
    def bad(self) -> tuple[ExampleResult, ...]:
        """The results that failed or could not be decided."""
        return tuple(result for result in self.results if result.status in FAILURE_STATUSES)

    @property
    def summary(self) -> str:
        """The counts: `12 passed, 1 failed, 1 skipped`."""
        return ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count) or "no tests"

    def render(self, verbose: bool = False) -> str:
        """Return plain text: every request if `verbose`, then the failures, then the summary."""
        blocks = list(self._overview()) if verbose else []
        blocks += [result.render() for result in self.bad]
        return "\n\n".join([*blocks, self.summary])

    def _overview(self) -> Iterator[str]:
        for (package, test), results in groupby(self.results, key=lambda one: (one.example.package, one.example.test)):
            lines = [f"  {STATUS_SIGNS[one.status]} {one.asks}{skip_note(one)}" for one in results]
            yield "\n".join(map(one_line, [f"{package}: {test}", *lines]))

    def to_dict(self) -> dict[str, Any]:
        counts = {str(status): count for status, count in self.counts.items()}
        return {"revision": self.revision, **counts, "results": [result.to_dict() for result in self.results]}


def skip_note(result: ExampleResult) -> str:
    return f" — skipped: {result.example.skip}" if result.status is ResultStatus.SKIPPED else ""

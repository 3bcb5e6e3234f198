"""The result of a claim about all requests, as text and as JSON-compatible data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from policyengine.control_characters import one_line
from policyengine.diagnostics.model import format_location, source_excerpt
from policyengine.explain.explanation import headline
from policyengine.runtime.format_values import format_value
from policyengine.testcases import Case, Property
from policyengine.testing.report import CaseResult, ResultStatus, reason_lines


class ClaimVerdict(StrEnum):
    """The result of a claim. UNDECIDED: `where` was true for too few of the generated requests. ERRORED: a generated
    request could not be decided. SKIPPED: the test is marked to be skipped.
    """

    PASSED = "passed"
    FAILED = "failed"
    ERRORED = "errored"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PropertyResult:
    """The result of one claim. `drawn` is the number of generated requests, `examples` the number of those to which the
    claim applied. If the claim failed, `counterexample` is the smallest request found that breaks it, `text` is that
    request as a test, and `result` its result. `problem` says why the claim errored.
    """

    prop: Property
    verdict: ClaimVerdict
    examples: int = 0
    drawn: int = 0
    wanted: int = 0
    counterexample: Case | None = None
    text: str | None = None
    result: CaseResult | None = None
    problem: str | None = None
    seconds: float = 0.0  # duration of the trial

    @property
    def example(self) -> Property:
        return self.prop

    @property
    def status(self) -> ResultStatus:
        return ResultStatus(self.verdict)

    @property
    def asks(self) -> str:
        """The claim as written."""
        return self.claim

    @property
    def ok(self) -> bool:
        return self.verdict in (ClaimVerdict.PASSED, ClaimVerdict.SKIPPED)

    @property
    def claim(self) -> str:
        """The claim as written: `forall request where … => not allow`."""
        return " ".join(self.prop.span.text.split())

    @property
    def in_short(self) -> str:
        """The failure in one line."""
        if self.problem is not None:
            return self.problem
        if self.verdict is ClaimVerdict.UNDECIDED:
            return self._undecided
        decision = self.result.decision if self.result is not None else None
        came = "" if decision is None else f", but {self._request} resulted in {headline(decision)}"
        return f"expected {self.prop.expected.text}{came}"

    @property
    def _request(self) -> str:
        return "" if self.counterexample is None else self.counterexample.request

    @property
    def _undecided(self) -> str:
        found = f"the claim applies to {self.examples:,} of {self.drawn:,} generated requests"
        return f"{found}; at least {self.wanted:,} are needed"

    def render(self) -> str:
        """Return the full text of a failed claim: its position, the decision, and a test that reproduces it."""
        span = self.prop.span
        lines = [f"{format_location(span)}: {self.verdict} test {format_value(self.prop.test)}", *source_excerpt(span)]
        return "\n".join(map(one_line, [*lines, *self._details()]))

    def _details(self) -> Iterator[str]:
        if self.problem is not None:
            yield f"  problem:  {self.problem}"
            return
        if self.verdict is ClaimVerdict.UNDECIDED:
            yield f"  problem:  {self._undecided}"
            yield "  hint:     state more facts: the agent, the user, the resource (`given …`, `use …`)"
            return
        yield f"  examples: {self.examples:,}"
        if self.result is None or self.result.decision is None:
            return
        yield f"  request:  {self._request}"
        yield f"  expected: {self.prop.expected.text}"
        yield f"  actual:   {headline(self.result.decision)}"
        yield from (f"            {reason}" for reason in reason_lines(self.result.decision))
        yield "  as a test:"
        yield from (f"    {line}" for line in (self.text or "").splitlines())
        if self.result.walk is not None:
            yield "  walk:"
            yield from (f"    {line}" for gate in self.result.walk.gates for line in gate.brief().render())

    def to_dict(self) -> dict[str, Any]:
        prop = self.prop
        found: dict[str, Any] = {
            "test": prop.test,
            "package": prop.package,
            "number": prop.number,
            "file": prop.span.source.name,
            "line": prop.span.line,
            "column": prop.span.column,
            "claim": self.claim,
            "expected": prop.expected.text,
            "status": str(self.verdict),
            "examples": self.examples,
            "drawn": self.drawn,
        }
        found |= {} if prop.skip is None else {"reason": prop.skip}
        found |= {"problem": self._undecided} if self.verdict is ClaimVerdict.UNDECIDED else {}
        found |= {} if self.problem is None else {"problem": self.problem}
        if self.result is not None:
            found |= {"counterexample": self.text, "result": self.result.to_dict()}
        return found

"""Survivors that are meant to be: `# survives: NAME because REASON`, on a line of its own, beside the tests.

NAME is all that the report calls the mutant: its operator, the rule it is in, and the line as it is with the fault. So
an explanation speaks of one mutant only, and of none any more once that line is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policyengine.checker.names.program import Program
from policyengine.control_characters import one_line, printable
from policyengine.source import Span

COMMENT_PATTERN = re.compile(r"#\s*survives:\s*(?P<text>.*\S)\s*$")
BECAUSE = " because "


@dataclass(frozen=True, slots=True)
class SurvivorExplanation:
    """`readings` are the name and the reason, for each place at which the one may end and the other begin."""

    span: Span
    text: str

    @property
    def readings(self) -> Iterator[tuple[str, str]]:
        for separator in re.finditer(BECAUSE, self.text):
            yield self.text[: separator.start()].strip(), self.text[separator.end() :].strip()


@dataclass(frozen=True, slots=True)
class StaleExplanation:
    """An explanation that explains nothing, and why."""

    explanation: SurvivorExplanation
    why: str

    def render(self) -> str:
        at = self.explanation.span
        head = one_line(f"{at.source.name}:{at.line}: this explains no survivor: {self.why}")
        return f"{head}\n    {printable(at.text)}"

    def to_dict(self) -> dict[str, object]:
        at = self.explanation.span
        return {"file": at.source.name, "line": at.line, "text": at.text, "why": self.why}


def explanations_in(program: Program) -> Iterator[SurvivorExplanation]:
    modules = (module for package in program.packages.values() for module in package.modules)
    for comment in (comment for module in modules for comment in module.comments):
        found = COMMENT_PATTERN.fullmatch(comment.text)
        if found is not None and is_whole_line(comment.span):
            yield SurvivorExplanation(comment.span, " ".join(found["text"].split()))


def is_whole_line(span: Span) -> bool:
    line = span.source.line(span.line)
    return line.strip() == span.text.strip()


def match_explanations(
    explanations: Iterable[SurvivorExplanation], survivors: Iterable[str], names: Iterable[str], asked: Iterable[str]
) -> tuple[dict[str, str], list[StaleExplanation]]:
    """The reasons by survivor, and what is stale; of mutants that are there and were not asked nothing is known."""
    alive, known, tried = set(survivors), set(names), set(asked)
    found: dict[str, str] = {}
    stale: list[StaleExplanation] = []
    for explanation in explanations:
        readings = [(name, reason) for name, reason in explanation.readings if name in known and reason]
        name, reason = readings[0] if readings else ("", "")
        if name in found:
            stale.append(StaleExplanation(explanation, "it is explained already"))
        elif name in alive:
            found[name] = reason
        elif not readings:
            stale.append(StaleExplanation(explanation, stale_reason(explanation)))
        elif name in tried:
            stale.append(StaleExplanation(explanation, "a test notices it now"))
    return found, stale


def stale_reason(one: SurvivorExplanation) -> str:
    return "no mutant is called so" if any(one.readings) else "it gives no reason: end it with `because …`"

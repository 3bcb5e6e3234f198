"""Comments that accept survivors: `# survives: NAME because REASON`, on their own line next to the tests.

NAME is the full name of the mutant in the report: its operator, its rule, and the line with the fault. So a comment
accepts only one mutant, and becomes stale when that line changes.
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
    """A comment that accepts a survivor. `readings` holds the name and the reason for each possible position of the
    separator.
    """

    span: Span
    text: str

    @property
    def readings(self) -> Iterator[tuple[str, str]]:
        for separator in re.finditer(BECAUSE, self.text):
            yield self.text[: separator.start()].strip(), self.text[separator.end() :].strip()


@dataclass(frozen=True, slots=True)
class StaleExplanation:
    """A comment that matches no survivor, and why."""

    explanation: SurvivorExplanation
    why: str

    def render(self) -> str:
        at = self.explanation.span
        head = one_line(f"{at.source.name}:{at.line}: this comment explains no survivor: {self.why}")
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
    """Return the reasons by survivor, and the stale comments; mutants that were not tried are ignored."""
    alive, known, tried = set(survivors), set(names), set(asked)
    found: dict[str, str] = {}
    stale: list[StaleExplanation] = []
    for explanation in explanations:
        readings = [(name, reason) for name, reason in explanation.readings if name in known and reason]
        name, reason = readings[0] if readings else ("", "")
        if name in found:
            stale.append(StaleExplanation(explanation, "another comment already explains it"))
        elif name in alive:
            found[name] = reason
        elif not readings:
            stale.append(StaleExplanation(explanation, stale_reason(explanation)))
        elif name in tried:
            stale.append(StaleExplanation(explanation, "a test now detects the mutant"))
    return found, stale


def stale_reason(one: SurvivorExplanation) -> str:
    return "no mutant has this name" if any(one.readings) else "the reason is missing: add `because …`"

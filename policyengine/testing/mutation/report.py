"""The results of mutants: counts and survivors with diffs, as text and as JSON-compatible data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from policyengine.control_characters import one_line, printable
from policyengine.testing.mutation.accepted_survivors import StaleExplanation

MAX_TESTS_SHOWN = 3  # maximum tests named for a survivor
NO_TEST_TEXT = "no test covers this"


class MutantStatus(StrEnum):
    """The status of a mutant. SAME: provably equivalent; UNFIT: the mutant has errors. Both are excluded from the
    score.
    """

    KILLED = "killed"
    SURVIVED = "survived"
    EXPLAINED = "explained"
    SAME = "same"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True)
class RequestReference:
    """One request of a test, as reports name it."""

    test: str
    request: str
    at: str  # `payments_test.policy:47`

    def to_dict(self) -> dict[str, Any]:
        return {"test": self.test, "request": self.request, "at": self.at}


@dataclass(frozen=True, slots=True)
class MutantResult:
    """The result of one mutant. `asked` are the requests that ran; `killer` is the request that failed. `reason`
    explains an accepted survivor.
    """

    name: str
    operator: str
    file: str
    line: int
    diff: str
    fate: MutantStatus
    asked: tuple[RequestReference, ...] = ()
    killer: RequestReference | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": self.name, "operator": self.operator, "file": self.file, "line": self.line,
            "fate": str(self.fate), "asked": len(self.asked),
        }  # fmt: skip
        if self.fate is MutantStatus.KILLED and self.killer is not None:
            found["killed_by"] = self.killer.to_dict()
        if self.fate in (MutantStatus.SURVIVED, MutantStatus.EXPLAINED):
            found |= {"tests": test_names(self), "diff": self.diff}
        return found if self.reason is None else {**found, "because": self.reason}

    def render(self) -> str:
        """Return the text of a survivor: its position, the fault, the diff, the tests that ran, and the comment that
        would accept it."""
        tests = test_names(self)
        more = f" and {len(tests) - MAX_TESTS_SHOWN} more" if len(tests) > MAX_TESTS_SHOWN else ""
        named = ", ".join(f"`{test}`" for test in tests[:MAX_TESTS_SHOWN])
        requests = f"{len(self.asked):,} request{'s' if len(self.asked) > 1 else ''}"
        asked = f"{requests} of {named}{more}: all pass" if self.asked else NO_TEST_TEXT
        head = one_line(f"{self.file}:{self.line}: survived: {self.operator}")
        lines = [head, *map(printable, indented(self.diff)), one_line(f"  {asked}")]
        return "\n".join([*lines, one_line(f"  to accept it: # survives: {self.name} because …")])


def test_names(outcome: MutantResult) -> list[str]:
    return list(dict.fromkeys(shown.test for shown in outcome.asked))


def indented(text: str) -> Iterator[str]:
    return (f"    {line}".rstrip() for line in text.split("\n"))


@dataclass(frozen=True)
class MutationReport:
    """The results in source order; `made` is the number of all faults, even if only a sample was tried."""

    outcomes: tuple[MutantResult, ...]
    made: int
    stale: tuple[StaleExplanation, ...] = ()
    seed: int = 0

    @cached_property
    def counts(self) -> dict[MutantStatus, int]:
        every = [outcome.fate for outcome in self.outcomes]
        return {fate: every.count(fate) for fate in MutantStatus}

    @property
    def score(self) -> float:
        """The percentage of mutants that tests detect, without accepted survivors; 100 if there are none."""
        killed, survived = self.counts[MutantStatus.KILLED], self.counts[MutantStatus.SURVIVED]
        return 100.0 if not survived else 100 * killed / (killed + survived)

    @property
    def ok(self) -> bool:
        """Whether every mutant is detected or accepted, and no comment is stale."""
        return not self.counts[MutantStatus.SURVIVED] and not self.stale

    @property
    def survivors(self) -> tuple[MutantResult, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.fate is MutantStatus.SURVIVED)

    @property
    def operators(self) -> dict[str, dict[str, int]]:
        """The number of mutants by operator (in alphabetical order) and status."""
        found: dict[str, dict[str, int]] = {}
        for outcome in sorted(self.outcomes, key=lambda outcome: outcome.operator):
            counts = found.setdefault(outcome.operator, {str(fate): 0 for fate in MutantStatus})
            counts[str(outcome.fate)] += 1
        return found

    @property
    def summary(self) -> str:
        """The summary: `175 mutants: 160 killed, 3 survived, 2 explained; left out: 6 provably the same, 4 invalid`."""
        tried = [
            f"{self.counts[fate]:,} {fate}"
            for fate in (MutantStatus.KILLED, MutantStatus.SURVIVED, MutantStatus.EXPLAINED)
        ]
        tried = [one for one in tried if not one.startswith("0 ")] or ["no mutants to test"]
        same, unfit = self.counts[MutantStatus.SAME], self.counts[MutantStatus.UNFIT]
        left = [
            *([f"{same:,} provably the same"] if same else []),
            *([f"{unfit:,} invalid"] if unfit else []),
        ]
        sample = f" of {self.made:,} (seed {self.seed})" if len(self.outcomes) < self.made else ""
        text = f"{len(self.outcomes):,} mutants{sample}: {', '.join(tried)}"
        return f"{text}{'; left out: ' if left else ''}{', '.join(left)}; score {format_score(self.score)} %"

    def render(self, colour: bool = False) -> str:
        """Return plain text, or text with terminal colours: survivors, stale comments, operators and the summary."""
        blocks = [colour_lines(outcome.render()) if colour else outcome.render() for outcome in self.survivors]
        blocks += [stale.render() for stale in self.stale]
        table = "\n".join(self._table())
        return "\n\n".join([*blocks, *([table] if self.survivors else []), self.summary])

    def _table(self) -> Iterator[str]:
        """Yield the survivors by operator."""
        holes = {name: counts for name, counts in self.operators.items() if counts[MutantStatus.SURVIVED]}
        width = max(map(len, holes), default=0)
        for name, counts in holes.items():
            asked = counts[MutantStatus.KILLED] + counts[MutantStatus.SURVIVED] + counts[MutantStatus.EXPLAINED]
            yield f"  {name:<{width}}  {counts[MutantStatus.SURVIVED]:,} of {asked:,} survived"

    def to_dict(self) -> dict[str, Any]:
        counts = {str(fate): count for fate, count in self.counts.items()}
        return {
            "score": round(self.score, 2),
            "made": self.made,
            "tried": len(self.outcomes),
            "seed": self.seed,
            **counts,
            "operators": self.operators,
            "mutants": [outcome.to_dict() for outcome in self.outcomes],
            "stale": [stale.to_dict() for stale in self.stale],
        }


def format_score(score: float) -> str:
    """Return the score, which is never rounded up to 100 while a mutant survives."""
    return "100" if score == 100 else f"{min(score, 99.9):.1f}"


LINE_COLOURS = (("    -", "31"), ("    +", "32"), ("    @@", "36"), ("  to accept", "2"))


def colour_lines(text: str) -> str:
    lines = text.split("\n")
    return "\n".join([f"\033[1m{lines[0]}\033[0m", *map(colour_line, lines[1:])])


def colour_line(line: str) -> str:
    paint = next((code for start, code in LINE_COLOURS if line.startswith(start)), None)
    return line if paint is None else f"\033[{paint}m{line}\033[0m"

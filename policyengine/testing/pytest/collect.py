"""Tests in `.policy` files as pytest's items: a file, its tests, and what each asks or claims."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

from policyengine.bounded_files import read_bounded
from policyengine.check import Checked, check
from policyengine.diagnostics.model import Diagnostic
from policyengine.policy_files import MAX_BYTES, load_sources, root_above
from policyengine.source import Span
from policyengine.syntax.parse import parse
from policyengine.testcases import Case, Property
from policyengine.testing.properties import EXAMPLES, NoHypothesis, PropertyResult, try_properties
from policyengine.testing.report import Result, Status
from policyengine.testing.runner import Runner, results_of

Example: TypeAlias = Case | Property
HAS_TESTS = re.compile(r"^[ \t]*test[ \t]*\"", re.MULTILINE)
LONGEST_NAME = 80
MOST_TOLD = 5  # errors of other files


@dataclass(slots=True)
class Loaded:
    """The policies that belong together: the marked root above a file, else its folder, and what these import."""

    checked: Checked
    runner: Runner | None

    @classmethod
    def of(cls, folder: Path) -> Loaded:
        sources, problems = load_sources([folder])
        parsed = [parse(source) for source in sources]
        found = [*problems, *(diagnostic for _, some in parsed for diagnostic in some)]
        checked = check([module for module, _ in parsed if module is not None], found)
        return cls(checked, None if checked.kernel is None else Runner.of(checked.kernel))


LOADED = pytest.StashKey[dict[Path, Loaded]]()


def loaded(file: Path, config: pytest.Config) -> Loaded:
    """Each set of policies is read once."""
    known = config.stash.setdefault(LOADED, {})
    folder = root_above(file.parent) or file.parent
    if folder not in known:
        known[folder] = Loaded.of(folder)
    return known[folder]


class PolicyFile(pytest.File):
    def collect(self) -> Iterator[PolicyTest]:
        if not HAS_TESTS.search(read_bounded(self.path, MAX_BYTES).decode(errors="replace")):
            return
        found = loaded(self.path, self.config)
        if found.runner is None:
            raise self.CollectError(self.told(found.checked.diagnostics))
        checked = found.checked
        every: list[Example] = [*checked.cases, *checked.properties]
        own = sorted((one for one in every if self.holds(one.span)), key=lambda one: (one.span.start, one.number))
        for name, examples in groupby(own, key=lambda one: one.test):
            test: PolicyTest = PolicyTest.from_parent(self, name=spelled(name))
            test.fill(examples, found.runner)
            yield test

    def holds(self, span: Span) -> bool:
        return os.path.realpath(span.source.name) == os.path.realpath(self.path)

    def told(self, diagnostics: Iterable[Diagnostic]) -> str:
        """Its own errors in full; those of others shortly, so that each is told once."""
        errors = [diagnostic for diagnostic in diagnostics if diagnostic.is_error]
        own = [diagnostic for diagnostic in errors if self.holds(diagnostic.span)]
        if own:
            return "\n\n".join(diagnostic.render() for diagnostic in own)
        others = [diagnostic.render().splitlines()[0] for diagnostic in errors]
        more = [f"… and {len(others) - MOST_TOLD} more"] if len(others) > MOST_TOLD else []
        return "\n".join(["the policies that it belongs to have errors:", *others[:MOST_TOLD], *more])


class PolicyTest(pytest.Collector):
    """One `test` block. What is asked in it is asked in its order, also where only some of it is wanted."""

    examples: tuple[Example, ...]
    asking: Asking

    def fill(self, examples: Iterable[Example], runner: Runner) -> None:
        self.examples = tuple(examples)
        self.asking = Asking(runner, iter([one for one in self.examples if isinstance(one, Case)]))

    def collect(self) -> Iterator[Request | Claim]:
        for one in self.examples:
            what = one.request if isinstance(one, Case) else " ".join(one.span.text.split())
            kind = Request if isinstance(one, Case) else Claim
            item: Request | Claim = kind.from_parent(self, name=f"{one.number} {spelled(what)}")
            item.example = one
            yield item


def spelled(name: str) -> str:
    """A part of an item's id: `::` separates such parts, and pytest takes what follows a `[` for parameters."""
    plain = " ".join(name.split()).replace("::", ":").replace("[", "(").replace("]", ")")
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 1]}…"


@dataclass(slots=True)
class Asking:
    """The requests of one test, asked one after the other: what an earlier one spends, a later one has not."""

    runner: Runner
    left: Iterator[Case]
    done: dict[int, Result] = field(default_factory=dict)

    def result(self, number: int) -> Result:
        while number not in self.done:
            case = next(self.left)
            [self.done[case.number]] = results_of([case], self.runner.kernel, self.runner)
        return self.done[number]


# ── Items ─────────────────────────────────────────────────────────────────────────────────────


class Failed(Exception):
    """What was asked or claimed came out otherwise."""

    def __init__(self, result: Result | PropertyResult) -> None:
        super().__init__(result.in_short)
        self.result = result


class Item(pytest.Item):
    example: Example

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.example.span.line - 1, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        if isinstance(excinfo.value, Failed):
            return Told(excinfo.value.result, self.example.span)
        return super().repr_failure(excinfo, style)

    @property
    def test(self) -> PolicyTest:
        assert isinstance(self.parent, PolicyTest)
        return self.parent


class Request(Item):
    """One request of a test, and what must come of it."""

    def runtest(self) -> None:
        result = self.test.asking.result(self.example.number)
        if result.status is Status.SKIPPED:
            pytest.skip(self.example.skip or "")
        if result.status is not Status.PASSED:
            raise Failed(result)


class Claim(Item):
    """One `forall`."""

    def runtest(self) -> None:
        if self.example.skip is not None:
            pytest.skip(self.example.skip)
        seed = self.config.getoption("--policies-seed")
        examples = self.config.getoption("--policies-examples") or EXAMPLES
        assert isinstance(self.example, Property)
        try:
            [result] = try_properties([self.example], self.test.asking.runner.kernel, seed, examples)
        except NoHypothesis as error:
            pytest.fail(f"{error}: {error.hint}", pytrace=False)
        if not result.ok:
            raise Failed(result)


@dataclass(eq=False)
class Told(TerminalRepr):
    """A failure as our own runner tells it, and in one line for pytest's summary."""

    result: Result | PropertyResult
    span: Span

    @property
    def reprcrash(self) -> ReprFileLocation:
        return ReprFileLocation(self.span.source.name, self.span.line, self.result.in_short)

    def toterminal(self, tw: TerminalWriter) -> None:
        tw.line(self.result.render())

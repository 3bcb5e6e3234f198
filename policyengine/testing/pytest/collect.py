"""Collects `.policy` files as pytest items: a file, its tests, and their requests and claims."""

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
from policyengine.check import CheckResult, check
from policyengine.diagnostics.model import Diagnostic
from policyengine.policy_files import MAX_POLICY_BYTES, load_sources, root_above
from policyengine.source import Span
from policyengine.syntax.parse import parse
from policyengine.testcases import Case, Property
from policyengine.testing.properties import DEFAULT_EXAMPLES, HypothesisMissingError, PropertyResult, try_properties
from policyengine.testing.report import CaseResult, ResultStatus
from policyengine.testing.runner import CaseRunner, case_results

Example: TypeAlias = Case | Property
HAS_TESTS = re.compile(r"^[ \t]*test[ \t]*\"", re.MULTILINE)
MAX_ITEM_NAME_LENGTH = 80
MAX_ERRORS_SHOWN = 5  # errors of other files


@dataclass(slots=True)
class LoadedPolicySet:
    """The policies of a test file: those below the marked root that contains it, or those of its folder, with their
    imports.
    """

    checked: CheckResult
    runner: CaseRunner | None

    @classmethod
    def of(cls, folder: Path) -> LoadedPolicySet:
        sources, problems = load_sources([folder])
        parsed = [parse(source) for source in sources]
        found = [*problems, *(diagnostic for _, some in parsed for diagnostic in some)]
        checked = check([module for module, _ in parsed if module is not None], found)
        return cls(checked, None if checked.kernel is None else CaseRunner.of(checked.kernel))


POLICY_SETS = pytest.StashKey[dict[Path, LoadedPolicySet]]()


def load_policy_set(file: Path, config: pytest.Config) -> LoadedPolicySet:
    """Return the policies of a file; each set is loaded once."""
    known = config.stash.setdefault(POLICY_SETS, {})
    folder = root_above(file.parent) or file.parent
    if folder not in known:
        known[folder] = LoadedPolicySet.of(folder)
    return known[folder]


class PolicyFile(pytest.File):
    def collect(self) -> Iterator[PolicyTest]:
        if not HAS_TESTS.search(read_bounded(self.path, MAX_POLICY_BYTES).decode(errors="replace")):
            return
        found = load_policy_set(self.path, self.config)
        if found.runner is None:
            raise self.CollectError(self.told(found.checked.diagnostics))
        checked = found.checked
        every: list[Example] = [*checked.cases, *checked.properties]
        own = sorted((one for one in every if self.holds(one.span)), key=lambda one: (one.span.start, one.number))
        for name, examples in groupby(own, key=lambda one: one.test):
            test: PolicyTest = PolicyTest.from_parent(self, name=item_name(name))
            test.fill(examples, found.runner)
            yield test

    def holds(self, span: Span) -> bool:
        return os.path.realpath(span.source.name) == os.path.realpath(self.path)

    def told(self, diagnostics: Iterable[Diagnostic]) -> str:
        """Return the errors of the file itself in full, or a short list of the errors of other files."""
        errors = [diagnostic for diagnostic in diagnostics if diagnostic.is_error]
        own = [diagnostic for diagnostic in errors if self.holds(diagnostic.span)]
        if own:
            return "\n\n".join(diagnostic.render() for diagnostic in own)
        others = [diagnostic.render().splitlines()[0] for diagnostic in errors]
        more = [f"… and {len(others) - MAX_ERRORS_SHOWN} more"] if len(others) > MAX_ERRORS_SHOWN else []
        return "\n".join(["the policies of this file have errors:", *others[:MAX_ERRORS_SHOWN], *more])


class PolicyTest(pytest.Collector):
    """One `test` block. Its requests run in order, even if only some are selected."""

    examples: tuple[Example, ...]
    asking: CaseQueue

    def fill(self, examples: Iterable[Example], runner: CaseRunner) -> None:
        self.examples = tuple(examples)
        self.asking = CaseQueue(runner, iter([one for one in self.examples if isinstance(one, Case)]))

    def collect(self) -> Iterator[PolicyRequestItem | PolicyClaimItem]:
        for example in self.examples:
            what = example.request if isinstance(example, Case) else " ".join(example.span.text.split())
            kind = PolicyRequestItem if isinstance(example, Case) else PolicyClaimItem
            item: PolicyRequestItem | PolicyClaimItem = kind.from_parent(
                self, name=f"{example.number} {item_name(what)}"
            )
            item.example = example
            yield item


def item_name(name: str) -> str:
    """Return a part of an item's id: pytest separates parts by `::`, and reads text after `[` as parameters."""
    plain = " ".join(name.split()).replace("::", ":").replace("[", "(").replace("]", ")")
    return plain if len(plain) <= MAX_ITEM_NAME_LENGTH else f"{plain[: MAX_ITEM_NAME_LENGTH - 1]}…"


@dataclass(slots=True)
class CaseQueue:
    """The requests of one test, which run in order because earlier requests may spend state."""

    runner: CaseRunner
    left: Iterator[Case]
    done: dict[int, CaseResult] = field(default_factory=dict)

    def result(self, number: int) -> CaseResult:
        while number not in self.done:
            case = next(self.left)
            [self.done[case.number]] = case_results([case], self.runner.kernel, self.runner)
        return self.done[number]


# ── Items ─────────────────────────────────────────────────────────────────────────────────────


class ExampleFailedError(Exception):
    """The error for a request or claim that failed."""

    def __init__(self, result: CaseResult | PropertyResult) -> None:
        super().__init__(result.in_short)
        self.result = result


class PolicyItem(pytest.Item):
    example: Example

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.example.span.line - 1, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        if isinstance(excinfo.value, ExampleFailedError):
            return FailureRepr(excinfo.value.result, self.example.span)
        return super().repr_failure(excinfo, style)

    @property
    def test(self) -> PolicyTest:
        assert isinstance(self.parent, PolicyTest)
        return self.parent


class PolicyRequestItem(PolicyItem):
    """One request of a test and its expectation."""

    def runtest(self) -> None:
        result = self.test.asking.result(self.example.number)
        if result.status is ResultStatus.SKIPPED:
            pytest.skip(self.example.skip or "")
        if result.status is not ResultStatus.PASSED:
            raise ExampleFailedError(result)


class PolicyClaimItem(PolicyItem):
    """One `forall` claim."""

    def runtest(self) -> None:
        if self.example.skip is not None:
            pytest.skip(self.example.skip)
        seed = self.config.getoption("--policies-seed")
        examples = self.config.getoption("--policies-examples") or DEFAULT_EXAMPLES
        assert isinstance(self.example, Property)
        try:
            [result] = try_properties([self.example], self.test.asking.runner.kernel, seed, examples)
        except HypothesisMissingError as error:
            pytest.fail(f"{error}: {error.hint}", pytrace=False)
        if not result.ok:
            raise ExampleFailedError(result)


@dataclass(eq=False)
class FailureRepr(TerminalRepr):
    """A failure as the policyengine runner shows it, and as one line for pytest's summary."""

    result: CaseResult | PropertyResult
    span: Span

    @property
    def reprcrash(self) -> ReprFileLocation:
        return ReprFileLocation(self.span.source.name, self.span.line, self.result.in_short)

    def toterminal(self, tw: TerminalWriter) -> None:
        tw.line(self.result.render())

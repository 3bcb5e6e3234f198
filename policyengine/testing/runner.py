"""Runs the cases of tests, each sequence in its own state."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.behavior.plain_events import PlainEventError
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import AnySizes
from policyengine.compiler.tree import Tree, tree_of
from policyengine.entities.store import EntityStore
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.explain.explanation import explain
from policyengine.gc_freeze import objects_frozen
from policyengine.gc_pause import gc_paused
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.facts import Facts
from policyengine.spec.required_history import history_conditions
from policyengine.spec.trace import DecisionTrace
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence, LimitStandings
from policyengine.testing.decide_case import (
    CaseDecision,
    CaseSetupError,
    case_entities,
    decide_case,
    trace_case,
    traced_snapshot,
)
from policyengine.testing.expectations import detail_differences, meets_expectation
from policyengine.testing.learned_traces import check_traces
from policyengine.testing.report import CaseResult, ResultStatus, RunReport
from policyengine.typesystem import EntityRef

Rows: TypeAlias = Mapping[EntityRef, EntityData]

MAX_EVALUATORS = 16  # maximum cached evaluators

_LOG = logging.getLogger("policyengine")


def run(cases: Iterable[Case], kernel: k.Kernel) -> RunReport:
    """Run the cases in order; tests do not share state. Garbage collection is paused, because almost all objects are
    policies, cases and results, which stay alive.
    """
    with gc_paused(), objects_frozen():
        return RunReport(tuple(case_results(cases, kernel)), kernel.revision)


def case_results(cases: Iterable[Case], kernel: k.Kernel, runner: CaseRunner | None = None) -> Iterator[CaseResult]:
    """Yield the results of the cases in order. Pass a `runner` to continue with the state that its earlier
    cases left.
    """
    runner = runner or CaseRunner.of(kernel)
    for case in cases:
        begun = perf_counter()
        yield _run_case(case, runner).took(perf_counter() - begun)


def _run_case(case: Case, runner: CaseRunner) -> CaseResult:
    if case.skip is not None:
        return CaseResult(case, ResultStatus.SKIPPED)
    try:
        return runner.result(case)
    except (CaseSetupError, RequestError) as error:
        return CaseResult(case, ResultStatus.ERRORED, problem=str(error))
    except EngineDisagreementError as error:
        return CaseResult(case, ResultStatus.ERRORED, problem=f"internal error: {error}")
    except Exception as error:
        # As in the engine: log the error, and run the other tests.
        _LOG.exception("a test could not be decided")
        return CaseResult(case, ResultStatus.ERRORED, problem=f"deciding failed: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class CaseTrace:
    """A case decided by the evaluator, with the trace of the specification, the limits that were charged and their
    states."""

    facts: Facts
    walk: DecisionTrace
    decision: Decision
    limits: LimitStandings = ()


@dataclass(slots=True)
class CaseRunner:
    """Runs the cases of one policy with the engine's evaluator, as production does, and keeps the state of each
    sequence. The specification traces failures, or every decision in `traced`, and must reach the same decision.
    """

    kernel: k.Kernel
    tree: Tree
    sequences: dict[tuple[str, str, int], CaseSequence] = field(default_factory=dict)
    evaluators: deque[tuple[Rows, Evaluator]] = field(default_factory=lambda: deque(maxlen=MAX_EVALUATORS))
    histories: tuple[k.HistoryCondition | k.Aggregate, ...] = ()
    varied: Evaluator | None = None
    checked_traces: set[tuple[Path, ...]] = field(default_factory=set)

    @classmethod
    def of(cls, kernel: k.Kernel) -> CaseRunner:
        return cls(kernel, tree_of(kernel))

    def result(self, case: Case) -> CaseResult:
        """Return the result of a case. Raises CaseSetupError, RequestError and EngineDisagreementError."""
        if case.repeated is not None:
            return self._run_repetitions(case)
        asked, before = self.decide(case)
        decision, _ = self._commit(asked)
        if meets_expectation(case.expected, decision):
            return CaseResult(case, ResultStatus.PASSED, decision)
        facts, seen = trace_case(asked, self.kernel, before)
        others = detail_differences(case.expected, decision)
        return CaseResult(case, ResultStatus.FAILED, decision, explain(decision, facts, seen), differences=others)

    def _run_repetitions(self, case: Case) -> CaseResult:
        """Run all repetitions; return the first unexpected result, or else the last result with an expectation."""
        found: CaseResult | None = None
        for number, one in enumerate(case.requests, 1):
            result = self.result(one)
            if found is None or (found.status is ResultStatus.PASSED and not one.expected.free):
                found = replace(result, case=case, request=number)
        assert found is not None
        return found

    def traced(self, case: Case) -> CaseTrace:
        """Decide a case, trace its decision, and commit its effects. Raises CaseSetupError, RequestError and
        EngineDisagreementError."""
        asked, before = self.decide(case)
        facts, seen = trace_case(asked, self.kernel, before)
        return CaseTrace(facts, seen, *self._commit(asked))

    def decide(self, case: Case) -> tuple[CaseDecision, Snapshot]:
        """Return the decision of a case, and the state before it that a trace may read. Raises CaseSetupError and
        RequestError.
        """
        request, sequence = Request.from_mapping(case.question), self._sequence(case)
        if case.traces and case.traces not in self.checked_traces:
            self._check_traces(case.traces)
        entities = case_entities(case, request, self._evaluator(case.rows).entities, self.kernel)
        evaluator = self._of_any_size if case.attributes else self._evaluator(case.rows)
        asked = decide_case(case, request, entities, evaluator, sequence)
        conditions = self._history_conditions()
        return asked, traced_snapshot(asked.snapshot, asked.request, case, self.kernel, conditions, sequence)

    def _check_traces(self, traces: tuple[Path, ...]) -> None:
        """Check traces once. Raises CaseSetupError."""
        try:
            check_traces(traces, self._of_any_size)
        except PlainEventError as error:
            raise CaseSetupError(str(error)) from None
        self.checked_traces.add(traces)

    def _commit(self, asked: CaseDecision) -> tuple[Decision, LimitStandings]:
        sequence = self._sequence(asked.case)
        if not asked.effects and sequence.behavior is None:
            return asked.decision, ()
        return sequence.made(asked.decision, asked.effects, asked.case)

    def _sequence(self, case: Case) -> CaseSequence:
        return self.sequences.setdefault((case.package, case.test, case.sequence), CaseSequence())

    def _history_conditions(self) -> tuple[k.HistoryCondition | k.Aggregate, ...]:
        """Return the conditions of all rules on the history."""
        if self.kernel.watches and not self.histories:
            rules = (self.kernel.agents, self.kernel.users, self.kernel.anyones, self.kernel.guards, self.kernel.limits)
            self.histories = tuple(history_conditions(rules))
        return self.histories

    # ── Directories ───────────────────────────────────────────────────────────────────────────

    def _evaluator(self, rows: Rows) -> Evaluator:
        """Return the evaluator for entity rows; most cases share it with a recent case."""
        for known, evaluator in self.evaluators:
            if known is rows or known == rows:
                return evaluator
        made = Evaluator(self.kernel, EntityStore(rows.values()), tree=self.tree)
        self.evaluators.appendleft((rows, made))
        return made

    @property
    def _of_any_size(self) -> Evaluator:
        """The evaluator for cases that set attributes, whose entity stores differ."""
        if self.varied is None:
            self.varied = Evaluator(self.kernel, EntityStore(), tree=self.tree, sizes=AnySizes())
        return self.varied

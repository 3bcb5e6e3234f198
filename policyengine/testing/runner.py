"""Run the cases of tests, each in its own state."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Tree, tree_of
from policyengine.entities.store import EntityStore
from policyengine.explain.explanation import explain
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Approval, Request, RequestError
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.facts import Facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.required_history import history_conditions, history_windows
from policyengine.spec.trace import DecisionTrace
from policyengine.syntax.gc_pause import gc_paused
from policyengine.testcases import Case, GivenApproval
from policyengine.testing.case_sequence import CaseSequence
from policyengine.testing.expectations import detail_differences, meets_expectation
from policyengine.testing.report import CaseResult, ResultStatus, RunReport
from policyengine.typesystem import EntityRef, RefType

Rows: TypeAlias = Mapping[EntityRef, EntityData]

MAX_EVALUATORS = 16  # cached evaluators

_LOG = logging.getLogger("policyengine")


class CaseSetupError(Exception):
    """A case whose setup is inconsistent, such as user attributes without a user."""


def run(cases: Iterable[Case], kernel: k.Kernel) -> RunReport:
    """Run the cases in order; tests do not share state. Garbage collection is paused, because almost all objects are
    policies, cases and results, which stay alive.
    """
    gc.freeze()
    try:
        with gc_paused():
            report = RunReport(tuple(case_results(cases, kernel)), kernel.revision)
            gc.freeze()  # move them to the permanent generation without scanning
            return report
    finally:
        gc.unfreeze()


def case_results(cases: Iterable[Case], kernel: k.Kernel, runner: CaseRunner | None = None) -> Iterator[CaseResult]:
    """Yield the results of the cases in order. A `runner` keeps what earlier cases have spent."""
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
    except Exception as error:
        # As in the engine: log the error, and run the other tests.
        _LOG.exception("a test could not be decided")
        return CaseResult(case, ResultStatus.ERRORED, problem=f"deciding failed: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class CaseTrace:
    """A case decided by the specification, with its trace, the limits that were charged and their states."""

    facts: Facts
    walk: DecisionTrace
    decision: Decision
    limits: tuple[tuple[LimitCharge, LimitState], ...] = ()


@dataclass(slots=True)
class CaseRunner:
    """Runs the cases of one policy; the state of each sequence is kept. `result` uses the engine's evaluator, as
    production does, and the specification for the trace of a failure. `specified` uses only the specification, which
    sees every rule."""

    kernel: k.Kernel
    tree: Tree
    sequences: dict[tuple[str, str, int], CaseSequence] = field(default_factory=dict)
    evaluators: deque[tuple[Rows, Evaluator]] = field(default_factory=lambda: deque(maxlen=MAX_EVALUATORS))
    histories: tuple[k.HistoryCondition | k.Aggregate, ...] = ()

    @classmethod
    def of(cls, kernel: k.Kernel) -> CaseRunner:
        return cls(kernel, tree_of(kernel))

    def result(self, case: Case) -> CaseResult:
        """Return the result of a case. Raises CaseSetupError and RequestError."""
        if case.repeated is not None:
            return self._repeated(case)
        seen = self.specified(case) if case.approvals else None  # only the trace knows what approvals are bound to
        decision = seen.decision if seen is not None else self._decided(case)
        if meets_expectation(case.expected, decision):
            return CaseResult(case, ResultStatus.PASSED, decision)
        facts, looked = (seen.facts, seen.walk) if seen is not None else self._looked(case)
        others = detail_differences(case.expected, decision)
        return CaseResult(case, ResultStatus.FAILED, decision, explain(decision, facts, looked), differences=others)

    def _repeated(self, case: Case) -> CaseResult:
        """Run all repetitions; return the first unexpected result, or else the last one with an expectation."""
        found: CaseResult | None = None
        for number, one in enumerate(case.requests, 1):
            result = self.result(one)
            if found is None or (found.status is ResultStatus.PASSED and not one.expected.free):
                found = replace(result, case=case, request=number)
        assert found is not None
        return found

    def specified(self, case: Case) -> CaseTrace:
        """Decide a case by the specification and commit its effects. Raises CaseSetupError and RequestError."""
        facts, seen = self._looked(case)
        decision, effects = conclude(facts, seen)
        if not effects:
            return CaseTrace(facts, seen, decision)
        decision, limits = self._sequence(case).made(decision, effects, case)
        return CaseTrace(facts, seen, decision, limits)

    def _looked(self, case: Case) -> tuple[Facts, DecisionTrace]:
        """Return the facts and the trace of a case, with the approvals that are not yet spent."""
        known = self.sequences.get((case.package, case.test, case.sequence))
        request = Request.from_mapping(case.question)
        plain = Snapshot(self._directory(case, request), known.spent if known else frozenset())
        snapshot = self._remembering(case, request, plain)
        facts = build_facts(self.kernel, request, snapshot, case.now)
        seen = trace_request(facts, snapshot)
        if approvals := tuple(given_approvals(case, seen, facts, snapshot)):
            facts = build_facts(self.kernel, replace(request, approvals=approvals), snapshot, case.now)
            seen = trace_request(facts, snapshot)
        return facts, seen

    def _sequence(self, case: Case) -> CaseSequence:
        return self.sequences.setdefault((case.package, case.test, case.sequence), CaseSequence())

    def _decided(self, case: Case) -> Decision:
        """Decide by the evaluator; without approvals only limits have state."""
        request = Request.from_mapping(case.question)
        snapshot = self._remembering(case, request, Snapshot(self._directory(case, request)))
        needs, moment = Needs(request), epoch_nanoseconds(case.now)
        decision, effects = self._evaluator(case.rows).resume(needs, snapshot, moment)
        return self._sequence(case).made(decision, effects, case)[0] if effects else decision

    def _remembering(self, case: Case, request: Request, plain: Snapshot) -> Snapshot:
        """Return the snapshot with all history that the policy may read."""
        if not self.kernel.watches:
            return plain
        if not self.histories:
            rules = (self.kernel.agents, self.kernel.users, self.kernel.anyones, self.kernel.guards, self.kernel.limits)
            self.histories = tuple(history_conditions(rules))
        looked_at = history_windows(self.histories, build_facts(self.kernel, request, plain, case.now))
        return replace(plain, history=self._sequence(case).fetched(looked_at, case.now))

    # ── Directories ───────────────────────────────────────────────────────────────────────────

    def _evaluator(self, rows: Rows) -> Evaluator:
        """Return the evaluator for entity rows; most cases share it with a recent case."""
        for known, evaluator in self.evaluators:
            if known is rows or known == rows:
                return evaluator
        made = Evaluator(self.kernel, EntityStore(rows.values()), tree=self.tree)
        self.evaluators.appendleft((rows, made))
        return made

    def _directory(self, case: Case, request: Request) -> Entities:
        """Return the rows of the case, with the attributes it sets on the entities of this request."""
        plain = self._evaluator(case.rows).entities
        if not case.attributes:
            return plain
        facts = build_facts(self.kernel, request, Snapshot(plain), case.now)
        rows = dict(case.rows)
        for (root, name), value in case.attributes.items():
            ref = root_entity(root, name, facts)
            row = rows.get(ref, EntityData(ref, {}))
            rows[ref] = replace(row, attributes={**row.attributes, name: value})
        return EntityStore(rows.values())


def root_entity(root: str, name: str, facts: Facts) -> EntityRef:
    """Return the entity of `user`, `agent`, `tool` or `resource` in this request. Raises CaseSetupError."""
    every = frozenset(facts.kernel.entities)
    found = facts.read((root,), RefType(every if root == "resource" else frozenset({root})))
    if not isinstance(found, EntityRef):
        why = "nothing binds `resource` at this endpoint" if root == "resource" else f"there is no {root}"
        raise CaseSetupError(f"`{root}.{name}` is given, but {why}")
    return found


def given_approvals(case: Case, seen: DecisionTrace, facts: Facts, snapshot: Snapshot) -> Iterator[Approval]:
    """Yield the given approvals, each bound to what its rule requires for this request, or for the earlier request it
    names."""
    for given in case.approvals:
        walked = (
            seen
            if given.question is None
            else trace_request(facts_of_request(given.question, facts, snapshot), snapshot)
        )
        bindings = [
            effect.approval.binding
            for guard in walked.guards
            if guard.guard.name == given.rule
            for effect in guard.effects
            if effect.triggered and effect.approval is not None
        ]
        for number, binding in enumerate(bindings):
            yield make_approval(given, number, binding, case)


def facts_of_request(question: Mapping[str, object], facts: Facts, snapshot: Snapshot) -> Facts:
    """Return the facts of another request with the same policy, entities and history."""
    found = build_facts(facts.kernel, Request.from_mapping(question), snapshot, facts.now)
    return replace(found, history=facts.history)


def make_approval(given: GivenApproval, number: int, binding: str, case: Case) -> Approval:
    return Approval(f"{given.id}/{number}", given.by, case.now - given.age, binding, given.rule)

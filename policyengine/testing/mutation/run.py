"""Creates the mutants of a policy, runs the tests that each may affect, and reports the results."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import cpu_count, get_context
from random import Random
from typing import TypeAlias

from policyengine.check import CheckResult, check
from policyengine.child_processes import safe_multiprocessing
from policyengine.gc_freeze import objects_frozen
from policyengine.gc_pause import gc_paused
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testcases import Case
from policyengine.testing.mutation.accepted_survivors import explanations_in, match_explanations
from policyengine.testing.mutation.equivalent import is_equivalent
from policyengine.testing.mutation.faults import Fault
from policyengine.testing.mutation.lowering_cache import LoweringCache, Mutant
from policyengine.testing.mutation.operators import find_faults
from policyengine.testing.mutation.report import MutantResult, MutantStatus, MutationReport, RequestReference
from policyengine.testing.mutation.run_mutants import MutantRunner

CHUNK = 16  # mutants in a message to another process
MIN_PARALLEL_FAULTS = 200  # minimum mutants for several processes, because each process loads the policy first
MUTANTS_PER_COLLECTION = 256  # mutants between two garbage collections

Progress: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class MutationRun:
    """A policy with its faults, its lowering cache, and the cases to run."""

    faults: tuple[Fault, ...]
    workshop: LoweringCache
    examiner: MutantRunner

    @classmethod
    def of(cls, checked: CheckResult, keeps: Callable[[Case], bool]) -> MutationRun:
        workshop = LoweringCache.of(checked)
        examiner = MutantRunner.of(filter(keeps, checked.cases), workshop.kernel)
        return cls(find_faults(checked.program), workshop, examiner)

    def outcome(self, number: int) -> MutantResult:
        fault = self.faults[number]
        mutant = self.workshop.mutant(fault)
        if mutant is None or is_equivalent(mutant):
            return make_result(fault, MutantStatus.UNFIT if mutant is None else MutantStatus.SAME)
        asked = self.examiner.examine(mutant)
        killer = None if asked.killer is None else request_reference(asked.killer)
        fate = MutantStatus.SURVIVED if killer is None else MutantStatus.KILLED
        return replace(make_result(fault, fate), asked=tuple(map(request_reference, asked.cases)), killer=killer)


def make_result(fault: Fault, fate: MutantStatus) -> MutantResult:
    return MutantResult(fault.name, fault.operator, fault.source.name, fault.line, fault.lines.diff(fault.source), fate)


def request_reference(case: Case) -> RequestReference:
    return RequestReference(case.test, case.request, f"{case.span.source.name}:{case.span.line}")


def mutants(checked: CheckResult) -> Iterator[Mutant]:
    """Yield every mutant without errors, in source order."""
    workshop = LoweringCache.of(checked)
    made = (workshop.mutant(fault) for fault in find_faults(checked.program))
    return (mutant for mutant in made if mutant is not None)


def sample(checked: CheckResult, seed: int = 0, limit: int | None = None) -> tuple[int, ...]:
    """Return the indexes of the faults to try: all of them, or a random sample of `limit` faults with this seed."""
    made = len(find_faults(checked.program))
    if limit is None or limit >= made:
        return tuple(range(made))
    return tuple(sorted(Random(seed).sample(range(made), limit)))


def mutate(
    checked: CheckResult,
    *,
    tests: frozenset[tuple[str, str]] | None = None,
    seed: int = 0,
    limit: int | None = None,
    jobs: int = 1,
    progress: Progress = lambda: None,
) -> MutationReport:
    """Try the faults of a policy without errors on its tests, or only on those of `tests` (package and name). The
    report is the same for any number of `jobs` (0: one per processor); `progress` is called after each mutant. Raises
    FailingTestError if a test fails without any fault, and CaseSetupError and RequestError as a test run does.
    """
    keeps = partial(is_chosen, tests)
    with gc_paused():
        bench = MutationRun.of(checked, keeps)
    numbers = sample(checked, seed, limit)
    jobs = jobs or cpu_count()
    if jobs == 1 or len(numbers) < MIN_PARALLEL_FAULTS:
        outcomes = _run_here(bench, numbers, progress)
    else:
        outcomes = _run_in_processes(checked, tests, numbers, jobs, progress)
    return _make_report(checked, bench, outcomes, seed)


def is_chosen(tests: frozenset[tuple[str, str]] | None, case: Case) -> bool:
    return tests is None or (case.package, case.test) in tests


def _make_report(
    checked: CheckResult, bench: MutationRun, outcomes: Sequence[MutantResult], seed: int
) -> MutationReport:
    survivors = [outcome.name for outcome in outcomes if outcome.fate is MutantStatus.SURVIVED]
    names = (fault.name for fault in bench.faults)
    tried = (outcome.name for outcome in outcomes)
    found, stale = match_explanations(explanations_in(checked.program), survivors, names, tried)
    told_why = tuple(
        replace(one, fate=MutantStatus.EXPLAINED, reason=found[one.name]) if one.name in found else one
        for one in outcomes
    )
    return MutationReport(told_why, len(bench.faults), tuple(stale), seed)


@gc_paused()
def _run_here(bench: MutationRun, numbers: Sequence[int], progress: Progress) -> list[MutantResult]:
    """Run the mutants in this process. The policy stays alive and mutants do not, so garbage collection runs rarely and
    scans only new objects.
    """
    found = []
    with objects_frozen():
        for number in numbers:
            found.append(bench.outcome(number))
            progress()
            if len(found) % MUTANTS_PER_COLLECTION == 0:
                gc.collect()
    return found


# ── Several processes: each reads the policy once, and receives numbers only ───────────────────

_worker_run: MutationRun  # state of a worker process


def _run_in_processes(
    checked: CheckResult,
    tests: frozenset[tuple[str, str]] | None,
    numbers: Sequence[int],
    jobs: int,
    progress: Progress,
) -> list[MutantResult]:
    told_once = source_data(ordered_sources(checked)), tests
    context = get_context("spawn")  # a process with threads is not safe to fork
    with safe_multiprocessing():
        executor = ProcessPoolExecutor(jobs, context, initializer=_init_worker, initargs=told_once)
    try:
        chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
        with safe_multiprocessing():
            waiting = [executor.submit(_run_chunk, tuple(chunk)) for chunk in chunks]
        for done in as_completed(waiting):
            for _ in done.result():
                progress()
        return [outcome for one in waiting for outcome in one.result()]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def ordered_sources(checked: CheckResult) -> list[Source]:
    """Return the sources, with the package of the kernel first."""
    packages = checked.program.packages
    first = checked.kernel.package if checked.kernel is not None else None
    return [m.span.source for name in sorted(packages, key=lambda name: name != first) for m in packages[name].modules]


def source_data(sources: Sequence[Source]) -> tuple[tuple[str, str, str], ...]:
    return tuple((source.name, source.text, source.label) for source in sources)


def _init_worker(sources: Sequence[tuple[str, str, str]], tests: frozenset[tuple[str, str]] | None) -> None:
    global _worker_run
    parsed = [parse(Source(*source)) for source in sources]
    checked = check([module for module, _ in parsed if module is not None])
    _worker_run = MutationRun.of(checked, partial(is_chosen, tests))


def _run_chunk(numbers: Sequence[int]) -> list[MutantResult]:
    return _run_here(_worker_run, numbers, lambda: None)

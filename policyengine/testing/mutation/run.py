"""Makes mutants of a policy, asks each the tests that touch it, and tells what came of all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import cpu_count, get_context
from random import Random
from typing import TypeAlias

from policyengine.check import Checked, check
from policyengine.child_processes import safe_spawning
from policyengine.source import Source
from policyengine.syntax.gc_pause import uncollected
from policyengine.syntax.parse import parse
from policyengine.testcases import Case
from policyengine.testing.mutation.accepted_survivors import explanations_in, reasons
from policyengine.testing.mutation.equivalent import decides_the_same
from policyengine.testing.mutation.faults import Fault
from policyengine.testing.mutation.lowering_cache import Mutant, Workshop
from policyengine.testing.mutation.operators import faults_of
from policyengine.testing.mutation.report import Fate, MutationReport, Outcome, Shown
from policyengine.testing.mutation.run_mutants import Examiner

CHUNK = 16  # mutants that are worth a message to another process
FEWEST = 200  # mutants that are worth other processes: each reads the policy first
COLLECTED = 256  # mutants between two garbage collections

Progress: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """A policy with all its faults, its kernel taken apart, and the cases to ask."""

    faults: tuple[Fault, ...]
    workshop: Workshop
    examiner: Examiner

    @classmethod
    def of(cls, checked: Checked, keeps: Callable[[Case], bool]) -> Bench:
        workshop = Workshop.of(checked)
        examiner = Examiner.of(filter(keeps, checked.cases), workshop.kernel)
        return cls(faults_of(checked.program), workshop, examiner)

    def outcome(self, number: int) -> Outcome:
        fault = self.faults[number]
        mutant = self.workshop.mutant(fault)
        if mutant is None or decides_the_same(mutant):
            return told(fault, Fate.UNFIT if mutant is None else Fate.SAME)
        asked = self.examiner.examine(mutant)
        killer = None if asked.killer is None else shown(asked.killer)
        fate = Fate.SURVIVED if killer is None else Fate.KILLED
        return replace(told(fault, fate), asked=tuple(map(shown, asked.cases)), killer=killer)


def told(fault: Fault, fate: Fate) -> Outcome:
    return Outcome(fault.name, fault.operator, fault.source.name, fault.line, fault.lines.diff(fault.source), fate)


def shown(case: Case) -> Shown:
    return Shown(case.test, case.request, f"{case.span.source.name}:{case.span.line}")


def mutants(checked: Checked) -> Iterator[Mutant]:
    """Every mutant that checks, in the order of the text, each with its kernel."""
    workshop = Workshop.of(checked)
    made = (workshop.mutant(fault) for fault in faults_of(checked.program))
    return (mutant for mutant in made if mutant is not None)


def sample(checked: Checked, seed: int = 0, limit: int | None = None) -> tuple[int, ...]:
    """The numbers of the faults to try: all of them, or as many as `limit` says by the chance of a seed."""
    made = len(faults_of(checked.program))
    if limit is None or limit >= made:
        return tuple(range(made))
    return tuple(sorted(Random(seed).sample(range(made), limit)))


def mutate(
    checked: Checked,
    *,
    tests: frozenset[tuple[str, str]] | None = None,
    seed: int = 0,
    limit: int | None = None,
    jobs: int = 1,
    progress: Progress = lambda: None,
) -> MutationReport:
    """Tries the faults of a policy without errors on its tests, or on those of `tests` (package and name) alone.

    The report is the same for any number of `jobs` (0: one for each processor); `progress` is called for each mutant
    that is done. Raises TestsFail when a test does not pass as it is, CannotAsk and RequestError as a run of them does.
    """
    keeps = partial(is_chosen, tests)
    with uncollected():
        bench = Bench.of(checked, keeps)
    numbers = sample(checked, seed, limit)
    jobs = jobs or cpu_count()
    if jobs == 1 or len(numbers) < FEWEST:
        outcomes = _here(bench, numbers, progress)
    else:
        outcomes = _in_processes(checked, tests, numbers, jobs, progress)
    return _report(checked, bench, outcomes, seed)


def is_chosen(tests: frozenset[tuple[str, str]] | None, case: Case) -> bool:
    return tests is None or (case.package, case.test) in tests


def _report(checked: Checked, bench: Bench, outcomes: Sequence[Outcome], seed: int) -> MutationReport:
    survivors = [outcome.name for outcome in outcomes if outcome.fate is Fate.SURVIVED]
    names = (fault.name for fault in bench.faults)
    tried = (outcome.name for outcome in outcomes)
    found, stale = reasons(explanations_in(checked.program), survivors, names, tried)
    told_why = tuple(
        replace(one, fate=Fate.EXPLAINED, reason=found[one.name]) if one.name in found else one for one in outcomes
    )
    return MutationReport(told_why, len(bench.faults), tuple(stale), seed)


@uncollected()
def _here(bench: Bench, numbers: Sequence[int], progress: Progress) -> list[Outcome]:
    """What a policy is made of stays, and nearly nothing of a mutant does: a collection is worth it now and then only,
    and walks no more than what came since."""
    gc.freeze()
    try:
        found = []
        for number in numbers:
            found.append(bench.outcome(number))
            progress()
            if len(found) % COLLECTED == 0:
                gc.collect()
        return found
    finally:
        gc.unfreeze()


# ── Several processes: each reads the policy once, and is told numbers only ───────────────────

_bench: Bench  # of a worker, once it has begun


def _in_processes(
    checked: Checked, tests: frozenset[tuple[str, str]] | None, numbers: Sequence[int], jobs: int, progress: Progress
) -> list[Outcome]:
    told_once = written(sources_of(checked)), tests
    context = get_context("spawn")  # a process with threads is not safe to fork
    with safe_spawning():
        executor = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=told_once)
    try:
        chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
        with safe_spawning():
            waiting = [executor.submit(_outcomes, tuple(chunk)) for chunk in chunks]
        for done in as_completed(waiting):
            for _ in done.result():
                progress()
        return [outcome for one in waiting for outcome in one.result()]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def sources_of(checked: Checked) -> list[Source]:
    """The package that was asked for first: it is the one of the first file."""
    packages = checked.program.packages
    first = checked.kernel.package if checked.kernel is not None else None
    return [m.span.source for name in sorted(packages, key=lambda name: name != first) for m in packages[name].modules]


def written(sources: Sequence[Source]) -> tuple[tuple[str, str, str], ...]:
    return tuple((source.name, source.text, source.label) for source in sources)


def _begin(sources: Sequence[tuple[str, str, str]], tests: frozenset[tuple[str, str]] | None) -> None:
    global _bench
    parsed = [parse(Source(*source)) for source in sources]
    checked = check([module for module, _ in parsed if module is not None])
    _bench = Bench.of(checked, partial(is_chosen, tests))


def _outcomes(numbers: Sequence[int]) -> list[Outcome]:
    return _here(_bench, numbers, lambda: None)

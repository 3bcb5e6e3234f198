"""Runs cases in several processes. Each test runs in one process, and results keep the source order."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import groupby
from multiprocessing import cpu_count, get_context

from policyengine import kernel as k
from policyengine.child_processes import safe_multiprocessing
from policyengine.testcases import Case
from policyengine.testing.report import CaseResult
from policyengine.testing.runner import case_results

MIN_CHUNK_CASES = 32  # minimum cases in a message to another process

_kernel: k.Kernel  # state of a worker process


def parallel_results(jobs: int, cases: Sequence[Case], kernel: k.Kernel) -> Generator[CaseResult, None, None]:
    """Yield the same results as `case_results`, from `jobs` processes (0: one per processor). Closing the generator
    stops the processes.
    """
    jobs = jobs or cpu_count()
    if jobs == 1 or len(cases) < 2 * MIN_CHUNK_CASES:
        yield from case_results(cases, kernel)
    else:
        yield from _in_processes(jobs, cases, kernel)


def _in_processes(jobs: int, cases: Sequence[Case], kernel: k.Kernel) -> Iterator[CaseResult]:
    context = get_context("spawn")  # a process with threads is not safe to fork
    kernel_as_bytes = pickle.dumps(kernel)
    with safe_multiprocessing():
        executor = ProcessPoolExecutor(jobs, context, initializer=_init_worker, initargs=(kernel_as_bytes,))
    try:
        parts = chunk_cases(cases, jobs, counting=bool(kernel.limits))
        with safe_multiprocessing():
            waiting = [(chunk, executor.submit(_run_chunk, chunk)) for chunk in parts]
        for chunk, found in waiting:
            yield from _with_cases(chunk, found)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _with_cases(chunk: Sequence[Case], found: Future[list[CaseResult]]) -> Iterator[CaseResult]:
    for case, result in zip(chunk, found.result(), strict=True):
        yield result.of(case)  # replace the pickled case with the original


def chunk_cases(cases: Sequence[Case], jobs: int, *, counting: bool = False) -> Iterator[tuple[Case, ...]]:
    """Yield chunks of cases of similar size, several per process. A test that spends approvals is not split. If the
    policy counts requests (`counting`), no test is split.
    """
    size = max(MIN_CHUNK_CASES, len(cases) // (jobs * 8))
    chunk: list[Case] = []
    for _, several in groupby(cases, key=lambda case: (case.package, case.test)):
        test = tuple(several)
        parts = [test] if counting or any(case.approvals for case in test) else split_cases(test, size)
        for part in parts:
            chunk += part
            if len(chunk) >= size:
                yield tuple(chunk)
                chunk = []
    if chunk:
        yield tuple(chunk)


def split_cases(cases: Sequence[Case], size: int) -> list[Sequence[Case]]:
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def _init_worker(kernel: bytes) -> None:
    global _kernel
    _kernel = pickle.loads(kernel)


def _run_chunk(cases: Sequence[Case]) -> list[CaseResult]:
    return list(case_results(cases, _kernel))

"""Tries claims: generates requests from the choices of hypothesis, and keeps the first request that breaks a claim."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from policyengine import kernel as k
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.install_hints import install_command
from policyengine.solver.witness.pools import ValuePools
from policyengine.testcases import Property
from policyengine.testing.properties.check import ClaimChecker, draft_case
from policyengine.testing.properties.conditions import policy_conditions, relevant_endpoints
from policyengine.testing.properties.draft_request import DraftRequest
from policyengine.testing.properties.endpoints import EndpointContext, endpoint_contexts
from policyengine.testing.properties.generate import RequestGenerator
from policyengine.testing.properties.random_source import RandomSource
from policyengine.testing.properties.render_test import test_text
from policyengine.testing.properties.results import ClaimVerdict, PropertyResult
from policyengine.testing.properties.shrink import shrink
from policyengine.testing.report import ResultStatus
from policyengine.testing.runner import CaseRunner

DEFAULT_EXAMPLES = 200
MIN_EXAMPLES = 20  # minimum number of matching requests for a verdict
ENDPOINT_RETRIES = 6
INSTALL_HINT = install_command("testing")


class HypothesisMissingError(Exception):
    """The error for the missing package `hypothesis`. `hint` says how to install it."""

    def __init__(self) -> None:
        super().__init__("`forall` needs the package `hypothesis`, which is not installed")
        self.hint = INSTALL_HINT


def try_properties(
    properties: Iterable[Property], kernel: k.Kernel, seed: int = 0, examples: int = DEFAULT_EXAMPLES
) -> tuple[PropertyResult, ...]:
    """Try each claim with at most `examples` matching requests, in order; the same `seed` generates the same requests.
    Raises HypothesisMissingError if there is a claim to try and hypothesis is not installed.
    """
    trial: PropertyContext | None = None
    results = []
    for prop in properties:
        if prop.skip is not None:
            results.append(PropertyResult(prop, ClaimVerdict.SKIPPED))
            continue
        trial = trial or PropertyContext.of(kernel)
        begun = perf_counter()
        try:
            result = trial.tried(prop, seed, examples)
        except EngineDisagreementError as error:
            result = PropertyResult(prop, ClaimVerdict.ERRORED, problem=f"internal error: {error}")
        results.append(replace(result, seconds=perf_counter() - begun))
    return tuple(results)


@dataclass(slots=True)
class PropertyContext:
    """The parts that all claims about one policy share."""

    kernel: k.Kernel
    runner: CaseRunner
    sites: tuple[EndpointContext, ...]
    conditions: tuple[k.Expr, ...]

    @classmethod
    def of(cls, kernel: k.Kernel) -> PropertyContext:
        require_hypothesis()
        return cls(kernel, CaseRunner.of(kernel), endpoint_contexts(kernel), tuple(policy_conditions(kernel)))

    def tried(self, prop: Property, seed: int, examples: int) -> PropertyResult:
        judge = ClaimChecker.of(prop, self.kernel, self.runner.tree)
        search = CounterexampleSearch.of(prop, self, judge)
        run_hypothesis(search.one, f"{seed} {prop.package} {prop.test} {prop.number}", examples)
        wanted = min(MIN_EXAMPLES, examples)
        if search.broken is None:
            verdict = ClaimVerdict.PASSED if search.met >= wanted else ClaimVerdict.UNDECIDED
            return PropertyResult(prop, verdict, search.met, search.drawn, wanted)
        sketch = shrink(search.broken, judge)
        case = draft_case(sketch, prop)
        result = CaseRunner.of(self.kernel).result(case)
        if result.status is not ResultStatus.FAILED:
            raise RuntimeError(f"the claim holds for {case.request} when it is run as a test: please report this bug")
        text = test_text(sketch, prop)
        return PropertyResult(prop, ClaimVerdict.FAILED, search.met, search.drawn, wanted, case, text, result)


@dataclass(slots=True)
class CounterexampleSearch:
    """Generates requests and keeps the first one that breaks the claim."""

    prop: Property
    judge: ClaimChecker
    sites: tuple[EndpointContext, ...]
    pools: ValuePools
    met: int = 0
    drawn: int = 0
    broken: DraftRequest | None = None

    @classmethod
    def of(cls, prop: Property, trial: PropertyContext, judge: ClaimChecker) -> CounterexampleSearch:
        own = () if prop.where is None else (prop.where,)
        pools = ValuePools.of((*own, *trial.conditions))
        return cls(prop, judge, relevant_endpoints(trial.sites, prop, trial.kernel), pools)

    def one(self, choose: RandomSource) -> bool:
        """Generate one request; return whether the claim applies to it. Raises ClaimBrokenError if the claim is false
        for the request.
        """
        if not self.sites:
            return False
        site = self.site(choose)
        sketch = RequestGenerator(self.prop, DraftRequest.of(self.prop.world, site), site, self.pools, choose).draw()
        decision = self.judge.decided(sketch)
        if self.broken is None:  # hypothesis repeats the last request to confirm the failure
            self.drawn += 1
            self.met += decision is not None
        if decision is not None and self.judge.is_broken_by(decision):
            self.broken = sketch
            raise ClaimBrokenError
        return decision is not None

    def site(self, choose: RandomSource) -> EndpointContext:
        """Choose an endpoint, preferably one with a grant: most claims hold trivially elsewhere."""
        site = choose.of(self.sites)
        for _ in range(ENDPOINT_RETRIES):
            if site.doors or choose.chance(ENDPOINT_RETRIES):
                break
            site = choose.of(self.sites)
        return site


class ClaimBrokenError(Exception):
    """An exception that stops hypothesis after a counterexample."""


# ── Hypothesis ────────────────────────────────────────────────────────────────────────────────


def require_hypothesis() -> None:
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise HypothesisMissingError from None


def run_hypothesis(one: Callable[[RandomSource], bool], seed: str, examples: int) -> None:
    """Call `one` with choices of hypothesis until it has returned True for `examples` requests, or hypothesis gives up.

    The example database and the shrinking of hypothesis are disabled: `shrink` works on requests, where it can remove
    single facts.
    """
    import hypothesis
    from hypothesis import Phase, strategies
    from hypothesis.errors import Unsatisfiable

    @cache
    def below(number: int) -> Any:
        return strategies.integers(0, number - 1)

    @strategies.composite
    def drawn(draw: Any) -> bool:
        return one(RandomSource(lambda number: 0 if number == 1 else int(draw(below(number)))))

    def attempt(speaks: bool) -> None:
        hypothesis.assume(speaks)

    settings = hypothesis.settings(
        max_examples=examples,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        backend="hypothesis",
    )
    try:
        with hypothesis_cache():
            hypothesis.seed(seed)(settings(hypothesis.given(drawn())(attempt)))()
    except (ClaimBrokenError, Unsatisfiable):
        return


@contextmanager
def hypothesis_cache() -> Iterator[None]:
    """Let hypothesis keep its cache in the cache folder of the user instead of `.hypothesis` in the working folder,
    unless another folder is configured or in use.
    """
    from hypothesis import configuration

    in_use = getattr(configuration, "__hypothesis_home_directory", None)
    if in_use is not None or os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY"):
        yield
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    configuration.set_hypothesis_home_dir(caches / "policyengine" / "hypothesis")
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(None)

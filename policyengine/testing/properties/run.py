"""Tries claims: hypothesis chooses, requests are drawn as it chose, and the first that breaks a claim is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import Any

from policyengine import kernel as k
from policyengine.extras import install_command
from policyengine.testcases import Property
from policyengine.testing.properties.check import Judge, case_of
from policyengine.testing.properties.conditions import conditions_of, fitting
from policyengine.testing.properties.draft_request import Sketch
from policyengine.testing.properties.endpoints import Site, sites_of
from policyengine.testing.properties.generate import Drawing
from policyengine.testing.properties.random_source import Chooser
from policyengine.testing.properties.render_test import test_text
from policyengine.testing.properties.results import PropertyResult, Verdict
from policyengine.testing.properties.shrink import smallest
from policyengine.testing.properties.value_pools import Pools
from policyengine.testing.report import Status
from policyengine.testing.runner import Runner

EXAMPLES = 200
FEWEST = 20  # that a claim must be held against before it counts as tried
SECOND_THOUGHTS = 6
INSTALL = install_command("testing")


class NoHypothesis(Exception):
    """The library that chooses is not installed. `hint` says how to install it."""

    def __init__(self) -> None:
        super().__init__("`forall` is tried with the library hypothesis, which is not installed")
        self.hint = INSTALL


def try_properties(
    properties: Iterable[Property], kernel: k.Kernel, seed: int = 0, examples: int = EXAMPLES
) -> tuple[PropertyResult, ...]:
    """Each claim held against `examples` requests, in the order given; the same `seed` tries the same ones.

    Raises NoHypothesis where there is a claim to be tried and hypothesis is not installed.
    """
    trial: Trial | None = None
    results = []
    for prop in properties:
        if prop.skip is not None:
            results.append(PropertyResult(prop, Verdict.SKIPPED))
            continue
        trial = trial or Trial.of(kernel)
        begun = perf_counter()
        result = trial.tried(prop, seed, examples)
        results.append(replace(result, seconds=perf_counter() - begun))
    return tuple(results)


@dataclass(slots=True)
class Trial:
    """What all claims about one policy share."""

    kernel: k.Kernel
    runner: Runner
    sites: tuple[Site, ...]
    conditions: tuple[k.Expr, ...]

    @classmethod
    def of(cls, kernel: k.Kernel) -> Trial:
        require_hypothesis()
        return cls(kernel, Runner.of(kernel), sites_of(kernel), tuple(conditions_of(kernel)))

    def tried(self, prop: Property, seed: int, examples: int) -> PropertyResult:
        judge = Judge.of(prop, self.kernel, self.runner.tree)
        search = Search.of(prop, self, judge)
        chosen(search.one, f"{seed} {prop.package} {prop.test} {prop.number}", examples)
        wanted = min(FEWEST, examples)
        if search.broken is None:
            verdict = Verdict.PASSED if search.met >= wanted else Verdict.UNDECIDED
            return PropertyResult(prop, verdict, search.met, search.drawn, wanted)
        sketch = smallest(search.broken, judge)
        case = case_of(sketch, prop)
        result = Runner.of(self.kernel).result(case)
        if result.status is not Status.FAILED:
            raise RuntimeError(f"evaluator and specification differ about {case.request}: please report this")
        text = test_text(sketch, prop)
        return PropertyResult(prop, Verdict.FAILED, search.met, search.drawn, wanted, case, text, result)


@dataclass(slots=True)
class Search:
    """Draws one request after another, and keeps the first that breaks the claim."""

    prop: Property
    judge: Judge
    sites: tuple[Site, ...]
    pools: Pools
    met: int = 0
    drawn: int = 0
    broken: Sketch | None = None

    @classmethod
    def of(cls, prop: Property, trial: Trial, judge: Judge) -> Search:
        own = () if prop.where is None else (prop.where,)
        pools = Pools.of((*own, *trial.conditions))
        return cls(prop, judge, fitting(trial.sites, prop, trial.kernel), pools)

    def one(self, choose: Chooser) -> bool:
        """Draws one; whether the claim speaks of it."""
        if not self.sites:
            return False
        site = self.site(choose)
        sketch = Drawing(self.prop, Sketch.of(self.prop.world, site), site, self.pools, choose).draw()
        decision = self.judge.decided(sketch)
        if self.broken is None:  # hypothesis has the last one drawn again, to be sure
            self.drawn += 1
            self.met += decision is not None
        if decision is not None and self.judge.is_broken_by(decision):
            self.broken = sketch
            raise Broken
        return decision is not None

    def site(self, choose: Chooser) -> Site:
        """Rather one that somebody may reach: most claims hold of the others anyway."""
        site = choose.of(self.sites)
        for _ in range(SECOND_THOUGHTS):
            if site.doors or choose.chance(SECOND_THOUGHTS):
                break
            site = choose.of(self.sites)
        return site


class Broken(Exception):
    """Tells hypothesis that this is enough."""


# ── Hypothesis ────────────────────────────────────────────────────────────────────────────────


def require_hypothesis() -> None:
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise NoHypothesis from None


def chosen(one: Callable[[Chooser], bool], seed: str, examples: int) -> None:
    """Lets hypothesis choose for `one` until it speaks of so many examples, or until it has had enough.

    It neither reads nor writes a database of examples, and it does not shrink: that is done on requests, where it is
    known what a single fact is.
    """
    import hypothesis
    from hypothesis import Phase, strategies
    from hypothesis.errors import Unsatisfiable

    @cache
    def below(number: int) -> Any:
        return strategies.integers(0, number - 1)

    @strategies.composite
    def drawn(draw: Any) -> bool:
        return one(Chooser(lambda number: 0 if number == 1 else int(draw(below(number)))))

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
        hypothesis.seed(seed)(settings(hypothesis.given(drawn())(attempt)))()
    except (Broken, Unsatisfiable):
        return

"""Turns the options of `simulate` into an engine with a virtual clock and the traffic for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from policyengine.cli.commands.check import check_files
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import BUNDLE, load_engine, report_request_errors
from policyengine.cli.request_input import describe_place, read_requests

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.simulation import (
        Callers,
        Series,
        SimulatedTracker,
        SimulationResult,
        TrafficEvent,
        TrafficPlan,
        VirtualClock,
    )
    from policyengine.simulation.ordered_runs import RunRequests
    from policyengine.simulation.sample_requests import SampleRequests

MAX_REQUESTS = 50_000_000
UNITS = {"s": "1s", "m": "1m", "h": "1h", "d": "1d"}


class WorkflowTraffic(NamedTuple):
    """The traffic of a workflow: its plan, its events, their approximate number, and its description as words and as
    data."""

    plan: TrafficPlan
    events: Iterator[TrafficEvent]
    total: int
    words: tuple[str, ...]
    about: dict[str, Any]


@dataclass
class SimulateCommand:
    """One policy on a virtual clock. `world` holds the entities and the time of the policy's tests, if the requests of
    these tests are simulated. `neutral` is the engine without learned behavior, which decides each request by itself;
    `follows_orders` is whether the runs of callers follow the declared orders of calls."""

    paths: Sequence[Path]
    entities: Sequence[str] | None
    trust: Sequence[Path] | None
    begins: str | None
    seed: int
    learns: bool = False
    world: SampleRequests | None = None
    clock: VirtualClock = field(init=False)
    engine: Engine = field(init=False)
    neutral: Engine = field(init=False)
    tracker: SimulatedTracker | None = field(init=False, default=None)
    reads_behavior: bool = field(init=False, default=False)
    follows_orders: bool = field(init=False, default=False)

    @property
    def started(self) -> bool:
        """Whether the command line sets the start time."""
        return self.begins is not None

    @cached_property
    def start(self) -> int:
        """The start in microseconds since 1970, by default the time at which tests of policies begin. Raises
        CommandError.
        """
        from policyengine.clock import epoch_microseconds
        from policyengine.simulation.traffic_file import parse_moment
        from policyengine.testcases.scenario import DEFAULT_TIME

        if self.begins is None:
            return epoch_microseconds(DEFAULT_TIME if self.world is None else self.world.now)
        if (moment := parse_moment(self.begins)) is None:
            hint = "write a day or a time with its zone: `2027-01-01`, `2027-01-01T09:00:00Z`"
            raise CommandError("usage", f"`--start {self.begins}` is not a time", hint, code=2)
        return epoch_microseconds(moment)

    @staticmethod
    def microseconds(option: str, text: str) -> int:
        from policyengine.clock import MICROSECOND
        from policyengine.time_formats import parse_duration

        lasts = parse_duration(text)
        if not lasts:
            problem = "is not a duration" if lasts is None else "must be longer than zero"
            raise CommandError("usage", f"`{option} {text}` {problem}", "write `10s`, `5m`, `1h30m`, `2d`", code=2)
        return lasts // MICROSECOND

    def load(self) -> None:
        """Load the policies. Behavior is learned from the traffic if this is requested; otherwise learned facts are
        neutral. Raises CommandError.
        """
        from policyengine.engine import Engine
        from policyengine.kernel.learned_facts import learned_fact_names
        from policyengine.simulation import SimulatedTracker, VirtualClock

        self.clock = VirtualClock(self.start)
        engine = load_engine(self.paths, self.entities, self.trust, clock=self.clock)
        kernel, directory = engine.kernel, engine.directory
        if self.world is not None and self.entities is None:
            directory = self.world.directory
        self.reads_behavior = kernel.reads_behavior
        self.follows_orders = self.learns and "sequence" in learned_fact_names(kernel)
        if kernel.reads_behavior or directory is not engine.directory:
            engine = Engine(replace(kernel, reads_behavior=False), directory=directory, clock=self.clock)
        self.engine = self.neutral = engine
        if kernel.reads_behavior and self.learns:
            self.tracker = SimulatedTracker()
            self.engine = Engine(kernel, directory=directory, clock=self.clock, behavior=self.tracker)

    def played(self, series: Series, words: tuple[str, ...], about: Mapping[str, Any]) -> SimulationResult:
        from policyengine.simulation import SimulationResult
        from policyengine.simulation.result import SimulatedLimit

        limits = tuple(map(SimulatedLimit.of, self.engine.kernel.limits))
        learning = self.learns if self.reads_behavior else None
        if self.learns and not self.reads_behavior:
            words = (*words, "nothing is learned: the policies read no learned facts")
        return SimulationResult(self.engine.revision, words, dict(about), limits, series, learning)

    # ── Workflows ─────────────────────────────────────────────────────────────────────────────

    def workflow(
        self, name: str, request: str | None, rate: str, callers: int | None, vary: str | None, lasting: str | None
    ) -> WorkflowTraffic:
        from policyengine.clock import MICROSECOND
        from policyengine.simulation import WORKFLOWS, TrafficPlan, expected_count, workflow_traffic
        from policyengine.time_formats import format_duration

        known = WORKFLOWS[name]
        span = known.span if lasting is None else self.microseconds("--for", lasting)
        pace = parse_rate(rate)
        asked, source = self._read_questions(request)
        plan = TrafficPlan(self.start, span, pace, callers or known.callers, self.seed)
        if (total := expected_count(name, plan)) > MAX_REQUESTS:
            raise CommandError(
                "usage", f"that would be {total:,} requests", "use a shorter duration or a lower rate", code=2
            )
        who = self._callers(asked, plan.callers, vary)
        lasts = format_duration(span * MICROSECOND)
        several = f"{plan.callers:,} callers that differ by `{who.vary}`" if who.vary else "one caller"
        words = (f"{name}: {known.words}; {rate} for {lasts}, {several}, seed {self.seed}", f"requests: {source}")
        about = {"workflow": name, "rate_per_second": pace, "for_ms": span // 1_000, "callers": plan.callers,
                 "vary": who.vary, "seed": self.seed, "requests": len(asked.questions)}  # fmt: skip
        return WorkflowTraffic(plan, workflow_traffic(name, plan, who), total, words, about)

    def _read_questions(self, request: str | None) -> tuple[RunRequests, str]:
        """Return the requests, and a description of their source. Raises CommandError."""
        if request is not None:
            self.load()
            questions, place = tuple(read_spending_requests(request)), describe_place(request)
            words = place if len(questions) == 1 else f"{len(questions)} of {place}, in turn"
            return self._in_runs(questions), words
        return self._of_tests()

    def _in_runs(self, questions: Sequence[Mapping[str, Any]]) -> RunRequests:
        from policyengine.simulation.ordered_runs import RunRequests, keep_order

        if not self.follows_orders:
            return RunRequests(tuple(questions), ())
        return keep_order(questions, self.engine.kernel, self._is_allowed)

    def _is_allowed(self, question: Mapping[str, Any]) -> bool:
        return self.neutral.evaluate(dict(question)).allowed

    def _of_tests(self) -> tuple[RunRequests, str]:
        from policyengine.simulation.ordered_runs import agent_of, arrange_runs
        from policyengine.simulation.sample_requests import collect_samples, limited_requests

        bundled = any(path.suffix == BUNDLE for path in self.paths)
        self.world = None if bundled else collect_samples(check_files(self.paths)[0].cases)
        self.load()
        every = () if self.world is None else self.world.questions
        found = limited_requests(every, self.neutral.evaluate)
        if not found:
            why = "a bundle holds no tests" if bundled else "the policy has no tests with a request that is allowed"
            raise CommandError("tests", f"no request to send: {why}", "name a request with `--request FILE`")
        if self.follows_orders:
            agents = set(map(agent_of, found))
            own = [one for one in every if agent_of(one) in agents and self._is_allowed(one)]
            runs = arrange_runs(own, self.engine.kernel, self._is_allowed)
            if runs.ordered:
                return runs, f"{len(runs.questions)} allowed requests of the policy's tests, in the declared order"
        one = "the allowed request of the policy's tests"
        words = one if len(found) == 1 else f"{len(found)} allowed requests of the policy's tests, in turn"
        return self._in_runs(found), words

    def _callers(self, asked: RunRequests, many: int, vary: str | None) -> Callers:
        from policyengine.simulation import Callers, NoOtherCallerError
        from policyengine.simulation.renamed_callers import VARIABLE_ROOTS

        if vary is not None and ("." not in vary or vary.split(".")[0] not in VARIABLE_ROOTS):
            hint = "name a fact of a request: `agent.id`, `user.id`, `body.tenant`"
            raise CommandError("usage", f"`--vary {vary}`: callers cannot differ by this fact", hint, code=2)
        try:
            return replace(Callers.of(asked.questions, many, vary, self._is_allowed), places=asked.places)
        except NoOtherCallerError:
            message = "the policies allow this request for no other agent or user, so there is one caller"
            hint = "name another fact that differs between callers with `--vary FACT`, or use `--callers 1`"
            raise CommandError("request", message, hint) from None


def read_spending_requests(name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the requests of a file, changed so that they spend. Raises CommandError."""
    from policyengine.runtime.request import Request
    from policyengine.simulation.traffic_file import as_spending, parse_line

    for question in read_requests(name):
        with report_request_errors(question):
            Request.from_json(question.data)
        yield as_spending(parse_line(0, question.data)[0])


def parse_rate(text: str) -> float:
    """Parse a rate such as `300/5m` to requests per second. Raises CommandError."""
    from policyengine.time_formats import parse_duration

    count, _, each = text.partition("/")
    within = parse_duration(UNITS.get(each or "s", each))
    if not count.isascii() or not count.isdigit() or not int(count) or not within:
        raise CommandError("usage", f"`--rate {text}` is not a rate", "write `10/s`, `300/5m`, `1000/1h`", code=2)
    return int(count) / within.total_seconds()

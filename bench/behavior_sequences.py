"""Orders of requests: false alarms of the deviation, and detection of runs that are not the caller's."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from bench.behavior_traffic import DAY, HOUR, public_runs
from policyengine.behavior.events import ALLOWED, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import ProfileSettings, advance, apply_decision, read_behavior
from policyengine.behavior.state import BehaviorState

BEGAN: Final = 20_000 * DAY
GROUP: Final = "profile workers"
SETTINGS: Final = ProfileSettings()
WORKERS, RUNS_A_DAY, TAUGHT, TESTED = 30, 8, 14, 10  # 112 own runs before the test, and 2,400 tested runs
ENDPOINTS: Final = 12
SECOND: Final = 1_000
THRESHOLDS: Final = {0.05: 950, 0.01: 990}

RunMaker = Callable[[Random], list[str]]


class OrderFigures(NamedTuple):
    """One kind of callers: the tested runs, the share above each threshold, and the share of runs of another caller and
    of runs without any order that exceed 0.99."""

    kind: str
    runs: int
    observed: dict[float, float]
    other: float
    shuffled: float

    @property
    def times(self) -> dict[float, float]:
        """Return the observed rates, as multiples of the declared ones."""
        return {declared: share / declared for declared, share in self.observed.items()}


def workflows(random: Random) -> RunMaker:
    """Return a caller with three workflows, whose steps are sometimes left out or repeated."""
    flows = [[f"GET /{random.randrange(ENDPOINTS)}" for _ in range(random.randrange(4, 9))] for _ in range(3)]

    def run(random: Random) -> list[str]:
        steps = [step for step in random.choice(flows) for _ in range(random.choices((0, 1, 2), (3, 87, 10))[0])]
        return steps or [flows[0][0]]

    return run


def habits(random: Random) -> RunMaker:
    """Return a caller that goes from endpoint to endpoint as its own habits are."""
    known = [f"GET /{number}" for number in random.sample(range(ENDPOINTS), 8)]
    weights = {place: [random.gammavariate(0.25, 1) + 1e-6 for _ in known] for place in ["", *known]}

    def run(random: Random) -> list[str]:
        steps, place = [], ""
        for _ in range(max(3, round(random.gauss(8, 3)))):
            place = random.choices(known, weights[place])[0]
            steps.append(place)
        return steps

    return run


def loops(random: Random) -> RunMaker:
    """Return a caller that signs in, reads many things of its kinds, and reports."""
    kinds = [f"GET /{number}" for number in random.sample(range(2, ENDPOINTS), 3)]

    def run(random: Random) -> list[str]:
        read = [random.choice(kinds) for _ in range(random.randrange(3, 40))]
        return ["GET /0", *sorted(read, key=kinds.index), "GET /1"]

    return run


def tool_users(tasks: list[list[str]]) -> Callable[[Random], RunMaker]:
    """Return callers that each work on eight tasks of a public suite of tool calls."""

    def user(random: Random) -> RunMaker:
        own = random.sample(tasks, min(8, len(tasks)))
        return lambda random: random.choice(own)

    return user


def order_figures(kind: str, user: Callable[[Random], RunMaker], workers: int) -> OrderFigures:
    """Let callers of one kind work, and return what their runs and those of others look like."""
    random = Random(kind)
    made = [user(random) for _ in range(workers)]
    state = BehaviorState(Tagger(b"orders"))
    above = dict.fromkeys(THRESHOLDS, 0)
    runs = probes = other = shuffled = 0
    for day in range(TAUGHT + TESTED):
        for turn in range(RUNS_A_DAY):
            for number, run in enumerate(made):
                at = BEGAN + day * DAY + (8 + turn) * HOUR + number * 20 * SECOND
                highest = fold_run(state, number, run(random), at)
                if day < TAUGHT:
                    continue
                runs += 1
                for declared, threshold in THRESHOLDS.items():
                    above[declared] += highest > threshold
        if day >= TAUGHT:
            for number in range(workers):
                at = BEGAN + day * DAY + 20 * HOUR
                foreign = made[(number + 1 + day) % workers]
                other += try_run(state, number, foreign(random), at) > THRESHOLDS[0.01]
                mixed = made[number](random) + foreign(random)
                random.shuffle(mixed)
                shuffled += try_run(state, number, mixed, at) > THRESHOLDS[0.01]
                probes += 1
    return OrderFigures(
        kind, runs, {declared: count / runs for declared, count in above.items()}, other / probes, shuffled / probes
    )


def caller_of(number: int) -> Caller:
    return Caller("https://issuer.example", f"worker {number}")


def fold_run(state: BehaviorState, number: int, steps: list[str], at: int) -> int:
    """Let a caller have a run, and return the highest deviation in thousandths."""
    run, caller = at // SECOND % 2**31 + 1, caller_of(number)
    return max(
        state.fold(
            BehaviorEvent(at + SECOND * place, caller, GROUP, step, run, ALLOWED), lambda _: SETTINGS
        ).deviation
        for place, step in enumerate(steps)
    )  # fmt: skip


def try_run(state: BehaviorState, number: int, steps: list[str], at: int) -> int:
    """Return the highest deviation of a run with the key of a caller, of which nothing is learned."""
    caller, highest = caller_of(number), 0
    row, model = state.row_at(caller, at, SETTINGS).copy(), state.model.class_of((caller.issuer, GROUP))
    for place, step in enumerate(steps):
        moment, tags = at + SECOND * place, RequestTags(state.tagger.tag(step), 1)
        advance(row, moment, SETTINGS)
        facts = read_behavior(row, model, tags, moment, SETTINGS)
        apply_decision(row, facts, tags, moment, ALLOWED, False, SETTINGS)
        highest = max(highest, facts.deviation)
    return highest


# Callers with an order of their own; those of public suites share half of their tasks with each other.
OWN_ORDERS: Final[dict[str, Callable[[Random], RunMaker]]] = {"workflows": workflows, "habits": habits, "loops": loops}


def all_orders(workers: int = WORKERS) -> list[OrderFigures]:
    found = [order_figures(kind, user, workers) for kind, user in OWN_ORDERS.items()]
    return found + [order_figures(suite, tool_users(tasks), workers) for suite, tasks in public_runs().items()]

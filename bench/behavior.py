"""`behavior`: false alarms of bursts and how soon abuse is seen, novelty, what adaptive rates admit, and cost.

All traffic is seeded and simulated. Alarms, novelty and limits are facts of the learner and do not depend on the
machine; the cost does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import fmean
from typing import Final, NamedTuple

from bench.behavior_cost import COSTLY, Cost, cost
from bench.behavior_limits import BEGAN, USUAL, AdaptiveRate, LeakyRate, LimitsResult, Pace, limits
from bench.behavior_sequences import OWN_ORDERS, THRESHOLDS, WORKERS, OrderFigures, all_orders
from bench.behavior_traffic import ALL_KINDS, DAY, HEAVY, HOUR, KINDS, MINUTE, ToolUser, caller_days, public_runs
from bench.report import Section, Target
from bench.trial import format_number
from policyengine.behavior.events import ALLOWED, HELD, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import (
    LEVEL_UNIT,
    SLOW_FACTOR,
    ProfileSettings,
    advance,
    apply_decision,
    read_behavior,
)
from policyengine.behavior.model import (
    FORMAT,
    MODEL_VERSION,
    NO_CLASS,
    BehaviorModel,
    ClassModel,
    ModelContent,
)
from policyengine.behavior.row import ROW_BYTES, BehaviorRow
from policyengine.behavior.state import BehaviorState

CALLERS: Final = 75
LIMITED: Final = 15  # callers of each kind behind limits
DECLARED: Final = {
    20: 45,
    100: 45,
    200: 240,
    500: 80,
}  # caller-days to one false alarm, and the days that are simulated
SPIKES_FROM, SPIKES_EVERY = 80, 20  # days on which a spike of each caller is tried, besides the last day
SETTLED: Final = 24  # days before alarms are counted
LEAST_DAYS: Final = 1_000  # caller-days of a cell
SPIKE, WITHIN, GIVE_UP = 20, 200, 2_000
RARE: Final = 200  # the declared rate of the target: half a percent of caller-days
KNOWN_DAYS: Final = 1_500  # of a caller whose levels are known exactly
SIMULATED: Final = "simulated"
GROUP: Final = "profile reporting"
PRINCIPALS: Final = 100_000
CLASSES, PEERS, OWN_RUNS, PEER_RUNS = 300, 12, 5, 60
READY_RUNS: Final = 200  # of the class of a ready caller, at least
Say = Callable[[str], None]


def run(say: Say, callers: int = CALLERS, principals: int = PRINCIPALS, orders: int = WORKERS) -> Section:
    cells = []
    for kind in ALL_KINDS:
        say(f"behavior: {kind}")
        made = [caller_days(kind, number, max(DECLARED.values())) for number in range(callers)]
        cells += [
            burst_cell(kind, made, declared, days)
            for declared, days in DECLARED.items()
            if kind != HEAVY or declared == 100
        ]
    say("behavior: novelty")
    found_novelty = {
        (SIMULATED, PEER_RUNS): novelty(lambda random: ToolUser(random).run, "tools"),
        **public_novelty(PEER_RUNS),
        **public_novelty(READY_RUNS),
    }
    say("behavior: limits")
    found_limits = limits(LIMITED, days=40, victims=3)
    say("behavior: trust")
    bound = max(patience(days, pace) for days in (17, 365) for pace in (100, 1_000))
    say("behavior: cost")
    say("behavior: orders")
    slowest = max(
        (cell for cell in cells if cell.kind in KINDS and cell.declared == RARE), key=lambda one: one.seen[-1]
    )
    known = known_spike(slowest.kind, slowest.slowest, RARE)
    return section(cells, found_novelty, found_limits, bound, cost(principals), all_orders(orders), known)


# ── Bursts ────────────────────────────────────────────────────────────────────────────────────


class BurstCell(NamedTuple):
    """One kind of traffic with one declared rate. `seen` holds, for each caller and each day on which a spike is tried,
    the number of requests at twenty times the pace until a burst, sorted; `slowest` is the number of the caller with
    the highest one.
    """

    kind: str
    declared: int
    days: int
    alarms: int
    margins: tuple[float, float]
    seen: list[int]
    slowest: int

    @property
    def times(self) -> float:
        """The observed rate, as a multiple of the declared one."""
        return self.alarms * self.declared / self.days


def burst_cell(kind: str, made: list[list[list[int]]], declared: int, days: int) -> BurstCell:
    settings = ProfileSettings(burst_days=declared)
    state = BehaviorState(Tagger(b"bench"))
    callers = [Caller("https://issuer.example", f"agent {number}") for number in range(len(made))]
    counted, alarms, seen = 0, 0, list[int]()
    for day in range(days):
        for caller, moments in zip(callers, made, strict=True):
            ready = burst = False
            for moment in moments[day]:
                at = day * DAY + moment
                event = BehaviorEvent(BEGAN + at, caller, GROUP, USUAL, at // (10 * MINUTE) + 1, ALLOWED)
                found = state.fold(event, lambda _: settings)
                ready, burst = ready or found.ready, burst or found.burst
            if day >= SETTLED:
                counted, alarms = counted + ready, alarms + burst
        model = state.model.class_of((callers[0].issuer, GROUP))
        if day + 1 == days or (day + 1 >= SPIKES_FROM and (day + 1) % SPIKES_EVERY == 0):
            seen += [spike(state.rows[caller].row.copy(), model, day + 1, settings) for caller in callers]
    margins = model.margin_slow / 1_024, model.margin_fast / 1_024
    return BurstCell(kind, declared, counted, alarms, margins, sorted(seen), seen.index(max(seen)) % len(callers))


def spike(row: BehaviorRow, model: ClassModel, day: int, settings: ProfileSettings) -> int:
    """Return the number of requests, at twenty times the pace of the caller's busiest hour, until there is a burst;
    GIVE_UP if there is none.
    """
    hour = max(range(len(row.paces)), key=row.paces.__getitem__)
    step = 16 * HOUR // (SPIKE * max(row.paces[hour], 16))
    at, tags = BEGAN + day * DAY + hour * HOUR + HOUR // 4, RequestTags(next(iter(row.seen)), 1)
    for number in range(1, GIVE_UP):
        at += step
        advance(row, at, settings)
        found = read_behavior(row, model, tags, at, settings)
        if found.burst:
            return number
        apply_decision(row, found, tags, at, ALLOWED, False, settings)
    return GIVE_UP


def known_spike(kind: str, number: int, declared: int, days: int = KNOWN_DAYS) -> int:
    """Return the number of requests, at twenty times the pace, after which a burst of a caller could be seen if its
    levels were known exactly: the level of the slow bucket that it exceeds on one day in `declared`."""
    settings, row, tags, tops = ProfileSettings(sequences=False), BehaviorRow(BEGAN), RequestTags(1, 1), []
    for day, moments in enumerate(caller_days(kind, number, days)):
        top = 0
        for moment in moments:
            at = BEGAN + day * DAY + moment
            advance(row, at, settings)
            found = read_behavior(row, NO_CLASS, tags, at, settings)
            top = max(top, found.level_slow)
            apply_decision(row, found, tags, at, ALLOWED, False, settings)
        tops.append(top)
    settled = sorted(tops[SETTLED:])
    level = settled[-max(len(settled) // declared, 1)]
    return -(-level * SPIKE // ((SPIKE - SLOW_FACTOR) * LEVEL_UNIT))


# ── Novelty ───────────────────────────────────────────────────────────────────────────────────


class Novelty(NamedTuple):
    """Shares of runs with a tool that is new: benign ones with and without peers, and those with a foreign tool.
    `unseen` is the share of benign runs with a tool that is in no earlier run: whatever sees each foreign tool has at
    least this share of false alarms."""

    benign: float
    alone: float
    foreign: float
    runs: int
    unseen: float


NoveltyCells = dict[tuple[str, int], Novelty]  # by the suite, and the number of runs of peers


def novelty(users: Callable[[Random], Callable[[], list[str]]], seed: str, peer_runs: int = PEER_RUNS) -> Novelty:
    """Return the novelty of the next runs of users, after runs of theirs and of their peers. `users` makes a user."""
    settings = ProfileSettings(ready_runs=OWN_RUNS - 1, ready_days=1)
    flagged = alone = foreign = runs = unseen = 0
    for number in range(CLASSES):
        random = Random(f"{seed} {number}")
        state, at = BehaviorState(Tagger(b"tools"), learns=False), BEGAN
        peers, earlier = [users(random) for _ in range(PEERS)], set[str]()
        for turn in range(peer_runs):
            earlier.update(used := peers[turn % PEERS]())
            fold_run(state, f"peer {turn % PEERS}", used, at + turn * HOUR // 3, settings)
        user = users(random)
        for turn in range(OWN_RUNS):
            earlier.update(used := user())
            fold_run(state, "user", used, at + turn * HOUR, settings)
        unknown, at = state.model, at + DAY
        state.learn(at, lambda _: settings)
        for _ in range(4):
            used = user()
            flagged += fold_run(state, "user", used, at, settings, keeps=False)
            foreign += fold_run(state, "user", [*used, "POST /foreign"], at, settings, keeps=False)
            learned, state.model = state.model, unknown
            alone += fold_run(state, "user", used, at, settings, keeps=False)
            state.model, runs = learned, runs + 1
            unseen += not earlier.issuperset(used)
    return Novelty(flagged / runs, alone / runs, foreign / runs, runs, unseen / runs)


def public_novelty(peer_runs: int) -> NoveltyCells:
    """Return the novelty of runs that are drawn from the tasks of each public suite."""
    return {
        (suite, peer_runs): novelty(lambda random, tasks=tasks: lambda: random.choice(tasks), suite, peer_runs)  # type: ignore[misc]
        for suite, tasks in public_runs().items()
    }


def fold_run(
    state: BehaviorState, agent: str, tools: list[str], at: int, settings: ProfileSettings, *, keeps: bool = True
) -> bool:
    """Return whether a run has a tool that is new; learn from it if `keeps`."""
    caller, is_new = Caller("https://issuer.example", agent), False
    for place, tool in enumerate(tools):
        row = state.row_at(caller, at + place * 1_000, settings)
        is_new |= state.read(
            row, caller.issuer, GROUP, RequestTags(state.tagger.tag(tool)), at + place * 1_000, settings
        ).is_new
        if keeps:
            event = BehaviorEvent(at + place * 1_000, caller, GROUP, tool, at // MINUTE % 9_999 + 1, ALLOWED)
            state.fold(event, lambda _: settings)
    return is_new


# ── Trust ─────────────────────────────────────────────────────────────────────────────────────


def patience(days: int, per_minute: int) -> float:
    """Return what a caller gains over the static limit by behaving for some days and then flooding for an hour, as a
    multiple of the bound: (K − 1) · (burst + rate · time to detect) and what the clamp lets pass."""
    model = ClassModel("i", GROUP, 1_000, 10, frozenset(), 1_536, 1_536, 1_000, declared=True)
    content = ModelContent(FORMAT, MODEL_VERSION, 1, BEGAN, "", (model,))
    state = BehaviorState(Tagger(b"trust"), model=BehaviorModel(content), learns=False)
    caller, settings = Caller("i", "patient"), ProfileSettings()
    base, raised, clamp = Pace(40, 80), Pace(120, 120), Pace(0.1, 1)
    for day in range(days):
        for step in range(8 * 6):
            at = BEGAN + day * DAY + 8 * HOUR + step * 10 * MINUTE
            state.fold(BehaviorEvent(at, caller, GROUP, USUAL, step + 1, ALLOWED), lambda _: settings)
    adaptive, static, gained, noticed = AdaptiveRate(base, raised), LeakyRate(), 0, None
    began = BEGAN + days * DAY + 8 * HOUR
    for number in range(60 * per_minute):
        at = began + number * MINUTE // per_minute
        found = state.read(
            state.row_at(caller, at, settings), "i", GROUP, RequestTags(state.tagger.tag(USUAL)), at, settings
        )
        pace = adaptive.pace_of(found, at)
        admits = adaptive.admit(at, pace)
        gained += admits - static.admit(at, base)
        if noticed is None and at < adaptive.until:
            noticed = at - began
        event = BehaviorEvent(at, caller, GROUP, USUAL, 1, ALLOWED if admits else HELD, pace is not raised)
        state.fold(event, lambda _: settings)
    times = raised.rate / base.rate
    bound = (times - 1) * (base.burst + base.rate * (60 if noticed is None else noticed / MINUTE)) + clamp.burst
    return max(gained, 0) / (bound + clamp.rate * 60)


# ── The section ───────────────────────────────────────────────────────────────────────────────


def section(
    cells: list[BurstCell],
    new: NoveltyCells,
    found: LimitsResult,
    bound: float,
    spent: Cost,
    orders: list[OrderFigures],
    known: int,
) -> Section:
    static, adaptive = found.mean(0), found.mean(1)
    worst = {
        declared: max(cell.times for cell in cells if cell.declared == declared and cell.days >= LEAST_DAYS)
        for declared in DECLARED
    }
    rare = [cell for cell in cells if cell.kind in KINDS and cell.declared == RARE]
    seen = [number for cell in rare for number in cell.seen]
    within = sum(number <= WITHIN for number in seen) / len(seen)
    alarms = sum(cell.alarms for cell in rare) / sum(cell.days for cell in rare)
    harm, early = found.settled_harmed / found.settled, found.harmed / found.benign
    rows = [
        *((f"burst, {cell.kind}, declared 1/{cell.declared}", burst_words(cell)) for cell in cells),
        (f"false alarms, six kinds, declared 1/{RARE}", f"{alarms:.2%} of caller-days"),
        (f"× {SPIKE} seen within {WITHIN} requests, six kinds, declared 1/{RARE}", f"{within:.1%} of callers"),
        (
            f"× {SPIKE} seen, by the level that the worst caller exceeds on 1/{RARE} of its days",
            f"after {known} requests",
        ),
        *(
            (f"new tools, {name}, {OWN_RUNS} own and {peer_runs} peer runs", novelty_words(one))
            for (name, peer_runs), one in new.items()
        ),
        *(
            (f"admitted of {name}", f"static {one:.0%}, adaptive {other:.0%}")
            for name, (one, other) in found.admitted.items()
        ),
        ("admitted, mean of the five kinds", f"static {static:.0%}, adaptive {adaptive:.0%}"),
        ("throttled benign requests, after 24 days / of all", f"{harm:.3%} / {early:.3%}"),
        ("gained by patience, of the bound", f"{bound:.2f}"),
        *((f"order of requests, {one.kind}", order_words(one)) for one in orders),
        ("an event folded", f"{format_number(spent.fold_us)} µs CPU"),
        (
            "the facts of a request, all / without the order",
            f"{format_number(spent.read_us)} / {format_number(spent.read_few_us)} µs CPU",
        ),
        *(
            (
                f"a decision, if a rule reads {facts}",
                f"{format_number(spent.usually_added(facts))} µs more; {format_number(spent.added(facts))} in the mean",
            )
            for facts in COSTLY
        ),
        ("the longest row", f"{spent.row_bytes:,} bytes"),
        ("memory of a principal", "not measured" if spent.memory_bytes is None else f"{spent.memory_bytes:,} bytes"),
        (f"a model of {PRINCIPALS:,} principals", f"{spent.learn_seconds:.1f} s CPU"),
    ]
    return Section(
        name="behavior",
        title="Learned behavior, simulated callers",
        columns=("what", "measured"),
        rows=tuple(rows),
        data=(
            *({**cell._asdict(), "seen": quartiles(cell.seen), "times": round(cell.times, 3)} for cell in cells),
            {"novelty": {f"{name}, {peer_runs} peer runs": one._asdict() for (name, peer_runs), one in new.items()}},
            {"orders": [{**one._asdict(), "observed": list(one.observed.values())} for one in orders]},
            {"limits": found._asdict(), "patience": round(bound, 3), "cost": spent._asdict()},
        ),
        targets=(
            *(
                Target(f"false alarms of bursts, the worst kind, declared 1/{declared}", 1.5, round(times, 2), "×")
                for declared, times in worst.items()
            ),
            Target(f"false alarms of bursts, six kinds, declared 1/{RARE}", 0.5, round(100 * alarms, 3), "%"),
            Target(
                f"false alarms of bursts, the worst of six kinds, declared 1/{RARE}", 0.5,
                round(100 * max(cell.alarms / cell.days for cell in rare), 3), "%",
            ),
            Target(
                f"callers of six kinds whose × {SPIKE} is seen within {WITHIN} requests, declared 1/{RARE}", 99,
                round(100 * within, 2), "%", at_least=True,
            ),
            Target("requests at × 20 until a burst, the worst caller of six kinds", WITHIN, max(seen), "requests"),
            Target("benign runs with a new tool, simulated", 4, round(100 * new[SIMULATED, PEER_RUNS].benign, 2), "%"),
            *(
                Target(
                    f"benign runs with a new tool, mean of public suites, {peer_runs} peer runs", 4,
                    public_mean(new, peer_runs), "%",
                )
                for peer_runs in (PEER_RUNS, READY_RUNS)
            ),
            Target(
                "runs with a foreign tool that are seen", 100, 100 * min(one.foreign for one in new.values()), "%",
                at_least=True,
            ),
            Target("abuse that the adaptive rate admits, of the best static one", 0.5, round(adaptive / static, 3)),
            Target("benign requests that it throttles after 24 days", 0.05, round(100 * harm, 4), "%"),
            Target("gain by patience, of the bound", 1, round(bound, 3)),
            *(
                Target(
                    f"runs above the deviation for {declared:.0%}, the worst kind of order", 1.5,
                    round(max(one.times[declared] for one in orders), 2), "×",
                )
                for declared in THRESHOLDS
            ),
            Target(
                "runs of another caller that exceed 0.99, the worst kind of order", 95,
                round(100 * min(one.other for one in orders if one.kind in OWN_ORDERS), 1), "%", at_least=True,
            ),
            Target("the facts of a request, with the order", 1, round(spent.read_us, 2), "µs"),
            Target("a usual decision more, if a rule reads burst", 1, round(spent.usually_added("burst"), 2), "µs"),
            Target("the longest row", ROW_BYTES, spent.row_bytes, "bytes"),
        ),
        notes=(
            f"{CALLERS} callers a cell; alarms are counted after {SETTLED} days. `{HEAVY}` has no target: its",
            "usual sessions are as long as a spike.",
            f"The best static rate that throttles no benign request is {pace_words(found.static)}; the base of the",
            f"adaptive rate is {pace_words(found.base)}. The two that grow every day are one of the five kinds.",
            "Benign requests are throttled above all in the first days, by the clamp until callers are ready.",
            f"No caller is ready, and no new tool is an alarm, before its class has {READY_RUNS} runs. A tool is",
            "known to a class when two of its agents have used it: in a suite of fifty tasks, of which each run is",
            "one by chance, a tool of a single task is seldom known after 60 runs.",
            "Callers of public suites share half of their tasks, so runs of another caller may be runs of their own.",
            "They repeat eight tasks each, so their rates vary: in twelve draws of each of the eight suites, 0 to 2.6",
            "times the declared 1 %, 0.9 in the mean.",
            "A rate of 1/500 needs 1,000 learned caller-days; with fewer, it is not declared, and margins are doubled.",
            "The usual sessions of the worst caller are longer than the spike: a limit that this caller alone exceeds",
            "as rarely as declared, computed from all of its days, shows the spike after the requests named above.",
            f"Spikes are tried on each {SPIKES_EVERY}th day from day {SPIKES_FROM} on.",
            "Decisions are compared with those whose clamp reads no learned fact: medians, and means, which contain a",
            "thousandth of the model of the day, and a hundredth of the first request of the caller in the hour.",
            f"A million principals take ten times the memory of {PRINCIPALS:,}.",
        ),
    )  # fmt: skip


def pace_words(pace: Pace) -> str:
    return f"{pace.rate:g}/1m burst {pace.burst:g}"


def public_mean(new: NoveltyCells, peer_runs: int) -> float | None:
    """Return the mean share of benign runs with a new tool in percent; None if no public suite is installed."""
    found = [one.benign for (name, runs), one in new.items() if name != SIMULATED and runs == peer_runs]
    return round(100 * fmean(found), 2) if found else None


def novelty_words(one: Novelty) -> str:
    words = f"{one.benign:.1%} of benign runs, at least {one.unseen:.1%} by tools that are in no earlier run"
    return f"{words}; without peers {one.alone:.1%}; foreign tools {one.foreign:.1%}"


def burst_words(cell: BurstCell) -> str:
    low, middle, high = quartiles(cell.seen)
    return (
        f"{cell.alarms} alarms in {cell.days:,} caller-days = {cell.times:.2f} × declared; "
        f"× {SPIKE} seen after {low}/{middle}/{high}"
    )


def order_words(one: OrderFigures) -> str:
    shares = ", ".join(f"{share:.1%} for {declared:.0%}" for declared, share in one.observed.items())
    return f"{shares} in {one.runs:,} runs; another caller seen in {one.other:.0%}, no order in {one.shuffled:.0%}"


def quartiles(numbers: list[int]) -> tuple[int, int, int]:
    """Return the lowest, the middle and the highest of sorted numbers."""
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]

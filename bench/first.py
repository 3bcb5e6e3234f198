"""`first`: what is slower once: loading, the first question at an endpoint, and the decisions after a swap of the
policies or of the entities."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

from bench import directory, policy
from bench.child import Data, in_child
from bench.kind_questions import policy_text
from bench.measure import fresh_questions, intern_keys, percentile, preemptions
from bench.peers.shapes import base_of
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import workload
from policyengine import Engine, __version__
from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

SIZE, SMALLER = 10_000, 1_000
THOUSAND, WARM_UP, SWAPS = 1_000, 3, 5
CHILD_SECONDS = 600
MAX_FIRST_MS, GOAL_FIRST_MS, MAX_LOAD_MS = 8.0, 2.0, 3_000.0
MAX_AFTER, MAX_AFTER_P99_US = 1.5, 1_000.0  # p50 relative to the one before the swap; p99 in µs
POLICIES, ENTITIES = "policies", "entities"
Say = Callable[[str], None]
Fresh = Callable[[], Sequence[Any]]


def run(say: Say) -> Section:
    """Measure the first questions, and each kind of swap, in child processes."""
    say(f"first: {SIZE:,} rules")
    found = [_child("bench.first:measure_first", {"size": SIZE})]
    for what, size in ((POLICIES, SMALLER), (POLICIES, SIZE), (ENTITIES, 1), (ENTITIES, SIZE)):
        say(f"first: a swap of the {what}, {size:,} rules")
        found.append(_child("bench.first:measure_swap", {"what": what, "size": size}))
    return section(found)


def _child(function: str, arguments: Data) -> Data:
    return {**arguments, **in_child(function, CHILD_SECONDS, arguments)}


def measure_first(size: int) -> Data:
    """Time loading, the first question at each of many endpoints, and a second one; runs in the child process."""
    work = workload(size)
    text = policy.policy(work)
    Engine.from_text(policy.policy(workload(10))).decide(policy.question(workload(10).requests[0]))
    gc.collect()
    start = perf_counter()
    engine = Engine.from_text(text)
    load = perf_counter() - start
    gc.collect()
    requests = list({base_of(asked.path): asked for asked in work.requests}.values())
    fresh = fresh_questions(policy.question, requests)
    first, second = _times(engine.decide, fresh), _times(engine.decide, fresh)
    bundle = decode_bundle(write_bundle(engine.kernel, __version__))
    from_bundle = Engine(bundle.kernel, tree=bundle.tree)
    return {
        "load_ms": round(load * 1e3, 1), "endpoints": len(requests), "very_first_us": first[0],
        "very_first_from_bundle_us": _times(from_bundle.decide, fresh)[0],
        **_percentiles("first", first), **_percentiles("second", second),
    }  # fmt: skip


def measure_swap(what: str, size: int) -> Data:
    """Time a thousand decisions before and after a swap, several times; runs in the child process."""
    swaps = _policy_swaps(size) if what == POLICIES else _entity_swaps(size)
    decide, fresh, swap = swaps
    for _ in range(WARM_UP):
        _times(decide, fresh)
    rows = []
    for _ in range(SWAPS):
        before = _times(decide, fresh)
        gc.collect()
        interrupted = preemptions()
        start = perf_counter()
        swap()
        took = perf_counter() - start
        after = _times(decide, fresh)
        rows.append(
            {
                "swap_ms": took * 1e3, "interrupted": preemptions() - interrupted,
                **_percentiles("before", before), **_percentiles("after", after),
                "before_mean_us": sum(before) / len(before), "after_mean_us": sum(after) / len(after),
            }
        )  # fmt: skip
        for _ in range(WARM_UP):
            _times(decide, fresh)
    return {name: round(median(row[name] for row in rows), 2) for name in rows[0]}


Swaps = tuple[Callable[[Any], Any], Fresh, Callable[[], None]]


def _policy_swaps(size: int) -> Swaps:
    """Return how to decide, the questions, and a swap to other policies, as a reload does it: from a bundle."""
    work = workload(size, THOUSAND)
    texts = [policy.policy(work) + f'guard "version {number}" on DELETE /never {{ deny }}\n' for number in range(2)]
    bundles = [write_bundle(Engine.from_text(text).kernel, __version__) for text in texts]
    current = [Engine.from_text(texts[0])]
    turn = [0]

    def swap() -> None:
        turn[0] = 1 - turn[0]
        bundle = decode_bundle(bundles[turn[0]])
        successor = current[0].successor(bundle.kernel, tree=bundle.tree)
        successor.prepare(current[0])
        current[0] = successor

    return lambda question: current[0].decide(question), fresh_questions(policy.question, work.requests), swap


def _entity_swaps(size: int) -> Swaps:
    """Return how to decide, the questions, and a swap to other rows of 100,000 users.

    With one rule, the decisions read users and their teams; with more, they read none, and the swap has to keep what is
    known of the rules.
    """
    if size > 1:
        work = workload(size, THOUSAND)
        engine = Engine.from_text(policy_text(work))
        refs = [EntityRef("user", f"u{number}") for number in range(directory.USERS)]
        stores = [EntityStore([EntityData(ref, {"roles": frozenset()}, ()) for ref in refs]) for _ in range(2)]
        fresh = fresh_questions(policy.question, work.requests)
    else:
        engine = Engine.from_text(directory.POLICY.replace("CONDITION", directory.MEMBER))
        teams, users = directory.generate_people()
        stores = [_people(teams, users) for _ in range(2)]
        questions = [directory.question(user[0]) for user in users[:THOUSAND]]
        fresh = fresh_questions(intern_keys, questions)
    turn = [0]

    def swap() -> None:
        turn[0] = 1 - turn[0]
        engine.replace_directory(stores[turn[0]])

    swap()
    return engine.decide, fresh, swap


def _people(teams: Sequence[directory.Team], users: Sequence[directory.User]) -> EntityStore:
    rows = [
        EntityData(
            EntityRef(row["type"], row["id"]), row.get("attributes", {}),
            tuple(EntityRef(one["type"], one["id"]) for one in row.get("in", ())),
        )
        for row in directory.entity_rows(list(teams), list(users))
    ]  # fmt: skip
    approvers = (EntityRef("team", teams[0][0]),)
    return EntityStore([*rows, EntityData(EntityRef("invoice", "42"), {"tenant": "org7", "approvers": approvers}, ())])


def _times(decide: Callable[[Any], Any], fresh: Fresh) -> list[float]:
    """Return the microseconds of each decision, in order."""
    clock, took = perf_counter_ns, []
    for question in fresh():
        start = clock()
        decide(question)
        took.append(clock() - start)
    return [one / 1e3 for one in took]


def _percentiles(name: str, times: Sequence[float]) -> Data:
    ordered = sorted(times)
    return {f"{name}_p50_us": round(percentile(ordered, 0.5), 2), f"{name}_p99_us": round(percentile(ordered, 0.99), 2)}


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def section(found: Sequence[Data]) -> Section:
    first = found[0]
    swaps = [one for one in found[1:] if "after_p50_us" in one]
    rows = [
        *(
            _first_rows(first)
            if "first_p50_us" in first
            else [("first questions", str(first.get("error")), "", "", "")]
        ),
        *(_swap_row(one) for one in found[1:]),
    ]
    return Section(
        name="first",
        title="What is slower once: loading, first questions, and a thousand decisions after a swap; p50 / p99",
        columns=("what", "itself, ms", "before, µs", "after, µs", "mean, after"),
        rows=tuple(rows),
        data=tuple(found),
        targets=_targets(first, swaps),
        notes=(
            f"A swap: the median of {SWAPS}, each after {WARM_UP} thousand decisions of the same questions.",
            f"Policies are swapped as a reload does it, from a bundle; entities are {directory.USERS:,} users.",
        ),
    )


def _first_rows(first: Data) -> list[tuple[str, ...]]:
    if "first_p50_us" not in first:
        return [("first questions", str(first.get("error")), "", "", "")]
    rules = f"{first['size']:,} rules"
    times = [f"{format_number(first[f'{name}_p50_us'])} / {format_number(first[f'{name}_p99_us'])}"
             for name in ("second", "first")]  # fmt: skip
    return [
        (f"load {rules} from text", format_number(first["load_ms"]), "", "", ""),
        ("the very first question", format_number(first["very_first_us"] / 1e3), "", "", ""),
        ("the very first question, from a bundle", format_number(first["very_first_from_bundle_us"] / 1e3), "", "", ""),
        (f"first questions at {first['endpoints']:,} paths; before: second questions", "", *times, ""),
    ]


def _swap_row(one: Data) -> tuple[str, ...]:
    title = f"swap of the {one['what']}, {one['size']:,} rule{'' if one['size'] == 1 else 's'}"
    if "after_p50_us" not in one:
        return title, str(one.get("error")), "", "", ""
    times = [f"{format_number(one[f'{name}_p50_us'])} / {format_number(one[f'{name}_p99_us'])}"
             for name in ("before", "after")]  # fmt: skip
    return title, format_number(one["swap_ms"]), *times, f"{format_number(_mean_growth(one))}×"


def _mean_growth(one: Data) -> float:
    return float(one["after_mean_us"] / one["before_mean_us"])


def _targets(first: Data, swaps: Sequence[Data]) -> tuple[Target, ...]:
    timed = "first_p50_us" in first
    slower = max((one["after_p50_us"] / one["before_p50_us"] for one in swaps), default=None)
    slowest = max((one["after_p99_us"] for one in swaps), default=None)
    each = first["first_p50_us"] / 1e3 if timed else None
    very_first = max(first["very_first_us"], first["very_first_from_bundle_us"]) / 1e3 if timed else None
    return (
        Target(f"the very first question, {SIZE:,} rules, from text or a bundle", MAX_FIRST_MS, very_first, "ms"),
        Target("first questions at other endpoints, p50", GOAL_FIRST_MS, each, "ms"),
        Target(f"load {SIZE:,} rules from text", MAX_LOAD_MS, first.get("load_ms"), "ms"),
        Target("p50 of a thousand decisions after a swap, relative to before, at worst", MAX_AFTER, slower),
        Target("p99 of a thousand decisions after a swap, at worst", MAX_AFTER_P99_US, slowest, "µs"),
    )

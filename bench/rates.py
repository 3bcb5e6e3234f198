"""`rates`: the cost of a rate, compared with a decision without one and with libraries that only count; memory of keys.

All count the same limit: a number of requests per caller and minute. An implementation that admits another number is
not timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

from bench.child import Data, in_child
from bench.machine import rss_mb
from bench.report import Section, Target
from bench.trial import format_number
from policyengine import Engine

MANY = 1_000_000_000  # a limit that no caller reaches while it is timed
FEW = 7  # a limit that all implementations must enforce alike
CALLS, ROUNDS = 3_000, 40
KEYS = 1_000_000
HEAD = """language 1
package bench.rates
issuer acme { url "https://acme.example"   audience "bench"   scopes none }
agent "*" { issued by acme   acts alone   may GET /v1/things/{id} }
"""
KEY = ("agent.id", "(agent.id, agent.issuer)", "agent.issuer")
ADAPTIVE = "raise x2 at most 200/1d when behavior.trust > 0.9   clamp 5/1d for 10m when behavior.burst"
Say = Callable[[str], None]
Ask = Callable[[str], bool]


def engine(*limits: int) -> Engine:
    rates = (f'rate "{i}" per {KEY[i % 3]} on /v1/** {{ {limit}/1m }}\n' for i, limit in enumerate(limits))
    return Engine.from_text(HEAD + "".join(rates))


def question(caller: str) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": "/v1/things/42"},
        "agent": {"id": caller, "issuer": "acme"},
        "credential": {"kind": "jwt"},
    }


def policyengine_limits(*limits: int) -> Ask:
    made, questions = engine(*limits), {}

    def ask(caller: str) -> bool:
        asked = questions.get(caller)
        if asked is None:
            asked = questions[caller] = question(caller)
        return made.decide(asked).allowed

    return ask


def pypi_limits(strategy: str) -> Callable[[int], Ask]:
    def make(limit: int) -> Ask:
        limits = import_module("limits")
        found = getattr(import_module("limits.strategies"), strategy)(import_module("limits.storage").MemoryStorage())
        item = limits.RateLimitItemPerMinute(limit)
        return lambda caller: bool(found.hit(item, caller))

    return make


def throttled_py(algorithm: str) -> Callable[[int], Ask]:
    def make(limit: int) -> Ask:
        module = import_module("throttled")
        quota = module.per_min(limit, burst=limit) if algorithm != "fixed_window" else module.per_min(limit)
        found = module.Throttled(using=algorithm, quota=quota, store=module.MemoryStore())
        return lambda caller: not found.limit(caller).limited

    return make


PEERS: dict[str, Callable[[int], Ask]] = {
    "limits, fixed window": pypi_limits("FixedWindowRateLimiter"),
    "limits, sliding window": pypi_limits("SlidingWindowCounterRateLimiter"),
    "throttled-py, GCRA": throttled_py("gcra"),
    "throttled-py, token bucket": throttled_py("token_bucket"),
    "policyengine": policyengine_limits,
}


def count_admitted(ask: Ask) -> int:
    return sum(ask("counted") for _ in range(FEW + 5))


def time_in_turns(asks: Sequence[Ask]) -> list[float]:
    """Return microseconds per call of each, in turns, so that other load on the machine affects all equally."""
    found: list[list[float]] = [[] for _ in asks]
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for times, ask in zip(found, asks, strict=True):
                times.append(time_calls(ask))
    finally:
        gc.enable()
    return [median(times) for times in found]


def time_calls(ask: Ask) -> float:
    """Return microseconds per call."""
    start = perf_counter()
    for _ in range(CALLS):
        ask("caller")
    return (perf_counter() - start) / CALLS * 1e6


def measure_key_memory(kind: str) -> Data:
    """Return the megabytes that a million live keys take; runs in the child process."""
    more = ADAPTIVE if kind == "adaptive" else ""
    made = Engine.from_text(f'{HEAD}rate "r" per agent.id on /v1/** {{ 100/1d {more} }}\n')
    asked = question("")
    made.decide(asked)
    gc.collect()
    before = rss_mb()
    gc.disable()
    for caller in range(KEYS):
        asked["agent"]["id"] = f"caller-{caller:07}"
        made.decide(asked)
    gc.enable()
    gc.collect()
    return {"mb": round(rss_mb() - before, 1)}


def rates(say: Say) -> Section:
    peers: dict[str, Ask] = {}
    skipped: list[str] = []
    for name, make in PEERS.items():
        say(f"rates: {name}")
        try:
            admitted = count_admitted(make(FEW))
        except ImportError:
            skipped.append(f"{name.split(',')[0]} is not installed.")
            continue
        if admitted != FEW:
            skipped.append(f"{name} admits {admitted} of {FEW} and is not timed.")
        else:
            peers[name] = make(MANY)
    say("rates: in turns")
    own = [policyengine_limits(), policyengine_limits(MANY), policyengine_limits(MANY, MANY, MANY)]
    names = ["policyengine, no rate", "policyengine, one rate", "policyengine, three rates"]
    peers.pop("policyengine", None)
    times = time_in_turns([*own, *peers.values()])
    say("rates: a million callers")
    plain, adaptive = (
        in_child("bench.rates:measure_key_memory", 300, {"kind": kind}) for kind in ("plain", "adaptive")
    )
    rows = list(zip([*names, *peers], times, strict=True))
    none, one, three = times[:3]
    return Section(
        name="rates",
        title="A decision with rates in memory, compared with libraries that only count",
        columns=("what", "µs", "more than no rate, µs"),
        rows=(
            *(
                (name, format_number(us), format_number(us - none) if name.startswith("policyengine,") else "")
                for name, us in rows
            ),
            *(
                (f"{KEYS:,} callers, {kind}: MB", format_number(found.get("mb", 0.0)), "")
                for kind, found in (("plain", plain), ("adaptive", adaptive))
            ),
        ),
        data=(*({"what": name, "us": round(us, 3)} for name, us in rows), {"plain": plain, "adaptive": adaptive}),
        targets=(
            Target("one plain rate", 0.6, round(one - none, 3), "µs more"),
            Target("three plain rates", 1.5, round(three - none, 3), "µs more"),
            Target(f"{KEYS:,} callers, plain", 250, plain.get("mb"), "MB"),
            Target(f"{KEYS:,} callers, adaptive", 400, adaptive.get("mb"), "MB"),
        ),
        notes=(
            f"Medians of {ROUNDS} rounds of {CALLS:,} calls, all in turns. Libraries count and decide nothing else.",
            f"Every implementation admits {FEW} of {FEW + 5} simultaneous requests.",
            *dict.fromkeys(skipped),
        ),
    )  # fmt: skip

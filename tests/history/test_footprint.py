"""How much one key of history takes at most: told by `check`, and true of a store that is filled."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from threading import Lock

import pytest

from policyengine.checker.memory_estimate import MemoryEstimate, estimate_memory, format_bytes
from policyengine.engine import Engine
from policyengine.runtime.history import MAX_EVENTS_PER_KEY
from policyengine.stores.memory.capacity import CapacityAlarm
from policyengine.stores.memory.history import MemoryHistory
from tests.history.plainly import HEAD, Trace

TYPES = """facts on POST /a {
  body.s: string  body.n: number  body.i: int  body.l: list<string>  body.d: duration  body.t: time
  body.ip: ip  body.b: bool  body.many: set<int> }
"""
FACTS = ("s", "n", "i", "l", "d", "t", "ip", "b", "many")
EVENTS = 100


def footprint(condition: str) -> MemoryEstimate:
    (found,) = estimate_memory(Trace.of(TYPES, f'guard "g" on POST /a {{ require {condition} }}').kernel)
    return found


def test_an_after_condition_keeps_one_event_per_key() -> None:
    found = footprint("after POST /b within 1h since POST /b")
    assert (found.events, found.within, found.event) == (1, "1h", "POST /b")
    assert format_bytes(found.bytes) == "1.5 KiB"


def test_a_count_condition_keeps_the_maximum_of_events_per_key() -> None:
    assert footprint("count of POST /b within 1h < 5").events == MAX_EVENTS_PER_KEY


VALUES: dict[str, Callable[[int], object]] = {
    "an astral text": lambda n: "\U0001f600" + f"{n:0250d}",
    "unknown": lambda n: {"n": f"{n}"},
    "a number": lambda n: n + 0.12345678901,
    "a list of texts": lambda n: [f"{n + i:02d}" for i in range(40)],
    "a large int": lambda n: 2**62 + n,
    "a moment": lambda n: f"2027-01-01T00:00:00.{n:06d}Z",
    "an address": lambda n: f"2001:db8::{n:x}",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_filled_store_uses_no_more_memory_than_estimated(value: Callable[[int], object]) -> None:
    where = " and ".join(f"past.body.{name} is present" for name in FACTS if name != "b")
    condition = f"count of (POST /a where {where} and past.status < 400) within 1h > 5"
    engine = Engine.from_text(f'{HEAD}{TYPES}guard "g" on GET /x {{ deny when {condition} }}')
    (told,) = estimate_memory(engine.kernel)
    before = filled(engine, lambda n: {}, 0)
    taken = filled(engine, value, EVENTS) - before
    assert taken <= told.bytes * EVENTS / told.events


def filled(engine: Engine, value: Callable[[int], object], events: int) -> int:
    """Bytes that are taken by so many requests of one caller."""
    gc.freeze()  # what other tests left behind is looked through neither here nor later
    tracemalloc.start()
    memories = MemoryHistory(Lock(), complete=True, most_keys=10, fullness=CapacityAlarm())
    for number in range(events):
        body = {name: value(number) for name in FACTS}
        asked = {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, "credential": {},
                 "request": {"method": "POST", "path": "/a"}, "body": body}  # fmt: skip
        decider = engine.decider
        _, effects, _ = decider._resolve(decider.compiled, read(asked), decider.nanoseconds())
        memories.keep(effects.records, f"decision-{number:017d}", number)
        del asked, body, effects
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(next(iter(memories._lines.values())).events if events else ()) == events
    return taken


def read(asked: dict[str, object]) -> object:
    from policyengine.runtime.request import Request

    return Request.from_mapping(asked)

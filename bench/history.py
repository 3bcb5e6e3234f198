"""`history`: the cost of a condition on earlier requests, compared with the decision without it, at many events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bench.rates import CALLS, ROUNDS, Ask, Say, time_in_turns
from bench.report import Section, Target
from bench.trial import format_number
from policyengine import Engine
from policyengine.stores.memory.store import MemoryStore

EVENTS = 1_000  # of one key, within the window
HEAD = """language 1
package bench.history
issuer acme { url "https://acme.example"   audience "bench"   scopes none }
agent "*" { issued by acme   acts for any user   may POST /v1/** }
user any { may POST /v1/** }
"""
PAY, REVIEW = "/v1/invoices/{id}/pay", "/v1/invoices/{id}/review"
SAME = "past.params.id == params.id"
# The conditions on `pay`, which read the recorded reviews; each review has its own invoice, unless `one` is set.
CONDITIONS = {
    "correlated: after (… where past.params.id == params.id and past.status < 400)":
        f"require after (POST {REVIEW} where {SAME} and past.status < 400) within 1h",
    "correlated, by another user":
        f"require after (POST {REVIEW} by another user where {SAME} and past.status < 400) within 1h",
    "correlated count": f"deny when count of (POST {REVIEW} where {SAME}) within 1h > 3",
    "no … since …, correlated":
        f"require no (POST /v1/never/{{id}} where {SAME}) within 1h since POST {REVIEW}",
    "count of all": f"deny when count of POST {REVIEW} within 1h > {2 * EVENTS}",
}  # fmt: skip
FIRST = next(iter(CONDITIONS))
Question = dict[str, Any]


def question(path: str, user: str = "alice") -> Question:
    return {
        "request": {"method": "POST", "path": path},
        "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": user},
        "credential": {"kind": "jwt"},
    }


def engine(*conditions: str) -> Engine:
    guards = (f'guard "{n}" on POST {PAY} {{ {one} }}\n' for n, one in enumerate(conditions))
    return Engine.from_text(HEAD + "".join(guards), store=MemoryStore(history_complete=True))


def ask_for(made: Engine, path: str) -> Ask:
    asked = question(path)
    return lambda _: made.decide(asked).allowed


def add_reviews(made: Engine, *, one: bool = False) -> None:
    """Record successful reviews by the caller and, for conditions that count other users, by another user."""
    for user in ("alice", "bob"):
        for event in range(EVENTS):
            path = REVIEW.replace("{id}", "7" if one else str(event))
            made.report(made.decide(question(path, user)).id, status=200)


def run(say: Say) -> Section:
    asks: dict[str, Ask] = {"no history": ask_for(engine(), PAY.replace("{id}", "7"))}
    for name, condition in CONDITIONS.items():
        say(f"history: {name}")
        made = engine(condition)
        add_reviews(made)
        asks[name] = ask_for(made, PAY.replace("{id}", "7"))
    made = engine(CONDITIONS[FIRST])
    add_reviews(made, one=True)
    asks["correlated, all events of one invoice"] = ask_for(made, PAY.replace("{id}", "7"))
    asks["with an event added and an old one evicted"] = ask_while_recording()
    assert all(ask("") for ask in asks.values())
    say("history: in turns")
    times = dict(zip(asks, time_in_turns(list(asks.values())), strict=True))
    plain = times["no history"]
    return Section(
        name="history",
        title=f"A decision with a condition on earlier requests, at {EVENTS:,} events of its key, in memory",
        columns=("what", "µs", "more than without, µs"),
        rows=tuple(
            (name, format_number(us), "" if us == plain else format_number(us - plain)) for name, us in times.items()
        ),
        data=tuple({"what": name, "us": round(us, 3)} for name, us in times.items()),
        targets=(Target("a correlated condition", 3.0, round(times[FIRST] - plain, 3), "µs more"),),
        notes=(f"Medians of {ROUNDS} rounds of {CALLS:,} calls, all in turns. Every request is allowed.",),
    )


def ask_while_recording() -> Ask:
    """Time decisions that each add an event while an older one leaves the window."""
    clock = SteppingClock()
    guard = f'guard "g" on POST {PAY} {{ deny when count of POST {PAY} within {EVENTS}s > {2 * EVENTS} }}\n'
    made = Engine.from_text(HEAD + guard, store=MemoryStore(history_complete=True), clock=clock)
    ask = ask_for(made, PAY.replace("{id}", "7"))
    for _ in range(EVENTS):
        ask("")
    return ask


class SteppingClock:
    """A clock that advances one second at each reading, in nanoseconds as `Engine` reads it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * 10**9

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.now / 1e9, UTC)

    def nanoseconds(self) -> int:
        self.now += 10**9
        return self.now

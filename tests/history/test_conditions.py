"""Conditions on the history through the engine: decided as specified, with many events too, recorded in one step."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread

import pytest

from policyengine.engine import Engine
from policyengine.runtime.history import MAX_EVENTS_PER_KEY, OutcomeReport
from policyengine.stores.memory import history as memory_history
from policyengine.stores.memory.store import MemoryStore
from tests.depth import examples, scaled
from tests.history.plainly import HEAD, Trace, user
from tests.history.test_engine import Playing
from tests.spec.deciding import NOW, bot, question, verdict

FACTS = "facts on POST /doc/{id}/pay, POST /doc/{id}/review { body.amount: number?   body.note: string? }\n"
REVIEWED = "POST /doc/{id}/review"
CONDITIONS = [
    "require after (POST /doc/{id}/review by another user where past.params.id == params.id) within 10m",
    "require after (POST /doc/{id}/review where past.params.id == params.id and past.status < 400) within 10m",
    "require after (POST /doc/{id}/review where past.output.by == user.id) within 10m",
    "require no (POST /doc/{id}/review where past.params.id == params.id and past.status is absent) within 10m",
    "require no (POST /doc/{id}/review where past.output.by is absent) within 10m",
    'require after (POST /doc/{id}/review where (past.output.by else "nobody") != user.id) within 10m',
    "deny when sum (past.output.tokens else 4) of POST /doc/{id}/review within 10m > 9",
    "deny when sum (past.status else 100) of POST /doc/{id}/review within 10m > 500",
    "deny when distinct (past.status else 0) of POST /doc/{id}/review within 10m > 1",
    "deny when sum (past.output.tokens else past.body.amount else 1) of POST /doc/{id}/review within 10m > 9",
    "require after (POST /doc/{id}/review where past.body.note is absent) within 10m",
    "require after (POST /doc/{id}/review where past.params.id == params.id and "
    '(past.body.note is absent or past.body.note != "no")) within 10m',
    "require after (POST /doc/{id}/review where past.body.amount > body.amount) within 10m",
    "require after POST /doc/{id}/review within 10m per (params.id)",
    "require no POST /doc/{id}/review within 10m since POST /doc/{id}/pay",
    "require no POST /doc/{id}/review within 10m since (POST /doc/{id}/pay where past.params.id == params.id)",
    "deny when count of POST /doc/{id}/review within 10m > 2",
    "deny when count of (POST /doc/{id}/review where past.params.id == params.id) within 10m > 1",
    "deny when count of POST /doc/{id}/review within 10m since POST /doc/{id}/pay > 1",
    "deny when sum past.body.amount of POST /doc/{id}/review within 10m + body.amount > 20",
    "deny when distinct past.params.id of POST /doc/{id}/review within 10m per (user.id) > 1",
    "deny when distinct past.user.id of (POST /doc/{id}/review by any user) within 10m > 1",
    "deny when (after POST /doc/{id}/review within 1m) and not (after POST /doc/{id}/pay within 1m)",
]  # fmt: skip
STEPS = [
    ("review", 1, "alice", 5, None, 60), ("pay", 1, "alice", 3, None, 0), ("review", 1, "bob", 9, "no", 100),
    ("pay", 1, "alice", 8, None, 30), ("pay", 2, "alice", 8, None, 30), ("review", 2, "carol", 2, None, 170),
    ("pay", 2, "alice", 1, None, 0), ("review", 2, "alice", 7, "yes", 0), ("review", 1, "alice", 8, None, 200),
    ("pay", 1, "alice", 30, None, 60), ("pay", 1, "bob", 1, None, 300), ("pay", 2, "alice", 1, None, 240),
]  # fmt: skip


def both(rules: str) -> tuple[Playing, Trace]:
    """What is asked and what is specified, by the same text of the same name."""
    playing = Playing(rules)
    playing.engine = Engine.from_text(HEAD + rules, "0.policy", clock=lambda: playing.now, store=playing.store)
    return playing, Trace.of(rules)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_known_history_is_decided_as_specified(condition: str) -> None:
    rules = FACTS + f'guard "g" on POST /doc/{{id}}/pay {{ {condition} }}'
    playing, trace = both(rules)
    said: list[str] = []
    for what, id_, who, amount, note, passed in STEPS:
        playing.after(seconds=passed)
        trace.after(seconds=passed)
        body = {"amount": amount} | ({} if note is None else {"note": note})
        asked = {**bot(user=who), **question(f"POST /doc/{id_}/{what}", body=body)}
        found, told = playing.engine.decide(asked), trace.decide(asked)
        assert found.answer == told.answer, (what, id_, who)
        said.append(verdict(found))
        if amount == 8:  # its report is lost
            continue
        output = {"by": who} | ({"tokens": amount} if amount < 8 else {})
        playing.engine.report(found.id, status=200 + amount * 30, output=output)
        trace.history.report(told.id, OutcomeReport(200 + amount * 30, output))
    paid = {one for one, (what, *_) in zip(said, STEPS, strict=True) if what == "pay"}
    assert len(paid) == 2, "a condition that every request meets, or none, shows little"


# ── What is not known ─────────────────────────────────────────────────────────────────────────


def test_a_later_event_decides_although_history_may_be_missing() -> None:
    playing = Playing('guard "g" on POST /pay { require after POST /review within 1h }', store=MemoryStore())
    assert playing.ask("POST /pay").unknown != ()
    playing.ask("POST /review")
    assert playing.says("POST /pay") == "allow"


def test_an_unreported_outcome_is_unknown_unless_another_event_decides() -> None:
    playing = Playing('guard "g" on POST /pay { require after (POST /review where past.status < 400) within 1h }')
    first = playing.ask("POST /review")
    assert playing.says("POST /pay") == 'deny by "g"'
    playing.ask("POST /review")
    assert playing.engine.report(first.id, status=200)
    assert playing.says("POST /pay") == "allow"


def test_a_denied_request_is_recorded_in_history() -> None:
    playing = Playing('guard "g" on TOOL mail { deny when count of (denied TOOL mail) within 1h > 0 }',
                      'guard "no" on TOOL mail { deny when context.risk > 5 }',
                      "facts { context.risk: number? }")  # fmt: skip
    assert playing.says("TOOL mail", context={"risk": 1}) == "allow"
    assert playing.says("TOOL mail", context={"risk": 9}) == 'deny by "no"'
    assert playing.says("TOOL mail", context={"risk": 1}) == 'deny by "g"'


def test_an_unknown_past_fact_stays_unknown() -> None:
    rules = (
        FACTS
        + 'guard "g" on POST /doc/{id}/pay { deny when sum past.body.amount of POST /doc/{id}/review within 1h > 5 }'
    )
    playing, trace = both(rules)
    for where, amount in (("review", "many"), ("pay", 1)):
        asked = {**bot(), **question(f"POST /doc/1/{where}", body={"amount": amount})}
        assert playing.engine.decide(asked).answer == trace.decide(asked).answer


class Named(str):
    """A name that says it equals every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("acme")


def test_an_id_object_that_equals_every_string_cannot_use_the_history_of_another() -> None:
    playing = Playing('guard "g" on POST /pay { require after POST /review within 1h }')
    assert playing.says("POST /review") == "allow"
    assert playing.says("POST /pay") == "allow"
    asked = {**bot(), **question("POST /pay")}
    asked["agent"] = {**asked["agent"], "id": Named("mallory"), "issuer": Named("nobody")}  # type: ignore[dict-item]
    assert not playing.engine.decide(asked).allowed


def test_a_full_history_store_denies() -> None:
    playing = Playing('guard "g" on POST /pay { require no POST /pay within 1h per (user.id) }',
                      store=MemoryStore(history_complete=True, most_keys=4))  # fmt: skip
    assert [playing.says("POST /pay", user(name)) for name in ("a", "b", "c")] == ["allow", "allow", "deny by failure"]
    playing.after(hours=1)
    assert playing.says("POST /pay", user("c")) == "allow"


# ── Many events ───────────────────────────────────────────────────────────────────────────────

ONE_ID = (
    'guard "g" on POST /doc/{id}/pay {\n'
    "  require after (POST /doc/{id}/review where past.params.id == params.id and past.status < 400) within 1h\n}"
)


@pytest.mark.parametrize("events", [1, 8, 40])
def test_the_oldest_of_many_events_is_found(events: int) -> None:
    playing = Playing(ONE_ID)
    first = playing.ask("POST /doc/1/review")
    playing.engine.report(first.id, status=200)
    for _ in range(events):
        playing.after(seconds=1)
        playing.engine.report(playing.ask("POST /doc/1/review").id, status=500)
    assert playing.says("POST /doc/1/pay") == "allow"
    assert playing.says("POST /doc/2/pay") == 'deny by "g"'
    playing.now = NOW + timedelta(hours=1)
    assert playing.says("POST /doc/1/pay") == 'deny by "g"'


@scaled
def test_evicted_history_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    most = examples(200, MAX_EVENTS_PER_KEY)
    monkeypatch.setattr(memory_history, "MAX_EVENTS_PER_KEY", most)
    playing = Playing(
        'guard "g" on POST /pay { require no (POST /doc/{id}/review where past.params.id == "1") within 1h }'
    )
    playing.ask("POST /doc/1/review")
    for _ in range(most):
        playing.ask("POST /doc/2/review")
    denied = playing.ask("POST /pay")
    assert [one.why for one in denied.unknown] == ["the recorded history does not reach back that far"]


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def test_a_rate_and_history_are_recorded_in_one_step() -> None:
    playing = Playing(
        'guard "g" on POST /pay { deny when count of POST /pay within 1h > 9 }',
        'rate "r" per user.id on POST /pay { 2/1h }',
    )
    assert [playing.says("POST /pay") for _ in range(3)] == ["allow", "allow", 'throttle by "r"']
    playing.after(minutes=30)
    kernel = playing.engine.kernel
    assert len(kernel.watches) == 1
    line = next(iter(playing.store._memories._lines.values()))
    assert len(line.events) == 2


def test_concurrent_requests_never_exceed_a_correlated_count() -> None:
    playing = Playing(
        'guard "g" on POST /doc/{id}/pay {\n'
        "  require count of (POST /doc/{id}/pay where past.params.id == params.id) within 1h < 30\n}"
    )
    said: list[str] = []
    threads = [
        Thread(target=lambda: said.extend(playing.says(f"POST /doc/{n % 2}/pay") for n in range(60))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("allow") == 60
    assert playing.engine.failures == 0

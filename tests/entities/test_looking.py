"""Rows that are looked up: what a decision knows, for how long, and what it says where nobody answers."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog, read_records
from policyengine.audit.replay import confirm_replay, replay_decision
from policyengine.engine import Engine
from policyengine.entities import lookup as module
from policyengine.entities.lookup import EntityLookups, RowLookupError
from policyengine.entities.store import EntityStore, RowResult
from policyengine.runtime.entities import EntityData
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.stores.memory.store import MemoryStore
from policyengine.typesystem import EntityRef
from tests.depth import examples, scaled
from tests.entities.shop import OUTCOMES, PAY, POLICY, READ, asking, outcomes, read, shop, tables
from tests.generate.asking import askings, setting
from tests.generate.specified import said


@dataclass
class Table:
    """Rows in memory that are asked for by key; `down` says why it does not answer."""

    rows: Mapping[EntityRef, EntityData]
    types: frozenset[str]
    shown: str = "table"
    timeout: float = 0.5
    ttl: float = 30.0
    most: int = 1_000
    down: str = ""
    lasts: bool = True
    asked: list[list[str]] = field(default_factory=list)

    @property
    def attributes(self) -> Mapping[str, frozenset[str]]:
        return {name: frozenset() for name in self.types}

    def fetch(self, refs: Sequence[EntityRef], seconds: float) -> Mapping[EntityRef, RowResult]:
        self.asked.append([str(ref) for ref in refs])
        if self.down:
            raise RowLookupError(self.down, lasts=self.lasts)
        return {ref: self.rows[ref] for ref in refs if ref in self.rows}

    def probe(self, seconds: float) -> None:
        self.asked.append([])
        if self.down:
            raise RowLookupError(self.down, lasts=self.lasts)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rows_of(directory: EntityStore) -> dict[EntityRef, EntityData]:
    return {row.ref: row for row in directory}


def looked_up(directory: EntityStore, clock: Clock, *types: str, **more: Any) -> tuple[Table, EntityStore]:
    """The rows of these types are looked up, all others are loaded."""
    rows = rows_of(directory)
    table = Table({ref: row for ref, row in rows.items() if ref.type in types}, frozenset(types), **more)
    loaded = [row for ref, row in rows.items() if ref.type not in types]
    return table, EntityStore(loaded, lookups=EntityLookups([table], clock), loaded=directory.loaded)


@pytest.fixture
def known(tmp_path):
    return read(tables(tmp_path / "csv"))


@pytest.fixture
def clock():
    return Clock()


# ── What is asked ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("types", [("user",), ("team",), ("invoice",), ("user", "team", "invoice")])
def test_decisions_do_not_depend_on_which_types_are_looked_up(known, clock, types):
    _, directory = looked_up(known, clock, *types)
    assert outcomes(shop(directory)) == OUTCOMES


def test_the_plan_requests_only_the_rows_that_a_decision_needs(known, clock):
    _, directory = looked_up(known, clock, "user", "team", "invoice")
    evaluator = shop(directory).decider.compiled.evaluator
    looking = directory.looking()
    assert looking is not None
    asked, found = Request.from_mapping(PAY), []
    planned = evaluator.plan(asked, 0, looking)
    while isinstance(planned, Needs):
        assert not planned.windows
        found.append(sorted(map(str, planned.rows)))
        looking.fetch()
        planned = evaluator.plan(asked, 0, looking)
    assert found == [
        ['invoice "42"', 'user "alice"'],
        ['team "emea"', 'user "bob"'],
        ['team "legal"'],
        ['team "company"'],
    ]
    assert planned[0].allowed


def test_a_looked_up_row_is_cached_until_its_ttl(known, clock):
    table, directory = looked_up(known, clock, "user", "team", "invoice", ttl=30.0)
    engine = shop(directory)
    assert engine.decide(PAY).allowed
    once = len(table.asked)
    assert engine.decide(PAY).allowed
    clock.now += 29.9
    assert engine.decide(PAY).allowed
    assert len(table.asked) == once
    clock.now += 0.2
    assert engine.decide(PAY).allowed
    assert len(table.asked) == 2 * once


def test_a_missing_row_is_cached(known, clock):
    table, directory = looked_up(known, clock, "user")
    engine = shop(directory)
    for _ in range(3):
        assert not engine.decide(asking("/v1/invoices/42", "nobody")).allowed
    assert table.asked == [['user "nobody"']]


def test_the_cache_of_looked_up_rows_is_bounded(known, clock):
    table, directory = looked_up(known, clock, "user", most=3)
    engine = shop(directory)
    for number in range(10):
        engine.decide(asking("/v1/invoices/42", f"u{number}"))
    assert directory.lookups is not None
    assert [len(kept._rows) for kept in directory.lookups._kept] == [3]
    engine.decide(asking("/v1/invoices/42", "u9"))
    assert len(table.asked) == 10


def test_a_membership_cycle_terminates(clock):
    teams = [EntityData(EntityRef("team", f"t{n}"), {}, (EntityRef("team", f"t{(n + 1) % 3}"),)) for n in range(3)]
    alice = EntityData(EntityRef("user", "alice"), {}, (teams[0].ref,))
    invoice = EntityData(EntityRef("invoice", "42"), {"approvers": (teams[2].ref,), "owner": alice.ref})
    for types in ((), ("user", "team")):
        _, directory = looked_up(EntityStore([*teams, alice, invoice]), clock, *types)
        assert shop(directory).decide(READ).allowed


@pytest.mark.parametrize("types", [(), ("user", "team")])
def test_the_ancestors_of_a_partial_row_are_incomplete(clock, types):
    """Its `in` may not be all: what is above counts, and what is not found there is unknown."""
    alice = EntityData(EntityRef("user", "alice"), {}, (EntityRef("team", "emea"),), True)
    emea, legal = EntityData(EntityRef("team", "emea"), {}), EntityData(EntityRef("team", "legal"), {})
    _, directory = looked_up(EntityStore([alice, emea, legal]), clock, *types)
    looking = directory.looking()
    known = directory if looking is None else looking
    for _ in range(3):
        above = known.ancestors(alice.ref)
        if isinstance(known, module.LookupEntityStore) and known.lacking:
            known.fetch()
    assert (above.refs, above.complete) == ((emea.ref,), False)
    assert not known.parents(alice.ref).complete
    assert known.ancestors(emea.ref).complete


def test_memberships_nested_too_deep_are_unknown_and_lookups_stop(clock, caplog):
    teams = [EntityData(EntityRef("team", f"t{n}"), {}, (EntityRef("team", f"t{n + 1}"),)) for n in range(100)]
    alice = EntityData(EntityRef("user", "alice"), {}, (teams[0].ref,))
    invoice = EntityData(EntityRef("invoice", "42"), {"approvers": (EntityRef("team", "t99"),), "owner": alice.ref})
    table, directory = looked_up(EntityStore([*teams, alice, invoice]), clock, "user", "team")
    engine = shop(directory)
    assert [engine.decide(READ).allowed for _ in range(4)] == [False] * 4, "whatever is known of before"
    assert len(table.asked) == module.MAX_ANCESTOR_STEPS + 1
    near = EntityData(invoice.ref, {"approvers": (teams[module.MAX_ANCESTOR_STEPS - 1].ref,), "owner": alice.ref})
    _, directory = looked_up(EntityStore([*teams, alice, near]), clock, "user", "team")
    assert shop(directory).decide(READ).allowed
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_decision_looks_up_a_bounded_number_of_rows(clock, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    teams = [EntityData(EntityRef("team", f"t{n}"), {}) for n in range(10)]
    alice = EntityData(EntityRef("user", "alice"), {}, tuple(team.ref for team in teams))
    invoice = EntityData(EntityRef("invoice", "42"), {"approvers": (EntityRef("team", "other"),), "owner": alice.ref})
    table, directory = looked_up(EntityStore([*teams, alice, invoice]), clock, "user", "team")
    engine = shop(directory)
    assert [engine.decide(READ).outcome for _ in range(3)] == ["deny"] * 3
    assert sum(map(len, table.asked)) <= 5


# ── Nobody answers ────────────────────────────────────────────────────────────────────────────


def test_an_unreachable_database_makes_facts_unknown_and_is_logged_once(known, clock, caplog):
    table, directory = looked_up(known, clock, "user", "team", "invoice")
    engine = shop(directory)
    assert engine.decide(READ).allowed
    table.down = "the cable is cut"
    assert engine.decide(READ).allowed, "what is fresh is still known"
    clock.now += 31
    with caplog.at_level(logging.WARNING, logger="policyengine"):
        for _ in range(5):
            decision = engine.decide(READ)
            assert decision.outcome == "deny"
            assert "did not answer" in str([one.why for one in decision.unknown])
        assert [record.getMessage() for record in caplog.records] == [
            "the entity store at `table` does not answer: the cable is cut; its facts are unknown"
        ]
        asked = len(table.asked)
        assert engine.decide(READ).outcome == "deny"
        assert len(table.asked) == asked, "it is left alone for a moment"
        assert directory.lookups is not None
        assert directory.lookups.failures > 5
        table.down = ""
        clock.now += module.PAUSE_SECONDS
        assert engine.decide(READ).allowed
    assert len(caplog.records) == 2
    assert "answers again" in caplog.records[-1].getMessage()


def test_an_entity_store_that_answers_again_reports_the_failures_of_each_outage(known, clock, caplog):
    table, directory = looked_up(known, clock, "user")
    engine = shop(directory)
    with caplog.at_level(logging.WARNING, logger="policyengine"):
        for outage in (3, 1):
            table.down = "the cable is cut"
            for _ in range(outage):
                assert not engine.decide(READ).allowed
            table.down = ""
            clock.now += module.PAUSE_SECONDS
            assert engine.decide(READ).allowed
            clock.now += 31  # until the cached row expires
    words = [record.getMessage() for record in caplog.records if "again" in record.getMessage()]
    assert words == [f"the entity store at `table` answers again after {many}" for many in ("3 failures", "1 failure")]


def test_only_one_decision_probes_a_recovering_database_and_others_do_not_wait(known, clock):
    table, directory = looked_up(known, clock, "user")
    engine = shop(directory)
    table.down = "gone"
    engine.decide(READ)
    clock.now += module.PAUSE_SECONDS
    within, go = threading.Event(), threading.Event()
    fetch = table.fetch

    def slow(refs: Sequence[EntityRef], seconds: float) -> Mapping[EntityRef, RowResult]:
        within.set()
        assert go.wait(10)
        return fetch(refs, seconds)

    table.fetch = slow  # type: ignore[method-assign]
    table.down = ""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(engine.decide, READ)
        assert within.wait(10)
        assert not engine.decide(READ).allowed
        go.set()
        assert first.result(10).allowed
    assert engine.decide(READ).allowed


def test_a_failed_row_lookup_does_not_block_later_lookups(known, clock, caplog):
    table, directory = looked_up(known, clock, "user", lasts=False)
    engine = shop(directory)
    table.down = "no such character"
    assert not engine.decide(READ).allowed
    table.down = ""
    assert engine.decide(READ).allowed
    assert directory.lookups is not None
    assert directory.lookups.failures == 1


@pytest.mark.parametrize(("each", "given"), [(0.3, [0.5, 0.2]), (0.6, [0.5])])
def test_the_lookup_timeout_applies_to_the_whole_decision(known, clock, each, given):
    table, directory = looked_up(known, clock, "user", "team", "invoice", timeout=0.5)
    seen: list[float] = []
    fetch = table.fetch

    def slow(refs: Sequence[EntityRef], seconds: float) -> Mapping[EntityRef, RowResult]:
        seen.append(seconds)
        clock.now += each
        return fetch(refs, seconds)

    table.fetch = slow  # type: ignore[method-assign]
    assert shop(directory).decide(PAY).allowed == (len(given) > 1)  # two rounds show that she is in legal
    assert seen == pytest.approx(given)


def test_an_entity_store_knows_no_looked_up_rows_before_a_lookup(known, clock):
    _, directory = looked_up(known, clock, "user")
    assert "not looked up" in str(directory.attribute(EntityRef("user", "alice"), "plan"))
    assert directory.looking().lacking == set()
    evaluator = shop(directory).decider.compiled.evaluator
    planned = evaluator.plan(Request.from_mapping(READ), 0, directory.looking())
    assert isinstance(planned, Needs)
    assert planned.rows


# ── Whether there is a row ────────────────────────────────────────────────────────────────────

KNOWN = """
entity folder { blocked: set<user> inherited else [] } in folder
entity doc { blocked: set<user> inherited else []   private: bool? } in folder
entity user { }
anyone {
  may GET /known/{id: doc} when resource is known
  may GET /new/{id: doc} when not resource is known
  may GET /public/{id: doc} when not (resource.private else false)
  may GET /free/{id: doc} when user not in resource.blocked
}
"""
FOLDER, DOC = EntityRef("folder", "f"), EntityRef("doc", "1")
ROWS = [
    EntityData(FOLDER, {"blocked": (EntityRef("user", "bob"),)}),
    EntityData(DOC, {}, (FOLDER,)),
    EntityData(EntityRef("user", "alice"), {}),
    EntityData(EntityRef("user", "bob"), {}),
]


def opened(engine: Engine, doc: str, user: str = "alice") -> set[str]:
    def ask(place: str) -> bool:
        return engine.decide({"request": {"method": "GET", "path": f"/{place}/{doc}"}, "user": {"id": user}}).allowed

    return {place for place in ("known", "new", "public", "free") if ask(place)}


@pytest.mark.parametrize("types", [(), ("doc",), ("folder",), ("doc", "folder", "user")])
def test_an_unavailable_lookup_makes_the_existence_of_a_row_unknown(clock, types):
    table, directory = looked_up(EntityStore(ROWS), clock, *types)
    engine = Engine.from_text(KNOWN, directory=directory)
    assert opened(engine, "1") == {"known", "public", "free"}
    assert opened(engine, "1", user="bob") == {"known", "public"}
    assert opened(engine, "2") == {"new"}
    table.down = "gone"
    clock.now += 31
    if "doc" in types:
        assert opened(engine, "1") == opened(engine, "2") == set()
    elif "folder" in types:
        assert opened(engine, "1") == {"known", "public"}


def test_a_replay_distinguishes_a_missing_row_from_an_unavailable_one(clock, tmp_path):
    table, directory = looked_up(EntityStore(ROWS), clock, "doc", ttl=0.0)
    log = DecisionLog(tmp_path / "log.jsonl")
    engine = Engine.from_text(KNOWN, directory=directory, log=log)
    asked = [opened(engine, "1"), opened(engine, "2")]
    table.down = "gone"
    asked.append(opened(engine, "2"))
    log.close()
    assert asked == [{"known", "public", "free"}, {"new"}, set()]
    records = list(read_records(tmp_path / "log.jsonl"))
    assert len(records) == 12
    for record in records:
        again = confirm_replay(replay_decision(record, engine.kernel), engine.kernel)
        assert again.decision.to_dict() == record.decision


def test_an_explanation_looks_up_what_only_a_trace_reads(known, clock):
    """A decision ends where it is sure; a trace goes through every rule."""
    table, directory = looked_up(known, clock, "user", "team", "invoice")
    looking, loaded = shop(directory), shop(known)
    for asked in (READ, PAY, asking("/v1/invoices/43", "cy"), asking("/v1/invoices/44", "nobody")):
        table.asked.clear()
        assert said(looking.explain(asked).decision) == said(loaded.explain(asked).decision)


# ── The same as loaded ────────────────────────────────────────────────────────────────────────


@scaled
@settings(max_examples=examples(4, 32), suppress_health_check=list(HealthCheck))
@given(st.integers(0, 5_000), st.sets(st.integers(0, 4)))
def test_looked_up_entities_decide_as_loaded_ones(seed, which):
    asked = setting(seed)
    names = sorted({row.ref.type for row in asked.directory})
    types = [name for place, name in enumerate(names) if place in which or not which]
    clock = Clock()
    _, directory = looked_up(asked.directory, clock, *types)
    when: list[Any] = [None]

    def made(one: EntityStore) -> Engine:
        return Engine(asked.kernel, directory=one, clock=lambda: when[0], store=MemoryStore(history_complete=True))

    loaded, looking = made(asked.directory), made(directory)
    for one in askings(seed, 10):
        when[0] = one.now
        clock.now += 7.0  # some rows are fresh, and some are asked for again
        assert answers(looking, one.question) == answers(loaded, one.question)


def answers(engine: Engine, question: Any) -> object:
    try:
        return said(engine.evaluate(question)), said(engine.explain(question).decision), said(engine.decide(question))
    except RequestError as error:
        return error.member, error.message


# ── On record ─────────────────────────────────────────────────────────────────────────────────


def test_a_replay_decides_the_same_with_recorded_lookups(known, clock, tmp_path):
    table, directory = looked_up(known, clock, "user", "invoice", ttl=0.0)
    log = DecisionLog(tmp_path / "log.jsonl")
    engine = Engine.from_text(POLICY, directory=directory, log=log)
    asked = [READ, PAY, asking("/v1/invoices/43", "cy"), asking("/v1/invoices/44", "nobody")]
    told = [engine.decide(one).outcome for one in asked]
    table.down = "gone"
    told.append(engine.decide(READ).outcome)
    log.close()
    records = list(read_records(tmp_path / "log.jsonl"))
    assert [record.outcome for record in records] == told == ["allow", "allow", "deny", "deny", "deny"]
    for record in records:
        again = confirm_replay(replay_decision(record, engine.kernel), engine.kernel)
        assert again.same
        assert again.decision.to_dict().get("unknown") == record.decision.get("unknown")


# ── Another directory ─────────────────────────────────────────────────────────────────────────


def test_a_decision_during_replacement_sees_exactly_one_entity_store(known):
    """By the one Bob is in legal and Alice in nothing, by the other it is the reverse: never is either of both."""
    legal, alice, bob = EntityRef("team", "legal"), EntityRef("user", "alice"), EntityRef("user", "bob")
    rest = [row for ref, row in rows_of(known).items() if ref.type != "user"]

    def having(roles: str, parents: tuple[EntityRef, ...]) -> EntityStore:
        attributes = {"roles": (roles,), "plan": roles}
        return EntityStore([*rest, EntityData(alice, attributes, parents), EntityData(bob, {"manager": alice})])

    policy = POLICY.replace(
        "user any {\n  may inv.read when user in resource.approvers",
        'user any {\n  may inv.read when (user.plan == team and user in team "legal")'
        ' or (user.plan == free and not (user in team "legal"))',
    )
    worlds = [having("team", (legal,)), having("free", (EntityRef("team", "company"),))]
    engine = Engine.from_text(policy, directory=worlds[0])
    ended, wrong = threading.Event(), []

    def ask(question: Any) -> int:
        count = 0
        while not ended.is_set():
            count += 1
            if not engine.decide(question).allowed:
                wrong.append(question)
        return count

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, READ), pool.submit(ask, json.dumps(READ))]
        for number in range(300):
            engine.replace_directory(worlds[number % 2])
        ended.set()
        assert all(one.result(60) for one in asked)
    assert wrong == []
    assert engine.directory is worlds[1]

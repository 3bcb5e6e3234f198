"""The engine: loads, decides, explains, spends; and whatever breaks inside it ends in a deny."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from policyengine.audit import DecisionLog, read_records
from policyengine.compiler.bundle.file import write_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.engine import decider as module
from policyengine.engine.question import new_id
from policyengine.entities.errors import EntitiesError
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome
from policyengine.runtime.request import Approval, Request, RequestError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.spec.deciding import row
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
package shop
entity user { roles: set<string> }
facts on POST /pay { body.amount: number }
anyone { may GET /health, POST /pay, GET /night }
guard "large" on POST /pay { confirm by role finance within 1h when body.amount > 500 }
guard "night" on GET /night { require time within 22:00..06:00 "UTC" }
"""
HEALTH = {"request": {"method": "GET", "path": "/health"}}
STAFF = EntityStore([row("user fin", {"roles": ["finance"]})])


@pytest.fixture
def shop() -> Engine:
    return Engine.from_text(POLICY, "shop.policy", directory=STAFF, clock=lambda: NOW, approvals=TRUSTING)


def pay(amount: object = 900, **more: object) -> dict[str, object]:
    return {"request": {"method": "POST", "path": "/pay"}, "body": {"amount": amount}, **more}


def approved(engine: Engine, ask: dict[str, object], id: str = "a1") -> dict[str, object]:
    [remedy] = engine.evaluate(ask).remedies
    grant = {"id": id, "by": "fin", "granted_at": NOW.isoformat(), "binding": remedy.binding}
    return {**ask, "approvals": [grant]}


# ── Loading ───────────────────────────────────────────────────────────────────────────────────


def test_an_engine_from_text_has_its_package_and_revision(shop):
    assert (shop.package, shop.packages) == ("shop", ("shop",))
    assert shop.revision.startswith("sha256:")
    assert len(shop.revision) == len("sha256:") + 64
    assert shop.failures == 0


def test_from_text_raises_one_error_with_all_mistakes():
    with pytest.raises(PolicyError) as told:
        Engine.from_text('anyone { may GET /x when user.rolle == "a" }\nguard "g" { require nothing }', "p.policy")
    assert {one.code for one in told.value.diagnostics} >= {"E201", "E202"}
    assert {one.span.source.name for one in told.value.diagnostics} == {"p.policy"}


@pytest.mark.parametrize("text", ["anyone {", "%", "anyone { may GET }", "language 9\nanyone { may GET /x }", "\x00"])
def test_from_text_rejects_an_invalid_policy(text):
    with pytest.raises(PolicyError):
        Engine.from_text(text)


def test_every_constructor_rejects_an_unknown_option(tmp_path):
    (tmp_path / "shop.policy").write_text(POLICY)
    kernel, bundle = Engine.from_text(POLICY).kernel, tmp_path / "shop.bundle"
    bundle.write_bytes(write_bundle(kernel, "1"))
    rejected = [
        (lambda **more: Engine(kernel, **more), "Engine.__init__", "logs", "log"),
        (lambda **more: Engine(kernel, **more), "Engine.__init__", "entities", "directory"),
        (lambda **more: Engine.load(tmp_path, **more), "Engine.load", "stores", "store"),
        (lambda **more: Engine.load(tmp_path, **more), "Engine.load", "directory", "entities"),
        (lambda **more: Engine.load(tmp_path, **more), "Engine.load", "identiy", "identity"),
        (lambda **more: Engine.from_text(POLICY, **more), "Engine.from_text", "entities", "directory"),
        (lambda **more: Engine.from_text(POLICY, **more), "Engine.from_text", "clocks", "clock"),
        (lambda **more: Engine.from_text(POLICY, **more), "Engine.from_text", "identity", None),
        (lambda **more: Engine.from_bundle(bundle, **more), "Engine.from_bundle", "key", "keys"),
        (lambda **more: Engine.from_bundle(bundle, **more), "Engine.from_bundle", "zzz", None),
    ]
    for make, function, name, meant in rejected:
        make()
        with pytest.raises(TypeError) as told:
            make(**{name: None})
        hint = "" if meant is None else f". Did you mean {meant!r}?"
        assert str(told.value) == f"{function}() got an unexpected keyword argument {name!r}{hint}"


def test_the_url_of_a_store_is_not_a_store():
    with pytest.raises(TypeError, match="must be a store, not a URL: `open_store"):
        Engine.from_text(POLICY, store="sqlite:///state.db")


def test_an_unknown_option_is_rejected_before_files_are_read(tmp_path):
    for make in (Engine.load, Engine.from_bundle):
        with pytest.raises(TypeError):
            make(tmp_path / "missing", logs=None)


def test_load_reads_files_or_folders_and_entities(tmp_path):
    (tmp_path / "shop.policy").write_text(POLICY)
    (tmp_path / "people.json").write_text(
        json.dumps({"entities": [{"type": "user", "id": "fin", "attributes": {"roles": ["finance"]}}]})
    )
    for given in (tmp_path, tmp_path / "shop.policy"):
        engine = Engine.load(given, entities=tmp_path / "people.json", clock=lambda: NOW, approvals=TRUSTING)
        assert engine.decide(approved(engine, pay())).allowed
    assert engine.revision == Engine.from_text(POLICY).revision


def test_a_reason_names_the_file_and_the_line(tmp_path):
    (tmp_path / "g.policy").write_text('anyone { may GET /health }\nguard "g" {\n  deny\n}')
    [reason] = Engine.load(tmp_path / "g.policy").decide(HEALTH).reasons
    assert reason.at is not None
    assert reason.at.endswith("g.policy:3")


def test_a_missing_policy_is_an_error(tmp_path):
    with pytest.raises((PolicyError, OSError)):
        Engine.load(tmp_path / "none.policy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"entities": 5}',
        '{"entities": [{"type": "user"}]}',
        '{"people": []}',
        '{"entities": [{"type": "u", "id": "e\\u0301"}]}',
    ],
)
def test_load_rejects_an_invalid_entities_file(tmp_path, text):
    (tmp_path / "p.policy").write_text(POLICY)
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(EntitiesError):
        Engine.load(tmp_path / "p.policy", entities=tmp_path / "e.json")


# ── Questions ─────────────────────────────────────────────────────────────────────────────────


def test_a_question_may_be_a_mapping_json_or_a_request(shop):
    text = json.dumps(HEALTH)
    for question in (HEALTH, text, text.encode(), Request.from_mapping(HEALTH)):
        assert shop.decide(question).allowed
        assert shop.evaluate(question).allowed
        assert shop.explain(question).decision.allowed


@pytest.mark.parametrize(
    ("question", "member"),
    [(b"\xff", ""), ("{", ""), ("[]", ""), ({}, ""), ({"request": 5}, "request"),
    ({**HEALTH, "user": {"id": "a", "roles": []}}, "user.roles"),
     (7, ""), (None, ""), ([HEALTH], ""), ({**HEALTH, "tool": {"name": "t"}}, "tool")],
)  # fmt: skip
@pytest.mark.parametrize("way", ["decide", "evaluate", "explain"])
def test_the_error_for_a_malformed_question_names_its_member(shop, question, member, way):
    with pytest.raises(RequestError) as told:
        getattr(shop, way)(question)
    assert told.value.member == member
    assert shop.failures == 0


# ── Failing closed: tests/test_engine_failures.py has more ───────────────────────────────────


def test_a_failing_explanation_explains_a_deny(shop, monkeypatch, caplog):
    monkeypatch.setattr(module, "trace_request", lambda *_: 1 / 0)
    explained = shop.explain(HEALTH)
    assert (explained.decision.outcome, explained.decision.gate) == (Outcome.DENY, Gate.FAILURE)
    assert explained.render()
    assert (shop.failures, len(caplog.records)) == (1, 1)


def test_a_failing_entity_store_denies_and_spends_no_approval(shop):
    class Broken(EntityStore):
        def attribute(self, ref: object, name: str) -> object:
            raise RuntimeError("the database is gone")

    ask = approved(shop, pay())
    directory = shop.directory
    shop.replace_directory(Broken())
    assert shop.decide(ask).gate is Gate.FAILURE
    shop.replace_directory(directory)
    assert shop.decide(ask).allowed


def test_a_clock_without_a_time_zone_denies():
    engine = Engine.from_text(POLICY, clock=lambda: datetime(2027, 1, 4, 23))
    assert engine.decide({"request": {"method": "GET", "path": "/night"}}).outcome is Outcome.DENY


def test_failures_of_many_threads_are_all_counted(shop, monkeypatch):
    monkeypatch.setattr(shop.decider.compiled.evaluator, "plan", lambda *_: 1 / 0)
    logging.getLogger("policyengine").setLevel(logging.CRITICAL + 1)
    try:
        with ThreadPoolExecutor(8) as pool:
            decisions = list(pool.map(lambda _: shop.decide(HEALTH), range(80)))
    finally:
        logging.getLogger("policyengine").setLevel(logging.NOTSET)
    assert {one.gate for one in decisions} == {Gate.FAILURE}
    assert shop.failures == 80


# ── Ids and times ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [MemoryStore, lambda: SqliteStore(":memory:")], ids=["memory", "shared"])
def test_each_decision_takes_one_id_from_a_source_of_ids(make):
    times: list[datetime] = []

    def ids(now: datetime) -> str:
        times.append(now)
        return f"id-{len(times)}"

    engine = Engine.from_text(POLICY, directory=STAFF, clock=lambda: NOW, ids=ids, store=make(), approvals=TRUSTING)
    ask = approved(engine, pay())
    times.clear()
    found = [engine.decide(HEALTH), engine.evaluate(ask), engine.decide(ask), *engine.decide_many([HEALTH, ask])]
    assert [one.id for one in found] == [f"id-{number}" for number in range(1, 6)]
    assert times == [NOW] * 5


RATE = 'rate "r" per request.ip on POST /pay { 5/1m }\n'


def test_a_batch_counts_a_decision_with_too_many_steps_once(monkeypatch):
    monkeypatch.setattr("policyengine.spec.work.MAX_STEPS", 10)
    policy = (
        POLICY
        + "facts on POST /pay { body.a: list<int>? }\n"
        + (f'{RATE}guard "loop" on POST /pay {{ deny when any x in body.a: x in body.a }}')
    )
    engine = Engine.from_text(policy, store=SqliteStore(":memory:"), clock=lambda: NOW)
    found = engine.decide_many([{**pay(5), "body": {"amount": 5, "a": list(range(50))}}, HEALTH])
    assert [one.gate for one in found] == [Gate.FAILURE, None]
    assert engine.failures == 1


def test_the_decisions_of_a_batch_name_the_entities_that_they_read(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    engine = Engine.from_text(
        POLICY + RATE, directory=STAFF, store=SqliteStore(":memory:"), log=DecisionLog(log), approvals=TRUSTING
    )
    commit = engine.store.commit_many

    def replacing(*given):
        engine.replace_directory(EntityStore([row("user fin", {"roles": []})]))
        return commit(*given)

    monkeypatch.setattr(engine.store, "commit_many", replacing)
    limited = pay(5)
    limited["request"] = {"method": "POST", "path": "/pay", "ip": "8.8.8.8"}
    engine.decide_many([limited, limited])
    engine.decide(limited)
    *first, last = read_records(log)
    assert [[one.attributes["roles"] for one in record.directory] for record in first] == [[("finance",)]] * 2
    assert [one.attributes["roles"] for one in last.directory] == [()]


def test_the_id_of_a_decision_has_the_time_of_the_decision(shop):
    at = NOW - timedelta(days=30)
    now, then = (shop.evaluate({**HEALTH, "options": {"at": one.isoformat()}}).id for one in (NOW, at))
    assert shop.decide(HEALTH).id[:10] == now[:10] > then[:10]


def test_a_question_about_another_time_is_refused_where_it_would_spend(shop):
    ask = {**approved(shop, pay()), "options": {"at": NOW.isoformat()}}
    for question in (ask, json.dumps(ask), Request.from_mapping(ask)):
        with pytest.raises(RequestError, match="cannot spend approvals or limits"):
            shop.decide(question)
    (found,) = shop.decide_many([ask])
    assert isinstance(found, RequestError)
    assert shop.evaluate(ask).allowed
    assert shop.decide({**ask, "options": {"at": NOW.isoformat(), "consume": False}}).allowed
    assert shop.store.spent_among(["a1"]) == frozenset()


# ── Spending and peeking ──────────────────────────────────────────────────────────────────────


def test_decide_spends_an_approval_and_evaluate_does_not(shop):
    ask = approved(shop, pay())
    for _ in range(3):
        assert shop.evaluate(ask).allowed
    assert shop.decide(ask).allowed
    assert shop.decide(ask).outcome is Outcome.CONFIRM
    assert shop.evaluate(ask).outcome is Outcome.CONFIRM


def test_an_evaluated_allow_has_a_consume_obligation(shop):
    ask = approved(shop, pay())
    assert [one.kind for one in shop.evaluate(ask).obligations] == ["consume"]
    assert [one.kind for one in shop.explain(ask).decision.obligations] == ["consume"]
    assert [one.kind for one in shop.evaluate(HEALTH).obligations] == []
    assert [one.kind for one in shop.decide(ask).obligations] == []


def test_decide_without_consume_spends_nothing(shop):
    ask = approved(shop, pay())
    peek = {**ask, "options": {"consume": False}}
    assert [one.kind for one in shop.decide(peek).obligations] == ["consume"]
    assert shop.decide(ask).allowed


def test_concurrent_threads_spend_an_approval_exactly_once(shop):
    ask = approved(shop, pay())
    start = threading.Barrier(8)

    def decide(_: int) -> Decision:
        start.wait()
        return shop.decide(ask)

    with ThreadPoolExecutor(8) as pool:
        outcomes = [one.outcome for one in pool.map(decide, range(8))]
    assert sorted(outcomes) == [Outcome.ALLOW, *[Outcome.CONFIRM] * 7]


def test_a_decision_is_retried_when_another_spends_its_approval_first(shop, monkeypatch):
    ask = approved(shop, pay())
    known = shop.store.spent_among
    spent: list[Decision] = []

    def slow(ids: Iterable[str]) -> frozenset[str]:
        """Looks, and lets another decision spend before this one can."""
        found = known(ids)
        if not spent:
            spent.append(Decision.of(Outcome.ALLOW))
            spent.append(shop.decide(ask))
        return found

    monkeypatch.setattr(shop.store, "spent_among", slow)
    assert shop.decide(ask).outcome is Outcome.CONFIRM
    assert spent[1].allowed


def test_a_store_spends_all_or_nothing():
    store = MemoryStore()
    assert store.commit(Effects(spends=("a",)), "one", 1)
    assert store.commit(Effects(spends=("b", "a")), "two", 2) is None
    assert store.spent_among(["a", "b"]) == {"a"}
    assert store.commit(Effects(), "three", 3)


def test_concurrent_requests_each_spend_their_own_approval(shop):
    asks = [approved(shop, pay(amount), f"a{amount}") for amount in (900, 901, 902, 903)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = [one.outcome for one in pool.map(shop.decide, asks * 4)]
    assert outcomes.count(Outcome.ALLOW) == 4


def test_a_denied_decision_spends_nothing():
    engine = Engine.from_text(
        POLICY + 'guard "no" on POST /pay { deny when request.size > 5 }',
        directory=STAFF,
        clock=lambda: NOW,
        approvals=TRUSTING,
    )
    small = {"request": {"method": "POST", "path": "/pay", "size": 1}, "body": {"amount": 900}}
    ask = approved(engine, small)
    assert engine.decide({**ask, "request": {**small["request"], "size": 9}}).outcome is Outcome.DENY
    assert engine.decide(ask).allowed


# ── Time and ids ──────────────────────────────────────────────────────────────────────────────

NIGHT = {"request": {"method": "GET", "path": "/night"}}


def test_an_evaluation_can_use_another_time(shop):
    late = {**NIGHT, "options": {"consume": False, "at": "2027-01-04T23:00:00Z"}}
    assert not shop.evaluate(NIGHT).allowed
    assert shop.evaluate(late).allowed
    assert shop.decide(late).allowed
    assert shop.explain(late).decision.allowed


def test_a_spending_decision_rejects_another_time(shop):
    with pytest.raises(RequestError) as told:
        shop.decide({**NIGHT, "options": {"at": "2027-01-04T23:00:00Z"}})
    assert told.value.member == "options.at"


def test_ids_are_unique_and_sort_by_time():
    moments = [NOW + timedelta(milliseconds=step) for step in range(200)]
    ids = [new_id(moment) for moment in moments]
    assert ids == sorted(ids)
    assert len({new_id(NOW) for _ in range(1000)}) == 1000
    assert all(len(one) == 26 and set(one) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for one in ids)


def test_every_decision_has_its_own_id(shop):
    assert len({shop.decide(HEALTH).id, shop.evaluate(HEALTH).id, shop.explain(HEALTH).decision.id}) == 3


def test_the_same_question_at_the_same_time_has_the_same_answer():
    one, other = (Engine.from_text(POLICY, directory=STAFF, clock=lambda: NOW, ids=lambda _: "id") for _ in range(2))
    for ask in (HEALTH, NIGHT, pay(), pay("9"), {**HEALTH, "agent": {"id": "x"}}):
        assert one.decide(ask) == other.decide(ask)


# ── Async twins, answers, explanations ────────────────────────────────────────────────────────


def test_the_async_methods_return_the_same_decisions():
    engine = Engine.from_text(POLICY, directory=STAFF, clock=lambda: NOW, ids=lambda _: "id")

    async def ask() -> tuple[Decision, Decision, Decision]:
        explained = await engine.explain_async(HEALTH)
        return await engine.decide_async(HEALTH), await engine.evaluate_async(HEALTH), explained.decision

    assert set(asyncio.run(ask())) == {engine.decide(HEALTH)}


def test_a_decision_with_an_unsupported_obligation_is_denied():
    engine = Engine.from_text(POLICY + 'guard "tag" on GET /health { header "X" "1" }')
    for supported, allowed in ((None, True), (["header"], True), ([], False)):
        assert engine.decide({**HEALTH, "options": {"obligations_supported": supported}}).allowed is allowed


def test_a_decision_converts_to_the_members_of_the_api_in_order(shop):
    data = shop.decide(pay()).to_dict()
    assert list(data) == [
        "outcome", "allowed", "id", "revision", "package", "gate", "reasons", "remedies", "principal", "rates",
        "obligations", "unknown",
    ]  # fmt: skip
    assert json.loads(json.dumps(data)) == data
    assert (data["outcome"], data["allowed"], data["gate"], data["package"]) == ("confirm", False, "guard", "shop")
    [reason], [remedy] = data["reasons"], data["remedies"]
    assert reason.keys() == {"gate", "message", "rule", "at", "outcome"}
    assert (reason["rule"], reason["at"]) == ("large", "shop.policy:6")
    assert remedy.keys() == {"kind", "rule", "by", "within", "binding", "bound"}
    assert data["rates"] == data["obligations"] == data["unknown"] == []


def test_the_data_of_a_decision_contains_unknown_facts(shop):
    assert shop.decide(pay("900")).to_dict()["unknown"] == [
        {"fact": "body.amount", "why": "expected number, got string"}
    ]


def test_an_explanation_contains_the_decision_of_evaluate(shop):
    for ask in (HEALTH, NIGHT, pay(), pay("9"), {"request": {"method": "GET", "path": "/a//b"}}):
        explained = shop.explain(ask)
        assert explained.decision.outcome is shop.evaluate(ask).outcome
        assert explained.decision.reasons == shop.evaluate(ask).reasons
        assert str(explained.decision.outcome) in explained.render()
        assert json.dumps(explained.to_dict())


def test_approvals_can_be_given_as_python_objects(shop):
    [remedy] = shop.evaluate(pay()).remedies
    request = Request.from_mapping(pay())
    given = Approval("a1", "fin", NOW, remedy.binding)
    request = Request(request.endpoint, request.facts, approvals=(given,))
    assert shop.decide(request).allowed
    assert not shop.decide(request).allowed


def test_load_accepts_relative_and_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "p.policy").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    assert Engine.load("p.policy").package == "shop"
    assert Engine.load(Path("p.policy")).revision == Engine.load(tmp_path).revision


def test_engine_warnings_are_the_warnings_of_the_checker() -> None:
    engine = Engine.from_text("anyone { may GET /a   may GET /a }")
    assert [warning.code for warning in engine.warnings] == ["W711"]


@pytest.mark.parametrize("odd", [Decimal("sNaN"), float("nan"), 1, b"acme", ["acme"], {"a": 1}, True])
@pytest.mark.parametrize("place", ["agent", "credential"])
def test_an_issuer_that_is_not_a_string_causes_no_failure(odd, place):
    engine = Engine.from_text(POLICY)
    question = {"agent": {"id": "bot", "issuer": "acme"}, "credential": {"issuer": "acme"}, **HEALTH}
    question[place] = {**question[place], "issuer": odd}
    engine.decide(question)
    assert engine.failures == 0


TEAMS = """language 1
entity team in team
entity user in team
anyone { may GET /in when user in team "all"   may GET /out when user not in team "banned" }
"""


@pytest.mark.parametrize(
    ("rows", "inside", "outside"),
    [
        ([{"id": "ann", "in": ["all"]}], True, False),  # of the teams nothing is known
        ([{"id": "ann", "in": ["all"]}, "all"], True, True),
        ([{"id": "ann", "in": ["all"], "partial": True}, "all"], True, False),
        ([{"id": "ann", "partial": False}], False, True),
        ([{"id": "ann", "partial": True}], False, False),
        ([], False, False),
    ],
)
def test_membership_of_a_partial_row_is_unknown_unless_listed(rows, inside, outside):
    engine = Engine.from_text(TEAMS)
    entities = [
        {"type": "team", "id": one} if isinstance(one, str)
        else {**one, "type": "user", "in": [{"type": "team", "id": name} for name in one.get("in", ())]}
        for one in rows
    ]  # fmt: skip

    def allowed(path):
        request = {"method": "GET", "path": path}
        return engine.decide({"request": request, "user": {"id": "ann"}, "entities": entities}).allowed

    assert (allowed("/in"), allowed("/out")) == (inside, outside)


@pytest.mark.parametrize("partial", [1, "true", []])
def test_the_partial_flag_of_a_row_must_be_a_boolean(partial):
    with pytest.raises(RequestError, match=r"`entities\[0\]\.partial` must be true or false"):
        Engine.from_text(POLICY).decide({**HEALTH, "entities": [{"type": "u", "id": "x", "partial": partial}]})

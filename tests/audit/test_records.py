"""What stands on a line: all that a decision depended on, but for secrets, so that it can be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.audit import (
    DecisionLog,
    DecisionLogError,
    DecisionRecord,
    ReplayError,
    read_records,
    redaction,
    replay_decision,
)
from policyengine.audit.query.extract import parse_log_line
from policyengine.audit.query.stream import SkippedLines, read_trees
from policyengine.audit.record_summary import find_record
from policyengine.audit.sinks.transport import read_sink_line
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.values import ABSENT, PENDING
from policyengine.typesystem import EntityRef
from tests.generate.asking import askings, setting
from tests.generate.requests import approved
from tests.generate.specified import said
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, 0, 0, 123456, tzinfo=UTC)
POLICY = """
entity user { roles: set<string> }
facts { body.amount: number   body.note: string? }
anyone { may POST /pay, GET /health }
guard "large" on POST /pay { confirm by role finance within 1h when body.amount > 500 }
"""
PAY: dict[str, Any] = {"request": {"method": "POST", "path": "/pay"}, "user": {"id": "alice"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def engine(path: Path, **options: Any) -> Engine:
    return Engine.from_text(POLICY, clock=lambda: NOW, log=DecisionLog(path, **options), approvals=TRUSTING)


def recorded(path: Path, question: Any, **options: Any) -> DecisionRecord:
    engine(path, **options).decide(question)
    *_, last = read_records(path)
    return last


LIMITED = """
facts { body.amount: number }
anyone { may POST /pay }
rate "often" per user.id on POST /pay { 2/1m }
budget "much" per user.id on POST /pay { sum body.amount <= 100 within 1h  count <= 9 within 1h }
"""


@pytest.mark.parametrize("amounts", [(1, 1, 1), (99, 2), (99, 1, 1), (1,), ("x",)])
def test_replay_of_decisions_with_limits_gives_the_same_decisions(path, amounts):
    made = Engine.from_text(LIMITED, clock=lambda: NOW, log=DecisionLog(path))
    for amount in amounts:
        made.decide({**PAY, "body": {"amount": amount}})
    records = list(read_records(path))
    assert len(records) == len(amounts)
    for record in records:
        again = replay_decision(record, made.kernel)
        assert again.same
        assert again.decision.to_dict() == record.decision


def test_a_limit_that_is_not_in_the_record_does_not_throttle_a_replay(path):
    made = Engine.from_text(LIMITED, clock=lambda: NOW, log=DecisionLog(path))
    outcomes = [made.decide({**PAY, "body": {"amount": 1}}).outcome for _ in range(3)]
    moved = Engine.from_text("# a line more\n" + LIMITED + 'rate "new" per user.id { 1/1h }')
    found = [replay_decision(record, moved.kernel).decision.outcome for record in read_records(path)]
    assert found == outcomes == ["allow", "allow", "throttle"]


# ── Nothing is lost ───────────────────────────────────────────────────────────────────────────


def test_a_record_contains_its_time_policy_call_request_and_decision(path):
    asked = engine(path)
    decision = asked.decide({**PAY, "body": {"amount": 5}})
    (record,) = read_records(path)
    assert record.time == NOW
    assert (record.revision, record.package, record.call) == (asked.revision, "main", "decide")
    assert record.decision == decision.to_dict()
    assert record.request == {**PAY, "body": {"amount": 5}}


@pytest.mark.parametrize("consume", [True, False])
def test_a_record_states_whether_the_call_was_decide_or_evaluate(path, consume):
    assert recorded(path, {**PAY, "options": {"consume": consume}}).call == ("decide" if consume else "evaluate")


def test_a_record_keeps_the_partial_flag_of_a_row(path):
    rows = [{"type": "user", "id": "u", "attributes": {"plan": "free"}, "in": [], "partial": True}]
    assert recorded(path, PAY | {"entities": rows}).question.entities[0].partial


@pytest.mark.parametrize(("directory", "allowed"), [(None, False), (EntityStore(), True)])
def test_a_record_distinguishes_no_entity_store_from_an_empty_one(path, directory, allowed):
    """Without one nobody knows that there is no row; one that is empty says so."""
    text = "entity user\nanyone { may GET /x when not user is known }"
    made = Engine.from_text(text, directory=directory, clock=lambda: NOW, log=DecisionLog(path))
    decision = made.decide({"request": {"method": "GET", "path": "/x"}, "user": {"id": "alice"}})
    (record,) = read_records(path)
    again = replay_decision(record, made.kernel)
    assert (decision.allowed, again.same, again.decision.to_dict()) == (allowed, True, record.decision)


def test_a_record_lists_approvals_spent_before_and_by_its_decision(path):
    asked = Engine.from_text(
        POLICY.replace("entity user", "entity team\nentity user"),
        clock=lambda: NOW,
        log=DecisionLog(path),
        approvals=TRUSTING,
    )
    question = {**PAY, "body": {"amount": 900}}
    binding = asked.decide(question).remedies[0].binding
    rows = [{"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}]
    granted = {"id": "a1", "by": "carol", "granted_at": NOW.isoformat(), "binding": binding}
    question |= {"approvals": [granted], "entities": rows}
    assert asked.decide(question).allowed
    assert not asked.decide(question).allowed
    _, allowed, refused = read_records(path)
    assert (allowed.spent, allowed.spends) == (frozenset(), ("a1",))
    assert (refused.spent, refused.spends) == (frozenset({"a1"}), ())
    kernel = asked.kernel
    assert [str(replay_decision(one, kernel).decision.outcome) for one in (allowed, refused)] == ["allow", "confirm"]


@pytest.mark.parametrize(
    "value",
    [
        7, -7, 7.5, 1e22, Decimal("7.50"), Decimal(7), Decimal("1E+2"), True, None, "", "é\u2028", "\x00", [1, [2]],
        {"a": {"b": []}}, datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 1), timedelta(microseconds=7),
        ip_address("10.0.0.1"), ip_network("10.0.0.0/8"), EntityRef("user", "alice"), {"x", "y"}, ("a",), "\ud800",
        float("nan"), 2**70, "x" * 70_000, Decimal("NaN"), Decimal("1E+400"), Decimal("-1E-400"), object(), b"x",
        {"type": "user", "id": "alice"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_request", [False, True], ids=["mapping", "request"])
def test_a_fact_survives_logging_and_reading(path, value, as_request):
    question = {**PAY, "body": {"note": value}}
    request = Request.from_mapping(question)
    record = recorded(path, request if as_request else question)
    assert as_read(record.question.facts) == as_read(request.facts)
    line = path.read_bytes().splitlines()[-1]
    assert read_sink_line(line) is not None
    assert parse_log_line(line)[1] == "decision"


def as_read(value: object) -> object:
    """With the types told apart: `1 == True` for Python, and for no policy."""
    match value:
        case Mapping():
            return {name: as_read(one) for name, one in value.items() if one is not None}
        case tuple() | list():
            return [as_read(one) for one in value]
        case _:
            return type(value), str(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize(
    "text",
    [
        '{"request": {"method": "POST", "path": "/pay"}, "body": {"amount": 5, "amount": 6}}',
        '{"request": {"method": "POST", "path": "/pay"}, "body": {"amount": 1e2}}',
        '{"request": {"method": "POST", "path": "/pay"},\n "body": {"amount": NaN}}',
        '{"request": {"method": "HEAD", "path": "/health/"}, "options": {"obligations_supported": ["audit"]}}',
        '{"request": {"method": "POST", "path": "//pay"}}',
        '{"request": {"method": "POST", "path": "\\ud800"}}',
        '{"request": {"method": "POST", "path": "/pay", "headers": {"X-A": "1", "x-a": "2"}}}',
        '{"request": {"method": "POST", "path": "/pay"}, "pending": ["body.amount", "user.roles"]}',
        '{"request": {"method": "POST", "path": "/pay"}, "pending": ["user", "credential"]}',
        '{"request": {"method": "POST", "path": "/pay"}, "body": {"amount": 5}, "pending": ["body.*", "args.*"]}',
    ],
)
def test_a_hazardous_request_survives_logging_and_reading(path, text):
    request = Request.from_json(text)
    again = recorded(path, text).question
    assert (again.endpoint, as_read(again.facts)) == (request.endpoint, as_read(request.facts))
    assert again.pending == request.pending
    assert again.options.obligations_supported == request.options.obligations_supported


def test_a_record_distinguishes_null_from_pending_members(path):
    text = '{"request": {"method": "POST", "path": "/pay"}, "body": {"note": null}, "pending": ["body.*"]}'
    again = recorded(path, text).question
    assert (again.fact("body", "note"), again.fact("body", "amount")) == (ABSENT, PENDING)


@settings(max_examples=settings.default.max_examples // 4)  # each writes a policy and asks it a dozen questions
@given(st.integers(0, 2_000))
def test_replay_of_random_decisions_gives_the_same_decisions(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    asked = setting(seed)
    now = NOW
    log = DecisionLog(path)
    made = Engine(asked.kernel, directory=asked.directory, clock=lambda: now, log=log)
    given_out = []
    for one in askings(seed, 12):
        now, call = one.now, made.decide if seed % 2 else made.evaluate
        try:
            given_out.append(call(one.question))
        except RequestError:
            continue
        if given_out[-1].outcome == "confirm" and isinstance(one.question, dict):
            given_out.append(call(approved(Random(seed), one.question, given_out[-1], now)))
    log.close()
    records = list(read_records(path))
    assert [record.id for record in records] == [decision.id for decision in given_out]
    for record, decision in zip(records, given_out, strict=True):
        again = replay_decision(record, asked.kernel)
        assert again.same
        without = tuple(one for one in decision.obligations if one.kind != "consume")
        assert said(again.decision) == said(decision)._replace(obligations=without)


def test_a_question_with_a_too_deep_value_is_refused_and_not_logged(path):
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    asked = engine(path)
    with pytest.raises(RequestError, match="nested more than 32 levels deep"):
        asked.decide({"request": {"method": "GET", "path": "/health"}, "context": {"deep": deep}})
    assert asked.failures == 0
    assert path.read_bytes() == b""


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────

SECRET = "v3ry-s3cret-value"


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ({"request": {"headers": {"Authorization": SECRET}}}, "request.headers.Authorization"),
        ({"request": {"headers": {"cookie": SECRET}}}, "request.headers.cookie"),
        ({"request": {"headers": {"Proxy-Authorization": SECRET}}}, 'request.headers["Proxy-Authorization"]'),
        ({"request": {"headers": {"X-API-Key": SECRET}}}, 'request.headers["X-API-Key"]'),
        ({"request": {"headers": {"DPoP": SECRET, "x": ["odd"]}}}, "request.headers.DPoP"),
        ({"request": {"headers": {"txn-token": SECRET}}}, 'request.headers["txn-token"]'),
        ({"request": {"query": {"access_token": SECRET}}}, "request.query.access_token"),
        ({"credential": {"claims": {"client_secret": SECRET}}}, "credential.claims.client_secret"),
        ({"body": {"user": {"Password": SECRET}}}, "body.user.Password"),
        ({"body": {"items": [{"token": SECRET}]}}, "body.items.0.token"),
        ({"body": {"token": {"value": SECRET}}}, "body.token"),
        ({"body": {"token": [SECRET], "at": datetime(2027, 1, 1, tzinfo=UTC)}}, "body.token"),
        ({"entities": [{"type": "user", "id": "u", "attributes": {"secret": SECRET}}]}, "entities.0.attributes.secret"),
        ({"context": {"note": SECRET}}, "context.note"),
        ({"request": {"headers": {"X-Note": SECRET}}}, 'request.headers["X-Note"]'),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("form", ["mapping", "json", "request"])
def test_secrets_are_redacted_and_the_record_lists_them(path, question, fact, form):
    asked = {**question, "request": {**PAY["request"], **question.get("request", {})}}
    given_as = asked
    if form == "json":
        given_as = json.dumps(asked, default=str)
    elif form == "request":
        given_as = Request.from_mapping(asked)
    record = recorded(path, given_as, redact=["context.note", 'request.headers["x-note"]'])
    assert SECRET not in path.read_text()
    found = [one.fact.lower().replace('["0"]', ".0") for one in record.redacted]
    assert found == [fact.lower()]


def test_a_secret_attribute_of_an_entity_is_redacted(path, tmp_path):
    entities = tmp_path / "entities.json"
    rows = [{"type": "user", "id": "alice", "attributes": {"password": SECRET, "roles": ["clerk"]}}]
    entities.write_text(json.dumps({"entities": rows}))
    (tmp_path / "p.policy").write_text(POLICY)
    Engine.load(tmp_path / "p.policy", entities=entities, log=DecisionLog(path)).decide(PAY)
    assert SECRET not in path.read_text()
    (record,) = read_records(path)
    assert record.directory is not None
    assert record.directory.attribute(EntityRef("user", "alice"), "roles") == ("clerk",)


@pytest.mark.parametrize("value", ['{"password": "%d"}', '{"password": %d}', "%de400", '{"at": %de400}'])
def test_a_long_name_with_many_secrets_or_special_values_does_not_make_a_huge_line(path, value):
    """A line names each of these values by its path: 30 KB of a request made 30 MB of a line."""
    name, values = "n" * 8_000, ", ".join(value % number for number in range(1_000))
    body = f'{{"request": {{"method": "POST", "path": "/pay"}}, "body": {{"{name}": {{"{name}": [{values}]}}}}}}'
    engine(path).decide(body)
    assert path.stat().st_size < 10 * len(body)
    (record,) = read_records(path)
    assert {fact.fact for fact in record.redacted if fact.fact.endswith("**")} == {"body.**"}


@pytest.mark.parametrize("amount", [900, Decimal("1E+400")])
def test_a_value_whose_path_has_no_room_is_unknown_in_a_replay(path, monkeypatch, amount):
    monkeypatch.setattr(redaction, "MAX_PATH_CHARACTERS", 0)
    asked = engine(path, redact=["body.amount"] if amount == 900 else [])
    asked.decide({**PAY, "body": {"amount": amount}})
    (record,) = read_records(path)
    assert [fact.fact for fact in record.redacted] == ["body.**"]
    assert replay_decision(record, asked.kernel).unsure == ("body.amount",)


def test_a_logged_message_does_not_show_a_redacted_fact(path):
    policy = POLICY.replace("body.amount > 500", 'body.amount > 500 message "pay {body.amount} for {body.note}"')
    asked = Engine.from_text(policy, clock=lambda: NOW, log=DecisionLog(path, redact=["body.note"]))
    decision = asked.decide({**PAY, "body": {"amount": 900, "note": SECRET}})
    assert SECRET in decision.reasons[0].message
    assert SECRET not in path.read_text()
    (record,) = read_records(path)
    assert (record.decision["reasons"][0]["rule"], record.outcome) == ("large", "confirm")


@pytest.mark.parametrize("fact", ["user.id", "agent.id", "request.path", "chain.hops"])
def test_facts_that_identify_the_caller_cannot_be_redacted(path, fact):
    with pytest.raises(DecisionLogError, match="a record must identify the caller"):
        DecisionLog(path, redact=[fact])


def test_equal_secrets_have_equal_fingerprints_and_others_differ(path):
    asked = engine(path)
    for secret in (SECRET, SECRET, "another"):
        asked.decide({**PAY, "body": {"token": secret}})
    first, again, other = ({one.fingerprint for one in record.redacted}.pop() for record in read_records(path))
    assert first == again != other


def test_fingerprints_of_one_secret_differ_between_logs(tmp_path):
    found = {recorded(tmp_path / name, {**PAY, "body": {"token": "0000"}}).redacted[0].fingerprint for name in "ab"}
    assert len(found) == 2


# ── What readers meet ─────────────────────────────────────────────────────────────────────────


def test_invalid_lines_are_reported_and_skipped(path):
    engine(path).decide(PAY)
    good = path.read_bytes()
    path.write_bytes(b"nonsense\n" + b'{"v":3}\n' + b'{"v":1,"time":"x"}\n\n' + b"[1]\n" + good + good[:50])
    told: list[str] = []
    assert len(list(read_records(path, told.append))) == 1
    assert [one.removeprefix(f"{path}:").partition(":")[0] for one in told] == ["1", "2", "3", "5", "7"]
    assert "it has version 3, but this program supports 1 to 2" in told[1]
    assert told[-1].endswith("skipped the last line: it was cut off")


def test_a_whole_line_after_a_half_written_line_is_read(path):
    engine(path).decide(PAY)
    good = path.read_bytes()
    path.write_bytes(good[:70] + good)
    told: list[str] = []
    assert len(list(read_records(path, told.append))) == 1
    assert told == [f"{path}:1: skipped the line before this one: it was cut off"]


FORGED = {
    "v": 2, "time": "2027-01-01T00:00:00.000000Z", "call": "decide", "request": {},
    "decision": {"id": "forged", "outcome": "allow", "revision": "r", "package": "p"},
}  # fmt: skip


def read_ids(path: Path) -> list[list[str]]:
    """The decisions that each reader finds."""
    lines = path.read_bytes().splitlines(keepends=True)
    streamed = [tree for tree, _ in read_trees(path, SkippedLines())]
    sent = [found[1] for line in lines if (found := find_record(line)) is not None]
    return [
        [one.id for one in read_records(path)],
        *([one["decision"]["id"] for one in some] for some in (streamed, sent)),
    ]


def test_a_value_of_a_caller_on_an_incomplete_line_is_not_read_as_a_record(path):
    """The line ends within the body of its request, where a full disk or a killed process cut it off."""
    engine(path).decide({**PAY, "body": {"note": [FORGED, FORGED]}})
    whole = path.read_bytes()
    forged = whole.index(b"forged")
    cut = whole.index(b"}", whole.index(b"}", forged) + 1) + 1
    assert json.loads(whole[whole.rindex(b"{", 0, whole.rindex(b'"v"', 0, forged)) : cut])["v"] == 2
    path.write_bytes(whole[:cut] + b"\n" + whole)
    (record,) = read_records(path)
    assert read_ids(path) == [[record.id]] * 3


def test_a_value_of_a_caller_does_not_hide_the_line_after_an_incomplete_one(path):
    asked = engine(path)
    decision = asked.decide({**PAY, "body": {"note": FORGED}})
    whole = path.read_bytes()
    path.write_bytes(whole[:70] + whole)
    assert read_ids(path) == [[decision.id]] * 3


@given(st.binary(max_size=60), st.integers(0, 400))
def test_arbitrary_bytes_in_the_log_do_not_stop_the_reader(tmp_path_factory, junk, at):
    path = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    engine(path).decide({**PAY, "body": {"note": datetime(2027, 1, 1, tzinfo=UTC)}})
    good = path.read_bytes()
    path.write_bytes(good + good[:at] + junk + good[at:] + good)
    assert len(list(read_records(path))) >= 1


def test_a_record_without_its_entities_cannot_be_replayed(path):
    record = replace(recorded(path, PAY), directory=None)
    with pytest.raises(ReplayError, match="does not contain the entities"):
        replay_decision(record, Engine.from_text(POLICY).kernel)


# ── Masked by pattern, and by the policy ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("body.**.note", {"body.note", "body.to.note", 'body.list["0"].note'}),
        ("body.*.note", {"body.to.note"}),
        ("body.list.*.note", {'body.list["0"].note'}),
        ("body.note", {"body.note"}),
        ("body.to", {"body.to"}),
    ],
)
def test_a_star_in_a_redact_pattern_matches_members(path: Path, pattern: str, hidden: set[str]) -> None:
    body = {"amount": 1, "note": "a", "to": {"note": "b"}, "list": [{"note": "c"}]}
    record = recorded(path, {**PAY, "body": body}, redact=[pattern])
    assert {one.fact for one in record.redacted} == hidden


@pytest.mark.parametrize("pattern", ["request.**.path", "request.*.method"])
def test_a_star_does_not_redact_facts_that_identify_the_request(path: Path, pattern: str) -> None:
    assert recorded(path, {**PAY, "body": {"amount": 1}}, redact=[pattern]).redacted == ()


@pytest.mark.parametrize("pattern", ["body.*", "body.card.**", "**.card", "user.*.id", "body.***.x", "*"])
def test_a_redact_pattern_that_hides_too_much_or_nothing_is_rejected(path: Path, pattern: str) -> None:
    with pytest.raises(DecisionLogError):
        DecisionLog(path, redact=[pattern])


CARDS = """
facts { body.amount: number   body.card: string }
anyone { may POST /pay }
guard "cards" on POST /pay { redact body.card when body.amount > 100 }
guard "test cards" on POST /pay { deny when body.card like "0000*" }
"""


def test_a_redact_obligation_also_redacts_the_log(path: Path) -> None:
    asked = Engine.from_text(CARDS, clock=lambda: NOW, log=DecisionLog(path))
    for amount in (50, 500):
        assert asked.decide({**PAY, "body": {"amount": amount, "card": "4111-1"}}).allowed
    small, large = read_records(path)
    assert [one.fact for one in large.redacted] == ["body.card"]
    assert small.redacted == ()
    assert path.read_text().count("4111-1") == 1


@pytest.mark.parametrize("card", ["4111-1", "0000-1"])
def test_a_replay_that_may_depend_on_a_redacted_fact_is_unsure(path: Path, card: str) -> None:
    asked = Engine.from_text(CARDS, clock=lambda: NOW, log=DecisionLog(path, redact=["body.card"]))
    asked.decide({**PAY, "body": {"amount": 50, "card": card}})
    (record,) = read_records(path)
    assert replay_decision(record, asked.kernel).unsure == ("body.card",)


def test_a_replay_that_does_not_depend_on_a_redacted_fact_is_sure(path: Path) -> None:
    asked = engine(path, redact=["body.note"])
    asked.decide({**PAY, "body": {"amount": 50, "note": "hello"}})
    (record,) = read_records(path)
    again = replay_decision(record, asked.kernel)
    assert (again.unsure, again.same) == ((), True)


def test_a_replay_of_an_allow_that_depends_on_a_redacted_fact_is_unsure(path: Path) -> None:
    """With the fingerprint in its place the door stays shut, and so it does where it is unknown: both say nothing."""
    text = 'facts { body.code: string? }\nanyone { may POST /pay when body.code == "open" }\n'
    asked = Engine.from_text(text, clock=lambda: NOW, log=DecisionLog(path, redact=["body.code"]))
    assert asked.decide({**PAY, "body": {"code": "open"}}).allowed
    (record,) = read_records(path)
    again = replay_decision(record, asked.kernel)
    assert not again.same
    assert again.unsure == ("body.code",)


# ── Approvals of what was left out ────────────────────────────────────────────────────────────

ASKS = """
entity user { roles: set<string> }
anyone { may POST /pay }
guard "ask" on POST /pay { confirm by role finance   confirm by 2 of role finance when body.amount > 500 }
facts { body.amount: number? }
"""
FINANCE = [{"type": "user", "id": name, "attributes": {"roles": ["finance"]}} for name in ("carol", "dora")]


@pytest.mark.parametrize("body", [{"amount": 1, "token": "s3cret"}, {"amount": 501, "token": 7}, {"x": "x" * 70_000}])
def test_a_spent_approval_bound_to_redacted_facts_counts_in_a_replay(path: Path, body: dict[str, object]) -> None:
    """A digest of it cannot be made again: it was spent, so it counted."""
    asked = Engine.from_text(ASKS, clock=lambda: NOW, log=DecisionLog(path), approvals=TRUSTING)
    question = {**PAY, "body": body, "entities": FINANCE}
    granted = [
        {"id": f"{number}-{who}", "by": who, "granted_at": NOW.isoformat(), "binding": remedy.binding}
        for number, remedy in enumerate(asked.decide(question).remedies)
        for who in ("carol", "dora")
    ]
    assert asked.decide({**question, "approvals": granted}).allowed
    assert not asked.decide({**question, "body": {**body, "more": 1}, "approvals": granted}).allowed
    outcomes = []
    for record in read_records(path):
        again = replay_decision(record, asked.kernel)
        assert again.same
        outcomes.append(str(again.decision.outcome))
    assert outcomes == ["confirm", "allow", "confirm"]


def test_replay_denies_a_confirm_that_binds_unknown_facts(path: Path) -> None:
    asked = Engine.from_text(ASKS, clock=lambda: NOW, log=DecisionLog(path), approvals=TRUSTING)
    asked.decide('{"request": {"method": "POST", "path": "/pay"}, "body": {"a": 1, "a": 2}}')
    asked.decide({**PAY, "pending": ["body.note"], "body": {}})
    found = [replay_decision(record, asked.kernel) for record in read_records(path)]
    assert [(again.same, str(again.decision.outcome)) for again in found] == [(True, "deny")] * 2

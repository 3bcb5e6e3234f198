"""A line holds what its decision rested on of what happened before, so that it comes to the same again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.analysis.replay import replay
from policyengine.audit import (
    DecisionLog,
    DecisionRecord,
    ReplayError,
    confirm_replay,
    logged_history,
    read_records,
    replay_decision,
)
from policyengine.engine import Engine
from policyengine.stores.memory.store import MemoryStore

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
HEAD = """
entity user { roles: set<string> }
facts { body.amount: number?   body.token: string?   body.note: string? }
issuer acme { url "https://acme.example"   scopes none }
user any { may POST /review/{id}, POST /change/{id}, POST /pay/{id}, GET /secret, POST /out }
"""
POLICY = f"""{HEAD}
guard "reviewed" on POST /pay/{{id}} {{
  require after (POST /review/{{id}} by another user where past.params.id == params.id and past.status < 400) within 1h
    since (POST /change/{{id}} by any user where past.params.id == params.id)
}}
guard "much" on POST /out {{ deny when sum past.body.amount of POST /pay/{{id}} within 1h > 10 }}
guard "refused" on POST /out {{ deny when count of (denied POST /pay/{{id}}) within 1h >= 2 }}
"""


class Playing:
    """An engine with a log, a clock that moves, and the gateway that reports."""

    def __init__(self, path: Path, policy: str = POLICY, **options: Any) -> None:
        self.path, self.now = path, NOW
        log, store = DecisionLog(path, **options), MemoryStore(history_complete=True)
        self.engine = Engine.from_text(policy, clock=lambda: self.now, log=log, store=store)

    def ask(self, what: str, user: str = "ann", status: int | None = None, minutes: int = 0, **body: object) -> str:
        self.now += timedelta(minutes=minutes)
        method, path = what.split()
        asked = {"request": {"method": method, "path": path}, "user": {"id": user}, "body": body}
        decision = self.engine.decide({**asked, "credential": {"issuer": "acme"}})
        if status is not None:
            assert self.engine.report(decision.id, status=status)
        return str(decision.outcome)

    def again(self) -> Iterator[tuple[DecisionRecord, bool]]:
        for record in read_records(self.path):
            found = confirm_replay(replay_decision(record, self.engine.kernel), self.engine.kernel)
            yield record, found.decision.to_dict() == record.decision


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def test_replay_of_decisions_with_history_gives_the_same_decisions(path: Path) -> None:
    playing = Playing(path)
    outcomes = [
        playing.ask("POST /pay/1"),
        playing.ask("POST /review/1", "ben"),
        playing.ask("POST /pay/1"),  # it is not known yet how the review came out
        playing.ask("POST /out"),
        playing.ask("POST /review/1", "ben", status=201),
        playing.ask("POST /pay/1", minutes=5, amount=11),
        playing.ask("POST /pay/2"),
        playing.ask("POST /out"),
        playing.ask("POST /change/1", "cleo"),
        playing.ask("POST /pay/1"),
        playing.ask("POST /out", minutes=90),
    ]
    assert outcomes == [
        "deny", "allow", "deny", "deny", "allow", "allow", "deny", "deny", "allow", "deny", "allow",
    ]  # fmt: skip
    assert [same for _, same in playing.again()] == [True] * len(outcomes)


def test_a_record_lists_only_the_past_decisions_that_counted(path: Path) -> None:
    playing = Playing(path)
    for user, what in (("ben", "/review/2"), ("ann", "/review/1"), ("ben", "/review/1")):
        playing.ask(f"POST {what}", user, status=200)
    assert playing.ask("POST /pay/1") == "allow"
    *_, counted, paid = [json.loads(line) for line in path.read_text().splitlines()]
    (reviews,) = (one for one in paid["history"] if one["event"].startswith("(POST /review"))
    assert [one["decision"] for one in reviews["events"]] == [counted["decision"]["id"]]
    assert "history" not in counted


def test_a_redacted_past_fact_is_logged_as_a_fingerprint_and_still_compared(path: Path) -> None:
    condition = "after (GET /secret where past.body.token == body.token and past.body.note == body.note) within 1h"
    playing = Playing(path, f'{HEAD}guard "g" on POST /out {{ deny when {condition} }}', redact=["body.note"])
    playing.ask("GET /secret", token="hush-hush", note="n")
    assert playing.ask("POST /out", token="hush-hush", note="n") == "deny"
    assert playing.ask("POST /out", token="other", note="n") == "allow"
    assert "hush-hush" not in path.read_text()
    assert '"n"' not in path.read_text()
    assert [replay_decision(record, playing.engine.kernel).same for record in read_records(path)] == [True] * 3


def test_a_redacted_past_fact_that_is_not_a_string_is_unknown_in_a_replay(path: Path) -> None:
    condition = "after (GET /secret where past.body.amount > 5) within 1h"
    playing = Playing(path, f'{HEAD}guard "g" on POST /out {{ deny when {condition} }}', redact=["body.amount"])
    playing.ask("GET /secret", amount=7)
    assert playing.ask("POST /out") == "deny"
    *_, (record, _) = playing.again()
    assert [one.fact for one in replay_decision(record, playing.engine.kernel).decision.unknown] == ["past.body.amount"]
    assert '"facts":[7]' not in path.read_text()


@pytest.mark.parametrize("output", [None, {}, {"token": None}, {"token": "hush"}, {"state": "open"}])
@pytest.mark.parametrize(
    "condition",
    [
        "after (GET /secret where past.status is absent) within 1h",
        "after (GET /secret where past.output.token is absent) within 1h",
        'after (GET /secret where (past.output.token else "none") == "none") within 1h',
        "sum (past.status else 7) of GET /secret within 1h == 7",
        'distinct (past.output.token else "none") of GET /secret within 1h > 1',
    ],
)
def test_a_replay_reads_the_same_unanswered_requests(path: Path, condition: str, output: dict[str, object]) -> None:
    playing = Playing(path, f'{HEAD}guard "g" on POST /out {{ deny when {condition} }}')
    asked = {"request": {"method": "GET", "path": "/secret"}, "user": {"id": "ann"}, "credential": {"issuer": "acme"}}
    read = playing.engine.decide(asked)
    if output is not None:
        assert playing.engine.report(read.id, status=200, output=output)
    playing.ask("POST /out")
    assert [same for _, same in playing.again()] == [True, True]
    assert "hush" not in path.read_text()


def test_a_record_with_too_many_past_events_cannot_be_replayed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_history, "MAX_EVENTS", 3)
    playing = Playing(path, f'{HEAD}guard "g" on POST /out {{ deny when count of GET /secret within 1h > 9 }}')
    for _ in range(4):
        playing.ask("GET /secret")
    playing.ask("POST /out")
    *_, record = read_records(path)
    with pytest.raises(ReplayError, match="does not contain the history"):
        replay_decision(record, playing.engine.kernel)


def test_a_record_without_its_history_is_read_but_cannot_be_replayed(path: Path) -> None:
    playing = Playing(path)
    playing.ask("POST /pay/1")
    playing.ask("POST /review/1")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{name: value for name, value in line.items() if name != "history"} for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in old))
    paid, reviewed = read_records(path)
    assert (paid.outcome, dict(paid.history)) == ("deny", {})
    with pytest.raises(ReplayError):
        replay_decision(paid, playing.engine.kernel)
    assert replay_decision(reviewed, playing.engine.kernel).same


def test_the_denial_of_an_unidentified_caller_is_replayed_without_history(path: Path) -> None:
    playing = Playing(path)
    playing.engine.decide({"request": {"method": "POST", "path": "/pay/1"}, "body": {}})
    assert [same for _, same in playing.again()] == [True]


def test_replay_reports_the_flips_of_a_policy_with_a_stricter_history_window(path: Path) -> None:
    playing = Playing(path)
    playing.ask("POST /review/1", "ben", status=200)
    playing.ask("POST /pay/1", minutes=20)
    playing.ask("POST /pay/1", minutes=20)
    stricter = Engine.from_text(POLICY.replace("within 1h\n    since", "within 30m\n    since")).kernel
    replayed = replay(path, playing.engine.kernel, stricter)
    assert (replayed.records, replayed.unusable, [one.line for one in replayed.flips]) == (3, 0, [3])


def test_a_policy_that_needs_other_history_makes_the_record_unusable(path: Path) -> None:
    playing = Playing(path)
    playing.ask("POST /out")
    other = Engine.from_text(POLICY.replace("sum past.body.amount of POST", "sum past.body.amount of (denied POST")
                             .replace("{id} within 1h > 10", "{id}) within 1h > 10")).kernel  # fmt: skip
    assert replay(path, playing.engine.kernel, other).unusable == 1

"""What people see of an approval beside the request: entity rows, and the history of the requester."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from policyengine.approvals.model import ApprovalRequest
from policyengine.audit import DecisionLog
from policyengine.audit.query.log_process import LogReader, LogReadError
from policyengine.engine import Engine
from policyengine.engine import approval_context as context
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef
from tests.server.approving import Desk, bearer, token

POLICY = """language 1
package shop
entity agent { team: string }
entity org { plan: string }
entity user { roles: set<string>  org: org ?  password: string ? }
entity invoice { owner: user  reviewers: set<user> }
facts on POST /invoices/{id: invoice}/void { body.of: string ? }
anyone { may POST /invoices/{id: invoice}/void, POST /other }
guard "voiding" on POST /invoices/{id: invoice}/void {
  confirm by resource.reviewers within 15m
    when resource.owner.org.plan == "free" or (any r in resource.reviewers: r.org.plan == "x")
    message "void for {resource.owner.id}"
}
guard "other" on POST /other { confirm by role finance within 15m }
"""
ROWS = {
    ("agent", "bot"): {"team": "billing"},
    ("org", "o1"): {"plan": "free"},
    ("user", "alice"): {"roles": ["x"], "password": "hunter2"},
    ("user", "gus"): {"roles": [], "org": EntityRef("org", "o1")},
    ("invoice", "7"): {"owner": EntityRef("user", "gus"), "reviewers": [EntityRef("user", "carol")]},
}
VOID = {
    "request": {"method": "POST", "path": "/invoices/7/void"}, "agent": {"id": "bot"}, "user": {"id": "alice"},
    "options": {"request_approval": True},
}  # fmt: skip


def rows_of(raw: Any) -> EntityStore:
    return EntityStore([EntityData(EntityRef(*name), attributes) for name, attributes in raw.items()])


def opened(engine: Engine, question: Any = VOID) -> ApprovalRequest:
    engine.decide(question)
    assert engine.approvals is not None
    return engine.approvals.list()[0].approval


def directory(engine: Engine, approval: ApprovalRequest | None = None) -> dict[str, dict[str, Any]]:
    shown: list[Any] = context.describe_directory(engine, approval or opened(engine))
    return {f"{row['type']} {row['id']}": row for row in shown}


def test_the_rows_are_those_of_the_requester_and_of_what_the_rule_reads() -> None:
    found = directory(Engine.from_text(POLICY, directory=rows_of(ROWS)))
    assert list(found) == ["user alice", "agent bot", "invoice 7", "org o1", "user gus"]
    assert found["invoice 7"]["attributes"] == {"owner": 'user "gus"', "reviewers": ['user "carol"']}
    assert found["org o1"]["attributes"] == {"plan": "free"}


def test_another_rule_reads_less() -> None:
    engine = Engine.from_text(POLICY, directory=rows_of(ROWS))
    question = {**VOID, "request": {"method": "POST", "path": "/other"}}
    assert list(directory(engine, opened(engine, question))) == ["user alice", "agent bot"]


def test_secrets_in_rows_are_not_shown() -> None:
    found = directory(Engine.from_text(POLICY, directory=rows_of(ROWS)))
    assert found["user alice"]["attributes"]["password"].startswith("redacted:")


def test_an_entity_without_a_row_is_not_known_and_an_agent_without_one_is_left_out() -> None:
    found = directory(Engine.from_text(POLICY, directory=rows_of({("invoice", "7"): ROWS["invoice", "7"]})))
    assert found["user alice"] == {"type": "user", "id": "alice", "known": False}
    assert "agent bot" not in found


def test_after_a_reload_only_the_requester_is_shown() -> None:
    engine = Engine.from_text(POLICY, directory=rows_of(ROWS))
    approval = opened(engine)
    changed = engine.successor(Engine.from_text(POLICY.replace('"free"', '"paid"')).kernel)
    assert list(directory(changed, approval)) == ["user alice", "agent bot"]


def test_the_rows_are_the_current_ones() -> None:
    engine = Engine.from_text(POLICY, directory=rows_of(ROWS))
    approval = opened(engine)
    engine.replace_directory(rows_of({**ROWS, ("user", "alice"): {"roles": ["new"]}}))
    assert directory(engine, approval)["user alice"]["attributes"] == {"roles": ["new"]}


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_ROWS", 2)
    monkeypatch.setattr(context, "MAX_ATTRIBUTES", 3)
    monkeypatch.setattr(context, "MAX_TEXT", 4)
    monkeypatch.setattr(context, "MAX_ITEMS", 2)
    large = {"a": "x" * 9, "b": [1, 2, 3], "c": {"1": 1, "2": 2, "3": 3}, "d": 1, "e": 2}
    found = directory(Engine.from_text(POLICY, directory=rows_of({**ROWS, ("user", "alice"): large})))
    assert list(found) == ["user alice", "agent bot"]
    assert found["user alice"]["attributes"] == {
        "a": "xxxx…", "b": [1, 2, "… 1 more"], "c": {"1": 1, "2": 2, "…": "1 more"},
    }  # fmt: skip
    assert found["user alice"]["more_attributes"] == 2


def test_the_groups_of_an_entity_are_shown() -> None:
    text = POLICY.replace("entity user {", "entity team { }\nentity user {").replace(
        "password: string ? }", "} in team"
    )
    team = EntityRef("team", "money")
    store = EntityStore([EntityData(EntityRef("user", "alice"), {}, (team,)), EntityData(team, {})])
    assert directory(Engine.from_text(text, directory=store))["user alice"]["in"] == ['team "money"']


# ── The history ───────────────────────────────────────────────────────────────────────────────


def test_without_a_log_or_a_reader_the_history_is_unread(tmp_path: Path) -> None:
    engine = Engine.from_text(POLICY)
    assert context.read_history(engine, opened(engine), LogReader()) == {"unread": context.NO_LOG}
    logged = Engine.from_text(POLICY, log=DecisionLog(tmp_path / "log.jsonl", seal=None))
    assert "unread" in context.read_history(logged, opened(logged), None)


def test_a_log_that_cannot_be_read_in_time_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reader: LogReader, question: object) -> None:
        raise LogReadError("reading the log took longer than 3 s")

    monkeypatch.setattr(LogReader, "ask", fail)
    engine = Engine.from_text(POLICY, log=DecisionLog(tmp_path / "log.jsonl", seal=None))
    assert engine.approvals is not None
    opened(engine)
    found = context.describe_details(engine, engine.approvals.list()[0], LogReader())
    assert found["history"] == {"unread": "reading the log took longer than 3 s"}
    assert found["rule"] == "voiding"


def make_fifo(log: Path) -> None:
    log.unlink()
    os.mkfifo(log)


def make_folder(log: Path) -> None:
    log.unlink()
    log.mkdir()


def rotate_fifo(log: Path) -> None:
    os.mkfifo(log.with_name(f"{log.name}.1"))


def loop(log: Path) -> None:
    log.unlink()
    log.symlink_to(log)


def garble(log: Path) -> None:
    with log.open("ab") as opened:
        opened.write(b"\xff\xfe\0{" + b'{"v":1,"decision":' * 2_000 + b"\n" + b"9" * 100_000 + b"\n{}\n[]\nnull\n")


def forge(log: Path) -> None:
    """Add records of the requester whose members have other types."""
    agent = '{"agent": "bot"}'
    with log.open("a") as opened:
        for system in ('{"event": "approval", "agent": "bot", "approval": [1], "state": {}}', "[]", '"bot"'):
            opened.write(f'{{"v": 1, "time": "2999-01-01T00:00:00Z", "kind": "system", "system": {system}}}\n')
        for decision in (f'{{"principal": {agent}, "outcome": []}}', '{"principal": "bot"}', '"bot"'):
            opened.write(f'{{"v": 1, "time": "2999-01-01T00:00:00Z", "decision": {decision}}}\n')


def lie_about_compression(log: Path) -> None:
    log.write_bytes(b"\x1f\x8b" + b"\0" * 100)


@pytest.fixture(scope="module")
def reader() -> Iterator[LogReader]:
    """A reader with one process, which no log ends."""
    with closing(LogReader(5.0)) as made:
        yield made


@pytest.mark.parametrize(
    ("spoil", "is_read"),
    [
        (make_fifo, False), (make_folder, False), (loop, False), (Path.unlink, False), (rotate_fifo, True),
        (garble, True), (forge, True), (lie_about_compression, True),
    ],
)  # fmt: skip
def test_no_state_of_the_log_hides_an_approval_from_its_approver(
    tmp_path: Path, reader: LogReader, spoil: Callable[[Path], None], is_read: bool
) -> None:
    engine = Engine.from_text(POLICY, log=DecisionLog(tmp_path / "log.jsonl", seal=None))
    opened(engine)
    assert engine.approvals is not None
    spoil(tmp_path / "log.jsonl")
    found = context.describe_details(engine, engine.approvals.list()[0], reader)
    history: Any = found["history"]
    assert (found["rule"], "unread" not in history) == ("voiding", is_read), history


def test_the_history_goes_on_after_a_rotation(tmp_path: Path, reader: LogReader) -> None:
    log = tmp_path / "log.jsonl"
    engine = Engine.from_text(POLICY, log=DecisionLog(log, seal=None))
    opened(engine, {**VOID, "request": {"method": "POST", "path": "/other"}})
    approval = opened(engine)
    log.rename(log.with_name("log.jsonl.1"))
    engine.decide({**VOID, "body": {"of": "x"}})
    history: Any = context.read_history(engine, approval, reader)
    assert history["decisions"] == {"confirm": 3}


def test_only_people_who_may_answer_get_rows_and_history(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    id = desk.opened()
    for person in ("bob", "alice"):
        answer = desk.call("GET", f"/approvals/{id}/details", headers=bearer(token(person)))
        assert answer.status_code == 403
        assert "directory" not in answer.json()

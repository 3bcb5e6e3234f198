"""What people and operators read about approvals and entities when something does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit.query.requester_history import RequesterSearch
from policyengine.server import create_app
from tests.integrations.serving import serving
from tests.server.approving import Desk, bearer, token


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def url(desk: Desk) -> Iterator[str]:
    with serving(create_app(desk.engine)) as found:
        yield found


def test_an_answer_to_an_approval_that_was_used_says_so(desk: Desk) -> None:
    id = desk.opened()
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token())).status_code == 200
    approved = desk.call("POST", f"/approvals/{id}/deny", headers=bearer(token()))
    assert approved.json()["detail"] == "the approval is approved, and can no longer be answered"
    assert desk.ask()["outcome"] == "allow"
    for verb in ("approve", "deny", "withdraw"):
        spent = desk.call("POST", f"/approvals/{id}/{verb}", headers=bearer(token()))
        assert (spent.status_code, spent.json()["detail"]) == (
            409, "the approval is spent, and can no longer be answered"
        )  # fmt: skip
    stranger = desk.call("POST", f"/approvals/{id}/deny", headers=bearer(token("bob")))
    assert stranger.json()["code"] == "not_approver"  # who may not answer learns no more than before


def test_https_to_a_server_without_tls_is_named(url: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token())
    ended = run("approvals", "list", "--token-file", "token", "--url", url.replace("http://", "https://"))
    assert ended.code == 1
    assert "the server cannot be reached: it does not answer with TLS: is it a server for `http://`?" in ended.err


# ── The history of a requester ────────────────────────────────────────────────────────────────


def approval_line(second: int, state: str, by: str | None = None, id: str = "a") -> str:
    who = {"agent": "bot", "agent_issuer": "acme", "user": "alice", **({} if by is None else {"by": by})}
    details = {"event": "approval", "approval": id, "state": state, "rule": "pair", "endpoint": "POST /refund", **who}
    return json.dumps({"v": 2, "time": f"2027-01-04T12:00:{second:02}.000000Z", "system": details})


@pytest.mark.parametrize(
    ("lines", "state", "by"),
    [
        ([("pending", None), ("approved", "carol"), ("approved", "dave")], "approved", "carol, dave"),
        ([("pending", None), ("approved", "carol"), ("approved", "carol")], "approved", "carol"),
        ([("pending", None), ("approved", "carol"), ("denied", "dave")], "denied", "dave"),
        ([("pending", None), ("approved", "carol"), ("expired", None)], "expired", ""),
    ],
)
def test_a_history_names_all_who_approved(tmp_path: Path, lines: list[Any], state: str, by: str) -> None:
    log = tmp_path / "log.jsonl"
    written = [approval_line(second, *line) for second, line in enumerate(lines)]
    log.write_text("\n".join([*written, approval_line(9, "approved", "erin", id="b")]) + "\n")
    found = RequesterSearch(log, "bot", "acme", "alice", "2027").answer()
    assert [(one.id, one.state, one.by) for one in found.latest_approvals] == [
        ("b", "approved", "erin"),
        ("a", state, by),
    ]
    assert sum(found.approvals.values()) == 2


# ── Entities ──────────────────────────────────────────────────────────────────────────────────

POLICY = (
    "language 1\npackage shop\nentity team {}\nentity user { roles: set<string> } in team\nanyone { may GET /health }\n"
)


IN_HINT = "hint: write the entities that contain this entity under `in`\n"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"attributes": 5}, "error: `e.json`: `entities[0].attributes` must be an object, got int\n"),
        (
            {"parents": [{"type": "team", "id": "x"}]},
            "error: `e.json`: unknown member `entities[0].parents`\n" + IN_HINT,
        ),
        (
            {"memberOf": []},
            "error: `e.json`: unknown member `entities[0].memberOf`\n" + IN_HINT,
        ),
    ],
)
def test_a_mistake_in_entities_is_named_once(run: Any, tmp_path: Path, row: Any, error: str) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    (tmp_path / "e.json").write_text(json.dumps({"entities": [{"type": "user", "id": "a", **row}]}))
    assert run("check", "p.policy", "--entities", "e.json").err == error

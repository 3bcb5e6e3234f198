"""The decision log says who was given a token and who ended what: before anybody is told, and never the token."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from policyengine import Engine
from policyengine.audit import DecisionLog, DecisionRecord, LogEntry, TokenEvent, TokenEventKind, log_file, read_log
from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT
from policyengine.reload import ReloadableEngine
from policyengine.server.app import create_app
from tests.identity.minting import POLICY, Desk, assertion, policy, subject

UNNAMED, NAMED = "operator-of-this-test", "another-one-of-this-test"
OPERATOR, EDGE = ({"Authorization": f"Bearer {one}"} for one in (UNNAMED, NAMED))
READ = "read:invoices"
PROOF = {"DPoP": "jkt-1"}
KEY = "A" * 43  # a thumbprint


class World:
    """A server that issues tokens and writes a log; `secrets` is all that anybody sent to it or was given."""

    def __init__(self, desk: Desk, path: Path, **options: Any) -> None:
        self.desk, self.path, self.secrets = desk, path, [UNNAMED, NAMED]
        self.log = DecisionLog(path, **options)
        engine = Engine(
            policy().kernel, clock=lambda: datetime.fromtimestamp(desk.now, UTC), identity=desk.identity, log=self.log
        )
        desk.identity.issuing = replace(desk.first, clock=lambda: desk.now)
        self.reloading = ReloadableEngine(engine)
        self.client = TestClient(create_app(self.reloading, token=[UNNAMED, f"edge: {NAMED}"]))

    def post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> Any:
        return self.client.post(path, data=form, headers=headers or {})

    def exchange(self, by: str = "summarizer", dpop: str = "jkt-1", **changes: str) -> Any:
        form = {
            "grant_type": TOKEN_EXCHANGE_GRANT,
            "subject_token": subject(),
            "subject_token_type": ACCESS_TOKEN,
            "scope": READ,
            **self.proof(by),
            **changes,
        }
        self.secrets += [form["subject_token"], form["client_assertion"]]
        answer = self.post("/token", form, {"DPoP": dpop})
        self.secrets += [answer.json()["access_token"]] if answer.status_code == 200 else []
        return answer

    def issued(self, **changes: str) -> str:
        raw: str = self.exchange(**changes).json()["access_token"]
        return raw

    def proof(self, name: str) -> dict[str, str]:
        found = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion(name)}
        self.secrets.append(found["client_assertion"])
        return found

    def decide(self, raw: str, dpop: str = "jkt-1") -> Any:
        asked = {
            "request": {"method": "GET", "path": "/v1/invoices"},
            "credentials": {"authorization": f"DPoP {raw}", "dpop": dpop},
        }
        return self.client.post("/decide", json=asked, headers=OPERATOR).json()

    def entries(self) -> list[LogEntry]:
        told: list[str] = []
        found = list(read_log(self.path, told.append))
        assert told == []
        return found

    def told(self) -> list[tuple[TokenEventKind, dict[str, Any]]]:
        return [(one.what, dict(one.told)) for one in self.entries() if isinstance(one, TokenEvent)]

    def last(self) -> dict[str, Any]:
        return self.told()[-1][1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def world(shared: Desk, tmp_path: Path) -> World:
    return World(shared.fresh(), tmp_path / "decisions.jsonl")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with room for as many bytes as the list holds, and then for none."""
    left, write = [1 << 30], os.write

    def short(file: int, data: bytes) -> int:
        if left[0] < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(data)
        return write(file, data)

    monkeypatch.setattr(log_file.os, "write", short)
    return left


def print_of(raw: str) -> str:
    return f"sha256:{sha256(raw.encode()).hexdigest()[:32]}"


# ── Issued ────────────────────────────────────────────────────────────────────────────────────


def test_an_issued_record_holds_client_chain_user_task_and_expiry(world: World) -> None:
    shown = subject(jti="root")
    raw = world.issued(subject_token=shown, task='{"id": "t-1", "tools": ["pay"]}')
    assert [what for what, _ in world.told()] == [TokenEventKind.ISSUED]
    told = world.last()
    assert (told["client"], told["method"], told["audience"]) == ("summarizer", "private_key_jwt", "payments-api")
    assert (told["agent"], told["user"]) == ({"id": "summarizer", "issuer": "desk"}, {"id": "alice"})
    (hop,) = told["chain"]["hops"]
    assert (hop["agent"], hop["issuer"], hop["issued_at"]) == ("planner", "acme", "2027-01-15T07:59:00Z")
    assert told["task"] == {"id": "t-1", "tools": ["pay"]}
    credential = told["credential"]
    assert (credential["scopes"], credential["expires_at"]) == ([READ], "2027-01-15T08:15:00Z")
    assert (told["bound_to"], credential["bound"]) == ({"jkt": "jkt-1"}, True)
    assert (told["package"], told["revision"]) == ("acme.desk", policy().revision)
    assert told["subject"] == {
        "fingerprint": print_of(shown), "issuer": "acme", "jti": "root", "agent": "planner", "user": "alice",
    }  # fmt: skip
    assert credential["fingerprint"] == print_of(raw)


def test_decision_records_carry_fingerprint_and_facts_of_the_issued_token(world: World) -> None:
    one, other = world.issued(), world.issued()
    ids = [world.decide(raw)["id"] for raw in (one, other, one)]
    first, second, *decisions = world.entries()
    assert isinstance(first, TokenEvent)
    by_first = [entry for entry in decisions if entry.fingerprint == first.fingerprint]
    assert [entry.id for entry in by_first if isinstance(entry, DecisionRecord)] == [ids[0], ids[2]]
    assert first.fingerprint != second.fingerprint
    (record, *_) = by_first
    assert isinstance(record, DecisionRecord)
    for root in ("agent", "user"):
        assert record.request[root] == first.told[root]
    assert record.request["credential"]["scopes"] == first.told["credential"]["scopes"]  # type: ignore[index]


def test_the_record_of_a_derived_token_names_the_fingerprint_of_its_subject_token(world: World) -> None:
    first = world.issued()
    second = world.issued(by="reader", dpop="jkt-2", subject_token=first)
    assert world.decide(second, "jkt-2")["outcome"] == "allow"
    (_, one), (_, other) = world.told()
    assert other["subject"]["fingerprint"] == one["credential"]["fingerprint"]
    assert [hop["agent"] for hop in other["chain"]["hops"]] == ["planner", "summarizer"]


def test_the_record_names_an_actor_token_by_its_fingerprint(world: World) -> None:
    own = subject(client_id="summarizer", cnf={"jkt": "jkt-1"})
    world.secrets.append(own)
    assert world.exchange(actor_token=own, actor_token_type=ACCESS_TOKEN).status_code == 200
    assert world.last()["actor"]["fingerprint"] == print_of(own)


def test_an_issued_record_has_the_revision_of_the_current_policies(world: World) -> None:
    world.issued()
    other = Engine.from_text(POLICY.replace("depth <= 2", "depth <= 3"))
    world.reloading.replace(world.reloading.current.successor(other.kernel))
    world.issued()
    assert [told["revision"] for _, told in world.told()] == [policy().revision, other.revision]
    assert other.revision != policy().revision


def test_redaction_applies_to_token_records(shared: Desk, tmp_path: Path) -> None:
    world = World(shared.fresh(), tmp_path / "log", redact=["task.id", "credential.subject"])
    raw = world.issued(task='{"id": "a-secret-task"}')
    world.decide(raw)
    world.post("/tasks/a-secret-task/complete", {}, OPERATOR)
    world.exchange(task='{"id": "a-secret-task"}', scope="write:invoices")
    assert [type(one) for one in world.entries()] == [TokenEvent, DecisionRecord, TokenEvent, TokenEvent]
    assert "a-secret-task" not in world.path.read_text()
    issued, record, ended, _ = world.entries()
    assert {one.fact for one in issued.redacted} == {"task.id", "credential.subject"}
    of_the_task = {
        one.fingerprint for entry in (issued, record, ended) for one in entry.redacted if one.fact == "task.id"
    }
    assert len(of_the_task) == 1


def test_a_token_record_has_the_trace_of_its_request(world: World) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = world.post("/revoke", {"key": KEY}, {**OPERATOR, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    (ended,) = world.entries()
    assert ended.trace == answer.headers["traceparent"]
    assert trace in ended.trace


def test_the_log_contains_no_secret(world: World) -> None:
    raw = world.issued(task='{"id": "t-1"}')
    world.decide(raw)
    world.exchange(subject_token="a-token-that-is-none-and-secret")
    world.exchange(scope="write:invoices")
    world.post("/revoke", {"token": raw, **world.proof("summarizer")})
    again = world.issued(task='{"id": "t-2"}')
    world.post("/tasks/t-2/complete", {}, {"Authorization": f"DPoP {again}", **PROOF})
    world.post("/revoke", {"user": "acme/alice"}, EDGE)
    written = world.path.read_text()
    assert len(world.told()) == 7
    for secret in world.secrets:
        assert secret not in written
        assert secret.rsplit(".", 1)[-1] not in written  # nor its signature alone


# ── Not issued ────────────────────────────────────────────────────────────────────────────────


def test_a_refused_exchange_of_a_known_client_is_recorded(world: World) -> None:
    shown = subject(jti="root")
    assert world.exchange(subject_token=shown, scope="write:invoices", task='{"id": "t-1"}').status_code == 400
    assert world.told() == [
        (
            TokenEventKind.NOT_ISSUED,
            {
                "code": "actor_block", "error": "unauthorized_client", "client": "summarizer",
                "method": "private_key_jwt", "agent": {"id": "summarizer", "issuer": "acme"},
                "subject": {"fingerprint": print_of(shown), "issuer": "acme", "jti": "root", "agent": "planner",
                            "user": "alice"},
                "credential": {"scopes": ["write:invoices"]}, "task": {"id": "t-1"},
                "package": "acme.desk", "revision": policy().revision,
            },
        )
    ]  # fmt: skip


def test_the_record_of_a_refused_exchange_names_the_token_by_its_fingerprint(world: World) -> None:
    raw = world.issued()
    world.post("/revoke", {"token": raw}, OPERATOR)
    world.exchange(by="reader", subject_token=raw)
    told = world.last()
    assert (told["code"], told["subject"]) == ("subject_revoked", {"fingerprint": print_of(raw)})


@pytest.mark.parametrize(
    "changes",
    [{"grant_type": "password"}, {"client_assertion": "a.b.c"}, {"client_assertion": ""}, {"scope": "\x7f"}],
    ids=["grant", "assertion", "no client", "parameters"],
)
def test_requests_of_unknown_clients_are_counted_but_not_recorded(world: World, changes: dict[str, str]) -> None:
    assert world.exchange(**changes).status_code in (400, 401)
    assert world.path.read_bytes() == b""
    assert sum(world.desk.identity.counts.values()) == 1


# ── Ended ─────────────────────────────────────────────────────────────────────────────────────


def test_a_revocation_record_names_the_client_and_the_revoked_token(world: World) -> None:
    raw = world.issued()
    assert world.post("/revoke", {"token": raw, **world.proof("summarizer")}).json() == {}
    (_, issued), (what, told) = world.told()
    assert (what, told["what"]) == (TokenEventKind.ENDED, "token")
    assert told["by"] == {
        "kind": "client", "client": "summarizer", "method": "private_key_jwt",
        "agent": {"id": "summarizer", "issuer": "acme"},
    }  # fmt: skip
    for member in ("agent", "user", "chain", "credential", "jti"):
        assert told[member] == issued[member]


NAMES = [
    ({"agent": "acme/planner", "for": "1h"}, {"agent": {"id": "planner", "issuer": "acme"},
                                              "until": "2027-01-15T09:00:00Z"}),
    ({"user": "acme/alice"}, {"user": {"id": "alice", "issuer": "acme"}}),
    ({"task": "acme/t/1"}, {"task": {"id": "t/1"}, "issuers": ["acme"]}),
    ({"chain": "acme/root"}, {"chain": {"issuer": "acme", "jti": "root"}}),
    ({"key": KEY, "for": "99999999d"}, {"key": KEY}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "about"), NAMES, ids=[next(iter(form)) for form, _ in NAMES])
def test_a_revocation_record_names_the_operator_and_the_revoked_name(
    world: World, form: dict[str, str], about: dict[str, Any]
) -> None:
    assert world.post("/revoke", form, EDGE).json() == {}
    told = {"what": next(iter(form)), "by": {"kind": "operator", "name": "edge"}, **about}
    assert world.told() == [(TokenEventKind.ENDED, told)]


def test_a_record_of_an_unnamed_operator_has_only_the_kind(world: World) -> None:
    world.post("/revoke", {"key": KEY}, OPERATOR)
    assert world.last()["by"] == {"kind": "operator"}


def test_a_task_record_names_the_agent_or_operator_that_completed_it(world: World) -> None:
    raw = world.issued(task='{"id": "t-1"}')
    done = {"task": "t-1", "state": "completed"}
    assert world.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {raw}", **PROOF}).json() == done
    agent = {"id": "summarizer", "issuer": "desk"}
    by = {"kind": "agent", "agent": agent, "user": {"id": "alice"}, "fingerprint": print_of(raw)}
    assert world.last() == {"what": "task", "by": by, "task": {"id": "t-1"}, "issuers": ["desk"]}
    assert world.post("/tasks/t-2/complete", {}, EDGE).json() == {**done, "task": "t-2"}
    by_operator = {"kind": "operator", "name": "edge"}
    issuers = ["acme", "desk", "other"]
    assert world.last() == {"what": "task", "by": by_operator, "task": {"id": "t-2"}, "issuers": issuers}


def test_a_rejected_revocation_is_not_recorded(world: World) -> None:
    raw = world.issued()
    world.post("/revoke", {"token": raw, **world.proof("clerk")})
    world.post("/revoke", {"token": "garbage", **world.proof("clerk")})
    world.post("/revoke", {"agent": "planner"}, OPERATOR)
    world.post("/revoke", {"key": "jkt-1"}, OPERATOR)
    world.post("/revoke", {"agent": "acme/planner", **world.proof("clerk")})
    world.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {raw}", **PROOF})
    assert [what for what, _ in world.told()] == [TokenEventKind.ISSUED]


def test_a_record_of_an_unverifiable_token_has_fingerprint_and_refusal_code(world: World) -> None:
    assert world.post("/revoke", {"token": "garbage"}, EDGE).json() == {"verified": False}
    assert world.last() == {
        "what": "token", "by": {"kind": "operator", "name": "edge"}, "verified": False,
        "credential": {"fingerprint": print_of("garbage"), "refused": "not_a_token"},
    }  # fmt: skip


# ── When it cannot be written ─────────────────────────────────────────────────────────────────


def test_no_token_is_issued_if_the_log_cannot_be_written(world: World, room: list[int]) -> None:
    room[0] = 0
    answer = world.exchange()
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "access_token" not in answer.text
    assert (world.desk.identity.counts["issuing_log"], world.desk.identity.counts["issued"]) == (1, 0)
    assert world.log.failures == 1
    room[0] = 1 << 30
    assert world.decide(world.issued())["outcome"] == "allow"


def test_on_failure_continue_issues_tokens_without_a_record(shared: Desk, tmp_path: Path, room: list[int]) -> None:
    world = World(shared.fresh(), tmp_path / "log", on_failure="continue")
    room[0] = 0
    assert world.decide(world.issued())["outcome"] == "allow"
    assert (world.entries(), world.log.failures) == ([], 2)


def test_a_refused_exchange_stays_refused_if_the_log_cannot_be_written(world: World, room: list[int]) -> None:
    room[0] = 0
    assert world.exchange(scope="write:invoices").json()["error"] == "unauthorized_client"
    assert world.log.failures == 1


def test_a_revocation_takes_effect_and_warns_if_it_cannot_be_recorded(world: World, room: list[int]) -> None:
    one, two, three = world.issued(), world.issued(task='{"id": "t-1"}'), world.issued(task='{"id": "t-2"}')
    room[0] = 0
    answers = [
        world.post("/revoke", {"token": one, **world.proof("summarizer")}),
        world.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {two}", **PROOF}),
        world.post("/tasks/t-2/complete", {}, OPERATOR),
        world.post("/revoke", {"agent": "acme/planner"}, OPERATOR),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["recorded"] for answer in answers] == [False] * 4
    assert "could not be recorded" in answers[0].json()["warning"]
    assert answers[1].json()["state"] == "completed"
    room[0] = 1 << 30
    assert [world.decide(raw)["reasons"][0]["code"] for raw in (one, two, three)] == ["revoked"] * 3


def test_repeating_an_unrecorded_revocation_records_it(world: World, room: list[int]) -> None:
    raw = world.issued()
    room[0] = 0
    assert world.post("/revoke", {"token": raw}, EDGE).json()["recorded"] is False
    room[0] = 1 << 30
    assert world.post("/revoke", {"token": raw}, EDGE).json() == {}
    assert [told["credential"]["fingerprint"] for _, told in world.told()] == [print_of(raw)] * 2
    assert world.desk.identity.counts["revoked_now"] == 1


def test_a_revocation_is_not_recorded_while_the_store_is_unavailable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policyengine.stores.base import StoreError

    def fails(*_: object, **__: object) -> None:
        raise StoreError("down")

    monkeypatch.setattr(world.desk.marks, "revoke", fails)
    assert world.post("/revoke", {"agent": "acme/planner"}, OPERATOR).status_code == 503
    assert world.entries() == []


def test_the_token_endpoints_work_without_a_log(shared: Desk) -> None:
    desk = shared.fresh()
    desk.identity.issuing = desk.first
    client = TestClient(create_app(desk.engine, token=UNNAMED))
    form = {
        "grant_type": TOKEN_EXCHANGE_GRANT,
        "subject_token": subject(),
        "subject_token_type": ACCESS_TOKEN,
        "scope": READ,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion("summarizer"),
    }
    raw = client.post("/token", data=form, headers=PROOF).json()["access_token"]
    assert client.post("/revoke", data={"token": raw}, headers=OPERATOR).json() == {}
    assert client.post("/tasks/t-1/complete", headers=OPERATOR).json() == {"task": "t-1", "state": "completed"}

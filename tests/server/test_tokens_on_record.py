"""`serve --identity --log`: what `/token` gives and `/revoke` ends is on record, of all workers and in all files."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlencode

import pytest

from policyengine.audit import DecisionRecord, TokenEvent, TokenEventKind, read_log
from policyengine.audit.files import log_files
from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT
from tests.identity.minting import assertion, subject, write_desk
from tests.identity.test_token_endpoint import dpop
from tests.server.processes import started
from tests.server.test_log import SERVE, limit_files

OPERATOR = "a-token-of-the-operator"
API = "https://api.acme.example/v1/invoices"


@dataclass
class Server:
    port: int
    pid: int

    def post(self, path: str, body: str, kind: str, operator: bool) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        token = {"Authorization": f"Bearer {OPERATOR}"} if operator else {}
        connection.request("POST", path, body, {"Content-Type": kind, **token})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()  # so that another worker may answer the next one
        return answer.status, found

    def form(self, path: str, form: dict[str, str], *, operator: bool = False) -> tuple[int, Any]:
        return self.post(path, urlencode(form), "application/x-www-form-urlencoded", operator)

    def exchange(self) -> tuple[int, Any]:
        now = int(time())
        form = {
            "grant_type": TOKEN_EXCHANGE_GRANT,
            "subject_token": subject(iat=now - 60, exp=now + 600),
            "scope": "read:invoices",
            "subject_token_type": ACCESS_TOKEN,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion("summarizer", now),
        }
        return self.form("/token", form)

    def decide(self, raw: str) -> Any:
        proof = {"authorization": f"DPoP {raw}", "dpop": dpop(raw, API, int(time())), "url": API}
        asked = {"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": proof}
        return self.post("/decide", json.dumps(asked), "application/json", operator=True)[1]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log" / "decisions.jsonl"


@pytest.fixture
def serving(tmp_path: Path, log: Path) -> Any:
    write_desk(tmp_path, int(time()))
    (tmp_path / "tokens").write_text(f"ops: {OPERATOR}\n")
    (tmp_path / "tokens").chmod(0o600)
    log.parent.mkdir()

    @contextmanager
    def start(*options: str) -> Iterator[Server]:
        files = ["--identity", tmp_path / "identity.toml", "--token-file", tmp_path / "tokens", "--log", log]
        arguments = ["serve", tmp_path / "desk.policy", "--port", "0", "--format", "json", *files, *options]
        with started(SERVE, *map(str, arguments)) as (line, process):
            yield Server(int(json.loads(line)["listening"].rpartition(":")[2]), process.pid)

    return start


def test_workers_log_who_got_a_token_what_it_decided_and_who_revoked_it(
    serving: Any, log: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with serving("--workers", "2", "--store", store, "--log-rotate", "4KB") as server:
        given = [server.exchange()[1]["access_token"] for _ in range(10)]
        ids = [server.decide(raw)["id"] for raw in given]
        assert server.form("/revoke", {"token": given[0]}, operator=True) == (200, {})
        assert server.decide(given[0])["reasons"][0]["code"] == "revoked"
    told: list[str] = []
    entries = list(read_log(log, told.append))
    assert (told, len(log_files(log)) > 2) == ([], True)
    issued = {
        one.fingerprint: one for one in entries if isinstance(one, TokenEvent) and one.what is TokenEventKind.ISSUED
    }
    decided = {one.id: one.fingerprint for one in entries if isinstance(one, DecisionRecord)}
    assert len(issued) == 10
    assert [decided[one] in issued for one in ids] == [True] * 10
    assert len({decided[one] for one in ids}) == 10
    assert [one.told["user"] for one in issued.values()] == [{"id": "alice"}] * 10
    (ended,) = (one for one in entries if isinstance(one, TokenEvent) and one.what is TokenEventKind.ENDED)
    assert (ended.fingerprint, ended.told["by"]) == (decided[ids[0]], {"kind": "operator", "name": "ops"})
    written = "".join(file.read_text() for file in log_files(log))
    assert not [raw for raw in (*given, OPERATOR) if raw in written]


def test_with_a_full_disk_no_token_is_issued_but_tokens_can_be_revoked(serving: Any, log: Path) -> None:
    with serving() as server:
        raw = server.exchange()[1]["access_token"]
        limit_files(server.pid, log.stat().st_size)
        status, refused = server.exchange()
        assert (status, refused["error"], "access_token" in refused) == (503, "temporarily_unavailable", False)
        status, ended = server.form("/revoke", {"token": raw}, operator=True)
        assert (status, ended["recorded"]) == (200, False)
        assert server.form("/introspect", {"token": raw}, operator=True)[1] == {"active": False}
    assert [one.what for one in read_log(log) if isinstance(one, TokenEvent)] == [TokenEventKind.ISSUED]

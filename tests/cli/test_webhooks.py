"""`policyengine approvals webhooks`, and a server that is killed while the receiver is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.approvals.events import ApprovalEvent
from policyengine.cli.options.log import LogOptions
from policyengine.cli.options.observe import ObserveOptions
from policyengine.cli.options.serve import LogFailureMode, LogSyncMode, ReloadGateMode
from policyengine.cli.served_engine import EngineSetup, ReloadOptions, load_for_serving, prepare_serving
from policyengine.reload.expiry_timer import record_expiries
from policyengine.stores.memory.store import MemoryStore
from policyengine.webhooks import verify_webhook
from policyengine.webhooks.spool import SpoolMessage, WebhookSpool
from tests.audit.sinks.receivers import Receiver, http_receiver
from tests.processes import wait_until
from tests.server.processes import started
from tests.server.test_log import SERVE, ask
from tests.stores.test_approval_desk import Desk
from tests.webhooks.sending import NOW, SECRET, secret_file

POLICY = """
language 1
package shop
entity user { roles: set<string> }
issuer acme { url "https://login.acme.example" }
facts on POST /refund { body.amount: number }
anyone { may POST /refund }
guard "large" on POST /refund { confirm by role finance within 15m when body.amount > 500 message "refund" }
"""
QUESTION = {
    "request": {"method": "POST", "path": "/refund"}, "body": {"amount": 900}, "options": {"request_approval": True},
}  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    secret_file(tmp_path)
    (tmp_path / "p.policy").write_text(POLICY)
    (tmp_path / "policyengine.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/state.db"\n'
        f'[webhooks.finance]\nurl = "http://127.0.0.1:{receiver.port}/hook"\nallow_private = true\n'
        'secret_files = "secret"\n'
    )
    return tmp_path


def test_a_test_message_is_signed_and_sent(project: Path, receiver: Receiver, run: Any) -> None:
    assert run("approvals", "webhooks", "p.policy", "--test", "finance").out == "finance  the receiver answers 202\n"
    [request] = receiver.requests
    assert json.loads(request.body)["type"] == "approval.test"
    id = verify_webhook(request.body, request.headers, SECRET)
    ended = run("approvals", "webhooks", "p.policy", "--test", "finance", "--format", "json")
    assert ended.json["status"] == 202
    assert ended.json["id"] != id


def test_a_receiver_that_refuses_a_test_message_is_reported(project: Path, receiver: Receiver, run: Any) -> None:
    receiver.statuses = [302]
    ended = run("approvals", "webhooks", "p.policy", "--test", "finance")
    why = "error: `finance`: the receiver answers 302, and redirects are not followed\n"
    assert (ended.code, ended.err) == (1, why)


def test_a_misspelled_webhook_is_reported(project: Path, run: Any) -> None:
    ended = run("approvals", "webhooks", "p.policy", "--test", "finanec")
    assert (ended.code, ended.err) == (
        1, "error: there is no webhook `finanec`\nhint: did you mean `finance`?\n"
    )  # fmt: skip


def test_without_webhooks_the_command_says_so(project: Path, run: Any) -> None:
    (project / "policyengine.toml").unlink()
    ended = run("approvals", "webhooks", "p.policy")
    assert (ended.code, ended.err.splitlines()[0]) == (1, "error: there are no webhooks")


def test_the_state_of_the_spool_is_shown(project: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.cli.commands.approvals.webhooks.time", lambda: NOW - 1)
    assert run("approvals", "webhooks", "p.policy").out == "finance  json  no messages wait\n"
    assert not (project / "state.db.webhooks").exists()
    spool = WebhookSpool(project / "state.db.webhooks")
    spool.add([SpoolMessage(f"{number}", "finance", "opened", b"x", NOW, NOW * 2) for number in range(2)])
    spool.postpone(SpoolMessage("0", "finance", "opened", b"", 0.0, 0.0, number=1), NOW + 60, "the receiver\x1b[2J")
    spool.close()
    assert run("approvals", "webhooks", "p.policy").out == (
        "finance  json  2 waiting, next attempt at 2027-01-15T08:00:00Z; the receiver\\x1b[2J\n"
    )
    assert run("approvals", "webhooks", "--format", "json").json["webhooks"] == [
        {
            "name": "finance",
            "format": "json",
            "waiting": 2,
            "next": "2027-01-15T08:00:00Z",
            "failure": "the receiver\x1b[2J",
        }
    ]


class RecordingListener:
    """A listener that keeps the events."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def notify(self, event: ApprovalEvent) -> None:
        self.kinds.append(str(event.kind))


def test_a_server_records_expired_approvals_also_after_a_reload(project: Path) -> None:
    log = LogOptions(
        None, LogFailureMode.DENY, None, None, None, False, LogSyncMode.NEVER, None, None, None, None, None, None
    )
    setup = EngineSetup(
        [project / "p.policy"], None, None, None, "memory:", None, None, False, log, ObserveOptions(None, None, (), ()),
        ReloadOptions((), ReloadGateMode.NONE, 0.0, False),
    )  # fmt: skip
    loaded = load_for_serving(setup)
    held = prepare_serving(setup, loaded).held
    record_expiries(held)
    listener = RecordingListener()
    desk = Desk(MemoryStore(), listener=listener)
    desk.opened()
    desk.later(days=1)
    held.replace(desk.engine)
    record_expiries(held)
    assert listener.kinds == ["opened", "expired"]


def test_a_server_that_was_killed_sends_after_a_restart_what_it_had_not_sent(
    project: Path, receiver: Receiver, run: Any
) -> None:
    receiver.statuses = [503] * 1_000
    arguments = ["serve", str(project / "p.policy"), "--port", "0", "--format", "json"]
    with started(SERVE, *arguments) as (line, process):
        port = int(json.loads(line)["listening"].rpartition(":")[2])
        assert ask(port, "/decide", QUESTION)["outcome"] == "confirm"
        wait_until(lambda: waiting(run) == 1)
        assert ready(port)
        process.kill()
        process.wait()
    receiver.statuses.clear()
    spool = WebhookSpool(project / "state.db.webhooks")
    message = spool.lease("finance", 0) or due_later(spool)
    spool.postpone(message, 0.0, "")
    spool.close()
    with started(SERVE, *arguments, "--workers", "2"):
        wait_until(lambda: len(receiver.requests) == 1)
    [request] = receiver.requests
    assert json.loads(request.body)["data"]["rule"] == "large"
    assert verify_webhook(request.body, request.headers, SECRET) == message.id


def waiting(run: Any) -> int:
    return int(run("approvals", "webhooks", "p.policy", "--format", "json").json["webhooks"][0]["waiting"])


def ready(port: int) -> bool:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
        return bool(answer.status == 200)


def due_later(spool: WebhookSpool) -> SpoolMessage:
    later = WebhookSpool(spool.path, now=lambda: NOW * 2)
    found = later.lease("finance", 0)
    later.close()
    assert found is not None
    return found

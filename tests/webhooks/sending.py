"""Events of approvals, targets and clocks for tests of webhooks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.model import ApprovalRequest, ApproverAnswer
from policyengine.runtime.decision import ApproverSet, Principal
from policyengine.webhooks.sender import WebhookSender
from policyengine.webhooks.spool import SpoolMessage, WebhookSpool
from policyengine.webhooks.target import WebhookTarget
from policyengine.webhooks.webhook_client import WebhookClient
from tests.audit.sinks.receivers import Receiver

NOW = 1_800_000_000.0
MICROSECOND = 1_000_000
SECRET = "whsec_" + "QUFB" * 11
ID = "f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc"


def approval(**more: Any) -> ApprovalRequest:
    opened = round(NOW) * MICROSECOND
    given: dict[str, Any] = {
        "id": ID, "rule": "large", "binding": "sha256:b", "revision": "sha256:r", "by": "role finance", "count": 1,
        "approvers": ApproverSet(role="finance"), "summary": "refund of 900", "endpoint": "POST /refunds",
        "question": {"body": {"amount": 900, "note": "private words"}},
        "requester": Principal(agent="bot", issuer="acme", user="alice", chain=("alice", "bot")),
        "decision": "01J", "opened": opened, "expires": opened + 3_600 * MICROSECOND, "within": 900 * MICROSECOND,
    }  # fmt: skip
    return ApprovalRequest(**{**given, **more})


def event(kind: str = "opened", **more: Any) -> ApprovalEvent:
    at = round(NOW) * MICROSECOND
    answer = ApproverAnswer("carol", "acme", at, "already paid")
    if kind == "approved":
        more = {"votes": (answer,), **more}
    elif kind in ("denied", "withdrawn"):
        more = {"refusal": answer, "withdrawn": kind == "withdrawn", **more}
    return ApprovalEvent(ApprovalEventKind(kind), approval(**more), at)


def secret_file(folder: Path, secret: str = SECRET, name: str = "secret") -> Path:
    path = folder / name
    path.write_text(f"{secret}\n")
    path.chmod(0o600)
    return path


def target(receiver: Receiver | None, **more: Any) -> WebhookTarget:
    url = None if receiver is None else f"http://127.0.0.1:{receiver.port}/hook"
    return WebhookTarget(**{"name": "finance", "url": url, "allow_private": True, "timeout": 30.0, **more})


OPEN: list[Any] = []  # what the fixture of `conftest.py` closes


def post(to: WebhookTarget) -> int:
    """Send a message to a target, and return the status of the answer."""
    client = WebhookClient(to)
    OPEN.append(client)
    return client.post("msg_1", b"{}").status


class Sending:
    """A sender with a spool in memory, a clock that the test moves, and pauses without chance."""

    def __init__(self, to: WebhookTarget, spool: WebhookSpool | None = None) -> None:
        self.now = NOW
        self.spool = spool or WebhookSpool(now=lambda: self.now)
        self.sender = WebhookSender(
            to, self.spool, clock=lambda: self.now, now=lambda: self.now, draw=lambda low, high: high
        )
        OPEN.extend((self.sender, self.spool))

    def add(self, id: str = "msg_1", body: bytes = b'{"a":1}') -> None:
        self.spool.add([SpoolMessage(id, self.sender.target.name, "opened", body, self.now, self.now + 86_400)])

    def step(self, seconds: float = 0.0) -> float:
        self.now += seconds
        return self.sender.step()

    @property
    def waiting(self) -> int:
        found = self.spool.states().get(self.sender.target.name)
        return 0 if found is None else found.waiting

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.sender.sent, self.sender.failures, self.sender.dropped


def read_request(connection: socket.socket) -> None:
    """Read a request with its body: a connection that is closed before loses the answer, because it is reset."""
    with connection.makefile("rb") as stream:
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        stream.read(length)


@contextmanager
def raw_receiver(answer: Callable[[socket.socket], None]) -> Iterator[Receiver]:
    """Run a server that reads each request, and answers as this function does."""
    listener = socket.create_server(("127.0.0.1", 0))
    receiver = Receiver(port=listener.getsockname()[1])

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            receiver.connections += 1
            with connection:
                try:
                    read_request(connection)
                    answer(connection)
                except OSError:
                    pass

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()

"""Requests without a body that wait for an approval in an application; and what its client is told."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from policyengine import ApprovalSettings, Engine
from policyengine.approvals.eligibility import ProvedPerson
from policyengine.integrations.approval_watch import ApprovalKeeper, ApprovalWatch, RemoteApprovals
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.denial_messages import denial_data
from policyengine.runtime.decision import Decision

POLICY = """
language 1
package shop
entity user { roles: set<string> }
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
user any { may GET /export }
guard "export" on GET /export { confirm by user within 15m bound to (request.query) }
"""
SCOPE = {
    "type": "http", "method": "GET", "path": "/export", "raw_path": b"/export", "query_string": b"", "headers": [],
    "http_version": "1.1", "client": ("127.0.0.1", 1),
}  # fmt: skip
CALLER: dict[str, Any] = {"user": {"id": "alice"}, "credential": {"issuer": "acme", "scopes": []}}
NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)


class Exports:
    """An application behind the middleware, and the messages of one request without a body."""

    def __init__(self, url: str | None = None) -> None:
        self.engine = Engine.from_text(POLICY, clock=lambda: NOW, approvals=ApprovalSettings(url=url))
        self.sent: list[Any] = []
        self.received: list[Any] = []
        self.gone = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"exported"})

    async def ask(self, wait: float) -> None:
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        app = PolicyMiddleware(self.app, self.engine, identify=lambda _: CALLER, wait_for_approval=wait)
        await app(SCOPE, receive, send)

    async def opened(self) -> str:
        assert self.engine.approvals is not None
        while not (waiting := self.engine.approvals.list()):
            await asyncio.sleep(0)
        return waiting[0].approval.id

    @property
    def problem(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sent[1]["body"])
        return found


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_a_request_without_a_body_waits_no_longer_than_its_client() -> None:
    async def work() -> Exports:
        exports = Exports()
        asking = asyncio.create_task(exports.ask(300))
        await exports.opened()
        exports.gone.set()
        await asking
        return exports

    exports = run(work())
    assert exports.received == []
    assert exports.problem["approval"]["state"] == "pending"


def test_a_request_without_a_body_passes_after_its_approval_with_an_empty_body() -> None:
    async def work() -> Exports:
        exports = Exports()
        asking = asyncio.create_task(exports.ask(300))
        id = await exports.opened()
        exports.engine.approvals.approve(id, ProvedPerson("alice", "acme"))  # type: ignore[union-attr]
        await asking
        return exports

    exports = run(work())
    assert [(one["type"], one["body"]) for one in exports.received] == [("http.request", b"")]
    assert exports.sent[0]["status"] == 200


@pytest.mark.parametrize(("url", "status"), [(None, None), ("https://pdp.example", "https://pdp.example/approvals/ID")])
def test_an_application_names_no_status_that_it_does_not_serve(url: str | None, status: str | None) -> None:
    async def work() -> Exports:
        exports = Exports(url)
        await exports.ask(0)
        return exports

    exports = run(work())
    problem, [remedy] = exports.problem, exports.problem["remedies"]
    wanted = None if status is None else status.replace("ID", problem["approval"]["id"])
    assert (problem["approval"].get("status"), remedy["approval"].get("status")) == (wanted, wanted)


def test_data_for_models_names_no_status_that_nothing_serves() -> None:
    engine = Exports().engine
    http = {"method": "GET", "path": "/export", "query": {}}
    question = {"request": http, **CALLER, "options": {"request_approval": True}}
    [remedy] = denial_data(engine.decide(question))["remedies"]
    assert remedy["approval"].keys() == {"id", "state", "expires", "poll"}


# ── Decision points ───────────────────────────────────────────────────────────────────────────


class Plain:
    """A decision point of another project."""

    async def decide_async(self, question: Any) -> Decision: ...  # type: ignore[empty-body]

    evaluate_async = decide_async

    async def report_async(self, decision: str, **more: Any) -> bool:
        return True


def test_decision_points_keep_approvals_here_or_at_a_server_or_nowhere() -> None:
    from policyengine.client.http import AsyncPolicyClient

    engine, client = Exports().engine, AsyncPolicyClient("http://127.0.0.1:1")
    assert (isinstance(engine, ApprovalKeeper), isinstance(engine, RemoteApprovals)) == (True, False)
    assert (isinstance(client, ApprovalKeeper), isinstance(client, RemoteApprovals)) == (False, True)
    watch = ApprovalWatch(Plain())
    assert (watch.desk, watch.remote) == (None, None)

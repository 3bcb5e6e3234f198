"""Every status that a route really gives is documented, and none that it never gives."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import policyengine.server
from policyengine import executor
from policyengine.engine import Engine
from policyengine.fair_queue import FairQueue
from policyengine.runtime.current_caller import caller_scope
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.runtime.idempotency import KeyInProgressError, KeyReuseError
from policyengine.server import create_app
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.openapi import statuses
from policyengine.stores.base import StoreError
from tests.server.approving import REFUND, Desk, bearer
from tests.server.approving import token as person_token
from tests.server.conftest import TOKEN

POLICY = """
language 1
package shop
entity user { roles: set<string> }
anyone { may GET /slow, GET /once, GET /asks }
guard "asks" on /asks { confirm by role finance within 15m }
rate "once" per request.path on /once { 1/1h }
rate "slow" per request.path on /slow { at most 9 at once for 1h }
"""
SLOW = {"request": {"method": "GET", "path": "/slow"}}
SPENT = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "GET"},
    "resource": {"type": "route", "id": "/slow"},
    "context": {"consume": True},
}
BODIES: dict[str, Any] = {
    "/decide": SLOW,
    "/evaluate": SLOW,
    "/explain": SLOW,
    "/decide/batch": {"requests": [{**SLOW, "options": {"consume": True}}]},
    "/access/v1/evaluation": SPENT,
    "/access/v1/evaluations": {"evaluations": [SPENT]},
}
ROUTING = {404, 405}  # of paths and methods that there are not


class Failing:
    """An engine that does what it is asked, but for what a test breaks."""

    def __init__(self, **broken: Exception | None) -> None:
        self.engine = Engine.from_text(POLICY)
        self.broken = broken
        self.apps: dict[float, Any] = {}  # by the longest time that a body may take

    def __getattr__(self, name: str) -> Any:
        error = self.broken.get(name)
        if error is None:
            return getattr(self.engine, name)

        def failing(*given: object, **options: object) -> Any:
            raise error

        return failing


def status(engine: Any, method: str, path: str, *, body_timeout: float = 30.0, **request: Any) -> int:
    async def run() -> int:
        apps = engine.apps if isinstance(engine, Failing) else {}
        app = apps.get(body_timeout) or apps.setdefault(
            body_timeout, create_app(engine, token=TOKEN, body_timeout=body_timeout)
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"} | request.pop(
                "headers", {}
            )
            return (await client.request(method, path, headers=headers, **request)).status_code

    return asyncio.run(run())


async def never() -> Any:
    await asyncio.Event().wait()
    yield b""


def of_any_body(path: str, body: object) -> Iterator[int]:
    """What comes of every question, report or batch that has something wrong with it, and of one that has not."""
    every = ("decide", "evaluate", "explain", "report_outcome", "decide_once")
    right, sound = json.dumps(body).encode(), Failing()
    yield status(sound, "POST", path, content=right)
    yield status(sound, "POST", path, content=b"{")
    yield status(sound, "POST", path, content=right, headers={"authorization": "Bearer nobody"})
    yield status(sound, "POST", path, content=right, headers={"content-type": "text/plain"})
    yield status(sound, "POST", path, content=b" " * 1_048_577)
    yield status(sound, "POST", path, content=never(), body_timeout=0.01)
    yield status(Failing(**dict.fromkeys(every, ZeroDivisionError())), "POST", path, content=right)
    for error in (KeyReuseError("used"), KeyInProgressError("wait")):
        failing = Failing(decide_once=error)
        yield status(failing, "POST", path, content=right, headers={"idempotency-key": "key"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "_long_queue", FairQueue("policyengine-full", most_of_caller=0))
        yield status(Failing(), "POST", path, content=right + b" " * 40_000)


def of_events() -> Iterator[int]:
    engine = Failing()
    with caller_scope(*BearerTokens.of(TOKEN).gateways):
        report = {"decision": engine.decide(SLOW).id}
    yield from of_any_body("/events", report)  # of engines that know nothing of it
    for _ in range(2):
        yield status(engine, "POST", "/events", json=report)
    yield status(Failing(report_outcome=StoreError("down")), "POST", "/events", json=report)
    again = Failing(report_outcome=None)
    again.report_outcome = lambda *given, **options: "again"  # type: ignore[attr-defined]
    yield status(again, "POST", "/events", json=report)


def of_readyz() -> Iterator[int]:
    yield status(Failing(), "GET", "/readyz")
    down = Failing()
    down.state = SimpleNamespace(requires_store=True, find_failure=lambda now: StoreError.reason)  # type: ignore[attr-defined]
    yield status(down, "GET", "/readyz")


def of_metrics() -> Iterator[int]:
    yield status(Failing(), "GET", "/metrics")
    yield status(Failing(), "GET", "/metrics", headers={"authorization": "Bearer nobody"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "policyengine.server.telemetry.metrics", None)
        yield status(Failing(), "GET", "/metrics")


def of_gateways(path: str) -> Iterator[int]:
    engine = Failing()
    for uri in ("/slow", "/once", "/once", "/asks", "/nothing"):
        yield status(engine, "GET", path, headers={"x-forwarded-method": "GET", "x-forwarded-uri": uri})
    asked = {"x-forwarded-method": "GET", "x-forwarded-uri": "/slow"}
    yield status(engine, "GET", path)
    yield status(engine, "GET", path, headers={**asked, "authorization": "Bearer nobody"})
    yield status(Failing(decide=ZeroDivisionError()), "GET", path, headers=asked)
    failed = Decision.of(Outcome.DENY, Gate.FAILURE)
    broken = Failing()
    broken.decide = lambda question, **how: failed  # type: ignore[attr-defined]
    yield status(broken, "GET", path, headers=asked)


def of_envoy() -> Iterator[int]:
    engine = Failing()
    for path in ("slow", "once", "once", "asks", "nothing"):
        yield status(engine, "GET", f"/envoy/{path}")
    yield status(engine, "GET", "/envoy/slow", headers={"x-agent-bound": "maybe"})
    yield status(engine, "GET", "/envoy/slow", headers={"authorization": "Bearer nobody"})
    yield status(engine, "POST", "/envoy/slow", content=b" " * 1_048_577)
    yield status(engine, "POST", "/envoy/slow", content=never(), body_timeout=0.01)
    yield status(Failing(decide=ZeroDivisionError()), "GET", "/envoy/slow")
    failed = Decision.of(Outcome.DENY, Gate.FAILURE)
    broken = Failing()
    broken.decide = lambda question, **how: failed  # type: ignore[attr-defined]
    yield status(broken, "GET", "/envoy/slow")


def broken_store(desk: Desk) -> None:
    def failing(*given: object) -> Any:
        raise StoreError("down")

    for name in ("find", "rows", "save"):
        setattr(desk.engine.store.approvals, name, failing)


def of_approvals(method: str, path: str, *, person: bool, answers: bool = False) -> Iterator[int]:
    """What comes of a route of approvals, for a person or for a caller."""
    proof = bearer(person_token() if person else TOKEN)
    with TemporaryDirectory() as folder, TemporaryDirectory() as other:
        desk, strange = Desk(Path(folder), tokens=True), Desk(Path(other), tokens=True, identified=False)
        full = path.format(id=desk.opened())
        given = {"content": b""} if answers else {}
        agent = bearer(person_token(client_id="bot"))
        for headers in (proof, bearer("nobody"), bearer(person_token("bob")), agent, proof):
            yield desk.call(method, full, headers=headers).status_code
        yield desk.call(method, path.format(id="x" * 32), headers=proof).status_code
        yield desk.call(method, f"{full}?wait=x", headers=proof).status_code
        if answers:
            json = {**proof, "content-type": "application/json"}
            waiting = path.format(id=desk.opened({**REFUND, "body": {"amount": 901}}))
            yield desk.call(method, waiting, headers=json, content=b" " * 1_048_577).status_code
            yield desk.call(method, waiting, headers=json, content=b"{").status_code
            yield desk.call(method, waiting, headers=proof, content=b"x").status_code
            yield status(Failing(), method, waiting, content=never(), body_timeout=0.01)
        if person:
            yield strange.call(method, path.format(id=strange.opened()), headers=proof, **given).status_code
        if path == "/approvals":
            yield status(Engine.from_text("anyone { may GET /x }"), method, path)
        broken_store(desk)
        yield desk.call(method, full, headers=proof).status_code


GIVEN: dict[str, Callable[[], Iterator[int]]] = {
    **{path: lambda path=path, body=body: of_any_body(path, body) for path, body in BODIES.items()},  # type: ignore[misc]
    "/events": of_events,
    "/forward-auth": lambda: of_gateways("/forward-auth"),
    "/forward-auth/nginx": lambda: of_gateways("/forward-auth/nginx"),
    "/envoy/{path}": of_envoy,
    "/.well-known/authzen-configuration": lambda: iter(
        [status(Failing(), "GET", "/.well-known/authzen-configuration")]
    ),
    "/approvals": lambda: of_approvals("GET", "/approvals", person=True),
    "/approvals/{id}": lambda: of_approvals("GET", "/approvals/{id}", person=False),
    "/approvals/{id}/details": lambda: of_approvals("GET", "/approvals/{id}/details", person=True),
    "/approvals/{id}/withdraw": lambda: of_approvals("POST", "/approvals/{id}/withdraw", person=False),
    "/approvals/{id}/approve": lambda: of_approvals("POST", "/approvals/{id}/approve", person=True, answers=True),
    "/approvals/{id}/deny": lambda: of_approvals("POST", "/approvals/{id}/deny", person=True, answers=True),
    "/healthz": lambda: iter([status(Failing(), "GET", "/healthz")]),
    "/readyz": of_readyz,
    "/metrics": of_metrics,
}


@cache
def documented() -> dict[str, set[int]]:
    paths = create_app(Engine.from_text(POLICY), token=TOKEN).openapi()["paths"]
    return {path: {int(one) for one in operation["responses"]} for path, [operation] in operations(paths)}


def operations(paths: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    yield from ((path, list(methods.values())) for path, methods in paths.items())


def test_the_status_cases_cover_every_route() -> None:
    assert set(GIVEN) == set(documented())


@pytest.mark.parametrize("path", GIVEN)
def test_a_route_returns_exactly_the_documented_statuses(path: str) -> None:
    assert set(GIVEN[path]()) == documented()[path]


def test_every_route_documents_403_if_the_server_has_no_token() -> None:
    paths = create_app(Engine.from_text(POLICY)).openapi()["paths"]
    assert all("403" in operation["responses"] for _, [operation] in operations(paths))


def test_every_status_in_the_server_source_is_documented() -> None:
    """As its source has them: a new one is noticed before anybody is given it."""
    folder = Path(policyengine.server.__file__).parent
    said = {one for file in folder.rglob("*.py") for one in statuses_in(ast.parse(file.read_text()))}
    assert said - ROUTING == {one for known in documented().values() for one in known if one != 200} - ROUTING


def statuses_in(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="ProblemError"), args=[ast.Constant(value=int() as status), *_]):
                yield status
            case ast.Return(value=ast.Constant(value=int() as status)) if 400 <= status < 600:
                yield status


def test_the_idempotency_key_is_documented_for_the_routes_that_use_it() -> None:
    paths = create_app(Engine.from_text(POLICY)).openapi()["paths"]
    keyed = {
        path for path, [operation] in operations(paths) if statuses.KEY_PARAMETER in operation.get("parameters", ())
    }
    assert keyed == {"/decide", "/decide/batch", "/access/v1/evaluation", "/access/v1/evaluations"}

"""Requests that wait in an application until people have approved them: in process, and with a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from policyengine import ApprovalSettings
from policyengine.approvals.eligibility import ProvedPerson
from policyengine.client.http import AsyncPolicyClient
from policyengine.engine import Engine
from policyengine.engine.approval_desk import ApprovalDesk, ApproverRefusedError
from policyengine.entities.store import EntityStore
from policyengine.executor import MAX_THREADS, run_in_thread
from policyengine.integrations.approval_waiter import ApprovalWaiter
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.enforcement_point import NO_DUTIES, Duties
from policyengine.integrations.fastapi import Policies, PolicyDeniedError, problem_details
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.server import create_app
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.typesystem import EntityRef
from tests.identity.issuing import USER
from tests.identity.proving import Doors, asking, url

POLICY = """
language 1
package shop
entity user { roles: set<string> }
issuer acme { url "https://login.acme.example" }
facts on POST /refund { body.amount: number }
anyone { may POST /refund, GET /health }
guard "large" on POST /refund {
  confirm by role finance within 15m when body.amount > 500 message "a refund of {body.amount}"
}
"""
CAROL = ProvedPerson("carol", "acme")
PEOPLE = EntityStore([EntityData(EntityRef("user", "carol"), {"roles": ["finance"]})])
NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
REFUND: dict[str, Any] = {"request": {"method": "POST", "path": "/refund"}, "body": {"amount": 900}}
PATIENT = 30.0  # seconds: the machine may be busy


class Shop:
    """An engine with the clock of the test, and applications in front of it."""

    def __init__(self, store: Store | None = None) -> None:
        self.now, self.paid = NOW, 0
        self.store = store or MemoryStore()
        self.engine = self.engine_of(POLICY)

    def engine_of(self, policy: str) -> Engine:
        return Engine.from_text(
            policy, clock=lambda: self.now, directory=PEOPLE, store=self.store,
            approvals=ApprovalSettings(url="https://pdp.example", most_per_requester=1_000, most_per_approver=1_000),
        )  # fmt: skip

    @property
    def approvals(self) -> ApprovalDesk:
        assert self.engine.approvals is not None
        return self.engine.approvals

    def expire(self, id: str) -> None:
        self.now += timedelta(days=1)

    def starlette(self, wait: float, decides: Any = None) -> Any:
        async def refund(request: Request) -> JSONResponse:
            self.paid += 1
            return JSONResponse({"paid": (await request.json())["amount"]})

        async def health(request: Request) -> JSONResponse:
            return JSONResponse({})

        app = Starlette(routes=[Route("/refund", refund, methods=["POST"]), Route("/health", health)])
        return PolicyMiddleware(app, decides or self.engine, identify=lambda _: {}, wait_for_approval=wait)

    def fastapi(self, wait: float, decides: Any = None) -> Any:
        app = FastAPI()
        app.add_exception_handler(PolicyDeniedError, problem_details)
        policy = Policies(decides or self.engine, identify=lambda _: {}, wait_for_approval=wait)

        @app.post("/refund", dependencies=[Depends(policy())])
        async def refund(body: dict[str, int]) -> dict[str, int]:
            self.paid += 1
            return {"paid": body["amount"]}

        return app

    async def opened(self, many: int = 1) -> list[str]:
        """Return the ids of the approvals that wait, as soon as there are as many."""
        while len(found := self.approvals.list()) < many:
            await asyncio.sleep(0.001)
        return [one.approval.id for one in found]


@dataclass
class Reloading:
    """The engine of the moment, as a server or an application replaces it."""

    current: Engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), PATIENT))


async def post(app: Any, amount: int = 900) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.example") as client:
        return await client.post("/refund", json={"amount": amount})


@pytest.fixture
def shop() -> Shop:
    return Shop()


# ── In an application ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_request_waits_for_its_approval_and_then_passes_once(shop: Shop, framework: str) -> None:
    app = getattr(shop, framework)(30.0)

    async def both() -> httpx.Response:
        waiting = asyncio.create_task(post(app))
        [id] = await shop.opened()
        assert shop.paid == 0
        shop.approvals.approve(id, CAROL)
        return await waiting

    assert (run(both).json(), shop.paid) == ({"paid": 900}, 1)
    assert shop.engine.decide({**REFUND, "body": {"amount": 900}}).outcome == "confirm"


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_request_does_not_wait_unless_the_application_says_so(shop: Shop, framework: str) -> None:
    answer = run(lambda: post(getattr(shop, framework)(0.0)))
    approval = answer.json()["approval"]
    assert (answer.status_code, approval["state"]) == (403, "pending")
    assert answer.headers["link"] == f'<https://pdp.example/approvals/{approval["id"]}>; rel="status"'


@pytest.mark.parametrize("state", ["denied", "withdrawn", "expired", "pending"])
def test_a_request_that_is_not_approved_is_refused_with_the_reason(shop: Shop, state: str) -> None:
    acts: dict[str, Callable[[str], object]] = {
        "denied": lambda id: shop.approvals.deny(id, CAROL, "already paid"), "withdrawn": shop.approvals.withdraw,
        "expired": shop.expire, "pending": str,
    }  # fmt: skip
    app = shop.starlette(0.05 if state == "pending" else 30.0)

    async def both() -> httpx.Response:
        waiting = asyncio.create_task(post(app))
        acts[state]((await shop.opened())[0])
        return await waiting

    answer = run(both)
    approval = answer.json()["approval"]
    assert (answer.status_code, answer.json()["outcome"], approval["state"], shop.paid) == (403, "confirm", state, 0)
    assert approval.get("reason") == ("already paid" if state == "denied" else None)
    helps = {
        "denied": "(would help: nothing: an approval by role finance was denied)",
        "pending": "; then repeating the same request)",
    }.get(state, f"to request another approval by role finance: {approval['id']} is {state})")
    assert answer.json()["detail"].endswith(helps)


def test_waiting_requests_occupy_neither_the_event_loop_nor_a_thread(shop: Shop) -> None:
    waiter, many = ApprovalWaiter(shop.engine, 30.0), 2 * MAX_THREADS
    questions = [{**REFUND, "body": {"amount": 501 + number}} for number in range(many)]

    async def all_at_once() -> list[Decision]:
        waiting = [asyncio.create_task(waiter.decide(question, NO_DUTIES)) for question in questions]
        ids = await shop.opened(many)
        assert await run_in_thread(lambda: "a thread is free") == "a thread is free"
        for id in ids:
            shop.approvals.approve(id, CAROL)
        return await asyncio.gather(*waiting)

    assert [decision.allowed for decision in run(all_at_once)] == [True] * many


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_client_that_goes_away_uses_no_approval(shop: Shop, framework: str) -> None:
    app, goes = getattr(shop, framework)(30.0), asyncio.Event()
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b'{"amount": 900}', "more_body": False}]
    scope = {
        "type": "http", "method": "POST", "path": "/refund", "raw_path": b"/refund", "query_string": b"",
        "headers": [(b"host", b"shop.example"), (b"content-type", b"application/json")], "scheme": "http",
        "server": ("shop.example", 80), "client": ("10.1.2.3", 1), "http_version": "1.1", "root_path": "",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await goes.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    async def all_of_it() -> httpx.Response:
        waiting = asyncio.create_task(app(scope, receive, send))
        [id] = await shop.opened()
        goes.set()
        await waiting
        shop.approvals.approve(id, CAROL)
        assert shop.paid == 0
        return await post(app)

    assert run(all_of_it).json() == {"paid": 900}


def test_requests_beyond_the_bound_do_not_wait(shop: Shop) -> None:
    waiter = ApprovalWaiter(shop.engine, 30.0, most=1)

    async def both() -> tuple[Decision, Decision]:
        first = asyncio.create_task(waiter.decide(REFUND, NO_DUTIES))
        [id] = await shop.opened()
        second = await waiter.decide({**REFUND, "body": {"amount": 901}}, NO_DUTIES)
        shop.approvals.approve(id, CAROL)
        return await first, second

    first, second = run(both)
    assert (first.allowed, second.outcome) == (True, "confirm")


def test_a_cancelled_request_makes_room_for_another_and_spends_nothing(shop: Shop) -> None:
    waiter = ApprovalWaiter(shop.engine, 30.0, most=1)

    async def both() -> Decision:
        first = asyncio.create_task(waiter.decide(REFUND, NO_DUTIES))
        [id] = await shop.opened()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(waiter.decide(REFUND, NO_DUTIES))
        await asyncio.sleep(0)
        shop.approvals.approve(id, CAROL)
        return await second

    assert run(both).allowed


def test_a_request_waits_on_while_the_store_does_not_answer() -> None:
    shop = Shop(MemoryStore())
    real, failing = shop.engine.store.approvals.find, [3]

    def find(id: str, now: int) -> Any:
        if failing[0]:
            failing[0] -= 1
            raise StoreError("no answer")
        return real(id, now)

    async def both() -> Decision:
        waiting = asyncio.create_task(ApprovalWaiter(shop.engine, 30.0).decide(REFUND, NO_DUTIES))
        [id] = await shop.opened()
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(shop.engine.store.approvals, "find", find)
            while failing[0]:
                await asyncio.sleep(0.001)
        shop.approvals.approve(id, CAROL)
        return await waiting

    assert run(both).allowed


class ReloadedShop:
    """A decision point whose policies change while requests wait."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.evaluate_async, self.report_async = shop, shop.engine.evaluate_async, shop.engine.report_async

    @property
    def approvals(self) -> ApprovalDesk:
        return self.shop.approvals

    async def decide_async(self, question: Any) -> Decision:
        return await self.shop.engine.decide_async(question)


def test_a_reload_that_changes_the_policies_ends_the_wait_with_a_new_decision() -> None:
    shop = Shop(MemoryStore())

    async def both() -> Decision:
        waiting = asyncio.create_task(ApprovalWaiter(ReloadedShop(shop), 300.0).decide(REFUND, NO_DUTIES))
        await shop.opened()
        shop.engine = Engine.from_text(
            POLICY.replace("> 500", "> 1000"), clock=lambda: shop.now, directory=PEOPLE, store=shop.engine.store
        )
        return await waiting

    assert run(both).allowed


def test_an_approval_that_the_store_has_forgotten_ends_the_wait() -> None:
    shop = Shop(MemoryStore())

    async def both() -> Decision:
        waiting = asyncio.create_task(ApprovalWaiter(shop.engine, 300.0).decide(REFUND, NO_DUTIES))
        await shop.opened()
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(shop.engine.store.approvals, "find", lambda id, now: None)
            return await waiting

    [remedy] = run(both).remedies
    assert remedy.approval is not None
    assert remedy.approval.state == "expired"


def test_the_obligations_of_the_second_decision_are_met(shop: Shop) -> None:
    met: list[Decision] = []

    async def both() -> Decision:
        waiting = asyncio.create_task(ApprovalWaiter(shop.engine, 30.0).decide(REFUND, Duties((), met.append)))
        shop.approvals.approve((await shop.opened())[0], CAROL)
        return await waiting

    assert met == [run(both)]


def test_a_halt_during_the_wait_lets_nothing_pass(shop: Shop) -> None:
    async def both() -> httpx.Response:
        waiting = asyncio.create_task(post(shop.starlette(30.0)))
        [id] = await shop.opened()
        shop.engine.halt(everything=True, reason="stop", end=timedelta(hours=1))
        with pytest.raises(ApproverRefusedError):
            shop.approvals.approve(id, CAROL)
        lifted = shop.engine.halting.status.halts[0]
        shop.engine.lift(lifted.id, reason="again")
        shop.approvals.approve(id, CAROL)
        shop.engine.halt(everything=True, reason="stop", end=timedelta(hours=1))
        return await waiting

    answer = run(both)
    assert (answer.status_code, answer.json()["outcome"], shop.paid) == (403, "deny", 0)


def test_an_approval_of_other_policies_lets_no_waiting_request_pass(shop: Shop) -> None:
    """A reload in the middle of the wait: the request was approved under rules that are no longer in force."""
    reloading = Reloading(shop.engine)

    async def both() -> httpx.Response:
        waiting = asyncio.create_task(post(shop.starlette(30.0, reloading)))
        [id] = await shop.opened()
        reloading.current = shop.engine_of(POLICY.replace("within 15m", "within 16m"))
        shop.approvals.approve(id, CAROL)  # a process that still has the rules of before
        return await waiting

    answer = run(both)
    assert (answer.status_code, answer.json()["outcome"], shop.paid) == (403, "confirm", 0)


@pytest.mark.parametrize("seconds", [-1.0, 301.0, float("nan"), float("inf")])
def test_a_wait_has_a_bound(shop: Shop, seconds: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 300"):
        shop.starlette(seconds)


# ── With raw credentials ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    """An engine that verifies credentials, in which the user of the request must approve."""
    doors = Doors(tmp_path)
    policy = tmp_path / "doors.policy"
    policy.write_text(policy.read_text() + '\nguard "ask" on GET /v1/invoices/** { confirm by user within 15m }\n')
    settings = ApprovalSettings(issuers=("acme",))
    doors.engine = Engine.load(policy, identity=tmp_path / "identity.toml", clock=doors.clock, approvals=settings)
    return doors


def decided(doors: Doors, meanwhile: Callable[[], object] = list) -> Decision:
    """Return the decision about a request with a proof that counts once, whose user approves while it waits."""
    question = asking(doors.dpop("GET", url()))

    async def both() -> Decision:
        desk = doors.engine.approvals
        assert desk is not None
        waiting = asyncio.create_task(ApprovalWaiter(doors.engine, 30.0).decide(question, NO_DUTIES))
        while not (found := desk.list()):
            await asyncio.sleep(0.001)
        desk.approve(found[0].approval.id, ProvedPerson(USER, "acme"))
        meanwhile()
        return await waiting

    found: Decision = run(both)
    return found


def test_a_proof_that_counts_once_is_presented_once(doors: Doors) -> None:
    assert decided(doors).allowed


def test_a_credential_that_expires_while_the_request_waits_counts_no_longer(doors: Doors) -> None:
    def expire() -> None:
        doors.now += 700

    assert decided(doors, expire).outcome == "deny"


# ── With a server ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def policy_client(shop: Shop) -> Iterator[AsyncPolicyClient]:
    transport = httpx.ASGITransport(create_app(shop.engine, allowed_hosts=["pdp.example"]))
    yield AsyncPolicyClient("http://pdp.example", timeout=PATIENT, transport=transport)


def test_a_request_waits_at_the_server_of_the_policies(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.server.approvals.LOOK_SECONDS", 0.01)

    async def both() -> httpx.Response:
        with policy_client(shop) as policies:
            waiting = asyncio.create_task(post(shop.starlette(30.0, policies)))
            shop.approvals.approve((await shop.opened())[0], CAROL)
            answer = await waiting
            await policies.close()
            return answer

    assert run(both).json() == {"paid": 900}

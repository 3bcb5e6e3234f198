"""Clients that wait for an approval: both against a real server, and against servers that lie, redirect or go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import msgspec
import pytest

from policyengine import ApprovalSettings
from policyengine.approvals.eligibility import ProvedPerson
from policyengine.client.approval_polls import MAX_FAILURES, MAX_HELD_QUERIES, PollPause, StatusQuery, poll_states
from policyengine.client.http import AsyncPolicyClient, PolicyClient
from policyengine.client.http_exchange import MSGPACK, WireResponse
from policyengine.engine import Engine
from policyengine.engine.approval_desk import ApprovalDesk
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import ApprovalTicket, Decision
from policyengine.runtime.entities import EntityData
from policyengine.server import approvals, create_app
from policyengine.typesystem import EntityRef
from tests.integrations.serving import serving

POLICY = """
language 1
package shop
entity user { roles: set<string> }
issuer acme { url "https://login.acme.example" }
facts on POST /refund { body.amount: number }
anyone { may POST /refund, GET /health }
guard "large" on POST /refund { confirm by role finance within 15m when body.amount > 500 }
guard "huge" on POST /refund { confirm by role board within 15m when body.amount > 5_000 }
"""
PEOPLE = [
    EntityData(EntityRef("user", name), {"roles": [role]}) for name, role in (("carol", "finance"), ("dora", "board"))
]
CAROL, DORA = ProvedPerson("carol", "acme"), ProvedPerson("dora", "acme")
TOKEN = "a-token-of-the-gateway"
PATIENT = 30.0  # seconds: the machine may be busy
NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
Act = Callable[[str], object]
AMOUNTS = count(501)


def refund(amount: int = 900, **more: Any) -> dict[str, Any]:
    return {"request": {"method": "POST", "path": "/refund"}, "body": {"amount": amount}, **more}


class Desk:
    """A served engine with the clock of the test."""

    def __init__(self) -> None:
        self.now = NOW
        self.engine = Engine.from_text(
            POLICY, clock=lambda: self.now, directory=EntityStore(PEOPLE),
            approvals=ApprovalSettings(url="http://198.51.100.7"),
        )  # fmt: skip
        self.url = ""

    @property
    def approvals(self) -> ApprovalDesk:
        assert self.engine.approvals is not None
        return self.engine.approvals

    def expire(self, id: str) -> None:
        self.now += timedelta(days=1)

    def answer(self, id: str, *, approves: bool = True, reason: str | None = None) -> None:
        """Answer as the person whom the rule names."""
        person = DORA if self.approvals.find(id).approval.rule == "huge" else CAROL
        if approves:
            self.approvals.approve(id, person)
        else:
            self.approvals.deny(id, person, reason)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    found = Desk()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(approvals, "LOOK_SECONDS", 0.01)
        with serving(create_app(found.engine, token=TOKEN)) as found.url:
            yield found


@pytest.fixture
def question() -> dict[str, Any]:
    """A question that no other test asks."""
    return refund(next(AMOUNTS))


class Watching(httpx.HTTPTransport):
    """Notes requests, and acts on an approval before a question about it is sent."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act, self.sent = act, list[httpx.Request]()

    def note(self, request: httpx.Request) -> None:
        self.sent.append(request)
        if request.method == "GET":
            self.act(request.url.path.rpartition("/")[2])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.note(request)
        return super().handle_request(request)


class WatchingAsync(httpx.AsyncHTTPTransport):
    def __init__(self, watching: Watching) -> None:
        super().__init__()
        self.watching = watching

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.watching.note(request)
        return await super().handle_async_request(request)


Ask = Callable[..., tuple[Decision, list[httpx.Request]]]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(url, question, wait, act)` decides with either client, and also returns the requests that it sent."""

    def synchronous(url: str, question: Any, wait: float, act: Act = str) -> tuple[Decision, list[httpx.Request]]:
        watching = Watching(act)
        with PolicyClient(url, token=TOKEN, timeout=PATIENT, transport=watching) as policies:
            return policies.decide(question, wait_for_approval=wait), watching.sent

    def asynchronous(url: str, question: Any, wait: float, act: Act = str) -> tuple[Decision, list[httpx.Request]]:
        async def run() -> tuple[Decision, list[httpx.Request]]:
            watching = Watching(act)
            transport = WatchingAsync(watching)
            async with AsyncPolicyClient(url, token=TOKEN, timeout=PATIENT, transport=transport) as policies:
                return await policies.decide(question, wait_for_approval=wait), watching.sent

        return asyncio.run(run())

    return synchronous if request.param == "sync" else asynchronous


def states(decision: Decision) -> list[str | None]:
    return [remedy.approval.state for remedy in decision.remedies if remedy.approval is not None]


def paths(sent: list[httpx.Request]) -> list[str]:
    return [request.url.path.replace(request.url.path.removeprefix("/approvals/"), "ID") if "/approvals/" in
            request.url.path else request.url.path for request in sent]  # fmt: skip


# ── A real server ─────────────────────────────────────────────────────────────────────────────


def test_a_client_waits_for_the_approval_and_then_decides_once_more(
    desk: Desk, ask: Ask, question: dict[str, Any]
) -> None:
    decision, sent = ask(desk.url, question, 30, desk.answer)
    assert decision.allowed
    assert paths(sent) == ["/decide", "/approvals/ID", "/decide"]
    assert sent[0].content == sent[2].content
    assert sent[0].headers["idempotency-key"] != sent[2].headers["idempotency-key"]


def test_a_client_does_not_wait_unless_it_is_told_to(desk: Desk, ask: Ask, question: dict[str, Any]) -> None:
    decision, sent = ask(desk.url, question, 0)
    assert (decision.outcome, [one.approval for one in decision.remedies]) == ("confirm", [None])
    assert paths(sent) == ["/decide"]


def test_a_client_waits_for_no_other_decision(desk: Desk, ask: Ask) -> None:
    for other, outcome in ((refund(1), "allow"), ({"request": {"method": "GET", "path": "/"}}, "deny")):
        decision, sent = ask(desk.url, other, 30)
        assert (decision.outcome, paths(sent)) == (outcome, ["/decide"])


def test_a_question_that_wants_no_approval_waits_for_none(desk: Desk, ask: Ask, question: dict[str, Any]) -> None:
    decision, sent = ask(desk.url, {**question, "options": {"request_approval": False}}, 30)
    assert (decision.outcome, paths(sent)) == ("confirm", ["/decide"])


def test_denied_withdrawn_expired_and_unanswered_are_told_apart(desk: Desk, ask: Ask) -> None:
    acts: list[tuple[str, Act, float]] = [
        ("denied", lambda id: desk.answer(id, approves=False, reason="already paid"), 30),
        ("withdrawn", desk.approvals.withdraw, 30),
        ("pending", str, 0.05),
        ("expired", desk.expire, 30),
    ]
    for state, act, wait in acts:
        decision, sent = ask(desk.url, refund(next(AMOUNTS)), wait, act)
        assert (decision.outcome, states(decision)) == ("confirm", [state])
        assert paths(sent)[:2] == ["/decide", "/approvals/ID"]
        assert "/decide" not in paths(sent)[1:]
        if state == "denied":
            [ticket] = [one.approval for one in decision.remedies]
            assert ticket is not None
            assert ticket.reason == "already paid"


def test_a_client_waits_for_all_approvals_of_a_request(desk: Desk, ask: Ask) -> None:
    decision, sent = ask(desk.url, refund(9_000 + next(AMOUNTS)), 30, desk.answer)
    assert decision.allowed
    assert paths(sent) == ["/decide", "/approvals/ID", "/approvals/ID", "/decide"]


def test_a_client_does_not_wait_for_a_second_approval_if_the_first_was_denied(desk: Desk, ask: Ask) -> None:
    decision, sent = ask(desk.url, refund(9_000 + next(AMOUNTS)), 30, lambda id: desk.answer(id, approves=False))
    assert sorted(map(str, states(decision))) == ["denied", "pending"]
    assert paths(sent) == ["/decide", "/approvals/ID"]


def test_the_approval_may_be_used_by_another_request_first(desk: Desk, ask: Ask, question: dict[str, Any]) -> None:
    def answer(id: str) -> None:
        desk.answer(id)
        assert desk.engine.decide(question).allowed

    decision, sent = ask(desk.url, question, 30, answer)
    assert (decision.outcome, states(decision)) == ("confirm", ["spent"])
    assert "/decide" not in paths(sent)[1:]


def test_the_question_about_an_approval_carries_no_credentials(desk: Desk, ask: Ask, question: dict[str, Any]) -> None:
    _, sent = ask(desk.url, question, 30, desk.answer)
    assert [("authorization" in request.headers) for request in sent] == [True, False, True]
    assert {request.url.host for request in sent} == {"127.0.0.1"}  # the ticket names another host


def test_a_cancelled_wait_leaves_the_approval_as_it_is(desk: Desk, question: dict[str, Any]) -> None:
    ids: list[str] = []

    async def run() -> None:
        asked = asyncio.Event()
        transport = WatchingAsync(Watching(lambda id: (ids.append(id), asked.set())))
        async with AsyncPolicyClient(desk.url, token=TOKEN, timeout=PATIENT, transport=transport) as policies:
            waiting = asyncio.create_task(policies.decide(question, wait_for_approval=30))
            await asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await policies.decide({"request": {"method": "GET", "path": "/health"}})).allowed

    asyncio.run(asyncio.wait_for(run(), PATIENT))
    assert [desk.approvals.find(id).state for id in ids] == ["pending"]


# ── Servers that lie ──────────────────────────────────────────────────────────────────────────

ID = "f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc"
URL = "http://pdp.example"


class Lying:
    """A server whose decision names `id` and `status`, and that answers questions about the approval with `answer`. It
    notes the requests to every host.
    """

    def __init__(self, answer: httpx.Response, id: str = ID, status: str = f"/approvals/{ID}") -> None:
        self.answer, self.asked = answer, list[str]()
        ticket = {"id": id, "state": "pending", "status": status, "poll": 1}
        confirm = Engine.from_text(POLICY, directory=EntityStore(PEOPLE)).decide(refund()).to_dict()
        confirm["remedies"][0]["approval"] = ticket
        self.confirm = msgspec.msgpack.encode(confirm)

    def respond(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url).partition("?")[0])
        if request.url.path == "/decide":
            return packed(self.confirm)
        return httpx.Response(self.answer.status_code, headers=self.answer.headers, content=self.answer.content)


def packed(content: bytes | str) -> httpx.Response:
    """Return an answer with this content, or this state of an approval."""
    encoded = msgspec.msgpack.encode({"state": content}) if isinstance(content, str) else content
    return httpx.Response(200, headers={"content-type": MSGPACK}, content=encoded)


@pytest.fixture(params=["sync", "async"])
def told(request: pytest.FixtureRequest) -> Callable[[Lying], Decision]:
    def synchronous(server: Lying) -> Decision:
        with PolicyClient(URL, token=TOKEN, transport=httpx.MockTransport(server.respond)) as policies:
            return policies.decide(refund(), wait_for_approval=30)

    def asynchronous(server: Lying) -> Decision:
        async def run() -> Decision:
            transport = httpx.MockTransport(server.respond)
            async with AsyncPolicyClient(URL, token=TOKEN, transport=transport) as policies:
                return await policies.decide(refund(), wait_for_approval=30)

        return asyncio.run(run())

    return synchronous if request.param == "sync" else asynchronous


Told = Callable[[Lying], Decision]
STATUS = f"{URL}/approvals/{ID}"


def test_a_redirect_to_another_host_is_not_followed(told: Told) -> None:
    server = Lying(httpx.Response(302, headers={"location": f"http://evil.example/approvals/{ID}"}))
    decision = told(server)
    assert (decision.outcome, states(decision)) == ("confirm", ["pending"])
    assert server.asked == [f"{URL}/decide", STATUS]


def test_a_status_url_of_another_host_is_not_asked(told: Told) -> None:
    server = Lying(packed("denied"), status=f"http://evil.example/approvals/{ID}")
    assert states(told(server)) == ["denied"]
    assert server.asked == [f"{URL}/decide", STATUS]


@pytest.mark.parametrize(
    "id", ["../../events", "x", f"{ID}/approve", f"{ID}?wait=1#", "//evil.example/aaaaaaaaaaaaaaaa"]
)
def test_an_id_that_is_no_id_is_not_asked(told: Told, id: str) -> None:
    server = Lying(packed("approved"), id=id)
    assert (told(server).outcome, server.asked) == ("confirm", [f"{URL}/decide"])


@pytest.mark.parametrize("status", [400, 401, 404, 204])
def test_a_server_that_does_not_know_the_approval_is_asked_once(told: Told, status: int) -> None:
    server = Lying(httpx.Response(status))
    assert (states(told(server)), len(server.asked)) == (["pending"], 2)


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode({"state": 5}), msgspec.msgpack.encode([])])
def test_an_answer_that_cannot_be_read_is_no_approval(told: Told, content: bytes) -> None:
    decision = told(Lying(packed(content)))
    assert (decision.outcome, states(decision)) == ("confirm", ["pending"])


def test_a_server_that_says_approved_and_confirms_again_is_asked_no_third_time(told: Told) -> None:
    server = Lying(packed("approved"))
    assert (told(server).outcome, server.asked) == ("confirm", [f"{URL}/decide", STATUS, f"{URL}/decide"])


def test_waiting_calls_leave_connections_for_decisions() -> None:
    server, waits, release = Lying(packed("denied")), list[int](), asyncio.Event()

    async def respond(request: httpx.Request) -> httpx.Response:
        wait = int(request.url.params.get("wait", 0))
        if request.method == "GET":
            waits.append(wait)
        if wait:
            await release.wait()
        return server.respond(request)

    async def run() -> list[Decision]:
        async with AsyncPolicyClient(URL, timeout=PATIENT, transport=httpx.MockTransport(respond)) as policies:
            calls = [policies.decide(refund(), wait_for_approval=30) for _ in range(MAX_HELD_QUERIES + 10)]
            waiting = [asyncio.create_task(call) for call in calls]
            while len(waits) < len(calls):
                await asyncio.sleep(0)
            release.set()
            found = await asyncio.gather(*waiting)
            return [*found, await policies.decide(refund(), wait_for_approval=30)]

    decisions = asyncio.run(asyncio.wait_for(run(), PATIENT))
    assert {state for decision in decisions for state in states(decision)} == {"denied"}
    assert (waits.count(0), len(waits)) == (10, MAX_HELD_QUERIES + 11)


# ── When to ask, without a network ────────────────────────────────────────────────────────────


class Script:
    """Plays `poll_states` against answers that take a time of the test; None is a server that is away."""

    def __init__(self, *answers: tuple[float, str | int | None], wait: float = 100.0, poll: int | None = 4) -> None:
        self.now, self.pauses, self.queries = 0.0, list[float](), list[int]()
        ticket = ApprovalTicket(id=ID, state="pending", poll=poll)
        polls, answer = poll_states([ticket], wait, lambda: self.now), None
        left = iter(answers)
        try:
            while True:
                step = polls.send(answer)
                answer = None
                if isinstance(step, PollPause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                else:
                    answer = self.respond(step, *next(left, (float(step.seconds), "pending")))
        except StopIteration as end:
            self.states = end.value

    def respond(self, query: StatusQuery, seconds: float, said: str | int | None) -> WireResponse | None:
        self.queries.append(query.seconds)
        self.now += seconds
        if isinstance(said, str):
            return WireResponse(200, MSGPACK, msgspec.msgpack.encode({"state": said}))
        return None if said is None else WireResponse(said, MSGPACK, b"")

    @property
    def state(self) -> str | None:
        return self.states[ID].state if self.states else None


def test_a_long_wait_is_made_of_bounded_questions() -> None:
    script = Script(wait=100.0)
    assert (script.state, script.queries, script.pauses) == (None, [30, 30, 30, 10], [])


def test_a_server_that_is_busy_is_asked_again_after_the_pause_that_it_names() -> None:
    script = Script((0.0, "pending"), (0.0, "pending"), (2.0, "approved"))
    assert (script.state, script.pauses) == ("approved", [4.0, 4.0])


def test_a_server_that_comes_back_is_asked_again() -> None:
    script = Script((0.0, None), (0.0, 503), (0.0, None), (1.0, "approved"))
    assert (script.state, script.pauses) == ("approved", [0.2, 0.4, 0.8])


def test_a_server_that_stays_away_is_asked_a_few_times() -> None:
    script = Script(*[(0.0, None)] * 100)
    assert (script.state, len(script.queries)) == (None, MAX_FAILURES + 1)
    assert sum(script.pauses) < 10


def test_failures_are_counted_anew_after_an_answer() -> None:
    away: list[tuple[float, str | int | None]] = [(0.0, None)] * MAX_FAILURES
    assert Script(*away, (0.0, "pending"), *away, (0.0, "denied")).state == "denied"


@pytest.mark.parametrize("wait", [0.5, 1.5, 3.0, 31.0])
@pytest.mark.parametrize("answer", [(0.0, "pending"), (0.0, None)])
def test_a_wait_ends_at_its_bound(wait: float, answer: tuple[float, str | int | None]) -> None:
    assert Script(*[answer] * 100, wait=wait).now <= wait


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://pdp.example", "http://", "pdp"])
def test_a_client_of_no_server_is_refused_at_once(url: str) -> None:
    for kind in (PolicyClient, AsyncPolicyClient):
        with pytest.raises(ValueError, match="is not the URL of a server: write `http://HOST:PORT`"):
            kind(url)

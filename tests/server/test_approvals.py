"""Approvals over HTTP: requesters look at them, and people with a real token of an issuer answer them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from policyengine.approvals.eligibility import REFUSAL_HINTS, ApproverRefusal
from policyengine.engine import Engine
from policyengine.server import approvals
from policyengine.stores.base import StoreError
from tests.server import approving
from tests.server.approving import BOT, NOW, REFUND, Desk, bearer, token
from tests.server.conftest import TOKEN, client_of


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(approvals, "LIST_LOOK_SECONDS", 0.01)


def problem(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


# ── Requesters ────────────────────────────────────────────────────────────────────────────────


def test_a_decision_names_its_approval_and_where_its_state_is(desk: Desk) -> None:
    [remedy] = desk.ask()["remedies"]
    ticket = remedy["approval"]
    assert (ticket["state"], ticket["poll"]) == ("pending", 5)
    state = desk.call("GET", ticket["status"])
    assert state.json() == {
        "id": ticket["id"], "state": "pending", "expires": ticket["expires"], "poll": 5,
        "decision": state.json()["decision"],
    }  # fmt: skip
    assert state.headers["cache-control"] == "no-store"


def test_decide_opens_an_approval_only_if_asked(desk: Desk) -> None:
    [remedy] = desk.ask({**REFUND, "options": {}})["remedies"]
    assert "approval" not in remedy
    [remedy] = desk.ask({name: value for name, value in REFUND.items() if name != "options"})["remedies"]
    assert "approval" not in remedy


def test_status_reveals_nothing_of_the_request(desk: Desk) -> None:
    approval = desk.opened()
    told = desk.call("GET", f"/approvals/{approval}").text.replace(approval, "")  # a random ID may contain `900`
    assert not any(word in told for word in ("refund", "900", "bot", "alice", "finance", "large"))


def test_an_unknown_approval_is_not_found(desk: Desk) -> None:
    for id in ("x", "x" * 32, "%2e%2e", "%00"):
        assert desk.call("GET", f"/approvals/{id}").status_code == 404


@pytest.mark.parametrize("wait", ["-1", "1.5", "x", "１", "999999", ""])
def test_a_wait_is_a_number_of_seconds(desk: Desk, wait: str) -> None:
    assert desk.call("GET", f"/approvals/{desk.opened()}", params={"wait": wait}).status_code == 400


def test_a_waiting_client_gets_the_answer_as_soon_as_it_is_given(desk: Desk) -> None:
    id = desk.opened()

    async def both(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        waiting = asyncio.create_task(client.get(f"/approvals/{id}?wait=30"))
        await asyncio.sleep(0)
        answered = await client.post(f"/approvals/{id}/approve", headers=bearer(token()))
        return answered, await waiting

    answered, told = desk.run(both)
    assert (answered.status_code, told.json()["state"]) == (200, "approved")


def test_a_wait_ends_without_an_answer(desk: Desk) -> None:
    assert desk.call("GET", f"/approvals/{desk.opened()}?wait=1").json()["state"] == "pending"


def test_clients_beyond_the_bound_do_not_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MAX_WAITING_CLIENTS", 0)
    assert desk.call("GET", f"/approvals/{desk.opened()}?wait=30").json()["state"] == "pending"


def test_clients_that_went_away_take_no_place(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MAX_WAITING_CLIENTS", 2)
    id = desk.opened()

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        for _ in range(3):
            gone = [asyncio.create_task(client.get(f"/approvals/{id}?wait=30")) for _ in range(2)]
            await client.get(f"/approvals/{id}")
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
        waiting = asyncio.create_task(client.get(f"/approvals/{id}?wait=30"))
        await client.get(f"/approvals/{id}")
        assert not waiting.done()
        await client.post(f"/approvals/{id}/approve", headers=bearer(token()))
        return await waiting

    assert desk.run(work).json()["state"] == "approved"


def test_requesters_that_wait_take_no_place_of_people(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MAX_WAITING_CLIENTS", 1)
    id = desk.opened()
    version = desk.call("GET", "/approvals", headers=bearer(token())).json()["version"]

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        agent = asyncio.create_task(client.get(f"/approvals/{id}?wait=30"))
        url = f"/approvals?wait=30&version={version}"
        person = asyncio.create_task(client.get(url, headers=bearer(token())))
        for _ in range(5):
            await client.get(f"/approvals/{id}")
        assert not agent.done()
        assert not person.done()
        await client.post(f"/approvals/{id}/deny", headers=bearer(token()))
        assert (await agent).json()["state"] == "denied"
        return await person

    assert desk.run(work).json()["approvals"] == []


def test_a_waiting_client_learns_that_a_reload_has_voided_its_approval(desk: Desk) -> None:
    id = desk.opened()
    other = Engine.from_text(
        approving.POLICY.replace("within 15m when", "within 16m when"), store=desk.engine.store,
        clock=lambda: datetime.fromtimestamp(desk.now, UTC),
    )  # fmt: skip

    async def ask() -> httpx.Response:
        async with client_of(other) as client:
            return await client.get(f"/approvals/{id}?wait=30")

    assert asyncio.run(asyncio.wait_for(ask(), 60)).json()["state"] == "expired"
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"


def test_a_waiting_person_gets_the_list_as_soon_as_it_changes(desk: Desk) -> None:
    first = desk.call("GET", "/approvals", headers=bearer(token())).json()
    assert first["approvals"] == []

    async def both(client: httpx.AsyncClient) -> httpx.Response:
        url = f"/approvals?wait=30&version={first['version']}"
        waiting = asyncio.create_task(client.get(url, headers=bearer(token())))
        await asyncio.sleep(0)
        await client.post("/decide", json=REFUND)
        return await waiting

    told = desk.run(both).json()
    assert [one["rule"] for one in told["approvals"]] == ["large"]
    assert told["version"] != first["version"]
    # Another version, or none, does not wait.
    for version in ("", "&version=x", f"&version={first['version']}"):
        again = desk.call("GET", f"/approvals?wait=30{version}", headers=bearer(token())).json()
        assert again == told


def test_waiting_for_the_list_needs_the_token_of_a_person_and_a_number(desk: Desk) -> None:
    assert desk.call("GET", "/approvals?wait=30&version=x").status_code == 401
    assert desk.call("GET", "/approvals?wait=x", headers=bearer(token())).status_code == 400


def test_a_requester_withdraws_an_approval(desk: Desk) -> None:
    id = desk.opened()
    assert desk.call("POST", f"/approvals/{id}/withdraw").json()["state"] == "withdrawn"
    assert problem(desk.call("POST", f"/approvals/{id}/withdraw")) == (409, "approval_ended")
    assert problem(desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token()))) == (409, "approval_ended")


def test_withdrawing_needs_the_token_of_a_caller_if_questions_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tokens=True)
    id = desk.opened()
    for headers in ({}, bearer(token()), bearer("x" * 40)):
        assert desk.call("POST", f"/approvals/{id}/withdraw", headers=headers).status_code == 401
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"
    assert desk.call("POST", f"/approvals/{id}/withdraw", headers=bearer(TOKEN)).json()["state"] == "withdrawn"


def test_the_status_is_a_url_if_the_server_knows_its_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path, settings={"url": "https://pdp.example"})
    [remedy] = desk.ask()["remedies"]
    assert remedy["approval"]["status"] == f"https://pdp.example/approvals/{remedy['approval']['id']}"


# ── People ────────────────────────────────────────────────────────────────────────────────────


def test_a_person_approves_and_the_request_passes_once(desk: Desk) -> None:
    id = desk.opened()
    answer = desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token()))
    assert (answer.status_code, answer.json()["state"]) == (200, "approved")
    assert answer.json()["approved"] == [{"by": "carol", "issuer": "acme", "at": "2027-01-15T08:00:00Z"}]
    assert [desk.ask()["outcome"] for _ in range(2)] == ["allow", "confirm"]
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "spent"


def test_a_person_denies_with_a_reason(desk: Desk) -> None:
    id = desk.opened()
    told = desk.call("POST", f"/approvals/{id}/deny", headers=bearer(token()), json={"reason": "already paid"})
    assert told.json()["denied"]["reason"] == "already paid"
    assert desk.call("GET", f"/approvals/{id}").json()["reason"] == "already paid"
    [remedy] = desk.ask()["remedies"]
    assert (remedy["approval"]["id"], remedy["approval"]["state"]) == (id, "denied")


def test_a_denial_needs_no_body(desk: Desk) -> None:
    assert desk.call("POST", f"/approvals/{desk.opened()}/deny", headers=bearer(token())).json()["state"] == "denied"


@pytest.mark.parametrize("body", ["[]", "{", '{"reason":5}', '{"other":"x"}', "5"])
def test_a_malformed_denial_changes_nothing(desk: Desk, body: str) -> None:
    id, headers = desk.opened(), {**bearer(token()), "content-type": "application/json"}
    assert desk.call("POST", f"/approvals/{id}/deny", headers=headers, content=body).status_code == 400
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"


@pytest.mark.parametrize("body", ['{"reason":"too high"}', "[]", "{", "5"])
def test_an_approval_with_a_body_that_could_mean_a_denial_changes_nothing(desk: Desk, body: str) -> None:
    id, headers = desk.opened(), {**bearer(token()), "content-type": "application/json"}
    answer = desk.call("POST", f"/approvals/{id}/approve", headers=headers, content=body)
    assert answer.status_code == 400
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"
    assert desk.call("POST", f"/approvals/{id}/approve", headers=headers, content="{}").json()["state"] == "approved"


def test_a_form_of_a_web_page_denies_nothing(desk: Desk) -> None:
    id = desk.opened()
    form = {**bearer(token()), "content-type": "application/x-www-form-urlencoded"}
    assert desk.call("POST", f"/approvals/{id}/deny", headers=form, content="reason=x").status_code == 415
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"


def test_a_get_answers_nothing(desk: Desk) -> None:
    id = desk.opened()
    for verb in ("approve", "deny", "withdraw"):
        assert desk.call("GET", f"/approvals/{id}/{verb}", headers=bearer(token())).status_code == 405
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"


def test_people_see_what_they_may_answer(desk: Desk) -> None:
    id = desk.opened()
    listed = desk.call("GET", "/approvals", headers=bearer(token())).json()["approvals"]
    shown = desk.call("GET", f"/approvals/{id}/details", headers=bearer(token())).json()
    directory, history = shown.pop("directory"), shown.pop("history")
    assert listed == [shown]
    assert directory == [{"type": "user", "id": "alice", "known": True, "attributes": {"roles": ["finance"]}}]
    assert history["decisions"] == {"confirm": 1}
    assert [one["endpoint"] for one in history["latest"]] == ["POST /refund"]
    assert (shown["rule"], shown["message"], shown["by"]) == ("large", "refund of 900", "role finance")
    assert (shown["endpoint"], shown["question"]["body"]) == ("POST /refund", {"amount": 900})
    assert shown["requester"] == {"agent": "bot", "issuer": "acme", "user": "alice", "chain": ["alice", "bot"]}


REFUSED: dict[str, tuple[Callable[[], dict[str, str]], int]] = {
    "no token": (dict, 401),
    "a token of nobody": (lambda: bearer("nonsense"), 401),
    "a forged signature": (lambda: bearer(token(signer="partner")), 401),
    "an expired token": (lambda: bearer(token(exp=NOW - 100)), 401),
    "a token for another service": (lambda: bearer(token(aud="other")), 401),
    "a token without a subject": (lambda: bearer(token(sub=None)), 401),
    "the requester": (lambda: bearer(token("alice")), 403),
    "somebody without the role": (lambda: bearer(token("bob")), 403),
    "an unknown person": (lambda: bearer(token("zoe")), 403),
    "an agent for a person": (lambda: bearer(token("carol", client_id="bot")), 403),
    "another agent for a person": (lambda: bearer(token("carol", client_id="helper")), 403),
    "an agent with a chain": (lambda: bearer(token("carol", client_id="helper", act={"sub": "helper"})), 403),
    "the requester's agent as a person": (lambda: bearer(token("bot")), 403),
    "the same name at a partner": (lambda: bearer(token("carol", "partner")), 403),
    "two tokens": (lambda: {"authorization": f"Bearer {token()}, Bearer {token()}"}, 401),
}  # fmt: skip


@pytest.mark.parametrize("who", REFUSED)
def test_nobody_else_answers(desk: Desk, who: str) -> None:
    headers, status = REFUSED[who]
    id = desk.opened()
    for verb in ("approve", "deny"):
        answer = desk.call("POST", f"/approvals/{id}/{verb}", headers=headers())
        assert answer.status_code == status, answer.text
        assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"
    assert desk.call("GET", f"/approvals/{id}/details", headers=headers()).status_code == status
    listed = desk.call("GET", "/approvals", headers=headers())
    assert listed.status_code in (401, 403) or listed.json()["approvals"] == []
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"
    assert desk.ask()["outcome"] == "confirm"


@pytest.mark.parametrize("who", ["an agent for a person", "another agent for a person", "an agent with a chain"])
def test_an_agent_is_refused_before_it_sees_that_nothing_waits(desk: Desk, who: str) -> None:
    answer = desk.call("GET", "/approvals", headers=REFUSED[who][0]())
    assert problem(answer) == (403, "not_approver")
    assert answer.json()["detail"] == "the credential is presented by an agent, not by the user"


@pytest.mark.parametrize(
    ("who", "hint"),
    [
        ("the requester", "another person must answer"),
        ("the requester's agent as a person", "another person must answer"),
        ("somebody without the role", "`by` of the rule names the approvers"),
        ("an agent for a person", "the operator lists it in `people` of the issuer"),
        ("the same name at a partner", "`issuers` in `[approvals]`"),
    ],
)
def test_a_refused_person_gets_a_hint(desk: Desk, who: str, hint: str) -> None:
    answer = desk.call("POST", f"/approvals/{desk.opened()}/approve", headers=REFUSED[who][0]())
    assert hint in answer.json()["hint"]


def test_each_refusal_has_a_hint() -> None:
    assert set(REFUSAL_HINTS) == set(ApproverRefusal)


def test_a_refused_token_is_explained_in_words(desk: Desk) -> None:
    answer = desk.call("GET", "/approvals", headers=REFUSED["an expired token"][0]())
    assert answer.json()["detail"] == "the token is not accepted: the credential has expired"


def test_a_token_in_the_query_or_a_cookie_answers_nothing(desk: Desk) -> None:
    id = desk.opened()
    path = f"/approvals/{id}/approve?access_token={token()}"
    assert desk.call("POST", path, headers={"cookie": f"token={token()}"}).status_code == 401


def test_a_partner_may_answer_for_its_own_people(desk: Desk) -> None:
    answer = desk.call(
        "POST", f"/approvals/{desk.opened()}/approve", headers=bearer(token("eve@partner.example", "partner"))
    )
    assert answer.json()["state"] == "approved"


def test_only_named_issuers_answer_if_the_operator_names_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path, settings={"issuers": ("acme",)})
    eve = bearer(token("eve@partner.example", "partner"))
    assert problem(desk.call("POST", f"/approvals/{desk.opened()}/approve", headers=eve)) == (403, "not_approver")


def test_only_the_issuers_after_from_answer_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        approving, "POLICY", approving.POLICY.replace("by role finance within", "by role finance from partner within")
    )
    desk, eve = Desk(tmp_path), token("eve@partner.example", "partner")
    [remedy] = desk.ask()["remedies"]
    assert (remedy["by"], remedy["issuers"]) == ("role finance from partner", ["partner"])
    path = f"/approvals/{remedy['approval']['id']}"
    refused = desk.call("POST", f"{path}/approve", headers=bearer(token()))
    assert problem(refused) == (403, "not_approver")
    assert refused.json()["hint"] == "use a token of an issuer that the rule names after `from`"
    details = desk.call("GET", f"{path}/details", headers=bearer(eve)).json()
    assert details["by"] == "role finance from partner"
    assert desk.call("POST", f"{path}/approve", headers=bearer(eve)).json()["state"] == "approved"
    assert desk.ask()["outcome"] == "allow"


def test_the_user_of_the_request_answers_if_the_rule_says_so(desk: Desk) -> None:
    wipe = {"tool": {"server": "desk", "name": "wipe"}, **BOT, "args": {}, "options": {"request_approval": True}}
    id = desk.opened(wipe)
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token("carol"))).status_code == 403
    assert (
        desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token("alice", client_id="bot"))).status_code
        == 403
    )
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token("alice"))).json()["state"] == "approved"
    assert desk.ask(wipe)["outcome"] == "allow"


def test_the_token_of_a_caller_answers_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tokens=True)
    id = desk.opened()
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(TOKEN)).status_code == 401
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token())).json()["state"] == "approved"


def test_claims_in_the_body_of_an_answer_prove_nothing(desk: Desk) -> None:
    id = desk.opened()
    claims = {"user": {"id": "carol"}, "credential": {"issuer": "acme"}}
    assert desk.call("POST", f"/approvals/{id}/approve", json=claims).status_code == 401


def test_a_server_that_verifies_no_tokens_takes_no_answers(tmp_path: Path) -> None:
    desk = Desk(tmp_path, identified=False)
    id = desk.opened()
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token())).status_code == 501
    assert desk.call("GET", f"/approvals/{id}").json()["state"] == "pending"


def test_policies_without_a_confirm_have_no_approvals() -> None:
    async def run() -> httpx.Response:
        async with client_of(Engine.from_text("anyone { may GET /x }")) as client:
            return await client.get("/approvals/x")

    assert asyncio.run(run()).status_code == 404


def test_a_store_that_does_not_answer_is_a_503(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.opened()

    def broken(*_: object) -> None:
        raise StoreError("no answer")

    monkeypatch.setattr(desk.engine.store.approvals, "find", broken)
    assert desk.call("GET", f"/approvals/{id}").status_code == 503
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token())).status_code == 503


def test_a_revoked_person_answers_nothing(desk: Desk) -> None:
    id = desk.opened()
    desk.engine.store.marks.revoke(["user:acme/carol"], NOW + 600, NOW, by_operator=True)
    assert desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token())).status_code == 401


def test_a_halted_person_answers_nothing(desk: Desk) -> None:
    id = desk.opened()
    desk.engine.halt(user="carol", reason="stolen token", end=timedelta(hours=1))
    for verb in ("approve", "deny"):
        refused = desk.call("POST", f"/approvals/{id}/{verb}", headers=bearer(token()))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_approver")
    assert desk.call("GET", "/approvals", headers=bearer(token())).json()["approvals"] == []


# ── Idempotency keys ──────────────────────────────────────────────────────────────────────────

KEYED = {**bearer(TOKEN), "idempotency-key": "8e03978e-40d5-43dd-bc93-6fae90b0db0d"}
BY_AGENT = {name: value for name, value in REFUND.items() if name not in BOT}


def by_token(**claims: object) -> dict[str, object]:
    """Return the question of an agent that presents its token."""
    return {**BY_AGENT, "credentials": {"authorization": f"Bearer {token('alice', client_id='bot', **claims)}"}}


def retried(desk: Desk, question: dict[str, object]) -> tuple[str, bool]:
    """Return the outcome for one idempotency key, and whether it repeats an earlier answer."""
    answer = desk.call("POST", "/decide", json=question, headers=KEYED)
    return answer.json()["outcome"], answer.headers.get("idempotency-replayed") == "true"


@pytest.mark.parametrize("question", [REFUND, by_token()], ids=["facts", "credentials"])
def test_a_retry_with_an_idempotency_key_passes_once_after_the_approval(
    tmp_path: Path, question: dict[str, object]
) -> None:
    desk = Desk(tmp_path, tokens=True)
    assert [retried(desk, question) for _ in range(2)] == [("confirm", False), ("confirm", True)]
    [waiting] = desk.engine.approvals.list() if desk.engine.approvals is not None else []
    desk.call("POST", f"/approvals/{waiting.approval.id}/approve", headers=bearer(token()))
    assert [retried(desk, question) for _ in range(3)] == [("allow", False), ("allow", True), ("allow", True)]
    assert desk.ask({**question})["outcome"] == "confirm"


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_retry_after_the_approval_verifies_the_credentials_again(tmp_path: Path, end: str) -> None:
    desk, question = Desk(tmp_path, tokens=True), by_token(exp=NOW + 300)
    retried(desk, question)
    [waiting] = desk.engine.approvals.list() if desk.engine.approvals is not None else []
    desk.call("POST", f"/approvals/{waiting.approval.id}/approve", headers=bearer(token()))
    if end == "revoked":
        desk.engine.store.marks.revoke(["user:acme/alice"], NOW + 600, NOW, by_operator=True)
    else:
        desk.now += 400  # more than clocks may differ
    assert retried(desk, question) == ("deny", False)


# ── Gateways ──────────────────────────────────────────────────────────────────────────────────

BY_CADDY = {"x-agent-id": "bot", "x-agent-issuer": "acme", "x-agent-user": "alice"}


def forwarded(desk: Desk, uri: str = "/export?year=2026", door: str = "/forward-auth") -> httpx.Response:
    return desk.call("GET", door, headers={**BY_CADDY, "x-forwarded-method": "GET", "x-forwarded-uri": uri})


@pytest.mark.parametrize("door", ["/forward-auth", "/forward-auth/nginx"])
def test_gateways_open_approvals_and_let_the_approved_request_pass_once(tmp_path: Path, door: str) -> None:
    desk = Desk(tmp_path, identified=True)
    refused = forwarded(desk, door=door)
    assert refused.status_code == 403
    [remedy] = refused.json()["remedies"]
    id = remedy["approval"]["id"]
    if door.endswith("nginx"):
        assert json.loads(refused.headers["x-problem"])["remedies"][0]["approval"]["id"] == id
    desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token()))
    assert forwarded(desk, "/export?year=2025", door).status_code == 403
    assert [forwarded(desk, door=door).status_code for _ in range(2)] == [200, 403]


def test_envoy_opens_an_approval(desk: Desk) -> None:
    refused = desk.call("GET", "/envoy/export?year=2026", headers={**BY_CADDY, "x-envoy-internal": "true"})
    assert refused.status_code == 403
    [remedy] = refused.json()["remedies"]
    assert remedy["approval"]["state"] == "pending"

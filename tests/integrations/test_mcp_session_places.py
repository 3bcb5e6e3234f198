"""Sessions with a legacy server when callers want more than there are: who gets the next one, and who gets an error."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, ErrorData

from policyengine.integrations.mcp.busy_errors import busy_error
from policyengine.integrations.mcp.clients.stateless_endpoint import answer_document, answer_status
from policyengine.integrations.mcp.gateway import identify_by_headers, parse_caller_facts
from policyengine.integrations.mcp.upstream.session_places import MAX_OWNER_SESSIONS, SessionPlaces
from tests.integrations.conftest import BOT, Watched
from tests.integrations.era_servers import EraServer, envelope, gateway_of, modern_body, modern_headers
from tests.integrations.test_mcp_era_attacks import pool_call, pool_of
from tests.integrations.test_mcp_gateway_stop import application

A, B, C = ("a",), ("b",), ("c",)


def run(work: Any) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


# ── Places ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("most", "share"), [(100, MAX_OWNER_SESSIONS), (16, 8), (10, 5), (2, 1), (1, 1)])
def test_one_caller_has_at_most_half_of_the_sessions(most: int, share: int) -> None:
    assert SessionPlaces(most, lambda owner: None).share == share


def test_a_free_place_goes_to_the_waiting_caller_with_the_fewest_sessions() -> None:
    woken = list[Any]()
    places = SessionPlaces(6, woken.append)
    assert all(places.take(owner) for owner in (A, A, A, B, B, C))
    assert not places.take(C)
    with places.line(B), places.line(C):
        places.give_back(A)
        assert woken == [C]
        assert not places.take(B)  # the place is kept for another
        assert places.take(C)
        places.give_back(A)
        assert woken == [C, B]  # both have two; the first in the line is first
        assert places.take(B)
    assert [places.count(owner) for owner in (A, B, C)] == [1, 3, 2]


def test_a_kept_place_goes_to_others_when_its_caller_has_left_the_line() -> None:
    woken = list[Any]()
    places = SessionPlaces(6, woken.append)
    assert all(places.take(owner) for owner in (A, A, A, B, B, C))
    with places.line(B):
        with places.line(C):
            places.give_back(A)
            assert woken == [C]
        assert woken == [C, B]
        assert not places.take(A)
    assert places.take(A)  # nobody is left in the line


def test_no_caller_gets_more_than_its_share_from_the_line() -> None:
    places = SessionPlaces(4, lambda owner: None)
    assert all(places.take(owner) for owner in (A, B, B, C))
    with places.line(A), places.line(A):
        for owner in (B, B):
            places.give_back(owner)
        assert places.take(A)
        assert places.take(C)
    assert places.count(A) == places.share


def test_an_idle_session_is_given_up_only_if_the_callers_are_more_equal_after_it() -> None:
    places = SessionPlaces(6, lambda owner: None)
    assert all(places.take(owner) for owner in (A, A, A, B, B, C))
    assert not places.is_wanted(A, is_needed=False)  # the line is empty
    with places.line(B):
        assert places.is_wanted(A, is_needed=False)
        assert not places.is_wanted(A, is_needed=True)
    with places.line(C):
        assert places.is_wanted(A, is_needed=True)
        assert not places.is_wanted(B, is_needed=True)


def test_callers_with_one_session_take_turns_with_one_that_has_none() -> None:
    woken = list[Any]()
    places = SessionPlaces(2, woken.append)
    assert all(places.take(owner) for owner in (A, B))
    with places.line(A), places.line(B), places.line(C):
        for owner in (A, B, A):
            assert places.is_wanted(owner, is_needed=True)
            places.give_back(owner)
            assert places.take(woken[-1])
        assert woken == [A, B, C]


# ── Sessions ──────────────────────────────────────────────────────────────────────────────────


def test_a_caller_without_a_session_is_served_before_further_calls_of_busy_callers() -> None:
    behind, order = EraServer("legacy"), list[str]()

    async def call(pool: Any, owner: str, tool: str, scope: anyio.CancelScope) -> None:
        with scope:
            await pool.exchange(pool_call(owner, params={"name": tool, "arguments": {"a": 1, "b": 2}}))
            order.append(owner)

    async def work() -> None:
        async with pool_of(behind, most=4, seconds=20) as pool, anyio.create_task_group() as group:
            busy = [anyio.CancelScope() for _ in range(4)]
            for owner, scope in zip("aabb", busy, strict=True):
                group.start_soon(call, pool, owner, "slow", scope)
            while behind.methods.count("tools/call") < 4:
                await anyio.sleep(0.001)
            for owner in "abc":
                group.start_soon(call, pool, owner, "add", anyio.CancelScope())
                await anyio.wait_all_tasks_blocked()
            assert order == []
            busy[0].cancel()
            while not order:
                await anyio.sleep(0.001)
            assert order[0] == "c"
            group.cancel_scope.cancel()

    run(work())


def test_an_idle_session_of_a_busy_caller_makes_room_for_one_that_waits() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind, most=4, seconds=20) as pool, anyio.create_task_group() as group:
            parked = [await pool.exchange(pool_call(owner, params={"name": "ask"})) for owner in "aabb"]
            group.start_soon(pool.exchange, pool_call("c"))
            await anyio.wait_all_tasks_blocked()
            assert behind.methods.count("tools/call") == 4
            answers = {key: {"action": "accept"} for key in parked[0]["inputRequests"]}
            repeated = {"name": "ask", "requestState": parked[0]["requestState"], "inputResponses": answers}
            await pool.exchange(pool_call("a", params=repeated))
            while behind.methods.count("tools/call") < 5:
                await anyio.sleep(0.001)
            assert pool._places.count(A) == 1

    run(work())


def test_a_parked_call_whose_server_has_ended_keeps_no_session() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind, most=2, seconds=0.01) as pool:
            parked = [await pool.exchange(pool_call(owner, params={"name": "ask"})) for owner in "ab"]
            ended = pool._open[0].session
            ended.close()
            while not ended.is_over:
                await anyio.sleep(0)
            await pool.exchange(pool_call("c"))
            answers = {key: {"action": "accept"} for key in parked[0]["inputRequests"]}
            repeated = {"name": "ask", "requestState": parked[0]["requestState"], "inputResponses": answers}
            with pytest.raises(MCPError):
                await pool.exchange(pool_call("a", params=repeated))

    run(work())


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "status"), [("caller_busy", 429), ("sessions_busy", 503)])
def test_busy_sessions_have_a_status_of_their_own(kind: str, status: int) -> None:
    found = busy_error(kind, "busy", "wait").error
    assert answer_status(found) == status
    assert answer_document(1, found)["error"] == {
        "code": INTERNAL_ERROR, "message": "busy (wait)", "data": {"kind": kind, "hint": "wait"},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["caller_busy", "sessions_busy"])
def test_attack_an_error_of_a_server_sets_no_status(kind: str) -> None:
    assert answer_status(ErrorData(code=INTERNAL_ERROR, message="", data={"kind": kind, "status": 503})) == 200


def test_a_caller_for_whom_there_is_no_session_gets_503_and_the_gateway_logs_it(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    identify = identify_by_headers({"user": "x-user"}, lambda found: {**BOT, **parse_caller_facts(found)})
    gateway = gateway_of(watched, EraServer("legacy"), identify)
    object.__setattr__(gateway.upstream, "max_sessions", 2)

    async def work() -> None:
        async with application(gateway) as (client, _):

            async def call(user: str, name: str) -> Any:
                params = {"name": name, "arguments": {"a": 1, "b": 2}}
                body = modern_body("tools/call", params, meta=envelope({"elicitation": {"form": {}}}))
                headers = modern_headers(body, **{"x-user": user})
                return await client.send("POST", headers, json.dumps(body).encode())

            assert gateway.service is not None
            gateway.service.eras._pool._seconds = 0.01
            for user in ("alice", "bob"):
                parked = await call(user, "ask")
                assert parked.messages[-1]["result"]["resultType"] == "input_required"
            refused = await call("carol", "add")
            assert (refused.status, refused.error["data"]["kind"]) == (503, "sessions_busy")
            assert "all 2 sessions with the upstream server are in use" in refused.error["message"]

    with caplog.at_level(logging.WARNING, "policyengine"):
        run(work())
    [logged] = [record for record in caplog.records if hasattr(record, "event")]
    assert (logged.event, logged.count) == ("upstream_sessions_busy", 2)
    assert "by 2 callers" in logged.getMessage()


def test_a_call_that_finds_no_session_in_time_is_refused_and_leaves_the_line() -> None:
    async def work() -> None:
        async with pool_of(EraServer("legacy"), most=2, seconds=0.01) as pool:
            for owner in "ab":
                await pool.exchange(pool_call(owner, params={"name": "ask"}))
            with pytest.raises(MCPError, match="all 2 sessions"):
                await pool.exchange(pool_call("c"))
            assert not pool._places.is_wanted(A, is_needed=False)
            assert not pool._freed  # nothing is left of callers that got no session

    run(work())


def test_a_call_with_a_short_time_limit_is_told_that_the_sessions_of_all_are_busy() -> None:
    async def work() -> None:
        async with pool_of(EraServer("legacy"), most=2, seconds=20, limit=1.0) as pool:
            for owner in "ab":
                await pool.exchange(pool_call(owner, params={"name": "ask"}))
            with pytest.raises(MCPError, match="all 2 sessions with the upstream server"):
                await pool.exchange(pool_call("c"))

    run(work())


def test_a_server_that_stops_to_answer_initialize_is_named_in_the_error() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind) as pool:
            await pool.exchange(pool_call("a"))
            behind.silent.add("initialize")
            object.__setattr__(pool._upstream, "limit", 0.05)  # not before: a busy machine answers later than that
            with pytest.raises(MCPError, match="the upstream server did not answer within"):
                await pool.exchange(pool_call("b"))

    run(work())


def test_no_caller_gets_more_than_its_share_when_many_sessions_end_at_once() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind, most=10, seconds=20) as pool, anyio.create_task_group() as group:

            async def hold(owner: str) -> None:
                with suppress(MCPError):
                    await pool.exchange(pool_call(owner, params={"name": "slow", "arguments": {"a": 1, "b": 2}}))

            for owner in "aaaabbbbcc":
                group.start_soon(hold, owner)
            while behind.methods.count("tools/call") < 10:
                await anyio.sleep(0.001)
            for _ in range(4):
                group.start_soon(hold, "a")
            await anyio.wait_all_tasks_blocked()
            for pooled in [one for one in pool._open if one.owner == B]:
                pool._end(pooled)
            await anyio.wait_all_tasks_blocked()
            assert pool._places.count(A) == pool._places.share
            group.cancel_scope.cancel()

    run(work())

"""Two servers of two workers that share a store, each behind an Envoy, while an operator halts an agent whose
credentials the gateway verifies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.conftest import SITE
from tests.gateways.servers import KINDS, Gateway, Upstream, engine, gateway
from tests.gateways.test_gateways import WRITER
from tests.halts.commands import command
from tests.processes import wait_until
from tests.stores.servers import Server, running

SECOND = 1.0
CONSECUTIVE = 20  # answers of each gateway, so that both workers have answered


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("redis-server", tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def gateways(state: Server, api: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Envoy over gRPC before the first server, and Envoy over HTTP before the second."""
    kinds = [one for one in KINDS if one.name in ("envoy-grpc", "envoy-http")]
    with ExitStack() as stack:
        found = []
        for kind in kinds:
            if kind.found() is None:
                pytest.skip(f"{kind.name} is missing: {kind.install}")
            folder = tmp_path_factory.mktemp(kind.name)
            log = folder / "decisions.jsonl"
            options = ("--workers", "2", "--store", f"{state.url}?timeout=20s", "--log", str(log))
            ports = stack.enter_context(engine(str(SITE), *options))
            found.append(stack.enter_context(gateway(kind, folder, api, ports, log)))
        yield found


def status(web: Gateway, *headers: str) -> int:
    web.client.close()  # a new connection
    return web.client.ask("/v1/things", *(headers or (WRITER,))).status


def seconds_until(web: Gateway, wanted: int, since: float) -> float:
    """Return how long after a time the last answer had another status; the answers after it were as wanted."""
    latest, consecutive = since, 0
    while consecutive < CONSECUTIVE:
        asked = time.time()
        if status(web) == wanted:
            consecutive += 1
        else:
            latest, consecutive = asked, 0
        assert asked < since + 30, "it never had that status"
    return latest - since


def notes(web: Gateway, state: str, halt: str) -> dict[int, float]:
    """Return when each worker of a server knew of a change, in seconds since 1970."""
    assert web.log is not None
    found: dict[int, float] = {}
    for line in map(json.loads, web.log.read_text(encoding="utf-8").splitlines()):
        event = line.get("system", {})
        if event.get("event") == "halt" and (event["state"], event["halt"]) == (state, halt):
            found[event["worker"]] = datetime.fromisoformat(line["time"]).timestamp()
    return found


def test_a_halt_reaches_every_worker_behind_every_gateway_within_a_second(
    state: Server, gateways: list[Gateway]
) -> None:
    """A machine that stalls makes some halts late, and a defect all of them."""
    assert any(slowest_change(state, gateways) < SECOND for _ in range(3))


def slowest_change(state: Server, gateways: list[Gateway]) -> float:
    """Halt an agent and lift the halt. Return the most seconds that one of the two needed to reach a worker."""
    store = ("--store", f"{state.url}?timeout=20s")
    assert [status(web) for web in gateways] == [200, 200]
    halted = command("halt", "--agent", "invoice-bot", "--reason", "it repeats refunds", "--for", "1h", *store)
    acknowledged = time.time()
    taken = [seconds_until(web, 403, acknowledged) for web in gateways]
    wait_until(lambda: all(notes(web, "on", halted["halt"]["id"]).keys() == {0, 1} for web in gateways))
    for web in gateways:
        taken.append(max(notes(web, "on", halted["halt"]["id"]).values()) - acknowledged)
        answer = web.client.ask("/v1/things", WRITER)
        assert answer.problem["reasons"] == [
            {"gate": "halted", "message": f"halted until {halted['halt']['until']}: it repeats refunds"}
        ]
        assert web.client.ask("/public/x").status == 200  # only the agent is halted
    lifted = command("halt", "lift", halted["halt"]["id"], "--reason", "it was mended", *store)
    acknowledged = time.time()
    assert lifted["lifted"]["reason"] == "it was mended"
    return max(*taken, *(seconds_until(web, 200, acknowledged) for web in gateways))


def test_a_worker_that_replaces_another_is_halted_before_its_first_decision(
    state: Server, gateways: list[Gateway]
) -> None:
    store = ("--store", f"{state.url}?timeout=20s")
    halted = command("halt", "--everything", "--reason", "an incident", "--for", "1h", *store)["halt"]["id"]
    try:
        for web in gateways:
            seconds_until(web, 403, time.time())
        for web in gateways:
            assert web.log is not None
            before = web.log.read_text(encoding="utf-8").count('"event":"started"')
            for process in workers_of_log(web.log)[-2:]:
                os.kill(process, signal.SIGKILL)
            wait_until(lambda web=web, before=before: started_lines(web) > before)  # type: ignore[misc]
            statuses = {status(web) for _ in range(CONSECUTIVE)}
            assert statuses <= {403, 503}  # 503: Envoy lost the connection to the killed worker
            assert 403 in statuses
    finally:
        command("halt", "lift", halted, "--reason", "over", *store)


def started_lines(web: Gateway) -> int:
    assert web.log is not None
    return web.log.read_text(encoding="utf-8").count('"event":"started"')


def workers_of_log(log: Path) -> list[int]:
    """Return the process ids of the workers, in the order in which they started."""
    events: list[dict[str, Any]] = [
        line["system"] for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if "system" in line
    ]
    return [event["pid"] for event in events if event["event"] == "started"]

"""Raw credentials where others have a part in it: workers that share a store, and issuers that do not answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.client.socket import FRAME_HEADER
from policyengine.engine import Engine
from policyengine.reload import ReloadableEngine
from policyengine.server import ServeError
from policyengine.server.connections.connection_table import CloseReason
from policyengine.server.socket.protocol import FramedProtocol
from policyengine.server.workers.pool import check_workers
from policyengine.stores.url import open_store
from tests.identity import bound_world, issuing
from tests.identity.providing import Faulty, faulty, hangs
from tests.identity.proving import POLICY, Doors, asking, proof, token, url, written
from tests.processes import wait_until
from tests.server.conftest import client_of
from tests.server.processes import started
from tests.server.test_connections import table_of
from tests.server.test_framed import frame, spoken
from tests.server.test_log import SERVE

CLOSE = {"connection": "close"}


def test_several_workers_that_verify_credentials_require_a_shared_store(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    with pytest.raises(ServeError) as error:
        check_workers(doors.engine, 2)
    assert error.value.message.startswith("credentials need one worker: each of 2 would accept a proof")
    assert error.value.hint == "omit `--workers`, or share a store: `--store sqlite:///store.db`"
    check_workers(doors.engine, 1)
    check_workers(Doors(tmp_path, store=f"sqlite:///{tmp_path}/store.db").engine, 2)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[str, str, Path, int]]:
    """Two of them: their URL, their store, their socket, and the process that started them."""
    identity, store, path = written(tmp_path), f"sqlite:///{tmp_path}/store.db", tmp_path / "policy.sock"
    options = ["--identity", str(identity), "--store", store, "--workers", "2", "--socket", str(path)]
    told = ["serve", str(tmp_path / "doors.policy"), "--port", "0", "--format", "json", *options]
    with started(SERVE, *told) as (line, process):
        yield json.loads(line)["listening"], store, path, process.pid


def test_workers_share_seen_proofs_and_revocations(workers: tuple[str, str, Path, int]) -> None:
    """Each question by a connection of its own, so that both answer."""
    base, store, path, process = workers

    http = httpx.Client(verify=False)

    def outcomes(given: dict[str, Any], times: int) -> list[str]:
        found = [http.post(f"{base}/decide", json=asking(given), headers=CLOSE).json() for _ in range(times)]
        found += [spoken(path, frame([1, "decide", asking(given)]))[0][2] for _ in range(times // 2)]
        return [one["reasons"][0]["code"] if one["reasons"] else one["outcome"] for one in found]

    now = time.time()
    raw = token(now, cnf={"jkt": bound_world.jkt()})
    once = outcomes({"authorization": f"DPoP {raw}", "dpop": proof(now, raw, "GET", url())}, 16)
    assert sorted(once) == ["allow", *["proof_replayed"] * 23]
    held = {"authorization": f"Bearer {token(now, sub='mallory')}"}
    assert set(outcomes(held, 16)) == {"allow"}
    open_store(store).marks.revoke(("user:acme/mallory",), int(now) + 600, int(now))
    assert set(outcomes(held, 16)) == {"revoked"}
    (path.parent / "doors.policy").write_text(POLICY + "anyone { may GET /other }\n")
    os.kill(process, signal.SIGHUP)
    wait_until(lambda: {other(http, base) for _ in range(8)} == {"allow"})
    assert set(outcomes(held, 16)) == {"revoked"}  # also by other policies
    assert set(outcomes({"authorization": f"Bearer {token(now)}"}, 8)) == {"allow"}
    http.close()


def other(http: httpx.Client, base: str) -> str:
    return str(http.post(f"{base}/decide", json=asking(None, path="/other"), headers=CLOSE).json()["outcome"])


# ── Issuers that do not answer ────────────────────────────────────────────────────────────────

SLOW = """
issuer {name} {{ url "https://{name}.example"   audience "payments-api"   keys "{keys}" }}
agent "{name}-bot" {{ issued by {name}   acts for any user   credential {{ kind in [jwt] }}   may invoices.read }}
"""


@pytest.fixture
def slow() -> Iterator[Faulty]:
    with faulty() as server:
        for name in ("one", "two", "three"):
            server.pages[f"/{name}"] = hangs
        yield server


def engine_of(folder: Path, slow: Faulty) -> Engine:
    """Beside the issuer that is known three that let us wait."""
    identity = written(folder)
    identity.write_text(identity.read_text().replace("[identity]", '[identity]\ntimeout = "30s"'))
    more = "".join(SLOW.format(name=one, keys=f"{slow.url}/{one}") for one in ("one", "two", "three"))
    (folder / "doors.policy").write_text(POLICY + more)
    return Engine.load(folder / "doors.policy", identity=identity)


def waiting(name: str) -> dict[str, Any]:
    raw = token(time.time(), iss=f"https://{name}.example", client_id=f"{name}-bot")
    return asking({"authorization": f"Bearer {raw}"})


def known() -> dict[str, Any]:
    return asking({"authorization": f"Bearer {token(time.time())}"})


def test_an_unresponsive_issuer_does_not_delay_callers_of_other_issuers(tmp_path: Path, slow: Faulty) -> None:
    """Each of these brings a token that nobody has seen, so that it needs a thread, too."""
    engine = engine_of(tmp_path, slow)

    async def run() -> tuple[list[str], list[str], list[str]]:
        async with client_of(engine) as client:

            async def code(question: dict[str, Any]) -> str:
                answer = (await client.post("/decide", json=question)).json()
                return str(answer["reasons"][0]["code"] if answer["reasons"] else answer["outcome"])

            stuck = [asyncio.create_task(code(waiting(one))) for one in ("one", "two", "three") for _ in range(25)]
            async with asyncio.timeout(25):
                while len([one for one in stuck if one.done()]) < 75 - 24:
                    await asyncio.sleep(0)
                meanwhile = [await code(known()) for _ in range(10)]
                meanwhile += [
                    (await engine.decide_async(known())).outcome.value,
                    (await client.get("/healthz")).json()["status"],
                ]
            refused = [one.result() for one in stuck if one.done()]
            for name in ("one", "two", "three"):
                slow.pages[f"/{name}"] = {"keys": [issuing.ec().as_dict(private=False)]}
            slow.ends.set()
            return meanwhile, refused, [await one for one in stuck]

    meanwhile, refused, all_of_them = asyncio.run(run())
    assert meanwhile == [*["allow"] * 11, "ok"]
    assert refused == ["provider"] * (75 - 24)  # at once: no more may wait
    assert len(all_of_them) == 75
    assert engine.failures == 0


def test_fewer_requests_may_wait_for_issuers_than_there_are_threads() -> None:
    import anyio.to_thread

    from policyengine.identity.single_flight import MAX_WAITERS, MAX_WAITERS_IN_PROCESS
    from policyengine.server.adapters.envoy_grpc import MAX_THREADS

    async def theirs() -> float:
        return anyio.to_thread.current_default_thread_limiter().total_tokens

    page = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")
    assert f"at most {MAX_WAITERS} requests wait for one issuer, and {MAX_WAITERS_IN_PROCESS} for all issuers." in page
    assert MAX_WAITERS < MAX_WAITERS_IN_PROCESS < min(MAX_THREADS, MAX_THREADS, asyncio.run(theirs()))


def test_a_socket_connection_that_waits_for_an_issuer_does_not_block_other_connections(
    tmp_path: Path, slow: Faulty
) -> None:
    """More of them wait than an event loop has threads of its own."""
    engine, path = engine_of(tmp_path, slow), str(tmp_path / "policy.sock")

    async def run() -> tuple[dict[str, Any], list[bool]]:
        held, table = ReloadableEngine(engine), table_of(100)
        server = await asyncio.get_running_loop().create_unix_server(lambda: FramedProtocol((held, held), table), path)
        async with server, asyncio.timeout(25):
            stuck = [await asyncio.open_unix_connection(path) for _ in range(12)]
            for _, writer in stuck:
                writer.write(frame([1, "decide", waiting("one")]))
            while not slow.asked:
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(frame([2, "decide", known()]))
            (size,) = FRAME_HEADER.unpack(await reader.readexactly(FRAME_HEADER.size))
            answer = msgpack.unpackb(await reader.readexactly(size))
            answered = [bool(one._buffer) for one, _ in stuck]  # type: ignore[attr-defined]
            slow.ends.set()
            for _, one in [*stuck, (reader, writer)]:
                one.close()
                await one.wait_closed()
            for ours in list(table.connections):
                ours.drop(CloseReason.ANSWER)
            while table.connections:
                await asyncio.sleep(0)
            return answer, answered

    (_, status, decision), answered = asyncio.run(run())
    assert (status, decision["outcome"]) == (200, "allow")
    assert answered == [False] * 12

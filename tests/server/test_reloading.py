"""Other policies while a server answers: by SIGHUP and by `--watch`, by one worker and by several, over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from policyengine.audit import read_records
from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from policyengine.reload import ReloadableEngine, prepare_candidate
from policyengine.reload.source import ReloadSource
from policyengine.server.workers.reload import ReloadCoordinator, ReloadParticipant, WorkerChannel
from tests.processes import wait_until
from tests.reload.conftest import ASK, OPEN, SHUT
from tests.server.processes import started
from tests.server.test_log import SERVE
from tests.server.test_workers import workers_of

CLERKS = """language 1
package shop
entity user { roles: set<string> }
anyone { may GET /health }
guard "clerks" on GET /health { require user.roles has "clerk" }
"""
OUTCOMES = {Engine.from_text(OPEN).revision: "allow", Engine.from_text(SHUT).revision: "deny"}
# The server swaps by itself, as fast as it is asked to: what is answered meanwhile is what this is about.
SWAPPING = f"""
import sys, threading, time
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.reload import ReloadableEngine
from policyengine.server import serve
texts = {[SHUT, OPEN]!r}
kernels = [Engine.from_text(text).kernel for text in texts]
held = ReloadableEngine(Engine.from_text(texts[1]))
def swap():
    for number in range(100):
        held.replace(held.current.successor(kernels[number % 2]))
        time.sleep(0.005)
def ready(url):
    print(url, flush=True)
    threading.Thread(target=swap, daemon=True).start()
serve(held, port=0, path=Path(sys.argv[1]), listening=ready)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "shop.policy").write_text(OPEN)
    return made


@contextmanager
def serving(folder: Path, *options: str, compare: bool = False) -> Iterator[tuple[int, Any]]:
    """Its port, and its process. Without `compare` it does not say what a reload widens, which takes a while."""
    given = [*options, *([] if compare else ["--reload-compare", "0"])]
    with started(SERVE, "serve", str(folder), "--port", "0", "--format", "json", *given) as (line, process):
        yield int(json.loads(line)["listening"].rpartition(":")[2]), process


def got(connection: http.client.HTTPConnection, path: str = "/readyz") -> dict[str, Any]:
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())  # type: ignore[no-any-return]


def asked(connection: http.client.HTTPConnection, question: object = ASK) -> dict[str, Any]:
    connection.request("POST", "/decide", json.dumps(question), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    return json.loads(answer.read())  # type: ignore[no-any-return]


def connected(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def belongs(answer: dict[str, Any]) -> bool:
    return OUTCOMES[answer["revision"]] == answer["outcome"]


def test_answers_during_policy_swaps_never_fail_or_mix_two_policies(tmp_path: Path) -> None:
    with started(SWAPPING, str(tmp_path / "s")) as (url, _):
        port, over, revisions = int(url.rpartition(":")[2]), Event(), set[str]()

        def load() -> int:
            many = 0
            with closing(connected(port)) as connection:
                while not over.is_set():
                    answer = asked(connection)
                    assert belongs(answer)
                    revisions.add(answer["revision"])
                    many += 1
            return many

        def framed() -> int:
            many = 0
            with SocketClient(tmp_path / "s", timeout=20) as client:
                while not over.is_set():
                    answer = client.decide(ASK)
                    assert OUTCOMES[answer.revision] == answer.outcome
                    many += 1
            return many

        with ThreadPoolExecutor(3) as pool, closing(connected(port)) as watching:
            running = [pool.submit(load), pool.submit(load), pool.submit(framed)]
            try:
                wait_until(lambda: got(watching)["reloads"]["done"] == 100)
            finally:
                over.set()
            assert min(one.result() for one in running) > 10
    assert len(revisions) == 2


# ── What an operator does ─────────────────────────────────────────────────────────────────────


def test_workers_reload_after_sighup_and_refuse_an_invalid_policy(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(folder, "--workers", "2", "--log", str(log)) as (port, process), ExitStack() as closed:
        every = [closed.enter_context(closing(connected(port))) for _ in range(6)]  # of both workers, most likely
        assert all(asked(one)["outcome"] == "allow" for one in every)
        (folder / "shop.policy").write_text(SHUT)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(asked(one)["outcome"] == "deny" for one in every))
        (folder / "shop.policy").write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(got(one)["reloads"]["refused"] == 1 for one in every))
        assert got(every[0])["reloads"]["why"] == "1 error in the policies"
        assert all(asked(one)["outcome"] == "deny" for one in every)
        killed, _ = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers_of(process)) == 2 and killed not in workers_of(process))
        for _ in range(8):  # the one that took its place decides as the other
            with closing(connected(port)) as fresh:
                assert asked(fresh)["outcome"] == "deny"
        process.terminate()
        assert "shop.policy:1:1" in process.communicate(timeout=30)[1]
    assert all(belongs({"revision": one.revision, "outcome": str(one.outcome)}) for one in read_records(log))


def test_watch_reloads_a_changed_policy_file(folder: Path) -> None:
    with serving(folder, "--watch") as (port, process), closing(connected(port)) as connection:
        assert asked(connection)["outcome"] == "allow"
        (folder / "new").write_text(SHUT)
        (folder / "new").rename(folder / "shop.policy")
        wait_until(lambda: asked(connection)["outcome"] == "deny")
        (folder / "shop.policy").write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: got(connection)["reloads"]["refused"] == 1)
        assert got(connection)["status"] == "ready"
        assert asked(connection)["outcome"] == "deny"


def test_a_worker_that_replaces_another_does_not_bring_older_entities_back(folder: Path, tmp_path: Path) -> None:
    rows, bob = tmp_path / "user.csv", {**ASK, "user": {"id": "bob"}}
    (folder / "shop.policy").write_text(CLERKS)
    rows.write_text("id,roles\nbob,clerk\n")
    with serving(folder, "--workers", "2", "--entities", str(rows)) as (port, process), ExitStack() as closed:

        def fresh() -> str:
            return asked(closed.enter_context(closing(connected(port))), bob)["outcome"]  # type: ignore[no-any-return]

        every = [closed.enter_context(closing(connected(port))) for _ in range(6)]
        assert {asked(one, bob)["outcome"] for one in every} == {"allow"}
        (tmp_path / "new").write_text("id,roles\nbob,guest\n")
        (tmp_path / "new").rename(rows)
        wait_until(lambda: all(asked(one, bob)["outcome"] == "deny" for one in every))
        wait_until(lambda: {fresh() for _ in range(8)} == {"deny"})
        for killed in workers_of(process):
            os.kill(killed, signal.SIGKILL)
        assert {fresh() for _ in range(8)} == {"deny"}


# ── Several workers, without a server ─────────────────────────────────────────────────────────


@contextmanager
def crew_of(folder: Path, many: int) -> Iterator[tuple[ReloadCoordinator, list[ReloadableEngine]]]:
    """Workers that are threads: what they are told, and how they answer, is the same."""
    origin, lines, workers, threads = ReloadSource((folder,)), [], [], []
    for _ in range(many):
        here, there = WorkerChannel.pair()
        worker = ReloadableEngine(Engine.load(folder), origin)
        threads.append(ReloadParticipant(worker, there).start())
        lines.append(here)
        workers.append(worker)
    yield ReloadCoordinator(ReloadableEngine(Engine.load(folder), origin), lines, longest=5), workers
    for line in lines:
        line.close()
    for thread in threads:
        thread.join(20)


def revisions(workers: list[ReloadableEngine]) -> set[str]:
    return {one.current.revision for one in workers}


def test_every_worker_takes_a_reloaded_policy(folder: Path) -> None:
    with crew_of(folder, 3) as (crew, workers):
        (folder / "shop.policy").write_text(SHUT)
        crew.take(prepare_candidate(ReloadSource((folder,))))
        assert revisions([*workers, crew.reloading]) == {Engine.from_text(SHUT).revision}
        assert [one.reloads.done for one in workers] == [1, 1, 1]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_reload_that_one_worker_fails_is_refused_by_all_workers(
    folder: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with crew_of(folder, 2) as (crew, workers):
        monkeypatch.setattr(workers[failing], "engine_of", lambda _: 1 / 0)
        (folder / "shop.policy").write_text(SHUT)
        crew.take(prepare_candidate(ReloadSource((folder,))))
        assert revisions([*workers, crew.reloading]) == {Engine.from_text(OPEN).revision}
        assert {one.reloads.why for one in workers} == {"a worker failed: ZeroDivisionError"}
        assert crew.lost == []


def test_a_reload_with_a_dead_worker_is_refused_and_the_worker_is_reported_lost(folder: Path) -> None:
    with crew_of(folder, 2) as (crew, workers):
        here, there = WorkerChannel.pair()
        there.close()
        crew.lines.append(here)
        crew.take(prepare_candidate(ReloadSource((folder,))))
        assert crew.lost == [here]
        assert [one.reloads.refused for one in workers] == [1, 1]

"""Several workers: all answer, one that dies is replaced, and none outlives the one that started them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from policyengine.server import ServeError, serve
from policyengine.server.workers.pool import check_workers
from policyengine.stores.url import open_store
from tests.processes import is_running, wait_until
from tests.server.conftest import OPEN, POLICY
from tests.server.processes import started

FREE = POLICY[: POLICY.index("guard")]
SERVE = f"""
import sys
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.server import serve
try:
    serve(Engine.from_text({FREE!r}), port=0, path=Path(sys.argv[1]), workers=2,
          listening=lambda url: print(url, flush=True))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def spawned(tmp_path: Path) -> Any:
    return started(SERVE, str(tmp_path / "policy.sock"))


def test_workers_answer_on_the_port_and_the_socket_with_unique_ids(tmp_path: Path) -> None:
    with spawned(tmp_path) as (url, process):
        assert len(workers_of(process)) == 2
        ids = {httpx.post(f"{url}/decide", json=OPEN).json()["id"] for _ in range(40)}
        for _ in range(20):
            with SocketClient(tmp_path / "policy.sock", timeout=20) as client:
                ids.add(client.decide(OPEN).id)
        assert len(ids) == 60


def test_a_dead_worker_is_replaced_while_the_other_one_answers(tmp_path: Path) -> None:
    with spawned(tmp_path) as (url, process):
        dead, other = workers_of(process)
        os.kill(dead, signal.SIGKILL)
        assert httpx.post(f"{url}/decide", json=OPEN).json()["allowed"] is True
        assert process.stderr is not None
        said = process.stderr.readline()
        assert re.fullmatch(rf"worker {dead} ended with status -9; another one replaces it\n", said)
        wait_until(lambda: len(set(workers_of(process)) - {dead}) == 2)
        os.kill(other, signal.SIGKILL)
        assert httpx.post(f"{url}/decide", json=OPEN).json()["allowed"] is True


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers_with_exit_code_0(tmp_path: Path, sent: signal.Signals) -> None:
    with spawned(tmp_path) as (url, process):
        assert httpx.get(f"{url}/healthz").status_code == 200
        workers = workers_of(process)
        process.send_signal(sent)
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == 0
        assert all(not is_running(pid) for pid in workers)
        assert not (tmp_path / "policy.sock").exists()


def test_workers_end_if_their_parent_process_is_killed(tmp_path: Path) -> None:
    with spawned(tmp_path) as (url, process):
        assert httpx.get(f"{url}/healthz").status_code == 200
        workers = workers_of(process)
        process.kill()
        process.wait(20)
        wait_until(lambda: all(not is_running(pid) for pid in workers))


def refusal(engine: Engine, workers: int) -> ServeError:
    with pytest.raises(ServeError) as error:
        serve(engine, port=0, workers=workers, listening=lambda url: pytest.fail(f"listens on {url}"))
    return error.value


def test_a_policy_with_confirm_and_several_workers_requires_a_shared_store(small_engine: Engine) -> None:
    refused = refusal(small_engine, 2)
    assert refused.message.startswith("policies with `confirm`, limits, history or learned behavior need one worker: ")
    assert refused.hint == "omit `--workers`, or share a store: `--store sqlite:///store.db`"


def test_a_policy_with_limits_and_several_workers_requires_a_shared_store() -> None:
    limited = Engine.from_text(FREE + 'rate "calls" per request.ip { 5/1m }')
    refused = refusal(limited, 2)
    assert refused.message.startswith("policies with `confirm`, limits, history or learned behavior need one worker: ")


ASKING = FREE + 'guard "once" on GET /health { require no GET /health within 1h per request.ip }'


def test_a_policy_with_history_and_several_workers_requires_a_shared_store() -> None:
    assert "need one worker" in refusal(Engine.from_text(ASKING), 2).message


def test_several_workers_may_serve_a_policy_with_history_in_a_shared_store(tmp_path: Path) -> None:
    check_workers(Engine.from_text(ASKING, store=open_store(f"sqlite:///{tmp_path}/store.db")), 2)


@pytest.mark.parametrize("workers", [0, -1, 65])
def test_an_invalid_number_of_workers_is_rejected(workers: int) -> None:
    assert refusal(Engine.from_text(FREE), workers).message == f"`{workers}` is not a valid number of workers"


RATE = f'{FREE}\nrate "r" per agent.id on GET /health {{ 9/1s }}'


@pytest.mark.parametrize(("text", "found"), [(FREE, False), (POLICY, True), (RATE, True)])
def test_keeps_state_is_true_for_policies_with_confirm_or_limits(text: str, found: bool) -> None:
    assert Engine.from_text(text).state.keeps_state is found

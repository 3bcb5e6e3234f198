"""What takes long to read is read beside the event loop: nobody else waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.client.socket import FRAME_HEADER
from policyengine.runtime import decode
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from tests.server.conftest import BY_ENVOY, OPEN, Watched, client_of
from tests.server.processes import started
from tests.server.test_connections import SERVE

LONG = "x" * (LONG_BODY_BYTES + 1)
EVALUATION = {
    "subject": {"type": "user", "id": "a"},
    "action": {"name": "read"},
    "resource": {"type": "note", "id": "1"},
}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads in which JSON was read."""
    found: list[str] = []
    read = decode.json_tree

    def watched(data: bytes) -> object:
        found.append(threading.current_thread().name)
        return read(data)

    monkeypatch.setattr(decode, "json_tree", watched)
    return found


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/decide", {**OPEN, "options": {"explain": True}}),
        ("/evaluate", OPEN),
        ("/explain", OPEN),
        ("/decide/batch", {"requests": [OPEN]}),
        ("/access/v1/evaluation", EVALUATION),
        ("/access/v1/evaluations", {**EVALUATION, "evaluations": [{}]}),
    ],
)
@pytest.mark.parametrize("is_long", [False, True])
def test_a_long_body_is_read_in_a_thread_and_a_short_one_in_the_event_loop(
    call: Callable[..., httpx.Response], readers: list[str], path: str, question: dict[str, Any], is_long: bool
) -> None:
    body = json.dumps(question) + " " * (LONG_BODY_BYTES if is_long else 0)
    headers = {"content-type": "application/json", "x-request-id": "not for the fast path"}
    answer = call("POST", path, content=body, headers=headers)
    assert answer.status_code == 200
    expected = "policyengine-long" if is_long else threading.main_thread().name
    assert readers
    assert {one.partition("_")[0] for one in readers} == {expected}


@pytest.mark.parametrize("is_long", [False, True])
def test_a_long_question_is_decided_in_a_thread(engine: Watched, is_long: bool) -> None:
    deciding: list[str] = []
    engine.engine = Spied(engine.engine, deciding)  # type: ignore[assignment]
    question = {**OPEN, "body": {"a": LONG if is_long else "x"}}

    async def run() -> httpx.Response:
        async with client_of(engine) as client:
            return await client.post("/decide", json=question, headers=BY_ENVOY)

    assert asyncio.run(run()).json()["allowed"]
    assert [one.startswith("policyengine-long") for one in deciding] == [is_long]


class Spied:
    def __init__(self, engine: Any, deciding: list[str]) -> None:
        self._engine, self._deciding = engine, deciding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def decide(self, question: Any, **options: Any) -> Any:
        self._deciding.append(threading.current_thread().name)
        return self._engine.decide(question, **options)


def test_long_frames_among_short_ones_are_answered_in_order(tmp_path: Path) -> None:
    frames = [msgpack.packb([id, "decide", {**OPEN, "body": {"a": LONG if id % 3 == 1 else "x"}}]) for id in range(9)]
    with started(SERVE, str(tmp_path / "sock"), "{}"), socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.settimeout(20)
        sidecar.connect(str(tmp_path / "sock"))
        sidecar.sendall(b"".join(FRAME_HEADER.pack(len(one)) + one for one in frames))
        sidecar.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sidecar.recv(65_536), b""))
    ids = []
    while answer:
        (size,) = FRAME_HEADER.unpack_from(answer)
        id, status, content = msgpack.unpackb(answer[FRAME_HEADER.size : FRAME_HEADER.size + size])
        assert (status, content["allowed"]) == (200, True)
        ids.append(id)
        answer = answer[FRAME_HEADER.size + size :]
    assert ids == list(range(9))

"""The servers' bench: what is asked, what counts as an answer, and how rounds are compared."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.http import cerbos, floor, load, serve, servers
from bench.http.load import loop
from bench.workload import workload

WORK = workload(20, 40)


def asgi(body: bytes) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(floor.app({"type": "http"}, receive, send))
    return sent


def test_the_floor_decodes_the_body_and_answers_as_many_bytes_as_asked() -> None:
    start, body = asgi(servers.question(WORK.requests[0]))
    assert start["status"] == 200
    assert len(body["body"]) == len(floor.ANSWER)


def test_the_floor_refuses_a_body_of_another_shape() -> None:
    with pytest.raises(floor.msgspec.ValidationError):
        asgi(b'{"request": {"method": "GET"}}')


def test_cerbos_gets_a_policy_for_each_base_path_with_every_rule_in_it() -> None:
    policies = [json.loads(text)["resourcePolicy"] for text in cerbos.resource_policies(WORK).values()]
    names = [rule["name"] for policy in policies for rule in policy["rules"]]
    assert sorted(names) == sorted(rule.id for rule in (*WORK.permits, *WORK.forbids))


def test_cerbos_is_asked_about_the_resource_of_the_path() -> None:
    asked = json.loads(cerbos.question(WORK.requests[0]))
    kinds = {json.loads(text)["resourcePolicy"]["resource"] for text in cerbos.resource_policies(WORK).values()}
    assert asked["resources"][0]["resource"]["kind"] in kinds


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc", True),
    ],
)
def test_an_answer_is_whole_when_its_length_is_there(data: bytes, whole: bool) -> None:
    assert load._whole(data) is whole


@pytest.fixture
def port() -> Iterator[int]:
    """Answers every request in two pieces, the second time with an error."""
    listener = socket.create_server(("127.0.0.1", 0))
    pieces = (b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n", b"\r\nok")

    def answer() -> None:
        one, _ = listener.accept()
        with one, suppress(OSError):  # whoever asks hangs up in the middle of an answer
            for status in (200, 500, *[200] * 10_000):
                if not one.recv(65_536):
                    return
                one.sendall(pieces[0] % status)
                one.sendall(pieces[1])

    thread = threading.Thread(target=answer)
    thread.start()
    yield listener.getsockname()[1]
    thread.join()
    listener.close()


def test_our_own_load_counts_answers_and_failures(port: int, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.write_bytes(b"{}\n")
    found = loop(f"http://127.0.0.1:{port}/decide", str(bodies), 1, 0.05)
    assert found["requests"] > 1
    assert found["failed"] == 1
    assert found["p99_us"] >= found["p50_us"] > 0


def runs(engine: str, rates: list[float]) -> dict[str, Any]:
    each = [{"rps": rate, "p50_us": 1.0, "p99_us": 2.0, "requests": 100, "failed": 0, "cpu_s": 0.01} for rate in rates]
    return serve.summary(engine, 32, each)


def test_servers_are_compared_round_by_round() -> None:
    found = [runs("policyengine", [90.0, 45.0, 80.0]), runs("floor", [100.0, 50.0, 100.0])]
    assert serve.beside(found, "floor") == 0.9
    assert serve.beside(found, "cerbos") is None


def test_a_summary_has_medians_and_processor_time_a_request() -> None:
    found = runs("floor", [1.0, 3.0, 2.0])
    assert (found["rps"], found["cpu_us"], found["failed"]) == (2, 100.0, 0)


def test_a_server_that_is_not_there_says_how_to_get_it() -> None:
    section = serve.section([runs("floor", [1.0]), {"engine": "cerbos", "skipped": f"not there: {cerbos.INSTALL}"}])
    assert any("npm install" in cell for row in section.rows for cell in row)

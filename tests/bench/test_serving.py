"""The servers' bench: what is asked, what counts as an answer, and how rounds are compared."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import policy
from bench.serving import cerbos, connections, floor, frames, load, serve, servers
from bench.serving.load import loop, post_request, write_requests
from bench.serving.socket_floor import HEADER, FloorProtocol
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


def test_the_floor_decodes_the_body_and_answers_with_a_fixed_length() -> None:
    start, body = asgi(servers.question(WORK.requests[0]))
    assert start["status"] == 200
    assert len(body["body"]) == len(floor.ANSWER)


def test_the_floor_rejects_a_body_of_another_shape() -> None:
    with pytest.raises(msgspec.ValidationError):
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
def test_an_answer_is_complete_when_its_full_length_arrived(data: bytes, whole: bool) -> None:
    assert load._is_complete(data) is whole


@pytest.fixture
def port() -> Iterator[int]:
    """Answers every request in two pieces, the second time with an error."""
    listener = socket.create_server(("127.0.0.1", 0))
    pieces = (b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n", b"\r\nok")

    def answer() -> None:
        with suppress(OSError), listener.accept()[0] as one:  # the client may close in the middle of an answer, or fail
            for status in (200, 500, *[200] * 10_000):
                if not one.recv(65_536):
                    return
                one.sendall(pieces[0] % status)
                one.sendall(pieces[1])

    thread = threading.Thread(target=answer)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)  # ends `accept` if no client came
    thread.join()
    listener.close()


def test_the_load_generator_counts_answers_and_failures(port: int, tmp_path: Path) -> None:
    requests = write_requests(tmp_path / "requests", [post_request("/decide", b"{}")])
    found = loop(port, str(requests), 1, 0.05)
    assert found["requests"] > 1
    assert found["failed"] == 1
    assert found["p99_us"] >= found["p50_us"] > 0


def runs(engine: str, rates: list[float]) -> dict[str, Any]:
    each = [{"rps": rate, "p50_us": 1.0, "p99_us": 2.0, "requests": 100, "failed": 0, "cpu_s": 0.01} for rate in rates]
    return serve.summary(engine, 32, each)


def test_servers_are_compared_round_by_round() -> None:
    found = [runs("policyengine", [90.0, 45.0, 80.0]), runs("floor", [100.0, 50.0, 100.0])]
    assert serve.relative_rate(found, "floor") == 0.9
    assert serve.relative_rate(found, "cerbos") is None


def test_a_summary_contains_medians_and_cpu_time_per_request() -> None:
    found = runs("floor", [1.0, 3.0, 2.0])
    assert (found["rps"], found["cpu_us"], found["failed"]) == (2, 100.0, 0)


def test_a_missing_server_shows_how_to_install_it() -> None:
    section = serve.section([runs("floor", [1.0]), {"engine": "cerbos", "skipped": f"not installed: {cerbos.INSTALL}"}])
    assert any("npm install" in cell for row in section.rows for cell in row)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data


def framed(asked: object) -> bytes:
    payload = msgspec.msgpack.encode((7, "decide", asked))
    return HEADER.pack(len(payload)) + payload


@pytest.mark.parametrize("piece", [1, 50, 10_000])
def test_the_socket_floor_answers_frames_split_at_any_byte(piece: int) -> None:
    question = policy.question(WORK.requests[0])
    data = framed(question) + framed([question, question])
    wire, floor_ = Wire(), FloorProtocol(msgspec.msgpack.encode("one"), msgspec.msgpack.encode("many"))
    floor_.connection_made(wire)
    for at in range(0, len(data), piece):
        floor_.data_received(data[at : at + piece])
    answers = [msgspec.msgpack.encode((7, 200, text)) for text in ("one", "many")]
    assert wire.written == b"".join(HEADER.pack(len(answer)) + answer for answer in answers)


def test_questions_are_put_into_frames_of_one_size() -> None:
    made = [msgspec.msgpack.decode(frame[HEADER.size :]) for frame in frames._frames(list(range(10)), 4)]
    assert made == [[0, "decide", [0, 1, 2, 3]], [1, "decide", [4, 5, 6, 7]]]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Path]:
    """The socket's floor in a thread."""
    path, one = tmp_path / "floor.sock", msgspec.msgpack.encode({"allowed": True})
    loop_ = asyncio.new_event_loop()
    server = loop_.run_until_complete(loop_.create_unix_server(lambda: FloorProtocol(one, one), str(path)))
    thread = threading.Thread(target=loop_.run_forever)
    thread.start()
    yield path
    loop_.call_soon_threadsafe(loop_.stop)
    thread.join()
    server.close()
    loop_.run_until_complete(asyncio.sleep(0))
    loop_.close()


@pytest.mark.parametrize(("kind", "a_frame"), [("one", 1), ("many", frames.BATCH_SIZE)])
def test_the_socket_load_counts_decisions(answering: Path, tmp_path: Path, kind: str, a_frame: int) -> None:
    questions = tmp_path / "questions"
    questions.write_bytes(msgspec.msgpack.encode([policy.question(asked) for asked in WORK.requests] * 4))
    found = frames.load(str(answering), str(questions), kind, 0.05)
    assert found["decisions"] >= a_frame
    assert found["decisions"] % a_frame == 0
    assert found["p99_us"] >= found["p50_us"] > 0


def test_the_table_of_the_socket_has_a_row_for_each_load() -> None:
    run = {"rate": 400_000, "decisions": 64, "p50_us": 1.0, "p99_us": 2.0, "cpu_s": 0.0001}
    section = frames.section([frames.summary("policyengine", kind, [run]) for kind in frames.LOADS])
    assert [row[1] for row in section.rows] == ["1", "64"]
    assert section.targets[0].holds


# ── Connections ───────────────────────────────────────────────────────────────────────────────


def test_several_workers_share_connections(tmp_path: Path) -> None:
    policy_file = tmp_path / "shop.policy"
    policy_file.write_text(connections.POLICY)
    # A worker leaves a connection to a less busy one for 5 ms. On a busy machine, that is too short for a turn.
    shares = (connections.measure_worker_shares(policy_file, 2)["each"] for _ in range(6))
    each = next((each for each in shares if min(each) >= connections.SHARED // 4), None)
    assert each is not None
    assert sum(each) >= connections.SHARED - 2  # the one that asked before is counted as long as it is there


def test_connection_findings_are_described_in_words() -> None:
    found = [
        {"what": "heads", "shut_out_at": 120},
        {"what": "heads", "shut_out_at": None},
        {"what": "stop", "workers": 2, "lost": 50, "answers": 12_063, "refused": 0},
        {"what": "shares", "workers": 2, "each": [37, 27]},
        {"what": "large", "longest_ms": 230.3, "p99_ms": 168.1, "alone_ms": 17.2, "answered": 185},
    ]
    assert [seen for _, seen in connections.section(found).rows] == [
        "120 shut others out",
        "400 shut no client out",
        "50 of 50 lost; 12,063 answers, 0 refused",
        "37 + 27",
        "longest 230 ms, p99 168 ms; 17 ms without; 185 such bodies",
    ]

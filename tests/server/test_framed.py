"""The socket: frames in, answers in order, whatever the bytes are; and the client, against a real server."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.client.socket import FRAME_HEADER, MAX_ANSWER_BYTES, MAX_QUESTION_BYTES, SocketClient, SocketError
from policyengine.server.socket.answers import answer_frame
from policyengine.server.socket.frames import FrameError
from tests.server.conftest import OPEN, ORDER, SHUT, Watched, small
from tests.server.processes import started

ENGINE = small()
WRONG_FRAME = "a frame must be `[id, kind, question]` or `[id, kind, question, key]`"
SERVE = """
import sys
from pathlib import Path
from policyengine.server import serve
from tests.server.conftest import small
serve(small(*sys.argv[2:]), port=0, path=Path(sys.argv[1]), listening=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module", params=["memory:", "sqlite:///{}/store.db"], ids=["memory", "shared"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Answered where it arrives, and answered in threads, as a store is asked that others share."""
    path = tmp_path_factory.mktemp("socket") / "policy.sock"
    with started(SERVE, str(path), request.param.format(path.parent)):
        yield path


@pytest.fixture
def client(path: Path) -> Iterator[SocketClient]:
    with SocketClient(path, timeout=20) as client:
        yield client


def frame(content: object) -> bytes:
    payload = content if isinstance(content, bytes) else msgpack.packb(content)
    return FRAME_HEADER.pack(len(payload)) + payload


def frames(answer: bytes) -> list[Any]:
    found = []
    while answer:
        (size,) = FRAME_HEADER.unpack_from(answer)
        found.append(msgpack.unpackb(answer[4 : 4 + size]))
        answer = answer[4 + size :]
    return found


def spoken(path: Path, message: bytes) -> list[Any]:
    """What comes back until the server closes: it does when nothing more is said."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return frames(b"".join(iter(lambda: connection.recv(65_536), b"")))


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


def test_a_frame_is_answered_under_its_id(path: Path) -> None:
    ((id, status, decision),) = spoken(path, frame([7, "decide", OPEN]))
    assert (id, status, decision["outcome"], decision["allowed"]) == (7, 200, "allow", True)


def test_pipelined_frames_are_answered_in_order(path: Path) -> None:
    asked = [(number, "evaluate", [OPEN, SHUT][number % 2]) for number in range(1_000)]
    answers = spoken(path, b"".join(frame(one) for one in asked))
    assert [(id, content["allowed"]) for id, _, content in answers] == [(id, id % 2 == 0) for id, _, _ in asked]


def test_a_list_of_questions_is_answered_by_a_list(path: Path) -> None:
    ((_, status, decisions),) = spoken(path, frame([1, "decide", [OPEN, SHUT, ORDER]]))
    assert status == 200
    assert [one["outcome"] for one in decisions] == ["allow", "deny", "confirm"]


def test_a_malformed_list_item_is_denied_with_its_error_without_affecting_others(path: Path) -> None:
    ((_, _, decisions),) = spoken(path, frame([1, "decide", [OPEN, {"user": {"roles": []}}, 5, OPEN]]))
    assert [one["outcome"] for one in decisions] == ["allow", "deny", "deny", "allow"]
    assert decisions[1]["gate"] == "failure"
    assert [one["error"]["member"] for one in decisions[1:3]] == ["[1].user.roles", "[2]"]


def test_a_frame_answer_is_the_decision_of_the_engine(path: Path) -> None:
    ((_, _, decision),) = spoken(path, frame([1, "evaluate", ORDER]))
    assert {**decision, "id": ""} == {**ENGINE.evaluate(ORDER).to_dict(), "id": ""}


def test_a_decision_includes_the_explanation_if_requested(path: Path) -> None:
    ((_, _, decision),) = spoken(path, frame([1, "decide", {**OPEN, "options": {"explain": True}}]))
    assert decision["explanation"]["gates"]


def test_a_duplicate_key_in_a_frame_makes_the_fact_unknown(path: Path) -> None:
    twice = b"\x93\x01\xa6decide" + b"\x82" + msgpack.packb("tool") + msgpack.packb({"name": "x"})
    twice += msgpack.packb("user") + b"\x82" + 2 * (msgpack.packb("id") + msgpack.packb("alice"))
    ((_, status, decision),) = spoken(path, frame(twice))
    assert (status, decision["allowed"]) == (200, False)


@pytest.mark.parametrize(
    ("kind", "options", "outcomes"),
    [
        ("decide", {}, ["allow", "confirm"]),
        ("decide", {"consume": False}, ["allow", "allow"]),
        ("evaluate", {}, ["allow", "allow"]),
        ("evaluate", {"consume": True}, ["allow", "allow"]),
    ],
)
def test_decide_spends_an_approval_and_evaluate_does_not(
    path: Path, kind: str, options: Any, outcomes: list[str]
) -> None:
    ((_, _, decision),) = spoken(path, frame([1, "evaluate", ORDER]))
    approval = {
        "id": f"{kind}-{options}",
        "by": "carol",
        "granted_at": datetime.now(UTC).isoformat(),
        "binding": decision["remedies"][0]["binding"],
    }
    carol = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
    approved = {**ORDER, "approvals": [approval], "entities": [carol], "options": options}
    answers = spoken(path, frame([1, kind, [approved, approved]]))
    assert [one["outcome"] for one in answers[0][2]] == outcomes


# ── Problems ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "member", "detail"),
    [
        ([3, "decide", {"agnet": {}}], "agnet", "unknown member `agnet`"),
        ([3, "decide", 5], None, "a question must be a map or a list of maps"),
        ([3, "decide", [OPEN] * 1_001], "requests", "a batch may hold at most 1,000 requests, got 1,001"),
        ([3, "forget", OPEN], None, "the kind of a frame must be `decide`, `evaluate`"),
        ([3, {}, OPEN], None, "the kind of a frame must be `decide`, `evaluate`"),
        ([3, "decide", {"tool": {"name": "x"}, "options": {"at": "2027-01-01T00:00:00Z"}}], "options.at", "a decision"),
    ],
)
def test_a_malformed_frame_question_is_a_problem_and_the_next_is_answered(
    path: Path, question: Any, member: str | None, detail: str
) -> None:
    (id, status, problem), after = spoken(path, frame(question) + frame([4, "decide", OPEN]))
    assert (id, status, problem["status"], problem.get("member")) == (3, 400, 400, member)
    assert problem["detail"].startswith(detail)
    assert (after[0], after[1]) == (4, 200)


@pytest.mark.parametrize(
    ("bad", "status", "detail"),
    [
        (frame(b""), 400, "not valid MessagePack"),
        (frame(b"\xc1"), 400, "not valid MessagePack"),
        (frame(b"\x93\x01\xa6decide\x80\x80"), 400, "not valid MessagePack"),
        (frame(b"\xa1\xff"), 400, "not valid UTF-8"),
        (frame({"id": 1}), 400, WRONG_FRAME),
        (frame([1, "decide"]), 400, WRONG_FRAME),
        (frame(["1", "decide", OPEN]), 400, WRONG_FRAME),
        (frame([-1, "decide", OPEN]), 400, WRONG_FRAME),
        (frame([2**63, "decide", OPEN]), 400, WRONG_FRAME),
        (frame([-1, "decide", OPEN, "a-key"]), 400, WRONG_FRAME),
        (frame([True, "decide", OPEN]), 400, WRONG_FRAME),
        (FRAME_HEADER.pack(MAX_QUESTION_BYTES + 1), 413, "a frame is larger than 1 MiB"),
        (b"GET / HTTP/1.1\r\n\r\n", 413, "a frame is larger than 1 MiB"),
    ],
)
def test_an_unreadable_frame_gets_a_problem_and_ends_the_connection(
    path: Path, bad: bytes, status: int, detail: str
) -> None:
    before, (id, said, problem) = spoken(path, frame([1, "decide", OPEN]) + bad + frame([2, "decide", OPEN]))
    assert before[:2] == [1, 200]
    assert (id, said, problem["status"], problem["detail"]) == (None, status, status, detail)


def test_an_internal_failure_is_a_500_without_details_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine: Any = Watched(ENGINE, broken=RuntimeError("the secret of the house"))
    answer, _ = answer_frame(engine, msgpack.packb([5, "decide", OPEN]))
    id, status, problem = msgpack.unpackb(answer)
    assert (id, status, problem["detail"]) == (5, 500, "the server failed to answer")
    assert b"secret" not in answer
    assert "the secret of the house" in caplog.text


FRAMES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.text(max_size=3) | st.sampled_from([OPEN, "decide"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*OPEN, "user", "id"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    payload=st.binary(max_size=40) | FRAMES.map(msgpack.packb) | FRAMES.map(lambda q: msgpack.packb([1, "decide", q]))
)
def test_any_frame_payload_is_answered_or_rejected(payload: bytes) -> None:
    with suppress(FrameError):
        answer, _ = answer_frame(ENGINE, payload)
        _, status, content = msgpack.unpackb(answer)
        assert status in (200, 400)
        assert isinstance(content, (dict, list))


@given(message=st.binary(max_size=30) | st.binary(max_size=30).map(frame), cut=st.integers(0, 30))
def test_arbitrary_bytes_on_the_socket_do_not_stop_the_server(path: Path, message: bytes, cut: int) -> None:
    spoken(path, frame([1, "decide", OPEN])[:cut] + message)
    ((_, status, _),) = spoken(path, frame([1, "decide", OPEN]))
    assert status == 200


def test_a_peer_that_reads_no_answers_is_throttled_and_does_not_block_others(path: Path, client: SocketClient) -> None:
    batch = frame([1, "evaluate", [OPEN] * 1_000])
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        deaf.settimeout(0.5)
        with pytest.raises(TimeoutError):
            deaf.sendall(batch * 1_000)
        assert client.decide(OPEN).allowed


# ── The client ────────────────────────────────────────────────────────────────────────────────


def test_the_socket_client_returns_decisions(client: SocketClient) -> None:
    assert client.decide(OPEN).allowed
    shut = client.evaluate(SHUT)
    assert (shut.outcome, shut.allowed, shut.gate) == ("deny", False, "identity")
    assert [one.outcome for one in client.decide_many([OPEN, SHUT] * 100)] == ["allow", "deny"] * 100
    assert client.decide_many([]) == []


def test_the_socket_client_sends_exact_numbers_and_timestamps(tmp_path: Path) -> None:
    asked: list[bytes] = []
    long = Decimal("0.1234567890123456789012345678901234")
    question = {
        "body": {"amount": Decimal("0.1"), "at": datetime(2027, 1, 1, tzinfo=UTC), "tags": {"a"}, "more": [long, 2**64]}
    }
    with (
        server_that(tmp_path, lambda connection: connection.shutdown(socket.SHUT_RDWR), asked) as client,
        pytest.raises(SocketError),
    ):
        client.decide(question)
    read = msgpack.unpackb(asked[0][4:], timestamp=3)[2]
    exact = [msgpack.ExtType(1, str(one).encode()) for one in (long, 2**64)]
    assert read == {"body": {"amount": 0.1, "at": datetime(2027, 1, 1, tzinfo=UTC), "tags": ["a"], "more": exact}}


def test_the_socket_client_imports_neither_the_engine_nor_a_framework() -> None:
    seen = "print(*(name for name in sys.modules if name.split('.')[0] in ('policyengine', 'fastapi', 'pydantic')))"
    with started(f"import sys, policyengine.client.socket; {seen}", fresh=True) as (modules, _):
        assert modules == "policyengine policyengine.client policyengine.client.socket"


def test_threads_may_share_a_socket_client(client: SocketClient) -> None:
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.extend(client.decide(OPEN).allowed for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


def test_the_socket_client_raises_a_problem_as_an_error_and_stays_usable(client: SocketClient) -> None:
    with pytest.raises(SocketError, match="unknown member `agnet` \\(did you mean `agent`\\?\\)") as error:
        client.decide({"agnet": {}})
    assert error.value.problem["member"] == "agnet"
    assert client.decide(OPEN).allowed


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({**OPEN, "body": {"a": "x" * MAX_QUESTION_BYTES}}, "the question is larger than 1 MiB"),
        ({**OPEN, "body": {"a": object()}}, "the question cannot be encoded as MessagePack"),
        ({**OPEN, "body": {"a": {1: 2**63, "b": "\ud800"}}}, "the question cannot be encoded as MessagePack"),
    ],
)
def test_a_question_that_cannot_be_sent_is_an_error(client: SocketClient, question: Any, message: str) -> None:
    with pytest.raises(SocketError, match=message):
        client.decide(question)


def test_the_socket_client_raises_an_error_if_there_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="no such file or directory"):
        SocketClient(tmp_path / "none.sock").decide(OPEN)


@contextmanager
def server_that(
    tmp_path: Path,
    answers: Callable[[socket.socket], object],
    asked: list[bytes] | None = None,
    timeout: float = 30.0,
) -> Iterator[SocketClient]:
    """A server of one connection that does not do as it should; `asked` gets what it was sent."""
    heard = [] if asked is None else asked
    path = str(tmp_path / "odd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(65_536))
                answers(connection)
                done.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with SocketClient(path, timeout=timeout) as client:
                yield client
        finally:
            done.set()
            thread.join()


GOOD = ENGINE.decide(OPEN).to_dict()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "no answer from .* within 0.2 s"),
        (frame([1, 200, GOOD])[:-1], "no answer from .* within 0.2 s"),
        (FRAME_HEADER.pack(MAX_ANSWER_BYTES + 1), "the answer is larger than 64 MiB"),
        (frame(b"\xc1"), "the answer cannot be read"),
        (frame([2, 200, GOOD]), "the answer belongs to another question"),
        (frame([1, 200, {**GOOD, "allowed": "true"}]), "the answer cannot be read"),
        (frame([1, 200, {**GOOD, "outcome": "deny"}]), "the answer cannot be read"),
        (frame([1, 200, {**GOOD, "outcome": "yes"}]), "the answer cannot be read"),
        (frame([1, 200, {}]), "the answer cannot be read"),
        (frame([1, 200, [GOOD]]), "the answer cannot be read"),
        (frame([1, 500, {"detail": "the server failed"}]), "the server failed"),
        (frame([None, 413, {"detail": "too large"}]), "too large"),
    ],
)
def test_the_socket_client_raises_an_error_for_an_invalid_answer(tmp_path: Path, answer: bytes, message: str) -> None:
    timeout = 0.2 if "within 0.2 s" in message else 30.0
    with (
        server_that(tmp_path, lambda connection: connection.sendall(answer), timeout=timeout) as client,
        pytest.raises(SocketError, match=message),
    ):
        client.decide(OPEN)


def test_the_socket_client_raises_an_error_if_the_server_closes_the_connection(tmp_path: Path) -> None:
    with (
        server_that(tmp_path, lambda connection: connection.shutdown(socket.SHUT_RDWR)) as client,
        pytest.raises(SocketError, match="the server closed the connection"),
    ):
        client.decide(OPEN)


def test_too_few_answers_are_an_error(tmp_path: Path) -> None:
    with (
        server_that(tmp_path, lambda connection: connection.sendall(frame([1, 200, [GOOD]]))) as client,
        pytest.raises(SocketError, match="numbers of answers and questions differ"),
    ):
        client.decide_many([OPEN, OPEN])


def test_the_socket_client_reconnects_after_an_error(tmp_path: Path, path: Path) -> None:
    with server_that(tmp_path, lambda connection: connection.sendall(frame([9, 200, GOOD]))) as client:
        with pytest.raises(SocketError):
            client.decide(OPEN)
        client.path, client.timeout = str(path), 20
        assert client.decide(OPEN).allowed


def test_the_server_works_without_uvloop_and_httptools(tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    missing = "import sys\nsys.modules['uvloop'] = sys.modules['httptools'] = None\n"
    with started(missing + SERVE, str(path), fresh=True) as (url, _), SocketClient(path, timeout=20) as client:
        assert client.decide(OPEN).allowed
        assert [one.outcome for one in client.decide_many([OPEN, SHUT] * 100)] == ["allow", "deny"] * 100
        assert httpx.post(f"{url}/decide", json=OPEN).json()["outcome"] == "allow"


# ── The file ──────────────────────────────────────────────────────────────────────────────────


def test_only_the_owner_may_use_the_socket_file_and_the_port_still_answers(tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    with started(SERVE, str(path)) as (url, process):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert httpx.post(f"{url}/decide", json=OPEN).json()["outcome"] == "allow"
        process.terminate()
        process.wait(20)
        assert not path.exists()


def test_a_stopped_server_answers_nothing_and_leaves_no_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    with started(SERVE, str(path)) as (_, process), SocketClient(path, timeout=30) as client:
        assert client.decide(OPEN).allowed
        process.terminate()
        process.wait(20)
        with pytest.raises(SocketError):
            client.decide(OPEN)
    assert list(tmp_path.iterdir()) == []

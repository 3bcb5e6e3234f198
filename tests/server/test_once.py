"""`Idempotency-Key` through the server: who asks again gets the answer it missed, and nothing is spent twice."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.client.socket import FRAME_HEADER, SocketClient, SocketError
from policyengine.engine import Engine
from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import ChargeResult
from policyengine.server import idempotency
from policyengine.server.socket.answers import answer_frame
from policyengine.server.socket.protocol import peer_name
from policyengine.stores.memory.store import MemoryStore
from tests.processes import wait_until
from tests.server.conftest import TOKEN, client_of
from tests.server.processes import started

NEXT = "the-token-that-comes-next"
POLICY = """
language 1
package shop
anyone { may GET /report, GET /other }
rate "reports" per request.path on /report { 50/1d }
"""
REPORT = {"request": {"method": "GET", "path": "/report"}}
OTHER = {"request": {"method": "GET", "path": "/other"}}
SERVE = f"""
import sys
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.server import serve
from policyengine.stores.url import open_store
serve(Engine.from_text({POLICY!r}, store=open_store(sys.argv[1])), port=0, path=Path(sys.argv[2]),
      token={TOKEN!r}, workers=int(sys.argv[3]), listening=lambda url: print(url, flush=True))
"""
KERNEL = Engine.from_text(POLICY).kernel
Ask = Callable[..., httpx.Response]


class Hooked(MemoryStore):
    """Does something before the next commit."""

    before: Callable[[], object] | None = None

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        doing, self.before = self.before, None
        if doing is not None:
            doing()
        return super().commit(effects, decision, now, peek=peek)


@pytest.fixture
def store() -> Hooked:
    return Hooked()


@pytest.fixture
def engine(store: Hooked) -> Engine:
    return Engine(KERNEL, store=store)


@pytest.fixture
def ask(engine: Engine) -> Ask:
    """One exchange, by a key if one is given, with the token of the gateway unless another is given."""

    def exchange(
        question: object = REPORT,
        key: str | list[str] | None = None,
        *,
        path: str = "/decide",
        token: str | None = TOKEN,
        tokens: Any = TOKEN,
        **headers: str,
    ) -> httpx.Response:
        keys = [] if key is None else [("idempotency-key", one) for one in ([key] if isinstance(key, str) else key)]
        shown = [] if token is None else [("authorization", f"Bearer {token}")]
        sent = json.dumps(question).encode() if not isinstance(question, bytes) else question
        given = [("content-type", headers.pop("content_type", "application/json")), *headers.items(), *shown, *keys]

        async def run() -> httpx.Response:
            async with client_of(engine, token=tokens) as client:
                return await client.post(path, content=sent, headers=given)

        return asyncio.run(run())

    return exchange


def left(engine: Engine) -> int:
    return engine.evaluate(REPORT).rates[0].remaining + 1


# ── One question ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["8e03978e-40d5-43dd-bc93-6fae90b0db0d", '"quoted"', "x", "~" * 128])
def test_a_retry_with_the_same_idempotency_key_gets_the_same_answer(ask: Ask, engine: Engine, key: str) -> None:
    first, second = ask(key=key), ask(key=key)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert first.headers["ratelimit"] == second.headers["ratelimit"]
    assert left(engine) == 49


def test_a_repeated_question_without_a_key_is_decided_and_spent_again(ask: Ask, engine: Engine) -> None:
    assert ask().json()["id"] != ask().json()["id"]
    assert left(engine) == 48


def test_an_idempotency_key_reused_for_another_question_is_422(ask: Ask) -> None:
    ask(key="key")
    answer = ask(OTHER, key="key")
    assert answer.status_code == 422
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "the key was used for another question",
        "code": "key_used",
        "hint": "use a new key: each key is for one question",
    }


def test_the_same_question_in_another_media_type_counts_as_another_question(ask: Ask) -> None:
    ask(key="key")
    assert ask(msgpack.packb(REPORT), key="key", content_type="application/msgpack").status_code == 422


def test_an_idempotency_key_in_progress_is_409_with_retry_after(ask: Ask, store: Hooked) -> None:
    seen: list[httpx.Response] = []
    store.before = lambda: seen.append(ThreadPoolExecutor(1).submit(ask, REPORT, "key").result())
    assert ask(key="key").status_code == 200
    assert seen[0].status_code == 409
    assert seen[0].headers["retry-after"] == "1"
    assert seen[0].json()["code"] == "key_under_way"


@pytest.mark.parametrize("key", ["", " ", "two words", "é", "x" * 129, ["one", "two"], ["one", "one"]])
def test_a_malformed_idempotency_key_is_400(ask: Ask, engine: Engine, key: Any) -> None:
    answer = ask(key=[one.encode("latin-1") for one in key] if isinstance(key, list) else [key.encode("latin-1")])
    assert answer.status_code == 400
    assert "key" in answer.json()["detail"].lower()
    assert left(engine) == 50


@pytest.mark.parametrize(("path", "options"), [("/evaluate", {}), ("/explain", {}), ("/decide", {"consume": False})])
def test_an_idempotency_key_is_ignored_if_nothing_is_spent(ask: Ask, path: str, options: dict[str, Any]) -> None:
    for question in (REPORT, OTHER):
        answer = ask({**question, "options": options}, key="key", path=path)
        assert answer.status_code == 200
        assert "idempotency-replayed" not in answer.headers
    assert ask(key="key").headers.get("idempotency-replayed") is None


def test_only_the_first_answer_of_a_key_has_the_explanation(ask: Ask) -> None:
    explained = {**REPORT, "options": {"explain": True}}
    first, second = ask(explained, key="key").json(), ask(explained, key="key").json()
    assert first.pop("explanation")["gates"]
    assert first == second


def test_a_malformed_question_does_not_use_up_its_key(ask: Ask) -> None:
    assert ask({"agnet": {}}, key="key").status_code == 400
    assert ask(key="key").status_code == 200


# ── Whose key it is ───────────────────────────────────────────────────────────────────────────


def test_each_token_has_its_own_idempotency_keys(ask: Ask, engine: Engine) -> None:
    for token in (TOKEN, NEXT):
        assert ask(key="key", token=token, tokens=(TOKEN, NEXT)).status_code == 200
    assert left(engine) == 48


def test_tokens_with_the_same_name_share_idempotency_keys(ask: Ask, engine: Engine) -> None:
    tokens = (f"edge: {TOKEN}", f"edge:  {NEXT}")
    for token in (TOKEN, NEXT):
        assert ask(key="key", token=token, tokens=tokens).status_code == 200
    assert left(engine) == 49


def test_a_wrong_token_does_not_get_the_stored_answer_of_a_key(ask: Ask) -> None:
    ask(key="key")
    assert ask(key="key", token="a-token-of-nobody").status_code == 401


def test_a_key_without_a_token_is_ignored_and_logged_once(
    ask: Ask, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_warned", threading.Event())
    with caplog.at_level(logging.WARNING):
        answers = [ask(key=key, token=None, tokens=None) for key in ("key", "key", "no key")]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert len({one.json()["id"] for one in answers}) == 3
    assert left(engine) == 47
    assert [record.message for record in caplog.records] == [
        "an `Idempotency-Key` over HTTP was ignored: without `--token-file` its caller is unknown"
    ]


# ── Batches ───────────────────────────────────────────────────────────────────────────────────


def spending(question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "options": {"consume": True}}


def test_a_retried_batch_spends_each_item_once(ask: Ask, engine: Engine) -> None:
    batch = {"requests": [spending(REPORT), spending(REPORT), {"agnet": {}}, OTHER, spending(OTHER)]}
    first, second = (ask(batch, key="key", path="/decide/batch").json()["decisions"] for _ in range(2))
    same = [one["id"] == two["id"] for one, two in zip(first, second, strict=True)]
    assert same == [True, True, True, False, True]  # what is no question has no id
    assert len({one["id"] for one in first}) == 5
    assert left(engine) == 48


def test_a_retry_of_an_interrupted_batch_does_not_spend_finished_items_again(
    ask: Ask, engine: Engine, store: Hooked
) -> None:
    batch = {"requests": [spending(REPORT), spending(OTHER)]}
    store.before = lambda: setattr(store, "before", dies)

    def dies() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(batch, key="key", path="/decide/batch")
    assert left(engine) == 49
    assert ask(batch, key="key", path="/decide/batch").status_code == 409  # the second one is being decided
    assert left(engine) == 49


def test_another_batch_by_the_same_key_is_422(ask: Ask) -> None:
    ask({"requests": [spending(REPORT)]}, key="key", path="/decide/batch")
    assert ask({"requests": [spending(OTHER)]}, key="key", path="/decide/batch").status_code == 422


# ── Real servers ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(tmp_path: Path, store: str = "memory:", workers: int = 1) -> Iterator[tuple[str, Path]]:
    path = tmp_path / "policy.sock"
    with started(SERVE, store, str(path), str(workers)) as (url, _):
        yield url, path


def test_concurrent_requests_with_one_key_get_the_same_answer_and_spend_once(tmp_path: Path) -> None:
    with serving(tmp_path, f"sqlite:///{tmp_path}/store.db?timeout=20s", workers=2) as (url, _):
        headers = {"authorization": f"Bearer {TOKEN}", "idempotency-key": "key"}

        def persistently(_: int) -> str:
            while True:
                answer = httpx.post(f"{url}/decide", json=REPORT, headers=headers)
                if answer.status_code == 200:
                    return str(answer.json()["id"])
                assert answer.status_code == 409
                time.sleep(0.01)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(persistently, range(12)))) == 1
        looked = httpx.post(f"{url}/evaluate", json=REPORT, headers=headers).json()
        assert looked["rates"][0]["remaining"] == 48


def test_a_retry_after_a_broken_connection_spends_once(tmp_path: Path) -> None:
    body = json.dumps(REPORT).encode()
    head = (
        f"POST /decide HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nidempotency-key: key\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with serving(tmp_path) as (url, _):
        headers = {"authorization": f"Bearer {TOKEN}"}

        def remaining() -> int:
            return int(httpx.post(f"{url}/evaluate", json=REPORT, headers=headers).json()["rates"][0]["remaining"])

        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
        wait_until(lambda: remaining() == 48)
        answer = httpx.post(f"{url}/decide", content=body, headers={
            **headers, "content-type": "application/json", "idempotency-key": "key",
        })  # fmt: skip
        assert answer.headers["idempotency-replayed"] == "true"
        assert remaining() == 48


# ── The socket ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a store that others share, so that it is asked in threads."""
    folder = tmp_path_factory.mktemp("socket")
    with serving(folder, f"sqlite:///{folder}/store.db") as (_, path):
        yield path


def test_a_repeated_frame_with_a_key_gets_the_same_decision(path: Path) -> None:
    with SocketClient(path, timeout=20) as client:
        first, second = (client.decide(REPORT, key="one-key") for _ in range(2))
        assert first == second
        with pytest.raises(SocketError) as error:
            client.decide(OTHER, key="one-key")
        assert (error.value.problem["status"], error.value.problem["code"]) == (422, "key_used")


@pytest.mark.parametrize("key", [5, "", "two words", "x" * 129, [], {"a": 1}])
def test_a_frame_with_a_malformed_key_is_a_problem(engine: Engine, key: object) -> None:
    answer, _ = answer_frame(engine, msgpack.packb([7, "decide", REPORT, key]))
    id, status, problem = msgpack.unpackb(answer)
    assert (id, status, problem["detail"]) == (7, 400, "the idempotency key is malformed")


def test_a_repeated_list_frame_with_a_key_spends_each_question_once(engine: Engine) -> None:
    def told(id: int) -> list[str]:
        answer, many = answer_frame(engine, msgpack.packb([id, "decide", [REPORT, OTHER], "key"]))
        assert many == 2
        return [one["id"] for one in msgpack.unpackb(answer)[2]]

    assert told(1) == told(2)
    assert left(engine) == 49


def test_a_frame_with_a_key_in_progress_is_409(engine: Engine, store: Hooked) -> None:
    frame = msgpack.packb([1, "decide", REPORT, "key"])
    seen: list[bytes] = []
    store.before = lambda: seen.append(answer_frame(engine, frame)[0])
    assert msgpack.unpackb(answer_frame(engine, frame)[0])[1] == 200
    assert msgpack.unpackb(seen[0])[1:] == [409, {**msgpack.unpackb(seen[0])[2], "code": "key_under_way"}]


def test_an_evaluate_frame_with_a_key_spends_nothing_and_does_not_use_the_key(engine: Engine) -> None:
    for question in (REPORT, OTHER):
        answer, _ = answer_frame(engine, msgpack.packb([1, "evaluate", question, "key"]))
        assert msgpack.unpackb(answer)[1] == 200
    assert left(engine) == 50


def test_socket_users_have_separate_idempotency_keys(engine: Engine) -> None:
    frame = msgpack.packb([1, "decide", REPORT, "key"])
    for gateway in ("user 1000", "user 1001"):
        answer_frame(engine, frame, gateway)
    assert left(engine) == 48


def test_the_peer_name_of_a_socket_is_the_user_id() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_name(one) == f"user {os.getuid()}"
    assert peer_name(None) == "socket"


@contextmanager
def losing(path: Path, tmp_path: Path, answers: int) -> Iterator[Path]:
    """In front of the socket: passes questions on, and hangs up instead of giving the first so many answers."""
    lossy = tmp_path / "lossy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(lossy))
        listener.listen()

        def pass_on() -> None:
            for number in range(answers + 1):
                connection, _ = listener.accept()
                with connection, socket.socket(socket.AF_UNIX) as server:
                    server.connect(str(path))
                    server.sendall(connection.recv(65_536))
                    answer = server.recv(65_536)
                    if number >= answers:
                        connection.sendall(answer)
                        connection.recv(1)

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        yield lossy
        thread.join(20)


def test_a_socket_client_that_retries_spends_once(path: Path, tmp_path: Path) -> None:
    with SocketClient(path, timeout=20) as straight:
        before = straight.evaluate(REPORT).rates[0]["remaining"]
        with losing(path, tmp_path, 2) as lossy, SocketClient(lossy, timeout=20, retries=2) as client:
            assert client.decide(REPORT).allowed
        assert straight.evaluate(REPORT).rates[0]["remaining"] == before - 1


def test_a_socket_client_retries_at_most_the_configured_number_of_times(path: Path, tmp_path: Path) -> None:
    with losing(path, tmp_path, 2) as lossy, SocketClient(lossy, timeout=20, retries=1) as client:
        with pytest.raises(SocketError):
            client.decide(REPORT)
        assert client.decide(REPORT).allowed


def test_a_socket_client_retries_while_its_key_is_in_progress(tmp_path: Path) -> None:
    """A server that says once that the question is being decided, and then answers."""
    asked: list[Any] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "slow.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                for _ in range(2):
                    id, *rest = msgpack.unpackb(connection.recv(65_536)[4:])
                    asked.append(rest)
                    busy = (id, 409, {"status": 409, "detail": "wait", "code": "key_under_way"})
                    decision = Engine(KERNEL).decide(REPORT).to_dict()
                    payload = msgpack.packb(busy if len(asked) == 1 else (id, 200, decision))
                    connection.sendall(FRAME_HEADER.pack(len(payload)) + payload)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with SocketClient(tmp_path / "slow.sock", timeout=20, retries=1) as client:
            assert client.decide(REPORT).allowed
        thread.join(20)
    assert asked[0] == asked[1]
    assert len(asked[0][2]) >= 16

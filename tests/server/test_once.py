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
from tests.server.conftest import TOKEN, client_of
from tests.server.processes import started
from tests.stores.servers import wait_for

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
def test_who_asks_again_by_the_same_key_gets_the_same_answer(ask: Ask, engine: Engine, key: str) -> None:
    first, second = ask(key=key), ask(key=key)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert first.headers["ratelimit"] == second.headers["ratelimit"]
    assert left(engine) == 49


def test_without_a_key_it_is_decided_and_spent_again(ask: Ask, engine: Engine) -> None:
    assert ask().json()["id"] != ask().json()["id"]
    assert left(engine) == 48


def test_a_key_that_came_with_another_question_is_422(ask: Ask) -> None:
    ask(key="key")
    answer = ask(OTHER, key="key")
    assert answer.status_code == 422
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "the key was used for another question",
        "code": "key_used",
        "hint": "a key is for one question: use a new one",
    }


def test_the_same_question_in_another_form_is_another(ask: Ask) -> None:
    ask(key="key")
    assert ask(msgpack.packb(REPORT), key="key", content_type="application/msgpack").status_code == 422


def test_a_key_that_is_being_decided_is_409_and_says_when_to_come_again(ask: Ask, store: Hooked) -> None:
    seen: list[httpx.Response] = []
    store.before = lambda: seen.append(ThreadPoolExecutor(1).submit(ask, REPORT, "key").result())
    assert ask(key="key").status_code == 200
    assert seen[0].status_code == 409
    assert seen[0].headers["retry-after"] == "1"
    assert seen[0].json()["code"] == "key_under_way"


@pytest.mark.parametrize("key", ["", " ", "two words", "é", "x" * 129, ["one", "two"], ["one", "one"]])
def test_what_is_no_key_is_400(ask: Ask, engine: Engine, key: Any) -> None:
    answer = ask(key=[one.encode("latin-1") for one in key] if isinstance(key, list) else [key.encode("latin-1")])
    assert answer.status_code == 400
    assert "key" in answer.json()["detail"].lower()
    assert left(engine) == 50


@pytest.mark.parametrize(("path", "options"), [("/evaluate", {}), ("/explain", {}), ("/decide", {"consume": False})])
def test_where_nothing_is_spent_a_key_means_nothing(ask: Ask, path: str, options: dict[str, Any]) -> None:
    for question in (REPORT, OTHER):
        answer = ask({**question, "options": options}, key="key", path=path)
        assert answer.status_code == 200
        assert "idempotency-replayed" not in answer.headers
    assert ask(key="key").headers.get("idempotency-replayed") is None


def test_a_walk_is_shown_with_the_first_answer_only(ask: Ask) -> None:
    explained = {**REPORT, "options": {"explain": True}}
    first, second = ask(explained, key="key").json(), ask(explained, key="key").json()
    assert first.pop("explanation")["gates"]
    assert first == second


def test_a_bad_question_does_not_use_up_its_key(ask: Ask) -> None:
    assert ask({"agnet": {}}, key="key").status_code == 400
    assert ask(key="key").status_code == 200


# ── Whose key it is ───────────────────────────────────────────────────────────────────────────


def test_each_token_is_a_gateway_with_keys_of_its_own(ask: Ask, engine: Engine) -> None:
    for token in (TOKEN, NEXT):
        assert ask(key="key", token=token, tokens=(TOKEN, NEXT)).status_code == 200
    assert left(engine) == 48


def test_tokens_of_one_name_are_one_gateway(ask: Ask, engine: Engine) -> None:
    tokens = (f"edge: {TOKEN}", f"edge:  {NEXT}")
    for token in (TOKEN, NEXT):
        assert ask(key="key", token=token, tokens=tokens).status_code == 200
    assert left(engine) == 49


def test_a_wrong_token_gets_no_answer_that_somebody_else_got(ask: Ask) -> None:
    ask(key="key")
    assert ask(key="key", token="a-token-of-nobody").status_code == 401


def test_a_key_of_somebody_unknown_is_passed_over_and_the_operator_told_once(
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


def test_each_item_of_a_batch_that_spends_is_accounted_once(ask: Ask, engine: Engine) -> None:
    batch = {"requests": [spending(REPORT), spending(REPORT), {"agnet": {}}, OTHER, spending(OTHER)]}
    first, second = (ask(batch, key="key", path="/decide/batch").json()["decisions"] for _ in range(2))
    same = [one["id"] == two["id"] for one, two in zip(first, second, strict=True)]
    assert same == [True, True, True, False, True]  # what is no question has no id
    assert len({one["id"] for one in first}) == 5
    assert left(engine) == 48


def test_a_batch_that_was_broken_off_goes_on_where_it_was(ask: Ask, engine: Engine, store: Hooked) -> None:
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


def test_threads_that_ask_workers_at_once_are_answered_alike_and_spend_once(tmp_path: Path) -> None:
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


def test_a_connection_that_breaks_before_the_answer_is_asked_again_and_spends_once(tmp_path: Path) -> None:
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
        wait_for(lambda: remaining() == 48)
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


def test_a_frame_with_a_key_is_accounted_once(path: Path) -> None:
    with SocketClient(path, timeout=20) as client:
        first, second = (client.decide(REPORT, key="one-key") for _ in range(2))
        assert first == second
        with pytest.raises(SocketError) as error:
            client.decide(OTHER, key="one-key")
        assert (error.value.problem["status"], error.value.problem["code"]) == (422, "key_used")


@pytest.mark.parametrize("key", [5, "", "two words", "x" * 129, [], {"a": 1}])
def test_a_frame_with_what_is_no_key_is_a_problem_of_that_frame(engine: Engine, key: object) -> None:
    answer, _ = answer_frame(engine, msgpack.packb([7, "decide", REPORT, key]))
    id, status, problem = msgpack.unpackb(answer)
    assert (id, status, problem["detail"]) == (7, 400, "the idempotency key is malformed")


def test_a_frame_of_many_accounts_each_once(engine: Engine) -> None:
    def told(id: int) -> list[str]:
        answer, many = answer_frame(engine, msgpack.packb([id, "decide", [REPORT, OTHER], "key"]))
        assert many == 2
        return [one["id"] for one in msgpack.unpackb(answer)[2]]

    assert told(1) == told(2)
    assert left(engine) == 49


def test_a_frame_that_asks_while_the_same_is_decided_is_told_to_wait(engine: Engine, store: Hooked) -> None:
    frame = msgpack.packb([1, "decide", REPORT, "key"])
    seen: list[bytes] = []
    store.before = lambda: seen.append(answer_frame(engine, frame)[0])
    assert msgpack.unpackb(answer_frame(engine, frame)[0])[1] == 200
    assert msgpack.unpackb(seen[0])[1:] == [409, {**msgpack.unpackb(seen[0])[2], "code": "key_under_way"}]


def test_an_evaluation_by_a_key_spends_nothing_and_uses_none(engine: Engine) -> None:
    for question in (REPORT, OTHER):
        answer, _ = answer_frame(engine, msgpack.packb([1, "evaluate", question, "key"]))
        assert msgpack.unpackb(answer)[1] == 200
    assert left(engine) == 50


def test_users_of_the_socket_have_keys_of_their_own(engine: Engine) -> None:
    frame = msgpack.packb([1, "decide", REPORT, "key"])
    for gateway in ("user 1000", "user 1001"):
        answer_frame(engine, frame, gateway)
    assert left(engine) == 48


def test_the_system_says_who_is_at_the_other_end() -> None:
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


def test_a_client_that_asks_again_spends_once(path: Path, tmp_path: Path) -> None:
    with SocketClient(path, timeout=20) as straight:
        before = straight.evaluate(REPORT).rates[0]["remaining"]
        with losing(path, tmp_path, 2) as lossy, SocketClient(lossy, timeout=20, retries=2) as client:
            assert client.decide(REPORT).allowed
        assert straight.evaluate(REPORT).rates[0]["remaining"] == before - 1


def test_a_client_asks_again_only_as_often_as_it_was_told(path: Path, tmp_path: Path) -> None:
    with losing(path, tmp_path, 2) as lossy, SocketClient(lossy, timeout=20, retries=1) as client:
        with pytest.raises(SocketError):
            client.decide(REPORT)
        assert client.decide(REPORT).allowed


def test_a_client_waits_for_who_is_deciding(tmp_path: Path) -> None:
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

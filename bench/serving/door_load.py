"""Load by any HTTP request or gRPC message: persistent connections, each with one request in flight."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any

TIMEOUT = 30.0  # seconds
RECEIVE_BYTES = 1 << 18
CHUNKS_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class LoadCount:
    """The number of answers, the seconds they took, and the number of unexpected answers."""

    answers: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes


class HttpClient:
    """An HTTP client with one connection per lane; a lane is the requests that a connection sends in turn."""

    def __init__(self, port: int, lanes: int) -> None:
        self.sockets = [socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) for _ in range(lanes)]
        for connection in self.sockets:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()

    def ask(self, request: bytes, lane: int = 0) -> HttpAnswer:
        connection, data = self.sockets[lane], b""
        connection.sendall(request)
        while not is_complete(data):
            data += _receive(connection)
        return parse_answer(data)

    def load(self, lanes: Sequence[Sequence[bytes]], is_right: Callable[[bytes], bool], seconds: float) -> LoadCount:
        """Send each lane's requests in turn, and wait for pending answers at the end. Raises TimeoutError."""
        requests = {one.fileno(): cycle(lane) for one, lane in zip(self.sockets, lanes, strict=True)}
        sockets = {one.fileno(): one for one in self.sockets}
        partly = dict.fromkeys(sockets, b"")
        answers = failed = 0
        with _polling(sockets) as poll:
            began = perf_counter()
            for number, connection in sockets.items():
                connection.sendall(next(requests[number]))
            waiting = len(sockets)
            while waiting:
                ready = poll.poll(TIMEOUT)
                if not ready:
                    raise TimeoutError(f"no answer in {TIMEOUT:.0f} s")
                for number, _ in ready:
                    data = partly[number] + _receive(sockets[number])
                    if not is_complete(data):
                        partly[number] = data
                        continue
                    partly[number] = b""
                    answers += 1
                    failed += not is_right(data)
                    if perf_counter() - began < seconds:
                        sockets[number].sendall(next(requests[number]))
                    else:
                        waiting -= 1
            return LoadCount(answers, failed, perf_counter() - began)


@contextmanager
def _polling(sockets: dict[int, socket.socket]) -> Iterator[select.epoll]:
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        for number in sockets:
            poll.register(number, select.EPOLLIN)
        yield poll


def _receive(connection: socket.socket) -> bytes:
    piece = connection.recv(RECEIVE_BYTES)
    if not piece:
        raise ConnectionError("the server closed the connection")
    return piece


def is_complete(data: bytes) -> bool:
    """Return whether the buffer holds a whole response, by its content-length or its chunks."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"\ncontent-length:")
    if at < 0:
        return data.endswith(CHUNKS_END)
    return len(data) >= end + 4 + int(head[at + 16 :].split(b"\r\n", 1)[0])


def parse_answer(data: bytes) -> HttpAnswer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = b"".join(_chunks(body)) if "chunked" in headers.get("transfer-encoding", "") else body
    return HttpAnswer(int(first.split()[1]), headers, content)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


class GrpcClient:
    """A client for `Check` of ext_authz over one connection, with one thread per lane."""

    def __init__(self, port: int, lanes: int) -> None:
        import grpc
        from envoy.service.auth.v3 import external_auth_pb2_grpc

        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.check = external_auth_pb2_grpc.AuthorizationStub(self.channel).Check
        self.lanes = lanes

    def close(self) -> None:
        self.channel.close()

    def ask(self, request: Any, lane: int = 0) -> Any:
        return self.check(request, timeout=TIMEOUT, wait_for_ready=True)

    def load(self, lanes: Sequence[Sequence[Any]], is_right: Callable[[Any], bool], seconds: float) -> LoadCount:
        began = perf_counter()

        def ask(requests: Sequence[Any]) -> tuple[int, int]:
            answers = failed = 0
            for request in cycle(requests):
                answers += 1
                failed += not is_right(self.check(request, timeout=TIMEOUT))
                if perf_counter() - began >= seconds:
                    break
            return answers, failed

        with ThreadPoolExecutor(self.lanes) as pool:
            counts = list(pool.map(ask, lanes))
        answers, failed = map(sum, zip(*counts, strict=True))
        return LoadCount(answers, failed, perf_counter() - began)

"""A client of `policyengine serve --socket`, and the frame format; it requires no other module of policyengine.

    with SocketClient("/run/policyengine.sock") as client:
        if client.decide({"request": {"method": "GET", "path": "/v1/invoices/42"}, "agent": {…}, …}).allowed:
            …

A frame is a length of four bytes, most significant first, and that many bytes of MessagePack.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import count
from pathlib import Path
from struct import Struct as Layout
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec

FRAME_HEADER = Layout(">I")
MAX_QUESTION_BYTES = 1024 * 1024  # maximum bytes in a question frame
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # maximum bytes in an answer frame
MAX_BATCH_ITEMS = 64
NUMBER_EXTENSION = 1  # MessagePack extension: the text of a number that MessagePack cannot hold
MIN_INT, MAX_INT = -(2**63), 2**64 - 1  # the integers that MessagePack can hold
STATUS_DECIDED = 200
NOT_AWAITED_STATUSES = (404, 409)  # the decision is unknown, or its outcome is already reported
KEY_UNDER_WAY = "key_under_way"
RETRY_PAUSE_SECONDS = 0.05  # seconds between attempts

FrameKind = Literal["decide", "evaluate", "report"]
JsonObject = dict[str, Any]
Read = TypeVar("Read")


class SocketError(Exception):
    """The error for a question without a decision; the caller must deny. `problem` has the server's `status`, `detail`,
    `member` and `hint`, if the server reported the error.
    """

    def __init__(self, message: str, problem: JsonObject | None = None) -> None:
        self.problem = problem or {}
        super().__init__(message)


class SocketDecision(msgspec.Struct, frozen=True):
    """A decision as the server sent it; the members are those of an answer of `POST /decide`."""

    outcome: Literal["allow", "deny", "confirm", "throttle"]
    allowed: bool
    id: str
    revision: str
    package: str
    gate: str | None
    reasons: list[JsonObject]
    remedies: list[JsonObject]
    principal: JsonObject
    rates: list[JsonObject]
    obligations: list[JsonObject]
    unknown: list[JsonObject]
    explanation: JsonObject | None = None
    error: JsonObject | None = None

    def __post_init__(self) -> None:
        if self.allowed is not (self.outcome == "allow"):
            raise ValueError("`allowed` and `outcome` contradict each other")


_encode_msgpack = msgspec.msgpack.Encoder(decimal_format="number").encode
_decode_frame = msgspec.msgpack.Decoder(tuple[int | None, int, msgspec.Raw]).decode
_decode_decision = msgspec.msgpack.Decoder(SocketDecision).decode
_decode_decisions = msgspec.msgpack.Decoder(list[SocketDecision]).decode
_decode_problem = msgspec.msgpack.Decoder(JsonObject).decode


class SocketClient:
    """A client of the socket at `path`; each answer must be complete within `timeout` seconds.

    The client connects at the first question, and again after an error. Threads may share the client and take turns. A
    question without an answer is repeated up to `retries` times with the same idempotency key, so that nothing is
    decided twice.
    """

    def __init__(self, path: Path | str, timeout: float = 5.0, *, retries: int = 0) -> None:
        self.path = str(path)
        self.timeout = timeout
        self.retries = retries
        self._socket: socket.socket | None = None
        self._ids = count(1)
        self._turn = Lock()

    def decide(self, question: Mapping[str, object], *, key: str | None = None) -> SocketDecision:
        """Decide and spend, as `POST /decide` does, and only once for each idempotency `key`. Raises SocketError, which
        means deny."""
        return _decode_content(_decode_decision, self._ask("decide", question, self._key(key)))

    def evaluate(self, question: Mapping[str, object]) -> SocketDecision:
        """Decide and spend nothing. Raises SocketError, which means deny."""
        return _decode_content(_decode_decision, self._ask("evaluate", question))

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Mapping[str, object] | None = None,
        refund: bool = False,
        size: int | None = None,
        usage: Mapping[str, object] | None = None,
    ) -> bool:
        """Report the outcome of a decision's request, by decision id. Only the operating system user that asked for the
        decision may report its outcome, and only once. Return False if the server does not expect a report about the
        decision.

        Raises SocketError if the server does not answer, or the report is malformed.
        """
        event = {
            "decision": decision, "status": status, "latency_ms": latency_ms, "size": size, "output": output,
            "usage": usage, "refund": refund,
        }  # fmt: skip
        try:
            self._ask("report", {name: value for name, value in event.items() if value is not None})
        except SocketError as error:
            if error.problem.get("status") in NOT_AWAITED_STATUSES:
                return False
            raise
        return True

    def decide_many(self, questions: Iterable[Mapping[str, object]]) -> list[SocketDecision]:
        """Decide each question, in order, as `decide` does; a malformed question is answered with a deny that has an
        `error`. Raises SocketError if the answers are unknown; it is then also unknown what was spent, and the caller
        must deny each question.
        """
        asked = list(questions)
        answers: list[SocketDecision] = []
        for at in range(0, len(asked), MAX_BATCH_ITEMS):
            answers += _decode_content(
                _decode_decisions, self._ask("decide", asked[at : at + MAX_BATCH_ITEMS], self._key(None))
            )
        if len(answers) != len(asked):
            raise SocketError("the numbers of answers and questions differ")
        return answers

    def close(self) -> None:
        """Close the connection; the next question opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── One exchange ──────────────────────────────────────────────────────────────────────────

    def _key(self, given: str | None) -> str | None:
        """Return the given idempotency key. Without one, return a new key if questions may be repeated, otherwise None,
        because the server answers faster without a key.
        """
        return given or (secrets.token_urlsafe(16) if self.retries else None)

    def _ask(self, kind: FrameKind, question: object, key: str | None = None) -> msgspec.Raw:
        with self._turn:
            return self._ask_in_turn(kind, question, key)

    def _ask_in_turn(self, kind: FrameKind, question: object, key: str | None) -> msgspec.Raw:
        for left in range(self.retries, -1, -1):
            try:
                return self._exchange(next(self._ids), kind, question, key)
            except SocketError as error:
                if not left or error.problem.get("code") != KEY_UNDER_WAY:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)
            except OSError as error:
                self.close()
                if not left:
                    raise self._unheard(error) from None
                time.sleep(0 if isinstance(error, TimeoutError) else RETRY_PAUSE_SECONDS)
            except BaseException:
                # Interrupted: the next answer on this connection would belong to this question.
                self.close()
                raise
        raise AssertionError("the last attempt returns or raises")

    def _unheard(self, error: OSError) -> SocketError:
        if isinstance(error, TimeoutError):
            return SocketError(f"no answer from `{self.path}` within {self.timeout:g} s")
        return SocketError(f"cannot ask `{self.path}`: {(error.strerror or str(error)).lower()}")

    def _exchange(self, id: int, kind: FrameKind, question: object, key: str | None) -> msgspec.Raw:
        sent = _build_frame((id, kind, question) if key is None else (id, kind, question, key))
        deadline = time.monotonic() + self.timeout
        connection = self._connect()
        connection.settimeout(self.timeout)
        connection.sendall(sent)
        (size,) = FRAME_HEADER.unpack(_receive_bytes(connection, FRAME_HEADER.size, deadline))
        if size > MAX_ANSWER_BYTES:
            self.close()
            raise SocketError("the answer is larger than 64 MiB")
        try:
            answered, status, content = _decode_frame(_receive_bytes(connection, size, deadline))
        except msgspec.MsgspecError as error:
            self.close()
            raise SocketError(f"the answer cannot be read: {error}") from None
        if status != STATUS_DECIDED:
            if answered is None:
                self.close()
            raise _to_socket_error(content)
        if answered != id:
            self.close()
            raise SocketError("the answer belongs to another question")
        return content

    def _connect(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket = connection
            connection.settimeout(self.timeout)
            connection.connect(self.path)
        return self._socket


def encode_question(question: object) -> bytes:
    """Encode a question as MessagePack, with exact numbers. Raises TypeError, ValueError, OverflowError,
    RecursionError."""
    return _encode_msgpack(_with_exact_numbers(question))


def _with_exact_numbers(value: object) -> object:
    """Replace numbers that MessagePack cannot hold with an extension that contains their text."""
    match value:
        case dict():
            return {name: _with_exact_numbers(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_with_exact_numbers(one) for one in value]
        case Decimal() if value.is_finite() and Decimal(repr(float(value))) != value:
            return msgspec.msgpack.Ext(NUMBER_EXTENSION, str(value).encode())
        case int() if not MIN_INT <= value <= MAX_INT:
            return msgspec.msgpack.Ext(NUMBER_EXTENSION, str(value).encode())
        case _:
            return value


def _build_frame(question: object) -> bytes:
    try:
        payload = encode_question(question)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SocketError(f"the question cannot be encoded as MessagePack: {error}") from None
    if len(payload) > MAX_QUESTION_BYTES:
        raise SocketError("the question is larger than 1 MiB")
    return FRAME_HEADER.pack(len(payload)) + payload


def _receive_bytes(connection: socket.socket, size: int, deadline: float) -> bytes:
    pieces = bytearray()
    while len(pieces) < size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(size - len(pieces))
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        pieces += piece
    return bytes(pieces)


def _decode_content(decode: Callable[[msgspec.Raw], Read], content: msgspec.Raw) -> Read:
    try:
        return decode(content)
    except msgspec.MsgspecError as error:
        raise SocketError(f"the answer cannot be read: {error}") from None


def _to_socket_error(content: msgspec.Raw) -> SocketError:
    problem = _decode_content(_decode_problem, content)
    said = [str(problem[name]) for name in ("detail", "hint") if problem.get(name) is not None]
    return SocketError(" (".join(said) + ")" * (len(said) - 1), problem)

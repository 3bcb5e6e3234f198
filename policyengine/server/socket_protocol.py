"""The decision API over a Unix socket, for sidecars: frames of MessagePack, many on the way at once, answered in order.

A question is `[id, kind, question]`, or a list of questions in its place; behind it may stand a key, by which it is
accounted once. `[id, "report", report]` says how the request of a decision came out. An answer is `[id, status,
content]`, its status that of HTTP and its content a decision, a list of them, a report that was taken, or a problem.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from struct import Struct as Layout
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import msgspec

from policyengine.client.socket import FRAME_HEADER, MAX_QUESTION_BYTES, STATUS_DECIDED
from policyengine.engine.decider import WouldBlockError
from policyengine.executor import Requester, enter_requester, submit_long, thread_pool
from policyengine.fair_queue import WorkRefusedError
from policyengine.runtime import decode, fast_decode
from policyengine.runtime.caller import caller_scope
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency_key import IdempotencyKey, IdempotencyKeyError
from policyengine.runtime.request import Request, RequestError
from policyengine.server.connections.connection_table import (
    CloseReason,
    ConnectionStage,
    ConnectionTable,
    has_unread_bytes,
)
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from policyengine.server.decide_requests import decide_question, error_answer, parse_items
from policyengine.server.events import OutcomeEvent, event_from_tree, record_outcome
from policyengine.server.fast_path import are_simple_options
from policyengine.server.idempotency import build_key, key_problem
from policyengine.server.problems import DENY_HINT, NO_ANSWER, ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface, EngineProvider

LOGGER = logging.getLogger("policyengine")
PEER_CREDENTIALS = Layout("3i")  # process, user and group
MAX_QUESTIONS_PER_TURN = 256
MAX_FRAMES_PER_THREAD_TURN = 16
TURN_SECONDS = 0.01  # seconds
MAX_INLINE_QUESTIONS = 16  # questions of a list: with care each takes milliseconds
MAX_FRAME_ID = 2**63 - 1

QuestionKind: TypeAlias = Literal["decide", "evaluate"]
DecideFunction: TypeAlias = Callable[[dict[str, Any]], Decision]
Raw = msgspec.Raw
encode_message = msgspec.msgpack.Encoder().encode


class QuestionFrame(NamedTuple):
    """A frame as it came: `question` is plain when it was read quickly, and otherwise holds whatever the wire held."""

    id: int
    kind: object
    question: Any
    plain: bool
    key: object = None
    sent: bytes = b""  # the question as it came, where there is a key


class FrameError(Exception):
    """After such bytes nobody can say where the next frame begins, or to what an answer would belong."""

    def __init__(self, problem: ProblemError) -> None:
        self.problem = problem


_decode_keyed_frame = msgspec.msgpack.Decoder(tuple[Raw, Raw, Raw, Raw]).decode
_decode_fast = fast_decode.make_msgpack_decoder(
    tuple[int, QuestionKind, fast_decode.QuestionType | list[fast_decode.QuestionType]]
)

# ── A frame to its answer ─────────────────────────────────────────────────────────────────────


def answer_frame(
    engine: EngineInterface, payload: bytes, gateway: str = "socket", *, at_once: bool = False
) -> tuple[bytes, int]:
    """The answer, and how many questions there were. Raises FrameError; WouldBlockError where it is wanted `at_once`,
    else what takes long waits for its turn."""
    asked = read_frame(payload)
    try:
        with caller_scope(gateway):
            if at_once and takes_long(engine, asked):
                raise WouldBlockError("it may take long")
            if at_once:
                content, many = answer_content(engine, asked, gateway, at_once=True)
            else:
                content, many = answer_content_in_turn(engine, asked, gateway, is_long=len(payload) > LONG_BODY_BYTES)
        return encode_message((asked.id, STATUS_DECIDED, content)), many
    except WouldBlockError:
        raise
    except ProblemError as problem:
        return encode_problem(asked.id, problem), 1
    except IdempotencyKeyError as error:
        return encode_problem(asked.id, key_problem(error)), 1
    except RequestError as error:
        return encode_problem(asked.id, ProblemError.of(error)), 1
    except WorkRefusedError as error:
        return encode_problem(asked.id, ProblemError.of_refused(error)), 1
    except Exception:
        LOGGER.exception("an answer failed: frame %d", asked.id, extra={"event": "answer_failed"})
        return encode_problem(asked.id, ProblemError(500, NO_ANSWER, hint=DENY_HINT)), 1


def takes_long(engine: EngineInterface, asked: QuestionFrame) -> bool:
    """Whether others should not wait for it; of one plain question to decide the engine tells."""
    if isinstance(asked.question, list) and len(asked.question) > MAX_INLINE_QUESTIONS:
        return True
    return not is_simple_decide(asked) and has_long_question(engine, asked)


def has_long_question(engine: EngineInterface, asked: QuestionFrame) -> bool:
    """Whether one of its questions may take long."""
    several = asked.question if isinstance(asked.question, list) else [asked.question]
    return engine.forecast.has_loops and any(
        isinstance(one, dict) and engine.forecast.takes_long(one) for one in several
    )


def awaits_issuer(engine: EngineInterface, asked: QuestionFrame) -> bool:
    several = asked.question if isinstance(asked.question, list) else [asked.question]
    return engine.identity is not None and any(
        isinstance(one, dict) and engine.forecast.awaits_issuer(one) for one in several
    )


def answer_content_in_turn(
    engine: EngineInterface, asked: QuestionFrame, gateway: str, *, is_long: bool
) -> tuple[Raw | list[Raw] | dict[str, object], int]:
    """In a thread of a pool: what takes long waits for its turn, a list of it piece by piece. Raises as
    `answer_content`, and WorkRefusedError."""
    if awaits_issuer(engine, asked):  # which nobody's turn is to wait for
        return answer_content(engine, asked, gateway)
    is_long = is_long or has_long_question(engine, asked)
    if asked.kind == "report" or not isinstance(asked.question, list):
        return (
            submit_long(answer_content, engine, asked, gateway).result()
            if is_long
            else answer_content(engine, asked, gateway)
        )
    items = parse_items(asked.question)
    if not is_long and (engine.state.is_shared or len(items) <= MAX_INLINE_QUESTIONS):
        return answer_content(engine, asked, gateway)
    pieces: list[Raw] = []
    size = 1 if engine.forecast.has_loops else MAX_INLINE_QUESTIONS
    for first in range(0, len(items), size):
        piece = asked._replace(question=list(items[first : first + size]))
        try:
            pieces += cast(list[Raw], submit_long(answer_content, engine, piece, gateway, first=first).result()[0])
        except WorkRefusedError as error:  # what was decided before is told
            places = range(first, first + len(piece.question))
            pieces += [Raw(encode_message(error_answer(engine, error, f"[{place}]"))) for place in places]
    return pieces, len(items)


def is_simple_decide(asked: QuestionFrame) -> bool:
    """Whether it is one plain question to decide."""
    return asked.kind == "decide" and asked.plain and not asked.sent and is_simple_question(asked.question)


def answer_frames(
    engine: EngineInterface, payloads: list[bytes], last: FrameError | None, gateway: str = "socket"
) -> tuple[list[bytes], bool]:
    """The answers in order, and whether nothing can be read after them."""
    answers: list[bytes] = []
    try:
        for payload in payloads:
            answers.append(answer_frame(engine, payload, gateway)[0])
    except FrameError as error:
        last = error
    if last is not None:
        answers.append(encode_problem(None, last.problem))
    return answers, last is not None


def read_frame(payload: bytes) -> QuestionFrame:
    """Raises FrameError."""
    found = _decode_fast(payload)
    if found is not None and 0 <= found[0] <= MAX_FRAME_ID:
        id, kind, question = found
        return QuestionFrame(id, kind, question, True)
    try:
        raw = decode.msgpack_tree(payload)
    except decode.DecodeError as error:
        raise FrameError(ProblemError(400, str(error))) from None
    match raw:
        case [int() as id, kind, question] if not isinstance(id, bool) and 0 <= id <= MAX_FRAME_ID:
            return QuestionFrame(id, kind, question, False)
        case [int() as id, kind, question, key] if not isinstance(id, bool) and 0 <= id <= MAX_FRAME_ID:
            return QuestionFrame(id, kind, question, False, key, bytes(_decode_keyed_frame(payload)[2]))
        case _:
            raise FrameError(
                ProblemError(400, "a frame is `[id, kind, question]`", hint="an id is a whole number from 0")
            )


def answer_content(
    engine: EngineInterface, asked: QuestionFrame, gateway: str, *, at_once: bool = False, first: int = 0
) -> tuple[Raw | list[Raw] | dict[str, object], int]:
    """The items of a list are those from `first` on.

    Raises RequestError, IdempotencyKeyError, and ProblemError for what is no key or reports nothing that is waited for.
    """
    if asked.kind == "report":
        return record_outcome(engine, parse_report(asked.question)), 1
    if asked.kind not in ("decide", "evaluate"):
        raise RequestError("", "a frame asks to `decide` or to `evaluate`, or has something to `report`")
    decide = engine.decide if asked.kind == "decide" else engine.evaluate
    quickly = partial(decide_simple if asked.plain else decide_general, engine, decide)
    once = build_key(asked.key, gateway, asked.sent) if asked.sent else None
    if isinstance(asked.question, dict):
        if at_once and is_simple_decide(asked):
            return Raw(engine.decide(asked.question, without_waiting=True).to_msgpack()), 1
        return (quickly(asked.question) if once is None else decide_general(engine, decide, asked.question, once)), 1
    if not isinstance(asked.question, list):
        raise RequestError("", "a question is a map, or a list of maps")
    items = parse_items(asked.question)
    if engine.state.is_shared and asked.kind == "decide" and asked.plain and all(map(is_simple_question, items)):
        return decide_list_together(engine, items, first), len(items)
    if once is None:
        return [answer_item(engine, quickly, question, index) for index, question in enumerate(items, first)], len(
            items
        )
    places = range(first, first + len(items))
    each = [partial(decide_general, engine, decide, once=once._replace(item=index)) for index in places]
    return [answer_item(engine, *one) for one in zip(each, items, places, strict=True)], len(items)


def parse_report(raw: object) -> OutcomeEvent:
    """Raises RequestError."""
    try:
        return event_from_tree(decode.from_python(raw))
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None


def is_simple_question(question: object) -> bool:
    return isinstance(question, dict) and ("options" not in question or are_simple_options(question["options"]))


def decide_list_together(engine: EngineInterface, questions: Sequence[Any], first: int = 0) -> list[Raw]:
    """Of a store that is shared: it is asked once for all of them."""
    found = enumerate(engine.decide_many(questions), first)
    return [
        Raw(
            encode_message(error_answer(engine, one, f"[{place}]"))
            if isinstance(one, RequestError)
            else one.to_msgpack()
        )
        for place, one in found
    ]


def answer_item(engine: EngineInterface, answer: Callable[[Any], Raw], question: object, index: int) -> Raw:
    """What is no question is denied, and spoils no other."""
    try:
        return answer(question)
    except RequestError as error:
        return Raw(encode_message(error_answer(engine, error, f"[{index}]")))


def decide_simple(engine: EngineInterface, decide: DecideFunction, question: dict[str, Any]) -> Raw:
    """Raises RequestError."""
    if "options" in question and not are_simple_options(question["options"]):
        return decide_general(engine, decide, question)
    return Raw(decide(question).to_msgpack())


def decide_general(
    engine: EngineInterface, decide: DecideFunction, question: object, once: IdempotencyKey | None = None
) -> Raw:
    """A question that may hold whatever the wire may hold, and ask for an explanation.

    Raises RequestError, IdempotencyKeyError.
    """
    if not isinstance(question, dict):
        raise RequestError("", "a question is a map")
    request = Request.from_mapping(question)
    spend = decide == engine.decide and request.options.consume
    return Raw(encode_message(decide_question(engine, request, spend, once)))


def encode_problem(id: int | None, problem: ProblemError) -> bytes:
    return encode_message((id, problem.status, problem.to_dict()))


def peer_name(connection: Any) -> str:
    """The user that the system says is at the other end; all that may open the socket are one where it does not say."""
    if connection is None or not hasattr(socket, "SO_PEERCRED"):
        return "socket"
    _, user, _ = PEER_CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    )
    return f"user {user}"


# ── A connection ──────────────────────────────────────────────────────────────────────────────


class FramedProtocol(asyncio.Protocol):
    """One sidecar. What it sent is answered in order; while it does not read its answers, nothing more is read.

    It may be idle for as long as it likes, as long as nobody else needs its place.
    """

    transport: asyncio.Transport
    gateway = "socket"
    spare = False

    def __init__(self, doors: tuple[EngineProvider, EngineProvider], table: ConnectionTable) -> None:
        self.reloading, self.reloading_apart = doors  # for the event loop, and for threads
        self.table = table
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.began = table.now  # when the frame in the buffer did, or the last one
        self.ended = False  # nothing more will come
        self.lost = False  # and nobody reads an answer
        self.paused = False  # the reader is slow
        self.resting = False  # others have their turn
        self.slow_since: float | None = None  # to read its answers
        self.apart = 0  # bytes that a thread works on
        self.counted = False  # whether the table knows of any that are held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop has its own
        self.gateway = peer_name(transport.get_extra_info("socket"))
        self.transport.set_write_buffer_limits(high=MAX_QUESTION_BYTES)
        self.table.enter(self)
        self.table.prove(self)  # who may open the socket does not come by address

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.leave(self)
        self.ended = self.lost = True
        self.buffer.clear()

    # ── As the table sees it ──────────────────────────────────────────────────────────────────

    @property
    def address(self) -> str:
        return self.gateway

    @property
    def stage(self) -> ConnectionStage:
        if self.paused:
            return ConnectionStage.UNREAD
        if self.resting:
            return ConnectionStage.BUSY
        return ConnectionStage.HEAD if self.buffer else ConnectionStage.IDLE

    @property
    def has_unread_bytes(self) -> bool:
        return has_unread_bytes(self.transport)

    def overdue(self, now: float) -> CloseReason | None:
        limits = self.table.limits
        if not self.transport.get_write_buffer_size():
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now
        elif now - self.slow_since > limits.request:
            return CloseReason.ANSWER
        late = self.stage is ConnectionStage.HEAD and now - self.began > limits.head + limits.request
        return CloseReason.REQUEST if late else None

    def drop(self, reason: CloseReason) -> None:
        if reason in (CloseReason.ANSWER, CloseReason.REQUEST) or self.paused:
            self.transport.abort()
        else:
            self.transport.close()

    # ── Frames ────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if not self.buffer:
            self.began = self.table.now
        self.buffer += data
        self.work()
        self.account()

    def account(self) -> None:
        """Tell the table what is held here."""
        size = len(self.buffer) + self.apart + (self.transport.get_write_buffer_size() if self.paused else 0)
        if size or self.counted:
            self.counted = bool(size)
            self.table.hold(self, size)

    def eof_received(self) -> bool:
        """Who has asked and only listens still gets every answer."""
        self.shutdown()
        return True

    def shutdown(self) -> None:
        """Answer what has arrived, and close."""
        self.ended = True
        self.work()

    def pause_writing(self) -> None:
        self.paused = True
        self.loop.call_soon(self.account)  # not within a write that it may end

    def resume_writing(self) -> None:
        self.paused = False
        self.work()
        self.account()

    def rested(self) -> None:
        self.resting = False
        self.work()

    def work(self) -> None:
        """Answer frames for a while, in one go; then others have their turn."""
        if self.transport.is_closing() or self.paused or self.resting:
            return
        engine = self.reloading.current
        if engine.state.is_remote or engine.forecast.may_wait or engine.identity is not None:
            self.work_apart(MAX_FRAMES_PER_THREAD_TURN)
            return
        answers: list[bytes] = []
        questions, at, long, until = 0, 0, False, self.loop.time() + TURN_SECONDS
        try:
            while questions < MAX_QUESTIONS_PER_TURN and (payload := self.frame(at)) is not None:
                if questions and self.loop.time() > until:
                    questions = MAX_QUESTIONS_PER_TURN
                    break
                if len(payload) > LONG_BODY_BYTES:
                    raise WouldBlockError("it is long")
                answer, many = answer_frame(engine, payload, self.gateway, at_once=True)
                at += FRAME_HEADER.size + len(payload)
                answers += (FRAME_HEADER.pack(len(answer)), answer)
                questions += many
        except FrameError as error:
            answer = encode_problem(None, error.problem)
            answers += (FRAME_HEADER.pack(len(answer)), answer)
            self.ended, at = True, len(self.buffer)
        except WouldBlockError:
            long = True
        del self.buffer[:at]
        self.began = self.table.now if at else self.began
        self.transport.write(b"".join(answers))
        if long:
            self.work_apart(1)
            return
        self.settle(rest=questions >= MAX_QUESTIONS_PER_TURN)

    def work_apart(self, most: int) -> None:
        """In a thread, as a store is asked or it takes long: this connection waits for it, and no other does."""
        engine = self.reloading_apart.current
        payloads: list[bytes] = []
        at, unreadable = 0, None
        try:
            while len(payloads) < most and (payload := self.frame(at)) is not None:
                at += FRAME_HEADER.size + len(payload)
                payloads.append(payload)
        except FrameError as error:
            unreadable = error
        if not payloads and unreadable is None:
            self.settle(rest=False)
            return
        del self.buffer[:at]
        self.began = self.table.now
        self.resting = True
        self.apart = sum(map(len, payloads))
        self.transport.pause_reading()
        work = partial(answer_frames, engine, payloads, unreadable, self.gateway)
        context = copy_context()
        context.run(enter_requester, Requester(lambda: self.gateway, lambda: self.lost))
        done = self.loop.run_in_executor(thread_pool(), context.run, work)
        done.add_done_callback(self.told)

    def told(self, done: asyncio.Future[tuple[list[bytes], bool]]) -> None:
        answers, ends = done.result()
        if ends:
            self.ended = True
            self.buffer.clear()
        if not self.transport.is_closing():
            self.transport.write(b"".join(FRAME_HEADER.pack(len(answer)) + answer for answer in answers))
        self.apart = 0
        self.rested()
        self.account()

    def frame(self, at: int) -> bytes | None:
        """What the frame there holds, once all of it has arrived. Raises FrameError."""
        if len(self.buffer) < at + FRAME_HEADER.size:
            return None
        (size,) = FRAME_HEADER.unpack_from(self.buffer, at)
        if size > MAX_QUESTION_BYTES:
            raise FrameError(ProblemError(413, "a frame is larger than 1 MiB"))
        start = at + FRAME_HEADER.size
        return bytes(self.buffer[start : start + size]) if len(self.buffer) >= start + size else None

    def settle(self, rest: bool) -> None:
        """What happens next: more at once, more when others had their turn or the reader has read, or the end."""
        if rest:
            self.resting = True
            self.loop.call_soon(self.rested)
        elif self.ended and not self.paused:
            self.transport.close()
        if self.paused or self.resting:
            self.transport.pause_reading()
        elif not self.ended:
            self.transport.resume_reading()

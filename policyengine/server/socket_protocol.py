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

from policyengine.client.socket import DECIDED, HEADER, LARGEST_QUESTION
from policyengine.engine.decider import TakesLong
from policyengine.executor import Requester, begin, enter_requester, pool
from policyengine.fair_queue import WorkRefused
from policyengine.runtime import decode, fast_decode
from policyengine.runtime.caller import called_by
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency_key import KeyProblem, Once
from policyengine.runtime.request import Request, RequestError
from policyengine.server.connections.table import CloseReason, ConnectionTable, Stage, unread_bytes
from policyengine.server.content_negotiation import LONG_BODY
from policyengine.server.decide_requests import decided, items_of, undecided
from policyengine.server.events import Event, event_in, reported
from policyengine.server.fast_path import plain_options
from policyengine.server.idempotency import asked_by, refused
from policyengine.server.problems import DENY, NO_ANSWER, Problem
from policyengine.server.telemetry.metered_engine import Current, Decides

LOGGER = logging.getLogger("policyengine")
CREDENTIALS = Layout("3i")  # process, user and group
AT_A_STRETCH = 256
AT_A_STRETCH_APART = 16
STRETCH = 0.01  # seconds
MOST_AT_ONCE = 16  # questions of a list: with care each takes milliseconds
LARGEST_ID = 2**63 - 1

Kind: TypeAlias = Literal["decide", "evaluate"]
Decide: TypeAlias = Callable[[dict[str, Any]], Decision]
Raw = msgspec.Raw
encode = msgspec.msgpack.Encoder().encode


class Asked(NamedTuple):
    """A frame as it came: `question` is plain when it was read quickly, and otherwise holds whatever the wire held."""

    id: int
    kind: object
    question: Any
    plain: bool
    key: object = None
    sent: bytes = b""  # the question as it came, where there is a key


class Unreadable(Exception):
    """After such bytes nobody can say where the next frame begins, or to what an answer would belong."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


_keyed = msgspec.msgpack.Decoder(tuple[Raw, Raw, Raw, Raw]).decode
_quickly = fast_decode.msgpack_reader(tuple[int, Kind, fast_decode.Question | list[fast_decode.Question]])

# ── A frame to its answer ─────────────────────────────────────────────────────────────────────


def answer_to(engine: Decides, payload: bytes, gateway: str = "socket", *, at_once: bool = False) -> tuple[bytes, int]:
    """The answer, and how many questions there were. Raises Unreadable; TakesLong where it is wanted `at_once`, else
    what takes long waits for its turn."""
    asked = read_frame(payload)
    try:
        with called_by(gateway):
            if at_once and takes_long(engine, asked):
                raise TakesLong("it may take long")
            if at_once:
                content, many = contents(engine, asked, gateway, at_once=True)
            else:
                content, many = contents_in_turn(engine, asked, gateway, is_long=len(payload) > LONG_BODY)
        return encode((asked.id, DECIDED, content)), many
    except TakesLong:
        raise
    except Problem as problem:
        return refusal(asked.id, problem), 1
    except KeyProblem as error:
        return refusal(asked.id, refused(error)), 1
    except RequestError as error:
        return refusal(asked.id, Problem.of(error)), 1
    except WorkRefused as error:
        return refusal(asked.id, Problem.of_refused(error)), 1
    except Exception:
        LOGGER.exception("an answer failed: frame %d", asked.id, extra={"event": "answer_failed"})
        return refusal(asked.id, Problem(500, NO_ANSWER, hint=DENY)), 1


def takes_long(engine: Decides, asked: Asked) -> bool:
    """Whether others should not wait for it; of one plain question to decide the engine tells."""
    if isinstance(asked.question, list) and len(asked.question) > MOST_AT_ONCE:
        return True
    return not decides_at_once(asked) and has_long(engine, asked)


def has_long(engine: Decides, asked: Asked) -> bool:
    """Whether one of its questions may take long."""
    several = asked.question if isinstance(asked.question, list) else [asked.question]
    return engine.loops and any(isinstance(one, dict) and engine.takes_long(one) for one in several)


def awaits_issuer(engine: Decides, asked: Asked) -> bool:
    several = asked.question if isinstance(asked.question, list) else [asked.question]
    return engine.identity is not None and any(isinstance(one, dict) and engine.awaits_issuer(one) for one in several)


def contents_in_turn(
    engine: Decides, asked: Asked, gateway: str, *, is_long: bool
) -> tuple[Raw | list[Raw] | dict[str, object], int]:
    """In a thread of a pool: what takes long waits for its turn, a list of it piece by piece. Raises as `contents`,
    and WorkRefused."""
    if awaits_issuer(engine, asked):  # which nobody's turn is to wait for
        return contents(engine, asked, gateway)
    is_long = is_long or has_long(engine, asked)
    if asked.kind == "report" or not isinstance(asked.question, list):
        return begin(contents, engine, asked, gateway).result() if is_long else contents(engine, asked, gateway)
    items = items_of(asked.question)
    if not is_long and (engine.shares or len(items) <= MOST_AT_ONCE):
        return contents(engine, asked, gateway)
    pieces: list[Raw] = []
    size = 1 if engine.loops else MOST_AT_ONCE
    for first in range(0, len(items), size):
        piece = asked._replace(question=list(items[first : first + size]))
        try:
            pieces += cast(list[Raw], begin(contents, engine, piece, gateway, first=first).result()[0])
        except WorkRefused as error:  # what was decided before is told
            places = range(first, first + len(piece.question))
            pieces += [Raw(encode(undecided(engine, error, f"[{place}]"))) for place in places]
    return pieces, len(items)


def decides_at_once(asked: Asked) -> bool:
    """Whether it is one plain question to decide."""
    return asked.kind == "decide" and asked.plain and not asked.sent and plain_question(asked.question)


def answers_to(
    engine: Decides, payloads: list[bytes], last: Unreadable | None, gateway: str = "socket"
) -> tuple[list[bytes], bool]:
    """The answers in order, and whether nothing can be read after them."""
    answers: list[bytes] = []
    try:
        for payload in payloads:
            answers.append(answer_to(engine, payload, gateway)[0])
    except Unreadable as error:
        last = error
    if last is not None:
        answers.append(refusal(None, last.problem))
    return answers, last is not None


def read_frame(payload: bytes) -> Asked:
    """Raises Unreadable."""
    found = _quickly(payload)
    if found is not None and 0 <= found[0] <= LARGEST_ID:
        id, kind, question = found
        return Asked(id, kind, question, True)
    try:
        raw = decode.msgpack_tree(payload)
    except decode.WireError as error:
        raise Unreadable(Problem(400, str(error))) from None
    match raw:
        case [int() as id, kind, question] if not isinstance(id, bool) and 0 <= id <= LARGEST_ID:
            return Asked(id, kind, question, False)
        case [int() as id, kind, question, key] if not isinstance(id, bool) and 0 <= id <= LARGEST_ID:
            return Asked(id, kind, question, False, key, bytes(_keyed(payload)[2]))
        case _:
            raise Unreadable(Problem(400, "a frame is `[id, kind, question]`", hint="an id is a whole number from 0"))


def contents(
    engine: Decides, asked: Asked, gateway: str, *, at_once: bool = False, first: int = 0
) -> tuple[Raw | list[Raw] | dict[str, object], int]:
    """The items of a list are those from `first` on.

    Raises RequestError, KeyProblem, and Problem for what is no key or reports nothing that is waited for.
    """
    if asked.kind == "report":
        return reported(engine, report_in(asked.question)), 1
    if asked.kind not in ("decide", "evaluate"):
        raise RequestError("", "a frame asks to `decide` or to `evaluate`, or has something to `report`")
    decide = engine.decide if asked.kind == "decide" else engine.evaluate
    quickly = partial(plainly if asked.plain else carefully, engine, decide)
    once = asked_by(asked.key, gateway, asked.sent) if asked.sent else None
    if isinstance(asked.question, dict):
        if at_once and decides_at_once(asked):
            return Raw(engine.decide(asked.question, at_once=True).to_msgpack()), 1
        return (quickly(asked.question) if once is None else carefully(engine, decide, asked.question, once)), 1
    if not isinstance(asked.question, list):
        raise RequestError("", "a question is a map, or a list of maps")
    items = items_of(asked.question)
    if engine.shares and asked.kind == "decide" and asked.plain and all(map(plain_question, items)):
        return together(engine, items, first), len(items)
    if once is None:
        return [item(engine, quickly, question, index) for index, question in enumerate(items, first)], len(items)
    places = range(first, first + len(items))
    each = [partial(carefully, engine, decide, once=once._replace(item=index)) for index in places]
    return [item(engine, *one) for one in zip(each, items, places, strict=True)], len(items)


def report_in(raw: object) -> Event:
    """Raises RequestError."""
    try:
        return event_in(decode.from_python(raw))
    except decode.WireError as error:
        raise RequestError("", str(error)) from None


def plain_question(question: object) -> bool:
    return isinstance(question, dict) and ("options" not in question or plain_options(question["options"]))


def together(engine: Decides, questions: Sequence[Any], first: int = 0) -> list[Raw]:
    """Of a store that is shared: it is asked once for all of them."""
    found = enumerate(engine.decide_many(questions), first)
    return [
        Raw(encode(undecided(engine, one, f"[{place}]")) if isinstance(one, RequestError) else one.to_msgpack())
        for place, one in found
    ]


def item(engine: Decides, answer: Callable[[Any], Raw], question: object, index: int) -> Raw:
    """What is no question is denied, and spoils no other."""
    try:
        return answer(question)
    except RequestError as error:
        return Raw(encode(undecided(engine, error, f"[{index}]")))


def plainly(engine: Decides, decide: Decide, question: dict[str, Any]) -> Raw:
    """Raises RequestError."""
    if "options" in question and not plain_options(question["options"]):
        return carefully(engine, decide, question)
    return Raw(decide(question).to_msgpack())


def carefully(engine: Decides, decide: Decide, question: object, once: Once | None = None) -> Raw:
    """A question that may hold whatever the wire may hold, and ask for an explanation.

    Raises RequestError, KeyProblem.
    """
    if not isinstance(question, dict):
        raise RequestError("", "a question is a map")
    request = Request.from_mapping(question)
    spend = decide == engine.decide and request.options.consume
    return Raw(encode(decided(engine, request, spend, once)))


def refusal(id: int | None, problem: Problem) -> bytes:
    return encode((id, problem.status, problem.to_dict()))


def gateway_of(connection: Any) -> str:
    """The user that the system says is at the other end; all that may open the socket are one where it does not say."""
    if connection is None or not hasattr(socket, "SO_PEERCRED"):
        return "socket"
    _, user, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return f"user {user}"


# ── A connection ──────────────────────────────────────────────────────────────────────────────


class FramedProtocol(asyncio.Protocol):
    """One sidecar. What it sent is answered in order; while it does not read its answers, nothing more is read.

    It may be idle for as long as it likes, as long as nobody else needs its place.
    """

    transport: asyncio.Transport
    gateway = "socket"
    spare = False

    def __init__(self, doors: tuple[Current, Current], table: ConnectionTable) -> None:
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
        self.gateway = gateway_of(transport.get_extra_info("socket"))
        self.transport.set_write_buffer_limits(high=LARGEST_QUESTION)
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
    def stage(self) -> Stage:
        if self.paused:
            return Stage.UNREAD
        if self.resting:
            return Stage.BUSY
        return Stage.HEAD if self.buffer else Stage.IDLE

    @property
    def has_unread_bytes(self) -> bool:
        return unread_bytes(self.transport)

    def overdue(self, now: float) -> CloseReason | None:
        limits = self.table.limits
        if not self.transport.get_write_buffer_size():
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now
        elif now - self.slow_since > limits.request:
            return CloseReason.ANSWER
        late = self.stage is Stage.HEAD and now - self.began > limits.head + limits.request
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
        if engine.remote or engine.waits_for() or engine.identity is not None:
            self.work_apart(AT_A_STRETCH_APART)
            return
        answers: list[bytes] = []
        questions, at, long, until = 0, 0, False, self.loop.time() + STRETCH
        try:
            while questions < AT_A_STRETCH and (payload := self.frame(at)) is not None:
                if questions and self.loop.time() > until:
                    questions = AT_A_STRETCH
                    break
                if len(payload) > LONG_BODY:
                    raise TakesLong("it is long")
                answer, many = answer_to(engine, payload, self.gateway, at_once=True)
                at += HEADER.size + len(payload)
                answers += (HEADER.pack(len(answer)), answer)
                questions += many
        except Unreadable as error:
            answer = refusal(None, error.problem)
            answers += (HEADER.pack(len(answer)), answer)
            self.ended, at = True, len(self.buffer)
        except TakesLong:
            long = True
        del self.buffer[:at]
        self.began = self.table.now if at else self.began
        self.transport.write(b"".join(answers))
        if long:
            self.work_apart(1)
            return
        self.settle(rest=questions >= AT_A_STRETCH)

    def work_apart(self, most: int) -> None:
        """In a thread, as a store is asked or it takes long: this connection waits for it, and no other does."""
        engine = self.reloading_apart.current
        payloads: list[bytes] = []
        at, unreadable = 0, None
        try:
            while len(payloads) < most and (payload := self.frame(at)) is not None:
                at += HEADER.size + len(payload)
                payloads.append(payload)
        except Unreadable as error:
            unreadable = error
        if not payloads and unreadable is None:
            self.settle(rest=False)
            return
        del self.buffer[:at]
        self.began = self.table.now
        self.resting = True
        self.apart = sum(map(len, payloads))
        self.transport.pause_reading()
        work = partial(answers_to, engine, payloads, unreadable, self.gateway)
        context = copy_context()
        context.run(enter_requester, Requester(lambda: self.gateway, lambda: self.lost))
        done = self.loop.run_in_executor(pool(), context.run, work)
        done.add_done_callback(self.told)

    def told(self, done: asyncio.Future[tuple[list[bytes], bool]]) -> None:
        answers, ends = done.result()
        if ends:
            self.ended = True
            self.buffer.clear()
        if not self.transport.is_closing():
            self.transport.write(b"".join(HEADER.pack(len(answer)) + answer for answer in answers))
        self.apart = 0
        self.rested()
        self.account()

    def frame(self, at: int) -> bytes | None:
        """What the frame there holds, once all of it has arrived. Raises Unreadable."""
        if len(self.buffer) < at + HEADER.size:
            return None
        (size,) = HEADER.unpack_from(self.buffer, at)
        if size > LARGEST_QUESTION:
            raise Unreadable(Problem(413, "a frame is larger than 1 MiB"))
        start = at + HEADER.size
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

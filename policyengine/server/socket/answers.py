"""Answers to frames: decisions, reports and problems, on the event loop or in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

from policyengine.client.socket import STATUS_DECIDED
from policyengine.engine.decider import WouldBlockError
from policyengine.executor import submit_long
from policyengine.fair_queue import WorkRefusedError
from policyengine.runtime import decode
from policyengine.runtime.current_caller import caller_scope
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency import IdempotencyKey, IdempotencyKeyError
from policyengine.runtime.request import Request, RequestError
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from policyengine.server.decide_requests import are_simple_options, decide_question, error_answer, parse_items
from policyengine.server.events import OutcomeEvent, event_from_tree, record_outcome
from policyengine.server.idempotency import build_key, key_problem
from policyengine.server.problems import DENY_HINT, NO_ANSWER, ProblemError
from policyengine.server.socket.frames import (
    FrameError,
    QuestionFrame,
    Raw,
    encode_message,
    encode_problem,
    is_simple_decide,
    is_simple_question,
    read_frame,
)
from policyengine.server.telemetry.metered_engine import EngineInterface

LOGGER = logging.getLogger("policyengine")
MAX_INLINE_QUESTIONS = 64  # maximum questions in a list that the event loop decides at once, in about a millisecond
DecideFunction: TypeAlias = Callable[[dict[str, Any]], Decision]


def answer_frame(
    engine: EngineInterface, payload: bytes, gateway: str = "socket", *, at_once: bool = False
) -> tuple[bytes, int]:
    """Return the answer and the number of questions. Raises FrameError, and WouldBlockError if `at_once` is impossible.
    Without `at_once`, long work waits for its turn.
    """
    asked = read_frame(payload)
    try:
        with caller_scope(gateway):
            if at_once and takes_long(engine, asked):
                raise WouldBlockError("the answer may take a long time")
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
        LOGGER.exception("failed to answer frame %d", asked.id, extra={"event": "answer_failed"})
        return encode_problem(asked.id, ProblemError(500, NO_ANSWER, hint=DENY_HINT)), 1


def takes_long(engine: EngineInterface, asked: QuestionFrame) -> bool:
    """Return whether the question may take so long that other requests should not wait for it. Return False for a
    single simple question, because the engine itself raises WouldBlockError for long work.
    """
    if isinstance(asked.question, list) and len(asked.question) > MAX_INLINE_QUESTIONS:
        return True
    return not is_simple_decide(asked) and has_long_question(engine, asked)


def has_long_question(engine: EngineInterface, asked: QuestionFrame) -> bool:
    """Return whether one of the questions may take a long time."""
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
    """Answer in a pool thread. Long work waits for its turn; a list waits again for each piece: one item if a rule has
    loops, otherwise up to 64 items.

    Raises the errors of `answer_content`, and WorkRefusedError.
    """
    if awaits_issuer(engine, asked):  # waiting for an issuer must not use up a turn
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
        except WorkRefusedError as error:  # earlier items keep their decisions
            places = range(first, first + len(piece.question))
            pieces += [Raw(encode_message(error_answer(engine, error, f"[{place}]"))) for place in places]
    return pieces, len(items)


def answer_frames(
    engine: EngineInterface, payloads: list[bytes], last: FrameError | None, gateway: str = "socket"
) -> tuple[list[bytes], bool]:
    """Return the answers in order, and whether the rest of the stream is unreadable."""
    answers: list[bytes] = []
    try:
        for payload in payloads:
            answers.append(answer_frame(engine, payload, gateway)[0])
    except FrameError as error:
        last = error
    if last is not None:
        answers.append(encode_problem(None, last.problem))
    return answers, last is not None


def answer_content(
    engine: EngineInterface, asked: QuestionFrame, gateway: str, *, at_once: bool = False, first: int = 0
) -> tuple[Raw | list[Raw] | dict[str, object], int]:
    """Return the content of the answer; the items of a list are numbered from `first`. Raises RequestError,
    IdempotencyKeyError, WouldBlockError if `at_once` is impossible, and ProblemError for a malformed key or a report
    that is not accepted.
    """
    if asked.kind == "report":
        return record_outcome(engine, parse_report(asked.question)), 1
    if asked.kind not in ("decide", "evaluate"):
        raise RequestError("", "the kind of a frame must be `decide`, `evaluate` or `report`")
    decide = engine.decide if asked.kind == "decide" else engine.evaluate
    quickly = partial(decide_simple if asked.plain else decide_general, engine, decide)
    once = build_key(asked.key, gateway, asked.sent) if asked.sent else None
    if isinstance(asked.question, dict):
        if at_once and is_simple_decide(asked):
            return Raw(engine.decide(asked.question, without_waiting=True).to_msgpack()), 1
        return (quickly(asked.question) if once is None else decide_general(engine, decide, asked.question, once)), 1
    if not isinstance(asked.question, list):
        raise RequestError("", "a question must be a map or a list of maps")
    items = parse_items(asked.question)
    are_together = engine.state.is_shared or engine.is_recording
    if are_together and asked.kind == "decide" and asked.plain and all(map(is_simple_question, items)):
        return decide_list_together(engine, items, first), len(items)
    if once is None:
        return [answer_item(engine, quickly, question, index) for index, question in enumerate(items, first)], len(
            items
        )
    places = range(first, first + len(items))
    each = [partial(decide_general, engine, decide, once=once._replace(item=index)) for index in places]
    return [answer_item(engine, *one) for one in zip(each, items, places, strict=True)], len(items)


def parse_report(raw: object) -> OutcomeEvent:
    """Parse a report. Raises RequestError."""
    try:
        return event_from_tree(decode.from_python(raw))
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None


def decide_list_together(engine: EngineInterface, questions: Sequence[Any], first: int = 0) -> list[Raw]:
    """Decide all questions with one commit of a shared store, and one write to the log."""
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
    """Answer one item; an invalid question is denied and does not affect the others."""
    try:
        return answer(question)
    except RequestError as error:
        return Raw(encode_message(error_answer(engine, error, f"[{index}]")))


def decide_simple(engine: EngineInterface, decide: DecideFunction, question: dict[str, Any]) -> Raw:
    """Decide a simple question. Raises RequestError."""
    if "options" in question and not are_simple_options(question["options"]):
        return decide_general(engine, decide, question)
    return Raw(decide(question).to_msgpack())


def decide_general(
    engine: EngineInterface, decide: DecideFunction, question: object, once: IdempotencyKey | None = None
) -> Raw:
    """Decide a decoded value of any form, which may ask for an explanation. Raises RequestError,
    IdempotencyKeyError.
    """
    if not isinstance(question, dict):
        raise RequestError("", "a question must be a map")
    request = Request.from_mapping(question)
    spend = decide == engine.decide and request.options.consume
    return Raw(encode_message(decide_question(engine, request, spend, once)))

"""The MessagePack frames of the socket.

A question frame is `[id, kind, question]`, where `question` may be a list of questions. An idempotency key may follow,
with which the question spends only once. `[id, "report", report]` reports the outcome of a decision's request. An
answer is `[id, status, content]`: an HTTP status, and a decision, a list of decisions, an accepted report or a problem.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from policyengine.runtime import decode, fast_decode
from policyengine.server.decide_requests import are_simple_options
from policyengine.server.problems import ProblemError

MAX_FRAME_ID = 2**63 - 1
QuestionKind: TypeAlias = Literal["decide", "evaluate"]
Raw = msgspec.Raw
encode_message = msgspec.msgpack.Encoder().encode
_decode_keyed_frame = msgspec.msgpack.Decoder(tuple[Raw, Raw, Raw, Raw]).decode
_decode_fast = fast_decode.make_msgpack_decoder(
    tuple[int, QuestionKind, fast_decode.QuestionType | list[fast_decode.QuestionType]]
)


class QuestionFrame(NamedTuple):
    """A decoded frame. `plain` means that the fast decoder has checked `question`, which can otherwise be any value."""

    id: int
    kind: object
    question: Any
    plain: bool
    key: object = None
    sent: bytes = b""  # the bytes of the question, if there is a key


class FrameError(Exception):
    """The error for an unreadable frame. The start of the next frame is unknown, and so is the question to answer."""

    def __init__(self, problem: ProblemError) -> None:
        self.problem = problem


def is_simple_decide(asked: QuestionFrame) -> bool:
    """Return whether the frame is one simple question to decide."""
    return asked.kind == "decide" and asked.plain and not asked.sent and is_simple_question(asked.question)


def read_frame(payload: bytes) -> QuestionFrame:
    """Decode a frame. Raises FrameError."""
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
                ProblemError(
                    400,
                    "a frame must be `[id, kind, question]` or `[id, kind, question, key]`",
                    hint="an id must be a whole number from 0 to 2⁶³ − 1",
                )
            )


def is_simple_question(question: object) -> bool:
    return isinstance(question, dict) and ("options" not in question or are_simple_options(question["options"]))


def encode_problem(id: int | None, problem: ProblemError) -> bytes:
    return encode_message((id, problem.status, problem.to_dict()))

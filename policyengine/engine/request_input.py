"""What is asked, as callers may give it, and when: the clock in the forms in which it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import NamedTuple, TypeAlias

from policyengine.compiler.reads import nanoseconds
from policyengine.runtime import decode
from policyengine.runtime.ids import Stamp, serials, ulid
from policyengine.runtime.request import Request, RequestError

Clock: TypeAlias = Callable[[], datetime]


class AuthenticatedQuestion(NamedTuple):
    """A question whose credentials were looked at: a proof counts once, so nobody looks twice."""

    question: Request | Mapping[str, object] | str | bytes


QuestionLike: TypeAlias = Request | Mapping[str, object] | str | bytes | AuthenticatedQuestion

PLAIN = frozenset({Request, AuthenticatedQuestion, dict, str, bytes})
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_id(now: datetime) -> str:
    """A ULID of that time."""
    return ulid(microseconds(now) * 1_000, next(serials))


def microseconds(moment: datetime) -> int:
    """Since 1970, as stores count."""
    return (moment - EPOCH) // MICROSECOND


def stamp_microseconds(stamp: Stamp) -> int:
    """When a decision was made on the quick way."""
    assert not isinstance(stamp, str)
    return stamp[0] // 1_000


def nanosecond_clock(clock: Clock) -> Callable[[], int]:
    """The clock in nanoseconds since 1970. One that counts so itself, by `nanoseconds`, is spared a datetime."""
    if clock is utc_now:
        return time_ns
    own: Callable[[], int] | None = getattr(clock, "nanoseconds", None)
    return own or (lambda: nanoseconds(clock()))


def reject_chosen_time(request: Request) -> None:
    if request.options.at is not None:
        raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")


def normalize_facts(output: Mapping[str, object] | None) -> Mapping[str, object]:
    """An output as facts are read: exact numbers, and nothing hazardous. Raises RequestError."""
    try:
        found = {} if output is None else decode.from_python(output)
    except decode.DecodeError as error:
        raise RequestError("output", str(error)) from None
    if not isinstance(found, dict):
        raise RequestError("output", "an output is an object")
    return found


def plain_question(question: QuestionLike) -> QuestionLike:
    """The same, of no class but our own and Python's: what of its class reads it does so here, and not again, however
    it answers then. Raises RequestError."""
    kind = type(question)  # what an object calls its class is not asked
    if kind in PLAIN:
        return question
    try:
        if issubclass(kind, str):
            return str.__str__(question)
        if issubclass(kind, bytes):
            return bytes(memoryview(question))  # type: ignore[arg-type]
        if issubclass(kind, Mapping):
            return decode.members_of(question)  # type: ignore[arg-type]
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None
    except Exception as error:
        raise RequestError("", f"it cannot be read: {type(error).__name__}") from error
    raise RequestError("", f"a question is a mapping or JSON, not {kind.__name__}")


def parse_request(question: QuestionLike) -> Request:
    match plain_question(question):
        case Request() as request:
            return request
        case AuthenticatedQuestion(inner):
            return parse_request(inner)
        case str() | bytes() as text:
            return Request.from_json(text)
        case members:
            return Request.from_mapping(members)

"""What is asked, as callers may give it, and when: the clock in the forms in which it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import NamedTuple, TypeAlias

from policyengine.compiler.reads import nanoseconds
from policyengine.runtime import wire
from policyengine.runtime.ids import Stamp, serials, ulid
from policyengine.runtime.request import Request, RequestError

Clock: TypeAlias = Callable[[], datetime]


class Identified(NamedTuple):
    """A question whose credentials were looked at: a proof counts once, so nobody looks twice."""

    question: Request | Mapping[str, object] | str | bytes


Question: TypeAlias = Request | Mapping[str, object] | str | bytes | Identified

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


def microsecond(stamp: Stamp) -> int:
    """When a decision was made on the quick way."""
    assert not isinstance(stamp, str)
    return stamp[0] // 1_000


def counting(clock: Clock) -> Callable[[], int]:
    """The clock in nanoseconds since 1970. One that counts so itself, by `nanoseconds`, is spared a datetime."""
    if clock is utc_now:
        return time_ns
    own: Callable[[], int] | None = getattr(clock, "nanoseconds", None)
    return own or (lambda: nanoseconds(clock()))


def made_now(request: Request) -> None:
    if request.options.at is not None:
        raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")


def cleaned(output: Mapping[str, object] | None) -> Mapping[str, object]:
    """An output as facts are read: exact numbers, and nothing hazardous."""
    found = wire.from_python(output or {})
    if not isinstance(found, dict):
        raise RequestError("output", "an output is an object")
    return found


def read(question: Question) -> Request:
    match question:
        case Request():
            return question
        case Identified(inner):
            return read(inner)
        case str() | bytes():
            return Request.from_json(question)
        case Mapping():
            return Request.from_mapping(question)
        case _:
            raise RequestError("", f"a question is a mapping or JSON, not {type(question).__name__}")

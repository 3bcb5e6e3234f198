"""Questions in every form that callers use, each parsed at most once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

from policyengine.clock import epoch_nanoseconds
from policyengine.runtime import decode
from policyengine.runtime.ids import serials, ulid
from policyengine.runtime.request import Request, RequestError

RawQuestion: TypeAlias = Request | dict[str, object] | str | bytes


class Question:
    """A question as received, parsed once on first use. `is_authenticated` means that its credentials have been
    replaced with the facts that they prove; a proof is accepted only once.
    """

    __slots__ = ("_request", "is_authenticated", "raw")

    def __init__(self, raw: RawQuestion, *, is_authenticated: bool = False) -> None:
        self.raw, self.is_authenticated = raw, is_authenticated
        self._request = raw if type(raw) is Request else None

    @classmethod
    def of(cls, question: QuestionLike) -> Question:
        """Wrap a question; its members are checked when it is parsed. Raises RequestError for an object of any other
        type.
        """
        return question if type(question) is cls else cls(plain_question(question))  # type: ignore[arg-type]

    @property
    def members(self) -> dict[str, object] | None:
        """The unparsed members, or None if the question is not a mapping."""
        return self.raw if type(self.raw) is dict else None

    @property
    def request(self) -> Request:
        """The validated request. Raises RequestError."""
        if self._request is None:
            self._request = parse_request(self.raw)
        return self._request


QuestionLike: TypeAlias = Request | Mapping[str, object] | str | bytes | Question

PLAIN = frozenset({Request, dict, str, bytes})


def plain_question(question: Request | Mapping[str, object] | str | bytes) -> RawQuestion:
    """Return a Request or an instance of a built-in class. Mappings of other classes are copied, so that later changes
    have no effect. Raises RequestError."""
    kind = type(question)  # not `__class__`, which an object can set
    if kind in PLAIN:
        return question  # type: ignore[return-value]  # its class is exactly one of these
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
        raise RequestError("", f"the data cannot be read: {type(error).__name__}") from error
    raise RequestError("", f"a question must be a mapping or JSON, not {kind.__name__}")


def parse_request(question: QuestionLike) -> Request:
    """Parse and validate a question. Raises RequestError."""
    if type(question) is Question:
        return question.request
    match plain_question(question):  # type: ignore[arg-type]  # no Question, by its exact class
        case Request() as request:
            return request
        case str() | bytes() as text:
            return Request.from_json(text)
        case members:
            return Request.from_mapping(members)


def reject_chosen_time(request: Request) -> None:
    """Raise RequestError for a question that sets its time, because a decision for a chosen time must not spend."""
    if request.options.at is not None:
        raise RequestError(
            "options.at",
            "a decision for a chosen time cannot spend approvals or limits",
            "set `options.consume` to false",
        )


def normalize_facts(output: Mapping[str, object] | None) -> Mapping[str, object]:
    """Return facts or an output with exact numbers, as `runtime.decode` reads them; `{}` for None. Raises
    RequestError."""
    try:
        found = {} if output is None else decode.from_python(output)
    except decode.DecodeError as error:
        raise RequestError("output", str(error)) from None
    if not isinstance(found, dict):
        raise RequestError("output", "an output must be an object")
    return found


def new_id(now: datetime) -> str:
    """Return a ULID for this time."""
    return ulid(epoch_nanoseconds(now), next(serials))

"""Bodies and content types: reads a body within its limits of size and time, and encodes the answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from policyengine.executor import run_in_turn
from policyengine.plurals import format_seconds
from policyengine.runtime import decode
from policyengine.runtime.request import RequestError
from policyengine.server.problems import ProblemError

MAX_BODY_BYTES = 1024 * 1024
LONG_BODY_BYTES = 32 * 1024  # bytes; longer bodies take so long to parse and decide that other requests would wait
MAX_BODY_SECONDS = 30.0  # maximum seconds until a body has arrived


class BodyFormat(Enum):
    """The formats of a body with their media types; answers use the first media type."""

    JSON = ("application/json",)
    MSGPACK = ("application/msgpack", "application/x-msgpack")


FORMS = {media_type: form for form in BodyFormat for media_type in form.value}
# RFC 9457 registers a media type for JSON; MessagePack has none.
PROBLEM_TYPES = {BodyFormat.JSON: "application/problem+json", BodyFormat.MSGPACK: BodyFormat.MSGPACK.value[0]}
ACCEPTED = {**FORMS, PROBLEM_TYPES[BodyFormat.JSON]: BodyFormat.JSON}
HAS_LONG_BODY: ContextVar[bool] = ContextVar(
    "has_long_body", default=False
)  # whether the body of the current request is long
CHARSETS = {"", "charset=utf-8", 'charset="utf-8"'}
P = ParamSpec("P")
T = TypeVar("T")
WEIGHT = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


async def read_body(http: Request, seconds: float) -> bytes:
    """Read the body, at most `MAX_BODY_BYTES`, with or without a content length. Raises ProblemError."""
    declared = http.headers.get("content-length", "")
    # A longer number is not converted, because no body is that large.
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > MAX_BODY_BYTES):
        raise body_too_large()
    try:
        async with asyncio.timeout(seconds):
            body = await collect_body(http)
    except TimeoutError:
        late = f"the body did not arrive within {format_seconds(seconds)}"
        raise ProblemError(408, late, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ProblemError(400, "the connection was closed before the body arrived") from None
    HAS_LONG_BODY.set(len(body) > LONG_BODY_BYTES)
    return body


async def parse_body(read: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **given: P.kwargs) -> T:
    """Parse the body; a long body is parsed in a thread, so that other requests do not wait. Raises WorkRefusedError
    and the errors of `read`.
    """
    return await run_in_turn(read, body, *args, **given) if len(body) > LONG_BODY_BYTES else read(body, *args, **given)


def decode_body(body: bytes, form: BodyFormat) -> object:
    """Return the decoded body. Raises RequestError."""
    try:
        return decode.from_json(body) if form is BodyFormat.JSON else decode.from_msgpack(body)
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None


async def collect_body(http: Request) -> bytes:
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise body_too_large()
    return bytes(body)


def body_too_large() -> ProblemError:
    return ProblemError(413, "the body is larger than 1 MiB", headers={"Connection": "close"})


def request_format(headers: Headers) -> BodyFormat:
    """Return the format of `Content-Type`. Raises ProblemError if it is not supported."""
    given = headers.getlist("content-type")
    media_type, _, parameters = given[0].partition(";") if len(given) == 1 else ("", "", "")
    form = FORMS.get(media_type.strip().lower())
    if form is None or (form is BodyFormat.JSON and parameters.strip().lower() not in CHARSETS):
        raise unsupported_media("a body must be JSON in UTF-8, or MessagePack", "send `Content-Type: application/json`")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise unsupported_media("compressed bodies are not supported", "send it without `Content-Encoding`")
    return form


def unsupported_media(detail: str, hint: str) -> ProblemError:
    return ProblemError(415, detail, hint=hint, headers={"Accept": ", ".join(FORMS)})


# ── Responses ─────────────────────────────────────────────────────────────────────────────────


def response_format(headers: Headers) -> BodyFormat:
    """Return the format that `Accept` prefers or, without a preference, the format of the question."""
    own = FORMS.get(headers.get("content-type", "").partition(";")[0].strip().lower(), BodyFormat.JSON)
    best, weight = own, 0.0
    for entry in ",".join(headers.getlist("accept")).split(","):
        media_range, _, parameters = entry.strip().lower().partition(";")
        form = own if media_range.strip() in ("*/*", "application/*") else ACCEPTED.get(media_range.strip())
        if form is not None and quality_weight(parameters) > weight:
            best, weight = form, quality_weight(parameters)
    return best


def quality_weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        if parameter.strip().startswith("q="):
            given = WEIGHT.fullmatch(parameter.strip())
            return min(float(given[1]), 1.0) if given else 0.0
    return 1.0


def encode_body(content: object, form: BodyFormat) -> bytes:
    match form:
        case BodyFormat.JSON:
            return msgspec.json.encode(content)
        case BodyFormat.MSGPACK:
            return msgspec.msgpack.encode(content)


def build_answer(http: Request, content: Mapping[str, object], headers: Iterable[tuple[str, str]] = ()) -> Response:
    form = response_format(http.headers)
    return Response(encode_body(content, form), headers=dict(headers), media_type=form.value[0])


def build_problem_answer(http: Request, problem: ProblemError, form: BodyFormat | None = None) -> Response:
    form = form or response_format(http.headers)
    return Response(
        encode_body(problem.to_dict(), form), problem.status, headers=problem.headers, media_type=PROBLEM_TYPES[form]
    )

"""A simple request as doors read it, and its answer as lines of HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policyengine.http.trace_context import TraceContext
from policyengine.runtime.decision import Decision
from policyengine.runtime.fast_decode import decode_json_fast, decode_msgpack_fast
from policyengine.server.adapters.responses import PROBLEM_MEDIA_TYPE, HeaderPairs
from policyengine.server.content_negotiation import BodyFormat
from policyengine.server.telemetry.trace_headers import trace_response_headers

DECODED_KEY = "policyengine.decoded"  # the key in the scope for the decoded body
OWN_PARTS = 100  # upper bound for the number of parts that every question of a gateway has
HeaderMap = dict[bytes, bytes]
RawHeaderLines = list[tuple[bytes, bytes]]

# Header lines of every answer, in this order.
COMMON_LINES = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
PROBLEM_LINES = b"content-type: %b\r\n%b" % (PROBLEM_MEDIA_TYPE.encode(), COMMON_LINES)


class SimpleRequest:
    """A request in which no header occurs twice. `headers` has the headers by name, `lines` in order.

    The answer echoes `label` and continues `trace`. `decoded` is the decoded body, for the application if the door
    leaves the request to it.
    """

    __slots__ = ("body", "decoded", "headers", "label", "lines", "method", "path", "query", "trace")

    def __init__(self, method: str, path: bytes, query: bytes, lines: RawHeaderLines, body: bytes = b"") -> None:
        self.method, self.path, self.query = method, path, query
        self.lines, self.headers, self.body = lines, dict(lines), body
        self.label: bytes | None = None
        self.trace: TraceContext | None = None
        self.decoded: dict[str, Any] | None = None

    @property
    def echoes(self) -> bytes:
        """The header lines that echo the label and continue the trace."""
        label = b"" if self.label is None else b"x-request-id: %b\r\n" % self.label
        return label + b"".join([b"%b: %b\r\n" % pair for pair in trace_response_headers(self.trace)])

    @property
    def size(self) -> int:
        """An upper bound for the number of parts of a gateway's question: a query or form field may have several names,
        and a header is a fact or a pending fact.
        """
        headers = len(self.headers) + sum(map(len, self.headers.values()))
        return len(self.path) + 2 * headers + 4 * (len(self.query) + len(self.body)) + OWN_PARTS


class FastAnswer(NamedTuple):
    """An answer: its status, its header lines, and its content."""

    status: int
    lines: bytes
    content: bytes

    @property
    def headers(self) -> RawHeaderLines:
        """The headers as ASGI has them."""
        pairs = [line.partition(b": ") for line in self.lines.split(b"\r\n")[:-1]]
        return [(name, value) for name, _, value in pairs]


@dataclass(frozen=True)
class FastPathCodec:
    """Decodes questions and encodes answers of one media type."""

    media_type: bytes
    form: BodyFormat
    read: Callable[[bytes], dict[str, Any] | None]
    write: Callable[[Decision], bytes]
    lines: bytes = field(init=False)  # the last header lines of each answer

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", b"content-type: %b\r\n%b" % (self.media_type, COMMON_LINES))

    def accepts(self, headers: HeaderMap) -> bool:
        """Return whether the client accepts the media type of its question for the answer."""
        return headers.get(b"accept", b"*/*") in (b"*/*", self.media_type)


def build_answer(content: bytes, more: bytes, lines: bytes) -> FastAnswer:
    """Return the answer to a question. `more` are header lines of this answer, `lines` those of its media type."""
    return FastAnswer(200, b"%bcontent-length: %d\r\n%b" % (more, len(content), lines), content)


def header_lines(pairs: HeaderPairs) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]).encode("latin-1") if pairs else b""


JSON = FastPathCodec(BodyFormat.JSON.value[0].encode(), BodyFormat.JSON, decode_json_fast, Decision.to_json)
MSGPACK = FastPathCodec(
    BodyFormat.MSGPACK.value[0].encode(), BodyFormat.MSGPACK, decode_msgpack_fast, Decision.to_msgpack
)
CODECS = {JSON.media_type: JSON, b"application/json; charset=utf-8": JSON, MSGPACK.media_type: MSGPACK}

"""Turns an HTTP request in an ASGI application into facts: the path as the application routes it, without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import Message, Receive, Scope

from policyengine.http.body_facts import body_members
from policyengine.http.client_credentials import CREDENTIAL_SECRET_HEADERS
from policyengine.http.query_fields import query_fields
from policyengine.integrations.enforcement_point import Facts
from policyengine.runtime.header_names import AMBIGUOUS_NAME, ambiguous_names, fold_header_name
from policyengine.vocabulary import SECRET_HEADERS

MAX_BODY_BYTES = 1024 * 1024
BODY_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES:,} bytes, the limit for bodies that the policy reads"
MAX_SIZE_DIGITS = 15  # maximum digits of a content length
WITHHELD_HEADERS = SECRET_HEADERS | CREDENTIAL_SECRET_HEADERS
UNROUTABLE_PATH = "/%00"  # a path that is never canonical; it replaces a path that two parsers would read differently


class BodyTooLargeError(Exception):
    """The error for a body larger than the limit."""


def route_path(scope: Scope) -> str:
    """Return the path on the wire by which the application routes, without the prefix under which it is mounted.

    Applications route by the decoded path. If the path on the wire decodes to a different path, something changed one
    of them and neither can be trusted: the result is then UNROUTABLE_PATH.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    below = bool(root) and (path == root or path.startswith(f"{root}/"))
    routed = (path[len(root) :] or "/") if below else path
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return quote(routed)
    wired = raw.split(b"?", 1)[0].decode("latin-1")
    rest = "/" + "/".join(wired.split("/")[root.count("/") + 1 :]) if below else wired
    return rest if unquote(rest) == routed else UNROUTABLE_PATH


def request_facts(scope: Scope) -> dict[str, object]:
    """Return all request facts except the body. A repeated header is unknown: it becomes a list, not a string."""
    headers = read_headers(scope)
    twice = dict.fromkeys(ambiguous_names(headers), AMBIGUOUS_NAME)
    client = scope.get("client")
    size = read_size(scope, headers)
    return {
        "method": scope.get("method", "GET"),
        "path": route_path(scope),
        "headers": {
            name: value
            for name, value in {**headers, **twice}.items()
            if fold_header_name(name) not in WITHHELD_HEADERS
        },
        "query": query_fields(scope.get("query_string", b"").decode("latin-1")),
        **({"ip": client[0]} if client else {}),
        **({"host": headers["host"]} if "host" in headers else {}),
        **({} if size is None else {"size": size}),
    }


def read_headers(scope: Scope) -> dict[str, Any]:
    return group_values((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])


def read_size(scope: Scope, headers: Mapping[str, Any]) -> int | None:
    """Return the size of the body in bytes, or None if it is not known.

    HTTP/1 has no body without a header that announces one. A content length next to a transfer coding is ignored (RFC
    9112, 6.3), because some servers pass on both.
    """
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length")
    if isinstance(length, str) and length.isascii() and length.isdigit() and len(length) <= MAX_SIZE_DIGITS:
        return int(length)
    return 0 if length is None and scope.get("http_version", "").startswith("1") else None


def group_values(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = value if name not in found else [*as_list(found[name]), value]
    return found


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def build_http_question(scope: Scope, who: Facts, body: Facts, content: bytes | None = None) -> dict[str, object]:
    """Return the whole question; `content` is the whole body, if it was read. Request facts in `who` take precedence,
    because the application may know the client behind a proxy."""
    added, size = who.get("request"), {} if content is None else {"size": len(content)}
    request = {**request_facts(scope), **size, **(added if isinstance(added, Mapping) else {})}
    pending = [*body.get("pending", ()), *pending_facts(scope, request)]  # type: ignore[misc]  # it is a list
    return {**who, "request": request, **body, **({"pending": pending} if pending else {})}


def pending_facts(scope: Scope, request: Mapping[str, object]) -> Iterator[str]:
    """Yield the pending facts of the request: secret headers that are withheld, and facts that are not known."""
    told = request.get("headers")
    said = told if isinstance(told, Mapping) else {}
    came = {
        fold_header_name(name)
        for name in read_headers(scope)
        if fold_header_name(name) in WITHHELD_HEADERS and name not in said
    } - said.keys()
    yield from (f'request.headers["{name}"]' for name in sorted(came))
    yield from (f"request.{name}" for name in ("host", "ip", "size") if name not in request)


def unread_body_facts(scope: Scope) -> Facts:
    """Return the facts of a body that was not read: it is empty, or pending."""
    return {} if read_size(scope, read_headers(scope)) == 0 else {"pending": ["body"]}


# ── The body ──────────────────────────────────────────────────────────────────────────────────


async def read_body(receive: Receive, largest: int = MAX_BODY_BYTES) -> tuple[bytes, Receive]:
    """Read the whole body. Return the body, and a `receive` that replays it and then continues with later messages.
    Raises BodyTooLargeError."""
    content = bytearray()
    first: list[Message] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            first.append(message)
            break
        content += message.get("body", b"")
        if len(content) > largest:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            break
    waiting = [{"type": "http.request", "body": bytes(content), "more_body": bool(first)}, *first]

    async def again() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return bytes(content), again


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone. The whole body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def body_facts(scope: Scope, content: bytes) -> Facts:
    """Return the body as members of a question: a JSON object or the fields of a form.

    Every other non-empty body has no value, because its content is unknown.
    """
    if not content:
        return {}
    return {
        "body": body_members(
            get_header_values(scope, b"content-type"), get_header_values(scope, b"content-encoding"), content
        )
    }


def get_header_values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == header]

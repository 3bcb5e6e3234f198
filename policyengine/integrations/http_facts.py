"""An HTTP request inside of an ASGI application as facts: the path as the application routes it, nothing secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from starlette.types import Message, Receive, Scope

from policyengine.integrations.asking import Facts
from policyengine.runtime import wire
from policyengine.runtime.presented import SECRET
from policyengine.vocabulary import SECRET_HEADERS

LARGEST_BODY = 1024 * 1024
MOST_FIELDS = 1_000
UNTOLD = SECRET_HEADERS | SECRET
CROOKED = "/%00"  # a path that is never canonical, for one that two readers would read differently


class BodyTooLarge(Exception):
    """There is more of it than is ever looked at."""


def route_path(scope: Scope) -> str:
    """The path on the wire that the application will route by: without the prefix that it is mounted under.

    Applications route by the decoded path. Where the one on the wire does not say the same, somebody changed one of
    them, and nobody can say which counts.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    below = bool(root) and (path == root or path.startswith(f"{root}/"))
    routed = (path[len(root) :] or "/") if below else path
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return quote(routed)
    wired = raw.split(b"?", 1)[0].decode("latin-1")
    rest = "/" + "/".join(wired.split("/")[root.count("/") + 1 :]) if below else wired
    return rest if unquote(rest) == routed else CROOKED


def request_facts(scope: Scope) -> dict[str, object]:
    """All of it but the body. A header or a parameter that comes twice is a list, which is no text: it is unknown."""
    headers = several((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
    query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    client = scope.get("client")
    size = headers.get("content-length")
    return {
        "method": scope.get("method", "GET"),
        "path": route_path(scope),
        "headers": {name: value for name, value in headers.items() if name not in UNTOLD},
        "query": several(query),
        **({"ip": client[0]} if client else {}),
        **({"host": bare(headers["host"])} if isinstance(headers.get("host"), str) else {}),
        **({"size": int(size)} if isinstance(size, str) and size.isascii() and size.isdigit() else {}),
    }


def several(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = value if name not in found else [*listed(found[name]), value]
    return found


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def bare(host: Any) -> str:
    """Without the port."""
    name = str(host)
    return name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() and not name.endswith("]") else name


def asked_of(scope: Scope, who: Facts, body: Facts) -> dict[str, object]:
    """The whole question. The application may know better who called: behind a proxy it says so."""
    added = who.get("request")
    request = {**request_facts(scope), **(added if isinstance(added, Mapping) else {})}
    return {**who, "request": request, **body}


# ── The body ──────────────────────────────────────────────────────────────────────────────────


async def read_body(receive: Receive, largest: int = LARGEST_BODY) -> tuple[bytes, Receive]:
    """All of the body, and a `receive` that gives it again and then what follows. Raises BodyTooLarge."""
    content = bytearray()
    first: list[Message] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            first.append(message)
            break
        content += message.get("body", b"")
        if len(content) > largest:
            raise BodyTooLarge
        if not message.get("more_body", False):
            break
    waiting = [{"type": "http.request", "body": bytes(content), "more_body": bool(first)}, *first]

    async def again() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return bytes(content), again


def body_facts(scope: Scope, content: bytes) -> Facts:
    """The body as members of a question: an object in JSON, or the fields of a form.

    Any other that is not empty is pending: nobody can say what is in it, nor what is not.
    """
    if not content:
        return {}
    headers = several((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
    found = members_of(headers.get("content-type"), content) if "content-encoding" not in headers else None
    return {"pending": ["body"]} if found is None else {"body": found}


def members_of(media: object, content: bytes) -> Mapping[str, object] | None:
    kind = media.partition(";")[0].strip().lower() if isinstance(media, str) else ""
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return json_facts(content)
    return form_facts(content) if kind == "application/x-www-form-urlencoded" else None


def json_facts(content: bytes) -> Mapping[str, object] | None:
    try:
        found = wire.json_tree(content)
    except wire.WireError:
        return None
    return found if isinstance(found, dict) else None


def form_facts(content: bytes) -> Mapping[str, object] | None:
    try:
        return several(parse_qsl(content.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        return None

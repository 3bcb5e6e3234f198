"""An example behind the API, in this process or as a server, and the questions of the certification."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import httpx

from policyengine.engine import Engine
from policyengine.server import create_app
from tests.pages import EXAMPLES
from tests.server.processes import started

ONE, MANY, METADATA = "/access/v1/evaluation", "/access/v1/evaluations", "/.well-known/authzen-configuration"
TOKEN = "a-token-of-the-gateway"
JSON = {"content-type": "application/json"}
Free: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[..., httpx.Response]

ALICE, BOB = {"type": "user", "id": "alice"}, {"type": "user", "id": "bob"}
READ, WRITE = {"name": "read"}, {"name": "write"}
ACTIVE, ARCHIVED = {"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}
ALLOWED: Free = {"subject": ALICE, "action": READ, "resource": ACTIVE}
REFUSED: Free = {"subject": BOB, "action": WRITE, "resource": ACTIVE}

SERVE = """
import sys
from policyengine.engine.engine import Engine
from policyengine.server import serve
folder, token = sys.argv[1], sys.argv[2] or None
engine = Engine.load(folder, entities=f"{folder}/entities.json")
serve(engine, "127.0.0.1", 0, token, listening=lambda url: print(url, flush=True))
"""


def example(name: str) -> Engine:
    return Engine.load(EXAMPLES / name, entities=EXAMPLES / name / "entities.json")


def caller(engine: Any, **options: Any) -> Call:
    """Exchanges with an application in this process."""
    transport = httpx.ASGITransport(create_app(engine, **options))

    def call(method: str, path: str, **request: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **request)

        return asyncio.run(run())

    return call


@contextmanager
def served(name: str, token: str = "") -> Iterator[Call]:
    """Exchanges with a real server that serves an example on a port of its own."""
    with started(SERVE, str(EXAMPLES / name), token) as (url, _), httpx.Client(base_url=url) as client:
        yield client.request


def without(question: Free, *path: str) -> Free:
    """The question without a member (`"subject", "id"`)."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in question.items() if name != first}
    return {**question, first: without(question[first], *rest)}


def decision(answer: httpx.Response) -> bool:
    assert answer.status_code == 200, answer.text
    found = answer.json()["decision"]
    assert isinstance(found, bool)
    return found


def decisions(answer: httpx.Response) -> list[bool]:
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"evaluations"}
    return [one["decision"] for one in answer.json()["evaluations"]]

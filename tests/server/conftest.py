"""An engine with a small policy that records its questions, and a client that needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from policyengine.engine import Engine
from policyengine.engine.question import QuestionLike
from policyengine.explain.explanation import Explanation
from policyengine.runtime.decision import Decision
from policyengine.server import create_app
from policyengine.stores.url import open_store
from tests.trusting import TRUSTING

TOKEN = "a-token-of-the-gateway"
OPEN = {"request": {"method": "GET", "path": "/health"}}
SHUT = {"request": {"method": "GET", "path": "/secrets"}}


BY_ENVOY = {"x-envoy-internal": "true"}  # which it sends with every question, and no page unasked
ORDER = {"request": {"method": "POST", "path": "/orders"}}
POLICY = """
language 1
package shop
entity user { roles: set<string> }
anyone { may GET /health, POST /orders }
guard "orders need a person" on POST /orders { confirm by role finance within 15m }
"""


@dataclass
class Watched:
    """A real engine; `asked` lists what it answered. `broken` makes it raise an unexpected error."""

    engine: Engine
    asked: list[str] = field(default_factory=list)
    broken: Exception | None = None
    observing: None = None

    @property
    def revision(self) -> str:
        return self.engine.revision

    @property
    def package(self) -> str:
        return self.engine.package

    @property
    def packages(self) -> tuple[str, ...]:
        return self.engine.packages

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def decide(self, question: QuestionLike, **how: Any) -> Decision:
        return self._call("decide", question, **how)

    def evaluate(self, question: QuestionLike, **how: Any) -> Decision:
        return self._call("evaluate", question, **how)

    def explain(self, question: QuestionLike) -> Explanation:
        return self._call("explain", question)

    def _call(self, name: str, question: QuestionLike, **how: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        answer = getattr(self.engine, name)(question, **how)
        self.asked.append(name)
        return answer


def client_of(engine: Any, **options: Any) -> httpx.AsyncClient:
    return client_for(create_app(engine, **options))


def client_for(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=BY_ENVOY)


def small(store: str = "memory:") -> Engine:
    return Engine.from_text(POLICY, store=open_store(store), approvals=TRUSTING)


@pytest.fixture(scope="session")
def small_engine() -> Engine:
    return small()


@pytest.fixture
def engine(small_engine: Engine) -> Watched:
    return Watched(small_engine)


@pytest.fixture
def call(engine: Watched) -> Callable[..., httpx.Response]:
    """One exchange: `call("POST", "/decide", json=…)`; `token` is the valid one."""

    def exchange(
        method: str, path: str, *, token: Any = None, body_timeout: float = 30.0, **request: Any
    ) -> httpx.Response:
        async def run() -> httpx.Response:
            async with client_of(engine, token=token, body_timeout=body_timeout) as client:
                return await client.request(method, path, **request)

        return asyncio.run(run())

    return exchange

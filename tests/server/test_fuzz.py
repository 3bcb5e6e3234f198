"""Whatever the bytes are: an answer or a problem, never a failure."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyengine.runtime.request import NON_FACT_MEMBERS
from policyengine.vocabulary import ROOTS
from tests.server.conftest import OPEN, client_of

PATHS = st.sampled_from(["/decide", "/evaluate", "/decide/batch", "/explain"])
NAMES = (
    st.sampled_from([*ROOTS, *NON_FACT_MEMBERS, "requests", "semantics", "method", "path", "id", "name", "hops"])
    | st.text()
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=12)


def exchange(engine: Any, path: str, body: bytes, content_type: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(engine) as client:
            return await client.post(path, content=body, headers={"content-type": content_type})

    return asyncio.run(run())


def check(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400), answer.text
    read = msgpack.unpackb(answer.content) if "msgpack" in answer.headers["content-type"] else answer.json()
    assert isinstance(read, dict)


@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
@given(path=PATHS, body=st.binary())
@example(path="/decide", body=b"\xdf\xff\xff\xff\xff")
@example(path="/decide", body=b'{"a": 1e999999999}')
@example(path="/decide/batch", body=b'{"\\ud800": 1}')
def test_arbitrary_bytes_are_answered(small_engine: Any, content_type: str, path: str, body: bytes) -> None:
    check(exchange(small_engine, path, body, content_type))


@given(path=PATHS, tree=TREES, packed=st.booleans())
def test_arbitrary_trees_are_answered(small_engine: Any, path: str, tree: object, packed: bool) -> None:
    body = msgpack.packb(tree, unicode_errors="surrogatepass") if packed else json.dumps(tree).encode()
    check(exchange(small_engine, path, body, "application/msgpack" if packed else "application/json"))


@given(root=st.sampled_from([*ROOTS, *NON_FACT_MEMBERS]), tree=TREES)
def test_arbitrary_trees_in_every_member_are_answered(small_engine: Any, root: str, tree: object) -> None:
    question = {**OPEN, root: tree}
    body = json.dumps({"requests": [question, OPEN]}).encode()
    check(exchange(small_engine, "/decide", json.dumps(question).encode(), "application/json"))
    answer = exchange(small_engine, "/decide/batch", body, "application/json")
    assert [item["outcome"] for item in answer.json()["decisions"]][1:] == ["allow"]

"""W3C Trace Context: taken as the specification says, continued on answers, in the decision log and in the server's."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.engine import Engine
from policyengine.http.trace_context import current_trace, parse_trace_context, trace_scope
from tests.server.conftest import OPEN, POLICY, client_of
from tests.server.processes import started

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"
Call = Callable[..., httpx.Response]
FORWARDED = {"x-forwarded-method": "GET", "x-forwarded-uri": "/health"}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (PARENT, "01"),
        (f"00-{ID}-{SPAN}-00", "00"),
        (f"00-{ID}-{SPAN}-ff", "03"),  # flags that nobody knows are not handed on
        (f"cc-{ID}-{SPAN}-01", "01"),  # a version of the future
        (f"cc-{ID}-{SPAN}-01-what the future brings", "01"),
        (f"  {PARENT}\t", "01"),
    ],
)
def test_a_trace_continues_with_a_new_span(given: str, flags: str) -> None:
    found = parse_trace_context([given])
    assert found is not None
    assert found.id == ID
    assert re.fullmatch(rf"00-{ID}-(?!0{{16}}|{SPAN})[0-9a-f]{{16}}-{flags}", found.parent)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [PARENT, PARENT],
        [""],
        [PARENT.upper()],
        [f"ff-{ID}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{ID}-{'0' * 16}-01"],
        [f"{PARENT}-more"],
        [f"cc-{ID}-{SPAN}-01.more"],
        [f"00-{ID[1:]}-{SPAN}-01"],
        [f"00-{ID}-{SPAN}-1"],
        [f"00-{ID}-{SPAN}-0x"],
        [f"{PARENT}\n"],
        [f"00_{ID}_{SPAN}_01"],
        [f"cc-{ID}-{SPAN}-01-{'x' * 10_000}"],
    ],
)
def test_an_invalid_traceparent_is_ignored(given: list[str]) -> None:
    assert parse_trace_context(given, ["a=1"]) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["congo=t61rcWkgMzE"], "congo=t61rcWkgMzE"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1, ,b=2,"], "a=1,b=2"),
        (["fw529a3039@dt=x:1/2"], "fw529a3039@dt=x:1/2"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a=1=2"], ""),
        (["a=\x07"], ""),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
        ([",".join(f"k{n}=v" for n in range(33))], ""),
        (["a=" + "x" * 257], ""),
    ],
)
def test_an_invalid_tracestate_is_dropped_as_a_whole(given: list[str], kept: str) -> None:
    found = parse_trace_context([PARENT], given)
    assert found is not None
    assert found.state == kept


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/decide", {"json": OPEN}),
        ("POST", "/decide", {"json": {**OPEN, "options": {"consume": False}}}),  # not on the hot path
        ("POST", "/evaluate", {"json": OPEN}),
        ("POST", "/explain", {"json": OPEN}),
        ("POST", "/decide/batch", {"json": {"requests": [OPEN]}}),
        ("POST", "/decide", {"json": {"no": "question"}}),
        ("GET", "/forward-auth", {"headers": FORWARDED}),
        ("GET", "/forward-auth/nginx", {"headers": FORWARDED}),
        ("GET", "/envoy/health", {}),
        ("GET", "/healthz", {}),
        ("GET", "/nowhere", {}),
    ],
)
def test_every_route_continues_a_trace(call: Call, method: str, path: str, more: dict[str, Any]) -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1", **more.pop("headers", {})}
    told = call(method, path, headers=headers, **more).headers
    assert re.fullmatch(f"00-{ID}-[0-9a-f]{{16}}-01", told["traceparent"])
    assert told["tracestate"] == "a=1"


@pytest.mark.parametrize("path", ["/decide", "/evaluate"])
def test_an_invalid_trace_is_not_returned(call: Call, path: str) -> None:
    told = call("POST", path, json=OPEN, headers={"traceparent": PARENT.upper(), "tracestate": "a=1"}).headers
    assert "traceparent" not in told
    assert "tracestate" not in told


@pytest.mark.parametrize("path", ["/decide", "/evaluate", "/decide/batch"])
def test_the_decision_log_has_the_trace_of_the_answer(tmp_path: Path, path: str) -> None:
    engine = Engine.from_text(POLICY, log=DecisionLog(tmp_path / "log"))
    body = {"requests": [OPEN]} if path.endswith("batch") else OPEN

    async def asked(**headers: str) -> str | None:
        async with client_of(engine) as client:
            return (await client.post(path, json=body, headers=headers)).headers.get("traceparent")

    told = asyncio.run(asked(traceparent=PARENT))
    assert asyncio.run(asked()) is None
    with_trace, without = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert with_trace["trace"] == told
    assert "trace" not in without
    assert [one.trace for one in read_records(tmp_path / "log")] == [told, None]


SERVE = f"""
import sys
from policyengine.audit import DecisionLog
from policyengine.engine.engine import Engine
from policyengine.server import serve
serve(Engine.from_text({POLICY!r}, log=DecisionLog(sys.argv[1])), port=0, listening=lambda url: print(url, flush=True))
"""


def test_a_pipelined_request_does_not_inherit_the_trace_of_the_request_before(tmp_path: Path) -> None:
    body = json.dumps(OPEN).encode()

    def asking(path: str, more: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    with started(SERVE, str(tmp_path / "log")) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            traced = asking("/evaluate", f"traceparent: {PARENT}\r\n")
            last = asking("/decide", "connection: close\r\n")
            connection.sendall(traced + asking("/evaluate", "") + traced + last)
            told = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert told.count(b"HTTP/1.1 200") == 4
    assert told.count(b"traceparent") == 2
    assert [one.trace is not None for one in read_records(tmp_path / "log")] == [True, False, True, False]


def test_the_server_log_has_the_trace_of_a_failed_request(
    call: Call, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine.broken = ZeroDivisionError()
    assert call("POST", "/evaluate", json=OPEN, headers={"traceparent": PARENT}).status_code == 500
    [record] = caplog.records
    assert record.getMessage().endswith(f"(trace {ID})")
    assert record.trace_id == ID  # type: ignore[attr-defined]


def test_the_server_log_mentions_no_trace_if_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("policyengine").warning("as %s", "ever")
    assert caplog.messages == ["as ever"]
    assert caplog.records[0].trace_id is None  # type: ignore[attr-defined]


def test_a_trace_ends_with_its_question() -> None:
    with trace_scope(parse_trace_context([PARENT])):
        assert current_trace() is not None
    assert current_trace() is None

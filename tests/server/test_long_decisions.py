"""What takes long is decided beside the event loop of a real server: it ends, and others are answered meanwhile."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from policyengine.client.socket import FRAME_HEADER, SocketClient
from tests.server.processes import started

POLICY = """
facts { body.a: list<int>  body.b: list<int>  body.note: int?  context.a: list<int>? }
issuer login { scopes none }
anyone { may POST /x, ACTION see document }
entity document
guard "cubic" on POST /x { deny when (any x in body.a: (any y in body.a: (any z in body.a: x + y == z + 1_000))) }
guard "seen" on ACTION see document {
  deny when (any x in context.a: (any y in context.a: (any z in context.a: x + y == z + 1_000)))
}
guard "pairs" on POST /x { deny when body.a overlaps body.b  deny when body.note > 5 }
"""
SERVE = """
import sys
from pathlib import Path
from policyengine import Engine
from policyengine.server import serve
serve(Engine.from_text(sys.argv[2]), port=0, path=Path(sys.argv[1]), listening=lambda url: print(url, flush=True))
"""
MANY = 3  # questions, so that those which wait take long enough to be overtaken on any machine
SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    path = tmp_path_factory.mktemp("long") / "policy.sock"
    with started(SERVE, str(path), POLICY) as (url, _):
        yield url.split()[0].removeprefix("http://").split("/")[0], path


def question(many: int) -> dict[str, Any]:
    body = {"a": list(range(many)), "b": list(range(20_000, 20_000 + many))}
    return {"request": {"method": "POST", "path": "/x"}, "body": body}


SMALL, LARGE = question(30), {**question(30), "context": {"spaces": " " * 50_000}}


def test_a_decision_over_its_work_limit_fails_closed_at_the_failure_gate(server: tuple[str, Path]) -> None:
    with closing(http.client.HTTPConnection(server[0], timeout=SECONDS)) as connection:
        sent = json.dumps({**question(10_000), "context": {"spaces": " " * 50_000}})
        connection.request("POST", "/decide", sent, {"content-type": "application/json"})
        found = json.loads(connection.getresponse().read())
    assert len(sent) > 164_000
    assert (found["gate"], "200,000 steps" in found["reasons"][0]["message"]) == ("failure", True)


def bodies(where: str, asked: dict[str, Any]) -> object:
    match where:
        case "/decide/batch":
            return {"requests": [asked]}
        case "/access/v1/evaluation":
            who = {"subject": {"type": "user", "id": "a"}, "resource": {"type": "document", "id": "1"}}
            return {**who, "action": {"name": "see"}, "context": {"a": asked["body"]["a"]}}
        case _:
            return asked


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("/decide", SMALL),
        ("/decide", LARGE),
        ("/decide/batch", SMALL),
        ("/access/v1/evaluation", SMALL),
    ],
    ids=["small", "large", "batch", "authzen"],
)
def test_healthz_is_answered_while_slow_questions_are_decided(
    where: str, asked: dict[str, Any], server: tuple[str, Path]
) -> None:
    """If this process stalls, it finds the answers to the questions, too. A server that blocks has always answered them
    first."""
    assert any(overtakes(where, asked, server) for _ in range(3))


def overtakes(where: str, asked: dict[str, Any], server: tuple[str, Path]) -> bool:
    """Return whether `/healthz` is answered before slow questions that were asked earlier."""
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(closing(http.client.HTTPConnection(server[0], timeout=SECONDS))) for _ in range(MANY)
        ]
        for one in waiting:
            one.request("POST", where, json.dumps(bodies(where, asked)), {"content-type": "application/json"})
        assert health(server) == {"status": "ok"}
        is_earlier = not all(is_answered(one) for one in waiting)
        assert [one.getresponse().status for one in waiting] == [200] * MANY
        return is_earlier


def health(server: tuple[str, Path]) -> object:
    with closing(http.client.HTTPConnection(server[0], timeout=SECONDS)) as connection:
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read())


def is_answered(connection: http.client.HTTPConnection) -> bool:
    return bool(select.select([connection.sock], [], [], 0)[0])


@pytest.mark.parametrize("questions", [SMALL, [SMALL, question(1)]], ids=["one", "several"])
def test_a_slow_socket_question_does_not_block_other_connections(questions: Any, server: tuple[str, Path]) -> None:
    assert any(overtakes_frames(questions, server) for _ in range(3))


def overtakes_frames(questions: Any, server: tuple[str, Path]) -> bool:
    """Return whether a question is answered before slow ones of another connection that were asked earlier."""
    with socket.socket(socket.AF_UNIX) as slow, SocketClient(server[1], timeout=SECONDS) as other:
        slow.settimeout(SECONDS)
        slow.connect(str(server[1]))
        for number in range(MANY):
            payload = msgpack.packb([number, "decide", questions])
            slow.sendall(FRAME_HEADER.pack(len(payload)) + payload)
        assert other.decide(question(1)).gate == "guard"
        is_earlier = not select.select([slow], [], [], 0)[0]
        assert slow.recv(FRAME_HEADER.size)
        return is_earlier

"""Every door on the wire: what smuggles at one door smuggles at all, so that each gets the hostile requests."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.processes import started
from tests.server.test_http1 import CLOSE, NEXT, OFFER, PIECES, VARYING, connected, spoken, statuses
from tests.server.test_serving import raw

SERVE = """
from policyengine.engine import Engine
from policyengine.server import serve
from tests.server.test_http1_doors import POLICY
serve(Engine.from_text(POLICY), port=0, listening=lambda url: print(url, flush=True))
"""
POLICY = """
language 1
package doors
entity document {}
facts on POST /slow { body.a: list<int> }
issuer acme { scopes none }
anyone { may ANY /open/{id}, ANY /counted/{id}, POST /slow, ACTION read document }
agent "reader" { issued by acme   acts alone   may GET /mine }
rate "counted" per request.path on ANY /counted/{id} { 1_000_000/365d }
guard "cubic" on POST /slow { deny when (any x in body.a: (any y in body.a: (any z in body.a: x + y == z + 999))) }
"""
OPEN = {"request": {"method": "GET", "path": "/open/1"}}
SLOW = {"request": {"method": "POST", "path": "/slow"}, "body": {"a": list(range(22))}}
WHO = {
    "subject": {"type": "user", "id": "a"},
    "action": {"name": "read"},
    "resource": {"type": "document", "id": "1"},
}
ODD = (b"x-odd: 1", b"x-odd: 1")  # a repeated header: the application answers instead of the fast path
REMAINING = re.compile(rb'ratelimit: "counted";r=([0-9]+)')


def request(method: bytes, target: bytes, *headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    hosts = () if any(one.lower().startswith(b"host:") for one in headers) else (b"host: localhost",)
    length = (b"content-length: %d" % len(body),) if body else ()
    return b"\r\n".join((b"%b %b HTTP/%b" % (method, target, version), *hosts, *headers, *length, b"", b"")) + body


def asked(path: bytes, document: object, *headers: bytes, version: bytes = b"1.1") -> bytes:
    json_type = b"content-type: application/json"
    return request(b"POST", path, json_type, *headers, body=json.dumps(document).encode(), version=version)


def forwarded(uri: bytes, *headers: bytes, body: bytes = b"", path: bytes = b"/forward-auth", **how: bytes) -> bytes:
    described = b"x-forwarded-method: GET", b"x-forwarded-uri: " + uri, b"x-forwarded-for: 10.1.2.3"
    return request(b"GET", path, *described, *headers, body=body, **how)


def enveloped(method: bytes, path: bytes, *headers: bytes, body: bytes = b"", **how: bytes) -> bytes:
    return request(method, b"/envoy" + path, b"x-forwarded-for: 10.1.2.3", *headers, body=body, **how)


def each(*headers: bytes, version: bytes = b"1.1") -> dict[str, bytes]:
    """One request for each door."""
    how = {"version": version}
    return {
        "decide": asked(b"/decide", OPEN, *headers, **how),
        "decide with a query": asked(b"/decide?a=1", OPEN, *headers, **how),
        "evaluate": asked(b"/evaluate", OPEN, *headers, **how),
        "batch": asked(b"/decide/batch", {"requests": [OPEN, OPEN, 5]}, *headers, **how),
        "evaluation": asked(b"/access/v1/evaluation", WHO, *headers, **how),
        "evaluations": asked(b"/access/v1/evaluations", {**WHO, "evaluations": [{}, {}]}, *headers, **how),
        "forward-auth": forwarded(b"/open/1?a=1", *headers, **how),
        "forward-auth, denied": forwarded(b"/shut", *headers, **how),
        "nginx": forwarded(b"/open/1", *headers, path=b"/forward-auth/nginx", **how),
        "nginx, denied": forwarded(b"/shut", *headers, path=b"/forward-auth/nginx?a=1", **how),
        "envoy": enveloped(b"GET", b"/open/1?a=1", *headers, **how),
        "envoy with a body": enveloped(b"POST", b"/open/1", *headers, body=b'{"a": 1}', **how),
        "envoy, denied": enveloped(b"DELETE", b"/shut", *headers, **how),
    }


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with started(SERVE) as (url, _):
        yield url


def remaining(url: str, name: str) -> int:
    """How often this path may still be asked for, after this question."""
    found = REMAINING.search(spoken(url, forwarded(b"/counted/" + name.encode(), CLOSE)))
    assert found is not None
    return int(found[1])


# ── Answered alike ────────────────────────────────────────────────────────────────────────────


def same(first: bytes, second: bytes) -> bool:
    return VARYING.sub(b"?", first) == VARYING.sub(b"?", second)


@pytest.mark.parametrize("door", each())
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_the_answer_of_each_door_is_that_of_the_application_on_the_wire(url: str, door: str, version: bytes) -> None:
    close = () if version == b"1.0" else (CLOSE,)
    fast, careful = (spoken(url, each(*close, *odd, version=version)[door]) for odd in ((), ODD))
    assert same(fast, careful)
    assert fast.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in fast


@pytest.mark.parametrize("door", each())
def test_each_door_answers_however_the_request_arrives(url: str, door: str) -> None:
    whole = each(CLOSE)[door]
    pieces = [whole[:20], whole[20:-10], whole[-10:]]
    assert same(spoken(url, *pieces), spoken(url, whole))


@pytest.mark.parametrize("door", each())
def test_a_connection_stays_open_after_each_door(url: str, door: str) -> None:
    answer = spoken(url, each()[door] * 3 + NEXT)
    first, *others = statuses(answer)
    assert others == [first, first, 200]


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"PROPFIND", b"TRACE"])
@pytest.mark.parametrize("path", [b"/open/1", b"/shut"])
def test_the_answer_to_every_method_of_envoy_is_that_of_the_application(url: str, method: bytes, path: bytes) -> None:
    fast, careful = (spoken(url, enveloped(method, path, *odd) + NEXT) for odd in ((), ODD))
    assert same(fast, careful)
    assert statuses(fast)[1:] == [200]
    if method == b"HEAD":
        assert b'"outcome"' not in fast


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"POST", b"PUT"])
@pytest.mark.parametrize("path", [b"/forward-auth", b"/forward-auth/nginx"])
def test_forward_auth_is_asked_by_get_only(url: str, method: bytes, path: bytes) -> None:
    message = forwarded(b"/open/1", path=path).replace(b"GET", method, 1)
    assert statuses(spoken(url, message + NEXT)) == [405, 200]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/forward%2Dauth", 200), (b"/forward-auth%2Fnginx", 200), (b"//forward-auth", 404), (b"/forward-auth/", 404),
        (b"/./forward-auth", 404), (b"/x/../forward-auth", 404), (b"/forward-auth;x", 404), (b"/FORWARD-AUTH", 404),
        (b"/forward-auth?a=1", 200), (b"/forward-auth??", 200), (b"/forward-auth?/nginx", 200),
        (b"/%65nvoy/open/1", 401), (b"/envoy//open/1", 403), (b"/envoy/%2e%2e/open/1", 403),
        (b"/envoy/open%2f1", 403), (b"/envoy/open/1%0a", 403), (b"/envoy/open%0a/1", 404),
        (b"/envoy/open/1?a=1", 200), (b"/envoy", 404), (b"/envoy/", 401),
    ],
)  # fmt: skip
def test_an_unusual_spelling_of_a_door_is_answered_as_by_the_application(url: str, target: bytes, status: int) -> None:
    fast, careful = (spoken(url, forwarded(b"/open/1", CLOSE, *odd, path=target)) for odd in ((), ODD))
    assert statuses(fast) == [status]
    assert same(fast, careful)


@pytest.mark.parametrize(("host", "status"), [(b"localhost", 200), (b"127.0.0.1:80", 200), (b"evil.example", 403)])
def test_the_host_of_an_absolute_url_counts_at_each_door(url: str, host: bytes, status: int) -> None:
    for target in (b"/forward-auth", b"/envoy/open/1"):
        message = forwarded(b"/open/1", CLOSE, b"host: localhost", path=b"http://" + host + target)
        assert statuses(spoken(url, message)) == [status]


# ── Refused ───────────────────────────────────────────────────────────────────────────────────

BEGINNINGS = {
    "forward-auth": (b"GET", b"/forward-auth"), "nginx": (b"GET", b"/forward-auth/nginx"),
    "envoy": (b"POST", b"/envoy/x"), "evaluate": (b"POST", b"/evaluate"), "batch": (b"POST", b"/decide/batch"),
    "evaluation": (b"POST", b"/access/v1/evaluation"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "target"), BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize(
    "headers",
    [
        (b"content-length: 5", b"content-length: 6"), (b"content-length: +5",), (b"content-length : 5",),
        (b"content-length: 5", b"transfer-encoding: chunked"), (b"transfer-encoding: gzip, chunked",),
        (b"transfer-encoding: chunked", b"transfer-encoding: identity"), (b"transfer-encoding: xchunked",),
        (b"host: localhost", b"host: other"), (b"x-a: b\r\n c",), (b"x a: b",), (b": b",), (b"x-a: b\x00c",),
        (b"x-forwarded-uri: " + b"b" * 70_000,), (b"x-a: b",) * 9_000,
    ],
    ids=lambda headers: repr(headers[0])[:30],
)  # fmt: skip
def test_an_ambiguous_or_endless_request_is_400_at_each_door(
    url: str, method: bytes, target: bytes, headers: tuple[bytes, ...]
) -> None:
    message = request(method, target, *headers) + b"5\r\nabcde\r\n0\r\n\r\n"
    assert statuses(spoken(url, message)) == [400]


@pytest.mark.parametrize(
    "body", [b"5\r\nabcdefg\r\n0\r\n\r\n", b"x\r\n", b"0\r\nx\x00y: 1\r\n\r\n", b"5\nabcde\n0\n\n", b"f" * 18 + b"\r\n"]
)
def test_nothing_is_decided_for_a_request_whose_body_is_refused(url: str, body: bytes) -> None:
    name = f"refused-{body.hex()[:12]}"
    before = remaining(url, name)
    for message in (
        forwarded(b"/counted/" + name.encode(), b"transfer-encoding: chunked"),
        enveloped(b"GET", b"/counted/" + name.encode(), b"transfer-encoding: chunked"),
    ):
        assert statuses(spoken(url, message + body)) == [400]
    assert remaining(url, name) == before - 1


# ── Bodies, trailers, upgrades ────────────────────────────────────────────────────────────────

SMUGGLED = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n"
GATEWAYS = {
    "forward-auth": lambda *headers: forwarded(b"/open/1", *headers),
    "nginx": lambda *headers: forwarded(b"/open/1", *headers, path=b"/forward-auth/nginx"),
    "envoy": lambda *headers: enveloped(b"GET", b"/open/1", *headers),
}


@pytest.mark.parametrize("door", GATEWAYS)
@pytest.mark.parametrize("offer", [(), OFFER], ids=["plain", "upgrade"])
@pytest.mark.parametrize("cut", [False, True])
def test_the_body_of_a_gateway_request_is_not_the_next_request(
    url: str, door: str, offer: tuple[bytes, ...], cut: bool
) -> None:
    for head, body in (
        (GATEWAYS[door](b"content-length: %d" % len(SMUGGLED), *offer), SMUGGLED),
        (GATEWAYS[door](b"transfer-encoding: chunked", *offer), b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    ):
        pieces = (head, body[:10], body[10:] + NEXT) if cut else (head + body + NEXT,)
        answer = spoken(url, *pieces)
        assert statuses(answer) == [200, 200]
        assert b"revision" not in answer


@pytest.mark.parametrize(
    "send",
    [lambda *headers: forwarded(b"/mine", *headers), lambda *headers: enveloped(b"GET", b"/mine", *headers)],
    ids=["forward-auth", "envoy"],
)
def test_a_trailer_is_no_header_of_a_gateway(url: str, send: Callable[..., bytes]) -> None:
    stated = b"x-agent-id: reader\r\nx-agent-issuer: acme\r\n"
    assert statuses(spoken(url, send(*stated.splitlines(), CLOSE))) == [200]
    trailing = send(b"transfer-encoding: chunked", CLOSE) + b"0\r\n" + stated + b"\r\n"
    assert statuses(spoken(url, trailing)) == [401]


@pytest.mark.parametrize("door", each())
def test_an_expecting_client_is_answered_at_each_door(url: str, door: str) -> None:
    message = each(b"expect: 100-continue", CLOSE)[door]
    head, _, body = message.partition(b"\r\n\r\n")
    (expected,) = statuses(spoken(url, each(CLOSE)[door]))
    for pieces in ((message,), (head + b"\r\n\r\n", body) if body else (message,)):
        assert [status for status in statuses(spoken(url, *pieces)) if status != 100] == [expected]


# ── Pipelines ─────────────────────────────────────────────────────────────────────────────────


def test_a_mix_of_doors_and_slow_questions_is_answered_in_order(url: str) -> None:
    def labelled(number: int) -> bytes:
        label = b"x-request-id: %d" % number
        doors = [*each(label).values(), asked(b"/decide", SLOW, label), *each(label, *ODD).values()]
        return doors[number % len(doors)]

    many = 3 * len(each())
    answer = spoken(url, b"".join(map(labelled, range(many))) + NEXT)
    assert [int(one) for one in re.findall(rb"x-request-id: (\d+)", answer)] == list(range(many))


@pytest.mark.parametrize("how", [(CLOSE, b"1.1"), (b"x-a: b", b"1.0")], ids=["close", "HTTP/1.0"])
def test_nothing_is_decided_after_the_last_request_of_a_connection(url: str, how: tuple[bytes, bytes]) -> None:
    header, version = how
    name = b"/counted/last-" + version
    last = forwarded(name, header, version=version)
    before = remaining(url, name.rpartition(b"/")[2].decode())
    assert statuses(spoken(url, last + forwarded(name) * 5)) == [200]
    assert remaining(url, name.rpartition(b"/")[2].decode()) == before - 2


def test_a_client_that_does_not_read_its_answers_is_not_decided_for(url: str) -> None:
    """The server stops reading while answers wait, so that it keeps only a few of them."""
    name = "unread"
    before = remaining(url, name)
    one = forwarded(b"/counted/unread")
    message, most, sent, looks = one * 200, 100_000 * len(one), 0, 0

    def ask_often(connection: socket.socket) -> int:
        """Send until nothing more fits into the buffers in between, and return how much did."""
        more = 0
        with suppress(TimeoutError):
            while sent + more < most:
                more += connection.send(message[(sent + more) % len(message) :])
        return more

    with connected(url) as connection:
        connection.settimeout(0.2)
        while more := ask_often(connection):  # a server on a busy machine may only have been slow
            sent += more
            left = [remaining(url, name)]
            while len(left) == 1 or left[-2] - left[-1] > 1:  # until only these questions are decided
                left.append(remaining(url, name))
            looks += len(left)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert sent < most
    decided = before - left[-1] - looks
    assert 0 < decided < sent // len(one) // 2


MESSAGES = st.sampled_from([*each().values(), each(*ODD)["forward-auth"]])


@given(
    message=MESSAGES, at=st.integers(0, 250), cut=st.integers(0, 20),
    put=st.lists(PIECES | st.binary(max_size=3) | st.sampled_from(list(each().values())), max_size=3),
)  # fmt: skip
def test_arbitrary_bytes_at_each_door_cause_no_500_and_the_next_request_is_answered(
    url: str, message: bytes, at: int, cut: int, put: list[bytes]
) -> None:
    try:
        answer = raw(url, message[:at] + b"".join(put) + message[at + cut :])
    except OSError:  # the server closed while there was more to say
        answer = b""
    assert set(statuses(answer)) <= {100, 200, 400, 401, 403, 404, 405, 413, 415}
    assert statuses(spoken(url, NEXT)) == [200]


def test_a_body_of_many_small_chunks_is_read_in_linear_time(url: str) -> None:
    """Within one read, too, where the pieces are collected without an exchange."""
    body = json.dumps({**OPEN, "body": {"a": "x" * 30_000}}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    message = request(
        b"POST", b"/decide", b"content-type: application/json", b"transfer-encoding: chunked", b"connection: close"
    )
    assert statuses(spoken(url, message + chunks)) == [200]

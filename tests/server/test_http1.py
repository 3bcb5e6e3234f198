"""HTTP on the wire: what is no request is refused, nothing can be read in two ways, and answers differ in nothing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import OPEN
from tests.server.test_serving import raw, running

BODY = json.dumps(OPEN).encode()
SIZE = str(len(BODY)).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
VARYING = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}|date: [^\r]+")
NEXT = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as (url, _):
        yield url


def post(*headers: bytes, body: bytes = BODY, version: bytes = b"1.1", host: bytes = b"host: localhost") -> bytes:
    head = (b"POST /decide HTTP/" + version, host, b"content-type: application/json", *headers)
    return b"".join(line + b"\r\n" for line in head if line) + b"\r\n" + body


LENGTH = b"content-length: " + SIZE
CLOSE = b"connection: close"


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def spoken(url: str, *pieces: bytes) -> bytes:
    """What comes back until the server closes. Each piece is sent when the one before was read: the server, which does
    one thing after the other, has answered somebody else in between."""
    with connected(url) as connection:
        connection.sendall(pieces[0])
        for piece in pieces[1:]:
            httpx.get(f"{url}/healthz")
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


# ── Refused ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(post(LENGTH, b"content-length: 5"), id="two lengths"),
        pytest.param(post(b"content-length: +" + SIZE), id="a signed length"),
        pytest.param(post(b"content-length: 0x31"), id="a length in hexadecimal"),
        pytest.param(post(b"content-length: " + b"9" * 40), id="a length beyond 64 bits"),
        pytest.param(post(b"content-length : " + SIZE), id="a space after a name"),
        pytest.param(post(LENGTH, b"transfer-encoding: chunked", body=CHUNKED + b"\r\n"), id="a length and chunks"),
        pytest.param(post(b"transfer-encoding: gzip, chunked", body=CHUNKED + b"\r\n"), id="a coding before chunks"),
        pytest.param(post(b"transfer-encoding: xchunked", body=CHUNKED + b"\r\n"), id="an unknown coding"),
        pytest.param(post(b"transfer-encoding: chunked", b"transfer-encoding: identity"), id="two codings"),
        pytest.param(post(b"transfer-encoding: chunked", body=CHUNKED.replace(b"\r\n", b"\n")), id="bare LF in chunks"),
        pytest.param(post(b"transfer-encoding: chunked", body=b"f" * 18 + b"\r\n"), id="a chunk beyond 64 bits"),
        pytest.param(post(b"transfer-encoding: chunked", body=b"5\r\nabcdefg\r\n"), id="a chunk longer than it says"),
        pytest.param(post(LENGTH).replace(b"\r\n", b"\n"), id="bare LF"),
        pytest.param(post(LENGTH, b"x-a: b\r\n c"), id="a folded header"),
        pytest.param(post(LENGTH, b"x-a: b\x00c"), id="a NUL"),
        pytest.param(post(LENGTH, b"x a: b"), id="a space in a name"),
        pytest.param(post(LENGTH, b": b"), id="no name"),
        pytest.param(post(LENGTH, host=b""), id="no host"),
        pytest.param(post(LENGTH, b"host: y"), id="two hosts"),
        pytest.param(b"GET /healthz\r\n\r\n", id="HTTP/0.9"),
        pytest.param(post(LENGTH, version=b"3.0"), id="HTTP/3.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: " + b"b" * 65_600, id="an endless header"),
        pytest.param(b"GET /" + b"a" * 65_600, id="an endless path"),
        pytest.param(post(LENGTH, b"x-a: " + b"b" * 70_000), id="a whole head that is too large"),
        pytest.param(post(LENGTH, *[b"x-a: b"] * 9_000), id="a whole head of too many headers"),
        pytest.param(post(LENGTH, version=b"2.0"), id="HTTP/2.0 in a line of HTTP/1.1"),
        pytest.param(post(LENGTH, version=b"1.2"), id="HTTP/1.2"),
        pytest.param(
            post(b"transfer-encoding: chunked", version=b"1.0", body=CHUNKED + b"\r\n"), id="chunks in HTTP/1.0"
        ),
    ],
)
def test_an_ambiguous_or_endless_http_request_is_400(url: str, message: bytes) -> None:
    assert statuses(spoken(url, message)) == [400]


def test_an_endless_chunk_extension_is_400(url: str) -> None:
    extension = b"31;" + b"b" * 65_600
    assert statuses(spoken(url, post(b"transfer-encoding: chunked", body=b""), extension)) == [400]


@pytest.mark.parametrize("trailers", [b"x-a: b\r\n" * 8_200, b"x-a: " + b"b" * 65_600])
def test_endless_trailers_are_400(url: str, trailers: bytes) -> None:
    message = post(b"transfer-encoding: chunked", body=CHUNKED[:-2])
    assert statuses(spoken(url, message + trailers))[-1] == 400


def test_a_trailer_does_not_count_as_a_header(url: str) -> None:
    message = post(b"transfer-encoding: chunked", CLOSE, body=CHUNKED + b"content-type: application/json\r\n\r\n")
    message = message.replace(b"content-type: application/json\r\n", b"", 1)
    assert statuses(spoken(url, message)) == [415]


SMALL = (b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0", b"f", b";", b"host: localhost\r\n")
LARGE = (
    LENGTH,
    b"upgrade: h2c\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: upgrade\r\n",
    b"expect: 100-continue\r\n",
    post(LENGTH),
    NEXT,
)
PIECES = st.sampled_from([*SMALL, *LARGE])


@given(at=st.integers(0, 200), cut=st.integers(0, 20), put=st.lists(PIECES | st.binary(max_size=3), max_size=3))
def test_arbitrary_bytes_cause_no_500_and_the_next_request_is_answered(
    url: str, at: int, cut: int, put: list[bytes]
) -> None:
    message = post(LENGTH)
    try:
        answer = raw(url, message[:at] + b"".join(put) + message[at + cut :])
    except OSError:  # the server closed while there was more to say
        answer = b""
    assert set(statuses(answer)) <= {100, 200, 400, 403, 404, 405, 413, 415}
    assert statuses(spoken(url, NEXT)) == [200]


# ── Answered ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(post(LENGTH, CLOSE), id="plain"),
        pytest.param(post(LENGTH, version=b"1.0"), id="HTTP/1.0"),
        pytest.param(post(b"transfer-encoding: Chunked", CLOSE, body=CHUNKED + b"\r\n"), id="chunks"),
        pytest.param(post(LENGTH, CLOSE, b"expect: 100-continue"), id="expecting"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_an_ordinary_request_is_answered_however_it_arrives(url: str, message: bytes, cut: bool) -> None:
    pieces = [message[:30], message[30:-20], message[-20:]] if cut else [message]
    assert [status for status in statuses(spoken(url, *pieces)) if status != 100] == [200]


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    labels = [str(number).encode() for number in range(50)]
    careful = [b"accept: application/*"], [b"x-odd: 1"]
    message = b"".join(post(LENGTH, b"x-request-id: " + one, *careful[int(one) % 2]) for one in labels)
    answer = spoken(url, message + NEXT)
    assert re.findall(rb"x-request-id: (\d+)", answer) == labels
    assert statuses(answer) == [200] * 51


def test_fast_path_and_slow_path_answers_are_the_same_on_the_wire(url: str) -> None:
    hot = spoken(url, post(LENGTH, CLOSE))
    careful = spoken(url, post(LENGTH, CLOSE, b"accept: application/*"))
    assert VARYING.sub(b"?", hot) == VARYING.sub(b"?", careful)
    kept = raw(url, post(LENGTH))
    assert VARYING.sub(b"?", kept) == VARYING.sub(b"?", raw(url, post(LENGTH, b"accept: application/*")))


def test_a_question_longer_than_one_read_is_answered(url: str) -> None:
    body = json.dumps({**OPEN, "body": {"a": ["x" * 1_000] * 900}}).encode()
    assert statuses(spoken(url, post(b"content-length: %d" % len(body), CLOSE, body=body))) == [200]


# ── Offers of another protocol ────────────────────────────────────────────────────────────────

OFFER = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA")


def test_the_body_of_an_upgrade_request_is_not_read_as_the_next_request(url: str) -> None:
    """Some clients make one with every request; the body must not be taken for the next request."""
    smuggled = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answer = spoken(url, post(b"content-length: %d" % len(smuggled), *OFFER, body=smuggled) + NEXT)
    assert statuses(answer) == [400, 200]
    assert b"revision" not in answer


@pytest.mark.parametrize("cut", [False, True])
def test_a_question_with_an_upgrade_header_and_the_next_one_are_answered(url: str, cut: bool) -> None:
    question = post(LENGTH, *OFFER)
    pieces = [question[:200], question[200:], question + NEXT] if cut else [question + question + NEXT]
    answer = spoken(url, *pieces)
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b'"outcome":"allow"') == 2


def test_an_upgrade_request_after_an_unanswered_request_ends_the_connection(url: str) -> None:
    late = post(b"content-length: 0", b"accept: application/*", body=b"")
    answer = spoken(url, late + post(LENGTH, *OFFER))
    assert statuses(answer) == [400]
    assert b"connection: close" in answer

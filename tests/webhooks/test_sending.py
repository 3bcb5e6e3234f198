"""Messages are sent until they are accepted, signed and bounded in time, whatever the receiver does."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from policyengine.webhooks import verify_webhook
from policyengine.webhooks.sender import KEPT_SECONDS, MAX_PAUSE_SECONDS, MAX_RETRY_AFTER_SECONDS
from policyengine.webhooks.spool import SpoolMessage, WebhookSpool
from tests.audit.sinks.receivers import Receiver, http_receiver
from tests.webhooks.sending import NOW, SECRET, Sending, raw_receiver, secret_file, target

OTHER = "another secret of at least 24 bytes"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


def test_a_message_is_sent_once_if_it_is_accepted(receiver: Receiver) -> None:
    sending = Sending(target(receiver))
    sending.add()
    assert (sending.step(), sending.step()) == (0.0, 1.0)
    [request] = receiver.requests
    assert (request.path, request.body) == ("/hook", b'{"a":1}')
    assert request.headers["content-type"] == "application/json"
    assert (sending.counts, sending.waiting) == ((1, 0, 0), 0)


def test_a_message_is_signed_with_every_secret(receiver: Receiver, tmp_path: Path) -> None:
    files = (secret_file(tmp_path), secret_file(tmp_path, OTHER, "other"))
    sending = Sending(target(receiver, secret_files=files))
    sending.add()
    sending.step()
    [request] = receiver.requests
    for secret in (SECRET, OTHER):
        assert verify_webhook(request.body, request.headers, secret, now=NOW) == "msg_1"


def test_a_message_that_is_sent_again_has_the_same_id_and_the_present_time(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    receiver.statuses = [503, 500]
    sending = Sending(target(receiver, secret_files=(secret_file(tmp_path),)))
    sending.add()
    sending.step()
    assert sending.step(1.9) == 1.0
    sending.step(0.1)
    sending.step(4.0)
    [request] = receiver.requests
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["webhook-timestamp"] == str(int(NOW) + 6)
    assert verify_webhook(request.body, request.headers, SECRET, now=NOW + 6)
    assert (sending.counts, sending.waiting) == ((1, 2, 0), 0)
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_fails", "webhook_works"]


def test_pauses_grow_up_to_a_bound(receiver: Receiver) -> None:
    sending = Sending(target(receiver))
    sending.sender.breaker.threshold = 1_000
    receiver.statuses = [500] * 30
    sending.add()
    pauses = []
    for _ in range(12):
        sending.step()
        pauses.append(sending.spool.states()["finance"].due - sending.now)
        sending.now += pauses[-1]
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == MAX_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("header", "pause"), [("120", 120.0), ("999999", MAX_RETRY_AFTER_SECONDS), ("soon", 2.0), ("1", 2.0)]
)
def test_retry_after_is_honored_within_a_bound(receiver: Receiver, header: str, pause: float) -> None:
    receiver.statuses, receiver.headers = [429], {"Retry-After": header}
    sending = Sending(target(receiver))
    sending.add()
    sending.step()
    assert sending.spool.states()["finance"].due - NOW == pause


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_a_message_that_the_receiver_refuses_is_dropped(
    receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [status]
    sending = Sending(target(receiver))
    sending.add()
    sending.add("msg_2")
    sending.step()
    sending.step()
    assert (sending.counts, sending.waiting) == ((1, 1, 1), 0)
    [line] = caplog.records
    assert (getattr(line, "event", None), getattr(line, "webhook", None)) == ("webhook_dropped", "finance")


def test_a_message_is_given_up_after_a_day(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.statuses = [500] * 1_000
    sending = Sending(target(receiver))
    sending.add()
    for _ in range(200):
        sending.step(MAX_PAUSE_SECONDS)
    assert sending.now > NOW + KEPT_SECONDS
    assert (sending.waiting, sending.sender.dropped) == (0, 1)
    assert caplog.records[-1].getMessage().endswith("has dropped 1 message: the receiver answers 500")


def test_a_receiver_that_fails_gets_one_attempt_in_a_while_for_all_messages(receiver: Receiver) -> None:
    receiver.statuses = [500] * 100
    sending = Sending(target(receiver))
    for number in range(50):
        sending.add(f"msg_{number}")
    for _ in range(20):
        sending.step()
    assert sending.sender.failures == 3
    for _ in range(20):
        sending.step(1.5)  # 30 seconds
    assert sending.sender.failures == 4
    receiver.statuses.clear()
    sending.step(30)
    while sending.step(MAX_PAUSE_SECONDS) == 0.0:
        pass
    assert (sending.sender.sent, sending.waiting) == (50, 0)


def test_a_url_and_a_secret_are_read_again_for_each_message(receiver: Receiver, tmp_path: Path) -> None:
    url, secret = tmp_path / "url", secret_file(tmp_path)
    sending = Sending(target(None, url_file=url, secret_files=(secret,)))
    sending.add()
    sending.step()
    assert (sending.counts, sending.spool.states()["finance"].why) == (
        (0, 1, 0), f"`file:{url}` cannot be read: no such file or directory"
    )  # fmt: skip
    url.write_text(f"http://127.0.0.1:{receiver.port}/new\n")
    secret.write_text("another secret of at least 24 bytes")
    sending.step(60)
    [request] = receiver.requests
    assert request.path == "/new"
    assert verify_webhook(request.body, request.headers, "another secret of at least 24 bytes", now=sending.now)


def test_a_secret_that_is_missing_stops_the_message_and_is_not_shown(receiver: Receiver, tmp_path: Path) -> None:
    short = secret_file(tmp_path, "hunter2")
    sending = Sending(target(receiver, secret_files=(short,)))
    sending.add()
    sending.step()
    assert receiver.connections == 0
    assert "fewer than 24 bytes" in sending.spool.states()["finance"].why
    assert "hunter2" not in sending.spool.states()["finance"].why


# ── Receivers that misbehave ──────────────────────────────────────────────────────────────────


def failed_step(sending: Sending) -> str:
    """Send one message, which must fail within its time, and return why."""
    sending.add()
    began = monotonic()
    sending.step()
    assert monotonic() - began < 20
    assert sending.counts == (0, 1, 0)
    return sending.spool.states()["finance"].why


def test_a_receiver_that_never_answers_is_given_up() -> None:
    done = Event()
    with raw_receiver(lambda connection: done.wait(60) and None) as receiver:
        try:
            assert failed_step(Sending(target(receiver, timeout=0.2))) == "the server did not answer in time"
        finally:
            done.set()


def test_a_receiver_that_answers_one_byte_at_a_time_is_given_up() -> None:
    done = Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not done.wait(0.02):
            connection.sendall(b"x")

    with raw_receiver(trickle) as receiver:
        try:
            assert failed_step(Sending(target(receiver, timeout=0.3))) == "the server did not answer in time"
        finally:
            done.set()


def test_a_receiver_that_floods_is_cut_off() -> None:
    sent = []

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1_000):
            connection.sendall(b"x" * 65_536)
            sent.append(65_536)

    with raw_receiver(flood) as receiver:
        sending = Sending(target(receiver))
        sending.add()
        sending.step()
    assert sending.counts == (1, 0, 0)
    assert sum(sent) < 30_000_000  # less than the half of it, most of which the system has buffered


def test_a_receiver_that_sends_endless_headers_is_cut_off() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(10_000):
            connection.sendall(b"X: " + b"x" * 1_000 + b"\r\n")

    with raw_receiver(flood) as receiver:
        assert failed_step(Sending(target(receiver))) == "the answer is not valid HTTP, or ended too early"


def test_a_receiver_that_closes_and_one_that_speaks_no_http_fail() -> None:
    with raw_receiver(lambda connection: None) as receiver:
        assert failed_step(Sending(target(receiver)))
    with raw_receiver(lambda connection: connection.sendall(b"220 smtp.example ESMTP\r\n")) as receiver:
        assert failed_step(Sending(target(receiver))) == "the answer is not valid HTTP, or ended too early"


def test_a_defect_does_not_end_the_thread(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenSpool(WebhookSpool):
        def lease(self, webhook: str, seconds: float) -> SpoolMessage | None:
            raise KeyError("defect")

    assert Sending(target(receiver), BrokenSpool()).step() == 1.0
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_fails"]

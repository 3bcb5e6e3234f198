"""Syslog messages, as rsyslog and a strict parser of RFC 5424 read them."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from threading import Thread

import pytest

from policyengine.audit.sinks.sink_set import open_transport
from policyengine.audit.sinks.syslog import MAX_DATAGRAM_BYTES, timestamp
from policyengine.audit.sinks.targets import parse_sink
from policyengine.audit.sinks.transport import SinkError, SinkLine, Transport, read_sink_line
from tests.audit.sinks.lines import decision
from tests.audit.sinks.receivers import Rsyslog, certificate, rsyslog

# RFC 5424, section 6: the header and the structured data, and the message in any encoding.
MESSAGE = re.compile(
    rb"<(?P<pri>[0-9]{1,3})>1 (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z|-)"
    rb" (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<proc>[!-~]{1,128}) (?P<id>[!-~]{1,32})"
    rb' \[meta sequenceId="(?P<sequence>[1-9][0-9]{0,9})"\] (?P<message>.*)',
    re.DOTALL,
)
OPENED: list[Transport] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(url: str) -> Transport:
    OPENED.append(open_transport(parse_sink(url)))
    return OPENED[-1]


def lines(*raw: bytes) -> list[SinkLine]:
    return [line for each in raw if (line := read_sink_line(each.rstrip(b"\n"))) is not None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rsyslog]:
    with rsyslog(tmp_path_factory.mktemp("rsyslog")) as found:
        yield found


@pytest.fixture
def rsyslogd(server: Rsyslog) -> Rsyslog:
    (server.folder / "received").unlink(missing_ok=True)
    server.stop()
    server.start()
    return server


def urls(rsyslogd: Rsyslog) -> dict[str, str]:
    return {
        "tcp": f"syslog+tcp://127.0.0.1:{rsyslogd.tcp}",
        "udp": f"syslog+udp://127.0.0.1:{rsyslogd.udp}",
        "unix": f"syslog+unix://{rsyslogd.folder / 'socket'}",
    }


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix"])
def test_rsyslog_receives_the_record(rsyslogd, transport):
    sent = [decision(1, note="ünïcode"), decision(2)]
    opened(urls(rsyslogd)[transport]).send(lines(*sent))
    found = rsyslogd.wait(2)
    assert [json.loads(each["msg"]) for each in found] == [json.loads(line) for line in sent]
    first = found[0]
    assert (first["syslogfacility"], first["syslogseverity"], first["protocol-version"]) == ("13", "6", "1")
    assert (first["app-name"], first["msgid"]) == ("policyengine", "decision")
    assert [each["structured-data"] for each in found] == ['[meta sequenceId="1"]', '[meta sequenceId="2"]']
    if transport != "unix":  # rsyslog takes the time of its own receipt there
        assert first["timereported"] == "2027-01-15T08:00:00.000001Z"


def test_long_records_arrive_whole_over_tcp(rsyslogd):
    sent = decision(1, note="x" * 150_000)
    opened(urls(rsyslogd)["tcp"]).send(lines(sent))
    assert json.loads(rsyslogd.wait(1)[0]["msg"]) == json.loads(sent)


@pytest.mark.parametrize("transport", ["udp", "unix"])
def test_a_record_that_is_too_long_for_a_datagram_is_shortened(rsyslogd, transport):
    sent = decision(1, note="x" * 1_000_000)
    opened(urls(rsyslogd)[transport]).send(lines(sent, decision(2)))
    first, second = [json.loads(each["msg"]) for each in rsyslogd.wait(2)]
    assert first == {
        "shortened": len(sent) - 1, "time": "2027-01-15T08:00:00.000001Z", "kind": "decision", "id": "D1",
        "outcome": "allow", "revision": "sha256:1",
    }  # fmt: skip
    assert second == json.loads(decision(2))
    assert len(sent) > MAX_DATAGRAM_BYTES


def test_rsyslog_that_restarts_gets_what_is_sent_again(rsyslogd):
    sends = opened(urls(rsyslogd)["tcp"])
    sends.send(lines(decision(1)))
    rsyslogd.wait(1)
    rsyslogd.stop()
    with pytest.raises(
        SinkError, match=r"^the receiver (has closed the connection|cannot be reached: connection refused)$"
    ):
        sends.send(lines(decision(2)))
    with pytest.raises(SinkError, match=r"^the receiver cannot be reached: connection refused$"):
        sends.send(lines(decision(2)))
    rsyslogd.start()
    sends.send(lines(decision(2)))
    assert [json.loads(each["msg"])["decision"]["id"] for each in rsyslogd.wait(2)] == ["D1", "D2"]


@pytest.mark.parametrize(
    ("members", "severity"),
    [({"outcome": "allow"}, 6), ({"outcome": "confirm"}, 5), ({"outcome": "deny"}, 4),
     ({"outcome": "deny", "gate": "failure"}, 3)],
)  # fmt: skip
def test_the_severity_follows_the_outcome(members, severity):
    received = send_over_udp(lines(decision(1, decision={"id": "D1", **members})), "#facility=local3")
    assert int(received["pri"]) == 19 * 8 + severity


@pytest.mark.parametrize(
    "raw",
    [
        b'{"v":2,"time":"2027-01-15T08:00:00.000000Z","system":{"event":"started"}}',
        b'{"v":1,"time":"yesterday","ended":{"what":"task"}}',
        b'{"v":2,"time":"2027-01-15T08:00:00Z","outcome":{"decision":"D1","status":503}}',
    ],
)
def test_every_kind_of_record_is_a_valid_message(raw):
    assert send_over_udp(lines(raw))["message"] == raw


def send_over_udp(records: list[SinkLine], options: str = "") -> dict[str, bytes]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        opened(f"syslog+udp://127.0.0.1:{receiver.getsockname()[1]}{options}").send(records)
        found = MESSAGE.fullmatch(receiver.recv(100_000))
        assert found is not None
        return found.groupdict()


def read_frames(connection: socket.socket, got: list[bytes]) -> None:
    """Read messages with octet counting, strictly, until the sender closes the connection."""
    with connection, connection.makefile("rb") as stream:
        while count := stream.read(1):
            while (digit := stream.read(1)) != b" ":
                count += digit
            assert re.fullmatch(rb"[1-9][0-9]*", count)
            got.append(stream.read(int(count)))


@pytest.mark.parametrize("time", ["2027-01-15 08:00:00Z", "2027-01-15\n08:00:00Z", "2027-W03-5", "20270115T080000Z"])
def test_a_time_of_another_form_does_not_become_a_header(time):
    line = read_sink_line(json.dumps({"v": 2, "time": time, "system": {"event": "started"}}).encode())
    assert line is not None
    assert timestamp(line) == "-"


def test_tls_uses_octet_counting_and_verifies_the_certificate(tmp_path):
    path, context = certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"syslog+tls://127.0.0.1:{listener.getsockname()[1]}"
        got: list[bytes] = []

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                try:
                    read_frames(context.wrap_socket(connection, server_side=True), got)
                except (ssl.SSLError, ConnectionError):
                    connection.close()

        thread = Thread(target=serve)
        thread.start()
        with pytest.raises(SinkError, match=r"^the receiver cannot be reached: certificate verify failed"):
            opened(url).send(lines(decision(1)))
        sends = opened(f"{url}#ca={path}")
        sends.send(lines(decision(1), decision(2)))
        sends.send(lines(decision(3)))
        sends.close()
        thread.join()
    found = [MESSAGE.fullmatch(message) for message in got]
    assert [each and json.loads(each["message"])["decision"]["id"] for each in found] == ["D1", "D2", "D3"]


def test_a_batch_that_the_receiver_has_not_taken_is_not_sent():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sends = opened(f"syslog+tcp://127.0.0.1:{listener.getsockname()[1]}#timeout=0.3")
        with pytest.raises(SinkError, match=r"^the receiver does not accept the records in time$"):
            sends.send(lines(*[decision(number, note="x" * 10_000) for number in range(500)]))


def test_a_stream_socket_gets_octet_counting(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        got: list[bytes] = []
        thread = Thread(target=lambda: read_frames(listener.accept()[0], got))
        thread.start()
        sends = opened(f"syslog+unix://{path}")
        sends.send(lines(decision(1), decision(2)))
        sends.close()
        thread.join()
    assert len(got) == 2


def test_a_missing_socket_is_a_failure(tmp_path):
    with pytest.raises(SinkError, match=r"^the receiver cannot be reached: no such file or directory$"):
        opened(f"syslog+unix://{tmp_path / 'socket'}").send(lines(decision(1)))


def test_an_unknown_host_is_a_failure():
    with pytest.raises(SinkError, match=r"^the receiver cannot be reached: its host name is not known$"):
        opened("syslog+tcp://receiver.invalid").send(lines(decision(1)))

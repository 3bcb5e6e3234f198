"""Sends records as syslog messages (RFC 5424): over UDP (RFC 5426), over TCP and TLS with octet counting (RFC 6587, RFC
5425), or to a Unix socket.

Syslog has no acknowledgements. Over TCP, a batch counts as sent once the receiver's operating system has acknowledged
all of its bytes.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, sleep
from urllib.parse import urlsplit

import msgspec

from policyengine.audit.sinks.targets import SYSLOG_PORTS, SinkTarget
from policyengine.audit.sinks.transport import SinkError, SinkLine
from policyengine.http.fetch import create_tls_context

SEVERITIES = {"info": 6, "notice": 5, "warning": 4, "error": 3}
APP_NAME = "policyengine"
NIL = "-"
MAX_DATAGRAM_BYTES = 65_507  # over UDP
MAX_SEQUENCE = 2_147_483_647
POLL_SECONDS = 0.005  # between two checks of what the receiver has acknowledged
SIOCOUTQ = 0x5411  # Linux: bytes that the other side has not acknowledged
SHORT_MEMBERS = ("id", "outcome", "gate", "rule", "agent", "user", "revision", "event")
SHORT_TEXT = 256  # maximum characters of each member of a shortened record


class SyslogTransport:
    """Sends to one receiver. `clock` is monotonic seconds."""

    def __init__(self, target: SinkTarget, clock: Callable[[], float] = monotonic) -> None:
        """Load the certificates. Raises CertificatesError."""
        parts = urlsplit(target.url)
        self._scheme, self._path = parts.scheme, parts.path
        self._host, self._port = parts.hostname or "", parts.port or SYSLOG_PORTS.get(parts.scheme, 0)
        self._timeout, self._facility, self._clock = target.timeout, target.facility, clock
        self._context = create_tls_context(target.ca) if parts.scheme == "tls" else None
        self._socket: socket.socket | None = None
        self._stream = False
        self._sequence = 0
        self._name, self._process = header_text(socket.gethostname(), 255), str(os.getpid())

    def send(self, lines: Sequence[SinkLine]) -> int:
        """Send each line as a message. Raises SinkError."""
        try:
            connection = self._connection()
            if self._stream:
                self._send_stream(connection, lines)
            else:
                for line in lines:
                    self._send_datagram(connection, line)
        except (OSError, ssl.SSLError) as error:
            self.close()
            raise SinkError(describe_failure(error)) from None
        return 0

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    # ── Connections ───────────────────────────────────────────────────────────────────────────

    def _connection(self) -> socket.socket:
        """Return the open connection, or open one. Raises OSError."""
        if self._socket is None:
            self._socket = self._connect()
            self._socket.settimeout(self._timeout)
            self._stream = self._socket.type == socket.SOCK_STREAM
        return self._socket

    def _connect(self) -> socket.socket:
        if self._scheme == "unix":
            return connect_unix(self._path, self._timeout)
        if self._scheme == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            datagrams = socket.socket(family, kind, protocol)
            datagrams.connect(address)
            return datagrams
        plain = socket.create_connection((self._host, self._port), self._timeout)
        if self._context is None:
            return plain
        try:
            return self._context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    def _send_stream(self, connection: socket.socket, lines: Sequence[SinkLine]) -> None:
        """Send with octet counting, and wait until the receiver has acknowledged all bytes. Raises OSError."""
        check_open(connection)
        messages = [self._message(line, line.raw) for line in lines]
        connection.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))
        until = self._clock() + self._timeout
        while unacknowledged(connection) > 0:
            if self._clock() >= until:
                raise TimeoutError
            sleep(POLL_SECONDS)
        check_open(connection)

    def _send_datagram(self, connection: socket.socket, line: SinkLine) -> None:
        """Send one message, shortened if it is too long for a datagram. Raises OSError."""
        message = self._message(line, line.raw)
        if len(message) <= MAX_DATAGRAM_BYTES:
            try:
                connection.send(message)
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
        connection.send(self._message(line, shorten(line)))

    # ── Messages ──────────────────────────────────────────────────────────────────────────────

    def _message(self, line: SinkLine, content: bytes) -> bytes:
        self._sequence = self._sequence % MAX_SEQUENCE + 1
        priority = self._facility * 8 + SEVERITIES[line.severity]
        header = f"<{priority}>1 {timestamp(line)} {self._name} {APP_NAME} {self._process} {line.summary.kind}"
        return f'{header} [meta sequenceId="{self._sequence}"] '.encode() + content


def timestamp(line: SinkLine) -> str:
    """Return the time of the record with at most six fractional digits, as RFC 5424 requires."""
    return line.summary.time if line.summary.nanoseconds else NIL


def header_text(text: str, most: int) -> str:
    """Return a header field: printable ASCII without spaces."""
    return "".join(each for each in text if "!" <= each <= "~")[:most] or NIL


def shorten(line: SinkLine) -> bytes:
    """Return a record that fits in a datagram: long members are cut or left out, and `shortened` is the length of the
    whole line in bytes."""
    row = line.summary
    members = {name: value[:SHORT_TEXT] for name in SHORT_MEMBERS if (value := getattr(row, name)) is not None}
    return msgspec.json.encode({"shortened": len(line.raw), "time": row.time, "kind": row.kind, **members})


def connect_unix(path: str, timeout: float) -> socket.socket:
    """Connect to a Unix socket, for datagrams or, if it accepts none, for a stream. Raises OSError."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        opened = socket.socket(socket.AF_UNIX, kind)
        try:
            opened.settimeout(timeout)
            opened.connect(path)
            return opened
        except OSError as error:
            opened.close()
            if kind is socket.SOCK_STREAM or error.errno != errno.EPROTOTYPE:  # the socket is of the other kind
                raise
    raise AssertionError


def unacknowledged(connection: socket.socket) -> int:
    """Return how many sent bytes the receiver has not acknowledged; 0 if the system does not report it."""
    import fcntl

    with suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), SIOCOUTQ, b"\0\0\0\0"))[0])
    return 0


def check_open(connection: socket.socket) -> None:
    """Check that the receiver has not closed the connection. Raises ConnectionResetError."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(0):
        return
    timeout = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        closed = not connection.recv(4096)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        closed = False
    finally:
        connection.settimeout(timeout)
    if closed:
        raise ConnectionResetError


def describe_failure(error: OSError) -> str:
    """Return why a receiver cannot be reached."""
    match error:
        case TimeoutError():
            return "the receiver does not accept the records in time"
        case ConnectionResetError() | BrokenPipeError():
            return "the receiver has closed the connection"
        case ssl.SSLError():
            return f"the receiver cannot be reached: {str(error).partition('] ')[2].partition(' (_ssl')[0].lower()}"
        case socket.gaierror():
            return "the receiver cannot be reached: its host name is not known"
        case _:
            return f"the receiver cannot be reached: {(error.strerror or str(error)).lower()}"

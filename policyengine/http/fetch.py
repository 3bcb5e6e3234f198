"""Requests over HTTP with limits on size, time, redirects and addresses.

A redirect is followed only on the same server, and only if the caller allows redirects. Only the configured proxy is
used, nothing is decompressed, and no connection is kept open. One deadline covers everything, including headers and
redirects, so that a server that sends slowly is cut off; only the system's name resolution has timeouts of its own.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import httpcore

from policyengine.http.address_guard import AddressGuard

MAX_RESPONSE_BYTES = 262_144
MAX_URL_LENGTH = 2_048
USER_AGENT = "policyengine"
NO_TLS = "it does not answer with TLS: is it a server for `http://`?"


class CertificatesError(Exception):
    """The error for a file of certificates that cannot be used; the message says why."""


class FetchError(Exception):
    """The error for a failed request; `why` is safe to log, because it contains no content that was sent or received.
    `status` is the HTTP status, if there was one.
    """

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.why, self.status = why, status


class UnreachableError(FetchError):
    """The error for a server that did not answer before the deadline, or cannot be reached: the next request is likely
    to fail, too.
    """


class RedirectError(FetchError):
    """The error for a redirect to another server; `target` is the new URL."""

    def __init__(self, target: str, status: int) -> None:
        super().__init__("the server redirects to another server", status)
        self.target = target


@dataclass(frozen=True, slots=True)
class FetchResponse:
    body: bytes
    fresh: int | None = None  # seconds, from `Cache-Control`; 0 for `no-store` and `no-cache`
    kind: str = ""  # `Content-Type` in lower case, without parameters
    status: int = 200


@dataclass(frozen=True)
class Fetcher:
    """An HTTP client; thread-safe. `ca` is a PEM file of certificates to trust instead of the system's. `plain_http`
    allows `http://` to other machines. `proxy` is the URL of a proxy for servers on other machines. `largest` is the
    maximum size of an answer in bytes, `redirects` the maximum number of redirects on the same server. `clock` returns
    monotonic seconds. An answer whose status is not one of `statuses` raises FetchError.
    """

    ca: Path | None = None
    plain_http: bool = False
    proxy: str | None = None
    largest: int = MAX_RESPONSE_BYTES
    redirects: int = 0
    statuses: frozenset[int] = frozenset({200})
    clock: Callable[[], float] = monotonic

    def get(
        self,
        url: str,
        until: float,
        accept: str = "application/json, */*;q=0.1",
        headers: Mapping[str, str] | None = None,
    ) -> FetchResponse:
        """Return the answer. `until` is the deadline by the clock. Raises FetchError, and CertificatesError if `ca`
        cannot be used.
        """
        for _ in range(self.redirects + 1):
            answer = self._ask("GET", url, {"Accept": accept, **(headers or {})}, b"", until)
            if isinstance(answer, FetchResponse):
                return answer
            url = answer
        raise FetchError(f"the server redirects more than {self.redirects} times")

    def post(self, url: str, form: bytes, headers: Mapping[str, str], until: float) -> FetchResponse:
        """Post a form, or another body whose type is in `headers`. Raises FetchError, and CertificatesError if `ca`
        cannot be used.
        """
        kind = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        answer = self._ask("POST", url, {**kind, **headers}, form, until)
        if isinstance(answer, FetchResponse):
            return answer
        raise FetchError("the server redirects a POST request")

    @cached_property
    def trusted(self) -> ssl.SSLContext:
        """The TLS context with the trusted certificates. Raises CertificatesError."""
        return create_tls_context(self.ca)

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, until: float
    ) -> FetchResponse | str:
        """Return the answer, or the URL on the same server to which it redirects. Raises FetchError."""
        parts = parse_fetch_url(url, self.plain_http)
        given = {"Host": parts.netloc, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Connection": "close"}
        sent = {**given, **headers, **({"Content-Length": str(len(content))} if method == "POST" else {})}
        left = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), max(0.001, until - self.clock()))}
        try:
            with (
                self._connections(parts, DeadlineBackend(until, self.clock)) as pool,
                pool.stream(method, url, headers=list(sent.items()), content=content, extensions=left) as response,
            ):
                return self._redirect(url, response) or self._read(response)
        except httpcore.TimeoutException:
            raise UnreachableError("the server did not answer in time") from None
        except httpcore.ProxyError:
            raise UnreachableError("the proxy refuses the connection") from None
        except httpcore.ProtocolError:
            raise FetchError("the answer is not valid HTTP, or ended too early") from None
        except httpcore.NetworkError as error:
            raise UnreachableError(f"the server cannot be reached: {describe_network_error(error)}") from None
        except (OSError, ValueError):  # the resolver rejects the host name
            raise UnreachableError("the server cannot be reached: its host name is not valid") from None

    def _connections(self, parts: SplitResult, network: DeadlineBackend) -> httpcore.ConnectionPool:
        context = self.trusted if parts.scheme == "https" else None
        if self.proxy is None or is_loopback(str(parts.hostname)):
            return httpcore.ConnectionPool(ssl_context=context, network_backend=network, max_connections=1)
        proxy, auth = split_proxy(self.proxy)
        return httpcore.HTTPProxy(
            proxy, proxy_auth=auth, ssl_context=context, network_backend=network, max_connections=1
        )

    def _redirect(self, url: str, response: httpcore.Response) -> str | None:
        location = next((value for name, value in response.headers if name.lower() == b"location"), None)
        if not self.redirects or location is None or not 300 <= response.status < 400:
            return None
        try:
            target = urljoin(url, location.decode("ascii"))
            same = url_origin(urlsplit(target)) == url_origin(urlsplit(url))
        except ValueError:
            raise FetchError("the server redirects to an invalid URL", response.status) from None
        if not same:
            raise RedirectError(target, response.status)
        return target

    def _read(self, response: httpcore.Response) -> FetchResponse:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status not in self.statuses:
            leads = ", and redirects are not followed" if 300 <= response.status < 400 else ""
            raise FetchError(f"the server answers {response.status}{leads}", response.status)
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            raise FetchError("the answer is compressed, although the request does not allow it")
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.largest:
                raise FetchError(f"the answer is longer than {self.largest:,} bytes")
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        return FetchResponse(bytes(body), cache_lifetime(headers.get(b"cache-control", "")), kind, response.status)


def create_tls_context(ca: Path | None) -> ssl.SSLContext:
    """Create the TLS context. Raises CertificatesError."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        why = "the file has no PEM certificate" if isinstance(error, ssl.SSLError) else (error.strerror or "").lower()
        raise CertificatesError(f"the certificates of `{ca}` cannot be used: {why}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def split_proxy(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return the URL of a proxy without its user and password, and the user and password."""
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return f"{parts.scheme}://{host}", (unquote(user), unquote(password)) if credentials else None


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────


def parse_fetch_url(url: str, plain_http: bool = False) -> SplitResult:
    """Parse a URL. Raises FetchError unless it is `https://`, or `http://` to this machine (with `plain_http`, to any
    machine), without user, fragment or invalid characters.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchError("the URL is not valid") from None
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(one <= " " or one in '\\"<>^`{|}\x7f' for one in url):
        raise FetchError("the URL is not valid")
    if "://" not in url:
        raise FetchError("the URL must begin with `https://`")
    if not parts.hostname or port == 0 or "@" in parts.netloc or "#" in url:
        raise FetchError("the URL must have a host, and neither a user nor a fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and (plain_http or is_loopback(parts.hostname))):
        return parts
    raise FetchError("the URL must begin with `https://`")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def url_origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def cache_lifetime(cache_control: str) -> int | None:
    """Return the lifetime in seconds that a `Cache-Control` value specifies (RFC 9111), or None if it specifies
    none."""
    found: int | None = None
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        value = value.strip('" ')
        if name in ("no-store", "no-cache"):
            return 0
        if name == "max-age" and value.isascii() and value.isdecimal():
            found = int(value[:10])
    return found


def describe_network_error(error: Exception) -> str:
    """Return a short description that contains nothing the server sent."""
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
        return NO_TLS
    text = str(error).partition("] ")[2] or str(error) or type(error).__name__
    return text.partition(" (_ssl")[0].lower()[:120]


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────


class DeadlineBackend(httpcore.NetworkBackend):
    """Connections that limit every step to the time left until the deadline, `until` by the clock. The owner of a
    connection that stays open moves the deadline. With a `guard`, only addresses that it admits are connected to."""

    def __init__(self, until: float, clock: Callable[[], float], guard: AddressGuard | None = None) -> None:
        self.until, self._clock, self._guard = until, clock, guard
        self._network = httpcore.SyncBackend()

    def left(self, error: type[Exception]) -> float:
        left = self.until - self._clock()
        if left <= 0:
            raise error
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if self._guard is None:
            return self._connect(host, port, local_address, socket_options)
        problem: Exception = httpcore.ConnectError("the host name has no address")
        try:
            addresses = self._guard.resolve(host, port)
        except socket.gaierror as error:
            raise httpcore.ConnectError(str(error)) from None
        for address in addresses:
            try:
                return self._connect(address, port, local_address, socket_options)
            except httpcore.NetworkError as error:
                problem = error
        raise problem

    def _connect(
        self, host: str, port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        left = self.left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._network.connect_tcp(host, port, left, local_address, socket_options), self)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: DeadlineBackend) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

"""Posts to one URL over a connection that stays open, with limits on size and time.

Neither a redirect nor a proxy from the environment is used. One deadline covers each request and its response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic

import httpcore

from policyengine.http.address_guard import AddressGuard, AddressRefusedError
from policyengine.http.fetch import (
    USER_AGENT,
    DeadlineBackend,
    FetchError,
    UnreachableError,
    create_tls_context,
    describe_network_error,
    parse_fetch_url,
)

MAX_BODY_BYTES = 65_536
KEEP_ALIVE_SECONDS = 30.0  # seconds that an unused connection stays open


@dataclass(frozen=True, slots=True)
class PostResponse:
    """The answer to a post: its status, the beginning of its body, and the seconds of `Retry-After`."""

    status: int
    body: bytes
    retry_after: float | None = None


class HttpPoster:
    """A client for one URL; not thread-safe. `ca`, `plain_http` and `clock` are as in `Fetcher`; `timeout` is the
    maximum number of seconds of a request. With a `guard`, only addresses that it admits are connected to."""

    def __init__(
        self,
        url: str,
        *,
        ca: Path | None = None,
        plain_http: bool = False,
        timeout: float = 10.0,
        clock: Callable[[], float] = monotonic,
        guard: AddressGuard | None = None,
    ) -> None:
        """Prepare the client, without connecting. Raises FetchError if the URL cannot be used, and CertificatesError if
        the certificates cannot be used."""
        parts = parse_fetch_url(url, plain_http)
        self._url, self._host, self._timeout, self._clock = url, parts.netloc, timeout, clock
        self._context = create_tls_context(ca) if parts.scheme == "https" else None
        self._network = DeadlineBackend(0.0, clock, guard)
        self._pool: httpcore.ConnectionPool | None = None

    def post(self, content: bytes, headers: Mapping[str, str]) -> PostResponse:
        """Post the content. A connection that the server closed in the meantime is opened again. Raises FetchError and
        UnreachableError."""
        self._network.until = self._clock() + self._timeout
        given = {"Host": self._host, "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        sent = {**given, **headers, "Content-Length": str(len(content))}
        limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)}
        try:
            with self._connections().stream(
                "POST", self._url, headers=list(sent.items()), content=content, extensions=limits
            ) as response:
                return self._read(response)
        except httpcore.TimeoutException:
            self.close()
            raise UnreachableError("the server did not answer in time") from None
        except httpcore.ProtocolError:
            self.close()
            raise FetchError("the answer is not valid HTTP, or ended too early") from None
        except httpcore.NetworkError as error:
            self.close()
            raise UnreachableError(f"the server cannot be reached: {describe_network_error(error)}") from None
        except AddressRefusedError as error:
            self.close()
            raise FetchError(str(error)) from None
        except (OSError, ValueError):  # the resolver rejects the host name
            self.close()
            raise UnreachableError("the server cannot be reached: its host name is not valid") from None

    def close(self) -> None:
        """Close the connection; the next post opens a new connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _connections(self) -> httpcore.ConnectionPool:
        if self._pool is None:
            self._pool = httpcore.ConnectionPool(
                ssl_context=self._context, network_backend=self._network, max_connections=1,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            )  # fmt: skip
        return self._pool

    def _read(self, response: httpcore.Response) -> PostResponse:
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk[: MAX_BODY_BYTES - len(body)]
            if len(body) == MAX_BODY_BYTES:
                break  # leaving the block closes the connection
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        return PostResponse(response.status, bytes(body), retry_seconds(headers.get(b"retry-after", "")))


def retry_seconds(written: str) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, or None if it is absent or malformed."""
    text = written.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    with suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None

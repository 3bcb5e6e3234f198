"""The decision API on a port: nothing but this machine may ask without a token, and it stops when it is told to."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp

from policyengine.engine import Engine
from policyengine.server.app import create_app

HTTP: str | type[asyncio.Protocol]
try:
    from policyengine.server.http1 import Http1Protocol as HTTP
except ImportError:  # where httptools is not to be had
    HTTP = "h11"

LONGEST_QUEUE = 2048
LAST_ANSWERS = 5  # seconds


class ServeError(Exception):
    """Why the server does not start: one line, with a hint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | Collection[str] | None = None,
    *,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer on `host` and `port` (0: a free one) until SIGINT or SIGTERM, then finish what was begun.

    `listening` is called with the URL as soon as connections are accepted. Raises ServeError before that, TokenError
    for a token that is too short, and KeyboardInterrupt after an orderly stop by SIGINT.
    """
    app = create_app(engine, token=token)
    address = resolved(host, port)
    if token is None and not ip_address(address[0]).is_loopback:
        raise ServeError(
            f"`{host}` can be reached from other machines and no token is set: whoever can ask states the facts, "
            "so only a trusted gateway may",
            "give the gateway a token with `--token-file FILE`, or listen on 127.0.0.1",
        )
    with bound(address, host) as listener:
        listening(url_of(listener))
        uvicorn_for(app).run(sockets=[listener])


def uvicorn_for(app: ASGIApp) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=HTTP,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=LONGEST_QUEUE,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
    )


# ── Where ─────────────────────────────────────────────────────────────────────────────────────


def resolved(host: str, port: int) -> tuple[str, int]:
    """The one address that is listened on: what is checked is what is bound."""
    if not 0 <= port <= 65535:
        raise ServeError(f"`{port}` is no port", "a port is a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise ServeError(f"`{host}` is no host that is known here", "give an address, like 127.0.0.1")
    # Names like `localhost` have several addresses: everybody tries IPv4.
    first = min(found, key=lambda one: one[0] != socket.AF_INET)
    return str(first[4][0]), port


def bound(address: tuple[str, int], host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # Said to be TCP, as asyncio sends small answers without delay only where it knows that.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(LONGEST_QUEUE)
    except OSError as error:
        listener.close()
        raise not_bound(error, host, address[1]) from None
    return listener


def not_bound(error: OSError, host: str, port: int) -> ServeError:
    match error.errno:
        case errno.EADDRINUSE:
            return ServeError(f"port {port} on `{host}` is in use", "take another with `--port`; 0 takes a free one")
        case errno.EACCES | errno.EPERM:
            return ServeError(f"port {port} on `{host}` is not permitted", "take one above 1023 with `--port`")
        case errno.EADDRNOTAVAIL:
            return ServeError(f"`{host}` is no address of this machine", "127.0.0.1 is only this machine, 0.0.0.0 all")
        case _:
            return ServeError(f"cannot listen on port {port} of `{host}`: {(error.strerror or str(error)).lower()}")


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

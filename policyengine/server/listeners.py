"""Where the decision API is reached: a port, bound to the one address that was checked, or a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

MAX_LISTEN_QUEUE = 2048
MAX_SOCKET_PATH_BYTES = 107  # bytes: what the address of a Unix socket has room for


class ServeError(Exception):
    """Why the server does not start: one line, with a hint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


# ── A port ────────────────────────────────────────────────────────────────────────────────────


def port_listener(host: str, port: int, has_token: bool) -> socket.socket:
    """Raises ServeError, also where others than this machine could ask and no token is needed."""
    address = resolve_address(host, port)
    if not has_token and is_reachable_remotely(address):
        raise ServeError(
            f"`{host}` can be reached from other machines and no token is set: whoever can ask states the facts, "
            "so only a trusted gateway may",
            "give the gateway a token with `--token-file FILE`, or listen on 127.0.0.1",
        )
    return bind_listener(address, host)


def is_reachable_remotely(address: tuple[str, int]) -> bool:
    """Whether other machines reach what listens there."""
    return not ip_address(address[0]).is_loopback


def resolve_address(host: str, port: int) -> tuple[str, int]:
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


def bind_listener(address: tuple[str, int], host: str, option: str = "--port") -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # Said to be TCP, as asyncio sends small answers without delay only where it knows that.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_LISTEN_QUEUE)
    except OSError as error:
        listener.close()
        raise bind_error(error, host, address[1], option) from None
    return listener


def bind_error(error: OSError, host: str, port: int, option: str) -> ServeError:
    match error.errno:
        case errno.EADDRINUSE:
            return ServeError(f"port {port} on `{host}` is in use", f"take another with `{option}`; 0 takes a free one")
        case errno.EACCES | errno.EPERM:
            return ServeError(f"port {port} on `{host}` is not permitted", f"take one above 1023 with `{option}`")
        case errno.EADDRNOTAVAIL:
            return ServeError(f"`{host}` is no address of this machine", "127.0.0.1 is only this machine, 0.0.0.0 all")
        case _:
            return ServeError(f"cannot listen on port {port} of `{host}`: {(error.strerror or str(error)).lower()}")


def listener_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# ── A Unix socket ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def unix_listener(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listens at `path`, which is there from the first moment with `mode` and is gone afterwards. Raises ServeError."""
    if not hasattr(socket, "AF_UNIX"):
        raise ServeError("there are no Unix sockets on this system", "listen on a port")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ServeError(
            f"`{path}` is longer than {MAX_SOCKET_PATH_BYTES} bytes, too long for a socket", "take a shorter path"
        )
    remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # The mode is there before anybody can connect: `listen` comes last.
        try:
            listener.bind(os.fspath(path))
            os.chmod(path, mode)
            listener.listen(MAX_LISTEN_QUEUE)
        except OSError as error:
            raise socket_error(error, path) from None
        made = os.lstat(path)
        try:
            yield listener
        finally:
            remove_socket(path, made)


def remove_stale_socket(path: Path) -> None:
    """Removes a socket that nobody listens at any more, and nothing else. Raises ServeError."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise socket_error(error, path) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ServeError(f"`{path}` is there and is no socket", "take another path, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            remove_socket(path, found)
            return
        except OSError as error:
            raise socket_error(error, path) from None
    raise ServeError(f"somebody listens at `{path}` already", "take another path, or stop the other server")


def remove_socket(path: Path, made: os.stat_result) -> None:
    """Unless it is another by now."""
    try:
        if os.path.samestat(os.lstat(path), made):
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise socket_error(error, path) from None


def socket_error(error: OSError, path: Path) -> ServeError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return ServeError(f"there is no directory `{path.parent}` for the socket", "make it, or take another path")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ServeError(f"a socket at `{path}` is not permitted", "take a directory that you may write to")
        case errno.EADDRINUSE:
            return ServeError(f"somebody listens at `{path}` already", "take another path, or stop the other server")
        case _:
            return ServeError(f"cannot listen at `{path}`: {(error.strerror or str(error)).lower()}")

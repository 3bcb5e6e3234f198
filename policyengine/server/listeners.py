"""The listeners of the decision API: a port, bound to exactly the address that was checked, or a Unix socket."""

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
MAX_SOCKET_PATH_BYTES = 107  # maximum bytes in the address of a Unix socket


class ServeError(Exception):
    """The error for a server that does not start: the reason in one line, with a hint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


# ── Ports ─────────────────────────────────────────────────────────────────────────────────────


def port_listener(host: str, port: int, has_token: bool) -> socket.socket:
    """Listen on a port. Raises ServeError, also for a port that other machines could reach while no token
    is required.
    """
    address = resolve_address(host, port)
    if not has_token and is_reachable_remotely(address):
        raise ServeError(
            f"`{host}` can be reached from other machines and no token is set: clients state the facts, "
            "so only a trusted gateway may connect",
            "give the gateway a token with `--token-file FILE`, or listen on 127.0.0.1",
        )
    return bind_listener(address, host)


def is_reachable_remotely(address: tuple[str, int]) -> bool:
    """Return whether other machines can reach this address."""
    return not ip_address(address[0]).is_loopback


def resolve_address(host: str, port: int) -> tuple[str, int]:
    """Resolve the host to the one address to listen on, so that the server binds exactly the address that was checked.
    Raises ServeError.
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"`{port}` is not a port", "a port must be a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise ServeError(f"`{host}` is not a known host", "use an address, such as 127.0.0.1")
    # Prefer IPv4: names such as `localhost` have several addresses, and every client tries IPv4.
    first = min(found, key=lambda one: one[0] != socket.AF_INET)
    return str(first[4][0]), port


def bind_listener(address: tuple[str, int], host: str, option: str = "--port") -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # IPPROTO_TCP is explicit, because asyncio sets TCP_NODELAY only if it knows the protocol.
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
            free = "" if option == "--metrics-port" else "; 0 picks a free one"
            return ServeError(f"port {port} on `{host}` is in use", f"choose another port with `{option}`{free}")
        case errno.EACCES | errno.EPERM:
            return ServeError(f"port {port} on `{host}` is not permitted", f"choose one above 1023 with `{option}`")
        case errno.EADDRNOTAVAIL:
            return ServeError(
                f"`{host}` is not an address of this machine", "127.0.0.1 is for this machine only, 0.0.0.0 for all"
            )
        case _:
            return ServeError(f"cannot listen on port {port} of `{host}`: {(error.strerror or str(error)).lower()}")


def listener_url(listener: socket.socket) -> str:
    return f"http://{format_address(*listener.getsockname()[:2])}"


def address_text(host: str, port: int) -> str:
    """Return the address of a host and a port as text. Raises ServeError."""
    return format_address(*resolve_address(host, port))


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ── Unix sockets ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def unix_listener(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listen at `path`, which has `mode` from the moment it exists and is removed afterwards. Raises ServeError."""
    if not hasattr(socket, "AF_UNIX"):
        raise ServeError("there are no Unix sockets on this system", "listen on a port")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ServeError(
            f"`{path}` is longer than {MAX_SOCKET_PATH_BYTES} bytes, too long for a socket", "use a shorter path"
        )
    remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # The mode is set before any client can connect, because `listen` comes last.
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
    """Remove a socket that no server listens on any more; remove no other file. Raises ServeError."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise socket_error(error, path) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ServeError(f"`{path}` exists and is not a socket", "use another path, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            remove_socket(path, found)
            return
        except OSError as error:
            raise socket_error(error, path) from None
    raise ServeError(f"another server listens on `{path}`", "use another path, or stop the other server")


def remove_socket(path: Path, made: os.stat_result) -> None:
    """Remove the socket, unless another socket has replaced it. Raises ServeError."""
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
            return ServeError(f"there is no directory `{path.parent}` for the socket", "create it, or use another path")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ServeError(f"a socket at `{path}` is not permitted", "use a directory that you can write to")
        case errno.EADDRINUSE:
            return ServeError(f"another server listens on `{path}`", "use another path, or stop the other server")
        case _:
            return ServeError(f"cannot listen on `{path}`: {(error.strerror or str(error)).lower()}")

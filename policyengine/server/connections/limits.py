"""Limits of connections: how many per worker, how many per address before their first request, and the time for each
step.

A connection is proved when its first request has arrived completely.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from policyengine.server.listeners import ServeError

MAX_CONNECTIONS = 4_096  # maximum per worker, if it may open that many files
UNKNOWN_FILES = 256  # assumed limit of open files, if the system does not report the limit
# Files reserved for logs, stores, issuers, and connections about to be evicted: an eighth of all, but at least this
# many.
RESERVED_FILES = 64
MIN_UNPROVED_CONNECTIONS = 16
HEAD_SECONDS = 10.0
REQUEST_SECONDS = 30.0
# Maximum bytes of requests without an answer and of unread answers; each address may have half of this maximum.
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 75.0  # seconds; longer than nginx keeps a connection, so that nginx closes first


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections. `connections` is the maximum per worker, and `unproved` the maximum per address before a
    first request; None derives them from the open file limit.
    """

    connections: int | None = None
    unproved: int | None = None
    # Seconds from the start of the connection, or from the first byte of a request, to the end of the head.
    head: float = HEAD_SECONDS
    request: float = REQUEST_SECONDS  # seconds for the rest of a request, and for reading an answer
    idle: float = IDLE_SECONDS  # seconds between two requests
    memory: int = MAX_BUFFERED_BYTES

    def bounds(self, listens_for_envoy: bool = False) -> ConnectionBounds:
        """Return the bounds on this machine. Raises ServeError if the process may not open enough files."""
        limit = open_file_limit()
        files = limit // (2 if listens_for_envoy else 1)
        room = max(files - max(RESERVED_FILES, files // 8), 1)
        if self.connections is not None and self.connections > room:
            raise ServeError(
                f"{self.connections:,} connections need more files than the {limit:,} that a process may open",
                f"raise the limit with `ulimit -n`, or set `--max-connections` to at most {room:,}",
            )
        most = self.connections or min(room, MAX_CONNECTIONS)
        return ConnectionBounds(most, self.unproved or max(most // 4, MIN_UNPROVED_CONNECTIONS))


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """The bounds that result from `ConnectionLimits` on this machine."""

    connections: int
    unproved: int


UNBOUNDED_BY_FILES = ConnectionBounds(MAX_CONNECTIONS, MAX_CONNECTIONS)


def open_file_limit() -> int:
    """Return how many files this process may open."""
    if not find_spec("resource"):
        return UNKNOWN_FILES
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1_048_576 if soft == resource.RLIM_INFINITY else soft

"""How many connections a worker holds, how many of them may come from one address unproved, and how long each may take.

A connection is unproved until its first request has arrived as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from policyengine.server.listeners import ServeError

MAX_CONNECTIONS = 4_096  # of a worker, where it may open as many files
UNKNOWN_FILES = 256  # where the system does not tell
RESERVED_FILES = 64  # at least, and an eighth of all: logs, stores, issuers, what is accepted before others are closed
MIN_UNPROVED_CONNECTIONS = 16
HEAD_SECONDS = 10.0
REQUEST_SECONDS = 30.0
MAX_BUFFERED_BYTES = (
    64 * 1024 * 1024
)  # bytes of requests without an answer and of answers that were not read; half for an address
IDLE_SECONDS = 75.0  # longer than nginx keeps its end, so that it closes first


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`connections` is the bound in all of one worker, `unproved` that of one address; None: as files allow."""

    connections: int | None = None
    unproved: int | None = None
    head: float = HEAD_SECONDS  # seconds from a connection, or the first byte of a request, to the end of the head
    request: float = REQUEST_SECONDS  # seconds for the rest of a request, and for an answer to be read
    idle: float = IDLE_SECONDS  # seconds between two requests
    memory: int = MAX_BUFFERED_BYTES

    def bounds(self, listens_for_envoy: bool = False) -> ConnectionBounds:
        """Raises ServeError where files do not suffice."""
        limit = open_file_limit()
        files = limit // (2 if listens_for_envoy else 1)
        room = max(files - max(RESERVED_FILES, files // 8), 1)
        if self.connections is not None and self.connections > room:
            raise ServeError(
                f"{self.connections:,} connections need more files than the {limit:,} that a process may open",
                f"raise it with `ulimit -n`, or take at most {room:,} with `--max-connections`",
            )
        most = self.connections or min(room, MAX_CONNECTIONS)
        return ConnectionBounds(most, self.unproved or max(most // 4, MIN_UNPROVED_CONNECTIONS))


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """What `ConnectionLimits` come to on this machine."""

    connections: int
    unproved: int


UNBOUNDED_BY_FILES = ConnectionBounds(MAX_CONNECTIONS, MAX_CONNECTIONS)


def open_file_limit() -> int:
    """How many files this process may open."""
    if not find_spec("resource"):
        return UNKNOWN_FILES
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1_048_576 if soft == resource.RLIM_INFINITY else soft

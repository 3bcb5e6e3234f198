"""Ports for servers that tests start."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import SystemRandom

RANDOM = SystemRandom()  # workers are forks of one process, and would draw the same numbers otherwise
FIRST, END = 10_000, 32_000  # below the ports of outgoing connections, which could take one before its server does


def free_port() -> int:
    """Return a port of this machine at which nothing listens."""
    while True:
        port = RANDOM.randrange(FIRST, END)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

"""The end of a process, which waits for threads that calculate no longer than it may."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from time import sleep

LOGGER = logging.getLogger("policyengine")
EXIT_MESSAGE = "ended while threads were at work: nobody gets their answers"


def limit_exit_time(seconds: float, code: int) -> None:
    """When the interpreter ends, and threads are still at work after that time, it ends without them and with that
    `code`. What logs now says so then."""
    given = (seconds, code, tuple(LOGGER.handlers))
    begin = threading.Thread(target=exit_after, args=given, name="policyengine-exit", daemon=True).start
    threading._register_atexit(begin)  # type: ignore[attr-defined]  # `atexit` comes when threads were waited for


def exit_after(seconds: float, code: int, handlers: Sequence[logging.Handler]) -> None:
    sleep(seconds)
    record = LOGGER.makeRecord(
        LOGGER.name, logging.WARNING, __file__, 0, EXIT_MESSAGE, (), None, extra={"event": "ended_at_work"}
    )
    for handler in handlers:
        handler.handle(record)
        handler.flush()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(code)

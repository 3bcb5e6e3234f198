"""The server's own log on stderr: text for people, or one JSON object per event."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from traceback import format_exception
from types import TracebackType
from typing import TextIO, TypeAlias

from policyengine.control_characters import one_line, printable_json
from policyengine.time_formats import format_rfc3339

LOGGERS = ("policyengine", "uvicorn")
# Routine events that are also logged as text.
INFO_EVENTS = frozenset({"reload", "reload_same", "reload_compared", "tools_not_pinned", "behavior_condition"})
FINDINGS_EVENT = "reload_refused"  # the event whose message has a line for each finding
# Optional members of a line, which the caller of the logger may set.
EXTRA_MEMBERS = (
    "halt",
    "state",
    "revision",
    "before",
    "why",
    "decision",
    "worker",
    "status",
    "listening",
    "workers",
    "path",
    "method",
    "key",
    "failures",
    "refusals",
    "operation",
    "skew_ms",
    "reasons",
    "trace_id",
    "code",
    "names",
    "jti",
    "client",
    "user",
    "chain",
    "scope",
    "audience",
    "expires",
    "task",
    "subject",
    "fingerprint",
    "count",
    "conditions",
    "header",
    "reason",
    "rule",
    "places",
    "change",
    "request",
    "widens",
    "unproved",
    "sink",
    "webhook",
    "server",
)
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

FRAME = "  File "  # prefix of the lines of a code location
Revision = Callable[[], str]
ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def record_time(record: logging.LogRecord) -> str:
    return format_rfc3339(datetime.fromtimestamp(record.created, UTC), "milliseconds")


class TextFormatter(logging.Formatter):
    """Formats an event as its message on one line; if there is an exception, its traceback follows, with the
    exception's message on one line. The findings of a refused reload are on indented lines, so that no part of them can
    look like another event.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        if getattr(record, "event", "") != FINDINGS_EVENT:
            return one_line(message)
        first, *findings = message.split("\n")
        return "\n".join([one_line(first), *(f"  {one_line(line)}" for line in findings if line)])

    def formatException(self, ei: ExceptionInfo) -> str:
        parts = (one.strip("\n") for one in format_exception(*ei))
        lines = (line for one in parts for line in (one.split("\n") if one.startswith(FRAME) else (one,)))
        return "\n".join(map(one_line, lines))

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or getattr(record, "event", "") in INFO_EVENTS


class JsonFormatter(logging.Formatter):
    """Formats an event as one JSON object with `time`, `level`, `event` (a stable name; `log` for an event without a
    name), `message`, `revision`, `request_id` …
    """

    def __init__(self, revision: Revision) -> None:
        super().__init__()
        self._revision = revision

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, object] = {
            "time": record_time(record),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
            "revision": self._revision(),
        }
        if (label := REQUEST_ID.get()) is not None:
            found["request_id"] = label
        found |= {name: given for name in EXTRA_MEMBERS if (given := getattr(record, name, None)) is not None}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return printable_json(json.dumps(found, ensure_ascii=False, default=str))


@contextmanager
def server_logging(form: LogFormat, revision: Revision, stream: TextIO | None = None) -> Iterator[None]:
    """Write log lines in this format for the duration of the block."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    if form is LogFormat.JSON:
        handler.setFormatter(JsonFormatter(revision))
    else:
        words = TextFormatter()
        handler.setFormatter(words)
        handler.addFilter(words.filter)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.level, one.propagate) for one in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    loggers[0].setLevel(logging.INFO)
    try:
        yield
    finally:
        for one, (level, propagates) in zip(loggers, before, strict=True):
            one.removeHandler(handler)
            one.level, one.propagate = level, propagates

"""W3C Trace Context: the trace to which a question belongs, so that logs and spans can be correlated. Invalid headers
are ignored, as the specification requires. Decisions do not depend on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import getrandbits
from typing import NamedTuple

PARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
KNOWN_FLAGS = 0b11  # sampled, and random id
MAX_TRACEPARENT_LENGTH = 256
MAX_TRACESTATE_LENGTH = 2_048
MAX_TRACESTATE_MEMBERS = 32
MEMBER = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_*/@-]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class TraceContext(NamedTuple):
    """A trace. `parent` is the `traceparent` to send on, with this server's span: `00-TRACE-SPAN-FLAGS`. `state` is
    `tracestate`, unchanged."""

    id: str
    parent: str
    state: str = ""


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)
current_trace = _current.get  # the trace of the current question


@contextmanager
def trace_scope(trace: TraceContext | None) -> Iterator[None]:
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def enter_trace(trace: TraceContext | None) -> None:
    """Set the trace for the rest of this task."""
    _current.set(trace)


def parse_trace_context(parents: Sequence[str], states: Sequence[str] = ()) -> TraceContext | None:
    """Parse `traceparent`, which must occur once, and `tracestate`, and draw the id of a new span. Return None if
    `traceparent` is missing or invalid.
    """
    found = (
        PARENT.fullmatch(parents[0].strip(" \t"))
        if len(parents) == 1 and len(parents[0]) <= MAX_TRACEPARENT_LENGTH
        else None
    )
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None
    flags = int(found["flags"], 16) & KNOWN_FLAGS
    parent = f"00-{found['trace']}-{getrandbits(64) or 1:016x}-{flags:02x}"
    return TraceContext(found["trace"], parent, parse_tracestate(states) if states else "")


def parse_tracestate(given: Sequence[str]) -> str:
    """Return the whole `tracestate`, or an empty string if a part is malformed."""
    whole = ",".join(given)
    members = [one.strip(" \t") for one in whole.split(",") if one.strip(" \t")]
    found = [MEMBER.fullmatch(one) for one in members]
    keys = {one["key"] for one in found if one is not None}
    if len(whole) > MAX_TRACESTATE_LENGTH or len(members) > MAX_TRACESTATE_MEMBERS or len(keys) < len(members):
        return ""
    return ",".join(members)

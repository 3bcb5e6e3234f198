"""The trace of a question: read from its headers, on its answer, and on the lines of the server's log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from policyengine.engine.request_input import Question
from policyengine.http.trace_context import Trace, current, trace_of, within
from policyengine.runtime.decision import Decision
from policyengine.server.telemetry.metered_engine import Decides

Pairs = Iterable[tuple[bytes, bytes]]
LOGGER = logging.getLogger("policyengine")


def trace_in(headers: Pairs) -> Trace | None:
    """Names are in lower case."""
    found: dict[bytes, list[str]] = {b"traceparent": [], b"tracestate": []}
    for name, value in headers:
        if name in found:
            found[name].append(value.decode("latin-1"))
    return trace_of(found[b"traceparent"], found[b"tracestate"])


def decided_within(trace: Trace, engine: Decides, question: Question, *, at_once: bool) -> Decision:
    with within(trace):
        return engine.decide(question, at_once=at_once)


def told(trace: Trace | None) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an answer."""
    if trace is None:
        return ()
    state = ((b"tracestate", trace.state.encode()),) if trace.state else ()
    return (b"traceparent", trace.parent.encode()), *state


def with_trace(record: logging.LogRecord) -> bool:
    """Says behind the message to which trace it belongs, and as `trace_id` to whoever writes logs as data."""
    trace = current()
    record.trace_id = None if trace is None else trace.id
    if trace is not None:
        record.msg = f"{record.msg} (trace {trace.id})"
    return True


LOGGER.addFilter(with_trace)

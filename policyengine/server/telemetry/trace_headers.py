"""The W3C trace context of a question: read from the headers of the question, set on its answer, and added to log
lines."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from policyengine.engine.question import QuestionLike
from policyengine.http.trace_context import TraceContext, current_trace, parse_trace_context, trace_scope
from policyengine.runtime.decision import Decision
from policyengine.server.telemetry.metered_engine import EngineInterface

RawHeaders = Iterable[tuple[bytes, bytes]]
LOGGER = logging.getLogger("policyengine")


def parse_trace(headers: RawHeaders) -> TraceContext | None:
    """Return the trace of these headers, whose names are in lower case; None if they are missing or invalid."""
    found: dict[bytes, list[str]] = {b"traceparent": [], b"tracestate": []}
    for name, value in headers:
        if name in found:
            found[name].append(value.decode("latin-1"))
    return parse_trace_context(found[b"traceparent"], found[b"tracestate"])


def decide_in_trace(
    trace: TraceContext, engine: EngineInterface, question: QuestionLike, *, without_waiting: bool
) -> Decision:
    with trace_scope(trace):
        return engine.decide(question, without_waiting=without_waiting)


def trace_response_headers(trace: TraceContext | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the trace headers of an answer."""
    if trace is None:
        return ()
    state = ((b"tracestate", trace.state.encode()),) if trace.state else ()
    return (b"traceparent", trace.parent.encode()), *state


def add_trace_id(record: logging.LogRecord) -> bool:
    """Append the trace id to the message, and set it as `trace_id` for structured logs. Return True, so that the record
    is logged.
    """
    trace = current_trace()
    record.trace_id = None if trace is None else trace.id
    if trace is not None:
        record.msg = f"{record.msg} (trace {trace.id})"
    return True


LOGGER.addFilter(add_trace_id)

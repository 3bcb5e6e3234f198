"""Estimates the maximum memory of one key of a history, which `check` prints for each stored event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime.history import MAX_EVENTS_PER_KEY
from policyengine.spec.required_history import awaits_outcome
from policyengine.time_formats import format_duration
from policyengine.typesystem import Scalar

# Bytes in CPython, rounded up; a test fills a store and measures its memory. A string has at most MAX_FACT_BYTES bytes
# in UTF-8, and may take four bytes per character in memory.
BYTES_PER_KEY = 1_024
BYTES_PER_EVENT = 448  # time, order, decision
BYTES_PER_OUTCOME = 768  # a decision that waits for its outcome
BYTES_PER_UNKNOWN = 640  # a fact of any type may be unknown, with its reason
BYTES_PER_TEXT = 1_280
BYTES_PER_COLLECTION = 4_096


class MemoryEstimate(NamedTuple):
    """The estimate for one event: the maximum number of events kept for a key, and their maximum size in bytes."""

    event: str
    at: str
    within: str
    events: int
    bytes: int


def estimate_memory(kernel: k.Kernel) -> Iterator[MemoryEstimate]:
    for watch in kernel.watches:
        event = watch.event
        several = 1 if event.latest else MAX_EVENTS_PER_KEY
        words = " ".join(event.span.text.split())
        yield MemoryEstimate(
            words, event.span.at, format_duration(watch.within), several, BYTES_PER_KEY + several * event_bytes(event)
        )


def event_bytes(event: k.EventPattern) -> int:
    facts = sum(fact_bytes(fact.type) for fact in event.facts)
    return (
        BYTES_PER_EVENT
        + facts
        + BYTES_PER_COLLECTION * len(event.outputs)
        + (BYTES_PER_OUTCOME if awaits_outcome(event) else 0)
    )


def fact_bytes(type: typesystem.Type) -> int:
    match type:
        case Scalar.STRING | typesystem.RefType() | typesystem.EnumType():
            return BYTES_PER_TEXT
        case Scalar():
            return BYTES_PER_UNKNOWN
        case _:
            return BYTES_PER_COLLECTION


def format_bytes(bytes: int) -> str:
    """Return a size such as `3.2 KiB`, rounded up."""
    for unit, most in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if bytes <= most * 1_000:
            return f"{-(-bytes * 10 // most) / 10:g} {unit}"
    return f"{-(-bytes * 10 // (1 << 30)) / 10:g} GiB"

"""How much memory one key of history can take at most: what `check` tells of each event that a policy remembers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime.format_values import duration
from policyengine.runtime.history import MOST_EVENTS
from policyengine.spec.history_records import awaits
from policyengine.typesystem import Scalar

# Bytes in CPython, rounded up; a test fills a store and measures. Texts are of at most MOST_KEPT bytes in UTF-8, which
# four bytes for each character may hold.
OF_A_KEY = 1_024
OF_AN_EVENT = 448  # when, its order, its decision
OF_AN_OUTCOME = 768  # a decision whose outcome is waited for
UNKNOWN = 640  # whatever the type, a fact may be unknown, with its reason
TEXT = 1_280
SEVERAL = 4_096


class Footprint(NamedTuple):
    """Of one event: how many of a key are kept, and how many bytes they are at most."""

    event: str
    at: str
    within: str
    events: int
    bytes: int


def footprints(kernel: k.Kernel) -> Iterator[Footprint]:
    for watch in kernel.watches:
        event = watch.event
        several = 1 if event.latest else MOST_EVENTS
        words = " ".join(event.span.text.split())
        yield Footprint(words, event.span.at, duration(watch.within), several, OF_A_KEY + several * of_one(event))


def of_one(event: k.Event) -> int:
    facts = sum(of_fact(fact.type) for fact in event.facts)
    return OF_AN_EVENT + facts + SEVERAL * len(event.outputs) + (OF_AN_OUTCOME if awaits(event) else 0)


def of_fact(type: typesystem.Type) -> int:
    match type:
        case Scalar.STRING | typesystem.Ref() | typesystem.Enum():
            return TEXT
        case Scalar():
            return UNKNOWN
        case _:
            return SEVERAL


def size(bytes: int) -> str:
    """`3.2 KiB`, never less than it is."""
    for unit, most in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if bytes <= most * 1_000:
            return f"{-(-bytes * 10 // most) / 10:g} {unit}"
    return f"{-(-bytes * 10 // (1 << 30)) / 10:g} GiB"

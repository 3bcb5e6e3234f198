"""The learned behavior that a decision read, as its log line contains it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from policyengine.runtime.snapshot import UNREADABLE_FACTS, LearnedFacts

MAX_TAG = 2**32 - 1
NUMBERS = ("trust", "novelty", "error_rate", "deviation")
WORDS = ("ready", "burst")
LATER = frozenset({"deviation"})  # facts that earlier versions did not log; a missing fact counts as neutral
GROUP = (("cluster.id", str), ("cluster.size", int))  # omitted for callers in no group
TAGS = ("run", "shape", "letter")


class LoggedBehavior(NamedTuple):
    """The class of the caller, its instance and the tag of its version (empty without a version), the tag of the run (0
    without a run), whether a clamp reduced a rate, and whether the request was part of a planned change. `model` is
    the digest of the model that was read, and `read` the number of events in the row that was read. `event` is the
    number of the decision's own event; 0 if nothing was learned from the decision. `facts` are the learned facts by
    name, and the `step` of the declared order of calls before the request. If they could not be read, all facts are
    unknown, and the other members are empty.
    """

    group: str
    instance: str
    version: str
    run: int
    clamped: bool
    model: str
    read: int
    event: int
    facts: LearnedFacts
    released: bool = False
    shape: int = 0
    letter: int = 0


def parse_behavior(member: Any) -> LoggedBehavior | None:
    """Return the learned behavior in a log line; None if the line has none. Raises LookupError, TypeError and
    ValueError."""
    if member is None:
        return None
    if member.get("unreadable") is True:
        return LoggedBehavior("", "", "", 0, False, "", 0, 0, UNREADABLE_FACTS)
    facts: dict[str, object] = {name: member[name] is True for name in WORDS}
    facts["sequence"], facts["step"] = member.get("sequence") is not False, int(member.get("step", 0))
    for name, type_ in GROUP:
        if name in member:
            facts[name] = type_(member[name])
    for name in NUMBERS:
        facts[name] = Decimal(str(member.get(name, 0) if name in LATER else member[name]))
    run, shape, letter = (int(member.get(name, 0)) for name in TAGS)
    if not 0 <= min(run, shape, letter) <= max(run, shape, letter) <= MAX_TAG:
        raise ValueError("its run, shape or letter is out of range")
    return LoggedBehavior(
        str(member["class"]), str(member.get("instance", "")), str(member.get("version", "")),
        run, member.get("clamped") is True, str(member["model"]), int(member["read"]),
        int(member["event"]), facts, member.get("released") is True, shape, letter,
    )  # fmt: skip

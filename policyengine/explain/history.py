"""What a history condition found, in words, beside its line in an explanation."""

from __future__ import annotations

from datetime import timedelta

from policyengine import kernel as k
from policyengine.clock import epoch_microseconds
from policyengine.runtime.format_values import format_duration
from policyengine.runtime.values import Unknown
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.history import events_in_window


def describe_last_events(node: k.HistoryCondition, facts: Facts) -> str | None:
    """`none`, `the last one 5m ago; 1 may count`: an earlier one may not be there any more. Nothing where the past is
    not known."""
    known = events_in_window(node, facts, evaluate)
    if isinstance(known, Unknown):
        return None
    events, _ = known
    sure = [event.at for event, counts in events if counts is True]
    unsure = sum(isinstance(counts, Unknown) for _, counts in events)
    words = f"the last one {format_ago(sure[0], facts)}" if sure else "none"
    return f"{words}; {unsure} may count" if unsure else words


def format_ago(at: int, facts: Facts) -> str:
    passed = max(0, epoch_microseconds(facts.now) - at)
    return "just now" if passed < 1_000 else f"{format_duration(timedelta(microseconds=passed))} ago"

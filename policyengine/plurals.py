"""Words that agree with a number, for messages."""

from __future__ import annotations


def pluralize(count: int, what: str) -> str:
    """Return the number and the noun: `1 rule`, `1,204 rules`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Return a duration as a number of seconds: `1 second`, `0.5 seconds`."""
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"

"""Formats times of a simulation, which are microseconds since 1970."""

from __future__ import annotations

from policyengine.clock import from_epoch_microseconds
from policyengine.time_formats import format_rfc3339


def format_timestamp(at: int) -> str:
    """Return a time for programs: RFC 3339 in UTC."""
    return format_rfc3339(from_epoch_microseconds(at))


def format_time(at: int) -> str:
    """Return a time for people."""
    moment = from_epoch_microseconds(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment.second or moment.microsecond else f"{moment:%Y-%m-%d %H:%M} UTC"

"""Words and numbers in a report."""

from __future__ import annotations

from typing import TypeAlias

from policyengine.analysis.behavior_report.report import format_microseconds

Table: TypeAlias = list[tuple[str, ...]]  # the first row is the header


def trust_words(trust: int | None) -> str:
    return "not ready" if trust is None else f"{trust / 1_000:.2f}"


def format_count(count: int) -> str:
    return f"{count:,}"


def format_minute(at: int) -> str:
    return format_microseconds(at)[:16].replace("T", " ")


def count_words(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"

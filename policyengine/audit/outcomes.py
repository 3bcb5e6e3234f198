"""Builds the `outcome` member of a log line from a reported outcome."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

from policyengine.runtime.history import OutcomeReport, reported_values
from policyengine.runtime.values import Unknown

MAX_USAGE_MEMBERS = 16
USAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Declared fields of the output that also count as usage, if no usage is reported.
USAGE_FIELDS = frozenset({"tokens", "input_tokens", "output_tokens", "total_tokens", "cost"})
MAX_NUMBER = 10**15
STATUSES = range(100, 600)

OutputPaths = Iterable[tuple[str, ...]]


def build_outcome(decision: str, report: OutcomeReport, declared: OutputPaths) -> dict[str, object]:
    """Return the members of an outcome, without those that were not reported or are invalid. `declared` are the paths
    of the output that policies read; nothing else of the output is recorded."""
    output = select_output(report.output, declared)
    status, size = report.status, report.size
    members = {
        "status": status if type(status) is int and status in STATUSES else None,
        "latency_ms": read_number(report.latency_ms),
        "size": size if type(size) is int and 0 <= size <= MAX_NUMBER else None,
        "output": output,
        "usage": read_usage(report.usage) or {name: output[name] for name in USAGE_FIELDS & output.keys()
                                              if read_number(output[name]) is not None},
    }  # fmt: skip
    return {"decision": decision, **{name: value for name, value in members.items() if value not in (None, {})}}


def select_output(output: Mapping[str, object], declared: OutputPaths) -> dict[str, Any]:
    """Return the declared fields that were reported and are short enough for history."""
    found: dict[str, Any] = {}
    paths = sorted(set(declared))
    for path, value in zip(paths, reported_values(output, paths), strict=True):
        if isinstance(value, Unknown):
            continue
        *outer, last = path
        place: Any = found
        for name in outer:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = value
    return found


def read_usage(usage: Mapping[str, object] | None) -> dict[str, int | Decimal]:
    """Return the valid numbers of a usage, at most MAX_USAGE_MEMBERS."""
    found: dict[str, int | Decimal] = {}
    for name, value in (usage or {}).items():
        number = read_number(value)
        if number is not None and USAGE_NAME.fullmatch(str(name)):
            found[name] = number
        if len(found) == MAX_USAGE_MEMBERS:
            break
    return found


def read_number(value: object) -> int | Decimal | None:
    """Return a number, rounded to three decimal places, in a form that JSON represents exactly; None if the value is
    not a number from 0 to MAX_NUMBER."""
    match value:
        case bool():
            return None
        case float() if not isfinite(value):
            return None
        case Decimal() if not value.is_finite():
            return None
        case int() | float() | Decimal() if 0 <= value <= MAX_NUMBER:
            number = round(Decimal(value), 3)
        case _:
            return None
    return int(number) if number == number.to_integral_value() else number.normalize()

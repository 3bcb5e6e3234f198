"""The ways to separate the calls of a caller into runs, and the facts of a request that could be the key of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.request import Request
from policyengine.time_formats import format_duration

MINUTE: Final = 60_000  # milliseconds
DEFAULT_IDLE: Final = 5 * MINUTE
TASK: Final = ("task", "id")
# Facts whose values may differ from run to run; others, such as `credential.kind`, do not separate runs.
KEY_FACTS: Final = (TASK, ("credential", "subject"))
HEADER_NAME: Final = re.compile(
    r"[a-z0-9-]*(?:run|task|session|job|trace|conversation|workflow|correlation|thread)[a-z0-9-]*"
)
MAX_HEADER_NAME: Final = 40
FactPath: TypeAlias = tuple[str, ...]


class RunRule(NamedTuple):
    """A run is the calls with one value of the fact `key`; it ends after `idle` milliseconds without a call. Without a
    key, only pauses separate runs."""

    key: FactPath | None
    idle: int

    def words(self) -> str:
        """Return the rule as a profile contains it; empty for the default."""
        within = "" if self.idle == DEFAULT_IDLE else f" within {format_duration(timedelta(milliseconds=self.idle))}"
        if self.key is not None:
            return f"run by {format_fact_path(self.key)}{within}"
        return f"run{within}" if within else ""


PAUSES: Final = tuple(RunRule(None, minutes * MINUTE) for minutes in (5, 1, 30))


def rules_for(keys: tuple[FactPath, ...]) -> tuple[RunRule, ...]:
    """Return the rules for calls with these facts. Of rules with equally regular runs, the first is the best."""
    others = [key for key in keys if key != TASK]
    tasks = [RunRule(TASK, minutes * MINUTE) for minutes in (5, 60, 1_440)] if TASK in keys else []
    return *tasks, *PAUSES, *(RunRule(key, minutes * MINUTE) for key in others for minutes in (5, 60))


def run_key_values(request: Request) -> dict[FactPath, str]:
    """Return the facts of a request that could be the key of its run."""
    facts: Mapping[str, Any] = request.facts
    found: dict[FactPath, str] = {}
    for root, name in KEY_FACTS:
        members = facts.get(root)
        value = members.get(name) if isinstance(members, Mapping) else None
        if isinstance(value, str):
            found[root, name] = value
    members = facts.get("request")
    headers = members.get("headers") if isinstance(members, Mapping) else None
    if isinstance(headers, Mapping):
        found |= {
            ("request", "headers", name): value
            for name, value in headers.items()
            if isinstance(value, str) and len(name) <= MAX_HEADER_NAME and HEADER_NAME.fullmatch(name)
        }
    return found

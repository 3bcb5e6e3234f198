"""Token events in the log: a token was issued, was not issued, or was revoked. Token events are not replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from policyengine.audit.redaction import RedactedFact
from policyengine.time_formats import format_rfc3339


class TokenEventKind(StrEnum):
    """The kind of event; its value names the member of the line that has the details."""

    ISSUED = "issued"
    NOT_ISSUED = "not_issued"
    ENDED = "ended"


@dataclass(frozen=True)
class TokenEvent:
    """A token event. `told` is the object with the details, whose members `docs/decision-log.md` lists; its times are
    RFC 3339. `time` is the time of the server in whole seconds; `trace`, `line` and `file` are as in a DecisionRecord.
    """

    line: int
    time: datetime
    what: TokenEventKind
    told: Mapping[str, Any]
    redacted: tuple[RedactedFact, ...] = ()
    trace: str | None = None
    file: Path = Path()

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the issued or revoked token, or None; decisions that used the token have the same
        fingerprint."""
        return get_fingerprint(self.told)

    @property
    def revision(self) -> str | None:
        """The revision of the policies at the time; None if the event does not state it."""
        found = self.told.get("revision")
        return found if isinstance(found, str) else None


def get_fingerprint(facts: Mapping[str, Any]) -> str | None:
    """Return `credential.fingerprint`; None if it is absent."""
    credential = facts.get("credential")
    found = credential.get("fingerprint") if isinstance(credential, Mapping) else None
    return found if isinstance(found, str) else None


def format_times(value: object) -> object:
    """Format times as RFC 3339 in UTC."""
    match value:
        case Mapping():
            return {name: format_times(one) for name, one in value.items()}
        case list() | tuple():
            return tuple(map(format_times, value))
        case datetime():
            return format_rfc3339(value.astimezone(UTC))
        case _:
            return value

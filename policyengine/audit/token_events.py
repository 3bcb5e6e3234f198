"""What became of tokens, as a line of the log holds it: issued, not issued, ended. Nothing of it is decided again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from policyengine.audit.redaction import RedactedFact


class TokenEventKind(StrEnum):
    """The value is the member of its line that tells the rest."""

    ISSUED = "issued"
    NOT_ISSUED = "not_issued"
    ENDED = "ended"


@dataclass(frozen=True)
class TokenEvent:
    """What became of a token. `told` is the rest of the line, as `docs/decision-log.md` lists its members; times in it
    are RFC 3339. `time` is the clock of the server, in whole seconds; `trace`, `line` and `file` are as a Record has
    them.
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
        """Of the token that was issued or ended: decisions that were made by it have the same one."""
        return get_fingerprint(self.told)

    @property
    def revision(self) -> str | None:
        """Of the policies by which it was issued, or was not."""
        found = self.told.get("revision")
        return found if isinstance(found, str) else None


def get_fingerprint(facts: Mapping[str, Any]) -> str | None:
    """`credential.fingerprint`, where that is there."""
    credential = facts.get("credential")
    found = credential.get("fingerprint") if isinstance(credential, Mapping) else None
    return found if isinstance(found, str) else None


def format_times(value: object) -> object:
    """As people and other programs read them."""
    match value:
        case Mapping():
            return {name: format_times(one) for name, one in value.items()}
        case list() | tuple():
            return tuple(map(format_times, value))
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return value

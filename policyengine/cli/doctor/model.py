"""The plan of `policyengine doctor`, and the result of each check."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DoctorStatus(StrEnum):
    """The status of a check: a `note` is information, a `warning` matters in production."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DoctorResult:
    check: str
    status: DoctorStatus
    message: str
    hint: str | None = None
    lines: tuple[str, ...] = ()  # locations, below the message


@dataclass(frozen=True, slots=True)
class ServePlan:
    """The configuration to check: the options of `policyengine serve`."""

    paths: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    ports: tuple[tuple[str, int], ...] = ()  # each with the name of its option
    socket: Path | None = None
    workers: int = 1
    tokens: Path | None = None
    log: Path | None = None
    store: str = "memory:"
    entities: tuple[str, ...] | None = None
    trusted: tuple[Path, ...] | None = field(default=None)
    identity: Path | None = None

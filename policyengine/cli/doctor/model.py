"""What `policyengine doctor` is asked about, and what each of its checks finds: how it stands, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DoctorStatus(StrEnum):
    """How it stands: `note` is for whoever wonders, `warning` for whoever goes into production."""

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
    lines: tuple[str, ...] = ()  # below the message: places


@dataclass(frozen=True, slots=True)
class DoctorPlan:
    """What is to be served, as `policyengine serve` would be told."""

    paths: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    ports: tuple[tuple[str, int], ...] = ()  # by option
    socket: Path | None = None
    workers: int = 1
    tokens: Path | None = None
    log: Path | None = None
    store: str = "memory:"
    entities: tuple[str, ...] | None = None
    trusted: tuple[Path, ...] | None = field(default=None)
    identity: Path | None = None

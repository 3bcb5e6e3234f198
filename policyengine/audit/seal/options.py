"""The options of sealing a log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

INTERVAL_SECONDS = 1.0  # seconds between checkpoints
SEAL_MEMBER = "seal"  # member of log lines about the seal itself


class SealStatement(StrEnum):
    """The `event` of a log line about the seal: the digests of late lines, a new key, a file that will be deleted."""

    LATE_LINES = "late_lines"
    KEY = "key"
    FILE_DELETED = "file_deleted"


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """A witness that cosigns checkpoints (c2sp.org/tlog-witness): the prefix of its URL, and its public key as text."""

    url: str
    key: str


@dataclass(frozen=True, slots=True)
class SealOptions:
    """The options of sealing a log. `key` is the file with the private key (default: the name of the log with `.key`),
    `folder` the folder of the seal (default: with `.tlog`), `interval` the seconds between checkpoints. Checkpoints are
    posted to the URLs `webhooks`, and sent to `witnesses` to be cosigned."""

    key: Path | None = None
    folder: Path | None = None
    interval: float = INTERVAL_SECONDS
    webhooks: tuple[str, ...] = ()
    witnesses: tuple[WitnessOptions, ...] = ()

"""How a log is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

INTERVAL_SECONDS = 1.0  # between checkpoints
SEAL_MEMBER = "seal"  # of log lines about the seal itself


@dataclass(frozen=True, slots=True)
class SealOptions:
    """How to seal a log. `key` is the file with the private key (default: the name of the log with `.key`), `folder`
    the folder of the seal (default: with `.tlog`), `interval` the seconds between checkpoints."""

    key: Path | None = None
    folder: Path | None = None
    interval: float = INTERVAL_SECONDS

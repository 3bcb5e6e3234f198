"""The options for sealing a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

INTERVAL_SECONDS = 1.0  # seconds between two checkpoints
SEAL_MEMBER = "seal"  # the JSON member of log lines about the seal


@dataclass(frozen=True, slots=True)
class SealOptions:
    """How to seal a log. `key` is the file of the private key (default: the name of the log with `.key`), `folder` is
    the folder of the seal (default: the name of the log with `.tlog`), and `interval` is the time between checkpoints
    in seconds.
    """

    key: Path | None = None
    folder: Path | None = None
    interval: float = INTERVAL_SECONDS

"""A SIGHUP that comes before the policies are served: it is kept, and ends nothing."""

from __future__ import annotations

import signal
from types import FrameType

_kept: list[int] = []


def keep_hangups() -> None:
    """From now on, until somebody else handles them."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _keep)


def had_hangup() -> bool:
    """Whether one came; it is told once."""
    came = bool(_kept)
    _kept.clear()
    return came


def _keep(number: int, frame: FrameType | None) -> None:
    _kept.append(number)

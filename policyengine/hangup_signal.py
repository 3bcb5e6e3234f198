"""A SIGHUP that comes before the policies are served: it is kept, and ends nothing."""

from __future__ import annotations

import signal
from types import FrameType

_hangups: list[int] = []


def record_hangups() -> None:
    """From now on, until somebody else handles them."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _record_hangup)


def take_hangup() -> bool:
    """Whether one came; it is told once."""
    came = bool(_hangups)
    _hangups.clear()
    return came


def _record_hangup(number: int, frame: FrameType | None) -> None:
    _hangups.append(number)

"""Records a SIGHUP that arrives before the server is ready, so that the signal does not end the process."""

from __future__ import annotations

import signal
from types import FrameType

_hangups: list[int] = []


def record_hangups() -> None:
    """Record SIGHUP until another handler is installed."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _record_hangup)


def take_hangup() -> bool:
    """Return whether SIGHUP was received, and forget it."""
    came = bool(_hangups)
    _hangups.clear()
    return came


def _record_hangup(number: int, frame: FrameType | None) -> None:
    _hangups.append(number)

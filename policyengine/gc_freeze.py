"""Keeps full garbage collections of a server short: they pass over the policies and modules of its startup.

A full collection visits every object of the process while no request is answered, which takes 70 ms with a thousand
rules. Only processes that serve use this; an application that embeds the engine decides for itself.
"""

from __future__ import annotations

import gc
from typing import Any

GENERATIONS = 3


def freeze_startup() -> None:
    """Collect once, and exclude all objects that exist now from later collections."""
    gc.collect()
    gc.freeze()


def release_after_reload() -> None:
    """Let collections visit all objects again, so that the previous policies are freed, and freeze the remaining
    objects after the next full collection. Without an earlier `freeze_startup`, do nothing.
    """
    if gc.get_freeze_count() and _freeze_when_collected not in gc.callbacks:
        gc.callbacks.append(_freeze_when_collected)
    gc.unfreeze()


def unfreeze() -> None:
    """Let collections visit all objects again."""
    if _freeze_when_collected in gc.callbacks:
        gc.callbacks.remove(_freeze_when_collected)
    gc.unfreeze()


def _freeze_when_collected(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == GENERATIONS - 1 and _freeze_when_collected in gc.callbacks:
        gc.callbacks.remove(_freeze_when_collected)
        gc.freeze()

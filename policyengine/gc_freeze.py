"""Keeps full garbage collections of a server short by excluding the policies and modules of its startup, and the rules
that the first requests build.

A full collection visits every object of the process while no request is answered, which takes 70 ms with a thousand
rules. Only processes that serve use `freeze_startup`; an application that embeds the engine decides for itself.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GENERATIONS = 3
# The number of full collections with at least MANY survivors after which the survivors are frozen, too. The number is
# small, because frozen objects that refer to each other, such as connections, are never freed.
LATER_FREEZES, MANY = 3, 5_000
_left = 0  # remaining later freezes


def freeze_startup() -> None:
    """Collect once, and exclude all objects that exist now from later collections. The rules that are built later are
    excluded after the next full collections.
    """
    global _left
    _watch_collections(False)
    gc.collect()
    gc.freeze()
    _left = LATER_FREEZES
    _watch_collections(True)


def release_after_reload() -> None:
    """Let collections visit all objects again, so that the previous policies are freed, and freeze the remaining
    objects after the next full collection. Without an earlier `freeze_startup`, do nothing.
    """
    global _left
    if gc.get_freeze_count():
        _left = LATER_FREEZES
        _watch_collections(True)
        gc.unfreeze()


def unfreeze() -> None:
    """Let collections visit all objects again."""
    _watch_collections(False)
    gc.unfreeze()


def freeze_at_exit() -> None:
    """Let the interpreter exit without a last collection, which visits all objects and can take more than a second."""
    atexit.register(gc.freeze)


@contextmanager
def objects_frozen() -> Iterator[None]:
    """Exclude the objects that exist now from the collections of the block. If the application has frozen objects
    itself, these objects stay frozen, and no others are frozen.
    """
    if has_frozen():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.freeze()  # with `unfreeze`, this moves new objects to the oldest generation without visiting them
        gc.unfreeze()


def has_frozen() -> bool:
    """Return whether objects are frozen. This visits all of them."""
    return gc.get_freeze_count() > 0


def _watch_collections(wanted: bool) -> None:
    if _freeze_when_collected in gc.callbacks:
        gc.callbacks.remove(_freeze_when_collected)
    if wanted:
        gc.callbacks.append(_freeze_when_collected)


def _freeze_when_collected(phase: str, info: dict[str, Any]) -> None:
    global _left
    if phase != "stop" or info["generation"] != GENERATIONS - 1 or len(gc.get_objects()) < MANY:
        return
    gc.freeze()
    _left -= 1
    if _left <= 0:
        _watch_collections(False)

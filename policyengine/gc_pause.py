"""Pauses garbage collection while a policy or many lines of a log are read: both create many long-lived objects and no
cycles, which the collector would traverse repeatedly.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable garbage collection inside the context and restore the previous state afterwards. Contexts may be nested,
    and may decorate a function."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

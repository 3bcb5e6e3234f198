"""Pauses garbage collection while a policy is read: parsing creates many long-lived objects, which the collector would
traverse repeatedly.
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

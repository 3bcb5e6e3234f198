"""No garbage collection while a policy is read: it makes many objects that stay, and a collector would walk them all
again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Collection is paused inside, and afterwards as it was before. May be nested, and wrap a function."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

"""The events from which behavior is learned, and the names of callers, endpoints and runs in them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

ALLOWED: Final = 0
DENIED: Final = 1
HELD: Final = 2  # throttled, or it waits for an approval
FAILED: Final = 3  # the report that an allowed request failed
NO_RUN: Final = 0


class Caller(NamedTuple):
    """A caller: the agent at its issuer, its instance, and the tag of the version of what it runs; empty if unknown."""

    issuer: str
    agent: str
    instance: str = ""
    version: str = ""


class BehaviorEvent(NamedTuple):
    """A decision about a caller, of the time `at` in milliseconds. `endpoint` is a declared pattern, and `run` the tag
    of the key of the run, or NO_RUN. `clamped` says whether a clamp acted on the request, and `released` whether it was
    part of a planned change."""

    at: int
    caller: Caller
    group: str  # the class of similar callers
    endpoint: str
    run: int
    outcome: int
    clamped: bool = False
    released: bool = False


class Tagger:
    """Gives texts short numbers that only holders of the key can compute, so that callers cannot search for texts with
    equal numbers. `size` is the number of cached tags."""

    def __init__(self, key: bytes, size: int = 65_536) -> None:
        self._key, self._size = key, size
        self._known: dict[str, int] = {}

    def tag(self, text: str) -> int:
        """Return a number of 32 bits."""
        found = self._known.get(text)
        if found is None:
            raw = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=self._key).digest()
            if len(self._known) >= self._size:
                self._known.clear()
            found = self._known[text] = int.from_bytes(raw)
        return found

"""The events from which behavior is learned, and the names of callers, endpoints and runs in them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from policyengine.behavior.row import HOUR, MAX_HOUR

ALLOWED: Final = 0
DENIED: Final = 1
HELD: Final = 2  # throttled, or it waits for an approval
FAILED: Final = 3  # the report that an allowed request failed
NO_RUN: Final = 0
MAX_NAME_CHARACTERS: Final = 256  # of the names of a caller; longer ones are replaced by a digest
SHOWN_CHARACTERS: Final = 64
MAX_TIME: Final = MAX_HOUR * HOUR  # milliseconds


class Caller(NamedTuple):
    """A caller: the agent at its issuer, its instance, and the tag of the version of what it runs; empty if unknown."""

    issuer: str
    agent: str
    instance: str = ""
    version: str = ""


def name_caller(issuer: str, agent: str, instance: str = "", version: str = "") -> Caller:
    """Return a caller; names that are long, or that cannot be written, end in their digest instead."""
    return Caller(shorten_name(issuer), shorten_name(agent), shorten_name(instance), version)


def shorten_name(name: str) -> str:
    if len(name) <= MAX_NAME_CHARACTERS and (name.isascii() or is_writable(name)):
        return name
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{name[:SHOWN_CHARACTERS].encode('utf-8', 'replace').decode()}#{digest}"


def is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def event_time(nanoseconds: int) -> int:
    """Return the time of an event in milliseconds, bounded to those that rows can have."""
    return min(max(nanoseconds // 1_000_000, 0), MAX_TIME)


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
            found = int.from_bytes(raw)
            if len(text) <= MAX_NAME_CHARACTERS:
                if len(self._known) >= self._size:
                    self._known.clear()
                self._known[text] = found
        return found

"""The events from which behavior is learned, and the names of callers, endpoints and runs in them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from policyengine.behavior.compiled_class import mypyc_attr
from policyengine.behavior.row import HOUR, MAX_HOUR

ALLOWED: Final = 0
DENIED: Final = 1
HELD: Final = 2  # throttled, or waiting for an approval
FAILED: Final = 3  # the report that an allowed request failed
NO_RUN: Final = 0
MAX_NAME_CHARACTERS: Final = 256  # maximum characters of each name of a caller; a longer name ends in its digest
SHOWN_CHARACTERS: Final = 64
MAX_TIME: Final = MAX_HOUR * HOUR  # milliseconds


class Caller(NamedTuple):
    """A caller: an agent of an issuer, its instance, and its version. Unknown parts are empty."""

    issuer: str
    agent: str
    instance: str = ""
    version: str = ""


def caller_words(caller: Caller) -> str:
    """Return the name of a caller with its issuer, instance and version, if it has them."""
    words = f"{caller.agent} of {caller.issuer}" if caller.issuer else caller.agent
    if caller.instance:
        words += f", instance {caller.instance}"
    return f"{words}, version {caller.version}" if caller.version else words


def name_caller(issuer: str, agent: str, instance: str = "", version: str = "") -> Caller:
    """Return a caller. A name that is long, or that cannot be encoded, is shortened and ends in its digest."""
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
    """Return the time of an event in milliseconds, limited to the times that rows can contain."""
    at = nanoseconds // 1_000_000
    if at < 0:
        return 0
    return at if at < MAX_TIME else MAX_TIME


@mypyc_attr(acyclic=True, free_list_len=1)
class RequestTags:
    """The numbers that are learned from one request: the tag of its declared `endpoint`; `run`, the tag of the key of
    its run, or NO_RUN; `shape`, the tag of the structure of its payload, 0 if the payload is unknown or missing; and
    `letter`, the steps of the declared order of calls that the request matches, one bit each."""

    __slots__ = ("endpoint", "letter", "run", "shape")

    def __init__(self, endpoint: int, run: int = NO_RUN, shape: int = 0, letter: int = 0) -> None:
        self.endpoint = endpoint
        self.run = run
        self.shape = shape
        self.letter = letter


class BehaviorEvent(NamedTuple):
    """A decision about a caller at the time `at`, in milliseconds. `endpoint` is a declared pattern; `run`, `shape` and
    `letter` are those of RequestTags. `clamped` says whether a clamp reduced a rate of the request, and `released`
    whether the request was part of a planned change."""

    at: int
    caller: Caller
    group: str  # the class of similar callers
    endpoint: str
    run: int
    outcome: int
    clamped: bool = False
    released: bool = False
    shape: int = 0
    letter: int = 0


class Tagger:
    """Computes tags: short numbers of texts that only holders of the key can compute, so that callers cannot search for
    texts with equal tags. `size` is the maximum number of cached tags."""

    def __init__(self, key: bytes, size: int = 65_536) -> None:
        self.key, self._size = key, size
        self._known: dict[str, int] = {}

    def derive_key(self, purpose: bytes) -> bytes:
        """Derive a key for another purpose from the key of the tags."""
        return blake2b(purpose, digest_size=32, key=self.key).digest()

    def tag(self, text: str) -> int:
        """Return the tag of a text: a 32-bit number."""
        found = self._known.get(text)
        if found is None:
            raw = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=self.key).digest()
            found = int.from_bytes(raw)
            if len(text) <= MAX_NAME_CHARACTERS:
                if len(self._known) >= self._size:
                    self._known.clear()
                self._known[text] = found
        return found

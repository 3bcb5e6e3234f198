"""When is it time? Files are looked at now and then; what changed is read once it has stayed as it is for a while."""

from __future__ import annotations

from collections.abc import Callable

from policyengine.reloading.apart import prepared_apart
from policyengine.reloading.candidate import Candidate, Refused
from policyengine.reloading.origin import Look, Origin
from policyengine.reloading.swapping import Reloading

PAUSE = 0.5  # seconds between two looks
MOST_TRIES = 20  # while somebody writes

Prepare = Callable[[Origin], Candidate]


class Watch:
    """An editor writes in pieces, a link is moved, a folder is copied: it is read once two looks are the same."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._imported = origin.imported()
        self._tried = self._last = self._look()

    def due(self) -> bool:
        """Whether the files are others than those that were tried, and have stayed as they are since the last look."""
        return self.stays() and self._last != self._tried

    def stays(self) -> bool:
        """Whether they are as they were at the last look."""
        before, self._last = self._last, self._look()
        return before == self._last

    def trying(self) -> Look:
        """They are read now."""
        self._tried = self._last = self._look()
        return self._tried

    def tried(self, look: Look) -> bool:
        """Whether they stayed as they were while they were read: if not, what was read may be a part of each."""
        if self._look() != look:
            return False
        imported = self._origin.imported()
        if imported != self._imported:  # others count from now on
            self._imported = imported
            self._tried = self._last = self._look()
        return True

    def _look(self) -> Look:
        return self._origin.look(self._imported)


class Attempts:
    """Decides when to read again, and reads: for one process or for several. Whoever asks meanwhile asks once more.

    `watching`: also where nobody asks, when files have changed.
    """

    def __init__(self, reloading: Reloading, watching: bool, prepare: Prepare = prepared_apart) -> None:
        assert reloading.origin is not None
        self._reloading, self._origin, self._prepare = reloading, reloading.origin, prepare
        self._watch, self._watching = Watch(reloading.origin), watching
        self._asked, self._tries = False, 0

    def ask(self) -> None:
        """At the next occasion."""
        self._asked = True

    @property
    def pause(self) -> float | None:
        """Seconds after which there is something to look at, asked or not."""
        return PAUSE if self._watching or self._asked else None

    def candidate(self) -> Candidate | None:
        """What shall decide next, if it is time and if there is something. What is bad is refused."""
        due = self._watch.due() if self._watching and not self._asked else self._asked
        if not due or (self._tries and not self._watch.stays()):
            return None
        self._asked = False
        look = self._watch.trying()
        try:
            found: Candidate | Refused = self._prepare(self._origin)
        except Refused as refused:
            found = refused
        if not self._watch.tried(look) and self._tries < MOST_TRIES:
            self._tries, self._asked = self._tries + 1, True
            return None
        self._tries = 0
        if isinstance(found, Candidate):
            return found if self._reloading.is_new(found) else None
        self._reloading.refuse(found)
        return None

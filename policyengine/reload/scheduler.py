"""When is it time? Files are looked at now and then; what changed is read once it has stayed as it is for a while."""

from __future__ import annotations

from collections.abc import Callable

from policyengine.reload.candidate import Candidate, ReloadRefusedError
from policyengine.reload.prepare_process import prepare_in_subprocess
from policyengine.reload.reloadable_engine import ReloadableEngine
from policyengine.reload.source import FileStates, ReloadSource

LOOK_SECONDS = 0.5  # seconds between two looks
MAX_TRIES = 20  # while somebody writes

PrepareFunction = Callable[[ReloadSource], Candidate]


class PolicyFileWatcher:
    """An editor writes in pieces, a link is moved, a folder is copied: it is read once two looks are the same."""

    def __init__(self, origin: ReloadSource) -> None:
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

    def trying(self) -> FileStates:
        """They are read now; what changed since the last look counts as changed while they are read."""
        self._tried = self._last
        return self._tried

    def tried(self, look: FileStates) -> bool:
        """Whether they stayed as they were while they were read: if not, what was read may be a part of each."""
        if self._look() != look:
            return False
        imported = self._origin.imported()
        if imported != self._imported:  # others count from now on
            self._imported = imported
            self._tried = self._last = self._look()
        return True

    def _look(self) -> FileStates:
        return self._origin.look(self._imported)


class ReloadScheduler:
    """Decides when to read again, and reads: for one process or for several. Whoever asks meanwhile asks once more.

    `watching`: also where nobody asks, when files have changed.
    """

    def __init__(
        self, reloading: ReloadableEngine, watching: bool, prepare: PrepareFunction = prepare_in_subprocess
    ) -> None:
        assert reloading.origin is not None
        self._reloading, self._origin, self._prepare = reloading, reloading.origin, prepare
        self._watch, self._watching = PolicyFileWatcher(reloading.origin), watching
        self._asked, self._tries, self._waits = False, 0, 0

    def ask(self) -> None:
        """At the next occasion."""
        self._asked = True

    def _due(self) -> bool:
        """Whether to read the files now: nobody wrote between the last two looks. Also who asks waits for that."""
        if not self._asked:
            return self._watching and self._watch.due()
        if self._watch.stays():
            return True
        self._waits += 1
        if self._waits > MAX_TRIES:
            self._asked, self._waits = False, 0
            self._reloading.refuse(ReloadRefusedError("the files changed whenever they were looked at"))
        return False

    @property
    def pause(self) -> float | None:
        """Seconds after which there is something to look at, asked or not."""
        return LOOK_SECONDS if self._watching or self._asked or self._reloading.gate.busy else None

    def candidate(self) -> Candidate | None:
        """What shall decide next, if it is time and if there is something. What is bad is refused, and so is what takes
        away or opens more than it may. Meanwhile what the last one changed is compared."""
        self._reloading.attend()
        if not self._due():
            return None
        self._asked, self._waits = False, 0
        look = self._watch.trying()
        try:
            found: Candidate | ReloadRefusedError = self._prepare(self._origin)
        except ReloadRefusedError as refused:
            found = refused
        if not self._watch.tried(look) and self._tries < MAX_TRIES:
            self._tries, self._asked = self._tries + 1, True
            return None
        self._tries = 0
        try:
            return self._checked(found)
        except ReloadRefusedError as refused:
            self._reloading.refuse(refused)
            return None

    def _checked(self, found: Candidate | ReloadRefusedError) -> Candidate | None:
        """Raises ReloadRefusedError."""
        if isinstance(found, ReloadRefusedError):
            raise found
        if not self._reloading.is_new(found):
            return None
        self._reloading.check(found)
        return found

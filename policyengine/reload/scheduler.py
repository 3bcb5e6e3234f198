"""The scheduler of reloads: it checks files periodically, and reads changed files once they have stopped changing."""

from __future__ import annotations

from collections.abc import Callable

from policyengine.reload.candidate import Candidate, ReloadRefusedError
from policyengine.reload.prepare_process import prepare_in_subprocess
from policyengine.reload.reloadable_engine import ReloadableEngine
from policyengine.reload.source import FileStates, ReloadSource

LOOK_SECONDS = 0.5  # seconds between two checks
MAX_TRIES = 20  # maximum checks, and maximum repeated attempts, of one reload while files keep changing

PrepareFunction = Callable[[ReloadSource], Candidate]


class PolicyFileWatcher:
    """Detects changed files. Editors write in steps, and copying takes time, so files are read once two consecutive
    checks agree."""

    def __init__(self, origin: ReloadSource) -> None:
        self._origin = origin
        self._imported = origin.imported()
        self._tried = self._last = self._look()

    def due(self) -> bool:
        """Return whether the files differ from their state at the last read, and have not changed since the
        last check.
        """
        return self.stays() and self._last != self._tried

    def stays(self) -> bool:
        """Return whether the files are unchanged since the last check."""
        before, self._last = self._last, self._look()
        return before == self._last

    def trying(self) -> FileStates:
        """Start a read of the files, and return their state. Changes since the last check count as changes during the
        read.
        """
        self._tried = self._last
        return self._tried

    def tried(self, look: FileStates) -> bool:
        """Return whether the files did not change while they were read; otherwise the result may mix two versions."""
        if self._look() != look:
            return False
        imported = self._origin.imported()
        if imported != self._imported:  # the set of watched files has changed
            self._imported = imported
            self._tried = self._last = self._look()
        return True

    def _look(self) -> FileStates:
        return self._origin.look(self._imported)


class ReloadScheduler:
    """Decides when to reload, and prepares the candidate, for one process or several. Reload requests that arrive
    during a reload are merged into one. With `watching`, changed files also cause a reload without a request.
    """

    def __init__(
        self, reloading: ReloadableEngine, watching: bool, prepare: PrepareFunction = prepare_in_subprocess
    ) -> None:
        assert reloading.origin is not None
        self._reloading, self._origin, self._prepare = reloading, reloading.origin, prepare
        self._watch, self._watching = PolicyFileWatcher(reloading.origin), watching
        self._asked, self._tries, self._waits = False, 0, 0

    def ask(self) -> None:
        """Request a reload, which `candidate` handles."""
        self._asked = True

    def _due(self) -> bool:
        """Return whether to read the files now: even after a request, they must be unchanged between two checks."""
        if not self._asked:
            return self._watching and self._watch.due()
        if self._watch.stays():
            return True
        self._waits += 1
        if self._waits > MAX_TRIES:
            self._asked, self._waits = False, 0
            self._reloading.refuse(ReloadRefusedError("the files kept changing"))
        return False

    @property
    def pause(self) -> float | None:
        """Seconds until the next check, or None to wait for a request."""
        return LOOK_SECONDS if self._watching or self._asked or self._reloading.gate.busy else None

    def candidate(self) -> Candidate | None:
        """Return the candidate to put into use next. Also starts or finishes the comparison of the last reload.

        Return None if no reload is due, if the files changed while they were read, if the candidate equals the policies
        in use, or if it was refused.
        """
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
            return self._check_candidate(found)
        except ReloadRefusedError as refused:
            self._reloading.refuse(refused)
            return None

    def _check_candidate(self, found: Candidate | ReloadRefusedError) -> Candidate | None:
        """Return the candidate if it is allowed; None if it is not new. Raises ReloadRefusedError."""
        if isinstance(found, ReloadRefusedError):
            raise found
        if not self._reloading.is_new(found):
            return None
        self._reloading.check(found)
        return found

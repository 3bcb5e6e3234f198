"""Reloads entity files that change while the engine runs; each reload takes effect as a whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Event, Thread
from time import monotonic
from typing import Protocol

from policyengine.entities.cells import EntityDeclarations
from policyengine.entities.errors import EntitiesError
from policyengine.entities.sources import EntitySources, SourcesStamp
from policyengine.entities.store import EntityStore, describe_lost_types

_LOG = logging.getLogger("policyengine")
POLL_SECONDS = 1.0  # seconds between two checks
MAX_READS = 3  # maximum reads of one check, while reloads replace the engine for which they were made
MAX_STARTING_LOOKS = 4  # maximum checks before the first decision, while the files keep changing


class EntityKernel(Protocol):
    @property
    def entities(self) -> EntityDeclarations: ...


class EntityEngine(Protocol):
    """The members of an engine that the watcher uses."""

    @property
    def kernel(self) -> EntityKernel: ...
    @property
    def directory(self) -> EntityStore: ...
    @property
    def directory_lock(self) -> AbstractContextManager[object]: ...
    def replace_directory(self, directory: EntityStore) -> None: ...


class LostTypesError(Exception):
    """The error for new entities that lack all or most rows of a type, as `describe_lost_types` describes them."""

    def __init__(self, gone: list[str]) -> None:
        rows = ", ".join(gone)
        super().__init__(f"{rows} would be removed; `--reload-allow removed-entities` or a restart allows the removal")


class EntityWatcher:
    """Reads changed entity sources again and gives the entities to the `current` engine. An error is logged once, and
    the previous entities stay in use.

    `look` checks once; `started` checks in a thread until `stop`. `tell` is called when an error begins and when it
    ends. `clock` counts seconds. `stamp` was taken before the sources were first read, so that no change is missed.
    Without `files`, only databases are read again, at their configured interval. New entities are refused if they lack
    all or most rows of a type (`describe_lost_types`), unless `may_lose` allows it. If a reload replaces the engine or
    its entities during a read, the sources are read again, because the reload may have read newer rows.
    """

    def __init__(
        self,
        sources: EntitySources,
        current: Callable[[], EntityEngine],
        *,
        stamp: SourcesStamp | None = None,
        files: bool = True,
        may_lose: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = monotonic,
        tell: Callable[[bool, str], None] = lambda fails, why: None,
    ) -> None:
        self.sources, self._tell = sources, tell
        self.refused = 0
        self._current, self._files, self._clock, self._may_lose = current, files, clock, may_lose
        self._stamp = self._seen = sources.stamp() if stamp is None else stamp
        self._refresh = sources.refresh()
        self._due = clock() + self._refresh
        self._ended = Event()
        self._told = ""

    def look(self) -> bool:
        """Check the sources once; return whether new entities took effect."""
        if not self._due_now():
            return False
        before = self._stamp, self._due
        self._stamp, self._due = self._seen, self._clock() + self._refresh
        try:
            directory = self._replace_entities()
        except EntitiesError as error:
            self._refused(f"`{error.place}`" + (f" at `{error.member}`" if error.member else "") + f": {error.message}")
            return False
        except LostTypesError as error:
            self._refused(str(error))
            return False
        except Exception as error:  # the previous entities stay in use until the next check
            self._refused(f"{type(error).__name__}: {error}")
            return False
        if directory is None:
            self._stamp, self._due = before
            return False
        if self._stamp != before[0] or self._told:
            _LOG.warning("reloaded the entities: %d rows", len(directory))
        if self._told:
            self._tell(False, f"the entities were read again: {len(directory):,} rows")
        self._told = ""
        return True

    def _replace_entities(self) -> EntityStore | None:
        """Read the sources, and replace the entities of the current engine; return None if a reload replaced them first
        in every attempt. Raises EntitiesError and LostTypesError.
        """
        for _ in range(MAX_READS):
            deciding = self._current()
            before = deciding.directory
            directory = self.sources.read(deciding.kernel.entities)
            with deciding.directory_lock:  # a reload that replaces this engine needs the same lock
                if self._current() is not deciding or deciding.directory is not before:
                    continue
                if (gone := describe_lost_types(before, directory)) and not self._may_lose():
                    raise LostTypesError(gone)
                deciding.replace_directory(directory)
                return directory
        return None

    def _due_now(self) -> bool:
        """Return whether to read the sources. A change is accepted when two consecutive checks see the same files,
        because a writer may not have finished.
        """
        before, self._seen = self._seen, self.sources.stamp() if self._files else self._stamp
        changed = self._seen != self._stamp and self._seen == before
        return changed or bool(self._refresh and self._clock() >= self._due)

    def _refused(self, why: str) -> None:
        self.refused += 1
        if why != self._told:
            self._told = why
            _LOG.error("the entities were not reloaded, and the previous ones stay in use: %s", why)
            self._tell(True, f"the entities were not reloaded, and the previous ones stay in use: {why}")

    def catch_up(self) -> None:
        """Read all changes since the engine was loaded, before its first decision. A worker that replaces another
        begins with the entities of the supervisor, which does not watch their sources.
        """
        for number in range(MAX_STARTING_LOOKS):
            if (number and self._ended.wait(POLL_SECONDS)) or self.look() or self._seen == self._stamp:
                return

    def started(self) -> EntityWatcher:
        """Check every second in a daemon thread; return this watcher."""
        Thread(target=self._run, name="policyengine entities", daemon=True).start()
        return self

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self.look()

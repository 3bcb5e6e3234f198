"""The sources of policies and entities, and the state of their files, which shows whether they changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from policyengine.entities.cells import EntityDeclarations
from policyengine.entities.sources import EntitySources
from policyengine.entities.store import EntityStore
from policyengine.policy_files import BUNDLE_SUFFIX, find_policies, load_sources

FileStates: TypeAlias = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class ReloadSource:
    """The sources of a reload: files and folders of policies, or one bundle that one of `keys` must have signed; and
    the sources of entities. With `tested`, the policies must pass their own tests. `settings` is the file with the
    rules of reloads, which is also watched.
    """

    paths: tuple[Path, ...]
    entities: EntitySources | None = None
    keys: tuple[Path, ...] | None = None
    tested: bool = True
    settings: Path | None = None

    @property
    def bundle(self) -> Path | None:
        return self.paths[0] if len(self.paths) == 1 and self.paths[0].suffix == BUNDLE_SUFFIX else None

    def directory(self, declared: EntityDeclarations) -> EntityStore | None:
        """Read the entities as the policies declare them; return None without sources of entities. Raises
        EntitiesError.
        """
        return None if self.entities is None else self.entities.read(declared)

    def imported(self) -> tuple[Path, ...]:
        """Return the files that were read, including imports from outside the named paths."""
        if self.bundle is not None:
            return ()
        sources, _ = load_sources(self.paths)
        return tuple(Path(source.name) for source in sources)

    def files(self, imported: tuple[Path, ...] = ()) -> Iterator[Path]:
        for path in self.paths:
            yield path
            if path.is_dir():
                yield from find_policies(path, lambda _: None)
        yield from imported
        yield from () if self.entities is None else self.entities.files()
        yield from self.keys or ()
        yield from () if self.settings is None else (self.settings,)

    def look(self, imported: tuple[Path, ...] = ()) -> FileStates:
        """Return the state of the files, which stays the same until one of them is written, moved, linked, removed or
        made unreadable."""
        return tuple(sorted({str(file): file_state(file) for file in self.files(imported)}.items()))


def file_state(file: Path) -> object:
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:
        return type(error).__name__
    if os.path.isdir(file):  # a folder; its files are checked separately
        return found.st_dev, found.st_ino, found.st_mode
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns

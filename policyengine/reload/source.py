"""Where policies and rows come from, and how these files look at a moment: what changed is read again."""

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
    """Files and folders of policies, or one bundle, with the keys of which one must have signed it; where entities are.

    `tested`: what the policies' own tests say has to be so before they decide. `settings` is a file that says what a
    reload may take away: it is looked at, too.
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
        """As the policies declare it. Raises EntitiesError."""
        return None if self.entities is None else self.entities.read(declared)

    def imported(self) -> tuple[Path, ...]:
        """The files that were read from outside of what is named, as imports lead there."""
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
        """How the files look: the same as long as nobody wrote, moved, linked, removed or shut one."""
        return tuple(sorted({str(file): file_state(file) for file in self.files(imported)}.items()))


def file_state(file: Path) -> object:
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:
        return type(error).__name__
    if os.path.isdir(file):  # what is in it is looked at by itself
        return found.st_dev, found.st_ino, found.st_mode
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns

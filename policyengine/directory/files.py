"""Entities from a JSON file: `{"entities": [{"type": "user", "id": "alice", "attributes": {…}, "in": […]}]}`."""

from __future__ import annotations

from pathlib import Path

from policyengine.directory.entities import Directory
from policyengine.runtime import wire
from policyengine.runtime.entities import entity_rows
from policyengine.runtime.shape import RequestError, object_at, only
from policyengine.runtime.values import describe

SHAPE = 'write `{"entities": [{"type": "user", "id": "alice", "attributes": {…}}]}`'


class EntitiesError(Exception):
    """A file of entities cannot be used: the `member` at fault (`entities[3].id`), what is wrong, what to do."""

    def __init__(self, file: str, member: str, message: str, hint: str | None = None) -> None:
        super().__init__(f"{file}: {message}" + (f" ({hint})" if hint else ""))
        self.file, self.member, self.message, self.hint = file, member, message, hint


def read_directory(path: Path | str) -> Directory:
    """The directory a file holds; EntitiesError says what is wrong with it."""
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EntitiesError(name, "", (error.strerror or "cannot be read").lower()) from error
    try:
        return Directory(entity_rows(_rows(wire.json_tree(data)), "entities"))
    except RequestError as error:
        raise EntitiesError(name, error.member, error.message, error.hint) from error
    except wire.WireError as error:
        raise EntitiesError(name, "", str(error)) from error


def _rows(tree: object) -> object:
    """The rows, each cleaned by itself: a file holds more of them than any list of a request may."""
    if not isinstance(tree, dict):
        raise RequestError("", f"expected an object, got {describe(tree)}", SHAPE)
    whole = object_at(tree, "") or {}
    only(whole, ("entities",), "", SHAPE)
    rows = whole.get("entities")
    return tuple(wire.clean(row) for row in rows) if isinstance(rows, list | tuple) else rows

"""Entities from JSON, `{"entities": [{"type": "user", "id": "alice", "attributes": {…}, "in": […]}]}`, and from JSON
Lines, a row on each."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from policyengine.entities.errors import EntitiesError
from policyengine.entities.merge import Gathering, Numbered, Place
from policyengine.file_mark import CHANGED, HINT, FileMark
from policyengine.runtime import decode
from policyengine.runtime.entities import EntityData, entity_row
from policyengine.runtime.structure_checks import RequestError, object_at, only
from policyengine.runtime.values import LARGEST_INT, SMALLEST_INT, describe
from policyengine.typesystem import EntityRef

__all__ = ["EntitiesError", "bounded_lines", "opened", "read_json", "read_lines"]

SHAPE = 'write `{"entities": [{"type": "user", "id": "alice", "attributes": {…}}]}`'
LINE = 'write a row on each line: `{"type": "user", "id": "alice", "attributes": {…}}`'
PLAIN = {"type", "id", "attributes", "in"}  # what else a row may say is read with care
MOST_BYTES = 2**29  # of JSON, which is read as a whole
LONGEST_LINE = 2**24  # bytes
BOM = b"\xef\xbb\xbf"


def read_json(path: Path, gathering: Gathering) -> None:
    """Raises EntitiesError."""
    name = str(path)
    with opened(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        hint = "write JSON Lines: a row on each line of a file `….jsonl`"
        raise EntitiesError(name, "", f"more than {MOST_BYTES:,} bytes", hint, code="E180")
    try:
        rows = _rows(decode.json_tree(data))
    except RequestError as error:
        raise EntitiesError(name, error.member, error.message, error.hint) from error
    except decode.WireError as error:
        raise EntitiesError(name, "", str(error)) from error
    del data
    gathering.add(Place(name, "entities"), _of_json(name, rows))


def _rows(tree: object) -> list[object] | tuple[object, ...]:
    """The rows, each to be cleaned by itself: a file holds more of them than any list of a request may."""
    if not isinstance(tree, dict):
        raise RequestError("", f"expected an object, got {describe(tree)}", SHAPE)
    whole = object_at(tree, "") or {}
    only(whole, ("entities",), "", SHAPE)
    rows = whole.get("entities")
    if rows is None:
        return []
    if not isinstance(rows, list | tuple):
        raise RequestError("entities", f"`entities` must be a list, got {describe(rows)}", SHAPE)
    return rows


def _of_json(name: str, rows: list[object] | tuple[object, ...]) -> Numbered:
    for index, raw in enumerate(rows):
        plain = plain_row(raw)
        if plain is not None:
            yield index, plain
            continue
        try:
            yield index, entity_row(decode.clean(raw), f"entities[{index}]")
        except RequestError as error:
            raise EntitiesError(name, error.member, error.message, error.hint) from error
        except decode.WireError as error:
            raise EntitiesError(name, f"entities[{index}]", str(error)) from error


def read_lines(path: Path, gathering: Gathering) -> None:
    """Raises EntitiesError."""
    name = str(path)
    with opened(path) as file:
        gathering.add(Place(name), _of_lines(name, file))


def _of_lines(name: str, file: BinaryIO) -> Numbered:
    for number, line in bounded_lines(name, file):
        if line.strip():
            yield number, _of_line(name, number, line.rstrip())


def _of_line(name: str, number: int, line: bytes) -> EntityData:
    try:
        tree = decode.json_tree(line)
        return plain_row(tree) or entity_row(decode.clean(tree), "")
    except RequestError as error:
        member = error.member.removeprefix(".")
        message = error.message.replace(f"`{error.member}`", f"`{member or 'the row'}`")
        raise EntitiesError(name, member, message, error.hint or LINE, row=number) from error
    except decode.WireError as error:
        why = str(error).replace(" at line 1, column", " at column")
        raise EntitiesError(name, "", why, LINE, row=number) from error


# ── Rows that need no second look ─────────────────────────────────────────────────────────────

TWO = {"type", "id"}
LONG = 1_000


def plain_row(raw: object) -> EntityData | None:
    """What `entity_row` makes of a row, quickly, where all in it is of the plainest kind: nearly all are."""
    if type(raw) is not dict or not raw.keys() <= PLAIN:
        return None
    ref, attributes, above = plain_reference(raw), raw.get("attributes"), raw.get("in")
    parents = () if above is None else plain_references(above)
    found = {} if attributes is None else plain_attributes(attributes)
    if ref is None or parents is None or found is None:
        return None
    return EntityData(ref, found, parents)


def plain_reference(raw: dict[str, object]) -> EntityRef | None:
    type_, id_ = raw.get("type"), raw.get("id")
    if type(type_) is not str or type(id_) is not str:
        return None
    named = type_ and id_ and type_.isascii() and id_.isascii() and len(type_) + len(id_) < LONG
    return EntityRef(type_, id_) if named else None


def plain_references(raw: object) -> tuple[EntityRef, ...] | None:
    if type(raw) is not list or len(raw) > LONG:
        return None
    found = [plain_reference(one) for one in raw if type(one) is dict and one.keys() == TWO]
    return None if None in found or len(found) != len(raw) else tuple(one for one in found if one is not None)


def plain_attributes(raw: object) -> dict[str, object] | None:
    if type(raw) is not dict or len(raw) > LONG or not "".join(raw).isascii():
        return None
    found: dict[str, object] = {}
    for name, value in raw.items():
        if type(value) is list:
            if len(value) > LONG or not all(map(plain_value, value)):
                return None
            value = tuple(value)
        elif not plain_value(value):
            return None
        found[name] = value
    return found


def plain_value(value: object) -> bool:
    match value:
        case str():
            return value.isascii() and len(value) < LONG
        case None | bool():
            return True
        case int():
            return SMALLEST_INT <= value <= LARGEST_INT
        case dict() if value.keys() == TWO:  # a reference
            return all(isinstance(one, str) and one.isascii() and len(one) < LONG for one in value.values())
        case _:
            return False


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file for reading; not a device or a pipe, which may never end. Raises EntitiesError, also at the end, where
    somebody wrote to it meanwhile."""
    with _opened(path) as file:
        before = FileMark.of(file.fileno())
        yield file
        if FileMark.of(file.fileno()) != before:
            raise EntitiesError(str(path), "", CHANGED, HINT, code="E180")


def _opened(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise EntitiesError(str(path), "", "this is no file", "name a file", code="E180")
        return path.open("rb")
    except ValueError as error:
        raise EntitiesError(str(path), "", "no file has NUL in its name", code="E180") from error
    except OSError as error:
        raise EntitiesError(str(path), "", (error.strerror or "cannot be read").lower(), code="E180") from error


def bounded_lines(name: str, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; none is longer than is good. Raises EntitiesError."""
    number = 0
    while line := _line(name, file, number + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > LONGEST_LINE:
            message = f"a line of more than {LONGEST_LINE:,} bytes"
            raise EntitiesError(name, "", message, "is the end of a line, or a quote, missing?", row=number)
        yield number, line


def _line(name: str, file: BinaryIO, number: int) -> bytes:
    try:
        return file.readline(LONGEST_LINE + 1)
    except OSError as error:
        raise EntitiesError(name, "", (error.strerror or "cannot be read").lower(), code="E180", row=number) from error

"""Reads entities from JSON, `{"entities": [{"type": "user", "id": "alice", "attributes": {…}, "in": […]}]}`, and from
JSON Lines, with one row on each line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from policyengine.bounded_files import missing_file_hint
from policyengine.entities.errors import EntitiesError
from policyengine.entities.merge import NumberedRows, RowCollector, RowOrigin
from policyengine.file_version import FILE_CHANGED, FILE_CHANGED_HINT, FileVersion
from policyengine.runtime import decode
from policyengine.runtime.entities import EntityData, read_entity_row
from policyengine.runtime.structure_checks import RequestError, check_members, get_object
from policyengine.runtime.values import MAX_INT, MIN_INT, describe_raw_value
from policyengine.typesystem import EntityRef

__all__ = ["EntitiesError", "bounded_lines", "open_entity_file", "read_json", "read_lines"]

SHAPE = 'write `{"entities": [{"type": "user", "id": "alice", "attributes": {…}}]}`'
LINE = 'write a row on each line: `{"type": "user", "id": "alice", "attributes": {…}}`'
ROW_MEMBERS = {"type", "id", "attributes", "in"}  # rows with other members take the slow path
MAX_JSON_BYTES = 2**29  # maximum bytes, because a JSON file is read whole
MAX_LINE_BYTES = 2**24
BOM = b"\xef\xbb\xbf"


def read_json(path: Path, gathering: RowCollector) -> None:
    """Read a JSON file into the collector. Raises EntitiesError."""
    name = str(path)
    with open_entity_file(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        hint = "use JSON Lines: a `….jsonl` file with one row on each line"
        raise EntitiesError(name, "", f"the file has more than {MAX_JSON_BYTES:,} bytes", hint, code="E180")
    try:
        rows = _rows(decode.json_tree(data))
    except RequestError as error:
        raise EntitiesError(name, error.member, error.message, error.hint) from error
    except decode.DecodeError as error:
        raise EntitiesError(name, "", str(error)) from error
    del data
    gathering.add(RowOrigin(name, "entities"), _parse_rows(name, rows))


def _rows(tree: object) -> list[object] | tuple[object, ...]:
    """Return the rows without validating them: a file may have more rows than a list in a request may have elements.
    Raises RequestError.
    """
    if not isinstance(tree, dict):
        raise RequestError("", f"expected an object, got {describe_raw_value(tree)}", SHAPE)
    whole = get_object(tree, "") or {}
    check_members(whole, ("entities",), "", SHAPE)
    rows = whole.get("entities")
    if rows is None:
        return []
    if not isinstance(rows, list | tuple):
        raise RequestError("entities", f"`entities` must be a list, got {describe_raw_value(rows)}", SHAPE)
    return rows


def _parse_rows(name: str, rows: list[object] | tuple[object, ...]) -> NumberedRows:
    for index, raw in enumerate(rows):
        plain = parse_plain_row(raw)
        if plain is not None:
            yield index, plain
            continue
        try:
            yield index, read_entity_row(decode.clean(raw), f"entities[{index}]")
        except RequestError as error:
            raise EntitiesError(name, error.member, error.message, error.hint) from error
        except decode.DecodeError as error:
            raise EntitiesError(name, f"entities[{index}]", str(error)) from error


def read_lines(path: Path, gathering: RowCollector) -> None:
    """Read a JSON Lines file into the collector. Raises EntitiesError."""
    name = str(path)
    with open_entity_file(path) as file:
        gathering.add(RowOrigin(name), _parse_lines(name, file))


def _parse_lines(name: str, file: BinaryIO) -> NumberedRows:
    for number, line in bounded_lines(name, file):
        if line.strip():
            yield number, _parse_line(name, number, line.rstrip())


def _parse_line(name: str, number: int, line: bytes) -> EntityData:
    try:
        tree = decode.json_tree(line)
        return parse_plain_row(tree) or read_entity_row(decode.clean(tree), "")
    except RequestError as error:
        member = error.member.removeprefix(".")
        message = error.message.replace(f"`{error.member}`", f"`{member or 'the row'}`")
        raise EntitiesError(name, member, message, error.hint or LINE, row=number) from error
    except decode.DecodeError as error:
        why = str(error).replace(" at line 1, column", " at column")
        raise EntitiesError(name, "", why, LINE, row=number) from error


# ── Plain rows ────────────────────────────────────────────────────────────────────────────────

REFERENCE_MEMBERS = {"type", "id"}
MAX_PLAIN_LENGTH = 1_000


def parse_plain_row(raw: object) -> EntityData | None:
    """Return the same as `read_entity_row`, but faster, for a row with only plain values; return None for every other
    row. Most rows are plain.
    """
    if type(raw) is not dict or not raw.keys() <= ROW_MEMBERS:
        return None
    ref, attributes, above = parse_plain_reference(raw), raw.get("attributes"), raw.get("in")
    parents = () if above is None else parse_plain_references(above)
    found = {} if attributes is None else parse_plain_attributes(attributes)
    if ref is None or parents is None or found is None:
        return None
    return EntityData(ref, found, parents)


def parse_plain_reference(raw: dict[str, object]) -> EntityRef | None:
    type_, id_ = raw.get("type"), raw.get("id")
    if type(type_) is not str or type(id_) is not str:
        return None
    named = type_ and id_ and type_.isascii() and id_.isascii() and len(type_) + len(id_) < MAX_PLAIN_LENGTH
    return EntityRef(type_, id_) if named else None


def parse_plain_references(raw: object) -> tuple[EntityRef, ...] | None:
    if type(raw) is not list or len(raw) > MAX_PLAIN_LENGTH:
        return None
    found = [parse_plain_reference(one) for one in raw if type(one) is dict and one.keys() == REFERENCE_MEMBERS]
    return None if None in found or len(found) != len(raw) else tuple(one for one in found if one is not None)


def parse_plain_attributes(raw: object) -> dict[str, object] | None:
    if type(raw) is not dict or len(raw) > MAX_PLAIN_LENGTH or not "".join(raw).isascii():
        return None
    found: dict[str, object] = {}
    for name, value in raw.items():
        if type(value) is list:
            if len(value) > MAX_PLAIN_LENGTH or not all(map(is_plain_value, value)):
                return None
            value = tuple(value)
        elif not is_plain_value(value):
            return None
        found[name] = value
    return found


def is_plain_value(value: object) -> bool:
    match value:
        case str():
            return value.isascii() and len(value) < MAX_PLAIN_LENGTH
        case None | bool():
            return True
        case int():
            return MIN_INT <= value <= MAX_INT
        case dict() if value.keys() == REFERENCE_MEMBERS:  # a reference
            return all(isinstance(one, str) and one.isascii() and len(one) < MAX_PLAIN_LENGTH for one in value.values())
        case _:
            return False


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def open_entity_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file. Devices and pipes are refused, because they might never end. Raises EntitiesError, also at
    the end of the block if another process changed the file in the meantime.
    """
    with _open_regular_file(path) as file:
        before = FileVersion.of(file.fileno())
        yield file
        if FileVersion.of(file.fileno()) != before:
            raise EntitiesError(str(path), "", FILE_CHANGED, FILE_CHANGED_HINT, code="E180")


def _open_regular_file(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise EntitiesError(str(path), "", "not a regular file", "name a regular file", code="E180")
        return path.open("rb")
    except ValueError as error:
        raise EntitiesError(str(path), "", "a file name cannot contain NUL", code="E180") from error
    except OSError as error:
        hint = missing_file_hint(path, error)
        raise EntitiesError(str(path), "", (error.strerror or "cannot be read").lower(), hint, code="E180") from error


def bounded_lines(name: str, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers. Raises EntitiesError if a line is too long."""
    number = 0
    while line := _read_line(name, file, number + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > MAX_LINE_BYTES:
            message = f"a line of more than {MAX_LINE_BYTES:,} bytes"
            raise EntitiesError(name, "", message, "is a line break or a quote missing?", row=number)
        yield number, line


def _read_line(name: str, file: BinaryIO, number: int) -> bytes:
    try:
        return file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise EntitiesError(name, "", (error.strerror or "cannot be read").lower(), code="E180", row=number) from error

"""Reads entities from CSV: one file for each type, with the name of the type and a header of `id`, `in` and
attributes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from policyengine import typesystem
from policyengine.diagnostics.suggest import suggest
from policyengine.entities.cells import (
    CellError,
    EntityDeclaration,
    EntityDeclarations,
    make_cell_parser,
    membership_type,
)
from policyengine.entities.errors import EntitiesError
from policyengine.entities.json_files import MAX_LINE_BYTES, bounded_lines, open_entity_file
from policyengine.entities.merge import NumberedRows, RowCollector, RowOrigin
from policyengine.runtime.entities import EntityData
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.values import Unknown, coerce_id
from policyengine.typesystem import EntityRef

SUFFIX = ".csv"
ID, IN = "id", "in"


def read_folder(folder: Path, declared: EntityDeclarations, gathering: RowCollector) -> None:
    """Read every `.csv` file in the folder. Raises EntitiesError."""
    files = csv_files(folder)
    if not files:
        hint = "add one for each type: `user.csv`, `team.csv`"
        raise EntitiesError(str(folder), "", "this folder contains no `.csv` file", hint, code="E180")
    for file in files:
        if file.stem in declared or suggest(file.stem, declared) is not None:
            read_table(file, declared, gathering)
        else:
            gathering.notes.append(f"`{file}` is left out: the policy declares no entity `{quote_input(file.stem)}`")


def csv_files(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.suffix == SUFFIX and not one.name.startswith("."))
    except OSError as error:
        raise EntitiesError(str(folder), "", (error.strerror or str(error)).lower(), code="E180") from error


def read_table(path: Path, declared: EntityDeclarations, gathering: RowCollector) -> None:
    """Read one CSV file into the collector. Raises EntitiesError."""
    name, type_ = str(path), path.stem
    declaration = declared.get(type_)
    if declaration is None:
        meant = suggest(type_, declared)
        hint = f"did you mean `{meant}.csv`?" if meant else "name the file after the entity whose rows it holds"
        message = f"the policy declares no entity `{quote_input(type_)}`"
        raise EntitiesError(name, "", message, hint, code="E185")
    with open_entity_file(path) as file:
        records = CsvReader(name, file).records()
        header = next(records, None)
        if header is None:
            raise EntitiesError(name, "", "the header is missing", "begin with `id` and the attribute names", row=1)
        table = CsvTable(name, type_, declaration, header[1], gathering.notes)
        gathering.add(RowOrigin(name), table.rows(records))


@dataclass(slots=True)
class CsvReader:
    """A reader of CSV records: yields each record as a list of cells, with the number of its first line."""

    name: str
    file: BinaryIO
    number: int = 0
    length: int = 0

    def records(self) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(MAX_LINE_BYTES)
        reader = csv.reader(self._texts(), strict=True)
        begins = 1
        try:
            for cells in reader:
                if cells:
                    yield begins, cells
                begins, self.length = self.number + 1, 0
        except csv.Error as error:
            raise self.wrong(begins, error) from None

    def wrong(self, begins: int, error: csv.Error) -> EntitiesError:
        hint = 'put a cell that contains `,` or a quote in quotes, and double the quotes in it: `"a ""b"", c"`'
        return EntitiesError(self.name, "", f"not valid CSV: {error}", hint, row=begins)

    def _texts(self) -> Iterator[str]:
        for number, line in bounded_lines(self.name, self.file):
            self.number = number
            self.length += len(line)
            if self.length > MAX_LINE_BYTES:
                message = f"a row of more than {MAX_LINE_BYTES:,} bytes"
                raise EntitiesError(self.name, "", message, "is a quote missing?", row=number)
            if b"\0" in line:
                raise EntitiesError(self.name, "", "a NUL character", "is this UTF-16? write it as UTF-8", row=number)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode("utf-8", "replace")) + 1
                message = f"not valid UTF-8 at character {column}"
                raise EntitiesError(self.name, "", message, "save the file as UTF-8", row=number) from None


class CsvTable:
    """A CSV file with a parsed header, which maps each column to its declared type."""

    def __init__(
        self, name: str, type_: str, declaration: EntityDeclaration, header: Sequence[str], notes: list[str]
    ) -> None:
        self.name, self.type = name, type_
        self.header = [column.strip() for column in header]
        self._check_header(declaration, notes)
        types: dict[str, typesystem.Type] = {field.name: field.type for field in declaration.fields}
        self.id = self.header.index(ID)
        self.above = self.header.index(IN) if IN in self.header else None
        self.parents = make_cell_parser(membership_type(declaration), IN)
        self.attributes = [
            (index, column, make_cell_parser(types[column], column))
            for index, column in enumerate(self.header)
            if column in types and column not in (ID, IN)
        ]

    def rows(self, records: Iterator[tuple[int, list[str]]]) -> NumberedRows:
        width = len(self.header)
        for number, cells in records:
            if len(cells) != width:
                message = f"cells: {len(cells)}, but the header has {width}"
                raise EntitiesError(self.name, "", message, "is a comma or a quote missing?", code="E182", row=number)
            yield number, self._row(number, cells)

    def _row(self, number: int, cells: list[str]) -> EntityData:
        column = ID
        try:
            ref = EntityRef(self.type, check_id(cells[self.id]))
            found: dict[str, object] = {}
            for index, column, read in self.attributes:
                value = read(cells[index])
                if value is not None:
                    found[column] = value
            column = IN
            parents = () if self.above is None else self.parents(cells[self.above])
        except CellError as error:
            hint, code = error.hint, "E183"
            raise EntitiesError(self.name, "", error.message, hint, code=code, row=number, column=column) from None
        return EntityData(ref, found, parents or ())  # type: ignore[arg-type]

    def _check_header(self, declaration: EntityDeclaration, notes: list[str]) -> None:
        seen: set[str] = set()
        for column in self.header:
            if column in seen:
                message = f"the column `{quote_input(column)}` appears twice"
                raise EntitiesError(self.name, "", message, code="E182", row=1, column=column)
            seen.add(column)
        if ID not in seen:
            meant = suggest(ID, seen)
            hint = f"did you mean `{quote_input(meant)}`?" if meant else "name the column with the ids `id`"
            raise EntitiesError(self.name, "", "there is no column `id`", hint, code="E182", row=1)
        if IN in seen and not declaration.parents:
            message = f"there is a column `in`, but the policy declares no parent of `{self.type}`"
            hint = f"declare `entity {self.type} {{ … }} in …`, or remove the column"
            raise EntitiesError(self.name, "", message, hint, code="E182", row=1, column=IN)
        notes += misspelled_columns(self.name, seen, declaration)


def misspelled_columns(name: str, columns: set[str], declaration: EntityDeclaration) -> Iterator[str]:
    """Yield a note for each column that looks like a misspelled attribute. Other undeclared columns may be for other
    readers of the table.
    """
    known = [field.name for field in declaration.fields]
    for column in sorted(columns - {*known, ID, IN}):
        meant = suggest(column, [one for one in (*known, IN) if one not in columns])
        if meant is not None:
            yield f"`{name}`: the policy declares no attribute `{quote_input(column)}`; did you mean `{meant}`?"


def check_id(cell: str) -> str:
    found = coerce_id(cell, "id")
    if isinstance(found, Unknown):
        why = min("it is empty" if cause.absent else cause.why for cause in found.causes)
        raise CellError(f"`id`: {why}", "give each row its own id")
    return found

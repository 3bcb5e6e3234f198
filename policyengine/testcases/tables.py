"""Tables and matrices to the cases they abbreviate: each row, each cell, with all that it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from policyengine.checker.type_names import quote
from policyengine.diagnostics.model import Related
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.reserved_words import UNUSABLE
from policyengine.testcases import fixtures
from policyengine.testcases.expectations import expected
from policyengine.testcases.scenario import Expected, Step
from policyengine.testcases.values import Reading, raw, reference_path
from policyengine.vocabulary import ROOTS

MOST_CELLS = 10_000
REQUEST = "request"
Choice = ast.Value | ast.TestRequest


@dataclass(frozen=True, slots=True)
class Filled:
    """A row that says everything: the request, what it adds to the world, and what must come of it."""

    request: ast.TestRequest
    steps: tuple[Step, ...]
    given: Mapping[str, str]
    expected: Expected
    reading: Reading
    span: Span


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of a matrix; `filled` when it names the request itself, else the matrix writes requests."""

    reading: Reading
    steps: tuple[Step, ...]
    given: Mapping[str, str]
    filled: Filled | None


def is_request(cell: ast.Cell) -> bool:
    return isinstance(cell, ast.Http | ast.RawHttp | ast.Tool | ast.Action | ast.ActionOn | ast.Reserved)


def name_of(column: ast.Column) -> str:
    if column.fact is None:
        return REQUEST
    return ".".join(reference_path(column.fact)) if column.fact.keys else column.fact.name


# ── Tables ────────────────────────────────────────────────────────────────────────────────────


def table_rows(table: ast.Table, reading: Reading) -> Iterator[Filled]:
    if not check_columns(table, reading):
        return
    for row in table.rows:
        if not fits(row, len(table.columns) + 1, reading):
            continue
        *cells, last = row.cells
        wanted = outcome_in(last, reading)
        sound = [fits_column(cell, column, reading) for cell, column in zip(cells, table.columns, strict=True)]
        if all(sound) and wanted is not None:
            yield filled_row(table.columns, cells, wanted, reading, row.span)


def check_columns(table: ast.Table, reading: Reading) -> bool:
    once(table.columns, "column", reading)
    if not table.rows:
        cells = " | ".join("GET /a" if column.fact is None else "…" for column in table.columns)
        reading.report("E613", "this table has no rows", table.span, f"add one: `| {cells} | allow |`")
        return False
    if not any(column.fact is None for column in table.columns):
        span = table.columns[0].span.to(table.columns[-1].span)
        hint = "add a column `request` with the requests: `| request | … |`"
        reading.report("E613", "this table does not say what is asked", span, hint)
        return False
    return True


def once(columns: Sequence[ast.Column], what: str, reading: Reading) -> None:
    seen: dict[str, Span] = {}
    for column in columns:
        first = seen.setdefault(name_of(column), column.span)
        if first is not column.span:
            code, related = "E613" if what == "column" else "E614", [Related("the other one", first)]
            reading.report(
                code, f"the {what} `{name_of(column)}` is there twice", column.span, "remove one of both", related
            )


def fits(row: ast.Row, width: int, reading: Reading) -> bool:
    if len(row.cells) != width:
        count = "one cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
        message = f"this row has {count}, and {width} are wanted"
        hint = "one for each column, and the outcome in the last"
        reading.report("E613", message, row.span, hint)
    return len(row.cells) == width


def outcome_in(cell: ast.Cell, reading: Reading) -> Expected | None:
    if isinstance(cell, ast.Expected):
        return expected(cell, reading)
    reading.report("E613", f"{quote(cell.span)} is no outcome", cell.span, "the last cell is like `deny by default`")
    return None


def fits_column(cell: ast.Cell, column: ast.Column, reading: Reading) -> bool:
    if column.fact is None:
        message, hint, sound = "is no request", "write it like `GET /path`", is_request(cell)
    else:
        quoted = f'a text is written in quotes: `"{cell.span.text}"`'
        hint = quoted if isinstance(cell, ast.Expected) else "requests stand in the column `request`"
        message, sound = f"is no value of `{name_of(column)}`", isinstance(cell, ast.Value)
    if not sound:
        reading.report("E613", f"{quote(cell.span)} {message}", cell.span, hint)
    return sound


def filled_row(
    columns: Sequence[ast.Column], cells: Sequence[ast.Cell], wanted: Expected, reading: Reading, span: Span
) -> Filled:
    """The cells are known to fit their columns, one of which is the request."""
    steps: list[Step] = []
    given: dict[str, str] = {}
    request: ast.TestRequest | None = None
    for column, cell in zip(columns, cells, strict=True):
        if isinstance(cell, ast.Value):
            steps += steps_of(column, cell, reading)
            given[name_of(column)] = cell.span.text
        elif not isinstance(cell, ast.Expected):
            request = cell
    assert request is not None
    return Filled(request, tuple(steps), given, wanted, reading, span)


def steps_of(column: ast.Column, cell: ast.Value, reading: Reading) -> Iterator[Step]:
    if column.fact is not None and not is_variable(column):
        yield from fixtures.assign(reference_path(column.fact), column.span, cell, reading)


# ── Matrices ──────────────────────────────────────────────────────────────────────────────────


def is_variable(column: ast.Column) -> bool:
    """A plain word that is no root of facts stands for the value wherever it is written."""
    return column.fact is not None and not column.fact.keys and not is_fact(column.fact.name)


def is_fact(name: str) -> bool:
    return "." in name or name in ROOTS


def matrix_cells(matrix: ast.Matrix, reading: Reading) -> Iterator[Cell]:
    if not check_matrix(matrix, reading):
        return
    wanted = stated(matrix, reading)
    missing: list[tuple[Choice, ...]] = []
    columns = [axis.column for axis in matrix.axes]
    for choices in product(*(axis.choices for axis in matrix.axes)):
        here = bound(columns, choices, reading)
        if matrix.shots:
            yield written_out(columns, choices, here)
        elif choices not in wanted and matrix.otherwise is None:
            missing.append(choices)
        else:
            outcome, span = wanted.get(choices) or (matrix.otherwise, choices[-1].span)
            known = expected(outcome, here) if outcome is not None else None
            if known is not None:
                yield Cell(here, (), {}, filled_row(columns, choices, known, here, span))
    if missing:
        report_missing(missing, matrix, reading)


def check_matrix(matrix: ast.Matrix, reading: Reading) -> bool:
    """Whether the cells can be told at all; more may be reported."""
    columns = [axis.column for axis in matrix.axes]
    once(columns, "axis", reading)
    asks = next((column for column in columns if column.fact is None), None)
    number = prod(len(axis.choices) for axis in matrix.axes)
    for axis in matrix.axes:
        check_axis(axis, reading)
    if asks is None and not matrix.shots:
        span = columns[0].span.to(columns[-1].span)
        hint = "add an axis `request in [GET /a]`, or write requests in the braces"
        reading.report("E614", "this matrix does not say what is asked", span, hint)
    elif asks is not None and matrix.shots:
        message, hint = "the requests are an axis and are written out too", "keep one of both"
        reading.report("E614", message, asks.span, hint)
    elif matrix.shots and matrix.otherwise is not None:
        hint = "remove it: each request says what comes of it"
        reading.report("E614", "`otherwise` has no cell to speak of", matrix.otherwise.span, hint)
    elif number > MOST_CELLS:
        message = f"this matrix has {number:,} cells; the limit is {MOST_CELLS:,}"
        reading.report("E614", message, columns[0].span.to(columns[-1].span), "split it")
    else:
        return all(fits_column(choice, axis.column, reading) for axis in matrix.axes for choice in axis.choices)
    return False


def check_axis(axis: ast.Axis, reading: Reading) -> None:
    name = name_of(axis.column)
    if is_variable(axis.column) and name in UNUSABLE["axis"]:
        reading.report("E614", f"`{name}` cannot be a variable", axis.column.span, "choose another name")
    seen: dict[Choice, Span] = {}
    for choice in axis.choices:
        first = seen.setdefault(choice, choice.span)
        if first is not choice.span:
            message, related = f"{quote(choice.span)} is a choice twice", [Related("the other one", first)]
            reading.report("E614", message, choice.span, "remove one of both", related)


def bound(columns: Sequence[ast.Column], choices: Sequence[Choice], reading: Reading) -> Reading:
    """Where the variables have the values of one cell."""
    values = {
        name_of(column): raw(choice, reading)
        for column, choice in zip(columns, choices, strict=True)
        if is_variable(column) and isinstance(choice, ast.Value)
    }
    return replace(reading, variables={**reading.variables, **values})


def written_out(columns: Sequence[ast.Column], choices: Sequence[Choice], here: Reading) -> Cell:
    values = [(c, choice) for c, choice in zip(columns, choices, strict=True) if isinstance(choice, ast.Value)]
    steps = tuple(step for column, choice in values for step in steps_of(column, choice, here))
    return Cell(here, steps, {name_of(column): choice.span.text for column, choice in values}, None)


def stated(matrix: ast.Matrix, reading: Reading) -> dict[tuple[ast.Cell, ...], tuple[ast.Expected, Span]]:
    """What the rows say of which cell."""
    found: dict[tuple[ast.Cell, ...], tuple[ast.Expected, Span]] = {}
    choices = [frozenset[ast.Cell](axis.choices) for axis in matrix.axes]
    for row in matrix.rows:
        if not fits(row, len(matrix.axes) + 1, reading) or outcome_in(row.cells[-1], reading) is None:
            continue
        *cells, last = row.cells
        strange = [number for number, cell in enumerate(cells) if cell not in choices[number]]
        for number in strange:
            report_strange(cells[number], matrix.axes[number], reading)
        if strange:
            continue
        assert isinstance(last, ast.Expected)
        _, first = found.setdefault(tuple(cells), (last, row.span))
        if first is not row.span:
            related = [Related("said first here", first)]
            reading.report("E615", "this cell is stated twice", row.span, "remove one of both", related)
    return found


def report_strange(cell: ast.Cell, axis: ast.Axis, reading: Reading) -> None:
    shown = ", ".join(" ".join(choice.span.text.split()) for choice in axis.choices[:6])
    hint = f"`{name_of(axis.column)}` is one of {shown}"
    reading.report("E615", f"{quote(cell.span)} is not on the axis `{name_of(axis.column)}`", cell.span, hint)


def report_missing(missing: Sequence[tuple[Choice, ...]], matrix: ast.Matrix, reading: Reading) -> None:
    first = " | ".join(" ".join(choice.span.text.split()) for choice in missing[0])
    count = "one cell is" if len(missing) == 1 else f"{len(missing):,} cells are"
    span = matrix.axes[0].span.to(matrix.axes[-1].span)
    hint = f"add a row `| {first} | … |`, or `otherwise deny`"
    reading.report("E615", f"{count} not stated", span, hint)

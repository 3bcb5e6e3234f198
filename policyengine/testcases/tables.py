"""Expands tables and matrices to cases: one for each row or cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from policyengine.checker.type_names import quote_source
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.reserved_words import RESERVED_WORDS
from policyengine.testcases import fixtures
from policyengine.testcases.expectations import read_expectation
from policyengine.testcases.raw_facts import ValueContext, raw_value, reference_path
from policyengine.testcases.scenario import ExpectedOutcome, ScenarioStep
from policyengine.vocabulary import FACT_ROOT_NAMES

MAX_CELLS = 10_000
REQUEST_COLUMN = "request"
AxisChoice = ast.Value | ast.TestRequest


@dataclass(frozen=True, slots=True)
class ExpandedRow:
    """A complete row: the request, the steps that it adds, and the expected outcome."""

    request: ast.TestRequest
    steps: tuple[ScenarioStep, ...]
    given: Mapping[str, str]
    expected: ExpectedOutcome
    reading: ValueContext
    span: Span


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One combination of a matrix. `filled` is set if an axis names the request; otherwise the matrix contains the
    requests.
    """

    reading: ValueContext
    steps: tuple[ScenarioStep, ...]
    given: Mapping[str, str]
    filled: ExpandedRow | None


def is_request_cell(cell: ast.Cell) -> bool:
    return isinstance(
        cell, ast.HttpPattern | ast.RawHttp | ast.ToolPattern | ast.ActionPattern | ast.ActionOn | ast.ReservedWord
    )


def column_name(column: ast.CaseTableColumn) -> str:
    if column.fact is None:
        return REQUEST_COLUMN
    return ".".join(reference_path(column.fact)) if column.fact.keys else column.fact.name


# ── Tables ────────────────────────────────────────────────────────────────────────────────────


def expand_table(table: ast.CaseTable, reading: ValueContext) -> Iterator[ExpandedRow]:
    if not check_columns(table, reading):
        return
    for row in table.rows:
        if not check_width(row, len(table.columns) + 1, reading):
            continue
        *cells, last = row.cells
        wanted = read_outcome_cell(last, reading)
        sound = [check_cell(cell, column, reading) for cell, column in zip(cells, table.columns, strict=True)]
        if all(sound) and wanted is not None:
            yield expand_row(table.columns, cells, wanted, reading, row.span)


def check_columns(table: ast.CaseTable, reading: ValueContext) -> bool:
    check_columns_unique(table.columns, "column", reading)
    if not table.rows:
        cells = " | ".join("GET /a" if column.fact is None else "…" for column in table.columns)
        reading.report("E613", "this table has no rows", table.span, f"add a row: `| {cells} | allow |`")
        return False
    if not any(column.fact is None for column in table.columns):
        span = table.columns[0].span.to(table.columns[-1].span)
        hint = "add a column `request` with the requests: `| request | … |`"
        reading.report("E613", "this table has no requests", span, hint)
        return False
    return True


def check_columns_unique(columns: Sequence[ast.CaseTableColumn], what: str, reading: ValueContext) -> None:
    seen: dict[str, Span] = {}
    for column in columns:
        first = seen.setdefault(column_name(column), column.span)
        if first is not column.span:
            code, related = "E613" if what == "column" else "E614", [RelatedLocation("the other one", first)]
            reading.report(
                code, f"the {what} `{column_name(column)}` appears twice", column.span, "remove one of the two", related
            )


def check_width(row: ast.CaseTableRow, width: int, reading: ValueContext) -> bool:
    if len(row.cells) != width:
        count = "one cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
        message = f"this row has {count} instead of {width}"
        hint = "write one cell for each column, with the outcome in the last"
        reading.report("E613", message, row.span, hint)
    return len(row.cells) == width


def read_outcome_cell(cell: ast.Cell, reading: ValueContext) -> ExpectedOutcome | None:
    if isinstance(cell, ast.ExpectationClause):
        return read_expectation(cell, reading)
    reading.report(
        "E613",
        f"{quote_source(cell.span)} is not an outcome",
        cell.span,
        "write an outcome in the last cell, such as `deny by default`",
    )
    return None


def check_cell(cell: ast.Cell, column: ast.CaseTableColumn, reading: ValueContext) -> bool:
    if column.fact is None:
        message, hint, sound = "is not a request", "write a request such as `GET /path`", is_request_cell(cell)
    else:
        quoted = f'write a string in quotes: `"{cell.span.text}"`'
        hint = quoted if isinstance(cell, ast.ExpectationClause) else "write requests in the column `request`"
        message, sound = f"is not a value of `{column_name(column)}`", isinstance(cell, ast.Value)
    if not sound:
        reading.report("E613", f"{quote_source(cell.span)} {message}", cell.span, hint)
    return sound


def expand_row(
    columns: Sequence[ast.CaseTableColumn],
    cells: Sequence[ast.Cell],
    wanted: ExpectedOutcome,
    reading: ValueContext,
    span: Span,
) -> ExpandedRow:
    """Expand a row. The cells already fit their columns, one of which is the request."""
    steps: list[ScenarioStep] = []
    given: dict[str, str] = {}
    request: ast.TestRequest | None = None
    for column, cell in zip(columns, cells, strict=True):
        if isinstance(cell, ast.Value):
            steps += cell_steps(column, cell, reading)
            given[column_name(column)] = cell.span.text
        elif not isinstance(cell, ast.ExpectationClause):
            request = cell
    assert request is not None
    return ExpandedRow(request, tuple(steps), given, wanted, reading, span)


def cell_steps(column: ast.CaseTableColumn, cell: ast.Value, reading: ValueContext) -> Iterator[ScenarioStep]:
    if column.fact is not None and not is_variable(column):
        yield from fixtures.assign_fact(reference_path(column.fact), column.span, cell, reading)


# ── Matrices ──────────────────────────────────────────────────────────────────────────────────


def is_variable(column: ast.CaseTableColumn) -> bool:
    """Return whether a column is a variable: a single word that is not a root of facts."""
    return column.fact is not None and not column.fact.keys and not is_fact_name(column.fact.name)


def is_fact_name(name: str) -> bool:
    return "." in name or name in FACT_ROOT_NAMES


def expand_matrix(matrix: ast.CaseMatrix, reading: ValueContext) -> Iterator[MatrixCell]:
    if not check_matrix(matrix, reading):
        return
    wanted = stated_outcomes(matrix, reading)
    missing: list[tuple[AxisChoice, ...]] = []
    columns = [axis.column for axis in matrix.axes]
    for choices in product(*(axis.choices for axis in matrix.axes)):
        here = bind_variables(columns, choices, reading)
        if matrix.shots:
            yield expand_cell(columns, choices, here)
        elif choices not in wanted and matrix.otherwise is None:
            missing.append(choices)
        else:
            outcome, span = wanted.get(choices) or (matrix.otherwise, choices[-1].span)
            known = read_expectation(outcome, here) if outcome is not None else None
            if known is not None:
                yield MatrixCell(here, (), {}, expand_row(columns, choices, known, here, span))
    if missing:
        report_missing(missing, matrix, reading)


def check_matrix(matrix: ast.CaseMatrix, reading: ValueContext) -> bool:
    """Report mistakes in a matrix. Return whether its cells can be expanded."""
    columns = [axis.column for axis in matrix.axes]
    check_columns_unique(columns, "axis", reading)
    asks = next((column for column in columns if column.fact is None), None)
    number = prod(len(axis.choices) for axis in matrix.axes)
    for axis in matrix.axes:
        check_axis(axis, reading)
    if asks is None and not matrix.shots:
        span = columns[0].span.to(columns[-1].span)
        hint = "add an axis `request in [GET /a]`, or write requests in the braces"
        reading.report("E614", "this matrix has no requests", span, hint)
    elif asks is not None and matrix.shots:
        message, hint = "the requests are both an axis and written in the braces", "keep one of the two"
        reading.report("E614", message, asks.span, hint)
    elif matrix.shots and matrix.otherwise is not None:
        hint = "remove it: each request already has an outcome"
        reading.report("E614", "`otherwise` applies to no cells", matrix.otherwise.span, hint)
    elif number > MAX_CELLS:
        message = f"this matrix has {number:,} cells; the limit is {MAX_CELLS:,}"
        reading.report("E614", message, columns[0].span.to(columns[-1].span), "split the matrix")
    else:
        return all(check_cell(choice, axis.column, reading) for axis in matrix.axes for choice in axis.choices)
    return False


def check_axis(axis: ast.CaseMatrixAxis, reading: ValueContext) -> None:
    name = column_name(axis.column)
    if is_variable(axis.column) and name in RESERVED_WORDS["axis"]:
        reading.report("E614", f"`{name}` cannot be a variable", axis.column.span, "choose another name")
    seen: dict[AxisChoice, Span] = {}
    for choice in axis.choices:
        first = seen.setdefault(choice, choice.span)
        if first is not choice.span:
            message, related = (
                f"{quote_source(choice.span)} appears twice",
                [RelatedLocation("the other one", first)],
            )
            reading.report("E614", message, choice.span, "remove one of the two", related)


def bind_variables(
    columns: Sequence[ast.CaseTableColumn], choices: Sequence[AxisChoice], reading: ValueContext
) -> ValueContext:
    """Return the context with the variables bound to the values of one cell."""
    values = {
        column_name(column): raw_value(choice, reading)
        for column, choice in zip(columns, choices, strict=True)
        if is_variable(column) and isinstance(choice, ast.Value)
    }
    return replace(reading, variables={**reading.variables, **values})


def expand_cell(
    columns: Sequence[ast.CaseTableColumn], choices: Sequence[AxisChoice], here: ValueContext
) -> MatrixCell:
    values = [(c, choice) for c, choice in zip(columns, choices, strict=True) if isinstance(choice, ast.Value)]
    steps = tuple(step for column, choice in values for step in cell_steps(column, choice, here))
    return MatrixCell(here, steps, {column_name(column): choice.span.text for column, choice in values}, None)


def stated_outcomes(
    matrix: ast.CaseMatrix, reading: ValueContext
) -> dict[tuple[ast.Cell, ...], tuple[ast.ExpectationClause, Span]]:
    """Return the outcome that a row states for each cell, and the place of the row."""
    found: dict[tuple[ast.Cell, ...], tuple[ast.ExpectationClause, Span]] = {}
    choices = [frozenset[ast.Cell](axis.choices) for axis in matrix.axes]
    for row in matrix.rows:
        if not check_width(row, len(matrix.axes) + 1, reading) or read_outcome_cell(row.cells[-1], reading) is None:
            continue
        *cells, last = row.cells
        strange = [number for number, cell in enumerate(cells) if cell not in choices[number]]
        for number in strange:
            report_off_axis(cells[number], matrix.axes[number], reading)
        if strange:
            continue
        assert isinstance(last, ast.ExpectationClause)
        _, first = found.setdefault(tuple(cells), (last, row.span))
        if first is not row.span:
            related = [RelatedLocation("first stated here", first)]
            reading.report("E615", "this cell is stated twice", row.span, "remove one of the two", related)
    return found


def report_off_axis(cell: ast.Cell, axis: ast.CaseMatrixAxis, reading: ValueContext) -> None:
    shown = ", ".join(" ".join(choice.span.text.split()) for choice in axis.choices[:6])
    hint = f"`{column_name(axis.column)}` must be one of {shown}"
    reading.report(
        "E615", f"{quote_source(cell.span)} is not on the axis `{column_name(axis.column)}`", cell.span, hint
    )


def report_missing(missing: Sequence[tuple[AxisChoice, ...]], matrix: ast.CaseMatrix, reading: ValueContext) -> None:
    first = " | ".join(" ".join(choice.span.text.split()) for choice in missing[0])
    count = "one cell is" if len(missing) == 1 else f"{len(missing):,} cells are"
    span = matrix.axes[0].span.to(matrix.axes[-1].span)
    hint = f"add a row `| {first} | … |`, or `otherwise deny`"
    reading.report("E615", f"{count} not stated", span, hint)

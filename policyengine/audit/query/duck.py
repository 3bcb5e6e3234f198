"""Runs DuckDB in a sandbox: it reads only the files of a question, through links in a private folder, loads no
extensions, and has no access to the network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.audit.files import GZIP
from policyengine.audit.query.extract_sql import (
    quote,
    select_lines,
    select_matching_rows,
    select_raw_lines,
    select_rows,
)
from policyengine.audit.query.fields import FIELDS, stored_fields
from policyengine.audit.query.query import AuditQuery, QueryAnswer, QueryError, Row
from policyengine.audit.query.raw_lines import count_lines, write_raw_lines
from policyengine.audit.query.sql import (
    Statement,
    count_statement,
    group_statement,
    list_statement,
    loading_condition,
    oldest_statement,
)
from policyengine.audit.query.stream import SkippedLines, write_clean_copy
from policyengine.bounded_files import begins_with
from policyengine.install_hints import install_command

if TYPE_CHECKING:
    import duckdb

EXTRA = "audit"
TEMPORARY = ".policyengine-audit-"  # prefix of the name of the private folder
MAX_MEMORY = 4 * 2**30  # bytes; beyond it, DuckDB uses files in the private folder
MAX_DUCKDB_LINE_BYTES = 16 * 2**20  # bytes; the streaming reader reads files with longer lines
ROWS_AT_ONCE = 10_000
LINES_AT_ONCE = 500
MAX_ERROR_LENGTH = 200  # characters, because a message of DuckDB can quote a line
ROWS_IN_GROUP = 16_384  # rows of a row group, which is read as a whole
LINE_COLUMNS = {"kind": "VARCHAR", "line": "VARCHAR"}
ALWAYS = ("time", "kind")
CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}


def memory_limit() -> int:
    """Return how much memory DuckDB may use, in bytes: at most MAX_MEMORY and half of the machine's memory."""
    return min(MAX_MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def has_duckdb() -> bool:
    from importlib.util import find_spec

    return find_spec("duckdb") is not None


def can_name(path: Path) -> bool:
    """Return whether DuckDB can name a file: its path must be valid Unicode."""
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        return False
    return True


def lines_of(files: Sequence[str], longest: int = MAX_DUCKDB_LINE_BYTES) -> dict[str, object]:
    """Return the parameters of the statements of `select_rows`."""
    return {"files": list(files), "longest": max(longest + 1, MAX_DUCKDB_LINE_BYTES)}


def connect_privately(
    folder: Path, files: Sequence[Path] = (), *, threads: int | None = None, memory: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Connect to a new database in a private folder, which reads only these files and has no access to the network. It
    uses `threads` threads (default: all cores) and `memory` bytes (default: as `memory_limit`)."""
    import duckdb

    limits = {"memory_limit": f"{memory or memory_limit()}B"}
    limits |= {} if threads is None else {"threads": str(threads)}
    connection = duckdb.connect(str(folder / "rows.duckdb"), config={**CLOSED, **limits})
    for setting, value in (
        ("temp_directory", str(folder / "spill")),
        ("allowed_directories", [str(folder)]),
        ("allowed_paths", [str(path.resolve()) for path in files]),  # DuckDB resolves links before it compares them
    ):
        connection.execute("SET VARIABLE value = $1", [value])
        connection.execute(f"SET {setting} = getvariable('value')")
    connection.execute("SET enable_progress_bar = false")  # DuckDB would draw it on stdout
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def open_private_database(prefix: str, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in a private folder, which is removed at the end. It uses `memory` bytes of memory. Raises
    QueryError, OSError."""
    if not has_duckdb():
        raise QueryError("DuckDB is not installed", install_command(EXTRA))
    import duckdb

    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        connection = connect_privately(Path(name).resolve(), memory=memory)
        try:
            yield connection
        except duckdb.Error as error:
            raise QueryError(f"DuckDB failed: {str(error).splitlines()[0]}") from None
        finally:
            connection.close()


class DuckReader:
    """Answers questions with DuckDB. `logs` are JSON Lines files, `packed` are files from `audit pack`. Create it with
    `open`."""

    def __init__(self, folder: Path, logs: Sequence[Path], packed: Sequence[Path], threads: int | None = None) -> None:
        self._folder, self._logs, self._packed, self._threads = folder, logs, packed, threads
        self._links: dict[str, Path] = {}
        self._loaded: frozenset[str] = frozenset()
        self.skipped = SkippedLines()
        self._connection = self._connect()

    @property
    def folder(self) -> Path:
        """The private folder, which is removed at the end."""
        return self._folder

    @staticmethod
    @contextmanager
    def open(
        logs: Sequence[Path], packed: Sequence[Path] = (), beside: Path | None = None, threads: int | None = None
    ) -> Iterator[DuckReader]:
        """Open a reader whose private folder is in the folder `beside` (default: the system's temporary folder). DuckDB
        uses `threads` threads (default: all cores). Raises QueryError, OSError."""
        if not has_duckdb():
            raise QueryError("packed logs are read with DuckDB", install_command(EXTRA))
        import duckdb

        for path in (*logs, *packed, beside or Path()):
            if not can_name(path):
                raise QueryError(f"`{path}`: DuckDB cannot open a path that is not valid Unicode", "rename it")
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=beside) as name:
            reader = DuckReader(Path(name).resolve(), logs, packed, threads)
            try:
                yield reader
            except duckdb.Error as error:
                raise QueryError(f"DuckDB failed: {str(error).splitlines()[0]}") from None
            finally:
                reader._connection.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Connect to a database in the private folder, and restrict what it may access."""
        return connect_privately(self._folder, (*self._logs, *self._packed), threads=self._threads)

    # ── Rows ──────────────────────────────────────────────────────────────────────────────────

    def _load(self, queries: Sequence[AuditQuery], also: frozenset[str]) -> None:
        """Make the fields that questions need available as `events`. Raises OSError, QueryError."""
        needed = frozenset(ALWAYS).union(also, *(one.stored for one in queries))
        if needed <= self._loaded:
            return
        alone = queries[0] if len(queries) == 1 and not also else None
        narrow = loading_condition(alone) if alone is not None and self._logs else None
        self._loaded = frozenset() if narrow is not None else needed
        names = [name for name in FIELDS if name in needed]
        columns = ", ".join(map(quote, names))
        parts = []
        if self._packed:
            paths = [self._link(path, ".parquet") for path in self._packed]
            self._check_packed(paths)
            self._set_variable("packed", paths)
            parts.append(f"SELECT {columns} FROM read_parquet(getvariable('packed'))")
        if self._logs:
            if alone is not None and narrow is not None:
                filtered = [name for name in FIELDS if name in stored_fields(alone.filter_names)]
                self._load_lines(select_matching_rows(names, filtered, narrow.text), narrow.parameters)
            else:
                self._load_lines(select_rows(names), {})
            parts.append(f"SELECT {columns} FROM lines")
        self._connection.execute(f"CREATE OR REPLACE VIEW events AS {' UNION ALL '.join(parts)}")

    def _load_lines(self, text: str, values: Mapping[str, object]) -> None:
        """Read the JSON Lines files into the table `lines`. A file with lines that DuckDB cannot read is replaced by a
        clean copy. Raises OSError, QueryError."""
        import duckdb

        links, create = self._link_logs(), f"CREATE OR REPLACE TABLE lines AS {text}"
        try:
            self._connection.execute(create, {**values, **lines_of(links)})
            found = self._connection.execute("SELECT DISTINCT filename FROM lines WHERE kind IS NULL").fetchall()
            damaged = [link for link in links if (link,) in found]
        except (duckdb.IOException, duckdb.InvalidInputException):  # a line is too long, or a file is cut off
            self._connection.execute(f"{create} LIMIT 0", {**values, **lines_of([self._empty()])})
            damaged = links
        for link in damaged:
            copy, longest = self._clean_copy(link)
            self._connection.execute("DELETE FROM lines WHERE filename = $1", [link])
            self._connection.execute(f"INSERT INTO lines {text}", {**values, **lines_of([copy], longest)})
            Path(copy).unlink()

    def pack(self, to: Path) -> int:
        """Write all lines of the JSON Lines files, each as it is, to a Parquet file in the private folder, and return
        their number. Raises OSError, QueryError."""
        import duckdb

        links, names = self._link_logs(), tuple(FIELDS)
        counts = list(map(count_lines, self._logs))  # counted first, because servers may append lines
        try:
            self._copy_to(to, select_lines(names), links)
            valid = self._one("SELECT count(kind) FROM read_parquet($1)", [str(to)])
            malformed = self._one("SELECT count(*) FROM read_parquet($1) WHERE kind IS NULL", [str(to)])
            complete = not malformed and -1 not in counts and valid >= sum(counts)
        except (duckdb.IOException, duckdb.InvalidInputException):
            complete = False
        if not complete:  # a line is malformed, blank or too long
            copies = [(copy, self._raw_copy(link, copy)) for link in links for copy in [f"{link}.raw"]]
            self._copy_to(
                to, select_raw_lines(names), [copy for copy, _ in copies], max(longest for _, longest in copies)
            )
        return int(self._one("SELECT count(*) FROM read_parquet($1)", [str(to)]))

    def _raw_copy(self, link: str, copy: str) -> int:
        """Write a copy of a file that has each line as text beside its record, and return the length of its longest
        line. Raises OSError.
        """
        return write_raw_lines(self._links[link], Path(copy), self.skipped)

    def lines(self, kind: str | None = None) -> Iterator[tuple[int, bool, str | None]]:
        """Yield the lines of a packed file in order, or only the lines of a kind: the number of the line, whether it is
        malformed, and its text, which is None for a line that was blank or too long. Raises QueryError."""
        import duckdb

        [path] = self._packed
        link = self._link(path, ".parquet")
        only = "" if kind is None else "WHERE kind = $kind"
        try:
            self._check_columns(link, LINE_COLUMNS)
            found = self._connection.execute(
                f"SELECT file_row_number + 1, kind IS NULL, line FROM read_parquet($file, file_row_number=true) {only}",
                {"file": link, **({} if kind is None else {"kind": kind})},
            )
            while rows := found.fetchmany(LINES_AT_ONCE):
                yield from rows
        except duckdb.Error as error:
            what = str(error).splitlines()[0].replace(link, str(path))[:MAX_ERROR_LENGTH]
            raise QueryError(f"`{path}` cannot be read: {what}", "if the file is damaged, pack the log again") from None

    def _copy_to(self, to: Path, text: str, files: Sequence[str], longest: int = MAX_DUCKDB_LINE_BYTES) -> None:
        self._connection.execute(
            f"COPY ({text}) TO $packed (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_IN_GROUP})",
            {**lines_of(files, longest), "packed": str(to)},
        )

    def _link_logs(self) -> list[str]:
        return [self._link(path, ".jsonl.gz" if begins_with(path, GZIP) else ".jsonl") for path in self._logs]

    def _empty(self) -> str:
        empty = self._folder / "empty.jsonl"
        empty.touch()
        return str(empty)

    def _clean_copy(self, link: str) -> tuple[str, int]:
        """Return a copy of a file that has only valid lines, and the length of its longest line. Raises OSError."""
        copy = self._folder / f"clean-{Path(link).name.removesuffix('.gz')}"
        longest = write_clean_copy(self._links[link], copy, self.skipped)
        return str(copy), longest

    def _link(self, path: Path, suffix: str) -> str:
        """Link to a file by a name without special characters, and return the name."""
        link = self._folder / f"{len(self._links)}{suffix}"
        link.symlink_to(path.resolve())
        self._links[str(link)] = path
        return str(link)

    def _set_variable(self, name: str, value: object) -> None:
        self._connection.execute(f"SET VARIABLE {name} = $1", [value])

    def _check_packed(self, paths: Sequence[str]) -> None:
        """Check that the Parquet files have the columns of a packed log. Raises QueryError."""
        for path in paths:
            self._check_columns(path, {name: field.kind.value for name, field in FIELDS.items()})

    def _check_columns(self, path: str, wanted: Mapping[str, str]) -> None:
        """Check that a Parquet file has these columns. Raises QueryError."""
        described = self._connection.execute("SELECT * FROM read_parquet($1) LIMIT 0", [path]).description or []
        found = {str(one[0]): str(one[1]) for one in described}
        if any(found.get(name) != kind for name, kind in wanted.items()):
            raise QueryError(
                f"`{self._links[path]}` is not a packed log", "create a packed log with `policyengine audit pack`"
            )

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def answer(self, queries: Sequence[AuditQuery], also: frozenset[str] = frozenset()) -> list[QueryAnswer]:
        """Answer questions. Stored fields in `also` are loaded, too, for later questions. Raises OSError,
        QueryError."""
        self._load(queries, also)
        return [self._list(one) if one.lists else self._groups(one) for one in queries]

    def rows(self, query: AuditQuery) -> Iterator[Row]:
        """Yield all records that match, in the order in which they are stored. Raises OSError, QueryError."""
        self._load([query], frozenset())
        found = self._run(list_statement(query))
        while rows := found.fetchmany(ROWS_AT_ONCE):
            yield from rows

    def _list(self, query: AuditQuery) -> QueryAnswer:
        """List the newest records. If many records match, only the fields of the filters are read at first, to find the
        time from which all fields are needed."""
        count, newest = count_statement(query), query
        total = int(self._one(count.text, count.parameters))
        if total > query.limit:
            oldest = oldest_statement(query)
            newest = replace(query, since=self._one(oldest.text, oldest.parameters))
        return QueryAnswer(query, self._run(list_statement(newest)).fetchall(), total)

    def _groups(self, query: AuditQuery) -> QueryAnswer:
        found = self._run(group_statement(query)).fetchall()
        rows: list[Row] = [row[:-1] for row in found]
        return QueryAnswer(query, rows[::-1] if query.by_time else rows, found[0][-1] if found else 0)

    def _run(self, statement: Statement) -> Any:
        return self._connection.execute(statement.text, statement.parameters)

    def _one(self, text: str, parameters: Sequence[object] | Mapping[str, object]) -> Any:
        row = self._connection.execute(text, parameters).fetchone()
        return row[0] if row else 0

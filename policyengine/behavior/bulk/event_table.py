"""A table of events on disk, which DuckDB sorts by day and agent. Names are numbers in the table; numpy converts the
columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from policyengine.audit.query.duck import open_private_database
from policyengine.audit.query.query import QueryError
from policyengine.behavior.bulk.bulk_error import BulkError
from policyengine.behavior.events import FAILED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.log_events import FailureReport
from policyengine.behavior.state import CLAMPED, MAX_CALLERS, RELEASED, CallerMoment
from policyengine.install_hints import install_command

TEMPORARY: Final = "policyengine-events-"  # prefix of the name of the private folder
DATABASE_BYTES: Final = 512 * 2**20  # of memory that DuckDB uses; beyond that, DuckDB uses files in the private folder
BATCH: Final = 131_072  # events that are inserted together
READ: Final = 524_288  # events that are read together; an agent with more events is read alone
# Columns with the types of numpy and of DuckDB: the number of days that began before the event (DayStart), and the
# numbers of the agent, the caller and the class.
COLUMNS: Final = (
    ("starts", "i4", "INTEGER"),
    ("agent", "i4", "INTEGER"),
    ("caller", "i4", "INTEGER"),
    ("class", "i4", "INTEGER"),
    ("place", "i8", "BIGINT"),
    ("moment", "i8", "BIGINT"),
    ("endpoint", "u4", "UINTEGER"),
    ("run", "u4", "UINTEGER"),
    ("shape", "u4", "UINTEGER"),
    ("letter", "u4", "UINTEGER"),
    ("outcome", "i1", "TINYINT"),
    ("flags", "i1", "TINYINT"),
)
PACK: Final = Struct("<iiiiqqIIIIbb").pack
READ_COLUMNS: Final = ("caller", "moment", "class", "endpoint", "run", "outcome", "flags", "shape", "letter")
REQUEST_COLUMNS: Final = ("moment", "caller", "endpoint", "run", "outcome")


class EventTable:
    """Events in the order in which they are added, each with the number of days that begin before it. Create it with
    `open`."""

    def __init__(self, connection: Any, tagger: Tagger) -> None:
        self._connection, self._tag = connection, tagger.tag
        self._callers: dict[Caller, tuple[int, int]] = {}  # the numbers of each caller and its agent
        self._agents: dict[tuple[str, str], int] = {}
        self._classes: dict[str, int] = {}
        self._packed = bytearray()
        self._place = 0
        columns = ", ".join(f'"{name}" {kind}' for name, _, kind in COLUMNS)
        connection.execute(f"CREATE TABLE events ({columns})")

    @staticmethod
    @contextmanager
    def open(tagger: Tagger) -> Iterator[EventTable]:
        """Open a table in a private folder, which is removed at the end. Raises BulkError, OSError."""
        check_duckdb()
        try:
            with open_private_database(TEMPORARY, DATABASE_BYTES) as connection:
                yield EventTable(connection, tagger)
        except QueryError as error:
            raise BulkError(error.message, "check whether the disk is full") from None

    def add(self, event: BehaviorEvent | FailureReport, starts: int) -> None:
        """Add an event, or the report of a failure, after this number of starts of days. Raises BulkError."""
        caller = event.caller
        numbers = self._callers.get(caller) or self._add_caller(caller)
        self._place += 1
        if isinstance(event, BehaviorEvent):
            kind = self._classes.setdefault(event.group, len(self._classes))
            self._packed += PACK(
                starts, numbers[1], numbers[0], kind, self._place, event.at, self._tag(event.endpoint), event.run,
                event.shape, event.letter, event.outcome, CLAMPED * event.clamped + RELEASED * event.released,
            )  # fmt: skip
        else:
            self._packed += PACK(starts, numbers[1], numbers[0], 0, self._place, event.at, 0, 0, 0, 0, FAILED, 0)
        if self._place % BATCH == 0:
            self._insert()

    def _add_caller(self, caller: Caller) -> tuple[int, int]:
        if len(self._callers) >= MAX_CALLERS:
            raise too_many_callers()
        agent = self._agents.setdefault((caller.issuer, caller.agent), len(self._agents))
        found = self._callers[caller] = len(self._callers), agent
        return found

    def _insert(self) -> None:
        """Insert the events that were added since the last time."""
        import numpy as np

        found = np.frombuffer(bytes(self._packed), np.dtype([(name, f"<{kind}") for name, kind, _ in COLUMNS]))
        self._connection.register("batch", {name: np.ascontiguousarray(found[name]) for name, _, _ in COLUMNS})
        self._connection.execute("INSERT INTO events SELECT * FROM batch")
        self._connection.unregister("batch")
        self._packed.clear()

    def runs(self, starts: int) -> Iterator[tuple[Caller, Iterator[CallerMoment]]]:
        """Yield runs of consecutive events of one caller, each with the caller: the events after this number of starts
        of days, agent by agent, in order. Read each run before the next run."""
        if self._packed:
            self._insert()
        callers, classes = list(self._callers), list(self._classes) or [""]
        for first, last in self._agent_ranges(starts):
            rows = self._read(starts, first, last)
            for number, found in groupby(rows, key=itemgetter(0)):
                yield callers[number], ((at, classes[kind], *rest) for _, at, kind, *rest in found)

    def _agent_ranges(self, starts: int) -> list[tuple[int, int]]:
        """Return ranges of agents, each with about READ events."""
        counts = self._connection.execute(
            "SELECT agent, count(*) FROM events WHERE starts = $1 GROUP BY agent ORDER BY agent", [starts]
        ).fetchall()
        ranges: list[tuple[int, int]] = []
        events = READ
        for agent, count in counts:
            if events + count > READ:
                ranges.append((agent, agent))
                events = 0
            events += count
            ranges[-1] = ranges[-1][0], agent
        return ranges

    def _read(self, starts: int, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        columns = ", ".join(f'"{name}"' for name in READ_COLUMNS)
        found = self._connection.execute(
            f"SELECT {columns} FROM events WHERE starts = $1 AND agent BETWEEN $2 AND $3 ORDER BY agent, place",
            [starts, first, last],
        ).fetchnumpy()
        return zip(*(found[name].tolist() for name in READ_COLUMNS), strict=True)

    def requests(self, starts: int) -> Iterator[tuple[int, Caller, int, int, int]]:
        """Yield the decisions after this number of starts of days, in order: the time, the caller, the tags of the
        endpoint and the run, and the outcome."""
        callers, execute = list(self._callers), self._connection.execute
        bounds = "SELECT coalesce(min(place), 0), coalesce(max(place), -1) FROM events WHERE starts = $1"
        first, last = execute(bounds, [starts]).fetchone()
        columns = ", ".join(f'"{name}"' for name in REQUEST_COLUMNS)
        query = f"SELECT {columns} FROM events WHERE place BETWEEN $1 AND $2 AND outcome <> {FAILED} ORDER BY place"
        for begin in range(first, last + 1, READ):
            found = execute(query, [begin, min(begin + READ - 1, last)]).fetchnumpy()
            for at, number, *rest in zip(*(found[name].tolist() for name in REQUEST_COLUMNS), strict=True):
                yield at, callers[number], *rest

    def latest_places(self) -> dict[Caller, int]:
        """Return the place of the latest decision of each caller."""
        found = self._connection.execute(
            f"SELECT caller, max(place) FROM events WHERE outcome <> {FAILED} GROUP BY caller"
        ).fetchall()
        callers = list(self._callers)
        return {callers[number]: place for number, place in found}


def check_duckdb() -> None:
    """Check that DuckDB and numpy are installed. Raises BulkError."""
    if find_spec("duckdb") is None or find_spec("numpy") is None:
        raise BulkError("DuckDB and numpy are not installed", install_command("audit,behavior"))


def too_many_callers() -> BulkError:
    return BulkError(
        f"the logs have more than {MAX_CALLERS:,} callers",
        "learn with `--on thread`, which drops the callers that have been inactive for the longest time",
    )

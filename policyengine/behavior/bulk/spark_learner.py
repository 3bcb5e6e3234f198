"""Learns from logs on Spark: processes read parts of the logs and fold the events of their agents, day by day; this
process merges the sums of each day into a model, and searches for groups in the merged requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import msgspec

from policyengine.audit.files import Report
from policyengine.behavior.bulk.day_starts import DayPlaces, DayStart, merge_starts, start_places
from policyengine.behavior.bulk.event_table import too_many_callers
from policyengine.behavior.bulk.line_filter import LogTally
from policyengine.behavior.bulk.log_splits import SPLIT_BYTES, WHOLE, LogSplit, SplitNotes, renumber, split_logs
from policyengine.behavior.bulk.placed_requests import PlacedRequests
from policyengine.behavior.bulk.spark_partitions import (
    DECISION,
    EVENT,
    EVENT_COLUMNS,
    LINE_COLUMNS,
    NO_TIME,
    NOTES,
    OUTCOME,
    READY,
    REQUESTS,
    ROW,
    SUMS,
    FoldStep,
    PackedRow,
    WorkerSetup,
    agent_key,
    filter_lines,
    fold_rows,
    read_lines_of,
)
from policyengine.behavior.learn import ModelSums
from policyengine.behavior.learn_logs import known_times
from policyengine.behavior.recent_requests import FirstReady
from policyengine.behavior.row import pack_row, unpack_row
from policyengine.behavior.state import DAY, MAX_CALLERS, BehaviorState, CallerRow

FIRST: Final = -(2**62)
BLOCK_BITS: Final = 33  # low bits of a `monotonically_increasing_id`, which are the place in the partition
PLACED: Final = ["agent", "kind", "place", "data"]
LINES_OF: Final = ["agent", "kind", "place", "at", "data"]
WHOLE_BYTES: Final = 64 * 2**20  # assumed size of a compressed or packed file


def learn_on_spark(
    session: Any,
    logs: Sequence[Path],
    setup: WorkerSetup,
    state: BehaviorState,
    now: int,
    tell: Report,
    split_bytes: int = SPLIT_BYTES,
) -> LogTally:
    """Learn as `learn_lines` does, with the same result, and return the tally. `now` is in milliseconds. Raises
    BulkError, OSError, and the errors of Spark."""
    return SparkLearner(session, setup, state).learn(split_logs(logs, split_bytes), now, tell)


class SparkLearner:
    """Learns into a state with a session of Spark, which keeps intermediate results until the end."""

    def __init__(self, session: Any, setup: WorkerSetup, state: BehaviorState) -> None:
        self._session, self._setup, self._state = session, setup, state
        self._partitions = 1

    def learn(self, splits: Sequence[LogSplit], now: int, tell: Report) -> LogTally:
        size = sum(WHOLE_BYTES if split.end == WHOLE else split.end - split.start for split in splits)
        self._partitions = max(self._session.sparkContext.defaultParallelism, size // SPLIT_BYTES)
        self._session.conf.set("spark.sql.shuffle.partitions", str(self._partitions))
        events = self._filter(self._with_agents(self._order_lines(self._read(splits), splits, tell)), now)
        tally = LogTally()
        for row in events.where(f"kind = {SUMS}").collect():
            tally.merge(msgspec.msgpack.decode(row.data, type=LogTally))
        if tally.learned:
            self._fold(events.where(f"kind = {EVENT}"), tally.latest)
        return tally

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def _read(self, splits: Sequence[LogSplit]) -> Any:
        packed = [(bytearray(msgspec.msgpack.encode(split)),) for split in splits]
        parts = self._session.createDataFrame(packed, "data binary").repartition(max(len(splits), 1))
        return parts.mapInArrow(partial(read_lines_of, setup=self._setup), LINE_COLUMNS).persist()

    def _order_lines(self, lines: Any, splits: Sequence[LogSplit], tell: Report) -> Any:
        """Return the lines with their places in the order of times, as `heapq.merge` orders lines of several logs: a
        line that is earlier than a line before it in its log directly follows the line before it."""
        from pyspark.sql import functions as F

        notes = {(row.log, row.part): row for row in lines.where(f"kind = {NOTES}").collect()}
        tell_notes(splits, notes, tell)
        columns = "log int, part int, before long, first long"
        before = self._session.createDataFrame(parts_before(splits, notes), columns)
        keyed = lines.where(f"kind <> {NOTES}").join(F.broadcast(before), ["log", "part"])
        if splits[-1].log == 0:
            return keyed.withColumn("place", F.col("first") + F.col("line"))
        keyed = keyed.withColumn("top", F.greatest("top", "before"))
        ordered = keyed.orderBy("top", "log", "part", "line").withColumn("id_", F.monotonically_increasing_id())
        ordered = ordered.withColumn("block", F.shiftright("id_", BLOCK_BITS)).persist()
        counts = {row.block: row["count"] for row in ordered.groupBy("block").count().collect()}
        starts = list(zip(sorted(counts), accumulate(map(counts.__getitem__, sorted(counts)), initial=0), strict=False))
        blocks = F.broadcast(self._session.createDataFrame(starts, "block long, start long"))
        numbered = ordered.join(blocks, "block")
        return numbered.withColumn("place", F.col("start") + F.col("id_").bitwiseAND((1 << BLOCK_BITS) - 1))

    def _with_agents(self, lines: Any) -> Any:
        """Return the lines with the agents of outcomes, which are those of their decisions."""
        from pyspark.sql import functions as F

        decisions, outcomes = lines.where(f"kind = {DECISION}"), lines.where(f"kind = {OUTCOME}")
        known = decisions.select(PLACED)
        if not outcomes.isEmpty():
            agents = decisions.where("agent NOT LIKE '#%'").select("id", "agent")
            known = known.unionByName(outcomes.drop("agent").join(agents, "id").select(PLACED))
        return known.withColumn("at", F.lit(NO_TIME).cast("long")).select(LINES_OF)

    def _filter(self, lines: Any, now: int) -> Any:
        known = self._session.sparkContext.broadcast(known_times(self._state))
        return self._by_agent(lines, "place").mapInArrow(
            partial(filter_shared, setup=self._setup, known=known, now=now), EVENT_COLUMNS
        ).persist()  # fmt: skip

    def _by_agent(self, rows: Any, *order: str) -> Any:
        return rows.repartition(self._partitions, "agent").sortWithinPartitions("agent", *order)

    # ── Days ──────────────────────────────────────────────────────────────────────────────────

    def _fold(self, events: Any, latest: int) -> None:
        state, settings_of = self._state, self._setup.policies().settings_of
        rows, last = self._first_rows(), max(state.model.content.made, latest)
        groups = settings_of("").groups
        starts = self._day_starts(events, groups)
        begins = [None, *(place for place, _ in starts)]
        ends: list[tuple[int | None, DayStart]] = [*starts, (None, DayStart(last, learns=True, searches=False))]
        for begin, (end, start) in zip(begins, ends, strict=True):
            part = events if begin is None else events.where(f"place >= {begin}")
            part = part if end is None else part.where(f"place < {end}")
            step = partial(fold_rows, setup=self._setup, step=FoldStep(state.model.payload, start.at))
            folded = self._by_agent(rows.unionByName(part.select(rows.columns)), "kind", "place").mapInArrow(
                step, EVENT_COLUMNS
            )
            folded = folded.localCheckpoint(eager=True)
            if start.learns:
                self._learn_model(folded, start.at)
            if groups:
                self._add_requests(folded)
            if start.searches and state.searches:
                self._search_groups(folded, start.at)
            rows = folded.where(f"kind = {ROW}")
        self._load_rows(rows)

    def _learn_model(self, folded: Any, at: int) -> None:
        """Learn a model from the sums of all processes."""
        state, sums = self._state, ModelSums(self._setup.policies().settings_of, at)
        for row in folded.where(f"kind = {SUMS}").collect():
            sums.merge_packed(msgspec.msgpack.decode(row.data, type=bytes))
        before = state.model
        state.model = sums.learn(before.content.serial + 1, state.tags, before)
        if state.on_model is not None:
            state.on_model(before, state.model, list, self._setup.policies().settings_of)
        state.learned_day = at // DAY

    def _add_requests(self, folded: Any) -> None:
        """Add the requests of all processes, in the order of the logs, to those of earlier days."""
        requests = PlacedRequests()
        for row in folded.where(f"kind = {REQUESTS}").toLocalIterator():
            requests.merge_packed(row.data)
        requests.add_to(self._state.requests)

    def _search_groups(self, folded: Any, at: int) -> None:
        """Search for groups, with the ready agents of all processes."""
        ready = FirstReady()
        for row in folded.where(f"kind = {READY}").toLocalIterator():
            ready.merge_packed(row.data)
        self._state.search_groups(at, ready.times())

    def _day_starts(self, events: Any, groups: bool) -> list[tuple[int, DayStart]]:
        """Return the places and the starts of days: models are learned and, if policies read groups, groups are
        searched for."""
        learned = self._start_places(events, self._state.learned_day)
        return merge_starts(learned, self._start_places(events, self._state.model.content.grouped) if groups else ())

    def _start_places(self, events: Any, latest: int) -> list[tuple[int, int]]:
        """Return the places and times of the decisions that begin a day after the day `latest`."""
        from pyspark.sql import functions as F

        decisions = events.where(f"at <> {NO_TIME}").selectExpr("place", "at", f"at div {DAY} AS day")
        firsts = decisions.groupBy("day").agg(
            F.min(F.struct("place", "at")).alias("first"), F.max("place").alias("last")
        )
        days = [DayPlaces(row.day, row.first.place, row.first.at, row.last) for row in firsts.collect()]
        known = start_places(days, latest)
        if known is not None:
            return known
        found: list[tuple[int, int]] = []
        day, place = latest, -1
        while True:
            due = decisions.where(f"place > {place} AND (day > {day} OR day < {day - 1})")
            first = due.selectExpr("min(struct(place, at)) AS first").first().first
            if first is None:
                return found
            place, day = first.place, first.at // DAY
            found.append((place, first.at))

    def _first_rows(self) -> Any:
        """Return the rows of the state, in its order, with places before those of all events."""
        rows = self._state.rows
        packed = [
            (agent_key(caller), ROW, place - len(rows), NO_TIME,
             bytearray(msgspec.msgpack.encode(PackedRow(caller, kept.group, pack_row(kept.row)))))
            for place, (caller, kept) in enumerate(rows.items())
        ]  # fmt: skip
        return self._session.createDataFrame(packed, EVENT_COLUMNS)

    def _load_rows(self, rows: Any) -> None:
        """Replace the rows of the state. Raises BulkError if there are too many."""
        if rows.count() > MAX_CALLERS:
            raise too_many_callers()
        found: dict[Any, CallerRow] = {}
        for each in rows.orderBy("place").toLocalIterator():
            packed = msgspec.msgpack.decode(each.data, type=PackedRow)
            found[packed.caller] = CallerRow(packed.group, unpack_row(packed.row))
        self._state.rows = found


def filter_shared(batches: Any, setup: WorkerSetup, known: Any, now: int) -> Any:
    """Call `filter_lines` with a broadcast value."""
    return filter_lines(batches, setup, known.value, now)


def tell_notes(splits: Sequence[LogSplit], notes: dict[tuple[int, int], Any], tell: Report) -> None:
    """Report the lines that were skipped."""
    lines: defaultdict[str, int] = defaultdict(int)
    for split in splits:
        found = msgspec.msgpack.decode(notes[split.log, split.number].data, type=SplitNotes)
        for message in found.messages:
            tell(renumber(message, split, lines[split.path]))
        for _ in range(found.skipped - len(found.messages)):
            tell("")
        lines[split.path] += found.lines


def parts_before(splits: Sequence[LogSplit], notes: dict[tuple[int, int], Any]) -> list[tuple[int, int, int, int]]:
    """Return each part with the latest time and the number of learned lines in the earlier parts of its log."""
    tops: defaultdict[int, int] = defaultdict(lambda: FIRST)
    counts: Counter[int] = Counter()
    found = []
    for split in splits:
        log, note = split.log, notes[split.log, split.number]
        found.append((log, split.number, tops[log], counts[log]))
        tops[log] = max(tops[log], note.top)
        counts[log] += note.line
    return found

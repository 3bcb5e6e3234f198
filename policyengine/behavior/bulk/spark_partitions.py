"""Steps that the processes of Spark take: they read lines, decide which of them are learned, and fold events.

Each function converts the Arrow batches of a partition. The rows of an agent are never split over partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from policyengine.behavior.bulk.event_queue import moment_of
from policyengine.behavior.bulk.line_filter import ALL_TIMES, LearnedPeriod, LineFilter, LogTally
from policyengine.behavior.bulk.log_lines import LearnedDecision, LearnedLine, LineDecoder, LoggedOutcome
from policyengine.behavior.bulk.log_splits import LogSplit, SplitNotes, read_split
from policyengine.behavior.bulk.placed_requests import PlacedRequests
from policyengine.behavior.bulk.policy_source import PolicySource
from policyengine.behavior.events import FAILED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.learn import ModelSums
from policyengine.behavior.log_events import EventGap, FailureReport
from policyengine.behavior.model import decode_content
from policyengine.behavior.recent_requests import FirstReady
from policyengine.behavior.row import BehaviorRow, pack_row, unpack_row
from policyengine.behavior.state import BehaviorState, CallerMoment, CallerRow, SettingsOf

# The kinds of rows.
DECISION, OUTCOME, NOTES = 0, 1, 2
ROW, EVENT, SUMS, REQUESTS, READY = 0, 1, 2, 3, 4
NO_TIME: Final = -1  # in place of the time of a report, because reports do not start learning
BATCH: Final = 10_000  # rows of an Arrow batch
LINE_COLUMNS: Final = "log int, part int, line long, top long, kind int, id string, agent string, data binary"
EVENT_COLUMNS: Final = "agent string, kind int, place long, at long, data binary"
Batches: TypeAlias = Iterable[Any]  # of pyarrow.RecordBatch

_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE_OUTCOME: Final = msgspec.msgpack.Decoder(LoggedOutcome).decode


class PackedDecision(NamedTuple):
    """A LearnedDecision; `event` is its event without the caller. In the compiled build, the types of the members of an
    event are not available, so an event cannot be decoded directly."""

    time: int
    id: str
    caller: Caller | None
    event: tuple[int, str, str, int, int, bool, bool, int, int] | None
    gap: EventGap | None


_DECODE_DECISION: Final = msgspec.msgpack.Decoder(PackedDecision).decode


def encode_line(line: LearnedLine) -> bytes:
    """Return a line as bytes, for `decode_line`."""
    if isinstance(line, LoggedOutcome):
        return _ENCODE(line)
    if line.event is None:
        return _ENCODE(PackedDecision(line.time, line.id, None, None, line.gap))
    at, caller, *others = line.event
    return _ENCODE((line.time, line.id, caller, (at, *others), line.gap))


def decode_line(kind: int, raw: bytes) -> LearnedLine:
    """Return a line from bytes."""
    if kind == OUTCOME:
        return _DECODE_OUTCOME(raw)
    time, id, caller, event, gap = _DECODE_DECISION(raw)
    if caller is None or event is None:
        return LearnedDecision(time, id, None, gap)
    return LearnedDecision(time, id, BehaviorEvent(event[0], caller, *event[1:]), gap)


class PackedEvent(NamedTuple):
    """An event of a caller, or the report of a failure."""

    caller: Caller
    moment: CallerMoment


class PackedRow(NamedTuple):
    """The row of a caller."""

    caller: Caller
    group: str
    row: bytes


_DECODE_EVENT: Final = msgspec.msgpack.Decoder(PackedEvent).decode
_DECODE_ROW: Final = msgspec.msgpack.Decoder(PackedRow).decode


class WorkerSetup(NamedTuple):
    """The setup of a process: the function that loads policies, the paths of the policies, the key of the tags with its
    digest, and the period from which decisions are learned."""

    load: Callable[[tuple[str, ...]], PolicySource]
    paths: tuple[str, ...]
    key: bytes
    tags: str
    period: LearnedPeriod = ALL_TIMES

    def policies(self) -> PolicySource:
        """Return the policies, which are loaded once in a process."""
        if self.paths not in _LOADED:
            _LOADED[self.paths] = self.load(self.paths)
        return _LOADED[self.paths]


_LOADED: dict[tuple[str, ...], PolicySource] = {}


def agent_key(caller: Caller) -> str:
    """Return a text that is different for each agent."""
    return f"{len(caller.issuer)}:{caller.issuer}{caller.agent}"


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


def read_lines_of(batches: Batches, setup: WorkerSetup) -> Iterator[Any]:
    """Read parts of logs (LogSplit, as msgpack) into rows with LINE_COLUMNS. `top` is the latest time of a part so far;
    outcomes have no agent. The row after those of a part has its notes."""
    policies = setup.policies()
    decoder = LineDecoder(policies.reader(BehaviorState(Tagger(setup.key))), policies.revision)
    splits = (msgspec.msgpack.decode(raw, type=LogSplit) for batch in batches for raw in batch.column(0).to_pylist())
    return to_batches((row for split in splits for row in split_rows(split, decoder)), LINE_COLUMNS)


def split_rows(split: LogSplit, decoder: LineDecoder) -> Iterator[tuple[Any, ...]]:
    top, count, notes = -(2**62), 0, SplitNotes(messages=[])
    for line in read_split(split, decoder, notes):
        top = max(top, line.time)
        yield split.log, split.number, count, top, *line_columns(line), encode_line(line)
        count += 1
    yield split.log, split.number, count, top, NOTES, "", None, _ENCODE(notes)


def line_columns(line: LearnedLine) -> tuple[int, str, str | None]:
    """Return the kind, the id and the agent of a line. The lines of a decision without an event, which has no caller,
    count as those of one agent, named after the id."""
    if isinstance(line, LoggedOutcome):
        return OUTCOME, line.decision, None
    return DECISION, line.id, f"#{line.id}" if line.event is None else agent_key(line.event.caller)


# ── Filtering ─────────────────────────────────────────────────────────────────────────────────


def filter_lines(batches: Batches, setup: WorkerSetup, known: Mapping[Caller, int], now: int) -> Iterator[Any]:
    """Convert lines (agent, kind, place, at, data), sorted by agent and place, to the events that are learned, followed
    by the tally."""
    return to_batches(filtered_rows(rows_of(batches), Tagger(setup.key), known, now, setup.period), EVENT_COLUMNS)


def filtered_rows(
    rows: Iterable[tuple[Any, ...]],
    tagger: Tagger,
    known: Mapping[Caller, int],
    now: int,
    period: LearnedPeriod = ALL_TIMES,
) -> Iterator[tuple[Any, ...]]:
    tally = LogTally()
    for agent, lines in groupby(rows, key=itemgetter(0)):
        filter = LineFilter(known, now, period)
        for _, kind, place, _, data in lines:
            found = filter.read(place, decode_line(kind, data))
            if found is not None:
                at = NO_TIME if isinstance(found, FailureReport) else found.at
                yield agent, EVENT, place, at, _ENCODE(PackedEvent(found.caller, moment_of(found, tagger)))
        tally.merge(filter.tally)
    yield "", SUMS, 0, NO_TIME, _ENCODE(tally)


# ── Folding ───────────────────────────────────────────────────────────────────────────────────


class FoldStep(NamedTuple):
    """A step of folding: `payload` is the encoded model with which events are folded, and `until` the time at which the
    next model is learned from the sums."""

    payload: bytes
    until: int


def fold_rows(batches: Batches, setup: WorkerSetup, step: FoldStep) -> Iterator[Any]:
    """Convert the rows and the events of each agent (as EVENT_COLUMNS, sorted by agent, kind and place) to the rows
    after these events, followed by the sums. If policies read groups, the requests of the events and the days since
    which agents are ready follow."""
    return to_batches(folded_rows(rows_of(batches), setup, step), EVENT_COLUMNS)


def folded_rows(rows: Iterable[tuple[Any, ...]], setup: WorkerSetup, step: FoldStep) -> Iterator[tuple[Any, ...]]:
    settings_of, model = setup.policies().settings_of, decode_content(step.payload)
    sums, tagger = ModelSums(settings_of, step.until), Tagger(setup.key)
    requests, ready = PlacedRequests() if settings_of("").groups else None, FirstReady()
    for agent, parts in groupby(rows, key=itemgetter(0)):
        state = BehaviorState(tagger, model=model, learns=False, tags=setup.tags)
        for caller, group, place, row in fold_agent(state, parts, settings_of, requests):
            sums.add(caller, group, row)
            ready.note(caller, row.ready_day)
            yield agent, ROW, place, NO_TIME, _ENCODE(PackedRow(caller, group, pack_row(row)))
    yield "", SUMS, 0, NO_TIME, _ENCODE(sums.pack())
    if requests is not None:
        yield "", READY, 0, NO_TIME, ready.pack()
        for packed in requests.pack():
            yield "", REQUESTS, 0, NO_TIME, packed


def fold_agent(
    state: BehaviorState,
    parts: Iterable[tuple[Any, ...]],
    settings_of: SettingsOf,
    requests: PlacedRequests | None,
) -> Iterator[tuple[Caller, str, int, BehaviorRow]]:
    """Yield the rows of an agent after its events, each with its class and the place of its latest decision. The
    decisions are added to the requests."""
    places: dict[Caller, int] = {}
    for kind, found in groupby(parts, key=itemgetter(1)):
        if kind == ROW:
            known: dict[Caller, CallerRow] = {}
            for _, _, place, _, data in found:
                packed = _DECODE_ROW(data)
                known[packed.caller] = CallerRow(packed.group, unpack_row(packed.row))
                places[packed.caller] = place
            state.rows = known
            continue
        events = ((place, _DECODE_EVENT(data)) for _, _, place, _, data in found)
        for caller, run in groupby(events, key=caller_of):
            state.fold_run(caller, note_places(run, caller, places, requests), settings_of)
    for caller, kept in state.rows.items():
        yield caller, kept.group, places.get(caller, 0), kept.row


def caller_of(event: tuple[int, PackedEvent]) -> Caller:
    return event[1].caller


def note_places(
    run: Iterable[tuple[int, PackedEvent]],
    caller: Caller,
    places: dict[Caller, int],
    requests: PlacedRequests | None,
) -> Iterator[CallerMoment]:
    """Yield the moments of a run, add its decisions to the requests, and note the place of the latest decision."""
    for place, event in run:
        at, _, endpoint, run_tag, outcome = event.moment[:5]
        if outcome != FAILED:
            places[caller] = place
            if requests is not None:
                requests.add(place, at, caller, endpoint, run_tag, outcome)
        yield event.moment


# ── Arrow ─────────────────────────────────────────────────────────────────────────────────────


def rows_of(batches: Batches) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of batches."""
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def to_batches(rows: Iterable[tuple[Any, ...]], columns: str) -> Iterator[Any]:
    """Yield rows in batches with these columns."""
    import pyarrow as pa

    kinds = {"int": pa.int32(), "long": pa.int64(), "string": pa.string(), "binary": pa.binary()}
    named = [column.split() for column in columns.split(", ")]
    schema = pa.schema([(name, kinds[kind]) for name, kind in named])
    found = iter(rows)
    while some := list(islice(found, BATCH)):
        arrays = [pa.array(column, type_) for column, type_ in zip(zip(*some, strict=True), schema.types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)

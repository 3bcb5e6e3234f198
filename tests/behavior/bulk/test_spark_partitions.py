"""What the processes of Spark compute: however agents are distributed, the result is that of one thread."""

from operator import itemgetter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.behavior.bulk.day_starts import DayStart, DayStarts
from policyengine.behavior.bulk.line_filter import ALL_TIMES, LearnedPeriod, LogTally
from policyengine.behavior.bulk.log_lines import LineDecoder
from policyengine.behavior.bulk.log_splits import split_logs
from policyengine.behavior.bulk.placed_requests import PlacedRequests
from policyengine.behavior.bulk.spark_partitions import (
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
    filtered_rows,
    folded_rows,
    split_rows,
)
from policyengine.behavior.events import Caller, Tagger
from policyengine.behavior.learn import ModelSums
from policyengine.behavior.learn_logs import learn_lines
from policyengine.behavior.recent_requests import FirstReady
from policyengine.behavior.row import unpack_row
from policyengine.behavior.state import DAY, BehaviorState, CallerRow
from policyengine.clock import epoch_microseconds
from tests.behavior.bulk.logs import (
    KEY,
    NOW,
    START,
    content,
    group_sizes,
    learn,
    load_grouped_policies,
    load_log_policies,
    make_lines,
    make_moving_lines,
    write_lines,
)
from tests.depth import examples, scaled

SETUP = WorkerSetup(load_log_policies, ("work",), KEY, "")
GROUPED_SETUP = WorkerSetup(load_grouped_policies, ("groups",), KEY, "")


def divide(rows, part_of, order):
    """Return the rows of each partition, sorted by agent and `order`."""
    parts = [[] for _ in range(3)]
    for row in rows:
        parts[part_of(row[0])].append(row)
    return [sorted(part, key=lambda row: (row[0], *order(row))) for part in parts]


def learn_in_parts(path, part_of, size, setup):
    """Learn a log as Spark does, with partitions that `part_of` determines by agent."""
    lines, ids = [], {}
    for split in split_logs([path], size):
        for *_, kind, id_, agent, data in split_rows(split, LineDecoder(None)):
            if kind != NOTES:
                ids.setdefault(id_, agent)
                lines.append((ids[id_] if kind == OUTCOME else agent, kind, len(lines), NO_TIME, data))
    tally, events = LogTally(), []
    for part in divide(lines, part_of, lambda row: row[2:3]):
        for row in filtered_rows(part, Tagger(KEY), {}, NOW, setup.period):
            if row[1] == SUMS:
                tally.merge(msgspec.msgpack.decode(row[4], type=LogTally))
            else:
                events.append(row)
    events.sort(key=itemgetter(2))
    settings_of, state = setup.policies().settings_of, BehaviorState(Tagger(KEY))
    days, starts, steps = DayStarts(state, settings_of("").groups), [], []
    for event in events:
        start = None if event[3] == NO_TIME else days.add(event[3])
        starts += [] if start is None else [start]
        steps.append((len(starts), event))
    rows = []
    for number, start in enumerate([*starts, DayStart(tally.latest, True, False)]):
        mine = [event for count, event in steps if count == number]
        rows = fold_day(state, start, divide(rows + mine, part_of, lambda row: row[1:3]), setup)
    packed = [msgspec.msgpack.decode(row[4], type=PackedRow) for row in sorted(rows, key=itemgetter(2))]
    state.rows = {each.caller: CallerRow(each.group, unpack_row(each.row)) for each in packed}
    return state, tally


def fold_day(state, start, parts, setup):
    """Fold the events before a start of a day, learn and search, and return the rows."""
    sums, requests, ready = ModelSums(setup.policies().settings_of, start.at), PlacedRequests(), FirstReady()
    merges = {SUMS: lambda data: sums.merge_packed(msgspec.msgpack.decode(data, type=bytes))}
    merges |= {REQUESTS: requests.merge_packed, READY: ready.merge_packed}
    rows, payload = [], state.model.payload
    for part in parts:
        for row in folded_rows(part, setup, FoldStep(payload, start.at)):
            if row[1] == ROW:
                rows.append(row)
            else:
                merges[row[1]](row[4])
    if start.learns:
        state.model = sums.learn(state.model.content.serial + 1, "", state.model)
    requests.add_to(state.requests)
    if start.searches:
        state.search_groups(start.at, ready.times())
    return rows


@scaled
@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=examples(4, 100), deadline=None)
def test_agents_can_be_distributed_over_partitions(tmp_path_factory, data, seed):
    path = write_lines(tmp_path_factory.mktemp("parts") / "log.jsonl", make_lines(seed, agents=5, days=4))
    parts = data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5))
    begin = epoch_microseconds(START) // 1_000
    period = data.draw(st.sampled_from((ALL_TIMES, LearnedPeriod(begin + DAY, begin + 3 * DAY))))
    setup, size = SETUP._replace(period=period), data.draw(st.integers(900, 90_000))
    state, tally = learn_in_parts(path, lambda agent: parts[int(agent[-1])], size, setup)
    whole, counted, _ = learn([path], learn_lines, period=period)
    assert content(state) == content(whole)
    assert tally == counted


@scaled
@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=examples(2, 30), deadline=None)
def test_agents_of_a_group_can_be_distributed_over_partitions(tmp_path_factory, data, seed):
    path = write_lines(tmp_path_factory.mktemp("parts") / "log.jsonl", make_moving_lines(seed))
    parts = data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5))
    state, tally = learn_in_parts(path, lambda agent: parts[int(agent[-1])], 90_000, GROUPED_SETUP)
    whole, counted, _ = learn([path], learn_lines, settings_of=GROUPED_SETUP.policies().settings_of)
    assert content(state) == content(whole)
    assert group_sizes(state) == [4]
    assert tally == counted


def test_different_agents_have_different_keys():
    callers = [Caller("a", "bc"), Caller("ab", "c"), Caller("", "abc"), Caller("1:a", "b"), Caller("1", ":ab")]
    assert len(set(map(agent_key, callers))) == len(callers)

"""Sequences of endpoints: how surprising they are, how their scores are ranked, and what an abuser can do about it."""

import random
from array import array
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.events import ALLOWED, DENIED, BehaviorEvent, RequestTags, Tagger
from policyengine.behavior.fold import (
    MAX_SCORED,
    ProfileSettings,
    advance,
    apply_decision,
    read_behavior,
)
from policyengine.behavior.grams import (
    FULL_COUNT,
    MAX_GRAM_TAGS,
    MAX_SURPRISES,
    ONE,
    SURPRISE_UNIT,
    GramCounts,
    GramSums,
    ScoreTails,
    add_gram,
    class_surprise,
    compute_surprise,
    context_length,
    count_gram,
    extend_context,
    gram_tag,
    halve_grams,
    learn_grams,
    own_surprise,
    surprise_of,
    symbol_of,
    unpack_grams,
)
from policyengine.behavior.row import (
    GRAM_ENTRIES,
    GRAM_SETS,
    GRAM_WAYS,
    SCORE_BUCKETS,
    SCORE_COUNTS,
    BehaviorRow,
    pack_row,
    unpack_row,
)
from policyengine.behavior.state import BehaviorState
from tests.behavior.callers import DAY, GROUP, HOUR, KEY, START, caller

SETTINGS = ProfileSettings()


# ── Surprises ─────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, ONE))
def test_a_surprise_is_the_negative_logarithm_of_the_probability(probability):
    assert surprise_of(probability) == pytest.approx(-SURPRISE_UNIT * log2(probability / ONE), abs=2.5)


@given(st.integers(1, ONE - 1))
def test_a_smaller_probability_is_never_less_surprising(probability):
    assert surprise_of(probability) >= surprise_of(probability + 1)


def test_tags_of_grams_fill_their_range_evenly():
    chance = random.Random(1)
    tags = {gram_tag(2, chance.getrandbits(32), chance.getrandbits(16)) for _ in range(MAX_GRAM_TAGS)}
    assert max(tags) < MAX_GRAM_TAGS
    assert len(tags) == pytest.approx(MAX_GRAM_TAGS * (1 - 1 / 2.71828), rel=0.02)


def test_a_context_has_the_latest_symbols_and_the_start_of_the_run():
    context = extend_context(extend_context(extend_context(0, 7), 8), 9)
    assert context == 8 << 16 | 9
    assert [context_length(each) for each in (0, 7, context)] == [1, 2, 2]


def learn(row, *endpoints, runs=1):
    for _ in range(runs):
        context = 0
        for endpoint in endpoints:
            learn_grams(row, context, symbol_of(endpoint))
            context = extend_context(context, symbol_of(endpoint))


def test_a_usual_order_surprises_less_than_another_order_of_the_same_endpoints():
    row = BehaviorRow(START)
    learn(row, 1, 2, 3, runs=50)
    after = extend_context(extend_context(0, 1), 2)
    assert own_surprise(row, after, 3) < SURPRISE_UNIT // 4
    assert own_surprise(row, after, 1) > 6 * SURPRISE_UNIT
    assert own_surprise(row, 0, 3) > 5 * SURPRISE_UNIT  # never at the start
    assert own_surprise(row, after, 99) > own_surprise(row, after, 1)


def test_a_caller_without_sequences_finds_each_endpoint_equally_surprising():
    row = BehaviorRow(START)
    assert own_surprise(row, 0, 5) == own_surprise(row, 77, 1_234) == 6 * SURPRISE_UNIT


# ── The table ─────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, MAX_GRAM_TAGS - 1), max_size=2_000), st.integers(1, 300))
def test_the_table_counts_at_most_what_was_added_and_never_grows(tags, times):
    row = BehaviorRow(START)
    row.grams, row.gram_counts = array("H", bytes(2 * GRAM_ENTRIES)), bytearray(GRAM_ENTRIES)
    for tag in tags[: 2_000 // times]:
        for _ in range(times):
            add_gram(row, tag)
    for tag in set(tags):
        assert count_gram(row.grams, row.gram_counts, tag) <= times * tags.count(tag)
    assert len(row.grams) == len(row.gram_counts) == GRAM_ENTRIES
    assert unpack_row(pack_row(row)).gram_counts == row.gram_counts


def test_a_frequent_gram_stays_when_rare_ones_come():
    row = BehaviorRow(START)
    row.grams, row.gram_counts = array("H", bytes(2 * GRAM_ENTRIES)), bytearray(GRAM_ENTRIES)
    for _ in range(200):
        add_gram(row, 5)
    for number in range(1, 3 * GRAM_WAYS):
        add_gram(row, 5 + number * GRAM_SETS)
    assert count_gram(row.grams, row.gram_counts, 5) == 200


def test_all_counts_are_halved_before_one_is_full():
    row = BehaviorRow(START)
    learn(row, 1, 2, runs=FULL_COUNT + 10)
    assert max(row.gram_counts) <= FULL_COUNT
    assert row.gram_total < 2 * FULL_COUNT + 20
    before = bytes(row.gram_counts)
    halve_grams(row)
    assert list(row.gram_counts) == [count >> 1 for count in before]


# ── The class ─────────────────────────────────────────────────────────────────────────────────


def sums(*rows):
    found = GramSums()
    for number, row in enumerate(rows, 1):
        found.add(row, number, 1)
    return found.shared_counts(MAX_GRAM_TAGS)


def row_of(*endpoints, runs=50):
    row = BehaviorRow(START)
    learn(row, *endpoints, runs=runs)
    return row


def test_a_gram_counts_for_the_class_only_if_two_callers_have_it():
    alone = sums(row_of(1, 2, 3), row_of(1, 2, 4))
    both = sums(row_of(1, 2, 3), row_of(1, 2, 4), row_of(1, 2, 4))
    after = extend_context(extend_context(0, 1), 2)
    assert class_surprise(alone, after, 4) == class_surprise(alone, after, 3) > 6 * SURPRISE_UNIT
    assert class_surprise(both, after, 4) < SURPRISE_UNIT
    assert class_surprise(both, after, 3) > 6 * SURPRISE_UNIT


def test_a_caller_with_many_requests_counts_for_as_much_as_others():
    busy, usual = row_of(1, 5, runs=120), row_of(1, 6, runs=120)
    found = sums(busy, row_of(1, 5, runs=120), usual, row_of(1, 6, runs=120))
    assert class_surprise(found, 1, 5) == class_surprise(found, 1, 6)


def test_surprises_to_a_class_are_cached_up_to_a_maximum():
    draw = random.Random(3)
    found = GramCounts({tag: draw.randrange(1, 10**6) for tag in range(0, 2**16, 3)}, 10**8)
    asked = [(draw.randrange(2**32), draw.randrange(1, 2**16)) for _ in range(MAX_SURPRISES + 100)]
    for context, symbol in asked + asked[-50:]:
        assert class_surprise(found, context, symbol) == compute_surprise(found, context, symbol)
    assert len(found.surprises) == 100


def test_only_the_most_frequent_grams_are_kept():
    found = GramSums()
    for number in (1, 2):
        found.add(row_of(*range(1, 60), runs=1), number, 1)
        found.add(row_of(1, 2, 3, runs=50), number, 1)
    assert set(found.shared_counts(3).counts) <= set(found.shared_counts(9).counts)
    assert len(found.shared_counts(3).counts) == 3


@given(st.dictionaries(st.integers(0, MAX_GRAM_TAGS - 1), st.integers(1, 2**40 - 1)), st.integers(0, 2**63))
def test_packed_counts_come_back(counts, total):
    found = GramCounts(counts, total)
    assert unpack_grams(found.pack()) == found
    assert GramCounts(dict(reversed(counts.items())), total).pack() == found.pack()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"1234567", array("Q", [1, 7 << 40 | 1, 7 << 40 | 2]).tobytes(),
        array("Q", [1, MAX_GRAM_TAGS << 40 | 1]).tobytes(),
    ],
)  # fmt: skip
def test_damaged_counts_are_refused(raw):
    with pytest.raises(ValueError, match=r"damaged|multiple"):
        unpack_grams(raw)


def test_tails_count_scores_from_each_bucket_on_and_limit_each_caller():
    found, scores = ScoreTails(3), bytearray(SCORE_COUNTS)
    scores[0], scores[5] = 3, 1  # to the class, in short runs
    for _ in range(8):
        found.add(scores, 0)
    assert found.tails(0)[:7] == [32, 8, 8, 8, 8, 8, 0]
    odd = bytearray(SCORE_COUNTS)
    odd[20] = 200
    found.add(odd, 0)
    assert found.tails(0)[0] == 32 + 32 // 3
    assert found.tails(0)[20] == 4
    assert found.tails(0)[5] == 8 + 4


def test_scores_to_the_caller_are_kept_by_its_number_of_runs():
    found, scores = ScoreTails(3), bytearray(SCORE_COUNTS)
    scores[2 * SCORE_BUCKETS + 1] = 7
    for maturity in (0, 2, 2):
        found.add(scores, maturity)
    assert [found.tails(2 * (1 + maturity))[1] for maturity in range(3)] == [4, 0, 11]
    found.extend(4, 6)
    assert found.tails(4)[1] == 11


# ── Deviation ─────────────────────────────────────────────────────────────────────────────────


class Workers:
    """Callers of one class, each with its own workflows."""

    def __init__(self, count=12, seed=3, settings=SETTINGS):
        self.random, self.settings = random.Random(seed), settings
        self.flows = [[self.flow() for _ in range(3)] for _ in range(count)]
        self.state = BehaviorState(Tagger(KEY))
        self.day = 0
        self.run_number = 0

    def flow(self):
        return [f"GET /{self.random.randrange(12)}" for _ in range(self.random.randrange(4, 9))]

    def run_of(self, number):
        """Return a run of a caller: one of its workflows, with some steps repeated or left out."""
        steps = []
        for step in self.random.choice(self.flows[number]):
            steps += [step] * self.random.choices((0, 1, 2), (3, 87, 10))[0]
        return steps or ["GET /0"]

    def send(self, number, steps, at, *, outcome=ALLOWED, clamped=False, pause=1_000, run=None):
        """Fold a run, and return the deviations."""
        self.run_number += 1
        found = []
        for place, step in enumerate(steps):
            event = BehaviorEvent(
                at + pause * place, caller(number), GROUP, step, run or self.run_number, outcome, clamped
            )
            found.append(self.state.fold(event, lambda _: self.settings).deviation)
        return found

    def work(self, days, runs=8):
        """Let all callers work, and return the highest deviation of each run."""
        highest = []
        for day in range(self.day, self.day + days):
            for turn in range(runs):
                for number in range(len(self.flows)):
                    at = START + day * DAY + (8 + turn) * HOUR + number * 60_000
                    highest.append(max(self.send(number, self.run_of(number), at)))
        self.day += days
        return highest

    @property
    def now(self):
        return START + self.day * DAY + 8 * HOUR

    def try_run(self, number, steps, *, pause=1_000):
        """Return the deviations of a run that is not learned."""
        row = self.state.row_at(caller(number), self.now, self.settings).copy()
        model, found = self.state.model.class_of((caller(number).issuer, GROUP)), []
        for place, step in enumerate(steps):
            at = self.now + place * pause
            advance(row, at, self.settings)
            tags = RequestTags(self.state.tagger.tag(step), 999_999)
            facts = read_behavior(row, model, tags, at, self.settings)
            apply_decision(row, facts, tags, at, ALLOWED, False, self.settings)
            found.append(facts.deviation)
        return found


@pytest.fixture(scope="module")
def learned():
    workers = Workers()
    workers.work(21)
    return workers


@pytest.fixture
def workers(learned):
    """The learned callers; each test has its own rows."""
    found = Workers()
    found.flows, found.day = learned.flows, learned.day
    found.state.model, found.state.learned_day = learned.state.model, learned.state.learned_day
    found.state.rows = {each: type(known)(known.group, known.row.copy()) for each, known in learned.state.rows.items()}
    found.random.seed(7)
    return found


def test_a_threshold_is_the_rate_of_false_alarms(workers):
    highest = workers.work(8)
    assert len(highest) == 8 * 8 * 12
    for threshold, declared in ((950, 0.05), (990, 0.01)):
        assert sum(each > threshold for each in highest) / len(highest) <= 1.5 * declared


def test_a_stolen_key_that_works_as_another_caller_is_seen(workers):
    found = [
        max(workers.try_run(number, workers.run_of((number + shift) % 12)))
        for number in range(12)
        for shift in (3, 5, 7)
    ]
    assert sum(each > 990 for each in found) / len(found) >= 0.95


def test_the_usual_endpoints_in_another_order_are_seen(workers):
    found = []
    for number in range(12):
        steps = [step for flow in workers.flows[number] for step in flow][:10]
        found.append(max(workers.try_run(number, steps[::-1])))
    assert sum(each > 990 for each in found) >= 11


def test_deviation_rises_within_the_run_and_ends_with_it(workers):
    odd = workers.try_run(0, [*workers.run_of(5), *workers.run_of(7)])
    assert odd[:8] == sorted(odd[:8])  # then it is ranked among longer runs
    usual = workers.flows[0][0]
    at = workers.now
    workers.send(0, workers.run_of(5) * 2, at)
    assert max(workers.send(0, usual, at + 60_000)) < 990


def test_attack_21_a_change_that_no_version_attests_deviates(workers):
    """The agent was replaced by another program: all of its runs are those of another workflow."""
    changed = [max(workers.try_run(2, workers.run_of(9))) for _ in range(10)]
    assert sum(each > 990 for each in changed) >= 8


def test_attack_25_short_runs_are_ranked_among_short_runs(workers):
    """A thief pauses after each third request, so that each run is short."""
    foreign = [step for _ in range(4) for step in workers.run_of(9)]
    found = [max(workers.try_run(2, foreign[place : place + 3])) for place in range(0, len(foreign) - 2, 3)]
    assert sum(each > 990 for each in found) >= len(found) // 3


def test_attack_26_a_run_without_an_end_is_scored_in_parts(workers):
    steps = [step for _ in range(60) for step in workers.flows[4][0]]
    before = sum(workers.state.rows[caller(4)].row.scores)
    workers.send(4, steps, workers.now, run=5)
    row = workers.state.rows[caller(4)].row
    assert row.scored <= MAX_SCORED
    assert sum(row.scores) - before >= 2 * (len(steps) // MAX_SCORED)
    foreign = workers.try_run(4, [*steps, *workers.run_of(9)])
    assert foreign[-1] > 950


def test_attack_9_who_poisons_the_class_alone_does_not_hide(workers):
    """One caller repeats the sequence that it will use with a stolen key, before it steals the key."""
    planned = ["GET /3", "GET /9", "GET /1", "GET /11", "GET /6", "GET /2"]
    assert max(workers.try_run(1, planned)) > 950
    for day in range(5):
        for turn in range(50):
            workers.send(0, planned, START + (workers.day + day) * DAY + 8 * HOUR + turn * 600_000)
        workers.day += 1
        workers.work(1)
        workers.day -= 1
    assert max(workers.try_run(1, planned)) > 950


def test_a_new_caller_and_a_planned_change_have_no_deviation(workers):
    assert set(workers.send(77, ["GET /9"] * 5, workers.now)) == {0}
    released = SETTINGS.release()
    found = Workers(settings=released)
    found.state, found.flows, found.day = workers.state, workers.flows, workers.day
    assert set(found.try_run(2, workers.run_of(9))) == {0}


def test_a_request_that_was_not_allowed_is_scored_and_not_learned(workers):
    row = workers.state.row_at(caller(3), workers.now, SETTINGS)
    workers.send(3, workers.flows[3][0][:2], workers.now)
    before = row.context, bytes(row.gram_counts), row.scored, row.runs
    run, surprise = workers.run_number, row.surprise
    workers.send(3, ["GET /99"] * 2, workers.now + 5_000, outcome=DENIED, run=run)
    assert (row.context, bytes(row.gram_counts), row.scored, row.runs) == before
    assert row.surprise > surprise


def test_a_guard_that_denies_deviations_does_not_tighten_itself(workers):
    """Where a rule refuses each request above 0.99, as many runs are refused on later days as on the first."""
    shares = []
    for _ in range(8):
        refused = 0
        for turn in range(8):
            for number in range(12):
                at = START + workers.day * DAY + (8 + turn) * HOUR + number * 60_000
                workers.run_number += 1
                highest = 0
                for place, step in enumerate(workers.run_of(number)):
                    moment = at + 1_000 * place
                    row = workers.state.row_at(caller(number), moment, SETTINGS)
                    tags = RequestTags(workers.state.tagger.tag(step), workers.run_number)
                    found = workers.state.read(row, caller(number).issuer, GROUP, tags, moment, SETTINGS)
                    outcome = DENIED if found.deviation > 990 else ALLOWED
                    event = BehaviorEvent(moment, caller(number), GROUP, step, workers.run_number, outcome)
                    workers.state.fold(event, lambda _: SETTINGS)
                    highest = max(highest, found.deviation)
                refused += highest > 990
        workers.day += 1
        shares.append(refused / 96)
    assert sum(shares) / len(shares) < 0.025
    assert max(shares[4:]) < 0.05


def test_callers_that_are_clamped_until_they_are_ready_are_learned():
    """The clamp of callers that are not ready acts for days; their sequences are usual afterwards."""
    clamped, free = Workers(seed=5), Workers(seed=5)
    for day in range(6):
        for number in range(12):
            for turn in range(8):
                at = START + day * DAY + (8 + turn) * HOUR + number * 60_000
                steps = clamped.run_of(number)
                clamped.send(number, steps, at, clamped=True)
                free.send(number, steps, at)
    rows = [[pack_row(workers.state.rows[caller(number)].row) for number in range(12)] for workers in (clamped, free)]
    assert rows[0] == rows[1]


def test_a_clamped_request_is_scored_and_not_learned(workers):
    row = workers.state.row_at(caller(3), workers.now, SETTINGS)
    before = bytes(row.gram_counts)
    workers.send(3, workers.flows[3][0], workers.now, clamped=True)
    assert bytes(row.gram_counts) == before
    assert row.scored > 0


def test_of_flagged_runs_a_quarter_is_learned(workers):
    row = workers.state.row_at(caller(2), workers.now, SETTINGS)
    learned = 0
    for number in range(40):
        workers.send(2, ["GET /99", "GET /98"], workers.now + number * 600_000)  # the first request is flagged
        total = row.gram_total
        workers.send(2, ["GET /97"], workers.now + number * 600_000 + 3_000, run=workers.run_number)
        learned += row.gram_total > total
    assert 5 <= learned <= 15


def test_nothing_is_learned_of_sequences_unless_a_rule_reads_the_deviation():
    found = Workers(count=3, settings=ProfileSettings(sequences=False))
    found.work(3)
    assert all(not known.row.grams and not any(known.row.scores) for known in found.state.rows.values())
    assert found.state.model.class_of((caller(0).issuer, GROUP)).grams.total == 0

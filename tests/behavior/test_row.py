"""Rows of callers as bytes: what is packed comes back, and bytes that are no row are refused."""

from array import array
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.row import (
    _FIXED,
    _HEAD_1,
    _SEQUENCE,
    DAYS_KEPT,
    GRAM_ENTRIES,
    HOUR,
    HOURS_OF_DAY,
    LEAST_PEAK,
    MAX_COUNT,
    MAX_HOUR,
    MAX_LEVEL,
    MAX_SEEN,
    MAX_SHAPES,
    MAX_SHORT,
    MILLION,
    NEW_TRUST,
    ROW_BYTES,
    SCORE_COUNTS,
    BehaviorRow,
    RowError,
    convert_ratios,
    pack_row,
    unpack_row,
)

DERIVED = {
    "limits_hour", "pace", "ceiling_slow", "ceiling_fast", "base_slow", "base_fast", "peak_slow", "peak_fast",
    "has_new_peaks", "latest_endpoint", "latest_day",
}  # fmt: skip
MEMBERS = {name for name in dir(BehaviorRow(0)) if name[0] != "_" and not callable(getattr(BehaviorRow(0), name))}
PACKED = sorted(MEMBERS - DERIVED)
EXTREMES = 0, 1, 255, MAX_SHORT


@st.composite
def rows(draw):
    """Draw a row. Its lists are filled from a seed, which is much faster than to draw three hundred numbers."""
    random = Random(draw(st.integers(0, 2**32)))

    def some(most, length=1):
        return [
            random.choice((random.randint(0, most), most, min(random.choice(EXTREMES), most))) for _ in range(length)
        ]

    row = BehaviorRow(0)
    row.serial, row.level_at, row.run_last = some(2**63, 3)
    row.trust, row.novelty, row.errors = some(MILLION, 3)
    (row.hour,), (row.gains,), (row.days,) = some(MAX_HOUR), some(8), some(2**DAYS_KEPT - 1)
    row.hour_count, row.run_tag, row.top_slow, row.top_fast, row.fall_hour = some(MAX_COUNT, 5)
    row.runs, row.run_length, row.gain_day = some(MAX_SHORT, 3)
    row.hour_alarm = draw(st.booleans())
    row.paces[:] = array("I", some(MAX_COUNT, HOURS_OF_DAY))
    row.peaks[:] = array("I", some(MAX_COUNT, 2 * DAYS_KEPT))
    row.ratios[:] = array("H", some(MAX_SHORT, 2 * DAYS_KEPT))
    row.level_slow, row.level_fast, row.level_denied = some(MAX_LEVEL, 3)
    number = draw(st.integers(0, MAX_SEEN))
    row.seen = dict(zip(some(MAX_COUNT, number), some(MAX_SHORT, number), strict=True))
    number = draw(st.integers(0, MAX_SHAPES))
    row.shapes = dict(zip(some(MAX_COUNT, number), some(MAX_SHORT, number), strict=True))
    if draw(st.booleans()):
        row.grams, row.gram_counts = array("H", some(MAX_SHORT, GRAM_ENTRIES)), bytearray(some(255, GRAM_ENTRIES))
    row.gram_total, row.surprise, row.worst, row.step_state, row.step_machine = some(MAX_SHORT, 5)
    (row.ready_day,) = some(MAX_SHORT)
    (row.context,), (row.scored,), (row.excess,) = some(2**48 - 1), some(255), some(2**31 - 1)
    row.is_flagged, row.scores = draw(st.booleans()), bytearray(some(255, SCORE_COUNTS))
    return row


def members(row):
    return {name: getattr(row, name) for name in PACKED}


@given(rows())
def test_a_packed_row_comes_back_whole(row):
    assert members(unpack_row(pack_row(row))) == members(row)


@given(rows())
def test_equal_rows_have_equal_bytes(row):
    other = unpack_row(pack_row(row))
    other.seen = dict(reversed(other.seen.items()))
    assert pack_row(other) == pack_row(row)
    assert pack_row(row.copy()) == pack_row(row)


@given(rows())
def test_a_change_of_a_copy_does_not_change_the_row(row):
    packed, copied = pack_row(row), row.copy()
    copied.seen[1], copied.shapes[1] = 2, 2
    for each in (copied.paces, copied.peaks, copied.ratios, copied.scores):
        each[0] ^= 1
    if copied.grams:
        copied.grams[0] ^= 1
        copied.gram_counts[0] ^= 1
    assert pack_row(row) == packed


@given(rows())
def test_no_row_is_longer_than_the_maximum(row):
    assert len(pack_row(row)) <= ROW_BYTES


def test_the_longest_row_is_not_longer_than_the_maximum():
    row = BehaviorRow(0)
    row.seen, row.shapes = dict.fromkeys(range(MAX_SEEN), 1), dict.fromkeys(range(MAX_SHAPES), 1)
    row.grams, row.gram_counts = array("H", bytes(2 * GRAM_ENTRIES)), bytearray(GRAM_ENTRIES)
    assert ROW_BYTES - 64 < len(pack_row(row)) <= ROW_BYTES


def test_a_row_of_the_first_version_is_read_without_sequences():
    row = BehaviorRow(20_000 * 24 * HOUR)
    row.serial, row.trust, row.runs = 9, 700_000, 4
    row.seen = {1: 2, 3: 4}
    packed = pack_row(row)
    extra = _SEQUENCE.size
    first = b"\x01" + packed[1 : _HEAD_1.size] + packed[_HEAD_1.size + extra : -14 - SCORE_COUNTS] + packed[-12:]
    assert members(unpack_row(first)) == members(row)


@given(rows())
def test_a_row_of_the_second_version_is_read_without_the_day_on_which_it_was_ready(row):
    packed, row.ready_day = pack_row(row), 0
    forget_scores(row)
    convert_ratios(row)
    at = _FIXED[2]
    assert members(unpack_row(b"\x02" + packed[1:at] + packed[at + 2 :])) == members(row)


@given(rows())
def test_a_row_of_the_third_version_is_read_without_the_scores_to_the_caller(row):
    packed = pack_row(row)
    forget_scores(row)
    convert_ratios(row)
    assert members(unpack_row(b"\x03" + packed[1:])) == members(row)


def test_a_row_of_the_fourth_version_is_read_with_ratios_to_the_bases_of_its_days():
    row, day = BehaviorRow(20_000 * 24 * HOUR), 20_000
    for ago, peak in {3: 2**4 * LEAST_PEAK, 17: 2**8 * LEAST_PEAK}.items():
        row.peaks[2 * ((day - ago) % DAYS_KEPT)] = peak
    ratios = {2: 1_024, 3: 1_024, 4: 0}
    for ago, ratio in ratios.items():
        row.ratios[2 * ((day - ago) % DAYS_KEPT)] = ratio
    row.ratios[2 * (day % DAYS_KEPT) + 1] = 3_000
    found = unpack_row(b"\x04" + pack_row(row)[1:])
    assert found.ratios[2 * ((day - 2) % DAYS_KEPT)] == 2 * 1_024  # its base is half of its ceiling
    assert found.ratios[2 * ((day - 3) % DAYS_KEPT)] == 4 * 1_024  # the peak of two weeks before is higher
    assert found.ratios[2 * ((day - 4) % DAYS_KEPT)] == 0
    assert found.ratios[2 * (day % DAYS_KEPT) + 1] == 3_000  # a ceiling of four requests is its base
    assert unpack_row(pack_row(found)).ratios == found.ratios


def forget_scores(row):
    """Forget the scores to the caller, which version 4 computes in another way."""
    half = SCORE_COUNTS // 2
    row.excess, row.worst, row.scores[half:] = 0, 0, bytes(half)


@given(rows(), st.data())
def test_a_cut_or_extended_row_is_refused(row, data):
    raw = pack_row(row)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for damaged in (raw[:cut], raw + b"\0"):
        with pytest.raises(RowError, match=r"version|cut off|length"):
            unpack_row(damaged)


@given(st.binary(max_size=2 * ROW_BYTES))
def test_foreign_bytes_are_refused_or_are_a_row(raw):
    with suppress(RowError):
        assert pack_row(unpack_row(raw)) == raw


@given(rows(), st.data())
def test_a_changed_byte_never_raises_anything_else(row, data):
    raw = bytearray(pack_row(row))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RowError):
        pack_row(unpack_row(bytes(raw)))


def changed(**members):
    row = BehaviorRow(20_000 * 24 * HOUR)
    for name, value in members.items():
        setattr(row, name, value)
    return pack_row(row)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "unsupported version"),
        (b"\x06" + changed()[1:], "unsupported version"),
        (changed()[:40], "cut off"),
        (changed() + b"\0" * 6, "does not match the numbers of its endpoints"),
        (changed(trust=MILLION + 1), "greater than 1"),
        (changed()[:1] + b"\x02" + changed()[2:], "neither 0 nor 1"),
        (changed(novelty=MILLION + 1), "greater than 1"),
        (changed(errors=MILLION + 1), "greater than 1"),
        (changed(level_slow=MAX_LEVEL + 1), "exceeds the maximum"),
        (changed(level_denied=MAX_LEVEL + 1), "exceeds the maximum"),
        (changed(days=1 << DAYS_KEPT), "out of range"),
        (changed(hour=MAX_HOUR + 1), "out of range"),
        (changed(seen={1: 2, 3: 4})[:-6] + changed(seen={1: 2})[-6:], "not in order"),
    ],
)
def test_what_no_row_can_have_is_refused(raw, message):
    with pytest.raises(RowError, match=message):
        unpack_row(raw)


@given(rows())
def test_the_row_of_a_new_version_has_habits_but_no_standing(row):
    found = row.successor()
    assert (found.paces, found.peaks, found.seen) == (row.paces, row.peaks, row.seen)
    assert (found.serial, found.runs, found.days, set(found.ratios)) == (0, 0, 0, {0})
    assert found.trust == min(row.trust, NEW_TRUST)
    assert (found.level_slow, found.level_denied) == (row.level_slow, row.level_denied)
    assert found.peaks is not row.peaks

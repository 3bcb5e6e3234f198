"""Sequences of endpoints: how surprising a request is after those before it, to the caller itself and to its class.

A gram is a sequence of at most GRAM_ORDER endpoints of one run, the first of which may be the start of the run. The
table of a caller counts its grams; that of a class adds up the tables of its callers. A probability is interpolated
from the counts of the grams with contexts of all lengths, the longest last. All numbers are whole: a surprise is
-log2 of a probability, in 1/256 bit.
"""

from __future__ import annotations

from array import array
from math import log2
from typing import Final

from policyengine.behavior.row import GRAM_ENTRIES, GRAM_SETS, GRAM_WAYS, SCORE_BUCKETS, SCORE_LENGTHS, BehaviorRow

GRAM_ORDER: Final = 3
CONTEXT_MASK: Final = (1 << (16 * (GRAM_ORDER - 1))) - 1
SYMBOL_MASK: Final = 0xFFFF
START: Final = 0  # the symbol of the start of a run
BITS: Final = 20  # binary places of a probability
ONE: Final = 1 << BITS
SURPRISE_UNIT: Final = 256
LEAST_PROBABILITY: Final = ONE // 64  # the probability of an endpoint without any count, as if it were one of 64
CLASS_UNIT: Final = 16  # one request in the counts of a class
FULL_COUNT: Final = 255
MAX_ROW_EVENTS: Final = 256  # maximum requests for which a caller counts in its class
MAX_GRAM_TAGS: Final = 1 << 16
COUNT_BITS: Final = 40
MAX_GRAM_COUNT: Final = (1 << COUNT_BITS) - 1
PART_UNIT: Final = 1_024  # one count, while the rows of a class are added up
MAX_LONE_SCORES: Final = 4  # maximum scores of one caller where other callers have few: the weight of one flagged run
MAX_TAGS: Final = 16_384  # cached sequences
MAX_SURPRISES: Final = 4_096  # cached sequences of a class
_TAGS: Final[dict[int, tuple[int, ...]]] = {}
# -log2 of 1 + n/256, in 1/256 bit
_LOGS: Final = [round(SURPRISE_UNIT * log2(1 + number / 256)) for number in range(256)]


def symbol_of(endpoint: int) -> int:
    """Return the symbol of an endpoint, from its tag."""
    return endpoint & SYMBOL_MASK or 1


def gram_tag(length: int, context: int, symbol: int) -> int:
    """Return the 16-bit tag of a gram: a symbol after the latest `length` symbols of a context."""
    mixed = symbol * 0x9E3779B1 + length * 0x5BD1E995 & 0xFFFFFFF
    for _ in range(length):
        mixed = ((mixed ^ context & SYMBOL_MASK) + 1) * 0x85EBCA6B & 0xFFFFFFF
        mixed ^= mixed >> 13
        context >>= 16
    mixed = (mixed ^ mixed >> 11) * 0xC2B2AE35 & 0xFFFFFFF
    return mixed >> 12


def gram_tags(context: int, symbol: int) -> tuple[int, ...]:
    """Return the tags of the grams that end in a symbol: of the symbol alone and then, for each length of its context,
    of the context and of the whole gram. They are cached, because one request needs them several times."""
    key = context << 16 | symbol
    found = _TAGS.get(key)
    if found is None:
        tags = [gram_tag(0, 0, symbol)]
        for length in range(1, context_length(context) + 1):
            tags.append(gram_tag(length - 1, context >> 16, context & SYMBOL_MASK))
            tags.append(gram_tag(length, context, symbol))
        if len(_TAGS) >= MAX_TAGS:
            _TAGS.clear()
        found = _TAGS[key] = tuple(tags)
    return found


def context_length(context: int) -> int:
    """Return how many symbols of a context are known, including the start of the run."""
    length = 1
    while length < GRAM_ORDER and context & SYMBOL_MASK:
        length += 1
        context >>= 16
    return min(length, GRAM_ORDER - 1)


def extend_context(context: int, symbol: int) -> int:
    """Return the context after one more request."""
    return (context << 16 | symbol) & CONTEXT_MASK


def surprise_of(probability: int) -> int:
    """Return the surprise of a probability, which is given in units of 1/ONE and is at least one unit."""
    length = probability.bit_length()
    index = (probability << 9 >> length) & 0xFF if length < 9 else probability >> (length - 9) & 0xFF
    surprise = (BITS + 1 - length) * SURPRISE_UNIT - _LOGS[index]
    return surprise if surprise > 0 else 0


# ── The caller ────────────────────────────────────────────────────────────────────────────────


def count_gram(grams: array[int], counts: bytearray, tag: int) -> int:
    """Return how often a caller sent a gram, from its table, which must not be empty."""
    place = tag % GRAM_SETS * GRAM_WAYS
    if grams[place] == tag and counts[place]:
        return counts[place]
    if grams[place + 1] == tag and counts[place + 1]:
        return counts[place + 1]
    if grams[place + 2] == tag and counts[place + 2]:
        return counts[place + 2]
    return counts[place + 3] if grams[place + 3] == tag else 0


def own_surprise(row: BehaviorRow, context: int, symbol: int) -> int:
    """Return how surprising a symbol after a context is to the caller."""
    grams, counts = row.grams, row.gram_counts
    if not grams:
        return surprise_of(LEAST_PROBABILITY)
    tags, seen = gram_tags(context, symbol), row.gram_total
    count = count_gram(grams, counts, tags[0])
    probability = (count * ONE + LEAST_PROBABILITY) // ((seen if seen > count else count) + 1)
    for place in range(1, len(tags), 2):
        seen, count = count_gram(grams, counts, tags[place]), count_gram(grams, counts, tags[place + 1])
        probability = (count * ONE + probability) // ((seen if seen > count else count) + 1)
    return surprise_of(probability or 1)


def learn_grams(row: BehaviorRow, context: int, symbol: int) -> None:
    """Count a request and its grams. At the start of a run, the start is counted too."""
    if not row.grams:
        row.grams, row.gram_counts = array("H", bytes(2 * GRAM_ENTRIES)), bytearray(GRAM_ENTRIES)
    if not context:
        add_gram(row, gram_tag(0, 0, START))
    tags = gram_tags(context, symbol)
    add_gram(row, tags[0])
    for place in range(2, len(tags), 2):
        add_gram(row, tags[place])
    if row.gram_total >= SYMBOL_MASK:
        halve_grams(row)
    row.gram_total += 1


def add_gram(row: BehaviorRow, tag: int) -> None:
    """Count a gram once more. In a full set, lower the count of the rarest gram instead, and replace that gram when its
    count is used up."""
    grams, counts = row.grams, row.gram_counts
    first = tag % GRAM_SETS * GRAM_WAYS
    for place in range(first, first + GRAM_WAYS):
        if grams[place] == tag and counts[place]:
            if counts[place] == FULL_COUNT:
                halve_grams(row)
            counts[place] += 1
            return
    least, fewest = first, counts[first]
    for place in range(first + 1, first + GRAM_WAYS):
        count = counts[place]
        if count < fewest:
            least, fewest = place, count
    if fewest > 1:
        counts[least] = fewest - 1
    else:
        grams[least], counts[least] = tag, 1


def halve_grams(row: BehaviorRow) -> None:
    """Halve all counts, so that later requests count for more."""
    counts = row.gram_counts
    for place in range(GRAM_ENTRIES):
        counts[place] >>= 1
        if not counts[place]:
            row.grams[place] = 0
    row.gram_total >>= 1


# ── The class ─────────────────────────────────────────────────────────────────────────────────


class GramCounts:
    """The counts of the grams of a class, by tag, and the number of requests `total`, in 1/CLASS_UNIT. They never
    change, so `surprises` caches how surprising symbols after contexts are."""

    __slots__ = ("counts", "surprises", "total")

    def __init__(self, counts: dict[int, int], total: int) -> None:
        self.counts = counts
        self.total = total
        self.surprises: dict[int, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GramCounts) and (self.counts, self.total) == (other.counts, other.total)

    def __hash__(self) -> int:
        return hash((len(self.counts), self.total))

    def pack(self) -> bytes:
        """Return the total and the counts as bytes; equal counts have equal bytes."""
        tags = sorted(self.counts)
        return array("Q", [self.total, *[tag << COUNT_BITS | self.counts[tag] for tag in tags]]).tobytes()


def unpack_grams(raw: bytes) -> GramCounts:
    """Return the counts that `GramCounts.pack` packed. Raises ValueError."""
    numbers = array("Q")
    numbers.frombytes(raw)
    counts = {number >> COUNT_BITS: number & MAX_GRAM_COUNT for number in numbers[1:]}
    if not numbers or len(counts) + 1 != len(numbers) or any(tag >= MAX_GRAM_TAGS for tag in counts):
        raise ValueError("the counts of sequences are damaged")
    return GramCounts(counts, numbers[0])


def class_surprise(grams: GramCounts, context: int, symbol: int) -> int:
    """Return how surprising a symbol after a context is to the class with these counts."""
    key, known = context << 16 | symbol, grams.surprises
    found = known.get(key)
    if found is None:
        if len(known) >= MAX_SURPRISES:
            known.clear()
        found = known[key] = compute_surprise(grams, context, symbol)
    return found


def compute_surprise(grams: GramCounts, context: int, symbol: int) -> int:
    """Return how surprising a symbol after a context is to the class, from its counts."""
    counts, total, tags = grams.counts, grams.total, gram_tags(context, symbol)
    count = counts.get(tags[0], 0)
    probability = (count * ONE + CLASS_UNIT * LEAST_PROBABILITY) // ((total if total > count else count) + CLASS_UNIT)
    for place in range(1, len(tags), 2):
        seen, count = counts.get(tags[place], 0), counts.get(tags[place + 1], 0)
        probability = (count * ONE + CLASS_UNIT * probability) // ((seen if seen > count else count) + CLASS_UNIT)
    return surprise_of(probability or 1)


class GramSums:
    """The sums of the grams of the callers of a class. A caller has a number from 1; all instances and versions of an
    agent are one caller."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * MAX_GRAM_TAGS))
        self._first = array("I", bytes(4 * MAX_GRAM_TAGS))  # the first caller with a gram
        self._shared = bytearray(MAX_GRAM_TAGS)  # whether a second caller has it
        self.total = 0

    def add(self, row: BehaviorRow, caller: int, part: int) -> None:
        """Add a row of a caller with a weight of 1/`part`."""
        if not row.gram_total:
            return
        weight = CLASS_UNIT * MAX_ROW_EVENTS // max(row.gram_total, MAX_ROW_EVENTS) * PART_UNIT // part
        whole, first, shared = self._counts, self._first, self._shared
        for tag, count in zip(row.grams, row.gram_counts, strict=True):
            if count:
                whole[tag] += count * weight
                if not first[tag]:
                    first[tag] = caller
                elif first[tag] != caller:
                    shared[tag] = 1
        self.total += row.gram_total * weight

    def merge(self, other: GramSums, before: int) -> None:
        """Add the sums of other callers, whose numbers follow the `before` numbers of these callers."""
        whole, first, shared = self._counts, self._first, self._shared
        for tag in range(MAX_GRAM_TAGS):
            number = other._first[tag]
            if number:
                whole[tag] += other._counts[tag]
                if first[tag] or other._shared[tag]:
                    shared[tag] = 1
                if not first[tag]:
                    first[tag] = before + number
        self.total += other.total

    def pack(self) -> tuple[bytes, bytes, bytes, int]:
        """Return the sums as bytes, for another process."""
        return self._counts.tobytes(), self._first.tobytes(), bytes(self._shared), self.total

    def unpack(self, packed: tuple[bytes, bytes, bytes, int]) -> None:
        """Set the sums that `pack` returned."""
        counts, first, shared, self.total = packed
        self._counts, self._first, self._shared = array("Q", counts), array("I", first), bytearray(shared)

    def shared_counts(self, most: int) -> GramCounts:
        """Return the counts of the grams that at least two callers have, limited to the `most` most frequent grams."""
        found = {tag: self._counts[tag] // PART_UNIT for tag in range(MAX_GRAM_TAGS) if self._shared[tag]}
        if len(found) > most:
            frequent = sorted(found, key=lambda tag: (-found[tag], tag))[:most]
            found = {tag: found[tag] for tag in sorted(frequent)}
        counts = {tag: min(count, MAX_GRAM_COUNT) for tag, count in found.items() if count}
        return GramCounts(counts, self.total // PART_UNIT)


class ScoreTails:
    """The tails of the scores of the callers of a class: how many are in each bucket or above it. The first cells are
    for the scores to the class: one for each class of lengths. The other cells are for the scores to the caller: one
    for each class of lengths in each class of maturity."""

    def __init__(self, maturities: int) -> None:
        self.cells = SCORE_LENGTHS * (1 + maturities)
        self._sums = array("Q", bytes(8 * self.cells * SCORE_BUCKETS))
        self._tops = array("I", bytes(4 * self.cells * SCORE_BUCKETS))  # the largest tail of one caller

    def add(self, scores: bytearray, maturity: int) -> None:
        """Add the scores of a row whose caller has a class of maturity, from 0."""
        for kind in range(2):
            for length in range(SCORE_LENGTHS):
                own = SCORE_LENGTHS * (1 + maturity) + length
                first = (own if kind else length) * SCORE_BUCKETS
                place, tail = (kind * SCORE_LENGTHS + length) * SCORE_BUCKETS, 0
                if not any(scores[place : place + SCORE_BUCKETS]):
                    continue
                for bucket in range(SCORE_BUCKETS - 1, -1, -1):
                    tail += scores[place + bucket]
                    self._sums[first + bucket] += tail
                    if tail > self._tops[first + bucket]:
                        self._tops[first + bucket] = tail

    def merge(self, other: ScoreTails) -> None:
        """Add the scores of other callers."""
        for place in range(len(self._sums)):
            self._sums[place] += other._sums[place]
            self._tops[place] = max(self._tops[place], other._tops[place])

    def pack(self) -> tuple[bytes, bytes]:
        """Return the sums as bytes, for another process."""
        return self._sums.tobytes(), self._tops.tobytes()

    def unpack(self, packed: tuple[bytes, bytes]) -> None:
        """Set the sums that `pack` returned."""
        sums, tops = packed
        self._sums, self._tops = array("Q", sums), array("I", tops)

    def extend(self, cell: int, other: int) -> None:
        """Add the scores of another cell to a cell."""
        for bucket in range(SCORE_BUCKETS):
            place, from_place = cell * SCORE_BUCKETS + bucket, other * SCORE_BUCKETS + bucket
            self._sums[place] += self._sums[from_place]
            self._tops[place] = max(self._tops[place], self._tops[from_place])

    def tails(self, cell: int) -> list[int]:
        """Return the tails of a cell. One caller has at most a quarter of each tail, so that no caller raises it alone,
        but always up to MAX_LONE_SCORES, because shares would otherwise be too small where few callers have high
        scores."""
        found: list[int] = []
        for place in range(cell * SCORE_BUCKETS, (cell + 1) * SCORE_BUCKETS):
            top, others = self._tops[place], self._sums[place] - self._tops[place]
            found.append(others + min(top, max(others // 3, MAX_LONE_SCORES)))
        return found


def unpack_sums(packed: tuple[bytes, bytes, bytes, int]) -> GramSums:
    """Return the sums that `GramSums.pack` returned."""
    found = GramSums()
    found.unpack(packed)
    return found


def unpack_tails(maturities: int, packed: tuple[bytes, bytes]) -> ScoreTails:
    """Return the tails that `ScoreTails.pack` returned."""
    found = ScoreTails(maturities)
    found.unpack(packed)
    return found


NO_GRAMS: Final = GramCounts({}, 0)

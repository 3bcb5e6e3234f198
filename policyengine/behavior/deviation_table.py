"""The table of deviations: how unusual a run is, compared with the scores of earlier runs to the class and to the
caller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policyengine.behavior.row import SCORE_BUCKETS, SCORE_LENGTHS

UNUSUAL: Final = 1_000  # thousandths
WEIGHT: Final = 64  # the weight of a share that counts once


class DeviationTable:
    """The deviations, in thousandths, by the score of a run to its class (`by_class`) and by its score to its caller
    (`by_caller`); the higher deviation counts. Each cell has SCORE_BUCKETS deviations, and the cells are those of the
    scores to the caller: for each class of numbers of runs, those of lengths.

    The p-value of a score is the share of the earlier runs with at least this score. The deviation is 1 minus the share
    of usual runs in which one of the two p-values is at most as large as the smaller p-value of this run. The sum of
    two values bounds that share: for each of the two scores, the largest possible p-value that does not exceed this
    smaller p-value. If the p-value of one score cannot be so small, because many runs have the highest score, only the
    other score counts. A longer run is ranked twice: at first among short runs, later among longer runs. So its shares
    count twice, and the weight of all shares grows with the share of longer runs (`length_weights`). With these
    weights, the usual runs that exceed a threshold at either time are together at most the share that the threshold
    allows.
    """

    __slots__ = ("by_caller", "by_class")

    def __init__(self, class_tails: tuple[int, ...], own_tails: tuple[int, ...]) -> None:
        weights = length_weights(class_tails) if class_tails else (WEIGHT, WEIGHT)
        by_class: list[int] = []
        by_caller: list[int] = []
        for first in range(0, len(own_tails), SCORE_BUCKETS):
            length = first // SCORE_BUCKETS % SCORE_LENGTHS
            own = own_tails[first : first + SCORE_BUCKETS]
            of_class = class_tails[length * SCORE_BUCKETS : (length + 1) * SCORE_BUCKETS]
            by_class += cell_deviations(of_class, own, weights[length])
            by_caller += cell_deviations(own, of_class, weights[length])
        self.by_class = tuple(by_class)
        self.by_caller = tuple(by_caller)

    def highest(self, length: int) -> int:
        """Return the highest deviation of the runs in a class of lengths; 0 in an empty table."""
        last = (length + 1) * SCORE_BUCKETS - 1
        places = range(last, len(self.by_class), SCORE_LENGTHS * SCORE_BUCKETS)
        return max([max(self.by_class[place], self.by_caller[place]) for place in places], default=0)


def length_weights(class_tails: tuple[int, ...]) -> tuple[int, int]:
    """Return the weights of the shares of short and of longer runs, in 1/WEIGHT. Every run has a score as a short run,
    and a longer run has a second score."""
    short, long = max(class_tails[0], 1), class_tails[SCORE_BUCKETS]
    weight = WEIGHT + WEIGHT * min(long, short) // (2 * short)
    return weight, 2 * weight


def cell_deviations(tails: tuple[int, ...], others: tuple[int, ...], weight: int) -> Iterator[int]:
    """Yield the deviation for each bucket of a score. `tails` holds for each bucket the number of earlier runs with a
    score in this bucket or a higher one, and `others` holds the same numbers of the other score. The run that is ranked
    is counted too, so that no share is 0."""
    total, other_total, place = tails[0] + 1, others[0] + 1, 0
    for tail in tails:
        while place < SCORE_BUCKETS and (others[place] + 1) * total > (tail + 1) * other_total:
            place += 1
        other = others[place] + 1 if place < SCORE_BUCKETS else 0
        share = (tail + 1) * other_total + other * total
        yield max(UNUSUAL - UNUSUAL * weight * share // (WEIGHT * total * other_total), 0)

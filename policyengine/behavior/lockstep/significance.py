"""Computes how probable the common runs of pairs are by chance, and which pairs are significant among all pairs."""

from __future__ import annotations

from typing import Final

import numpy as np

from policyengine.behavior.lockstep.ordered_events import Numbers

MAX_TERMS: Final = 200


def poisson_tail(counts: Numbers, means: Numbers) -> Numbers:
    """Return the probability of at least `counts` events if `means` are expected. The result is 1 where the count is
    less than twice the expected number, because such a count is never significant."""
    if not len(counts):
        return np.zeros(0)
    factorials = np.append(0.0, np.cumsum(np.log(np.arange(1, int(counts.max()) + 1))))
    term = np.exp(counts * np.log(means) - means - factorials[counts])
    tail = term.copy()
    for step in range(1, MAX_TERMS):
        term = term * means / (counts + step)
        tail += term
    return np.where(counts < 2 * means, 1.0, np.minimum(tail, 1.0))


def q_values(probabilities: Numbers, tests: int) -> Numbers:
    """Return the expected share of pairs found by chance among each pair and the pairs that are less probable
    (Benjamini–Hochberg). `tests` is the number of pairs that could have been found."""
    order = np.argsort(probabilities, kind="stable")
    ranked = probabilities[order] * tests / np.arange(1, len(order) + 1)
    values = np.empty(len(order))
    values[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return values

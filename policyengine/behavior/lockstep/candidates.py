"""Finds pairs of callers that may move as one: pairs that share many tokens.

A token is a bigram of endpoints in a slot of time. A second grid of slots, which is offset by half a slot, finds
requests at both sides of the border of a slot.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from policyengine.behavior.lockstep.bounds import (
    LEAST_COMMON,
    LEAST_SHARE,
    MAX_CANDIDATES,
    MAX_SHARED,
    MAX_TOKEN_CALLERS,
    MINUTE,
)
from policyengine.behavior.lockstep.ordered_events import Numbers, OrderedEvents, is_new

CALLER_BITS, MINUTE_BITS = np.uint64(20), np.uint64(24)
MINUTE_MASK: Final = np.uint64(2**24 - 1)
CALLER_MASK: Final = np.uint64(2**20 - 1)
SLOT_MASK: Final = np.uint64(2**32 - 1)
TOLERANCE: Final = 0.8  # candidates may have fewer common minutes than a pair needs common runs


class CandidatePairs(NamedTuple):
    """Pairs of callers, those with the most common minutes relative to chance first. `left_out` counts the pairs beyond
    MAX_CANDIDATES, and `token_callers` is the maximum number of callers of the tokens that were used."""

    first: Numbers
    second: Numbers
    left_out: int
    token_callers: int


def find_candidates(events: OrderedEvents, slot: int) -> CandidatePairs:
    """Return the pairs of callers that share tokens in enough minutes to be compared exactly."""
    shared, limits = [], []
    for offset in (0, slot // 2):
        tokens, callers = tokens_of(events, slot, offset)
        sizes = token_sizes(tokens)
        limits.append(size_limit(sizes))
        shared.append(shared_minutes(tokens, callers, sizes, limits[-1], slot))
        del tokens, callers, sizes
    words = np.concatenate(shared)
    del shared
    words.sort()
    pairs = words[is_new(words)] >> MINUTE_BITS
    del words
    starts = np.flatnonzero(is_new(pairs))
    return select_candidates(events, pairs[starts], np.diff(starts, append=len(pairs)), min(limits))


def tokens_of(events: OrderedEvents, slot: int, offset: int) -> tuple[Numbers, Numbers]:
    """Return the distinct pairs of a token and a caller, ordered by both."""
    words = events.bigrams.astype(np.uint64) << np.uint64(32)
    words |= (events.times + np.uint32(offset)) // np.uint32(slot)
    order = np.argsort(words, kind="stable")  # the events are ordered by caller
    words, callers = words[order], events.callers[order]
    del order
    new = is_new(words)
    new |= is_new(callers)
    return words[new], callers[new]


def token_sizes(tokens: Numbers) -> Numbers:
    """Return for each entry of a token how many callers the token has."""
    starts = np.flatnonzero(is_new(tokens))
    lengths = np.diff(starts, append=len(tokens))
    return np.repeat(lengths, lengths)


def size_limit(sizes: Numbers) -> int:
    """Return the maximum number of callers of a token such that the pairs of all such tokens are at most MAX_SHARED."""
    entries = np.bincount(np.minimum(sizes, MAX_TOKEN_CALLERS + 1), minlength=MAX_TOKEN_CALLERS + 1)
    pairs = np.cumsum(entries[: MAX_TOKEN_CALLERS + 1] * np.maximum(np.arange(MAX_TOKEN_CALLERS + 1) - 1, 0) / 2)
    return int(np.searchsorted(pairs, MAX_SHARED, side="right")) - 1


def shared_minutes(tokens: Numbers, callers: Numbers, sizes: Numbers, limit: int, slot: int) -> Numbers:
    """Return a number for each pair of callers with the same token. The number contains the two callers and the
    minute."""
    used = (sizes > 1) & (sizes <= limit)
    tokens, callers, sizes = tokens[used], callers[used].astype(np.uint64), sizes[used]
    minutes = (tokens & SLOT_MASK) * np.uint64(slot) // np.uint64(MINUTE)
    starts = np.flatnonzero(is_new(tokens))
    lengths = np.diff(starts, append=len(tokens))
    after = np.repeat(starts + lengths, lengths) - np.arange(len(tokens)) - 1  # entries of the token after this one
    words, end = np.empty(int(after.sum()), np.uint64), 0
    places = np.flatnonzero(after > 0)
    for distance in range(1, limit):
        start, end = end, end + len(places)
        pairs = (callers[places] << CALLER_BITS) | callers[places + distance]
        words[start:end] = (pairs << MINUTE_BITS) | minutes[places]
        places = places[after[places] > distance]
    return words


def select_candidates(events: OrderedEvents, pairs: Numbers, common: Numbers, token_callers: int) -> CandidatePairs:
    """Return the pairs to compare exactly, at most MAX_CANDIDATES, those with the most common minutes relative to
    chance first."""
    first, second = (pairs >> CALLER_BITS).astype(np.int64), (pairs & CALLER_MASK).astype(np.int64)
    runs = np.maximum(events.runs_of[first], events.runs_of[second])
    chance = events.minutes_of[first] * events.minutes_of[second] / max(events.minutes, 1)
    likely = (common >= LEAST_COMMON - 1) & (common >= TOLERANCE * LEAST_SHARE * runs)
    first, second = first[likely], second[likely]
    order = np.argsort(-common[likely] / (1 + chance[likely]), kind="stable")[:MAX_CANDIDATES]
    return CandidatePairs(first[order], second[order], len(first) - len(order), token_callers)

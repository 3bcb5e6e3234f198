"""Suggestions for a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_WORD_LENGTH = 64  # maximum characters to compare, because comparing takes quadratic time
CUTOFF = 0.7  # similarity, from 0 to 1


def suggest(word: str, candidates: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """Return the candidate that is most similar to `word`, ignoring case, or None if none is similar enough."""
    known = {candidate.lower(): candidate for candidate in sorted(candidates, reverse=True)}
    close = get_close_matches(word[:MAX_WORD_LENGTH].lower(), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else None


def did_you_mean(word: str, candidates: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """Return the hint ``did you mean `user.role`?``, or None if no candidate is similar enough."""
    meant = suggest(word, candidates, cutoff)
    return None if meant is None else f"did you mean `{meant}`?"

"""Containment and overlap of endpoint patterns and places. A pattern is the set of endpoints that it matches.

`covers` and `overlaps` are exact for two patterns. `place_covers` is never wrongly true, but it may be false if only
several patterns together cover another pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Generic, TypeVar

from policyengine.checker.patterns.glob_index import GlobIndex
from policyengine.diagnostics.model import BoundExceededError, Diagnostic
from policyengine.kernel import FOLDINGS, ActionPattern, Folding, HttpPattern, Pattern, Place, Segment, ToolPattern
from policyengine.runtime.letter_case import fold_case, has_letters

Item = TypeVar("Item")
MAX_STEPS = 1_000_000  # base limit of the steps of all searches in an index
STEPS_PER_PATTERN = 500  # added to the limit for each pattern in the index


def covers(outer: Pattern, inner: Pattern) -> bool:
    """Return whether `outer` matches every endpoint that `inner` matches."""
    match outer, inner:
        case HttpPattern(), HttpPattern():
            return _methods_cover(outer.methods, inner.methods) and _path_covers(outer, inner)
        case ToolPattern(), ToolPattern():
            return _glob_covers(outer.glob, inner.glob)
        case ActionPattern(), ActionPattern():
            return outer == inner
        case _:
            return False


def overlaps(a: Pattern, b: Pattern) -> bool:
    """Return whether some endpoint matches both patterns."""
    match a, b:
        case HttpPattern(), HttpPattern():
            return _methods_meet(a.methods, b.methods) and _paths_meet(a, b)
        case ToolPattern(), ToolPattern():
            return globs_meet(a.glob, b.glob)
        case ActionPattern(), ActionPattern():
            return a == b
        case _:
            return False


def place_covers(outer: Place, inner: Place) -> bool:
    """Return whether a rule at `outer` applies wherever a rule at `inner` applies."""
    if inner.patterns is None:
        return outer.patterns is None and all(_is_excluded(hole, inner) for hole in outer.excepts)
    return all(_piece_is_within(piece, outer, inner) for pattern in inner.patterns for piece in by_method(pattern))


def place_overlaps(place: Place, pattern: Pattern) -> bool:
    """Return whether some endpoint of the pattern is in the place. An exclusion is considered only if it covers the
    whole pattern.
    """
    inside = place.patterns is None or any(overlaps(p, pattern) for p in near(place.patterns, pattern))
    return inside and not all(covered(piece, place.excepts) for piece in by_method(pattern))


def _piece_is_within(piece: Pattern, outer: Place, inner: Place) -> bool:
    """Return whether `outer` contains everything that `inner` keeps of one of its patterns."""
    if covered(piece, inner.excepts):
        return True
    inside = outer.patterns is None or covered(piece, outer.patterns)
    holes = near(outer.excepts, piece)
    return inside and all(_is_excluded(hole, inner) for hole in holes if overlaps(hole, piece))


def _is_excluded(hole: Pattern, inner: Place) -> bool:
    """Return whether `inner` also excludes the part that `outer` excludes here."""
    return all(covered(piece, inner.excepts) for piece in by_method(hole))


def covered(piece: Pattern, patterns: tuple[Pattern, ...]) -> bool:
    """Return whether one of the patterns covers the piece."""
    return any(covers(pattern, piece) for pattern in near(patterns, piece))


def by_method(pattern: Pattern) -> Iterator[Pattern]:
    """Yield the pattern for each of its methods, because `GET /a` and `POST /a` together cover `GET|POST /a`."""
    if isinstance(pattern, HttpPattern) and pattern.methods is not None:
        yield from (replace(pattern, methods=(method,)) for method in pattern.methods)
    else:
        yield pattern


# ── Methods and paths ─────────────────────────────────────────────────────────────────────────


def _methods_cover(outer: tuple[str, ...] | None, inner: tuple[str, ...] | None) -> bool:
    return outer is None or (inner is not None and set(inner) <= set(outer))


def _methods_meet(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> bool:
    return a is None or b is None or not set(a).isdisjoint(b)


def _path_covers(outer: HttpPattern, inner: HttpPattern) -> bool:
    long_enough = len(inner.segments) >= len(outer.segments)
    same_length = len(inner.segments) == len(outer.segments) and not inner.rest
    if not (long_enough if outer.rest else same_length):
        return False
    spelling = LiteralMatch.covering(outer.folding, inner.folding)
    return all(_segment_covers(o, i, spelling) for o, i in zip(outer.segments, inner.segments, strict=False))


def _paths_meet(a: HttpPattern, b: HttpPattern) -> bool:
    short, long = sorted((a, b), key=lambda pattern: len(pattern.segments))
    if len(short.segments) < len(long.segments) and not short.rest:
        return False
    spelling = LiteralMatch.meeting(a.folding, b.folding)
    return all(segments_meet(x, y, spelling) for x, y in zip(short.segments, long.segments, strict=False))


class LiteralMatch(Enum):
    """How a literal of one pattern is compared with a literal of another: exactly, without regard to case, or exactly
    and only if it has no letters. The last comparison is for an outer pattern that folds case less than the inner
    pattern, because the inner pattern then matches further spellings of its letters.
    """

    EXACT = "exact"
    FOLDED = "folded"
    UNCASED = "uncased"

    @classmethod
    def covering(cls, outer: Folding, inner: Folding) -> LiteralMatch:
        if outer == inner == "none":
            return cls.EXACT
        return cls.FOLDED if FOLDINGS.index(outer) >= FOLDINGS.index(inner) else cls.UNCASED

    @classmethod
    def meeting(cls, a: Folding, b: Folding) -> LiteralMatch:
        """Return how literals of overlapping patterns compare: if one of the patterns folds case, it matches the
        spelling of the other.
        """
        return cls.EXACT if a == b == "none" else cls.FOLDED

    def __call__(self, text: str) -> str:
        """Return a normalized text, equal for texts that count as equal."""
        return fold_case(text) if self is LiteralMatch.FOLDED else text

    def allows(self, text: str) -> bool:
        return self is not LiteralMatch.UNCASED or not has_letters(text)


def _segment_covers(outer: Segment, inner: Segment, spelling: LiteralMatch) -> bool:
    if not all(map(spelling.allows, (outer.prefix, outer.suffix))):
        return False
    if not outer.wild:
        return not inner.wild and spelling(inner.prefix) == spelling(outer.prefix)
    if not inner.wild:
        return _fits(inner.prefix, outer, spelling)
    begins = spelling(inner.prefix).startswith(spelling(outer.prefix))
    return begins and spelling(inner.suffix).endswith(spelling(outer.suffix))


def segments_meet(a: Segment, b: Segment, spelling: LiteralMatch = LiteralMatch.EXACT) -> bool:
    """Return whether some text matches both segments."""
    if not a.wild:
        return spelling(b.prefix) == spelling(a.prefix) if not b.wild else _fits(a.prefix, b, spelling)
    if not b.wild:
        return _fits(b.prefix, a, spelling)
    start, other = spelling(a.prefix), spelling(b.prefix)
    end, other_end = spelling(a.suffix), spelling(b.suffix)
    prefixes = start.startswith(other) or other.startswith(start)
    return prefixes and (end.endswith(other_end) or other_end.endswith(end))


def _fits(text: str, wild: Segment, spelling: LiteralMatch) -> bool:
    """Return whether a text matches a wild segment. The wild part of a segment is never empty."""
    text, prefix, suffix = spelling(text), spelling(wild.prefix), spelling(wild.suffix)
    return len(text) > len(prefix) + len(suffix) and text.startswith(prefix) and text.endswith(suffix)


# ── Globs: `*` is any run of characters ───────────────────────────────────────────────────────


def _glob_covers(outer: str, inner: str) -> bool:
    """Return whether `outer` matches all texts of `inner`.

    This is exact: `*` of `inner` is treated as a character that `outer` does not contain, which only a `*` of `outer`
    can match.
    """
    reached = _skip_stars(outer, {0})
    for char in inner:
        stay = {i for i in reached if i < len(outer) and outer[i] == "*"}
        step = {i + 1 for i in reached if i < len(outer) and outer[i] == char != "*"}
        reached = _skip_stars(outer, stay | step)
    return len(outer) in reached


def _skip_stars(glob: str, positions: Iterable[int]) -> set[int]:
    """Return the positions, and those that follow a `*` at one of them."""
    found = set()
    for position in positions:
        found.add(position)
        while position < len(glob) and glob[position] == "*":
            position += 1
            found.add(position)
    return found


def globs_meet(a: str, b: str) -> bool:
    """Return whether some text matches both globs. Each row holds the positions in `b` that a common text can have
    reached.
    """
    row = _skip_stars(b, {0})
    for char in a:
        if char == "*":
            row = set(range(min(row), len(b) + 1)) if row else row
        else:
            stay = {j for j in row if j < len(b) and b[j] == "*"}
            step = {j + 1 for j in row if j < len(b) and b[j] == char}
            row = _skip_stars(b, stay | step)
    return len(b) in row


# ── An index that avoids comparing every pair of patterns ──────────────


@dataclass(slots=True)
class _TrieNode(Generic[Item]):
    literal: dict[str, _TrieNode[Item]] = field(default_factory=dict)
    wild: dict[Segment, _TrieNode[Item]] = field(default_factory=dict)
    here: list[tuple[Pattern, Item]] = field(default_factory=list)


class PatternIndex(Generic[Item]):
    """Items indexed by pattern; finds the items whose pattern overlaps a given pattern. Paths are stored in a trie of
    segments. Raises BoundExceededError if a search takes more steps than the number of patterns allows.
    """

    def __init__(self, max_steps: int = MAX_STEPS) -> None:
        self._left = max_steps
        self._paths: _TrieNode[Item] = _TrieNode()
        self._exact: dict[Pattern, list[Item]] = {}
        self._globs: GlobIndex[tuple[Pattern, Item]] = GlobIndex()
        self._names: GlobIndex[Pattern] = GlobIndex()  # items of tools with a literal name

    def add(self, pattern: Pattern, item: Item) -> None:
        self._left += STEPS_PER_PATTERN
        if not isinstance(pattern, HttpPattern):
            self._add_plain(pattern, item)
            return
        branch = self._paths
        for segment in pattern.segments:
            if segment.wild:
                branch = branch.wild.setdefault(replace(segment, capture=None, entity=None), _TrieNode())
            else:
                text = fold_case(segment.prefix)
                branch = branch.literal.get(text) or branch.literal.setdefault(text, _TrieNode())
        branch.here.append((pattern, item))

    def _add_plain(self, pattern: ToolPattern | ActionPattern, item: Item) -> None:
        if isinstance(pattern, ToolPattern) and _is_glob(pattern):
            self._globs.add(pattern.glob, (pattern, item))
        else:
            if isinstance(pattern, ToolPattern) and pattern not in self._exact:
                self._names.add(pattern.glob, pattern)
            self._exact.setdefault(pattern, []).append(item)

    def overlapping(self, pattern: Pattern | None) -> Iterator[Item]:
        """Yield the items whose pattern overlaps this one, or all items for None."""
        if pattern is None:
            yield from (item for items in self._exact.values() for item in items)
            yield from (item for _, (_, item) in self._globs.near("*"))
            yield from (item for _, item in _all_below(self._paths))
        elif isinstance(pattern, HttpPattern):
            yield from (item for found, item in self._candidates(pattern) if overlaps(found, pattern))
        else:
            yield from (item for found, item in self._near_globs(pattern) if overlaps(found, pattern))
            same = (pattern,) if not _is_glob(pattern) else self._names_meeting(pattern)
            yield from (item for found in same for item in self._exact.get(found, ()))

    def _near_globs(self, pattern: ToolPattern | ActionPattern) -> Iterator[tuple[Pattern, Item]]:
        if isinstance(pattern, ToolPattern):
            yield from (entry for _, entry in self._globs.near(pattern.glob))

    def _names_meeting(self, pattern: ToolPattern | ActionPattern) -> Iterator[Pattern]:
        assert isinstance(pattern, ToolPattern)
        yield from (one for name, one in self._names.near(pattern.glob) if globs_meet(name, pattern.glob))

    def _candidates(self, pattern: HttpPattern) -> Iterator[tuple[Pattern, Item]]:
        level = [self._paths]
        for segment in pattern.segments:
            self._spend(sum(_steps(branch, segment) for branch in level), pattern)
            yield from (entry for branch in level for entry in branch.here)
            level = [inner for branch in level for inner in _matching_branches(branch, segment)]
        for branch in level:
            yield from _all_below(branch) if pattern.rest else branch.here

    def _spend(self, steps: int, pattern: HttpPattern) -> None:
        self._left -= steps
        if self._left < 0:
            message = "finding the patterns that overlap this one takes too many steps"
            hint = "begin paths with literal text instead of captures and `*`, or write fewer patterns"
            raise BoundExceededError(Diagnostic("E322", message, pattern.span, hint))


def _is_glob(pattern: Pattern) -> bool:
    return isinstance(pattern, ToolPattern) and "*" in pattern.glob


def _steps(branch: _TrieNode[Item], segment: Segment) -> int:
    """Return how many branches `_matching_branches` examines."""
    return 1 + len(branch.wild) + (len(branch.literal) if segment.wild else 0)


def _matching_branches(branch: _TrieNode[Item], segment: Segment) -> Iterator[_TrieNode[Item]]:
    """Yield the branches that can overlap this segment, ignoring case."""
    if segment.wild:
        yield from (inner for text, inner in branch.literal.items() if _fits(text, segment, LiteralMatch.FOLDED))
    elif (text := fold_case(segment.prefix)) in branch.literal:
        yield branch.literal[text]
    yield from (inner for other, inner in branch.wild.items() if segments_meet(segment, other, LiteralMatch.FOLDED))


def _all_below(branch: _TrieNode[Item]) -> Iterator[tuple[Pattern, Item]]:
    pending = [branch]
    while pending:
        current = pending.pop()
        yield from current.here
        pending += [*current.literal.values(), *current.wild.values()]


# ── Places of many patterns ───────────────────────────────────────────────────────────────────

FEW = 8  # fewer patterns are compared one by one
MAX_INDEXES = 64
# Indexes by the identity of a place's patterns.
_indexes: dict[int, tuple[tuple[Pattern, ...], PatternIndex[Pattern]]] = {}


def near(patterns: tuple[Pattern, ...], pattern: Pattern) -> Iterable[Pattern]:
    """Return the patterns of a place that may overlap a pattern, from an index if there are many."""
    if len(patterns) <= FEW:
        return patterns
    known = _indexes.get(id(patterns))
    if known is None:
        if len(_indexes) >= MAX_INDEXES:
            _indexes.clear()
        index: PatternIndex[Pattern] = PatternIndex()
        for member in patterns:
            index.add(member, member)
        _indexes[id(patterns)] = known = patterns, index
    return known[1].overlapping(pattern)


def forget_places() -> None:
    """Clear the indexes after a check, so that they do not keep old policies in memory."""
    _indexes.clear()

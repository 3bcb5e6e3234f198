"""The texts that one path segment can have in a class of endpoints, if they are spellings of a literal, and the texts
in which a pattern splits a character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from policyengine import kernel as k
from policyengine.runtime import paths
from policyengine.runtime.letter_case import TURKISH, fold_case
from policyengine.runtime.values import Invalid
from policyengine.spec.match_endpoint import least_folding, match_segment

MAX_SPELLINGS = 2_000  # maximum spellings of one literal to try
FULL = k.FOLDINGS.index("full")
# Other characters of paths that fold to ASCII letters. Paths cannot contain `ſ`, the Kelvin sign and ligatures.
FOREIGN_LETTERS = {**TURKISH, "ß": "ss", "ẞ": "ss"}
# Characters of paths that fold to several characters; a literal can contain one of these.
SPLIT_CHARACTERS = {char: char.casefold() for char in ("ß", "ẞ", "ǰ", "ẖ", "ẗ", "ẘ", "ẙ")}


@dataclass(frozen=True, slots=True)
class SegmentMatch:
    """How the texts of a class match the segment of a pattern. `reached` is the weakest folding with which the path
    reaches the segment, `strongest` the strongest folding of patterns that continue there, and `folding` the weakest
    folding with which the path matches up to here; None if it does not match.
    """

    segment: k.Segment
    reached: int
    strongest: int
    folding: int | None

    @classmethod
    def of(cls, segment: k.Segment, reached: int, strongest: int, text: str) -> SegmentMatch:
        return cls(segment, reached, strongest, _folding(segment, reached, strongest, text))

    def fits(self, text: str) -> bool:
        """Return whether another text matches in the same way."""
        return _folding(self.segment, self.reached, self.strongest, text) == self.folding

    @property
    def splits(self) -> bool:
        """Whether the capture of some text of the class may be invalid because a character is split."""
        return self.segment.wild and self.folding == FULL and any(splitting_texts(self.segment))


def _folding(segment: k.Segment, reached: int, strongest: int, text: str) -> int | None:
    took = least_folding(segment, text)
    return None if took is None or strongest < max(took, reached) else max(took, reached)


@dataclass(frozen=True, slots=True)
class SegmentSpellings:
    """The spellings of one literal, given in folded form, that match the same patterns."""

    literal: str
    matches: tuple[SegmentMatch, ...]

    def __contains__(self, text: object) -> bool:
        return (
            isinstance(text, str)
            and fold_case(text) == self.literal
            and paths.find_segment_hazard(text) is None
            and all(one.fits(text) for one in self.matches)
        )

    def known(self, first: Sequence[str] = ()) -> tuple[tuple[str, ...], bool]:
        """Return spellings, beginning with those of `first`, and whether these are all spellings."""
        foreign = bool(first) and not first[0].isascii()
        tried = list(islice(spellings(self.literal, foreign), MAX_SPELLINGS + 1))
        found = tuple(dict.fromkeys(one for one in (*first, *tried[:MAX_SPELLINGS]) if one in self))
        return found, len(tried) <= MAX_SPELLINGS

    def several(self, known: str) -> bool:
        """Return whether there may be other spellings besides the known one."""
        if any(one.folding == 0 for one in self.matches if not one.segment.wild):
            return False
        tried = spellings(self.literal, not known.isascii())
        if any(one != known and one in self for one in islice(tried, MAX_SPELLINGS)):
            return True
        return next(tried, None) is not None


def spellings(literal: str, foreign: bool = False) -> Iterator[str]:
    """Yield all texts that fold to a literal; with `foreign`, texts with characters outside ASCII come first."""
    pending = [("", literal)]
    while pending:
        text, left = pending.pop()
        if not left:
            yield text
            continue
        plain = sorted({left[0].upper(), left[0]})
        others = [char for char, folded in FOREIGN_LETTERS.items() if left.startswith(folded)]
        chosen = (*others, *plain) if foreign else (*plain, *others)
        pending += [(text + char, left[len(FOREIGN_LETTERS.get(char, char)) :]) for char in reversed(chosen)]


def splitting_texts(segment: k.Segment) -> Iterator[str]:
    """Yield texts that match a segment with every folding, but where the match splits a character."""
    prefix, suffix = segment.prefix, segment.suffix
    for char, folded in SPLIT_CHARACTERS.items():
        for cut in range(1, len(folded)):
            before, after = len(prefix) - cut, len(folded) - cut
            texts = [f"{prefix[:before]}{char}{middle}{suffix}" for middle in ("x", "")]
            texts += [f"{prefix}{middle}{char}{suffix[after:]}" for middle in ("x", "")]
            for text in texts:
                split = isinstance(match_segment(segment, text, "full"), Invalid)
                if split and paths.find_segment_hazard(text) is None:
                    yield text

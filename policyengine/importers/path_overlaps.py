"""Finds overlapping paths of an API with tries of their segments, so that thousands of paths need not be compared
pairwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from policyengine.importers.errors import ApiImportError
from policyengine.importers.model import HttpTemplate, PathSegment
from policyengine.importers.path_patterns import segments_overlap

MAX_PAIRS = 50_000  # maximum pairs of paths that one request may match
MAX_STEPS = 1_000_000  # maximum trie steps in the search for these pairs
SPLIT_HINT = "split the specification, and import each part into a separate folder"


@dataclass(slots=True)
class _PathTrieNode:
    """The children of a trie node: literal segments by text, captures by the text around them."""

    literal: dict[str, _PathTrieNode] = field(default_factory=dict)
    wild: dict[tuple[str, str], tuple[PathSegment, _PathTrieNode]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)

    def below(self, segment: PathSegment) -> _PathTrieNode:
        if segment.capture:
            return self.wild.setdefault((segment.before, segment.after), (segment, _PathTrieNode()))[1]
        return self.literal.setdefault(segment.text, _PathTrieNode())

    def meeting(self, segment: PathSegment) -> Iterator[_PathTrieNode]:
        if segment.capture:
            yield from (node for text, node in self.literal.items() if segments_overlap(segment, PathSegment(text)))
        elif segment.text in self.literal:
            yield self.literal[segment.text]
        yield from (node for other, node in self.wild.values() if segments_overlap(segment, other))

    def steps(self, segment: PathSegment) -> int:
        """Return the number of nodes that `meeting` visits."""
        return 1 + len(self.wild) + (len(self.literal) if segment.capture else 1)


@dataclass(slots=True)
class PathIndex:
    """Endpoints in the order in which they were added, with a search for overlaps. The total number of results and of
    steps is limited.
    """

    max_pairs: int = MAX_PAIRS
    max_steps: int = MAX_STEPS
    endpoints: list[HttpTemplate] = field(default_factory=list)
    _roots: dict[tuple[str, int], _PathTrieNode] = field(default_factory=dict)  # tries by method and number of segments
    _pairs: int = 0
    _steps: int = 0

    @classmethod
    def of(cls, endpoints: Iterable[HttpTemplate]) -> PathIndex:
        index = cls()
        for endpoint in endpoints:
            index.add(endpoint)
        return index

    def add(self, endpoint: HttpTemplate) -> None:
        node = self._roots.setdefault((endpoint.method, len(endpoint.segments)), _PathTrieNode())
        for segment in endpoint.segments:
            node = node.below(segment)
        node.numbers.append(len(self.endpoints))
        self.endpoints.append(endpoint)

    def meeting(self, method: str, segments: Sequence[PathSegment]) -> list[int]:
        """Return the numbers of all endpoints that overlap this path. Raises ApiImportError if a limit is exceeded."""
        root = self._roots.get((method, len(segments)))
        level = [] if root is None else [root]
        for segment in segments:
            self._steps += sum(node.steps(segment) for node in level)
            if self._steps > self.max_steps:
                raise ApiImportError(
                    f"finding overlapping paths takes more than {self.max_steps:,} steps", hint=SPLIT_HINT
                )
            level = [after for node in level for after in node.meeting(segment)]
        found = sorted(number for node in level for number in node.numbers)
        self._pairs += len(found)
        if self._pairs > self.max_pairs:
            raise ApiImportError(
                f"more than {self.max_pairs:,} pairs of paths match the same requests", hint=SPLIT_HINT
            )
        return found

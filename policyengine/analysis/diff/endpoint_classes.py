"""Partitions endpoints into classes that no pattern of either policy distinguishes, each with a representative."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise, product
from math import prod
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.analysis.diff.segment_spellings import SegmentMatch, SegmentSpellings, spellings, splitting_texts
from policyengine.checker.patterns.overlap import overlaps
from policyengine.runtime import paths
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.globs import Glob
from policyengine.runtime.letter_case import fold_case
from policyengine.spec.trace import Block

MAX_CLASSES = 50_000
MAX_RESPELLINGS = 1_000  # maximum other spellings of one text
DOUBLE_S = re.compile("ss", re.IGNORECASE | re.ASCII)
FILLER_WORDS = ("x", "y", "z", "q", "other", "elsewhere", "something", "xyzzy")
OTHER_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "LINK", "PURGE", "REPORT")


class TooManyClassesError(Exception):
    """The error for policies whose patterns overlap in too many ways."""


@dataclass(frozen=True, slots=True)
class EndpointClass:
    """A class of endpoints, represented by `endpoint` and named by `words`.

    `free` are segments that can be any text, `spelled` are captured segments that can be several spellings of a
    literal, and `split` are the segments, prefixes and suffixes of captures that may be invalid. `settled` are the
    facts that are the same in the whole class. `exact` is False if patterns may overlap in a way for which no
    representative was found.
    """

    endpoint: Endpoint
    words: str
    free: tuple[int, ...] = ()
    spelled: Mapping[int, SegmentSpellings] = field(default_factory=dict, compare=False)
    split: frozenset[tuple[int, str, str]] = frozenset()
    exact: bool = True
    settled: Mapping[tuple[str, ...], str] = field(default_factory=dict, compare=False)


def patterns_of(*kernels: k.Kernel) -> tuple[k.Pattern, ...]:
    """Return every pattern in rules, limits and bindings, once."""
    found: dict[k.Pattern, None] = {}
    for kernel in kernels:
        blocks: tuple[Block, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
        for block in blocks:
            found.update((opening.pattern, None) for grant in block.grants for opening in grant.openings)
        for agent in kernel.agents:
            found.update((pattern, None) for delegate in agent.delegates for pattern in delegate.patterns)
        for guard in kernel.guards:
            found.update(dict.fromkeys((*(guard.place.patterns or ()), *guard.place.excepts)))
        for limit in kernel.limits:
            found.update(dict.fromkeys((*(limit.place.patterns or ()), *limit.place.excepts)))
        found.update((one, None) for binder in kernel.binders for one in (binder.pattern, fully_folded(binder.pattern)))
    return tuple(dict.fromkeys(without_captures(pattern) for pattern in found))


def fully_folded(pattern: k.Pattern) -> k.Pattern:
    """Return the pattern as guards match it."""
    return k.with_folding(pattern, "full")


def without_captures(pattern: k.Pattern) -> k.Pattern:
    """Return the pattern without the names of its captures, which do not affect matching."""
    if not isinstance(pattern, k.HttpPattern):
        return pattern
    return replace(pattern, segments=tuple(replace(one, capture=None, entity=None) for one in pattern.segments))


def endpoint_classes(patterns: Sequence[k.Pattern]) -> Iterator[EndpointClass]:
    """Yield all classes, including those that match no pattern. Raises TooManyClassesError."""
    yield from http_classes([one for one in patterns if isinstance(one, k.HttpPattern)])
    yield from tool_classes([one.glob for one in patterns if isinstance(one, k.ToolPattern)])
    yield from action_classes([one for one in patterns if isinstance(one, k.ActionPattern)])


# ── Paths: a single walk of the deterministic trie of all patterns ─────────────────────────────────


@dataclass(eq=False, slots=True)
class PatternTrieNode:
    """A node of the pattern trie; `folding` is the strongest case folding of patterns here or below, `cased` the
    literals by folded text. `wild` are the segments of the path to this node that patterns can capture."""

    literals: dict[str, PatternTrieNode] = field(default_factory=dict)
    cased: dict[str, list[str]] = field(default_factory=dict)
    affixes: dict[tuple[str, str], PatternTrieNode] = field(default_factory=dict)
    ends: list[k.HttpPattern] = field(default_factory=list)
    rests: list[k.HttpPattern] = field(default_factory=list)
    folding: int = 0
    wild: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SegmentChoice:
    """A segment that represents all segments with the same matches; `words` is their pattern. These segments can be any
    text, or several spellings of a literal, or only this text. `split` are the prefixes and suffixes of patterns that
    may match only a part of a character.
    """

    text: str
    words: str
    free: bool
    spelled: SegmentSpellings | None = None
    split: frozenset[tuple[str, str]] = frozenset()

    @property
    def range(self) -> object:
        """Return a value that is equal for two choices if a capture of the segment can have the same texts."""
        return self.spelled or (None if self.free else self.text), self.split


# A node, and the index of the weakest folding with which a path reaches it.
TriePosition: TypeAlias = tuple[PatternTrieNode, int]


def build_trie(patterns: Iterable[k.HttpPattern]) -> PatternTrieNode:
    root = PatternTrieNode()
    for pattern in patterns:
        node, folding = root, k.FOLDINGS.index(pattern.folding)
        root.folding = max(root.folding, folding)
        for number, segment in enumerate(pattern.segments):
            if not segment.wild and segment.prefix not in node.literals:
                node.cased.setdefault(fold_case(segment.prefix), []).append(segment.prefix)
            below = (
                node.affixes.setdefault((segment.prefix, segment.suffix), PatternTrieNode()) if segment.wild else None
            )
            wild = node.wild | {number} if segment.wild else node.wild
            node = below or node.literals.setdefault(segment.prefix, PatternTrieNode())
            node.wild = wild
            node.folding = max(node.folding, folding)
        (node.rests if pattern.rest else node.ends).append(pattern)
    return root


def patterns_folding_at_least(patterns: Iterable[k.HttpPattern], folding: int) -> Iterator[k.HttpPattern]:
    yield from (one for one in patterns if k.FOLDINGS.index(one.folding) >= folding)


def http_classes(patterns: Sequence[k.HttpPattern]) -> Iterator[EndpointClass]:
    """Yield classes of HTTP endpoints. Below the last pattern, all paths are one class; so are all paths that no
    pattern names, or that only a pattern such as `/*/**` matches. Raises TooManyClassesError.
    """
    count, empty = 0, False
    short: tuple[SegmentChoice, ...] | None = None
    met: set[object] = set()  # other spellings of several segments can have the same matches and captures
    pending: list[tuple[tuple[SegmentChoice, ...], tuple[TriePosition, ...], tuple[k.HttpPattern, ...]]]
    pending = [((), ((build_trie(patterns), 0),), ())]
    while pending:
        before, nodes, above = pending.pop()
        rests = (*above, *(one for node, folding in nodes for one in patterns_folding_at_least(node.rests, folding)))
        here = [*rests, *(one for node, folding in nodes for one in patterns_folding_at_least(node.ends, folding))]
        captured = sorted({number for node, _ in nodes for number in node.wild} | captured_segments(rests))
        reached = frozenset((id(node), folding) for node, folding in nodes)
        state = reached, rests, tuple((number, before[number].range) for number in captured)
        if nodes and state in met:
            continue
        met.add(state)
        for method in sample_methods(here) if here or not (empty or nodes) else ():
            count += 1
            if count > MAX_CLASSES:
                raise TooManyClassesError
            yield http_class(before, method, here, gone=not nodes)
        empty = empty or not (here or nodes)
        short = before if short is None and not here else short
        if nodes:
            pending += [
                ((*before, step), follow_segment(nodes, step.text), rests) for step in reversed(segment_choices(nodes))
            ]
    if not empty and short is not None:
        yield from (http_class(short, method, (), gone=False) for method in sample_methods([]))


def http_class(
    before: tuple[SegmentChoice, ...], method: str, here: Sequence[k.HttpPattern], *, gone: bool
) -> EndpointClass:
    segments = tuple(step.text for step in before)
    named = any(method in (one.methods or ()) for one in here)
    verb = method if named else "any other method" if any(one.methods for one in here) else "any method"
    tail = "/**" if gone and before else ""
    captured = captured_segments(here)
    spelled = {number: one for number in captured if (one := before[number].spelled) is not None}
    shown = [f"({step.text} or another spelling)" if number in spelled else step.words
             for number, step in enumerate(before)]  # fmt: skip
    words = f"{verb} /{'/'.join(shown[:-1] if tail else shown)}{tail}"
    free = tuple(number for number, step in enumerate(before) if step.free)
    split = frozenset((number, *affix) for number in captured for affix in before[number].split)
    endpoint = HttpEndpoint(method, "/" + "/".join(segments), segments)
    settled: dict[tuple[str, ...], str] = {("request", "method"): method} if named else {}
    return EndpointClass(
        endpoint, words if here else "any other path", free,
        spelled, split, settled=settled,
    )  # fmt: skip


def captured_segments(patterns: Iterable[k.HttpPattern]) -> set[int]:
    """Return the segments that patterns can capture."""
    return {number for one in patterns for number, segment in enumerate(one.segments) if segment.wild}


def sample_methods(here: Sequence[k.HttpPattern]) -> list[str]:
    """Return the methods in patterns, and one method that no pattern contains."""
    named = sorted({method for one in here for method in one.methods or ()})
    return [*named, next(one for one in (*OTHER_METHODS, "XYZZY") if one not in named)]


def follow_segment(nodes: Iterable[TriePosition], text: str) -> tuple[TriePosition, ...]:
    """Return the nodes after a segment, if their patterns allow the folding it needs."""
    found = segment_matches(nodes, text)
    return tuple((below, one.folding) for below, one in found if one.folding is not None)


def segment_matches(nodes: Iterable[TriePosition], text: str) -> list[tuple[PatternTrieNode, SegmentMatch]]:
    """Return how a segment matches each next segment of patterns, except other literals."""
    found: list[tuple[PatternTrieNode, SegmentMatch]] = []
    for node, folding in nodes:
        ways = [(k.Segment(literal), node.literals[literal]) for literal in node.cased.get(fold_case(text), ())]
        ways += [(k.Segment(prefix, True, suffix), below) for (prefix, suffix), below in node.affixes.items()]
        found += [(below, SegmentMatch.of(segment, folding, below.folding, text)) for segment, below in ways]
    return found


def segment_choice(nodes: Sequence[TriePosition], text: str, affixes: Sequence[tuple[str, str]]) -> SegmentChoice:
    """Return the choice of a text, which represents all texts with the same matches."""
    matches = tuple(dict.fromkeys(one for _, one in segment_matches(nodes, text)))
    split = frozenset((one.segment.prefix, one.segment.suffix) for one in matches if one.splits)
    if all(one.segment.wild or one.folding is None for one in matches):
        return SegmentChoice(text, segment_pattern(text, affixes), True, None, split)
    spelled = SegmentSpellings(fold_case(text), matches)
    return SegmentChoice(text, text, False, spelled if spelled.several(text) else None, split)


def has_affix(text: str, affix: tuple[str, str]) -> bool:
    prefix, suffix = affix
    return len(text) > len(prefix) + len(suffix) and text.startswith(prefix) and text.endswith(suffix)


def segment_choices(nodes: Sequence[TriePosition]) -> list[SegmentChoice]:
    """Return segments for every set of nodes that one segment can reach, including the empty set; each literal also in
    another spelling if that spelling reaches other nodes. Raises TooManyClassesError.
    """
    literals = sorted({text for node, _ in nodes for text in node.literals})
    affixes = sorted({affix for node, _ in nodes for affix in node.affixes})
    taken = set(literals)
    found: dict[object, str] = {}
    texts = [text for affix in affix_combinations(affixes) for text in affix_texts(*affix, taken)]
    others = [*unmatched_texts(taken, affixes), *texts]
    folds = any(node.folding for node, _ in nodes)
    respelled: list[str] = []
    if folds:
        cased: dict[str, list[str]] = {}
        for literal in literals:
            cased.setdefault(fold_case(literal), []).append(literal)
        respelled = [text for same in cased.values() for text in respellings(same[0], affixes, same)]
        others += [text for one in texts for text in respellings(one, affixes, cased.get(fold_case(one), ()))]
    others += [text for one in affixes for text in splitting_texts(k.Segment(one[0], True, one[1]))] if folds else []
    for text in [*others, *respelled]:
        if text and text not in taken and not isinstance(paths.canonical_path(f"/{text}"), paths.MalformedPath):
            found.setdefault(position_keys(nodes, text), text)
    named = (text for text in literals if position_keys(nodes, text) not in found)
    return [segment_choice(nodes, text, affixes) for text in (*named, *found.values())]


def position_keys(nodes: Sequence[TriePosition], text: str) -> frozenset[tuple[int, int]]:
    return frozenset((id(node), folding) for node, folding in follow_segment(nodes, text))


def respellings(text: str, affixes: Iterable[tuple[str, str]], literals: Iterable[str]) -> Iterator[str]:
    """Yield other spellings of a text.

    The prefixes and suffixes of patterns that the text matches without regard to letter case divide it into blocks;
    each block is written as in a pattern, as in no pattern, and with characters outside ASCII. `literals` are the
    literals that differ from the text only in letter case. Raises TooManyClassesError.
    """
    folded, size = fold_case(text), len(text)
    fitting = [(p, s) for p, s in affixes if has_affix(folded, (fold_case(p), fold_case(s)))]
    cuts = {0, size, *(len(prefix) for prefix, _ in fitting), *(size - len(suffix) for _, suffix in fitting)}
    writings = [text, *literals, *(p.ljust(size) for p, _ in fitting), *(s.rjust(size) for _, s in fitting)]
    blocks = [
        block_spellings(folded[start:end], {one[start:end] for one in writings})
        for start, end in pairwise(sorted(cuts))
    ]
    if prod(map(len, blocks)) > MAX_RESPELLINGS:
        raise TooManyClassesError
    for parts in product(*blocks):
        yield (spelled := "".join(parts))
        yield DOUBLE_S.sub("ß", spelled)


def block_spellings(folded: str, written: set[str]) -> list[str]:
    same = [one for one in sorted(written) if fold_case(one) == folded]
    tried = islice(spellings(folded), MAX_RESPELLINGS)
    plain = next((one for one in tried if one.isascii() and one not in written), None)
    foreign = next(spellings(folded, foreign=True))
    return [*same, *([] if plain is None else [plain]), *([] if foreign.isascii() else [foreign])]


def segment_pattern(text: str, affixes: Iterable[tuple[str, str]]) -> str:
    """Return the pattern of a segment, in the letter case of the text if it is spelled differently."""
    spelled = [
        (text[: len(before)], text[len(text) - len(after) :])
        for before, after in affixes
        if has_affix(fold_case(text), (fold_case(before), fold_case(after)))
    ]
    fitting = [affix for affix in spelled if has_affix(text, affix)]
    prefix = max((affix[0] for affix in fitting), key=len, default="")
    suffix = max((affix[1] for affix in fitting), key=len, default="")
    return f"{prefix}*{suffix}"


def affix_combinations(affixes: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield all combinations of prefixes and suffixes."""
    yield from product(dict.fromkeys(["", *(p for p, _ in affixes)]), dict.fromkeys(["", *(s for _, s in affixes)]))


def affix_texts(prefix: str, suffix: str, taken: set[str]) -> Iterator[str]:
    """Yield texts with a prefix and a suffix: separate, adjacent, or overlapping."""
    yield next(text for fill in filler_texts() if (text := f"{prefix}{fill}{suffix}") not in taken)
    for length in range(min(len(prefix), len(suffix)) + 1):
        if prefix.endswith(suffix[:length]):
            yield prefix + suffix[length:]


def unmatched_texts(taken: set[str], affixes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a text that no literal names, and that only patterns for any text match."""
    marked = [affix for affix in affixes if affix != ("", "")]
    yield next(text for text in filler_texts() if text not in taken and not any(has_affix(text, one) for one in marked))


def filler_texts() -> Iterator[str]:
    yield from FILLER_WORDS
    number = 1
    while True:
        yield f"x{number}"
        number += 1


# ── Tools and actions ─────────────────────────────────────────────────────────────────────────


def tool_classes(globs: Sequence[str]) -> Iterator[EndpointClass]:
    """Yield a tool for each name, each glob and each overlap of globs, and a tool that no pattern matches."""
    found: dict[tuple[bool, ...], str] = {}
    exact_names = [glob for glob in globs if "*" not in glob]
    stars = [glob for glob in globs if "*" in glob]
    for name in [
        *exact_names,
        *glob_sample_names(stars),
        *least_matched_names(globs),
        *(f"x/{one}" for one in least_matched_names(globs)),
    ]:
        if is_tool_name(name):
            found.setdefault(tuple(Glob(glob).matches(name) for glob in globs), name)
    exact = covers_all_names(stars)
    for matching, name in found.items():
        fitting = [glob for glob, matches in zip(globs, matching, strict=True) if matches]
        words = name if name in exact_names else min(fitting, key=lambda glob: (-len(glob), glob), default="*")
        server, slash, rest = name.rpartition("/")
        settled: dict[tuple[str, ...], str] = {("tool", "name"): rest} if name in exact_names else {}
        settled |= {("tool", "server"): server} if slash and settled else {}
        yield EndpointClass(
            ToolEndpoint(server if slash else None, rest), f"TOOL {words}", exact=exact, settled=settled
        )


def is_tool_name(name: str) -> bool:
    """Return whether a tool can have the name: neither server nor tool contains a slash."""
    server, slash, rest = name.partition("/")
    return bool(name) if not slash else bool(server and rest) and "/" not in rest


def glob_sample_names(globs: Sequence[str]) -> Iterator[str]:
    """Yield a name for each glob, and for each pair of globs a name that matches both, if one is found."""
    for glob in globs:
        yield fill_glob(glob, "x")
        yield fill_glob(glob, "x/x", "x")
        yield glob.replace("*", "")
    for one, other in product(globs, globs):
        if one != other and overlaps(tool_pattern(one), tool_pattern(other)):
            yield from (fill_glob(one, fill_glob(other, fill)) for fill in ("", "x"))
            yield from overlap_names(one, other)


def overlap_names(one: str, other: str) -> Iterator[str]:
    """Yield names that may match both globs: `report-x-bot` for `report-*` and `*-bot`."""
    prefix, _, _ = one.partition("*")
    _, _, suffix = other.rpartition("*")
    yield from (f"{prefix}{fill}{suffix}" for fill in ("", "x", "x/x"))
    yield from (prefix + suffix[n:] for n in range(len(suffix) + 1) if prefix.endswith(suffix[:n]))


def fill_glob(glob: str, fill: str, then: str | None = None) -> str:
    first, *others = glob.split("*")
    pieces = [first]
    for number, other in enumerate(others):
        pieces += [fill if number == 0 or then is None else then, other]
    return "".join(pieces)


def tool_pattern(glob: str) -> k.ToolPattern:
    return k.ToolPattern(glob, span=None)  # type: ignore[arg-type]  # a pattern that is only compared


def least_matched_names(globs: Sequence[str]) -> list[str]:
    """Return names that match as few globs as possible."""
    some = [name for name, _ in zip(filler_texts(), range(len(FILLER_WORDS) + len(globs) + 1), strict=False)]
    return sorted(some, key=lambda name: sum(Glob(glob).matches(name) for glob in globs))[:1]


def covers_all_names(globs: Sequence[str]) -> bool:
    """Return whether the sample names are certainly complete: each glob has one star, and at most two globs overlap."""
    simple = all(glob.count("*") == 1 and "*" in (glob[:1], glob[-1:]) for glob in globs)
    return simple or not any(
        overlaps(tool_pattern(one), tool_pattern(other)) for one, other in product(globs, globs) if one != other
    )


def action_classes(patterns: Iterable[k.ActionPattern]) -> Iterator[EndpointClass]:
    found = {(one.verb, one.type): None for one in patterns}
    for verb, type_ in found:
        yield EndpointClass(ActionEndpoint(verb, type_), f"ACTION {verb} {type_}")
    verb = next(text for text in filler_texts() if all(text != one for one, _ in found))
    yield EndpointClass(ActionEndpoint(verb, "thing"), "any other action")

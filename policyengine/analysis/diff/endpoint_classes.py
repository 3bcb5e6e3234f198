"""Endpoint classes: all endpoints that no pattern of either policy tells apart, by one that stands for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import overlaps
from policyengine.runtime import paths
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.letter_case import fold_case
from policyengine.runtime.patterns import Glob
from policyengine.spec.match_endpoint import least_folding
from policyengine.spec.trace import Block

MAX_CLASSES = 50_000
FILLER_WORDS = ("x", "y", "z", "q", "other", "elsewhere", "something", "xyzzy")
OTHER_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "LINK", "PURGE", "REPORT")


class TooManyClassesError(Exception):
    """The patterns of two policies cross in more ways than can be looked at."""


@dataclass(frozen=True, slots=True)
class EndpointClass:
    """`endpoint` stands for all of its class; `words` name the class. `free` are the segments that can be any text, and
    `settled` the facts of the request that are the same in all of it.

    `exact` is False where patterns may cross in a way of which no endpoint is here.
    """

    endpoint: Endpoint
    words: str
    free: tuple[int, ...] = ()
    exact: bool = True
    settled: Mapping[tuple[str, ...], str] = field(default_factory=dict, compare=False)


def patterns_of(*kernels: k.Kernel) -> tuple[k.Pattern, ...]:
    """Every pattern that a rule, a limit or a binding of the policies names, once."""
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
    """As guards read what it binds."""
    return k.with_folding(pattern, "full")


def without_captures(pattern: k.Pattern) -> k.Pattern:
    """Without the names of its captures, which match nothing else."""
    if not isinstance(pattern, k.HttpPattern):
        return pattern
    return replace(pattern, segments=tuple(replace(one, capture=None, entity=None) for one in pattern.segments))


def endpoint_classes(patterns: Sequence[k.Pattern]) -> Iterator[EndpointClass]:
    """All classes, those that match no pattern included. Raises TooManyClassesError."""
    yield from http_classes([one for one in patterns if isinstance(one, k.HttpPattern)])
    yield from tool_classes([one.glob for one in patterns if isinstance(one, k.ToolPattern)])
    yield from action_classes([one for one in patterns if isinstance(one, k.ActionPattern)])


# ── Paths: one walk of the deterministic trie of all patterns ─────────────────────────────────


@dataclass(eq=False, slots=True)
class PatternTrieNode:
    """A place in the trie; `folding` is the number of the most that any pattern here or below folds, `cased` are the
    literals by their folded text."""

    literals: dict[str, PatternTrieNode] = field(default_factory=dict)
    cased: dict[str, list[str]] = field(default_factory=dict)
    affixes: dict[tuple[str, str], PatternTrieNode] = field(default_factory=dict)
    ends: list[k.HttpPattern] = field(default_factory=list)
    rests: list[k.HttpPattern] = field(default_factory=list)
    folding: int = 0


@dataclass(frozen=True, slots=True)
class SegmentChoice:
    """A segment that stands for all that lead to the same places; `words` is what a pattern would say for it."""

    text: str
    words: str
    free: bool


TriePosition: TypeAlias = tuple[
    PatternTrieNode, int
]  # with the number of the least folding by which a path comes there


def build_trie(patterns: Iterable[k.HttpPattern]) -> PatternTrieNode:
    root = PatternTrieNode()
    for pattern in patterns:
        node, folding = root, k.FOLDINGS.index(pattern.folding)
        root.folding = max(root.folding, folding)
        for segment in pattern.segments:
            if not segment.wild and segment.prefix not in node.literals:
                node.cased.setdefault(fold_case(segment.prefix), []).append(segment.prefix)
            below = (
                node.affixes.setdefault((segment.prefix, segment.suffix), PatternTrieNode()) if segment.wild else None
            )
            node = below or node.literals.setdefault(segment.prefix, PatternTrieNode())
            node.folding = max(node.folding, folding)
        (node.rests if pattern.rest else node.ends).append(pattern)
    return root


def patterns_folding_at_least(patterns: Iterable[k.HttpPattern], folding: int) -> Iterator[k.HttpPattern]:
    yield from (one for one in patterns if k.FOLDINGS.index(one.folding) >= folding)


def http_classes(patterns: Sequence[k.HttpPattern]) -> Iterator[EndpointClass]:
    """Where no pattern is left to go on, all that lies below is one class; so is everything that nothing names, and be
    it only what a pattern such as `/*/**` begins below."""
    count, empty = 0, False
    short: tuple[SegmentChoice, ...] | None = None
    met: set[object] = set()  # other spellings of several segments lead to the same
    pending: list[tuple[tuple[SegmentChoice, ...], tuple[TriePosition, ...], tuple[k.HttpPattern, ...]]]
    pending = [((), ((build_trie(patterns), 0),), ())]
    while pending:
        before, nodes, above = pending.pop()
        rests = (*above, *(one for node, folding in nodes for one in patterns_folding_at_least(node.rests, folding)))
        here = [*rests, *(one for node, folding in nodes for one in patterns_folding_at_least(node.ends, folding))]
        state = frozenset((id(node), folding) for node, folding in nodes), rests
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
    words = f"{verb} /{'/'.join(step.words for step in (before[:-1] if tail else before))}{tail}"
    free = tuple(number for number, step in enumerate(before) if step.free)
    endpoint = HttpEndpoint(method, "/" + "/".join(segments), segments)
    settled: dict[tuple[str, ...], str] = {("request", "method"): method} if named else {}
    return EndpointClass(endpoint, words if here else "any other path", free, settled=settled)


def sample_methods(here: Sequence[k.HttpPattern]) -> list[str]:
    """The methods that some pattern names, and one that none does."""
    named = sorted({method for one in here for method in one.methods or ()})
    return [*named, next(one for one in (*OTHER_METHODS, "XYZZY") if one not in named)]


def follow_segment(nodes: Iterable[TriePosition], text: str) -> tuple[TriePosition, ...]:
    """Where no pattern is that folds as much as it takes, nothing is reached."""
    found: list[TriePosition] = []
    for node, folding in nodes:
        ways = [(k.Segment(literal), node.literals[literal]) for literal in node.cased.get(fold_case(text), ())]
        ways += [(k.Segment(prefix, True, suffix), below) for (prefix, suffix), below in node.affixes.items()]
        for segment, below in ways:
            took = least_folding(segment, text)
            if took is not None and below.folding >= max(took, folding):
                found.append((below, max(took, folding)))
    return tuple(found)


def has_affix(text: str, affix: tuple[str, str]) -> bool:
    prefix, suffix = affix
    return len(text) > len(prefix) + len(suffix) and text.startswith(prefix) and text.endswith(suffix)


def segment_choices(nodes: Sequence[TriePosition]) -> list[SegmentChoice]:
    """Segments for every set of places that one segment can lead to, the one that leads nowhere included; each literal
    also as it is spelled otherwise, where that leads to others."""
    literals = sorted({text for node, _ in nodes for text in node.literals})
    affixes = sorted({affix for node, _ in nodes for affix in node.affixes})
    taken, cased = set(literals), set(map(fold_case, literals))
    found: dict[object, SegmentChoice] = {}
    texts = [text for affix in affix_combinations(affixes) for text in affix_texts(*affix, taken)]
    others = [*unmatched_texts(taken, affixes), *texts]
    folds = any(node.folding for node, _ in nodes)
    respelled = [text for one in literals for text in respellings(one, affixes)] if folds else []
    others += [text for one in texts for text in respellings(one, affixes)] if folds else []
    for text in [*others, *respelled]:
        if text and text not in taken and not isinstance(paths.canonical_path(f"/{text}"), paths.MalformedPath):
            free = fold_case(text) not in cased
            found.setdefault(
                position_keys(nodes, text), SegmentChoice(text, segment_pattern(text, affixes) if free else text, free)
            )
    named = (text for text in literals if position_keys(nodes, text) not in found)
    return [*(SegmentChoice(text, text, False) for text in named), *found.values()]


def position_keys(nodes: Sequence[TriePosition], text: str) -> frozenset[tuple[int, int]]:
    return frozenset((id(node), folding) for node, folding in follow_segment(nodes, text))


def respellings(text: str, affixes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """In the other case, as only some servers take for the same; with its ends also as patterns spell them."""
    for other in (text.swapcase(), text.replace("ss", "ß").replace("i", "ı")):
        yield other
        for prefix, suffix in affix_combinations(affixes):
            if has_affix(fold_case(other), (fold_case(prefix), fold_case(suffix))):
                yield f"{prefix}{other[len(prefix) : len(other) - len(suffix)]}{suffix}"


def segment_pattern(text: str, affixes: Iterable[tuple[str, str]]) -> str:
    """What a pattern would say; in the case of the text where it is spelled otherwise."""
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
    """Everything that a segment can begin and end with."""
    yield from product(dict.fromkeys(["", *(p for p, _ in affixes)]), dict.fromkeys(["", *(s for _, s in affixes)]))


def affix_texts(prefix: str, suffix: str, taken: set[str]) -> Iterator[str]:
    """Texts with both: something between them, nothing, or one running into the other."""
    yield next(text for fill in filler_texts() if (text := f"{prefix}{fill}{suffix}") not in taken)
    for length in range(min(len(prefix), len(suffix)) + 1):
        if prefix.endswith(suffix[:length]):
            yield prefix + suffix[length:]


def unmatched_texts(taken: set[str], affixes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One that is not named and fits no affix but those that fit everything."""
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
    """A tool for each name, for each glob, and for globs that meet; and one that nothing names."""
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
    """One that can be asked for: a server holds no slash, and neither does a name without one."""
    server, slash, rest = name.partition("/")
    return bool(name) if not slash else bool(server and rest) and "/" not in rest


def glob_sample_names(globs: Sequence[str]) -> Iterator[str]:
    """A name for each glob, and for each two of them one that fits both, if it is found."""
    for glob in globs:
        yield fill_glob(glob, "x")
        yield fill_glob(glob, "x/x", "x")
        yield glob.replace("*", "")
    for one, other in product(globs, globs):
        if one != other and overlaps(tool_pattern(one), tool_pattern(other)):
            yield from (fill_glob(one, fill_glob(other, fill)) for fill in ("", "x"))
            yield from overlap_names(one, other)


def overlap_names(one: str, other: str) -> Iterator[str]:
    """`report-*` and `*-bot`: `report-x-bot`."""
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
    """A name that as few globs as can be fit."""
    some = [name for name, _ in zip(filler_texts(), range(len(FILLER_WORDS) + len(globs) + 1), strict=False)]
    return sorted(some, key=lambda name: sum(Glob(glob).matches(name) for glob in globs))[:1]


def covers_all_names(globs: Sequence[str]) -> bool:
    """Whether the names above surely are all: globs with one star, of which at most two meet at a time."""
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

"""What covers and what overlaps, held against matching every endpoint of a small world."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, covers, overlaps, place_covers, place_overlaps
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint, ToolEndpoint
from policyengine.source import Source, Span
from policyengine.spec import match_endpoint

SPAN = Span(Source("test", ""), 0, 0)
METHODS = ("GET", "POST", "OTHER")
# `z` is in no pattern: it stands for every other character. Two of it tell `*` from a longer literal.
TEXTS = ["".join(chars) for size in range(1, 5) for chars in product("abz", repeat=size)]
SEGMENTS = [text for text in TEXTS if len(text) <= 3]
PATHS = [path for size in range(4) for path in product(["a", "b", "z", "ab", "ba", "aza"], repeat=size)]
ENDPOINTS = [
    *(HttpEndpoint(m, "/" + "/".join(path), path) for m in METHODS for path in PATHS),
    *(ToolEndpoint(None, text) for text in TEXTS),
    *(ActionEndpoint(verb, type_) for verb in "ab" for type_ in "ab"),
]

wild = st.builds(
    k.Segment, st.sampled_from(["", "a", "b"]), st.just(True), st.sampled_from(["", "a", "b"]), st.none(), st.none()
)
segments = st.one_of(st.sampled_from([k.Segment("a"), k.Segment("b"), k.Segment("ab"), k.Segment("aza")]), wild)
methods = st.one_of(st.none(), st.lists(st.sampled_from(METHODS[:2]), min_size=1, unique=True).map(tuple))
http = st.builds(k.HttpPattern, methods, st.lists(segments, max_size=3).map(tuple), st.booleans(), span=st.just(SPAN))
tools = st.builds(k.ToolPattern, st.text("ab*", min_size=1, max_size=5), span=st.just(SPAN))
actions = st.builds(k.ActionPattern, st.sampled_from("ab"), st.sampled_from("ab"), span=st.just(SPAN))
patterns = st.one_of(http, tools, actions)
places = st.builds(
    k.Place,
    st.one_of(st.none(), st.lists(patterns, min_size=1, max_size=3).map(tuple)),
    st.lists(patterns, max_size=2).map(tuple),
    span=st.just(SPAN),
)


def matched(pattern):
    return {e for e in ENDPOINTS if match_endpoint.match_pattern(pattern, e) is not None}


def segment_texts(segment):
    pattern = k.HttpPattern(None, (segment,), span=SPAN)
    return {
        t for t in SEGMENTS if match_endpoint.match_pattern(pattern, HttpEndpoint("GET", "/" + t, (t,))) is not None
    }


@given(segments, segments)
def test_segments_cover_and_overlap_exactly_when_their_texts_do(a, b):
    one, other = (k.HttpPattern(None, (segment,), span=SPAN) for segment in (a, b))
    assert covers(one, other) == (segment_texts(b) <= segment_texts(a))
    assert overlaps(one, other) == bool(segment_texts(a) & segment_texts(b))


@given(http, http)
def test_a_covering_path_matches_every_endpoint_of_the_covered_path(a, b):
    if covers(a, b):
        assert matched(b) <= matched(a)
    if matched(a) & matched(b):
        assert overlaps(a, b)


@given(
    *[st.lists(st.sampled_from([k.Segment("a"), k.Segment("b"), k.Segment("", wild=True)]), max_size=3).map(tuple)] * 2,
    methods, methods, st.booleans(), st.booleans(),
)  # fmt: skip
def test_paths_of_plain_segments_cover_and_overlap_exactly(one, two, one_methods, two_methods, one_rest, two_rest):
    a = k.HttpPattern(one_methods, one, one_rest, span=SPAN)
    b = k.HttpPattern(two_methods, two, two_rest, span=SPAN)
    longer = [HttpEndpoint(m, "", path) for m in METHODS for size in range(5) for path in product("abz", repeat=size)]
    in_a, in_b = ({e for e in longer if match_endpoint.match_pattern(p, e) is not None} for p in (a, b))
    assert covers(a, b) == (in_b <= in_a)
    assert overlaps(a, b) == bool(in_a & in_b)


LONG_TEXTS = ["".join(chars) for size in range(7) for chars in product("abz", repeat=size)]


def globbed(pattern):
    return {t for t in LONG_TEXTS if match_endpoint.match_pattern(pattern, ToolEndpoint(None, t)) is not None}


@given(st.text("ab*", min_size=1, max_size=3), st.text("ab*", min_size=1, max_size=3))
def test_globs_cover_and_overlap_exactly_when_their_names_do(one, two):
    a, b = k.ToolPattern(one, span=SPAN), k.ToolPattern(two, span=SPAN)
    assert covers(a, b) == (globbed(b) <= globbed(a))
    assert overlaps(a, b) == bool(globbed(a) & globbed(b))


@given(patterns, patterns)
def test_patterns_of_different_kinds_never_overlap(a, b):
    if type(a) is not type(b):
        assert not covers(a, b)
        assert not overlaps(a, b)


@given(places, places)
def test_a_covering_place_applies_to_every_endpoint_of_the_covered_place(outer, inner):
    if place_covers(outer, inner):
        assert all(match_endpoint.place_covers(outer, e) for e in ENDPOINTS if match_endpoint.place_covers(inner, e))


@given(places, patterns)
def test_a_place_overlaps_every_pattern_with_an_endpoint_in_it(place, pattern):
    if any(match_endpoint.place_covers(place, e) for e in matched(pattern)):
        assert place_overlaps(place, pattern)


@given(places)
def test_a_place_covers_itself(place):
    assert place_covers(place, place)


@given(st.lists(patterns, max_size=8), patterns)
def test_the_pattern_index_agrees_with_pairwise_comparison(stored, asked):
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(stored):
        index.add(pattern, number)
    assert sorted(index.overlapping(asked)) == [n for n, pattern in enumerate(stored) if overlaps(pattern, asked)]
    assert sorted(index.overlapping(None)) == list(range(len(stored)))


def place(*patterns_, excepts=()):
    return k.Place(tuple(patterns_) or None, tuple(excepts), span=SPAN)


def get(*segments_, methods=("GET",), rest=False):
    return k.HttpPattern(methods, tuple(k.Segment(s) for s in segments_), rest, span=SPAN)


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (place(), place(), True),
        (place(), place(get("a")), True),
        (place(get("a")), place(), False),
        (place(get("a"), get("a", methods=("POST",))), place(get("a", methods=("GET", "POST"))), True),
        (place(get("a", rest=True), excepts=[get("a", "b")]), place(get("a", rest=True)), False),
        (
            place(get("a", rest=True), excepts=[get("a", "b")]),
            place(get("a", rest=True), excepts=[get("a", "b")]),
            True,
        ),
        (place(get("a", rest=True), excepts=[get("a", "b")]), place(get("a", "c")), True),
        (place(excepts=[get("a")]), place(excepts=[get("a", rest=True)]), True),
        (place(get("a")), place(get("a"), get("b"), excepts=[get("b")]), True),
    ],
)
def test_places_with_exceptions_are_compared_for_coverage(outer, inner, covered):
    assert place_covers(outer, inner) is covered

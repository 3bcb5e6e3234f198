"""Every endpoint belongs to a class, and no pattern tells the endpoints of a class apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import endpoint_classes, without_captures
from policyengine.analysis.diff.specialize import NOWHERE
from policyengine.runtime import paths
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.spec.match_endpoint import match_pattern

texts = st.sampled_from(["a", "b", "ab", "a.b", "x", "pre-x", "x-post", "pre-post", "pre-x-post", "aa"])
spelled = texts | st.sampled_from(
    [
        "A",
        "B",
        "Ab",
        "X",
        "PRE-x",
        "x-POST",
        "pre-x-POST",
        "iss",
        "ISS",
        "ıss",
        "iß",
        "Aa",
        "SI",
        "sı",
        "pre-ß",
        "ß-post",
        "aßb",
        "pre-ı-post",
        "aB",
    ]
)
segments = st.one_of(
    st.builds(k.Segment, texts | st.sampled_from(["iss", "Iss", "SI", "A", "aB", "Ab", "AB"])),
    st.builds(
        k.Segment,
        st.sampled_from(["", "pre-", "a", "as", "A"]),
        st.just(True),
        st.sampled_from(["", "-post", "b", "B"]),
    ),
)
methods = st.sampled_from([None, ("GET",), ("GET", "POST"), ("DELETE",)])
http = st.builds(
    lambda m, s, r, f: k.HttpPattern(m, tuple(s), r, f, span=NOWHERE),
    methods, st.lists(segments, max_size=3), st.booleans(), st.sampled_from(k.FOLDINGS),
)  # fmt: skip
tools = st.sampled_from(["mail/send", "mail/*", "*", "*/send", "re*", "*rt"]).map(
    lambda glob: k.ToolPattern(glob, span=NOWHERE)
)
paths_ = st.lists(spelled, max_size=4).map(lambda several: "/" + "/".join(several))


def vector(patterns: list[k.Pattern], endpoint: Endpoint) -> tuple[bool, ...]:
    return tuple(match_pattern(one, endpoint) is not None for one in patterns)


@given(st.lists(http, max_size=5), paths_, st.sampled_from(["GET", "POST", "DELETE", "PATCH"]))
def test_every_path_has_an_endpoint_class_with_the_same_matches(
    patterns: list[k.Pattern], path: str, method: str
) -> None:
    canonical = paths.canonical_path(path)
    assert isinstance(canonical, paths.CanonicalPath)
    endpoint = HttpEndpoint(method, canonical.path, canonical.segments)
    found = [one.endpoint for one in endpoint_classes([without_captures(each) for each in patterns])]
    known = {vector(patterns, one) for one in found if isinstance(one, HttpEndpoint)}
    assert vector(patterns, endpoint) in known


named = st.sampled_from([("mail", "send"), ("mail", "x"), (None, "rert"), (None, "rex"), ("x", "send"), (None, "y"),
                         ("re", "rt"), (None, "xrt")])  # fmt: skip


@given(st.lists(tools, max_size=4), named)
def test_every_tool_has_an_endpoint_class_with_the_same_matches(
    patterns: list[k.Pattern], tool: tuple[str | None, str]
) -> None:
    known = {vector(patterns, one.endpoint) for one in endpoint_classes(patterns)}
    assert vector(patterns, ToolEndpoint(*tool)) in known


def test_paths_below_the_last_pattern_are_one_class() -> None:
    below = k.HttpPattern(None, (k.Segment("v1"),), True, span=NOWHERE)
    words = [one.words for one in endpoint_classes([below]) if isinstance(one.endpoint, HttpEndpoint)]
    assert words == ["any method /v1", "any method /v1/**", "any other path"]

"""Which declared pattern stands for an endpoint: the most specific, whatever the order of declarations."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers
from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.compiler.endpoint_patterns import EndpointPatterns, declared_endpoints
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import TreeBuilder, placed_patterns, tree_of
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint
from policyengine.runtime.request import Request
from policyengine.spec.match_endpoint import match_pattern
from tests.depth import examples
from tests.generate import cases

HEAD = "entity invoice {}\n"


def kernel_of(*rules: str) -> k.Kernel:
    return Engine.from_text(HEAD + "\n".join(rules)).kernel


def guarded(*patterns: str) -> list[str]:
    return [f'guard "g{number}" on {pattern} {{ deny }}' for number, pattern in enumerate(patterns)]


def endpoint_of(text: str) -> Endpoint:
    word, _, rest = text.partition(" ")
    server, slash, name = rest.rpartition("/")
    match word:
        case "TOOL":
            asked: dict[str, object] = {"tool": {"name": name, **({"server": server} if slash else {})}}
        case "ACTION":
            verb, _, type_ = rest.partition(" ")
            asked = {"action": {"name": verb}, "resource": {"type": type_, "id": "1"}}
        case _:
            asked = {"request": {"method": word, "path": rest}}
    return Request.from_mapping(asked).endpoint


class PatternFinder:
    """The patterns of a policy, as an engine with a log looks them up."""

    def __init__(self, kernel: k.Kernel) -> None:
        self._program = Evaluator(kernel, EntityStore()).program
        self._patterns = EndpointPatterns(tree_of(kernel))

    def find(self, endpoint: Endpoint) -> str | None:
        if isinstance(endpoint, ActionEndpoint):
            return self._patterns.find_action(endpoint)
        rules = self._program.rules_at(endpoint)
        found = self._patterns.find(endpoint, rules)
        assert self._patterns.find(endpoint, rules) == found
        return found


def named(text: str, *rules: str) -> str | None:
    endpoint = endpoint_of(text)
    found = PatternFinder(kernel_of(*rules)).find(endpoint)
    assert PatternFinder(kernel_of(*reversed(rules))).find(endpoint) == found
    return found


# ── Which pattern ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_", "patterns", "expected"),
    [
        ("GET /v1/invoices/7", ["/v1/**", "/v1/invoices/{id}", "/**"], "GET /v1/invoices/{id}"),
        ("GET /v1/invoices/new", ["/v1/invoices/{id}", "/v1/invoices/new"], "GET /v1/invoices/new"),
        ("GET /a/b/c", ["/a/**", "/*/b/c"], "GET /*/b/c"),
        ("GET /a/b/c", ["/a/b/*", "/a/*/c"], "GET /a/b/*"),
        ("GET /a/b/c", ["/a/**", "/a/b/**", "/**"], "GET /a/b/**"),
        ("GET /a", ["/a/**", "/*"], "GET /*"),
        ("GET /f/re:7.pdf", ["/f/{name}", "/f/re:{n}", "/f/re:{m}.pdf"], "GET /f/re:{m}.pdf"),
        ("GET /other", ["/**", "/v1/**"], "GET /**"),
        ("GET /", ["/", "/**"], "GET /"),
        ("GET /other", ["/v1/**"], None),
        ("TOOL github/create_issue", ["TOOL github/*", "TOOL github/create_issue", "TOOL *"],
         "TOOL github/create_issue"),
        ("TOOL github/create_issue", ["TOOL github/*", "TOOL github/create_*"], "TOOL github/create_*"),
        ("TOOL github/a_b", ["TOOL *", "TOOL *_b"], "TOOL *_b"),
        ("TOOL refund", ["TOOL refund", "TOOL *"], "TOOL refund"),
        ("TOOL refund", ["TOOL github/*", "/**"], None),
        ("ACTION view invoice", ["ACTION view invoice", "/**"], "ACTION view invoice"),
        ("ACTION edit invoice", ["ACTION view invoice"], None),
    ],
)  # fmt: skip
def test_the_most_specific_pattern_is_found(request_: str, patterns: list[str], expected: str | None) -> None:
    assert named(request_, *guarded(*patterns)) == expected


def test_every_place_of_a_rule_counts() -> None:
    rules = [
        "anyone { may GET /granted/{id: invoice}, POST /granted/* }",
        "facts on POST /facts/{name} { body.note: string? }",
        'rate "r" per request.ip on /rated/** { 5/1m }',
        'guard "g" on /guarded/** except GET /guarded/health { deny when count of (GET /seen/*) within 1h > 3 }',
    ]
    found = {
        text: named(text, *rules)
        for text in (
            "GET /granted/1", "POST /granted/1", "POST /facts/x", "PUT /rated/1/2", "GET /guarded/health",
            "GET /guarded/1", "GET /seen/1", "GET /none",
        )
    }  # fmt: skip
    assert found == {
        "GET /granted/1": "GET /granted/{id: invoice}", "POST /granted/1": "POST /granted/*",
        "POST /facts/x": "POST /facts/{name}", "PUT /rated/1/2": "PUT /rated/**",
        "GET /guarded/health": "GET /guarded/health", "GET /guarded/1": "GET /guarded/**", "GET /seen/1": "GET /seen/*",
        "GET /none": None,
    }  # fmt: skip


def test_of_equal_patterns_the_one_with_names_comes_first_and_then_the_first_as_text() -> None:
    assert named("GET /a/1", *guarded("/a/*", "/a/{id}")) == "GET /a/{id}"
    assert named("GET /a/1", *guarded("GET /a/{b}", "/a/{a}")) == "GET /a/{a}"
    assert named("TOOL ab", *guarded("TOOL *b", "TOOL a*")) == "TOOL *b"


def test_the_method_is_that_of_the_request() -> None:
    rules = guarded("/a/*", "POST|HEAD /b/*", "PURGE /c", "/c")
    assert named("HEAD /a/1", *rules) == "GET /a/*"
    assert named("HEAD /b/1", *rules) == "GET /b/*"
    assert named("DELETE /a/1", *rules) == "DELETE /a/*"
    assert named("PURGE /a/1", *rules) == "PURGE /a/*"
    assert named("PUT /b/1", *rules) is None


def test_callers_cannot_invent_methods() -> None:
    assert {named(f"{method} /a/1", *guarded("/a/*")) for method in ("FOO", "BAR", "QQQ")} == {"ANY /a/*"}


def test_a_path_in_another_case_is_named_by_the_guard_that_covers_it() -> None:
    grant = "anyone { may GET /Invoices/{id} }"
    assert named("GET /invoices/1", grant) is None
    assert named("GET /invoices/1", grant, 'guard "g" on /INVOICES/{id} { deny }') == "GET /INVOICES/{id}"
    assert named("GET /Invoices/1", grant) == "GET /Invoices/{id}"


def test_a_malformed_path_has_no_pattern() -> None:
    assert named("GET /a/../b", *guarded("/**")) is None


# ── In general ────────────────────────────────────────────────────────────────────────────────

SEGMENTS = ["a", "b", "*", "x:{p%d}", "{q%d}.y", "x:{r%d}.y"]  # captures have one position each


def path_of(segments: list[str], rest: bool) -> str:
    named = [text % place if "%" in text else text for place, text in enumerate(segments)]
    return "/" + "/".join([*named, *(["**"] if rest else [])])


PATHS = st.builds(path_of, st.lists(st.sampled_from(SEGMENTS), max_size=3), st.booleans())
TOOLS = st.sampled_from(["TOOL *", "TOOL a/*", "TOOL a/b", "TOOL *b", "TOOL a*b", "TOOL *a*"])
PATTERNS = st.lists(PATHS | TOOLS, min_size=1, max_size=8, unique=True)
REQUESTS = [
    *(f"GET /{path}" for path in ("", "a", "b", "a/b", "x:1.y", "a/x:1.y", "x:1/b", "a/x:2/b", "q/q/q/q")),
    *("TOOL a/b", "TOOL a", "TOOL ab", "TOOL c/b"),
]


@settings(max_examples=examples(40, 400))
@given(PATTERNS, st.integers(0, 2**32 - 1))
def test_the_order_of_declarations_does_not_matter(patterns: list[str], seed: int) -> None:
    shuffled = Random(seed).sample(patterns, len(patterns))
    here, there = kernel_of(*guarded(*patterns)), kernel_of(*guarded(*shuffled))
    assert declared_endpoints(here) == declared_endpoints(there)
    finder, other = PatternFinder(here), PatternFinder(there)
    for endpoint in map(endpoint_of, REQUESTS):
        check_most_specific(here, endpoint, finder.find(endpoint))
        assert other.find(endpoint) == finder.find(endpoint)


@settings(max_examples=examples(10, 100))
@given(st.integers(0, 2**32 - 1))
def test_the_pattern_matches_and_covers_no_other_that_matches(seed: int) -> None:
    for case in cases(seed, questions=4):
        endpoint = case.request.endpoint
        check_most_specific(case.kernel, endpoint, PatternFinder(case.kernel).find(endpoint))


def check_most_specific(kernel: k.Kernel, endpoint: Endpoint, found: str | None) -> None:
    """Check that the pattern is among those declared, and that no other pattern that matches is strictly within it."""
    matching = [one for one in placed_patterns(kernel) if match_pattern(one, endpoint) is not None]
    declared = declared_endpoints(kernel)
    assert (found is None) == (not matching)
    assert found is None or found in declared
    assert list(declared) == sorted(set(declared))
    if found is None:
        return
    most_specific = next(as_written(one) for one in matching if found.partition(" ")[2] in texts_of(one))
    others = [as_written(one) for one in matching]
    assert [one for one in others if covers(most_specific, one) and not covers(one, most_specific)] == []


def texts_of(pattern: k.Pattern) -> set[str]:
    """Return the pattern as text, without methods."""
    builder = TreeBuilder("", "")
    builder.add_pattern(pattern)
    return {text.partition(" ")[2] for text in EndpointPatterns(builder.tree()).all()}


def as_written(pattern: k.Pattern) -> k.Pattern:
    """Return the pattern for every method, and only in its own letter case."""
    bare = k.with_folding(pattern, "none")
    return replace(bare, methods=None) if isinstance(bare, k.HttpPattern) else bare


def test_a_bundle_names_the_same_patterns() -> None:
    kernel = kernel_of("anyone { may ANY /a/{id: invoice}, GET /b/{x}/c }", *guarded("/a/{id: invoice}", "/b/**"))
    found = decode_bundle(write_bundle(kernel, "0.1.0"))
    assert found.tree == tree_of(kernel)
    assert declared_endpoints(found.kernel, found.tree) == declared_endpoints(kernel)
    assert "DELETE /a/{id: invoice}" in declared_endpoints(kernel)

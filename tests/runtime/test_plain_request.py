"""Ordinary questions are read in one pass to the same request; all others are left to `read_request`."""

from __future__ import annotations

import json
from copy import deepcopy
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime import decode
from policyengine.runtime.canonical_form import canonical_bytes
from policyengine.runtime.pending_facts import prepared_names
from policyengine.runtime.request import Request, RequestError, decode_request, read_ordinary_request
from policyengine.runtime.values import PENDING, Invalid
from tests.generate.asking import askings
from tests.generate.hazards import HAZARDS

ASKED: dict[str, Any] = {
    "request": {"method": "GET", "path": "/v1/notes/7", "headers": {"X-Trace": "a"}, "query": {"page": "7"}},
    "agent": {"id": "bot", "issuer": "acme", "groups": ["ops"]},
    "context": {"risk": 3, "ratio": 0.5},
}


TWICE = (
    '{"request": {"method": "GET", "path": "/a"}, "context": {"risk": 1, "risk": 2}, "agent": {"id": "a", "id": "b"}}'
)


def read_with_care(question: dict[str, Any]) -> Request | None:
    """Return the request that `read_request` makes; None if it refuses the question."""
    try:
        return decode_request(decode.from_python, question)
    except RequestError:
        return None


def hold_equal(question: dict[str, Any]) -> bool:
    """Return whether the question is ordinary; raise AssertionError if it is read to another request."""
    found = read_ordinary_request(question)
    if found is None:
        return False
    expected = read_with_care(question)
    assert found == expected
    assert expected is not None
    assert canonical_bytes(found.facts) == canonical_bytes(expected.facts)  # `1 == True`, and these differ
    return True


@pytest.mark.parametrize("seed", range(12))
def test_generated_questions_are_read_to_the_same_request_in_one_pass(seed: int) -> None:
    questions = [one.question for one in islice(askings(seed, 60), 60) if type(one.question) is dict]
    ordinary = sum(hold_equal(question) for question in questions)
    assert ordinary > len(questions) // 2


@pytest.mark.parametrize(
    "text", [json.dumps(ASKED), TWICE, '{"request": {"method": "GET", "path": "/a", "size": 1e400}}']
)
def test_json_is_read_to_the_same_request_in_one_pass(text: str) -> None:
    expected = decode_request(decode.from_json, text)
    found = Request.from_json(text)
    assert found == expected
    assert canonical_bytes(found.facts) == canonical_bytes(expected.facts)


@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda hazard: hazard.__name__)
def test_hostile_questions_are_read_to_the_same_request_or_with_care(hazard: Any) -> None:
    for seed in range(20):
        question = hazard(Random(seed), deepcopy(ASKED))
        if type(question) is dict:
            hold_equal(question)


def test_an_ordinary_request_has_canonical_facts() -> None:
    found = read_ordinary_request({**ASKED, "pending": ["body.amount"]})
    assert found is not None
    assert found.facts["request"] == {
        "method": "GET", "path": "/v1/notes/7", "headers": {"x-trace": "a"}, "query": {"page": "7"},
    }  # fmt: skip
    assert found.facts["agent"]["groups"] == ("ops",)  # type: ignore[index]
    assert found.facts["context"] == {"risk": 3, "ratio": Decimal("0.5")}
    assert found.facts["body"] == {"amount": PENDING}


PENDING_NAMES = (
    "body", "body.*", "body.amount", "body.card", "body.card.limit", 'body["é"]', "context", "context.risk",
    "request.ip", "request.headers", "request.headers.*", 'request.headers["cookie"]', 'request.headers["X-Trace"]',
    'request.headers["x-trace"]', "request.query", "request.query.page", "agent.groups", "agent.model", "user",
    "user.roles", "user.id", "chain.hops", "resource", "bdy", "body..x", "tool.name", "",
)  # fmt: skip
BODIES: list[Any] = [None, {}, {"amount": 5}, {"amount": None}, {"card": 5}, {"card": {}}, [], "text"]
OPTIONS: list[Any] = [
    None, {}, {"obligations_supported": []}, {"obligations_supported": ["audit", "audit"]},
    {"obligations_supported": ("notify",)}, {"obligations_supported": [""]}, {"obligations_supported": [5]},
    {"obligations_supported": None}, {"obligations_supported": "audit"}, {"obligations_supported": ["é" * 70]},
    {"obligations_supported": ["a"] * 20}, {"consume": False}, {"obligations_supported": [], "consume": False}, [],
]  # fmt: skip


@given(
    names=st.lists(st.sampled_from(PENDING_NAMES), max_size=6) | st.permutations(PENDING_NAMES[:20]),
    repeated=st.sampled_from([1, 1, 1, 20]),
    body=st.sampled_from(BODIES),
    options=st.sampled_from(OPTIONS),
    listed=st.booleans(),
)
def test_pending_facts_and_options_are_read_to_the_same_request(
    names: list[str], repeated: int, body: Any, options: Any, listed: bool
) -> None:
    pending = names * repeated if listed else tuple(names * repeated)
    question = {**ASKED, "pending": pending, "body": body, "options": options}
    before = deepcopy(question)
    hold_equal(question)
    assert question == before


def test_pending_facts_in_an_ordinary_list_are_prepared() -> None:
    names = ["body", 'request.headers["cookie"]', 'request.headers["expect"]', "agent.model"]
    prepared = prepared_names(names)
    assert prepared is not None
    assert prepared is prepared_names([*names])
    assert [len(group.members) for group in prepared.groups] == [1, 2, 1]


@pytest.mark.parametrize("names", [["body"] * 65, ["body." + "x" * 990] * 3, ['body["é"]'], ["bdy"], [5], "body", []])
def test_long_and_unusual_lists_of_pending_facts_are_not_prepared(names: Any) -> None:
    assert prepared_names(names) is None


class Lying(str):
    """A name that says it equals every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("id")


NOT_ORDINARY: list[dict[Any, Any]] = [
    {},
    {**ASKED, "roles": {}},
    {**ASKED, "agent": {"id": "bot", "roles": []}},
    {**ASKED, Lying("agent"): {"id": "bot"}},
    {**ASKED, "agent": {Lying("x"): "bot"}},
    {**ASKED, "body": []},
    {**ASKED, "body": Invalid("a form")},
    {**ASKED, "credentials": {"authorization": "Bearer x"}},
    {**ASKED, "tool": {"name": "t"}},
    {**ASKED, "chain": {"hops": [{"agent": "a", "roles": []}]}},
    {**ASKED, "credential": {"claims": []}},
    {**ASKED, "pending": ["body..x"]},
    {**ASKED, "options": {"consume": 1}},
    *({**ASKED, "request": {"method": method, "path": path}} for method, path in [
        ("get", "/a"), ("GET", "/a/"), ("GET", "/a//b"), ("GET", "/%61"), ("GET", "/a/../b"), ("GET", "/ü"),
        ("GET", "a"),
        ("GET", "/a\n"), ("GET\n", "/a"), ("GET", "/" + "/".join("a" * 129)), ("GET", "/" + "a" * 8_192),
    ]),
    {**ASKED, "request": {"method": "GET", "path": "/a", "headers": {"X-Http-Method-Override": "PUT"}}},
    {**ASKED, "request": {"method": "GET", "path": "/a", "headers": {"X-A": "1", "x-a": "2"}}},
    {**ASKED, "body": {"_method": "PUT"}},
]  # fmt: skip


@pytest.mark.parametrize("question", NOT_ORDINARY, ids=lambda question: ascii(question)[-60:])
def test_a_question_that_could_be_read_in_two_ways_is_not_ordinary(question: dict[Any, Any]) -> None:
    assert read_ordinary_request(question) is None

"""The floor has the duties it says it has: right verdicts, types, canonical paths, ids and reasons."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.floor import MAX_KNOWN_COLLECTIONS, MAX_PATH_LENGTH, bare_floor, floor
from bench.policy import ISSUER, question
from bench.workload import ForbidRule, PermitRule, Workload, workload
from policyengine.runtime.paths import CanonicalPath, canonical_path

AGENTS = PermitRule("p0", "bot", None, ("GET",), "/v1/x", "/v1/x/", "x:read", 2, "t1", (9, 17), 50)
GROUPS = PermitRule("p1", None, "ops", ("DELETE",), "/admin/x", "/admin/x/items/", "x:write", 2, "t1", None, None)
SMALL = Workload(3, (AGENTS, GROUPS), (ForbidRule("f0", "/admin/x", "/admin/x/"),), {}, (), (), ())
FITTING = {
    "request": {"method": "GET", "path": "/v1/x/1"},
    "agent": {"id": "bot", "issuer": ISSUER, "groups": []},
    "credential": {"scopes": ["x:read"]},
    "context": {"depth": 2, "tenant": "t1", "hour": 9, "risk": 49},
    "attestation": {"verified": False},
}
BY_GROUP = {
    "request": {"method": "DELETE", "path": "/admin/x/items/1"},
    "agent": {"id": "bot", "issuer": ISSUER, "groups": ["ops"]},
    "credential": {"scopes": ["x:write"]},
    "context": {"depth": 2, "tenant": "t1"},
    "attestation": {"verified": True},
}
ABSENT = object()


def changed(asked: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    asked = deepcopy(asked)
    *roots, name = path.split(".")
    inner = asked
    for root in roots:
        inner = inner[root]
    inner.pop(name, None)
    if value is not ABSENT:
        inner[name] = value
    return asked


@pytest.mark.parametrize("size", [10, 100, 1_000])
def test_both_floors_agree_with_the_labels(size: int) -> None:
    work = workload(size)
    decide, bare = floor(work), bare_floor(work)
    questions = [question(asked) for asked in work.requests]
    assert [decide(asked).allowed for asked in questions] == list(work.expected)
    assert [bare(asked) for asked in questions] == list(work.expected)


def test_an_allow_names_its_rule_and_a_deny_its_forbid_or_gate() -> None:
    decide = floor(SMALL)
    assert decide(FITTING).reasons == ("p0",)
    assert decide(BY_GROUP).reasons == ("p1",)
    assert decide(changed(BY_GROUP, "attestation.verified", False)).reasons == ("f0",)
    assert decide(changed(FITTING, "context.tenant", "t2")).reasons == ("default",)
    assert decide(changed(FITTING, "request.path", "/v1/x/../1")).reasons == ("malformed_path",)


def test_every_verdict_has_its_own_id() -> None:
    decide = floor(SMALL)
    assert len({decide(FITTING).id for _ in range(10)}) == 10


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("agent.groups", ABSENT),
        ("agent.groups", "ops"),
        ("agent.groups", ["other"]),
        ("agent.issuer", ABSENT),
        ("agent.issuer", "other"),
        ("attestation", ABSENT),
        ("attestation.verified", "true"),
        ("attestation.verified", 1),
        ("context", ABSENT),
        ("context", [2]),
        ("context.depth", "2"),
        ("context.depth", 1.0),
        ("context.depth", 3),
        ("context.depth", ABSENT),
        ("context.depth", True),
        ("context.tenant", ABSENT),
        ("context.tenant", 1),
        ("credential.scopes", ABSENT),
        ("credential.scopes", "x:write"),
        ("request.method", ["DELETE"]),
        ("request.method", ABSENT),
        ("request.path", 7),
        ("request.path", ABSENT),
        ("user", {"id": "alice"}),
    ],
)
def test_an_absent_or_wrong_fact_denies(path: str, value: object) -> None:
    decide = floor(SMALL)
    assert decide(BY_GROUP).allowed
    assert not decide(changed(BY_GROUP, path, value)).allowed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("agent.id", "other"),
        ("agent.id", ABSENT),
        ("context.hour", 17),
        ("context.hour", 8),
        ("context.hour", ABSENT),
        ("context.hour", True),
        ("context.risk", "1"),
        ("context.risk", 50),
        ("context.risk", ABSENT),
        ("context.risk", False),
    ],
)
def test_an_absent_or_wrong_bound_denies(path: str, value: object) -> None:
    decide = floor(SMALL)
    assert decide(FITTING).allowed
    assert not decide(changed(FITTING, path, value)).allowed


@given(st.text("aZ09./%;?#\\ ~_-+@!\t\x7fé²", max_size=12).map(lambda rest: f"/v1/x/{rest}"))
def test_the_floor_agrees_with_the_engine_on_canonical_paths(path: str) -> None:
    strict = path.isascii() and "%" not in path and " " not in path  # the floor decodes nothing and knows no Unicode
    decide = floor(SMALL)
    for known in ("/v1/x/1", path, path):
        reasons = decide(changed(FITTING, "request.path", known)).reasons
    assert (reasons != ("malformed_path",)) == (strict and isinstance(canonical_path(path), CanonicalPath))


def test_a_cached_collection_does_not_apply_to_other_paths() -> None:
    decide = floor(SMALL)
    assert decide(BY_GROUP).allowed
    assert not decide(changed(BY_GROUP, "request.path", "/admin/x/items")).allowed
    assert not decide(changed(BY_GROUP, "request.path", "/admin/x/1")).allowed
    assert decide(BY_GROUP).allowed


def test_more_collections_than_the_cache_holds_are_decided() -> None:
    decide = floor(SMALL)
    paths = [f"/v1/x/c{number}/1" for number in range(MAX_KNOWN_COLLECTIONS + 10)]
    assert all(decide(changed(FITTING, "request.path", path)).allowed for path in paths)


@pytest.mark.parametrize("segment", ["/a", "/a.b"])
def test_a_path_has_at_most_128_segments(segment: str) -> None:
    decide = floor(SMALL)
    for count in (128, 129):
        path = segment * count
        malformed = decide(changed(FITTING, "request.path", path)).reasons == ("malformed_path",)
        assert malformed is not isinstance(canonical_path(path), CanonicalPath)


def test_a_path_that_is_too_long_denies() -> None:
    long = "/v1/x/" + "a" * MAX_PATH_LENGTH
    assert floor(SMALL)(changed(FITTING, "request.path", long)).reasons == ("malformed_path",)

"""A hostile bundle with maps: each promise about them that translating relies on is looked at."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from policyengine import kernel as k
from policyengine.compiler.bundle.file import BundleError, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, read_everything
from policyengine.engine import Engine
from policyengine.server.authzen.adapter import FAILED, AuthzenAdapter, read_evaluation
from tests.compiler.hostile import bundled, members_of

POLICY = """language 1
package shop
entity user { role: string? }
entity todo {}
facts { args.amount: number }
issuer acme { scopes none }
user where user.role == "x" { may ACTION read todo when args.amount > 1   may GET /todos/{id}, TOOL billing/refund }
map authzen {
  subject "user" => user from acme
  resource "todo" => todo
  action "a" => GET /todos/{resource.id}
  action "b" => TOOL billing/*
  action "c" => ACTION read todo
  fact user.role = subject.properties.role
  fact args.amount = context.amount
}
"""
Members = dict[str, Any]


@pytest.fixture
def members() -> Members:
    found: Members = msgpack.unpackb(msgpack.packb(members_of(write_bundle(Engine.from_text(POLICY).kernel, "0.1.0"))))
    return found


def at(kind: type, member: str) -> int:
    """Where a member stands: before it the number of its class."""
    return bundle_schema().classes[kind].names.index(member) + 1


def item(members: Members, kind: type, **holding: object) -> list[Any]:
    number = bundle_schema().classes[kind].number
    return next(
        one
        for one in members["maps"]
        if one[0] == number and all(one[at(kind, name)] == value for name, value in holding.items())
    )


def endpoint(members: Members, name: str) -> list[Any]:
    found: list[Any] = item(members, k.MapAction, name=name)[at(k.MapAction, "endpoint")]
    return found


def read_whole(members: Members) -> k.Kernel:
    bundle = decode_bundle(bundled(members))
    return read_everything(bundle.kernel)


def refused(members: Members) -> str:
    with pytest.raises(BundleError) as found:
        read_whole(members)
    assert found.value.code == "E165"
    return found.value.message


def test_the_bundle_as_it_was_written_is_read(members: Members) -> None:
    assert len(read_whole(members).maps) == 7


@pytest.mark.parametrize(
    ("kind", "holding", "member", "value", "why"),
    [
        (k.MapSubject, {}, "becomes", "todo", "Invalid enum value 'todo'"),
        (k.MapSubject, {}, "issuer", "elsewhere", "an issuer that is not declared"),
        (k.MapResource, {}, "entity", "spaceship", "a resource that is not an entity"),
        (k.MapFact, {"entity": True}, "path", ["spaceship", "role"], "an attribute without an entity"),
        (k.MapFact, {"entity": True}, "path", ["user"], "an attribute without an entity"),
        (k.MapFact, {"entity": True}, "source", ["context", "role"], "an attribute without an entity"),
        (k.MapFact, {"entity": True}, "entity", False, "a fact that no question can supply"),
        (k.MapFact, {"entity": False}, "path", ["request", "path"], "a fact that no question can supply"),
        (k.MapFact, {"entity": False}, "path", ["approvals"], "a fact that no question can supply"),
        (k.MapFact, {"entity": False}, "path", [], "a fact that no question can supply"),
        (k.MapFact, {"entity": False}, "source", ["context"], "a source that no question can have"),
        (k.MapFact, {"entity": False}, "source", [], "a source that no question can have"),
        (k.MapFact, {"entity": False}, "source", ["subject", "secret"], "a source that no question can have"),
    ],
)
def test_an_item_that_the_checker_could_not_have_made_is_refused(
    members: Members, kind: type, holding: dict[str, object], member: str, value: object, why: str
) -> None:
    item(members, kind, **holding)[at(kind, member)] = value
    assert why in refused(members)


def test_an_endpoint_that_the_checker_could_not_have_made_is_refused(members: Members) -> None:
    endpoint(members, "a")[at(k.MapHttp, "method")] = "get"
    assert "methods that no request can have" in refused(members)


@pytest.mark.parametrize(
    ("member", "value", "why"),
    [
        ("text", "a/b", "a segment that no path can have"),
        ("after", "/..", "a segment that no path can have"),
        ("source", ["resource", "secret"], "a source that no question can have"),
        ("source", None, "a segment that no path can have"),
    ],
)
def test_a_segment_that_the_checker_could_not_have_made_is_refused(
    members: Members, member: str, value: object, why: str
) -> None:
    segments = endpoint(members, "a")[at(k.MapHttp, "segments")]
    segments[-1][at(k.MapSegment, member)] = value
    assert why in refused(members)


@pytest.mark.parametrize(
    ("name", "kind", "member", "value", "why"),
    [
        ("b", k.MapTool, "glob", "billing/", "an invalid tool name"),
        ("c", k.MapVerb, "type", "spaceship", "an invalid action"),
        ("c", k.MapVerb, "verb", "re ad", "an invalid action"),
    ],
)
def test_a_target_that_the_checker_could_not_have_made_is_refused(
    members: Members, name: str, kind: type, member: str, value: object, why: str
) -> None:
    endpoint(members, name)[at(kind, member)] = value
    assert why in refused(members)


def test_a_question_is_denied_where_the_maps_are_not_sound(members: Members) -> None:
    """They are read when the first question comes: that one, and every other, is denied."""
    item(members, k.MapResource)[at(k.MapResource, "entity")] = "spaceship"
    bundle = decode_bundle(bundled(members))
    question = read_evaluation({
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "c"},
        "resource": {"type": "todo", "id": "7"},
    })  # fmt: skip
    authzen = AuthzenAdapter(Engine(bundle.kernel, tree=bundle.tree))
    assert [authzen.decided(question)[:2] for _ in range(2)] == [
        authzen.denied("the maps of the policy cannot be read", FAILED)[:2]
    ] * 2

"""A bundle with profiles and learned facts decides like its policy, and a hostile one is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from policyengine import kernel as k
from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.bundle.consistency import find_difference
from policyengine.compiler.bundle.file import BundleError, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, read_everything
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import tree_of
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.source import Source
from tests.compiler.hostile import bundled, members_of

POLICY = """language 1
package acme
issuer idp { scopes none }
agent "bot" { issued by idp   acts alone   may GET /a }
guard "g" on GET /a { deny when behavior.burst or behavior.novelty > 0.3 }
guard "later" on GET /a { warn when behavior.deviation > 0.99 }
profile "p" for agent "b*" {
  run by task.id within 5m   learn 14d   ready 20 runs, 7d   burst once in 100d   version by attestation.model_hash
}
"""
QUESTION = {"request": {"method": "GET", "path": "/a"}, "agent": {"id": "bot", "issuer": "idp"}}
Members = dict[str, Any]


@pytest.fixture(scope="module")
def written() -> bytes:
    return write_bundle(Engine.from_text(POLICY).kernel, "0.1.0")


def test_a_bundle_holds_its_profiles(written: bytes) -> None:
    kernel = Engine.from_text(POLICY).kernel
    found = decode_bundle(written).kernel
    assert found.reads_behavior
    assert read_everything(found) == kernel
    (profile,) = found.profiles
    assert (profile.name, profile.ready_runs) == ("p", 20)


@pytest.mark.parametrize(
    "behavior", [None, {}, {"burst": True}, {"burst": NOT_READABLE}, {"novelty": Decimal("0.31")}, {"novelty": 0}]
)
def test_a_bundle_decides_with_learned_facts_like_its_policy(written: bytes, behavior: Any) -> None:
    request, moment = Request.from_mapping(QUESTION), epoch_nanoseconds(datetime(2027, 1, 4, tzinfo=UTC))
    found = decode_bundle(written)
    one = Evaluator(Engine.from_text(POLICY).kernel, EntityStore())
    other = Evaluator(found.kernel, EntityStore(), tree=found.tree)
    assert one.plan(request, moment, behavior=behavior) == other.plan(request, moment, behavior=behavior)


def test_a_bundle_of_a_policy_without_learned_facts_has_none() -> None:
    text = 'anyone { may GET /a }\nguard "g" on GET /a { deny when request.size > 5 }'
    assert not decode_bundle(write_bundle(Engine.from_text(text).kernel, "0.1.0")).kernel.reads_behavior


ORDERED = """language 1
package acme
issuer idp { scopes none }
agent "bot" { issued by idp   acts alone   may GET /a/**, POST /b }
guard "g" on GET /a/** { deny when not behavior.sequence }
profile "p" for agent "b*" { expect POST /b -> (GET /a/* | GET /a/x/{id} -> POST /b optional) repeated }
"""


def test_a_bundle_holds_the_orders_of_its_profiles() -> None:
    kernel = Engine.from_text(ORDERED, "acme.policy").kernel
    found = decode_bundle(write_bundle(kernel, "0.1.0", sources=[Source("acme.policy", ORDERED)]))
    assert read_everything(found.kernel) == kernel
    assert found.tree == tree_of(kernel)
    assert find_difference(found) is None


def order_of(members: Members) -> Any:
    return members["profiles"][0][bundle_schema().classes[k.Profile].names.index("order") + 1]


def many_steps(members: Members) -> None:
    order_of(members).extend([order_of(members)[0]] * 31)


def no_endpoint(members: Members) -> None:
    order_of(members)[0][bundle_schema().classes[k.CallStep].names.index("patterns") + 1] = []


def no_steps(members: Members) -> None:
    order_of(members)[1][bundle_schema().classes[k.StepGroup].names.index("alternatives") + 1] = [[]]


@pytest.mark.parametrize("change", [many_steps, no_endpoint, no_steps])
def test_a_bundle_with_an_order_that_no_compiler_wrote_is_refused(change: Callable[[Members], None]) -> None:
    members = msgpack.unpackb(msgpack.packb(members_of(write_bundle(Engine.from_text(ORDERED).kernel, "0.1.0"))))
    change(members)
    with pytest.raises(BundleError) as found:
        read_everything(decode_bundle(bundled(members)).kernel)
    assert found.value.code == "E165"


# ── Hostile ones ──────────────────────────────────────────────────────────────────────────────


def put(name: str, value: object) -> Callable[[Members], None]:
    place = bundle_schema().classes[k.Profile].names.index(name) + 1

    def change(members: Members) -> None:
        members["profiles"][0][place] = value

    return change


def swap_key(member: str) -> Callable[[Members], None]:
    """Put the condition of the guard in place of the key, which is no fact."""
    place = bundle_schema().classes[k.Profile].names.index(member) + 1

    def change(members: Members) -> None:
        guard, effect = members["guards"][0], bundle_schema().classes[k.Deny].names.index("condition") + 1
        effects = bundle_schema().classes[k.Guard].names.index("effects") + 1
        members["profiles"][0][place] = guard[effects][0][effect]

    return change


def deny_reading(members: Members) -> None:
    members["reads_behavior"] = False


HOSTILE = {
    "no idle": put("run_idle", [0, 0, 0]), "long idle": put("run_idle", [1, 1, 0]), "no days": put("learn", [0, 0, 0]),
    "many days": put("learn", [29, 0, 0]), "half a day": put("learn", [14, 43_200, 0]), "no runs": put("ready_runs", 0),
    "many runs": put("ready_runs", 1_001), "days over `learn`": put("ready_days", 15), "no ready": put("ready_days", 0),
    "no burst": put("burst_days", 0), "rare burst": put("burst_days", 1_001), "burst of text": put("burst_days", "x"),
    "huge burst": put("burst_days", 2**62), "huge ready": put("ready_days", 2**62),
    "key": swap_key("run_key"), "version": swap_key("version"), "hidden reading": deny_reading,
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_bundle_with_a_profile_that_no_compiler_wrote_is_refused(
    written: bytes, change: Callable[[Members], None]
) -> None:
    members = msgpack.unpackb(msgpack.packb(members_of(written)))
    change(members)
    with pytest.raises(BundleError) as found:
        read_everything(decode_bundle(bundled(members)).kernel)
    assert found.value.code == "E165"

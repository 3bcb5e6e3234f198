"""A bundle cannot decide otherwise than it explains, and one that differs from its own policy texts is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policyengine import kernel as k
from policyengine.compiler.bundle.consistency import find_difference
from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema
from policyengine.compiler.bundle.signature import BundleSigningKey, key_id
from policyengine.engine import Engine
from policyengine.source import Source
from tests.compiler.hostile import bundled, members_of

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
POLICY = """language 1
package acme
issuer idp {}
facts { context.n: int }
let most = 5
scope see { GET /a   GET /a/{id}   GET /b }
agent "x" { issued by idp  acts alone  may see }
agent group "ops" { issued by idp  acts alone  may see when context.n < most }
guard "shut" on /a/** { deny when context.n > 3 }
guard "late" on /b { deny when context.n > 4 }
rate "r" per agent.id on /b { 100/1m }
"""
ASKED = [
    {
        "request": {"method": "GET", "path": path},
        "agent": {"id": name, "issuer": "idp", "groups": groups},
        "credential": {"scopes": ["see"]},
        "context": {"n": number},
    }
    for path in ("/a", "/A", "/a/1", "/b", "/c")
    for name, groups in (("x", []), ("y", ["ops"]), ("z", []))
    for number in (1, 4, 5)
]


@pytest.fixture(scope="module")
def signer() -> BundleSigningKey:
    private = Ed25519PrivateKey.generate()
    return BundleSigningKey(key_id(private.public_key()), private)


def written() -> bytes:
    source = Source("acme.policy", POLICY)
    return write_bundle(Engine.from_text(POLICY, "acme.policy").kernel, "0.1.0", sources=[source])


def signed(data: bytes, signer: BundleSigningKey) -> bytes:
    envelope = msgpack.unpackb(data)
    signature = signer.sign(envelope[4])
    packed: bytes = msgpack.packb([*envelope[:6], [[signature.key, signature.bytes]]])
    return packed


def at(kind: type, member: str) -> int:
    return bundle_schema().classes[kind].names.index(member) + 1


def without_guard(members: dict[str, Any]) -> None:
    members["guards"] = [one for one in members["guards"] if one[at(k.Guard, "name")] != "shut"]


def with_other_place(members: dict[str, Any]) -> None:
    (guard,) = (one for one in members["guards"] if one[at(k.Guard, "name")] == "shut")
    (other,) = (one for one in members["guards"] if one[at(k.Guard, "name")] == "late")
    guard[at(k.Guard, "place")][at(k.Place, "patterns")] = other[at(k.Guard, "place")][at(k.Place, "patterns")]


def with_other_pattern(members: dict[str, Any]) -> None:
    rows = [row for chunk in members["patterns"] for row in chunk if row[0] == 0]
    next(row for row in rows if row[3])[2] = ["c"]  # the one that ends in `**`


def with_other_condition(members: dict[str, Any]) -> None:
    members["guards"][0][at(k.Guard, "effects")][0][at(k.Deny, "condition")] = None


def with_other_head(members: dict[str, Any]) -> None:
    (block,) = (one for one in members["agents"] if one[at(k.AgentBlock, "label")] == 'agent "x"')
    block[at(k.AgentBlock, "who")][1] = "z"


def with_other_grant(members: dict[str, Any]) -> None:
    members["agents"][0][at(k.AgentBlock, "grants")][0][at(k.Grant, "openings")].pop()


def with_other_revision(members: dict[str, Any]) -> None:
    members["revision"] = f"sha256:{'0' * 64}"


def with_other_place_in_text(members: dict[str, Any]) -> None:
    members["guards"][0][at(k.Guard, "span")][1] -= 7


def with_other_text(members: dict[str, Any]) -> None:
    members["sources"][0][1] = members["sources"][0][1].replace("context.n > 3", "context.n > 9")


def with_broken_text(members: dict[str, Any]) -> None:
    members["sources"][0][1] = "language 1\nnonsense"


TAMPERINGS = {
    without_guard: "1 guards instead of 2",
    with_other_place: 'guard "shut" at acme.policy:9 is not the rule that is written there',
    with_other_pattern: 'guard "shut" at acme.policy:9 is not the rule that is written there',
    with_other_condition: 'guard "late" at acme.policy:10 is not the rule that is written there',
    with_other_head: '`agent "x"` at acme.policy:7 is not the rule that is written there',
    with_other_grant: '`agent "x"` at acme.policy:7 is not the rule that is written there',
    with_other_revision: "`revision` is different",
    with_other_place_in_text: "a rule refers to the wrong place in the texts",
    with_other_text: 'guard "shut" at acme.policy:9 is not the rule that is written there',
    with_broken_text: "the texts do not compile: E102",
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda one: one.__name__)
def test_a_signed_bundle_that_was_tampered_with_decides_as_it_explains(
    tamper: Any, signer: BundleSigningKey, tmp_path: Path
) -> None:
    members = members_of(written())
    tamper(members)
    (tmp_path / "x.policybundle").write_bytes(signed(bundled(members), signer))
    engine = Engine.from_bundle(tmp_path / "x.policybundle", keys=[signer.private.public_key().public_bytes_raw()])
    for question in ASKED:
        evaluated, explained = engine.evaluate(question), engine.explain(question).decision
        assert (evaluated.outcome, evaluated.gate) == (explained.outcome, explained.gate)
    assert engine.failures == 0


@pytest.mark.parametrize(("tamper", "why"), TAMPERINGS.items(), ids=[one.__name__ for one in TAMPERINGS])
def test_a_bundle_that_is_not_what_its_texts_say_is_found(tamper: Any, why: str, signer: BundleSigningKey) -> None:
    members = members_of(written())
    tamper(members)
    assert why in str(find_difference(decode_bundle(signed(bundled(members), signer))))


def test_the_guard_of_the_tampered_bundle_stops_a_request_of_the_original(tmp_path: Path) -> None:
    question = {**ASKED[1], "context": {"n": 4}}
    members = members_of(written())
    without_guard(members)
    outcomes = []
    for data in (written(), bundled(members)):
        (tmp_path / "x.policybundle").write_bytes(data)
        outcomes.append(str(Engine.from_bundle(tmp_path / "x.policybundle").evaluate(question).outcome))
    assert outcomes == ["deny", "allow"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_of_an_example_is_what_its_texts_say(name: str) -> None:
    engine = Engine.load(EXAMPLES / name)
    assert find_difference(decode_bundle(write_bundle(engine.kernel, "9.9.9", sources=engine.sources))) is None


def test_a_bundle_has_the_texts_that_no_rule_refers_to(tmp_path: Path) -> None:
    (tmp_path / "facts.policy").write_text("package a\nfacts { context.n: int }\n")
    (tmp_path / "rules.policy").write_text("package a\nanyone { may GET /a when context.n == 1 }\n")
    engine = Engine.load(tmp_path)
    whole = decode_bundle(write_bundle(engine.kernel, "0.1.0", sources=engine.sources))
    assert [source.name for source in whole.sources] == ["facts.policy", "rules.policy"]
    assert find_difference(whole) is None
    part = decode_bundle(write_bundle(engine.kernel, "0.1.0"))
    assert [source.name for source in part.sources] == ["rules.policy"]
    assert "the texts do not compile" in str(find_difference(part))

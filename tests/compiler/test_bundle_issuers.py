"""Bundles with `from ISSUER`: policies without it keep their bundles, and hostile issuers are refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from policyengine import kernel as k
from policyengine.compiler.bundle import file
from policyengine.compiler.bundle.consistency import find_difference
from policyengine.compiler.bundle.file import BundleError, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, encode_payload, read_everything
from policyengine.engine import Engine
from tests.compiler.hostile import bundled, members_of

PLAIN = """issuer acme { scopes none }
entity user { roles: set<string> }
user any { may POST /pay }
guard "ask" on POST /pay { confirm by role finance within 15m }
"""
FROM = PLAIN.replace("finance", "finance from acme, other") + "issuer other { scopes none }\n"
EARLY_SHAPE = "4343d765df94ab8e"  # of the bundles from before `from`


def bundle_of(policy: str) -> bytes:
    engine = Engine.from_text(policy)
    return write_bundle(engine.kernel, "0.1.0", sources=engine.sources)


def approvers_in(members: dict[str, Any]) -> list[Any]:
    effects = members["guards"][0][bundle_schema().classes[k.Guard].names.index("effects") + 1]
    found: list[Any] = effects[0][bundle_schema().classes[k.Confirm].names.index("approvers") + 1]
    return found


def test_a_policy_without_from_has_the_bundle_that_it_had_before() -> None:
    assert bundle_schema().early_shape == EARLY_SHAPE
    digest = hashlib.sha256(bundle_of(PLAIN)).hexdigest()
    assert digest == "147c60fc37efea1827cc151b2af8e48360d7abafd1da1a7c9f557aeb838b67a2"
    assert find_difference(decode_bundle(bundle_of(PLAIN))) is None


def test_a_bundle_with_from_is_read_as_it_was_written_and_refused_by_earlier_versions() -> None:
    engine = Engine.from_text(FROM)
    shape, _ = encode_payload(engine.kernel, engine.sources)
    assert shape == bundle_schema().shape != EARLY_SHAPE
    found = decode_bundle(bundle_of(FROM))
    read_everything(found.kernel)
    assert found.kernel == engine.kernel
    assert find_difference(found) is None


def test_issuers_may_be_missing_in_a_bundle() -> None:
    members = members_of(bundle_of(FROM))
    approvers_in(members).pop()
    found = decode_bundle(bundled(members)).kernel
    assert found.guards[0].effects[0].approvers.issuers == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("issuers", [["evil"], ["acme", "evil"], ["acme", "acme"], [""]], ids=str)
def test_approvers_of_an_undeclared_issuer_are_refused(issuers: list[str]) -> None:
    members = members_of(bundle_of(FROM))
    approvers_in(members)[-1] = issuers
    with pytest.raises(BundleError, match="approvers of an issuer that is not declared"):
        read_everything(decode_bundle(bundled(members)).kernel)


@pytest.mark.parametrize("issuers", ["acme", None, [1], {"acme": 1}], ids=str)
def test_issuers_of_another_type_are_refused(issuers: object) -> None:
    members = members_of(bundle_of(FROM))
    approvers_in(members)[-1] = issuers
    with pytest.raises(BundleError):
        read_everything(decode_bundle(bundled(members)).kernel)


def test_a_bundle_with_one_member_too_many_is_refused() -> None:
    members = members_of(bundle_of(FROM))
    approvers_in(members).append(["acme"])
    with pytest.raises(BundleError):
        read_everything(decode_bundle(bundled(members)).kernel)


def test_other_shapes_are_refused() -> None:
    for shape in (EARLY_SHAPE, bundle_schema().shape):
        file.check_shape("0.1.0", shape, "b")
    with pytest.raises(BundleError, match="another format"):
        file.check_shape("0.1.0", "0123456789abcdef", "b")

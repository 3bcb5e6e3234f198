"""Whom tokens are asked of, and for whom they are: from a policy and a configuration."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from policyengine import Engine
from policyengine.identity.config.model import IdentityConfig, parse_identity_config
from policyengine.identity.verified import TokenPrincipal, VerifiedToken
from policyengine.identity.verify.delegation_chain import create_chain_reader
from policyengine.identity.verify.tokens import TokenVerifier, trusted_issuers
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credential_errors import RefusalCode as R
from policyengine.runtime.decision import Outcome
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity.issuing import ACME, AUDIENCE, BOT, GONE, MESH, NOW, Door, known, token

TWINS = f"""
language 1
package acme.twins
issuer acme  {{ url "{ACME}"  audience "{AUDIENCE}" }}
issuer twin  {{ url "{ACME}"  audience "other-api" }}
issuer open  {{ url "https://open.example" }}
issuer mesh  {{ url "{MESH}"  audience "{AUDIENCE}" }}
issuer mute  {{ url "https://mute.example"  audience "{AUDIENCE}" }}
scope x {{ GET /x }}
agent "*" {{ issued by acme, twin, open, mesh, mute  acts alone  may x }}
"""


class Asked:
    """An issuer that answers every question with what it knows."""

    def __init__(self) -> None:
        self.raws: list[str] = []

    def introspect(self, raw: str, now: int) -> VerifiedToken:
        self.raws.append(raw)
        if raw != "opaque-1":
            raise CredentialError(R.INACTIVE)
        claims = {"sub": "alice", "client_id": BOT, "scope": "write:invoices", "exp": NOW + 60}
        return VerifiedToken("opaque", "acme", claims, {}, b"1" * 32, NOW + 60)


@pytest.fixture(scope="module")
def twins() -> TokenVerifier:
    kernel = Engine.from_text(TWINS).kernel
    keys = {name: known() for name in ("acme", "twin", "open", "mesh")}
    return TokenVerifier(trusted_issuers(kernel.issuers, IdentityConfig(), keys))


def code(verifier: TokenVerifier, raw: str) -> R:
    with pytest.raises(CredentialError) as refused:
        verifier.verify(raw, NOW)
    return refused.value.refusal


def test_an_opaque_token_is_introspected_and_decides() -> None:
    asked = Asked()
    door = Door(introspection=asked)
    assert door.bearer("opaque-1").outcome is Outcome.ALLOW
    assert door.bearer("opaque-2").reasons[0].code == R.INACTIVE
    assert asked.raws == ["opaque-1", "opaque-2"]


def test_a_jwt_is_never_sent_to_introspection() -> None:
    asked = Asked()
    door = Door(introspection=asked)
    assert door.bearer(token(iss="https://evil.example")).reasons[0].code == R.UNKNOWN_ISSUER
    assert door.bearer(token() + ".x").reasons[0].code == R.NOT_A_TOKEN
    assert asked.raws == []


def test_an_issuer_url_used_by_two_issuers_is_unknown(twins: TokenVerifier) -> None:
    assert code(twins, token()) is R.UNKNOWN_ISSUER
    kernel = Engine.from_text(TWINS).kernel
    assert ACME not in create_chain_reader(kernel.issuers, IdentityConfig()).issuers


def test_a_token_of_an_issuer_without_an_audience_is_rejected(twins: TokenVerifier) -> None:
    assert code(twins, token(iss="https://open.example")) is R.AUDIENCE


def test_an_issuer_without_keys_is_unknown(twins: TokenVerifier) -> None:
    assert code(twins, token(iss="https://mute.example")) is R.UNKNOWN_ISSUER


def test_a_workload_token_of_a_trust_domain_in_the_policy_is_verified(twins: TokenVerifier) -> None:
    raw = token({"typ": "JWT"}, iss=GONE, sub=f"{MESH}/bot", client_id=GONE)
    found = twins.verify(raw, NOW)
    assert (found.kind, found.issuer, found.expires) == ("spiffe", "mesh", NOW + 300)


def test_settings_reach_the_chain_reader_and_the_trusted_issuers() -> None:
    settings = parse_identity_config({"identity": {"leeway": "5s"}, "issuers": {"acme": {"people": ["portal"]}}})
    alone = TWINS.replace(f'issuer twin  {{ url "{ACME}"', 'issuer twin  { url "https://twin.example"')
    kernel = Engine.from_text(alone).kernel
    reader = create_chain_reader(kernel.issuers, settings)
    assert reader.leeway == 5
    found = VerifiedToken("jwt", "acme", {"sub": "alice", "client_id": "portal"}, {}, b"", NOW + 60)
    assert reader(found) == TokenPrincipal(None, "alice")
    assert trusted_issuers(kernel.issuers, settings, {"acme": known()})[ACME].settings.people == ("portal",)


def test_times_accepted_by_the_leeway_are_clamped() -> None:
    verifier = Door().tokens
    early = verifier.verify(token(iat=NOW + 20), NOW)
    late = verifier.verify(token(iat=NOW - 90, exp=NOW - 20), NOW)
    assert early.claims["iat"] == NOW
    assert (late.claims["exp"], late.expires) == (NOW + 10, NOW + 10)


class Racing(MemoryMarks):
    """Revokes after it was asked whether that is so: as another thread may."""

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        found = super().revoked(names, now)
        if not found and self.version == 0:
            self.revoke(["jti:acme/j-1"], NOW + 900, now)
        return found


def test_a_token_revoked_during_verification_is_not_cached() -> None:
    door, raw = Door(), token()
    door.identity.marks = Racing()
    assert door.bearer(raw).outcome is Outcome.ALLOW
    assert [door.bearer(raw).reasons[0].code for _ in range(2)] == [R.REVOKED] * 2
    assert door.identity.known({"authorization": f"Bearer {raw}"}, NOW) is None

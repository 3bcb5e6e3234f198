"""Attestations: what they prove, how the policy counts it, and the nonces that they answer."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.identity.attestation import create_attestation_verifier
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.kernel import Attester
from policyengine.runtime.credential_errors import CredentialError
from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import MemoryMarks
from policyengine.stores.sqlite.store import SqliteStore
from tests.identity.attesting import DIGEST, MODEL, NOW, URL, Keys, Lab, kernel, key, token

TIME = datetime.fromtimestamp(NOW, UTC)
ASK = {"request": {"method": "GET", "path": "/a"}}


def of_policy(**changed: Any) -> Attester:
    given = {"name": "lab", "url": URL, "age": None, "models": (), "environments": ()}
    return Attester(**{**given, **changed}, span=kernel().attesters["lab"].span)


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def test_an_accepted_attestation_provides_all_attestation_facts() -> None:
    lab = Lab()
    assert lab.facts(lab.signed()) == {
        "verified": True, "by": "lab", "model": MODEL, "model_hash": f"sha256:{DIGEST}", "environment": "sev-snp",
        "issued_at": TIME - timedelta(seconds=60),
    }  # fmt: skip


def test_a_claim_absent_from_the_attestation_provides_no_fact() -> None:
    lab = Lab(attester=of_policy())
    raw = lab.signed(ai_model_id=None, ai_model_hash=None, environment=None)
    assert lab.facts(raw) == {"verified": True, "by": "lab", "issued_at": TIME - timedelta(seconds=60)}


def test_an_attester_without_restrictions_accepts_any_model_and_environment() -> None:
    lab = Lab(attester=of_policy())
    modules = {"submods": {"inner": {"ai_model_id": "any", "environment": "any"}}}
    found = lab.facts(lab.signed(ai_model_id="other", environment="laptop", iat=0, **modules))
    assert (found["model"], found["environment"]) == ("other", "laptop")


def test_attester_settings_select_types_environment_claim_audience_and_binding() -> None:
    lab = Lab({"types": ["application/attested+jwt"], "environment": "hwmodel", "audience": "pay", "unbound": True})
    right = {"environment": None, "hwmodel": "tdx", "aud": "pay", "cnf": None}
    assert lab.says(token(lab.claims(**right), typ="attested+jwt")) == "accepted"
    lab.nonce, _ = lab.nonces.issue(NOW)
    assert lab.says(token(lab.claims(**right))) == "token_type"
    assert lab.says(token(lab.claims(**right | {"aud": None}), typ="attested+jwt")) == "audience"
    assert lab.says(token(lab.claims(**right | {"cnf": {"jkt": "other"}}), typ="attested+jwt")) == "attestation_key"
    assert lab.says(token(lab.claims(**right | {"hwmodel": None}), typ="attested+jwt")) == "attested_environment"
    assert lab.says(token(lab.claims(**right), typ="attested+jwt")) == "accepted"


def test_the_error_names_the_attestation_without_quoting_it() -> None:
    lab = Lab()
    with pytest.raises(CredentialError, match=r"^in the attestation: the signature of the token is not valid$"):
        lab.facts(token(lab.claims(), "acme", kid="lab"))
    with pytest.raises(CredentialError, match=r"^the attestation is older than the policy allows$"):
        lab.facts(lab.signed(iat=NOW - 3_601))


# ── The policy ────────────────────────────────────────────────────────────────────────────────


def credentials(raw: str) -> dict[str, Any]:
    return {**ASK, "credentials": {"authorization": "Bearer token", "attestation": raw}}


def test_the_policy_allows_an_attested_agent_and_denies_an_unattested_one() -> None:
    lab = Lab()
    engine = Engine(kernel(), clock=lambda: TIME, identity=lab.identity)
    raw = lab.signed()
    assert engine.decide(credentials(raw)).allowed
    again = engine.decide(credentials(raw))
    assert (again.allowed, again.reasons[0].code) == (False, "attestation_nonce")
    assert not engine.decide({**ASK, "credentials": {"authorization": "Bearer token"}}).allowed


def test_claimed_attestation_facts_do_not_replace_a_rejected_attestation() -> None:
    lab = Lab()
    engine = Engine(kernel(), clock=lambda: TIME, identity=lab.identity)
    claimed = dict(lab.facts(lab.signed()))
    asked = credentials(lab.signed(iat=NOW - 3_601)) | {"attestation": claimed}
    assert engine.decide(asked).reasons[0].code == "attestation_age"


def test_claimed_attestation_facts_count_unless_only_proved_facts_are_allowed() -> None:
    lab = Lab()
    engine = Engine(kernel(), clock=lambda: TIME, identity=lab.identity)
    claimed = {**ASK, "credentials": {"authorization": "Bearer token"}, "attestation": dict(lab.facts(lab.signed()))}
    assert [engine.decide(claimed).allowed for _ in range(2)] == [True, True]
    lab.identity.only_proved = True
    lab.nonce, _ = lab.nonces.issue(NOW)
    assert [engine.decide(claimed).allowed for _ in range(2)] == [False, False]
    assert not engine.decide({**claimed, "credentials": {"authorization": "Bearer another"}}).allowed
    assert engine.decide({**claimed, **credentials(lab.signed())}).allowed


AGES = [-30, 0, 3_599, 3_600, 3_601]
MODELS: list[tuple[str | None, str | None]] = [
    (MODEL, DIGEST), (MODEL, "0" * 64), (MODEL, None), ("router-1b", None), ("router-1b", "0" * 64), ("evil", DIGEST),
    (None, DIGEST), (None, None),
]  # fmt: skip
PLACES = ["sev-snp", "tdx", "laptop", None]


def test_the_verifier_accepts_exactly_the_attestations_that_the_policy_allows() -> None:
    """The facts of an attester of anything, asked of the policy, against what is accepted by the policy's attester."""
    engine = Engine(kernel(), clock=lambda: TIME)
    strict, lax = Lab(), Lab(attester=of_policy())
    who = {"agent": {"id": "bot", "issuer": "acme"}, "credential": {"kind": "jwt"}}
    told = []
    for age, (model, digest), place in product(AGES, MODELS, PLACES):
        hash_ = None if digest is None else f"sha256:{digest}"
        said = {"iat": NOW - age, "ai_model_id": model, "ai_model_hash": hash_, "environment": place}
        for lab in (strict, lax):
            lab.nonce, _ = lab.nonces.issue(NOW)
        allowed = engine.decide({**ASK, **who, "attestation": dict(lax.facts(lax.signed(**said)))}).allowed
        assert (strict.says(strict.signed(**said)) == "accepted") == allowed, said
        told.append(allowed)
    assert sum(told) == 4 * 3 * 2  # ages, models and places that are right


# ── Set up ────────────────────────────────────────────────────────────────────────────────────


def test_settings_for_an_attester_missing_from_the_policy_are_rejected() -> None:
    with pytest.raises(IdentityConfigError, match=r"`attesters.labs`: no policy names this attester \(.*lab"):
        create_attestation_verifier(
            kernel().attesters, parse_identity_config({"attesters": {"labs": {}}}), {}, AttestationNonces(MemoryMarks())
        )


def test_two_attesters_with_the_same_url_are_rejected() -> None:
    attesters = {"lab": of_policy(), "other": of_policy(name="other")}
    keys = {"lab": Keys([key("lab")]), "other": Keys([key("lab")])}
    with pytest.raises(IdentityConfigError, match="`lab` and `other` have the same URL"):
        create_attestation_verifier(attesters, parse_identity_config({}), keys, AttestationNonces(MemoryMarks()))


def test_an_attester_without_a_url_is_left_out_of_the_verifier() -> None:
    found = create_attestation_verifier(
        kernel().attesters, parse_identity_config({}), {"old": Keys([key("lab")])}, AttestationNonces(MemoryMarks())
    )
    assert found.attesters == {}


# ── Nonces ────────────────────────────────────────────────────────────────────────────────────


def test_an_attestation_nonce_is_long_unique_and_accepted_once() -> None:
    nonces = AttestationNonces(MemoryMarks())
    given = [nonces.issue(NOW) for _ in range(100)]
    assert len({nonce for nonce, _ in given}) == 100
    assert {(len(nonce), ends) for nonce, ends in given} == {(56, NOW + 300)}
    assert [nonces.take(given[0][0], NOW + 299) for _ in range(2)] == [True, False]
    assert not nonces.take(given[1][0], NOW + 300)


@pytest.mark.parametrize("place", range(0, 56, 5))
def test_an_edited_attestation_nonce_is_rejected(place: int) -> None:
    nonces = AttestationNonces(MemoryMarks())
    given, _ = nonces.issue(NOW)
    other = "A" if given[place] != "A" else "B"
    assert not nonces.take(given[:place] + other + given[place + 1 :], NOW)
    assert nonces.take(given, NOW)


@pytest.mark.parametrize("nonce", ["", "A" * 56, "A" * 43, "é" * 56, "A" * 10_000, f"{'A' * 55}="])
def test_a_made_up_attestation_nonce_is_rejected(nonce: str) -> None:
    assert not AttestationNonces(MemoryMarks()).take(nonce, NOW)


def test_servers_that_share_a_key_and_a_store_accept_each_others_nonces_once(tmp_path: Path) -> None:
    one, other = (AttestationNonces(SqliteStore(tmp_path / "store.db").marks, b"k" * 32) for _ in range(2))
    nonce, _ = one.issue(NOW)
    assert [other.take(nonce, NOW), one.take(nonce, NOW)] == [True, False]
    assert not AttestationNonces(MemoryMarks(), b"m" * 32).take(one.issue(NOW)[0], NOW)


def test_servers_that_share_a_key_accept_nonces_within_the_clock_leeway() -> None:
    one, other = (AttestationNonces(MemoryMarks(), b"k" * 32, leeway=30) for _ in range(2))
    early, late = one.issue(NOW + 30)[0], one.issue(NOW - 329)[0]
    assert other.take(early, NOW)
    assert other.take(late, NOW)
    assert not other.take(late, NOW), "for as long as it could be taken its mark is kept"
    assert not other.take(one.issue(NOW + 31)[0], NOW)
    assert not other.take(one.issue(NOW - 330)[0], NOW)


def test_issuing_attestation_nonces_stores_no_marks() -> None:
    marks = MemoryMarks(most=2)
    nonces = AttestationNonces(marks)
    given = [nonces.issue(NOW)[0] for _ in range(10_000)]
    assert not marks._marked.until
    assert nonces.take(given[-1], NOW)


def test_an_attestation_is_rejected_while_the_store_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(MemoryMarks):
        def once(self, name: str, until: int, now: int) -> bool:
            raise StoreError("gone")

    lab = Lab(marks=Gone())
    with caplog.at_level(logging.WARNING):
        assert lab.says(lab.signed()) == "store"
    assert lab.identity.counts == {"store": 1}
    assert "the store does not answer: gone" in caplog.text

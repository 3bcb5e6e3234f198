"""Keys of a JWKS: what is used of it, which key a token means, and files that change."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.identity.issuer_documents import DocumentError, parse_document
from policyengine.identity.keys.jwks import MAX_CANDIDATE_KEYS, MAX_KEYS, JwkSet, JwksFile, parse_jwks
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from tests.identity.keys import jwks, key, private, public


def keys_of(*given: object) -> JwkSet:
    return parse_jwks(json.dumps({"keys": given}).encode(), "acme")


def refusal(keys: JwkSet, kid: str | None, alg: str) -> RefusalCode:
    with pytest.raises(CredentialError) as caught:
        keys.find(kid, alg)
    return caught.value.refusal


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_key_of_each_kind_is_found_by_its_id_and_algorithm(alg: str) -> None:
    keys = keys_of(public(alg), public("ES256", 2))
    (found,) = keys.find(f"{alg.lower()}-1", alg)
    assert found.thumbprint() == key(alg).thumbprint()


@pytest.mark.parametrize(("own", "asked"), [("EdDSA", "Ed25519"), ("Ed25519", "EdDSA"), (None, "Ed25519")])
def test_eddsa_and_ed25519_name_the_same_algorithm(own: str | None, asked: str) -> None:
    assert len(keys_of(public("EdDSA", alg=own)).find("eddsa-1", asked)) == 1


def test_a_key_with_alg_is_rejected_for_other_algorithms() -> None:
    keys = keys_of(public("RS256", alg="RS256"))
    assert keys.find("rs256-1", "RS256")
    assert refusal(keys, "rs256-1", "PS256") is RefusalCode.WRONG_KEY_USE


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_a_jwk_that_publishes_its_private_part_is_rejected(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the set can sign by it."""
    jwk = private(kind)
    with caplog.at_level("INFO", "policyengine"):
        keys = keys_of(jwk)
    assert refusal(keys, str(jwk["kid"]), kind) is RefusalCode.WRONG_KEY_USE
    assert "the set publishes its private part" in caplog.text
    assert str(jwk["d"]) not in caplog.text


def test_private_members_are_removed_from_a_public_key() -> None:
    (found,) = keys_of({**public("RS256"), "p": "AQAB", "qi": "AQAB"}).find(None, "RS256")
    assert not found.is_private
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(found.dict_value)


def test_a_lookup_without_a_key_id_finds_every_fitting_key() -> None:
    keys = keys_of(public("ES256"), public("RS256"), public("ES256", 2, kid=None))
    assert len(keys.find(None, "ES256")) == 2


def test_a_lookup_finds_every_fitting_key_with_the_same_id() -> None:
    keys = keys_of(public("ES256", kid="k"), public("ES256", 2, kid="k"), public("RS256", kid="k"))
    assert len(keys.find("k", "ES256")) == 2
    assert len(keys.find("k", "RS256")) == 1


def test_a_lookup_with_too_many_candidate_keys_is_rejected() -> None:
    many = [public("ES256", kid=str(number)) for number in range(MAX_CANDIDATE_KEYS + 1)]
    assert len(keys_of(*many[:-1]).find(None, "ES256")) == MAX_CANDIDATE_KEYS
    assert refusal(keys_of(*many), None, "ES256") is RefusalCode.KEY_ID
    assert len(keys_of(*many).find("3", "ES256")) == 1


def test_unusable_keys_are_skipped_and_reported_in_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "policyengine"):
        keys = keys_of(public("weak"), 7, {"kty": "AKP"}, public("HS256"), public("ES256"))
    assert keys.find("es256-1", "ES256")
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith("skipped some keys of `acme`: key 1: its size is not from 2,048")
    assert "key 2: it is not a JSON object; key 3: its type is unknown; key 4: it is a shared secret" in line
    assert key("HS256").as_dict(private=True)["k"] not in line


def test_a_key_set_with_too_many_keys_is_rejected() -> None:
    with pytest.raises(DocumentError, match="more than 100 keys"):
        keys_of(*[{}] * (MAX_KEYS + 1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("\ufeff{}", "not a JSON object"),
        ('{"keys": [], "keys": []}', "duplicate"),
        ('{"keys": [{"kty": "EC", "kty": "RSA"}]}', "duplicate"),
        ('{"keys": NaN}', "not a JSON object"),
        ('{"keys": ' + "9" * 10_000 + "}", "too long"),
        ('{"keys": 1e999999999}', "too long"),
        ('{"keys": 1e-9999999999999999999}', "too long"),
        ('{"keys": "\\ud800"}', "unpaired surrogate"),
        ('{"keys": ' + "[" * 30 + "]" * 30 + "}", "too deep"),
        ('{"keys": ' + "[" * 200_000, "too deep"),
        ("{}", "no list"),
        ('{"keys": {}}', "no list"),
    ],
)
def test_an_invalid_jwks_is_rejected_with_its_cause(text: str, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        parse_jwks(text.encode(), "acme")


def test_a_document_that_is_not_utf8_is_rejected() -> None:
    with pytest.raises(DocumentError, match="not a JSON object"):
        parse_document(b'{"a": "\xff"}')


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(["kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "n", "e", "d"])


@settings(max_examples=30)
@given(st.sampled_from(["RS256", "ES256", "EdDSA"]), st.dictionaries(MEMBERS, ANYTHING, max_size=4))
def test_a_key_with_arbitrary_members_is_used_or_skipped(kind: str, changed: dict[str, object]) -> None:
    keys = keys_of({**public(kind), **changed}, public("ES256", 2))
    assert keys.find("es256-2", "ES256")
    assert all(not one.key.is_private for one in keys.usable)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def write(path: Path, text: str, age: int = 0) -> None:
    path.write_text(text)
    os.utime(path, ns=(10**18 - age, 10**18 - age))


def refused(source: JwksFile, kid: str, now: int) -> RefusalCode:
    with pytest.raises(CredentialError) as caught:
        source.find(kid, "ES256", now)
    return caught.value.refusal


def test_a_changed_jwks_file_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    source = JwksFile(path, "acme", stale=100)
    assert refused(source, "es256-1", 0) is RefusalCode.PROVIDER
    write(path, json.dumps(jwks(public("ES256"))))
    assert source.find("es256-1", "ES256", 1)
    write(path, json.dumps(jwks(public("ES256", 2))), age=5)
    assert source.find("es256-2", "ES256", 2)
    assert refused(source, "es256-1", 2) is RefusalCode.UNKNOWN_KEY


@pytest.mark.parametrize("broken", ["", "{}", None])
def test_a_broken_jwks_file_keeps_the_last_keys_until_they_are_stale(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    source = JwksFile(path, "acme", stale=100)
    write(path, json.dumps(jwks(public("ES256"))))
    assert source.find("es256-1", "ES256", 0)
    path.unlink() if broken is None else write(path, broken)
    for now in (10, 50, 109):
        assert source.find("es256-1", "ES256", now)
        if broken is not None:
            write(path, broken + " " * now)  # broken in another way
    assert refused(source, "es256-1", 110) is RefusalCode.PROVIDER
    told = [one for one in caplog.records if "cannot be read" in one.getMessage()]
    assert len(told) == (1 if broken is None else 4), "once for each way"
    write(path, json.dumps(jwks(public("ES256"))), age=9)
    assert source.find("es256-1", "ES256", 111)

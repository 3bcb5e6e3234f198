"""Attacks on attestations: each is refused for its own reason and counted, and burns nobody's nonce."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from string import ascii_letters, digits
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.identity.verified import UNBOUND, ConfirmedKey
from tests.depth import examples, scaled
from tests.identity.attesting import DIGEST, END, MINE, MODEL, NOW, URL, US, Lab, key, part, token

OTHER = key("other")


class Attack(NamedTuple):
    """`raw`: what is presented as attestation; `binding`: what its presenter proves."""

    name: str
    code: str
    raw: Callable[[Lab], str]
    binding: ConfirmedKey = MINE
    burns: bool = False  # whether it is only the nonce that is wrong


def claims(name: str, code: str, binding: ConfirmedKey = MINE, **changed: object) -> Attack:
    return Attack(name, code, lambda lab: lab.signed(**changed), binding)


def signed(name: str, code: str, signer: str = "lab", alg: str = "ES256", **header: object) -> Attack:
    return Attack(name, code, lambda lab: token(lab.claims(), signer, alg, **header))


def modules(**changed: object) -> dict[str, object]:
    return {"submods": {"tool": {"ai_model_id": "router-1b", **changed}}}


def nested(depth: int) -> dict[str, object]:
    return {"submods": {"inner": nested(depth - 1)}} if depth else {}


def bombed(lab: Lab) -> str:
    deep = b'{"submods":{"a":' * 3_000 + b"1" + b"}}" * 3_000
    return token(json.dumps(lab.claims()).encode()[:-1] + b',"submods":{"a":' + deep + b"}}")


def said_twice(lab: Lab) -> str:
    return token(json.dumps(lab.claims()).encode()[:-1] + b',"ai_model_id":"evil"}')


def without_signature(lab: Lab) -> str:
    header = json.dumps({"alg": "none", "typ": "eat+jwt"}).encode()
    return f"{part(header)}.{part(json.dumps(lab.claims()).encode())}."


def changed_after(lab: Lab) -> str:
    """Its claims are those of another one, the signature is its own."""
    header, _, signature = lab.signed().split(".")
    return f"{header}.{part(json.dumps(lab.claims(ai_model_id='evil')).encode())}.{signature}"


def replayed(lab: Lab) -> str:
    raw = lab.signed()
    assert lab.says(raw) == "accepted"
    lab.identity.counts.clear()
    return raw


def answered_before(lab: Lab) -> str:
    """Another attestation for the nonce of one that was accepted."""
    replayed(lab)
    return lab.signed(iat=NOW - 1)


def of_two_nonces(lab: Lab) -> str:
    """One for each presentation would do to replay it."""
    raw = lab.signed(eat_nonce=[lab.nonce, lab.nonces.issue(NOW)[0]])
    assert lab.says(raw) == "accepted"
    lab.identity.counts.clear()
    return raw


def of_another_store(lab: Lab) -> str:
    return lab.signed(eat_nonce=Lab().nonce)


def answered_late(lab: Lab) -> str:
    return lab.signed(eat_nonce=lab.nonces.issue(NOW - lab.nonces.lifetime)[0])


PRIVATE = OTHER.as_dict(private=True)
SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"
ATTACKS = [
    # ── Fresh
    claims("no nonce", "attestation_nonce", eat_nonce=None),
    claims("a nonce that nobody gave", "attestation_nonce", eat_nonce="A" * 43),
    claims("nonces that nobody gave", "attestation_nonce", eat_nonce=["A" * 43, "B" * 43]),
    Attack("a nonce in other letters", "attestation_nonce", lambda lab: lab.signed(eat_nonce=lab.nonce.swapcase())),
    claims("no nonce in a list", "claim_type", eat_nonce=[]),
    claims("a nonce that is a number", "claim_type", eat_nonce=7),
    claims("a list of nonces with a number", "claim_type", eat_nonce=["A" * 43, 7]),
    claims("guesses of a nonce by the thousand", "attestation_nonce", eat_nonce=[f"{n:043}" for n in range(200)]),
    Attack("a nonce of ours among many guesses", "attestation_nonce",
           lambda lab: lab.signed(eat_nonce=[lab.nonce, *(f"{n:043}" for n in range(8))])),
    Attack("an attestation a second time", "attestation_nonce", replayed, burns=True),
    Attack("another attestation for a nonce that was answered", "attestation_nonce", answered_before, burns=True),
    Attack("an attestation for two nonces a second time", "attestation_nonce", of_two_nonces, burns=True),
    Attack("a nonce of another store", "attestation_nonce", of_another_store),
    Attack("a nonce that has ended", "attestation_nonce", answered_late),
    claims("older than the policy says", "attestation_age", iat=NOW - 3_601),
    claims("expired", "attestation_age", exp=NOW - 30),
    claims("of the future", "attestation_age", iat=NOW + 31),
    claims("not valid yet", "attestation_age", nbf=NOW + 31),
    claims("without a time of issue", "missing_claim", iat=None),
    claims("without an end", "missing_claim", exp=None),
    claims("a time that is text", "claim_type", iat=f"{NOW}"),
    claims("a time that is true", "claim_type", exp=True),
    claims("an end after all times", "claim_type", exp=10**15),
    claims("an end before all times", "claim_type", exp=-1),
    # ── Of the presenter's key
    claims("bound, and the presenter proves no key", "attestation_key", UNBOUND),
    claims("of another key", "attestation_key", ConfirmedKey(jkt=OTHER.thumbprint())),
    claims("of another certificate", "attestation_key", cnf={"x5t#S256": "another"}),
    claims("of the right key and another certificate", "attestation_key", cnf={"jkt": MINE.jkt, "x5t#S256": "x"}),
    claims("of another key in full", "attestation_key", cnf={"jwk": OTHER.as_dict(private=False)}),
    claims("a thumbprint of ours with a key of another", "attestation_key",
           cnf={"jkt": MINE.jkt, "jwk": OTHER.as_dict(private=False)}),
    claims("bound to nothing", "attestation_key", cnf=None),
    claims("bound to nothing, in so many words", "attestation_key", cnf={}),
    claims("bound to the name of a key", "attestation_key", cnf={"kid": "mine"}),
    claims("bound to ours, and in a way that nobody knows", "attestation_key", cnf={"jkt": MINE.jkt, "jku": URL}),
    claims("with a private key", "attestation_key", cnf={"jwk": PRIVATE}),
    claims("with a shared secret", "attestation_key", cnf={"jwk": {"kty": "oct", "k": "AAAA"}}),
    claims("with a key that is none", "attestation_key", cnf={"jwk": {"kty": ["EC"]}}),
    claims("with a key of a curve that there is not", "attestation_key",
           cnf={"jwk": {"kty": "EC", "crv": "P-257", "x": "AA", "y": "AA"}}),
    claims("with a key off its curve", "attestation_key",
           cnf={"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}}),
    claims("bound to a list", "claim_type", cnf=[MINE.jkt]),
    claims("bound to a number", "claim_type", cnf={"jkt": 7}),
    # ── By whom
    claims("by nobody", "attester", iss=None),
    claims("by somebody else", "attester", iss="https://evil.example"),
    claims("by a look-alike", "attester", iss="https://attest.acme.examp1e"),
    claims("by a URL with a slash more", "attester", iss=f"{URL}/"),
    claims("by the URL in capitals", "attester", iss=URL.upper()),
    claims("by the issuer of tokens", "attester", iss="https://login.acme.example"),
    claims("in the name of another attester, by the key of this one", "unknown_key", iss="https://any.acme.example"),
    claims("for somebody else", "audience", aud="https://other.example"),
    claims("by a list", "claim_type", iss=[URL]),
    signed("signed by the key of the issuer of tokens", "unknown_key", "acme"),
    signed("signed by another key under its name", "signature", "acme", kid="lab"),
    signed("a token of another type", "token_type", typ="at+jwt"),
    signed("without a type", "token_type", typ=None),
    signed("an issuer in the header that is not that of the claims", "contradiction", iss="https://evil.example"),
    signed("by an algorithm that has one key", "algorithm", alg="HS256"),
    signed("by an algorithm in other letters", "algorithm", alg="NoNe"),
    signed("by an algorithm for other keys", "wrong_key_use", alg="RS256"),
    signed("with its own key", "key_in_token", jwk=OTHER.as_dict(private=False)),
    signed("with the URL of its key", "key_in_token", jku="https://evil.example/keys"),
    signed("with a header that demands what nobody knows", "critical_header", crit=["exp"]),
    signed("with a key id that is a path", "key_id", kid="../../etc/passwd"),
    Attack("without a signature", "algorithm", without_signature),
    Attack("with the claims of another one", "signature", changed_after),
    Attack("a member twice", "duplicate_member", said_twice),
    Attack("no token at all", "not_a_token", lambda lab: "attested"),
    Attack("encrypted", "encoding", lambda lab: "a.b.c.d.e"),
    Attack("a signature with bits that mean nothing", "encoding", lambda lab: f"{lab.signed()[:-1]}_"),
    Attack("padded", "encoding", lambda lab: f"{lab.signed()}=="),
    claims("larger than is read", "too_large", note="a" * 20_000),
    # ── What it runs
    claims("a model that is not listed", "attested_model", ai_model_id="evil"),
    claims("a model in other letters", "attested_model", ai_model_id=MODEL.upper()),
    claims("no model", "attested_model", ai_model_id=None),
    claims("a listed model of other weights", "attested_model", ai_model_hash=f"sha256:{'0' * 64}"),
    claims("a listed model without its hash", "attested_model", ai_model_hash=None),
    claims("the hash of one model under the name of another", "attested_model", ai_model_id="evil",
           ai_model_hash=f"sha256:{DIGEST}"),
    claims("the right hash by the name of another algorithm", "claim_type", ai_model_hash=f"sha512:{DIGEST}"),
    claims("a hash by a weak algorithm", "algorithm", ai_model_hash={"alg": "sha-1", "hash": SHA1}),
    claims("a hash by an algorithm that nobody knows", "algorithm", ai_model_hash={"alg": 99, "hash": DIGEST}),
    claims("a hash that is cut", "claim_type", ai_model_hash=f"sha256:{DIGEST[:16]}"),
    claims("a hash without an algorithm", "claim_type", ai_model_hash=DIGEST),
    claims("a hash that is null", "claim_type", ai_model_hash=[]),
    claims("a hash with more beside it", "claim_type",
           ai_model_hash={"alg": "sha-256", "hash": DIGEST, "or": "any"}),
    claims("a model that is a list", "claim_type", ai_model_id=[MODEL, "evil"]),
    # ── In its modules
    claims("a submodule with another model", "attested_model", **modules(ai_model_id="evil")),
    claims("a submodule of other weights", "attested_model",
           **modules(ai_model_id=MODEL, ai_model_hash=f"sha256:{'0' * 64}")),
    claims("a submodule with a hash and no model", "attested_model",
           submods={"tool": {"ai_model_hash": f"sha256:{DIGEST}"}}),
    claims("a submodule with a model that is null", "claim_type", **modules(ai_model_id=None)),
    claims("a submodule within a submodule with another model", "attested_model",
           **modules(submods={"inner": {"ai_model_id": "evil"}})),
    claims("a submodule in another environment", "attested_environment", **modules(environment="laptop")),
    claims("a submodule that is a token", "attestation", submods={"tool": ["JWT", "eyJhbGciOiJub25lIn0.e30."]}),
    claims("a submodule that is a text", "attestation", submods={"tool": "eyJhbGciOiJub25lIn0.e30."}),
    claims("a submodule that is elsewhere", "attestation", submods={"tool": ["DIGEST", ["sha-256", DIGEST]]}),
    claims("submodules in a list", "claim_type", submods=[{"ai_model_id": "router-1b"}]),
    claims("submodules too deep", "too_deep", **nested(5)),
    claims("submodules too many", "too_large", submods={f"{n}": {} for n in range(65)}),
    Attack("submodules by the thousand within each other", "too_large", bombed),
    claims("brackets without end", "too_deep", note=json.loads("[" * 40 + "]" * 40)),
    # ── Where
    claims("another environment", "attested_environment", environment="laptop"),
    claims("no environment", "attested_environment", environment=None),
    claims("an environment that is a list", "claim_type", environment=["sev-snp"]),
    claims("the environment under another name", "attested_environment", environment=None, hwmodel="sev-snp"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_attack_is_rejected_with_its_own_code_and_counted(attack: Attack) -> None:
    lab = Lab(binding=attack.binding)
    assert lab.says(attack.raw(lab)) == attack.code
    assert lab.identity.counts == {attack.code: 1}
    if attack.burns:
        lab.nonce, _ = lab.nonces.issue(NOW)
    lab.binding = MINE
    assert lab.says(lab.signed()) == "accepted"  # by the nonce that the attack had


@given(place=st.floats(0, 1, exclude_max=True), letter=st.sampled_from(ascii_letters + digits + "-_.=+/ "))
@scaled
@settings(max_examples=examples(60, 600))
def test_an_attestation_with_one_changed_character_is_rejected(place: float, letter: str) -> None:
    lab = Lab()
    raw = lab.signed()
    where = int(place * len(raw))
    changed = raw[:where] + letter + raw[where + 1 :]
    assert (lab.says(changed) == "accepted") == (changed == raw)


def test_every_attestation_attack_has_a_unique_name() -> None:
    assert len({one.name for one in ATTACKS}) == len(ATTACKS) > 90


def test_an_attestation_is_rejected_while_the_attester_is_unreachable() -> None:
    lab = Lab(down=True)
    assert lab.says(lab.signed()) == "provider"
    assert lab.identity.counts == {"provider": 1}


def test_an_attestation_is_rejected_without_configured_attesters() -> None:
    lab = Lab()
    lab.identity.parts = replace(lab.identity.parts, attests=None)
    assert lab.says(lab.signed()) == "attester"


# ── Controls ──────────────────────────────────────────────────────────────────────────────────

JWK = key("mine").as_dict(private=False)
GOOD: dict[str, dict[str, object]] = {
    "as it is": {},
    "its nonce in a list with others": {"eat_nonce": "listed"},
    "its nonce among as many as may be": {"eat_nonce": "as many"},
    "as old as may be": {"iat": NOW - 3_600},
    "a clock that is ahead": {"iat": NOW + 30},
    "a clock that is behind": {"exp": NOW - 29},
    "times with a fraction": {"iat": NOW - 0.5},
    "bound by a certificate": {"cnf": {"x5t#S256": MINE.x5t}},
    "bound by a key in full": {"cnf": {"jwk": JWK}},
    "bound by all of them": {"cnf": {"jkt": MINE.jkt, "jwk": JWK, "x5t#S256": MINE.x5t}},
    "for us": {"aud": US},
    "for us among others": {"aud": ["https://other.example", US]},
    "a model of any weights": {"ai_model_id": "router-1b", "ai_model_hash": None},
    "a model of any weights with a hash": {"ai_model_id": "router-1b", "ai_model_hash": f"sha512:{'0' * 128}"},
    "a hash in a text": {"ai_model_hash": f"sha256:{DIGEST}"},
    "a hash in capitals": {"ai_model_hash": {"alg": "SHA-256", "hash": DIGEST.upper()}},
    "a hash in base64url": {"ai_model_hash": {"alg": "sha-256", "hash": part(bytes.fromhex(DIGEST))}},
    "a hash by the number of its algorithm": {"ai_model_hash": {"alg": -16, "hash": DIGEST}},
    "a submodule with a listed model": modules(),
    "a submodule without a model": {"submods": {"cpu": {"ueid": "AQ"}}},
    "submodules as deep as may be": nested(4),
    "another environment": {"environment": "tdx"},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_valid_attestation_is_accepted(name: str) -> None:
    lab = Lab()
    changed = dict(GOOD[name])
    if "eat_nonce" in changed:
        changed["eat_nonce"] = [*"1234567"[: 2 if changed["eat_nonce"] == "listed" else 7], lab.nonce]
    assert lab.says(lab.signed(**changed)) == "accepted"
    assert lab.identity.counts == {"proved": 1}
    assert END > NOW

"""No mutation of a valid credential verifies: whatever is presented was signed as it stands."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from policyengine.runtime.credential_errors import REFUSAL_INFO
from policyengine.runtime.decision import Outcome
from tests.identity.issuing import CLAIMS, HEADER, Door, as_json, b64, ed, rsa, token

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
KINDS = ("ES256", "EdDSA", "RS256")
DOOR = cache(Door)


@cache
def valid(alg: str) -> str:
    keys: dict[str, Any] = {"ES256": (None, "ec"), "EdDSA": (ed(), "ed"), "RS256": (rsa(), "rsa")}
    key, kid = keys[alg]
    return token({"alg": alg, "kid": kid}, key)


def refused(raw: str) -> None:
    decision = DOOR().bearer(raw)
    assert decision.outcome is Outcome.DENY
    assert decision.reasons[0].code in REFUSAL_INFO


def test_the_unmutated_tokens_are_accepted() -> None:
    assert [DOOR().bearer(valid(alg)).outcome for alg in KINDS] == [Outcome.ALLOW] * 3


@given(st.sampled_from(KINDS), st.integers(0), st.integers(0, 6))
def test_a_token_with_a_flipped_bit_is_rejected(alg: str, place: int, bit: int) -> None:
    raw = valid(alg)
    at = place % len(raw)
    other = chr(ord(raw[at]) ^ (1 << bit))
    assume(not (other.isspace() and at == len(raw) - 1))  # spaces at the end are none of the token's
    refused(raw[:at] + other + raw[at + 1 :])


@given(st.sampled_from(KINDS), st.integers(0), st.text("." + ALPHABET, max_size=4), st.integers(0, 4))
def test_a_token_with_inserted_or_removed_characters_is_rejected(alg: str, place: int, put: str, cut: int) -> None:
    raw = valid(alg)
    at = place % (len(raw) + 1)
    other = raw[:at] + put + raw[at + cut :]
    assume(other != raw)
    refused(other)


@given(st.permutations(range(9)), st.integers(1, 6))
def test_recombined_segments_of_several_tokens_are_rejected(order: list[int], count: int) -> None:
    segments = [segment for alg in KINDS for segment in valid(alg).split(".")]
    other = ".".join(segments[n] for n in order[:count])
    assume(other not in [valid(alg) for alg in KINDS])
    refused(other)


TEXTS = st.text('ab "{}\\\u00e9', max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXTS
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(TEXTS, LEAVES, max_size=2)


@given(st.sampled_from(KINDS), st.sampled_from(sorted({*CLAIMS, "act", "cnf", "task", "azp"})), VALUES)
@example("ES256", "sub", "root")
def test_a_changed_claim_is_rejected_without_a_new_signature(alg: str, name: str, value: object) -> None:
    head, _, signature = valid(alg).split(".")
    assume(CLAIMS.get(name) != value)
    refused(f"{head}.{b64(as_json({**CLAIMS, name: value}))}.{signature}")


@given(st.sampled_from(KINDS), st.sampled_from(["alg", "typ", "kid", "jwk", "jku", "crit", "b64", "x"]), VALUES)
@example("ES256", "alg", "none")
@example("RS256", "alg", "HS256")
def test_a_changed_header_member_is_rejected_without_a_new_signature(alg: str, name: str, value: object) -> None:
    head, body, signature = valid(alg).split(".")
    kid = {"ES256": "ec", "EdDSA": "ed", "RS256": "rsa"}[alg]
    header = {**HEADER, "alg": alg, "kid": kid, name: value}
    assume(b64(as_json(header)) != head)
    refused(f"{b64(as_json(header))}.{body}.{signature}")


@given(st.sampled_from(KINDS), st.sampled_from([", ", " , ", ",\n"]), st.booleans())
def test_reformatted_claims_are_rejected_without_a_new_signature(alg: str, between: str, ordered: bool) -> None:
    head, _, signature = valid(alg).split(".")
    text = json.dumps(CLAIMS, separators=(between, ":"), sort_keys=ordered)
    refused(f"{head}.{b64(text.encode())}.{signature}")

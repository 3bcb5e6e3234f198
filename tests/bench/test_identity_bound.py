"""What proofs cost is measured of proofs that hold, by both sides."""

from joserfc.jwk import ECKey

from bench.identity_bound import NOW, TOKEN, URL, duel, make_proof, verify_with_library
from policyengine.identity.proof.dpop import DpopVerifier
from policyengine.identity.verified import ProofContext
from policyengine.stores.credential_marks import MemoryMarks


def test_both_sides_see_the_same_key_and_claims() -> None:
    key = ECKey.generate_key("P-256")
    made = make_proof("ES256", key, 7)
    jkt = DpopVerifier(MemoryMarks()).check(made, ProofContext("GET", URL), NOW, jkt=key.thumbprint(), token=TOKEN)
    thumbprint, claims = verify_with_library(made, "ES256")
    assert (jkt, claims["jti"]) == (thumbprint, "p-7")


def test_a_duel_measures_both_sides() -> None:
    theirs, ours, ratio = duel("ES256", ECKey.generate_key("P-256"), known=True, rounds=1, size=3)
    assert min(theirs, ours, ratio) > 0

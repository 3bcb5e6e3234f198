"""`proofs`: the cost of verifying a proof of possession, compared with the library's verification of its signature."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from statistics import median
from time import perf_counter_ns

from joserfc import jws
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from bench.report import Section, Target
from bench.trial import format_number
from policyengine.identity.proof.dpop import DpopVerifier, parse_proof_header
from policyengine.identity.verified import ProofContext
from policyengine.stores.credential_marks import MemoryMarks

NOW, URL = 1_800_000_000, "https://api.acme.example/v1/invoices/42"
ROUNDS = 15
PROOFS = 200
MAX_LIBRARY_RATIO = 1.3
TOKEN = sha256(b"token").digest()
Say = Callable[[str], None]
Key = ECKey | OKPKey | RSAKey


def proofs(say: Say) -> Section:
    keys: dict[str, Key] = {
        "ES256": ECKey.generate_key("P-256"),
        "Ed25519": OKPKey.generate_key("Ed25519"),
        "PS256": RSAKey.generate_key(2_048),
    }
    took = {}
    for alg, key in keys.items():
        say(f"proofs: {alg}")
        took[f"{alg}, a cached key"] = duel(alg, key, known=True)
        took[f"{alg}, a new key"] = duel(alg, key, known=False)
    return Section(
        "proofs",
        f"A proof of possession (RFC 9449): microseconds, the median of {ROUNDS} rounds by turns",
        ("algorithm", "library", "ours", "ratio"),
        tuple((alg, *map(format_number, one)) for alg, one in took.items()),
        tuple({"alg": alg, "library": one[0], "ours": one[1], "ratio": one[2]} for alg, one in took.items()),
        tuple(
            Target(f"a proof by {alg}, of the library's own cost", MAX_LIBRARY_RATIO, one[2])
            for alg, one in took.items()
        ),
        (
            "The library reads the key in the proof, verifies the signature and computes the thumbprint;",
            "ours also checks the key, the request, the time, the token and that the proof is used once.",
        ),
    )


def duel(alg: str, key: Key, known: bool, rounds: int = ROUNDS, size: int = PROOFS) -> tuple[float, float, float]:
    """Return microseconds of the library and of the engine, and the median of the rounds' ratios."""
    numbers, checks = count(), DpopVerifier(MemoryMarks())
    request, jkt = ProofContext("GET", URL), key.thumbprint()
    took = []

    def by_us(one: str) -> object:
        return checks.check(one, request, NOW, jkt=jkt, token=TOKEN)

    def by_us_anew(one: str) -> object:
        parse_proof_header.cache_clear()
        return by_us(one)

    for _ in range(rounds + 1):
        made = [make_proof(alg, key, next(numbers)) for _ in range(size)]
        theirs = time_checks(lambda one: verify_with_library(one, alg), made)
        ours = time_checks(by_us if known else by_us_anew, made)
        took.append((theirs, ours))
    theirs, ours = (median(one[side] for one in took[1:]) / size / 1e3 for side in (0, 1))
    return theirs, ours, median(mine / other for other, mine in took[1:])


def time_checks(check: Callable[[str], object], made: Sequence[str]) -> int:
    start = perf_counter_ns()
    for one in made:
        check(one)
    return perf_counter_ns() - start


class ProofRegistry(jws.JWSRegistry):
    max_header_length = 2_048  # with an RSA key


def verify_with_library(raw: str, alg: str) -> tuple[str, dict[str, object]]:
    """Verify a proof as users of the library do: read the key in the header, verify the signature, compute the
    thumbprint, check the claims."""
    registry = ProofRegistry(algorithms=[alg])
    found = jws.extract_compact(raw.encode(), registry=registry)
    key = JWKRegistry.import_key(found.headers()["jwk"])
    assert jws.validate_compact(found, key, registry=registry)
    return key.thumbprint(), json.loads(found.payload)


def make_proof(alg: str, key: Key, number: int) -> str:
    header = {"typ": "dpop+jwt", "alg": alg, "jwk": key.as_dict(private=False)}
    ath = urlsafe_b64encode(TOKEN).rstrip(b"=").decode()
    claims = {"jti": f"p-{number}", "htm": "GET", "htu": URL, "iat": NOW, "ath": ath}
    return jws.serialize_compact(header, json.dumps(claims), key, registry=ProofRegistry(algorithms=[alg]))

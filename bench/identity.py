"""`identity`: the cost of a bearer token that was verified before, compared with the same question with facts, and of a
new token, compared with the library that verifies it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from bench.measure import duel, fresh_questions
from bench.report import Section, Target
from bench.trial import format_number
from policyengine import Engine
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.issuer_factory import OwnKeySource
from policyengine.identity.config.model import IdentityConfig
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.keys.signing_keys import KeyRingFile, new_ring, write_ring
from policyengine.identity.shared_credentials import SharingDetector
from policyengine.identity.verified import UNBOUND
from policyengine.identity.verify.delegation_chain import create_chain_reader
from policyengine.identity.verify.tokens import TokenVerifier, trusted_issuers
from policyengine.stores.credential_marks import MemoryMarks

NOW = int(time())
URL, AUDIENCE = "https://login.acme.example", "payments-api"
POLICY = f"""language 1
package bench.identity
issuer acme {{ url "{URL}"   audience "{AUDIENCE}" }}
scope things.read as "read:things" {{ GET /v1/things/{{id}} }}
users unrestricted
agent "*" {{ issued by acme   acts for any user   may things.read }}
"""
CLAIMS: dict[str, Any] = {
    "iss": URL, "sub": "alice", "client_id": "invoice-bot", "aud": AUDIENCE, "iat": NOW - 10, "exp": NOW + 300,
    "jti": "c2a4e0f1", "scope": "read:things write:things",
}  # fmt: skip
REQUEST = {"method": "GET", "path": "/v1/things/42", "ip": "10.1.2.3"}
EXTRA_CREDENTIALS = {
    "a bearer token": {},
    "a token with a certificate": {
        "client_certificate": f"By=spiffe://acme.example/edge;Hash={'0123456789abcdef' * 4};"
        "URI=spiffe://acme.example/ns/pay/sa/bot"
    },
}
PRIVATE: dict[str, ECKey | OKPKey | RSAKey] = {}
ALGORITHMS = ("ES256", "RS256", "Ed25519")
QUESTIONS, CALLS, ROUNDS, SECONDS, DUELS = 500, 50, 40, 5.0, 9
MAX_EXTRA_MICROSECONDS, MAX_LIBRARY_RATIO = 2.0, 1.3
Say = Callable[[str], None]


@dataclass(frozen=True)
class FixedKeys:
    keys: dict[str, VerifyingKey]

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        return (self.keys[alg],)


def private_key(alg: str) -> ECKey | OKPKey | RSAKey:
    if alg not in PRIVATE:
        PRIVATE[alg] = {
            "ES256": lambda: ECKey.generate_key("P-256"),
            "RS256": lambda: RSAKey.generate_key(2048),
            "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
        }[alg]()
    return PRIVATE[alg]


def public_key(alg: str) -> VerifyingKey:
    key = private_key(alg)
    return type(key).import_key(key.as_dict(private=False))


def make_token(alg: str, subject: str = "alice") -> str:
    header = {"alg": alg, "typ": "at+jwt", "kid": alg}
    return jwt.encode(header, {**CLAIMS, "sub": subject}, private_key(alg), algorithms=[alg])


def engine(own: OwnKeySource | None = None) -> Engine:
    """Return an engine; `own` makes policyengine itself the issuer."""
    made = Engine.from_text(POLICY)
    issuers, marks = made.kernel.issuers, MemoryMarks()
    found = own or FixedKeys({alg: public_key(alg) for alg in ALGORITHMS})
    tokens = TokenVerifier(trusted_issuers(issuers, IdentityConfig(), {"acme": found}), marks)
    parts = CredentialChecks(
        tokens, create_chain_reader(issuers, IdentityConfig()), lambda *_: UNBOUND, lambda *_: None
    )
    made.identity = CredentialAuthenticator(parts, marks, sharing=SharingDetector(), own=own)
    return made


# ── One that was proved before ────────────────────────────────────────────────────────────────


def measure_own_token(say: Say) -> dict[str, Any]:
    """Measure a token that policyengine issued: the engine also checks that its signing key still exists."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "signing.json")
        write_ring(path, new_ring("ES256", NOW - 10), new=True)
        keys = KeyRingFile.of(path)
        raw = keys.sign({"typ": "at+jwt"}, CLAIMS, NOW)
        return measure_known_token("a token of our own", {}, say, engine(OwnKeySource(keys, "acme")), raw)


def measure_known_token(what: str, beside: dict[str, str], say: Say, made: Engine, raw: str) -> dict[str, Any]:
    """Measure a token that was verified before; `beside` are the other credentials of the request."""
    say(f"identity: {what} again and again")
    credentials = {"authorization": f"Bearer {raw}", **beside}
    plain = Engine.from_text(POLICY)
    presented: dict[str, Any] = {"request": REQUEST, "credentials": credentials}
    assert made.decide(presented).allowed
    assert made.identity is not None
    proved = made.identity.known(credentials, int(time()))
    assert proved is not None
    claimed = proved.facts
    assert plain.decide({"request": REQUEST, **claimed}).allowed
    ours = fresh_questions(lambda one: one, [presented] * QUESTIONS)
    facts = fresh_questions(lambda one: one, [{"request": REQUEST, **claimed}] * QUESTIONS)
    duels = [duel(made.decide, ours, plain.decide, facts, SECONDS / DUELS) for _ in range(DUELS)]
    found = sorted(duels, key=lambda one: one.ours.mean - one.floor.mean)[DUELS // 2]
    return {"what": f"{what}, verified before", "us": found.ours.mean, "beside": found.floor.mean}


# ── One that is new ───────────────────────────────────────────────────────────────────────────


def measure_new_token(alg: str, say: Say) -> dict[str, Any]:
    """Time in turns: the engine parses, verifies and maps the token to facts; the library decodes and verifies it."""
    say(f"identity: a new token signed by {alg}")
    made, key = engine(), public_key(alg)
    assert made.identity is not None
    tokens, reads = made.identity.parts.tokens, made.identity.parts.reads
    raws = [make_token(alg, f"user-{n}") for n in range(CALLS)]
    ours, library = time_in_turns([
        lambda raw: reads(tokens.verify(raw, NOW)),
        lambda raw: jwt.decode(raw, key, algorithms=[alg]),
    ], raws)  # fmt: skip
    return {"what": f"a new token, {alg}", "us": ours, "beside": library}


def time_in_turns(asks: Sequence[Callable[[str], object]], raws: Sequence[str]) -> list[float]:
    """Return microseconds per call of each, from the fastest rounds, as other load on the machine only adds time."""
    found: list[list[float]] = [[] for _ in asks]
    gc.collect()
    for _ in range(ROUNDS):
        for times, ask in zip(found, asks, strict=True):
            start = perf_counter()
            for raw in raws:
                ask(raw)
            times.append((perf_counter() - start) / len(raws) * 1e6)
    return [median(sorted(times)[: ROUNDS // 2]) for times in found]


def section(data: list[dict[str, Any]]) -> Section:
    again, new = data[: -len(ALGORITHMS)], data[-len(ALGORITHMS) :]
    more = [
        Target(f"{one['what']}, beyond facts", MAX_EXTRA_MICROSECONDS, one["us"] - one["beside"], "µs") for one in again
    ]
    return Section(
        name="identity",
        title="Raw credentials: verified before, and new",
        columns=("what", "us, µs", "beside, µs", "more, µs", "times"),
        rows=tuple(
            (
                one["what"],
                *map(format_number, (one["us"], one["beside"], one["us"] - one["beside"], one["us"] / one["beside"])),
            )
            for one in data
        ),
        data=tuple(data),
        targets=(*more, *(Target(one["what"], MAX_LIBRARY_RATIO, one["us"] / one["beside"]) for one in new)),
        notes=(
            "Verified tokens are compared with the same question with facts, new tokens with `joserfc.jwt.decode`.",
        ),
    )  # fmt: skip


def run(say: Say) -> Section:
    again = [
        measure_known_token(what, beside, say, engine(), make_token("ES256"))
        for what, beside in EXTRA_CREDENTIALS.items()
    ]
    return section([*again, measure_own_token(say), *(measure_new_token(alg, say) for alg in ALGORITHMS)])

"""Attestations (RFC 9711): an attester states which model the presenter runs, and in which environment.

An attestation is a JWT, recently signed by an `attester` of the policy, with a nonce of this server and bound to the
key that the presenter proved. Every model and environment that it names, at the top and in each submodule, must be on
the policy's list, so that an attestation that is only partly correct does not satisfy `attested by`.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.config.model import AttesterSettings, IdentityConfig, IdentityConfigError, to_seconds
from policyengine.identity.facts import to_datetime as time_of
from policyengine.identity.facts import without_none
from policyengine.identity.keys.jwks import KeySource, UnusableKeyError, import_public_key
from policyengine.identity.verified import ConfirmedKey, Seconds, VerifiedToken
from policyengine.identity.verify.claims import (
    Claims,
    claim_type_error,
    object_claim,
    text_claim,
    text_or_list_claim,
    time_claim,
)
from policyengine.identity.verify.jws import Jws, check_signature, normalize_type, read_jws
from policyengine.identity.verify.tokens import build_signed_token
from policyengine.kernel import Attester
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_NONCES = 8
MAX_SUBMODULE_DEPTH, MAX_SUBMODULES = 4, 64
CNF_MEMBERS = frozenset({"jkt", "jwk", "x5t#S256"})
DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
COSE_HASHES = {-16: "sha256", -43: "sha384", -44: "sha512"}
HEX, BASE64URL = re.compile(r"[0-9A-Fa-f]+"), re.compile(r"[A-Za-z0-9_-]+")


class ModelClaim(NamedTuple):
    """The name and the digest of a model, spelled as in policies: `sha256:9f2c…`. None means that the attestation omits
    the name or the digest."""

    id: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class TrustedAttester:
    """An attester of the policy. `audience` is the accepted `aud` of an attestation that has one."""

    attester: Attester
    settings: AttesterSettings
    keys: KeySource
    audience: str | None

    @property
    def types(self) -> frozenset[str]:
        return frozenset(map(normalize_type, self.settings.types))


@dataclass(frozen=True)
class AttestationVerifier:
    """The verifier of attestations. `attesters` is keyed by the exact text of `iss`; `leeway` is the tolerated clock
    difference in seconds."""

    attesters: Mapping[str, TrustedAttester]
    nonces: AttestationNonces
    leeway: int = 30

    def __call__(self, raw: str, token: VerifiedToken, binding: ConfirmedKey, now: Seconds) -> Mapping[str, object]:
        """Return the facts of the root `attestation`. The nonce is used up last, and only when all other checks pass.
        Raises CredentialError, StoreError."""
        try:
            return self._facts(raw, binding, now)
        except CredentialError as refused:
            if refused.refusal.value.startswith("attest"):
                raise
            raise CredentialError(refused.refusal, f"in the attestation: {refused.why}") from None

    def authentic(self, raw: str, now: Seconds) -> VerifiedToken:
        """Verify only the attester's signature, not the validity, and use up no nonce. Raises CredentialError."""
        jws = read_jws(raw)
        return build_signed_token(raw, jws, "attestation", self._signed_by(jws, now).attester.name, now)

    def _facts(self, raw: str, binding: ConfirmedKey, now: Seconds) -> Mapping[str, object]:
        jws = read_jws(raw)
        trusted = self._signed_by(jws, now)
        claims = jws.claims
        issued = check_attestation_times(claims, trusted.attester, now, self.leeway)
        check_audience(claims, trusted)
        check_key(claims, trusted, binding)
        model, environment = check_submodules(claims, trusted)
        self._take_nonce(claims, now)
        given = {"model": model.id, "model_hash": model.digest, "environment": environment}
        return {"verified": True, "by": trusted.attester.name, **without_none(given), "issued_at": time_of(issued)}

    def _signed_by(self, jws: Jws, now: Seconds) -> TrustedAttester:
        url = text_claim(jws.claims, "iss")
        trusted = None if url is None else self.attesters.get(url)
        if trusted is None:
            raise CredentialError(RefusalCode.ATTESTER)
        allowed = trusted.settings.algorithms
        if jws.alg not in allowed:
            raise CredentialError(RefusalCode.ALGORITHM)
        if jws.type not in trusted.types:
            raise CredentialError(RefusalCode.TOKEN_TYPE)
        check_signature(jws, trusted.keys.find(jws.kid, jws.alg, now), allowed)
        return trusted

    def _take_nonce(self, claims: Claims, now: Seconds) -> None:
        """Use up all nonces of the attestation, so that an attestation with two nonces is not accepted twice. Raises
        CredentialError if none of them is valid, and StoreError.
        """
        given = text_or_list_claim(claims, "eat_nonce")
        if given is None or len(given) > MAX_NONCES:
            raise CredentialError(RefusalCode.ATTESTATION_NONCE)
        if not sum(self.nonces.take(one, now) for one in set(given)):
            raise CredentialError(RefusalCode.ATTESTATION_NONCE)


def create_attestation_verifier(
    attesters: Mapping[str, Attester],
    configuration: IdentityConfig,
    keys: Mapping[str, KeySource],
    nonces: AttestationNonces,
) -> AttestationVerifier:
    """Create the verifier for the attesters of a policy that have a URL and an entry in `keys` (by name). Raises
    IdentityConfigError for settings of an attester that the policy does not declare, and for two attesters with the
    same URL, because the signer of an attestation would be ambiguous.
    """
    for name in configuration.attesters:
        if name not in attesters:
            hint = did_you_mean(name, tuple(attesters)) or 'declare it: `attester NAME { url "https://…" }`'
            raise IdentityConfigError(f"`attesters.{name}`: no policy names this attester", hint)
    found: dict[str, TrustedAttester] = {}
    for attester in attesters.values():
        if attester.url is None or attester.name not in keys:
            continue
        if attester.url in found:
            other = found[attester.url].attester.name
            raise IdentityConfigError(
                f"the attesters `{other}` and `{attester.name}` have the same URL", "keep one of them"
            )
        settings = configuration.attesters.get(attester.name, AttesterSettings())
        found[attester.url] = TrustedAttester(
            attester, settings, keys[attester.name], settings.audience or configuration.identity.url
        )
    return AttestationVerifier(found, nonces, to_seconds(configuration.identity.leeway))


# ── Required claims ───────────────────────────────────────────────────────────────────────────


def check_attestation_times(claims: Claims, attester: Attester, now: Seconds, leeway: int) -> float:
    """Return when the attestation was issued, in Unix seconds, but at most `now`. The policy counts the attestation's
    age from that time. Raises CredentialError.
    """
    issued, expires, begins = (time_claim(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        raise CredentialError(RefusalCode.MISSING_CLAIM, f"the claim `{'iat' if issued is None else 'exp'}` is missing")
    if expires <= now - leeway:
        raise CredentialError(RefusalCode.ATTESTATION_AGE, "the attestation has expired")
    if max(issued, begins or 0) > now + leeway:
        raise CredentialError(RefusalCode.ATTESTATION_AGE, "the attestation is not yet valid")
    if attester.age is not None and now - issued > attester.age.total_seconds():
        raise CredentialError(RefusalCode.ATTESTATION_AGE, "the attestation is older than the policy allows")
    return float(min(issued, now))


def check_audience(claims: Claims, trusted: TrustedAttester) -> None:
    """Check that the attestation is for this server, if it has an audience or the settings require one. Raises
    CredentialError."""
    given = text_or_list_claim(claims, "aud")
    if given is None and trusted.settings.audience is None:
        return
    if given is None or trusted.audience not in given:
        raise CredentialError(RefusalCode.AUDIENCE)


def check_key(claims: Claims, trusted: TrustedAttester, binding: ConfirmedKey) -> None:
    """Check that the attestation is bound to a key that was proved for this request, or that it is unbound and the
    settings allow that. Raises CredentialError.
    """
    cnf = object_claim(claims, "cnf")
    if cnf is None and trusted.settings.unbound:
        return
    if not cnf or not cnf.keys() <= CNF_MEMBERS:
        raise CredentialError(
            RefusalCode.ATTESTATION_KEY, "the attestation is bound to a kind of key that cannot be proved"
        )
    named = [(text_claim(cnf, "jkt"), binding.jkt), (text_claim(cnf, "x5t#S256"), binding.x5t)]
    if "jwk" in cnf:
        named.append((cnf_thumbprint(cnf), binding.jkt))
    if any(wanted is not None and wanted != proved for wanted, proved in named):
        raise CredentialError(RefusalCode.ATTESTATION_KEY)


def cnf_thumbprint(cnf: Claims) -> str:
    """Return the RFC 7638 thumbprint of `cnf.jwk`. Raises CredentialError."""
    jwk = object_claim(cnf, "jwk") or {}
    try:
        if "d" not in jwk:
            return import_public_key(jwk).thumbprint()
    except UnusableKeyError:
        pass
    raise CredentialError(RefusalCode.ATTESTATION_KEY, "the attestation names a key that is not a valid public key")


def check_submodules(claims: Claims, trusted: TrustedAttester) -> tuple[ModelClaim, str | None]:
    """Return the model and environment of the whole attestation, after checking all submodules against the policy's
    lists. Raises CredentialError.
    """
    attester, name = trusted.attester, trusted.settings.environment
    model, environment = parse_model_claim(claims), text_claim(claims, name)
    check_model(model, attester)
    check_environment(environment, attester)
    for submodule in iterate_submodules(claims):
        if (inner := parse_model_claim(submodule)) != ModelClaim():
            check_model(inner, attester)
        if (inside := text_claim(submodule, name)) is not None:
            check_environment(inside, attester)
    return model, environment


def check_model(model: ModelClaim, attester: Attester) -> None:
    listed: Sequence[tuple[str, str | None]] = attester.models
    if listed and not any(model.id == name and digest in (None, model.digest) for name, digest in listed):
        raise CredentialError(RefusalCode.ATTESTED_MODEL)


def check_environment(environment: str | None, attester: Attester) -> None:
    if attester.environments and environment not in attester.environments:
        raise CredentialError(RefusalCode.ATTESTED_ENVIRONMENT)


def iterate_submodules(claims: Claims) -> Iterator[Claims]:
    """Yield all nested submodules. A submodule that is itself a token, or the digest of a detached submodule, is
    refused, because its models are not visible here. Raises CredentialError.
    """
    waiting: list[tuple[Claims, int]] = [(claims, 0)]
    many = 0
    while waiting:
        outer, depth = waiting.pop()
        for submodule in (object_claim(outer, "submods") or {}).values():
            many += 1
            if depth == MAX_SUBMODULE_DEPTH or many > MAX_SUBMODULES:
                raise CredentialError(
                    RefusalCode.TOO_DEEP if depth == MAX_SUBMODULE_DEPTH else RefusalCode.TOO_LARGE,
                    "there are too many submodules, or they are nested too deeply",
                )
            if not isinstance(submodule, Mapping):
                raise CredentialError(
                    RefusalCode.ATTESTATION, "the attestation has a submodule that is not a set of claims"
                )
            yield submodule
            waiting.append((submodule, depth + 1))


# ── Models ─────────────────────────────────────────────────────────────────────────────────────


def parse_model_claim(claims: Claims) -> ModelClaim:
    """Parse `ai_model_id` and `ai_model_hash`; the hash is an object `{alg, hash}` or a string `alg:hash`. Raises
    CredentialError."""
    name = text_claim(claims, "ai_model_id")
    match claims.get("ai_model_hash"):
        case None if "ai_model_hash" not in claims:
            return ModelClaim(name)
        case str(given) if ":" in given:
            alg, _, digest = given.partition(":")
            return ModelClaim(name, canonical_digest(alg, digest))
        case {"alg": str() | int() as alg, "hash": str(digest), **rest} if not rest:
            return ModelClaim(name, canonical_digest(alg, digest))
        case _:
            raise claim_type_error("ai_model_hash", "hash")


def canonical_digest(alg: str | int, digest: str) -> str:
    """Return the digest as `alg:hex`. The input may be hexadecimal or base64url, which differ in length. Raises
    CredentialError.
    """
    name = COSE_HASHES.get(alg) if isinstance(alg, int) else alg.lower().replace("-", "")
    if name not in DIGEST_BYTES:
        raise CredentialError(RefusalCode.ALGORITHM, "the hash of the model uses an algorithm that is not allowed")
    return f"{name}:{decode_digest(digest, DIGEST_BYTES[name]).hex()}"


def decode_digest(digest: str, size: int) -> bytes:
    if len(digest) == 2 * size and HEX.fullmatch(digest):
        return bytes.fromhex(digest)
    try:
        found = b64decode(digest + "=" * (-len(digest) % 4), b"-_") if BASE64URL.fullmatch(digest) else b""
    except binascii.Error:
        found = b""
    if len(found) != size:
        raise claim_type_error("ai_model_hash", "hash with the length of its algorithm")
    return found

"""Attestations: by the word of an attester, which model whoever presents it runs, and in which environment (RFC 9711).

An attestation is a JWT that an `attester` of the policy signed lately, for a nonce of ours and for the key that the
presenter proved to have. What it says of models and environments, at the top and in each submodule, has to be what the
policy lists, so that no requirement `attested by` is met by half of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from policyengine.identity.attested_models import Model, model_of
from policyengine.identity.config.model import AttesterSettings, Configuration, IdentityError, in_seconds
from policyengine.identity.facts import moment as time_of
from policyengine.identity.facts import said
from policyengine.identity.keys.jwks import KeySource, Unusable, key_of
from policyengine.identity.nonces import AttestationNonces
from policyengine.identity.verified import Binding, Seconds, Token
from policyengine.identity.verify.claims import Claims, members, moment, one_or_more, text
from policyengine.identity.verify.jws import Jws, check_signature, plain_type, read_jws
from policyengine.identity.verify.tokens import signed_token
from policyengine.kernel import Attester
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.structure_checks import did_you_mean

MOST_NONCES = 8
DEEPEST, MOST_SUBMODULES = 4, 64
KEYS_OF_CNF = frozenset({"jkt", "jwk", "x5t#S256"})


@dataclass(frozen=True, slots=True)
class Trusted:
    """An attester of the policy. `audience`: for whom its attestations may be, where they say it."""

    attester: Attester
    settings: AttesterSettings
    keys: KeySource
    audience: str | None

    @property
    def types(self) -> frozenset[str]:
        return frozenset(map(plain_type, self.settings.types))


@dataclass(frozen=True)
class Attesting:
    """`attesters` by the exact text of `iss`. `leeway` in seconds: by how much their clocks may differ."""

    attesters: Mapping[str, Trusted]
    nonces: AttestationNonces
    leeway: int = 30

    def __call__(self, raw: str, token: Token, binding: Binding, now: Seconds) -> Mapping[str, object]:
        """The root `attestation` of the facts. The nonce is taken where all else is right, and only then. Raises
        Refused, StoreError."""
        try:
            return self._facts(raw, binding, now)
        except Refused as refused:
            if refused.refusal.value.startswith("attest"):
                raise
            raise Refused(refused.refusal, f"of the attestation: {refused.why}") from None

    def authentic(self, raw: str, now: Seconds) -> Token:
        """What its attester signed, whether it holds or not. It uses nothing up. Raises Refused."""
        jws = read_jws(raw)
        return signed_token(raw, jws, "attestation", self._signed_by(jws, now).attester.name, now)

    def _facts(self, raw: str, binding: Binding, now: Seconds) -> Mapping[str, object]:
        jws = read_jws(raw)
        trusted = self._signed_by(jws, now)
        claims = jws.claims
        issued = check_times(claims, trusted.attester, now, self.leeway)
        check_audience(claims, trusted)
        check_key(claims, trusted, binding)
        model, environment = check_modules(claims, trusted)
        self._take_nonce(claims, now)
        given = {"model": model.id, "model_hash": model.digest, "environment": environment}
        return {"verified": True, "by": trusted.attester.name, **said(given), "issued_at": time_of(issued)}

    def _signed_by(self, jws: Jws, now: Seconds) -> Trusted:
        url = text(jws.claims, "iss")
        trusted = None if url is None else self.attesters.get(url)
        if trusted is None:
            raise Refused(Refusal.ATTESTER)
        allowed = trusted.settings.algorithms
        if jws.alg not in allowed:
            raise Refused(Refusal.ALGORITHM)
        if jws.type not in trusted.types:
            raise Refused(Refusal.TOKEN_TYPE)
        check_signature(jws, trusted.keys.find(jws.kid, jws.alg, now), allowed)
        return trusted

    def _take_nonce(self, claims: Claims, now: Seconds) -> None:
        """All of them are taken, so that an attestation of two is not good twice."""
        given = one_or_more(claims, "eat_nonce")
        if given is None or len(given) > MOST_NONCES:
            raise Refused(Refusal.ATTESTATION_NONCE)
        if not sum(self.nonces.take(one, now) for one in set(given)):
            raise Refused(Refusal.ATTESTATION_NONCE)


def attesting(
    attesters: Mapping[str, Attester],
    configuration: Configuration,
    keys: Mapping[str, KeySource],
    nonces: AttestationNonces,
) -> Attesting:
    """For the attesters of a policy that have a URL and, by name, keys. Raises IdentityError for settings of one that
    no policy names, and for two by one URL: nobody could tell whose word it is."""
    for name in configuration.attesters:
        if name not in attesters:
            hint = did_you_mean(name, tuple(attesters)) or 'declare it: `attester NAME { url "https://…" }`'
            raise IdentityError(f"`attesters.{name}`: no policy names this attester", hint)
    found: dict[str, Trusted] = {}
    for one in attesters.values():
        if one.url is None or one.name not in keys:
            continue
        if one.url in found:
            other = found[one.url].attester.name
            raise IdentityError(f"the attesters `{other}` and `{one.name}` have the same URL", "keep one of them")
        settings = configuration.attesters.get(one.name, AttesterSettings())
        found[one.url] = Trusted(one, settings, keys[one.name], settings.audience or configuration.identity.url)
    return Attesting(found, nonces, in_seconds(configuration.identity.leeway))


# ── What it has to say ────────────────────────────────────────────────────────────────────────


def check_times(claims: Claims, attester: Attester, now: Seconds, leeway: int) -> float:
    """When it was issued: never later than now, as the policy counts its age from then. Raises Refused."""
    issued, expires, begins = (moment(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        raise Refused(Refusal.MISSING_CLAIM, f"it has no `{'iat' if issued is None else 'exp'}`")
    if expires <= now - leeway:
        raise Refused(Refusal.ATTESTATION_AGE, "the attestation has expired")
    if max(issued, begins or 0) > now + leeway:
        raise Refused(Refusal.ATTESTATION_AGE, "the attestation is of the future")
    if attester.age is not None and now - issued > attester.age.total_seconds():
        raise Refused(Refusal.ATTESTATION_AGE, "the attestation is older than the policy says")
    return float(min(issued, now))


def check_audience(claims: Claims, trusted: Trusted) -> None:
    """Where it says for whom it is, or has to, it is for us. Raises Refused."""
    given = one_or_more(claims, "aud")
    if given is None and trusted.settings.audience is None:
        return
    if given is None or trusted.audience not in given:
        raise Refused(Refusal.AUDIENCE)


def check_key(claims: Claims, trusted: Trusted, binding: Binding) -> None:
    """It is of the key that was proved for this request. Raises Refused."""
    cnf = members(claims, "cnf")
    if cnf is None and trusted.settings.unbound:
        return
    if not cnf or not cnf.keys() <= KEYS_OF_CNF:
        raise Refused(Refusal.ATTESTATION_KEY, "the attestation is bound to no key that could be proved")
    named = [(text(cnf, "jkt"), binding.jkt), (text(cnf, "x5t#S256"), binding.x5t)]
    if "jwk" in cnf:
        named.append((thumbprint(cnf), binding.jkt))
    if any(wanted is not None and wanted != proved for wanted, proved in named):
        raise Refused(Refusal.ATTESTATION_KEY)


def thumbprint(cnf: Claims) -> str:
    """Raises Refused."""
    jwk = members(cnf, "jwk") or {}
    try:
        if "d" not in jwk:
            return key_of(jwk).thumbprint()
    except Unusable:
        pass
    raise Refused(Refusal.ATTESTATION_KEY, "the attestation names a key that is none")


def check_modules(claims: Claims, trusted: Trusted) -> tuple[Model, str | None]:
    """Model and environment of the whole; those of submodules have to be allowed, too. Raises Refused."""
    attester, name = trusted.attester, trusted.settings.environment
    model, environment = model_of(claims), text(claims, name)
    check_model(model, attester)
    check_environment(environment, attester)
    for one in submodules(claims):
        if (inner := model_of(one)) != Model():
            check_model(inner, attester)
        if (inside := text(one, name)) is not None:
            check_environment(inside, attester)
    return model, environment


def check_model(model: Model, attester: Attester) -> None:
    listed: Sequence[tuple[str, str | None]] = attester.models
    if listed and not any(model.id == name and digest in (None, model.digest) for name, digest in listed):
        raise Refused(Refusal.ATTESTED_MODEL)


def check_environment(environment: str | None, attester: Attester) -> None:
    if attester.environments and environment not in attester.environments:
        raise Refused(Refusal.ATTESTED_ENVIRONMENT)


def submodules(claims: Claims) -> Iterator[Claims]:
    """All of them, at whatever depth. One that is a token of its own, or a digest of one that is elsewhere, is refused:
    nobody here could say which models are in it. Raises Refused."""
    waiting: list[tuple[Claims, int]] = [(claims, 0)]
    many = 0
    while waiting:
        outer, depth = waiting.pop()
        for one in (members(outer, "submods") or {}).values():
            many += 1
            if depth == DEEPEST or many > MOST_SUBMODULES:
                raise Refused(Refusal.TOO_DEEP if depth == DEEPEST else Refusal.TOO_LARGE, "it has too many submodules")
            if not isinstance(one, Mapping):
                raise Refused(Refusal.ATTESTATION, "the attestation has a submodule that is not told in claims")
            yield one
            waiting.append((one, depth + 1))

"""What each setting of `identity.toml` is, in one line: for the table in docs/identity.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import get_origin

from pydantic.fields import FieldInfo

from policyengine.identity.config.errors import section_of_annotation
from policyengine.identity.config.model import IdentityConfig

KEYS = "a file or URL of its keys (JWKS), before what the policy says; without, `url` is asked by OpenID discovery"
ALGORITHMS = "by which its tokens may be signed"
CA = "a file of certificates (PEM) by which its server is trusted, in place of the system's"
SETTING_TEXTS: Mapping[str, str] = {
    "identity.url": "where clients find this server: ID-JAGs and attestations are for that",
    "identity.hosts": "by which clients reach what is decided here: proofs and signatures count for these alone",
    "identity.leeway": "by how much the clocks of issuers and attesters may differ from this one",
    "identity.timeout": "how long an issuer is waited for",
    "identity.only_proved": "what a gateway says of who asks counts for nothing; without a credential nobody is known",
    "identity.proxy": "by which issuers are asked that are not on this machine; that of the environment never is",
    "issuers.NAME.keys": KEYS,
    "issuers.NAME.algorithms": ALGORITHMS,
    "issuers.NAME.types": "which `typ` tokens may have; ID tokens and ID-JAGs only where they are named here",
    "issuers.NAME.cache": "how long keys are kept where the issuer does not say",
    "issuers.NAME.stale": "for how much longer they count while it cannot be asked",
    "issuers.NAME.introspection": "a URL at which opaque tokens are asked for",
    "issuers.NAME.introspection_cache": "how long its answer counts at most",
    "issuers.NAME.token_prefix": "what its opaque tokens begin with, where several issuers have such",
    "issuers.NAME.client_id": "who we are there",
    "issuers.NAME.client_auth": "how we prove that there",
    "issuers.NAME.client_secret": "a reference to our secret there",
    "issuers.NAME.client_key": "a reference to our private key there, for `private_key_jwt`",
    "issuers.NAME.ca": CA,
    "issuers.NAME.plain_http": "it may be asked over `http://`, also on another machine",
    "issuers.NAME.agent": "the claim that names the agent",
    "issuers.NAME.people": "clients that are no agents, but ways by which people ask for themselves",
    "issuers.NAME.alone": "claims, and what they say where an agent (`{agent}`) acts for nobody, whatever `sub` is",
    "issuers.NAME.user": "the claim that names whom an agent acts for; a person whom it does not name is refused",
    "attesters.NAME.keys": KEYS,
    "attesters.NAME.algorithms": "by which its attestations may be signed",
    "attesters.NAME.types": "which `typ` an attestation may have",
    "attesters.NAME.audience": "for whom it has to be; without, one that says it has to be for `url` of `[identity]`",
    "attesters.NAME.unbound": "one that names no key counts, too, whoever presents it",
    "attesters.NAME.environment": "the claim that names the environment",
    "attesters.NAME.ca": CA,
    "dpop.window": "how long a proof is good for; it is good once",
    "dpop.nonces": "whether each proof needs a nonce of ours",
    "dpop.nonce_lifetime": "how long that is good for",
    "dpop.nonce_key": "a reference to what servers share that take each other's nonces, also those of attestations: "
    "32 characters or more",
    "signatures.components": "what a signature has to cover",
    "signatures.window": "how long one is good for, from its `created`",
    "signatures.nonce": "whether each needs a nonce, and is good once",
    "signatures.directories": "files of keys in place of the directories of issuers, by their names in the policy",
    "trust_domains.NAME.bundle": "a file of those it trusts: PEM, or a SPIFFE bundle",
    "trust_domains.NAME.verified_by_gateway": "the gateway has verified its certificates, in place of a bundle",
    "api_keys.file": "static keys: `ISSUER/AGENT: sha256:…` in each line",
    "sharing.window": "how long it is remembered from where a credential came",
    "sharing.ipv4": "addresses that have so many bits in common are one place",
    "sharing.ipv6": "the same of IPv6",
    "bao.address": "OpenBao or Vault, which keeps secrets",
    "bao.token": "a reference to its own token: a file or a variable",
    "bao.ca": CA,
    "bao.plain_http": "it may be asked over `http://`, also on another machine",
    "bao.namespace": "the namespace there",
    "bao.timeout": "how long it is waited for",
    "bao.refresh": "how long what it said counts",
    "bao.stale": "how old that may become while it is down",
    "signing.keys": "a file of `policyengine keys`, or `bao-transit:mount/key`",
    "signing.issuer": "the issuer of the policy that we are",
    "signing.audiences": "whom tokens may be for, beside its `audience`",
    "signing.lifetime": "the longest that a token lasts; at most a day",
    "signing.ahead": "how long a version of a key in OpenBao is published before it signs",
    "clients.NAME.agent": "which agent of the policy it is",
    "clients.NAME.issuer": "of which issuer",
    "clients.NAME.method": "how it proves that",
    "clients.NAME.keys": "a file of its public keys (JWKS), for `private_key_jwt` and `dpop`",
    "clients.NAME.certificates": "the SHA-256 of its certificates, as `x5t#S256` has it, for `mtls`",
}


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """`name`: `issuers.NAME.keys`; `default` as it would be written."""

    name: str
    words: str
    default: str

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]


def setting_docs() -> Iterator[SettingDoc]:
    """All there are, in the order of the file."""
    for section, field in IdentityConfig.model_fields.items():
        model = section_of_annotation(field.annotation)
        if model is not None:
            place = f"{section}.NAME" if has_named_sections(field) else section
            yield from (setting_doc(f"{place}.{key}", one) for key, one in model.model_fields.items())


def has_named_sections(field: FieldInfo) -> bool:
    """Whether each of such sections has a name: `[issuers.login]`."""
    return get_origin(field.annotation) is Mapping


def setting_doc(name: str, field: FieldInfo) -> SettingDoc:
    default = "has to be there" if field.is_required() else format_default(field.get_default(call_default_factory=True))
    return SettingDoc(name, SETTING_TEXTS.get(name, ""), default)


def format_default(value: object) -> str:
    match value:
        case None | "" | () | {}:
            return "none"
        case bool():
            return str(value).lower()
        case timedelta():
            return format_seconds(value)
        case tuple():
            return ", ".join(f"`{one}`" for one in value)
        case int():
            return str(value)
        case _:
            return f"`{value}`"


def format_seconds(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    unit, many = next((unit, many) for unit, many in (("h", 3_600), ("m", 60), ("s", 1)) if seconds % many == 0)
    return f"{seconds // many}{unit}"

"""`identity.toml`: where keys come from and what is asked of credentials, beside the issuers that policies name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from policyengine.identity.config.secret_references import LocalSecretReference, SecretReference, SigningKeysReference
from policyengine.identity.url_compare import url_authority
from policyengine.settings.mistakes import first_mistake
from policyengine.settings.section import SECRET, SettingsSection
from policyengine.settings.toml_file import SettingsError, SettingsFile, read_settings_file
from policyengine.trusted_files import UntrustedPathError

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|m|h|d)")
# Those whose keys anybody may have, or that are too weak, are in no list: `none`, HS…, RS1, ES256K.
Algorithm: TypeAlias = Literal[
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"
]
SAFE_ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


class IdentityError(Exception):
    """Identity cannot be set up: what is wrong, and what to do; `detail` shows the line of the file."""

    def __init__(self, message: str, hint: str | None = None, detail: str = "") -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint, self.detail = message, hint, detail


def parse_duration(raw: object) -> object:
    found = DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise ValueError("write a time like `30s`, `5m`, `1h`")
    return timedelta(seconds=int(found["number"]) * SECONDS_PER_UNIT[found["unit"]])


def to_seconds(lasts: timedelta) -> int:
    return int(lasts.total_seconds())


Duration: TypeAlias = Annotated[timedelta, BeforeValidator(parse_duration)]
MAX_TOKEN_LIFETIME = timedelta(days=1)


def check_lifetime(lasts: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= lasts <= MAX_TOKEN_LIFETIME:
        raise ValueError("a token lasts at least a second and at most a day")
    return lasts


def check_authority(text: str) -> str:
    if url_authority(f"https://{text}/") != text or text.endswith("."):
        raise ValueError(
            "write a host in lower case, with its port where it has one of its own: `api.acme.example:8443`"
        )
    return text


def check_absolute_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write a URL: `https://agents.acme.example`")
    return url


KEYS = "a file or URL of its keys (JWKS), before what the policy says; without, `url` is asked by OpenID discovery"
ALGORITHMS = "by which its tokens may be signed"
CA = "a file of certificates (PEM) by which its server is trusted, in place of the system's"


class GeneralSettings(SettingsSection):
    """`[identity]`: this server, and how it asks others. What we issue is by the `url` of the issuer that we are, and
    proofs to `/token` are for that. Hosts have their port where the gateway says it; without any, proofs count for
    every host."""

    url: Annotated[str, AfterValidator(check_absolute_url)] | None = Field(
        default=None, description="where clients find this server: ID-JAGs and attestations are for that"
    )
    hosts: tuple[Annotated[str, AfterValidator(check_authority)], ...] = Field(
        default=(),
        description="by which clients reach what is decided here: proofs and signatures count for these alone",
    )
    leeway: Duration = Field(
        default=timedelta(seconds=30),
        le=timedelta(minutes=5),
        description="by how much the clocks of issuers and attesters may differ from this one",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=2),
        ge=timedelta(milliseconds=100),
        le=timedelta(seconds=30),
        description="how long an issuer is waited for",
    )
    only_proved: bool = Field(
        default=False,
        description="what a gateway says of who asks counts for nothing; without a credential nobody is known",
    )
    proxy: Annotated[str, SECRET] | None = Field(
        default=None,
        description="by which issuers are asked that are not on this machine; that of the environment never is",
    )


class IssuerSettings(SettingsSection):
    """`[issuers.NAME]`: an issuer that the policy names. Keys are cached for as long as the issuer says, within bounds.
    For `user` take no claim that people choose for themselves."""

    belongs_elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("url", "audience", "claims", "scopes", "records", "records_chains"),
        "the policy says that, in `issuer {name} {{ … }}`",
    )

    keys: str | None = Field(default=None, description=KEYS)
    algorithms: tuple[Algorithm, ...] = Field(default=SAFE_ALGORITHMS, description=ALGORITHMS)
    types: tuple[str, ...] = Field(
        default=("at+jwt", "application/at+jwt", "jwt"),
        description="which `typ` tokens may have; ID tokens and ID-JAGs only where they are named here",
    )
    cache: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=10),
        le=timedelta(days=1),
        description="how long keys are kept where the issuer does not say",
    )
    stale: Duration = Field(
        default=timedelta(hours=1),
        le=timedelta(days=7),
        description="for how much longer they count while it cannot be asked",
    )
    introspection: str | None = Field(default=None, description="a URL at which opaque tokens are asked for")
    introspection_cache: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="how long its answer counts at most",
    )
    token_prefix: str = Field(
        default="", description="what its opaque tokens begin with, where several issuers have such"
    )
    client_id: str | None = Field(default=None, description="who we are there")
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt"] = Field(
        default="client_secret_basic", description="how we prove that there"
    )
    client_secret: SecretReference | None = Field(default=None, description="a reference to our secret there")
    client_key: SecretReference | None = Field(
        default=None, description="a reference to our private key there, for `private_key_jwt`"
    )
    ca: Path | None = Field(default=None, description=CA)
    plain_http: bool = Field(default=False, description="it may be asked over `http://`, also on another machine")
    agent: str = Field(default="client_id", description="the claim that names the agent")
    people: tuple[str, ...] = Field(
        default=(), description="clients that are no agents, but ways by which people ask for themselves"
    )
    alone: Mapping[str, str] = Field(
        default_factory=dict,
        description="claims, and what they say where an agent (`{agent}`) acts for nobody, whatever `sub` is",
    )
    user: Annotated[str, Field(min_length=1)] = Field(
        default="sub",
        description="the claim that names whom an agent acts for; a person whom it does not name is refused",
    )


class AttesterSettings(SettingsSection):
    """`[attesters.NAME]`: an attester that the policy names."""

    belongs_elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("url", "age", "model", "models", "environments"), "the policy says that, in `attester {name} {{ … }}`"
    )

    keys: str | None = Field(default=None, description=KEYS)
    algorithms: tuple[Algorithm, ...] = Field(
        default=SAFE_ALGORITHMS, description="by which its attestations may be signed"
    )
    types: tuple[str, ...] = Field(
        default=("eat+jwt", "application/eat+jwt"), description="which `typ` an attestation may have"
    )
    audience: str | None = Field(
        default=None, description="for whom it has to be; without, one that says it has to be for `url` of `[identity]`"
    )
    unbound: bool = Field(default=False, description="one that names no key counts, too, whoever presents it")
    environment: Annotated[str, Field(min_length=1)] = Field(
        default="environment", description="the claim that names the environment"
    )
    ca: Path | None = Field(default=None, description=CA)


class DpopSettings(SettingsSection):
    """`[dpop]`: proofs of possession. Without `nonce_key` a nonce counts in this process and those forked of it."""

    window: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="how long a proof is good for; it is good once",
    )
    nonces: bool = Field(default=False, description="whether each proof needs a nonce of ours")
    nonce_lifetime: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="how long that is good for",
    )
    nonce_key: SecretReference | None = Field(
        default=None,
        description="a reference to what servers share that take each other's nonces, "
        "also those of attestations: 32 characters or more",
    )


class SignatureSettings(SettingsSection):
    """`[signatures]`: signed requests."""

    components: tuple[str, ...] = Field(
        default=("@method", "@authority", "@target-uri"), description="what a signature has to cover"
    )
    window: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="how long one is good for, from its `created`",
    )
    nonce: bool = Field(default=True, description="whether each needs a nonce, and is good once")
    directories: Mapping[str, Path] = Field(
        default_factory=dict,
        description="files of keys in place of the directories of issuers, by their names in the policy",
    )


class TrustDomainSettings(SettingsSection):
    """`[trust_domains.NAME]`: a SPIFFE trust domain whose workloads ask with their certificates alone."""

    bundle: Path | None = Field(default=None, description="a file of those it trusts: PEM, or a SPIFFE bundle")
    verified_by_gateway: bool = Field(
        default=False, description="the gateway has verified its certificates, in place of a bundle"
    )

    @model_validator(mode="after")
    def one_of_both(self) -> TrustDomainSettings:
        if (self.bundle is None) != self.verified_by_gateway:
            raise ValueError("it has either a `bundle` or `verified_by_gateway = true`")
        return self


class ApiKeySettings(SettingsSection):
    """`[api_keys]`: a file of static keys."""

    file: Path = Field(description="static keys: `ISSUER/AGENT: sha256:…` in each line")


class SharingSettings(SettingsSection):
    """`[sharing]`: when a credential counts as shared: used within `window` from networks with other leading bits."""

    window: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(seconds=1),
        description="how long it is remembered from where a credential came",
    )
    ipv4: Annotated[int, Field(ge=1, le=32)] = Field(
        default=24, description="addresses that have so many bits in common are one place"
    )
    ipv6: Annotated[int, Field(ge=1, le=128)] = Field(default=48, description="the same of IPv6")


class OpenBaoSettings(SettingsSection):
    """`[bao]`: OpenBao or Vault, which holds secrets."""

    address: str = Field(description="OpenBao or Vault, which keeps secrets")
    token: LocalSecretReference = Field(description="a reference to its own token: a file or a variable")
    ca: Path | None = Field(default=None, description=CA)
    plain_http: bool = Field(default=False, description="it may be asked over `http://`, also on another machine")
    namespace: str | None = Field(default=None, description="the namespace there")
    timeout: Duration = Field(
        default=timedelta(seconds=2),
        ge=timedelta(milliseconds=10),
        le=timedelta(seconds=30),
        description="how long it is waited for",
    )
    refresh: Duration = Field(default=timedelta(minutes=5), description="how long what it said counts")
    stale: Duration = Field(default=timedelta(hours=1), description="how old that may become while it is down")


class SigningSettings(SettingsSection):
    """`[signing]`: tokens of our own. The `url` of `issuer` issues them, and its `audience` is whom they are for."""

    keys: SigningKeysReference = Field(description="a file of `policyengine keys`, or `bao-transit:mount/key`")
    issuer: str = Field(description="the issuer of the policy that we are")
    audiences: tuple[str, ...] = Field(default=(), description="whom tokens may be for, beside its `audience`")
    lifetime: Annotated[Duration, AfterValidator(check_lifetime)] = Field(
        default=timedelta(minutes=15), description="the longest that a token lasts; at most a day"
    )
    ahead: Duration = Field(
        default=timedelta(minutes=10), description="how long a version of a key in OpenBao is published before it signs"
    )


def check_thumbprint(raw: str) -> str:
    if not THUMBPRINT.fullmatch(raw):
        raise ValueError("write the SHA-256 of a certificate in base64url, 43 characters, as `x5t#S256` has it")
    return raw


class ClientSettings(SettingsSection):
    """`[clients.NAME]`: an agent that may ask for tokens, by the id that it says it has."""

    agent: str = Field(description="which agent of the policy it is")
    issuer: str = Field(description="of which issuer")
    method: Literal["private_key_jwt", "mtls", "dpop", "token"] = Field(description="how it proves that")
    keys: Path | None = Field(
        default=None, description="a file of its public keys (JWKS), for `private_key_jwt` and `dpop`"
    )
    certificates: tuple[Annotated[str, AfterValidator(check_thumbprint)], ...] = Field(
        default=(), description="the SHA-256 of its certificates, as `x5t#S256` has it, for `mtls`"
    )

    @model_validator(mode="after")
    def proves_it(self) -> Self:
        if self.method == "mtls" and not self.certificates:
            raise ValueError("`certificates` says by which certificates it is known")
        if self.method in ("private_key_jwt", "dpop") and self.keys is None:
            raise ValueError("`keys` says in which file its public keys are")
        return self


class IdentityConfig(SettingsSection):
    """The whole file. Paths in it begin where it lies."""

    hides_unknown: ClassVar[bool] = True

    identity: GeneralSettings = Field(default_factory=GeneralSettings)
    issuers: Mapping[str, IssuerSettings] = Field(default_factory=dict)
    attesters: Mapping[str, AttesterSettings] = Field(default_factory=dict)
    dpop: DpopSettings = Field(default_factory=DpopSettings)
    signatures: SignatureSettings | None = None
    trust_domains: Mapping[str, TrustDomainSettings] = Field(default_factory=dict)
    api_keys: ApiKeySettings | None = None
    sharing: SharingSettings = Field(default_factory=SharingSettings)
    bao: OpenBaoSettings | None = None
    signing: SigningSettings | None = None
    clients: Mapping[str, ClientSettings] = Field(default_factory=dict)
    folder: Path = Field(default=Path(), exclude=True)


def read_identity_config(path: Path | str) -> IdentityConfig:
    """Raises IdentityError."""
    name = str(path)
    try:
        file = read_settings_file(path, name)
        return parse_identity_config(file.data(), Path(path).parent, name, file)
    except UntrustedPathError as error:
        raise IdentityError(error.message, error.hint) from None
    except OSError as error:
        raise IdentityError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except SettingsError as error:
        raise IdentityError(error.message, error.hint, error.detail) from None


def parse_identity_config(
    data: Mapping[str, object], folder: Path = Path(), name: str = "identity.toml", file: SettingsFile | None = None
) -> IdentityConfig:
    """Raises IdentityError, which names the setting and never a value that may be a secret; with a file also its
    place."""
    text = file or SettingsFile(name, "")
    try:
        if "folder" in data:  # a field that the file has not
            raise SettingsError(f"`{name}`: unknown section `folder`", None)
        return IdentityConfig.model_validate({**data, "folder": folder})
    except ValidationError as error:
        mistake = first_mistake(error, IdentityConfig, text.place)
        found = text.error(mistake.message, mistake.hint, mistake.path, secret=mistake.secret)
    except SettingsError as error:
        found = error
    raise IdentityError(found.message, found.hint, found.detail if file else "")

"""`identity.toml`: where keys come from and what is asked of credentials, beside the issuers that policies name."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_stream
from policyengine.identity.config.errors import describe_validation_error
from policyengine.identity.config.secret_references import LocalSecretReference, SecretReference, SigningKeysReference
from policyengine.identity.url_compare import url_authority
from policyengine.trusted_files import UntrustedPathError, open_trusted

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|m|h|d)")
# Those whose keys anybody may have, or that are too weak, are in no list: `none`, HS…, RS1, ES256K.
Algorithm: TypeAlias = Literal[
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"
]
SAFE_ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


class IdentityError(Exception):
    """Identity cannot be set up: what is wrong, and what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint = message, hint


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


class ConfigSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GeneralSettings(ConfigSection):
    """`url`: where clients find this server: whom ID-JAGs and attestations are for. (What we issue is by the `url` of
    the issuer that we are, and proofs to `/token` are for that.) `hosts`: by which clients reach what is decided here,
    with the port where the gateway says it: what a presenter signed counts for these alone; none: for any. `proxy`: by
    which issuers are asked that are not on this machine; that of the environment never is."""

    url: Annotated[str, AfterValidator(check_absolute_url)] | None = None
    hosts: tuple[Annotated[str, AfterValidator(check_authority)], ...] = ()
    leeway: Duration = Field(default=timedelta(seconds=30), le=timedelta(minutes=5))
    timeout: Duration = Field(default=timedelta(seconds=2), ge=timedelta(milliseconds=100), le=timedelta(seconds=30))
    only_proved: bool = False
    proxy: str | None = None


class IssuerSettings(ConfigSection):
    """Of an issuer that the policy names, by that name. `keys`: a file or URL of a JWKS, which goes before what the
    policy says; without, `url` is asked by OpenID discovery. They are kept for as long as the issuer says, within
    bounds, or for `cache`; for `stale` longer while it cannot be asked. `ca`: a file of certificates by which its
    server is trusted, in place of the system's. `plain_http`: it may be asked over `http://`, also on another machine.

    `introspection`: a URL at which opaque tokens are asked for, those that begin with `token_prefix`, as `client_id` by
    a secret or, with `client_auth = "private_key_jwt"`, by a key: references both. What it says counts for
    `introspection_cache` at most. `agent`: the claim that names the agent. `types`: which `typ` tokens may have; ID
    tokens only with `id_token`, ID-JAGs only with `oauth-id-jag+jwt`. `people`: clients that are no agents, but the
    ways by which people ask for themselves. `alone`: claims, and what they say where an agent acts for nobody, whatever
    `sub` is then; `{agent}` stands for its name. `user`: the claim that names whom an agent acts for; a person whom it
    does not name is refused. Take none that people choose for themselves."""

    keys: str | None = None
    algorithms: tuple[Algorithm, ...] = SAFE_ALGORITHMS
    types: tuple[str, ...] = ("at+jwt", "application/at+jwt", "jwt")
    cache: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=10), le=timedelta(days=1))
    stale: Duration = Field(default=timedelta(hours=1), le=timedelta(days=7))
    introspection: str | None = None
    introspection_cache: Duration = Field(
        default=timedelta(seconds=60), ge=timedelta(seconds=1), le=timedelta(minutes=10)
    )
    token_prefix: str = ""
    client_id: str | None = None
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt"] = "client_secret_basic"
    client_secret: SecretReference | None = None
    client_key: SecretReference | None = None
    ca: Path | None = None
    plain_http: bool = False
    agent: str = "client_id"
    people: tuple[str, ...] = ()
    alone: Mapping[str, str] = Field(default_factory=dict)
    user: Annotated[str, Field(min_length=1)] = "sub"


class AttesterSettings(ConfigSection):
    """Of an attester that the policy names. `keys` and `ca` as of an issuer. `types`: which `typ` an attestation may
    have. `audience`: for whom it has to be; without, one that says it has to be for the `url` of this server.
    `unbound`: one that names no key counts, too, whoever presents it. `environment`: the claim that names that."""

    keys: str | None = None
    algorithms: tuple[Algorithm, ...] = SAFE_ALGORITHMS
    types: tuple[str, ...] = ("eat+jwt", "application/eat+jwt")
    audience: str | None = None
    unbound: bool = False
    environment: Annotated[str, Field(min_length=1)] = "environment"
    ca: Path | None = None


class DpopSettings(ConfigSection):
    """Of proofs of possession: for how long one is good, and whether each needs a nonce of ours, which is good for
    `nonce_lifetime`, wherever `nonce_key` is the same: a reference; without, in this process and those forked of it."""

    window: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    nonces: bool = False
    nonce_lifetime: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1), le=timedelta(hours=1))
    nonce_key: SecretReference | None = None


class SignatureSettings(ConfigSection):
    """Of signed requests: what a signature has to cover, for how long one is good, whether it needs a `nonce`, and
    files of keys in place of the directories of issuers, by their names in the policy."""

    components: tuple[str, ...] = ("@method", "@authority", "@target-uri")
    window: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1), le=timedelta(hours=1))
    nonce: bool = True
    directories: Mapping[str, Path] = Field(default_factory=dict)


class TrustDomainSettings(ConfigSection):
    """A SPIFFE trust domain whose workloads ask with their certificates alone: a file of those it trusts, or that the
    gateway has verified them."""

    bundle: Path | None = None
    verified_by_gateway: bool = False

    @model_validator(mode="after")
    def one_of_both(self) -> TrustDomainSettings:
        if (self.bundle is None) != self.verified_by_gateway:
            raise ValueError("it has either a `bundle` or `verified_by_gateway = true`")
        return self


class ApiKeySettings(ConfigSection):
    """A file of static keys: `ISSUER/AGENT: sha256:…` in each line."""

    file: Path


class SharingSettings(ConfigSection):
    """When a credential counts as shared: seen within `window` from networks that differ in so many leading bits."""

    window: Duration = Field(default=timedelta(hours=1), ge=timedelta(seconds=1))
    ipv4: Annotated[int, Field(ge=1, le=32)] = 24
    ipv6: Annotated[int, Field(ge=1, le=128)] = 48


class OpenBaoSettings(ConfigSection):
    """OpenBao or Vault, which keeps secrets. `token`, its own, lies in a file or variable. `ca` and `plain_http` as of
    an issuer. What it said counts for `refresh`, and while it is down until it is older than `stale`."""

    address: str
    token: LocalSecretReference
    ca: Path | None = None
    plain_http: bool = False
    namespace: str | None = None
    timeout: Duration = Field(default=timedelta(seconds=2), ge=timedelta(milliseconds=10), le=timedelta(seconds=30))
    refresh: Duration = timedelta(minutes=5)
    stale: Duration = timedelta(hours=1)


class SigningSettings(ConfigSection):
    """Tokens of our own. `keys`: a file of `policyengine keys`, or a key of OpenBao. `issuer`: the one of the policy
    that we are; its `url` is who issues, and its `audience` whom tokens are for, unless `audiences` name more.
    `lifetime`: the longest that a token lasts."""

    keys: SigningKeysReference
    issuer: str
    audiences: tuple[str, ...] = ()
    lifetime: Annotated[Duration, AfterValidator(check_lifetime)] = timedelta(minutes=15)
    ahead: Duration = timedelta(minutes=10)


def check_thumbprint(raw: str) -> str:
    if not THUMBPRINT.fullmatch(raw):
        raise ValueError("write the SHA-256 of a certificate in base64url, 43 characters, as `x5t#S256` has it")
    return raw


class ClientSettings(ConfigSection):
    """An agent that may ask for tokens, by the id that it says it has: which one of the policy it is, and how it proves
    that. `keys`: a file of a JWKS with its public keys, for `private_key_jwt` and `dpop`; `certificates`: SHA-256 of
    its certificates, as `x5t#S256` has them, for `mtls`. With `token` its own bound token is enough."""

    agent: str
    issuer: str
    method: Literal["private_key_jwt", "mtls", "dpop", "token"]
    keys: Path | None = None
    certificates: tuple[Annotated[str, AfterValidator(check_thumbprint)], ...] = ()

    @model_validator(mode="after")
    def proves_it(self) -> Self:
        if self.method == "mtls" and not self.certificates:
            raise ValueError("`certificates` says by which certificates it is known")
        if self.method in ("private_key_jwt", "dpop") and self.keys is None:
            raise ValueError("`keys` says in which file its public keys are")
        return self


class IdentityConfig(ConfigSection):
    """The whole file. Paths in it begin where it lies."""

    identity: GeneralSettings = GeneralSettings()
    issuers: Mapping[str, IssuerSettings] = Field(default_factory=dict)
    attesters: Mapping[str, AttesterSettings] = Field(default_factory=dict)
    dpop: DpopSettings = DpopSettings()
    signatures: SignatureSettings | None = None
    trust_domains: Mapping[str, TrustDomainSettings] = Field(default_factory=dict)
    api_keys: ApiKeySettings | None = None
    sharing: SharingSettings = SharingSettings()
    bao: OpenBaoSettings | None = None
    signing: SigningSettings | None = None
    clients: Mapping[str, ClientSettings] = Field(default_factory=dict)
    folder: Path = Field(default=Path(), exclude=True)


def read_identity_config(path: Path | str) -> IdentityConfig:
    """Raises IdentityError."""
    try:
        with os.fdopen(open_trusted(path), "rb") as file:
            raw = tomllib.loads(read_stream(file, MAX_SETTINGS_BYTES).decode())
    except UntrustedPathError as error:
        raise IdentityError(error.message, error.hint) from None
    except OSError as error:
        raise IdentityError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IdentityError(f"`{path}` is no TOML: {error}") from None
    return parse_identity_config(raw, Path(path).parent, str(path))


def parse_identity_config(
    raw: Mapping[str, object], folder: Path = Path(), name: str = "identity.toml"
) -> IdentityConfig:
    """Raises IdentityError, which names the setting and never its value."""
    if "folder" in raw:
        raise IdentityError(f"`{name}`: unknown setting `folder`")
    try:
        return IdentityConfig.model_validate({**raw, "folder": folder})
    except ValidationError as error:
        raise IdentityError(*describe_validation_error(error, IdentityConfig, name)) from None

"""The model of `identity.toml`: where keys come from and how credentials are checked, in addition to the policy's
issuers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from policyengine.bounded_files import missing_file_hint
from policyengine.identity.config.secret_references import LocalSecretReference, SecretReference, SigningKeysReference
from policyengine.identity.url_compare import url_authority
from policyengine.settings.mistakes import list_mistakes
from policyengine.settings.section import SECRET, SettingsSection
from policyengine.settings.toml_file import SettingsError, SettingsFile, read_settings_file
from policyengine.time_formats import parse_duration
from policyengine.trusted_files import UntrustedPathError

THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
# Algorithms that are weak, or whose keys could be public, are not listed: `none`, HS…, RS1, ES256K.
Algorithm: TypeAlias = Literal[
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"
]
SAFE_ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


class IdentityConfigError(Exception):
    """The error for a configuration that cannot be used. The message says what is wrong, and the hint what to do;
    `detail` shows the line of the file.
    """

    def __init__(self, message: str, hint: str | None = None, detail: str = "") -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint, self.detail = message, hint, detail


def check_duration(raw: object) -> timedelta:
    duration = parse_duration(raw) if isinstance(raw, str) else None
    if duration is None:
        raise ValueError("write a time like `30s`, `5m`, `1h`")
    return duration


def to_seconds(lasts: timedelta) -> int:
    return int(lasts.total_seconds())


Duration: TypeAlias = Annotated[timedelta, BeforeValidator(check_duration)]
MAX_TOKEN_LIFETIME = timedelta(days=1)


def check_lifetime(lasts: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= lasts <= MAX_TOKEN_LIFETIME:
        raise ValueError("write a time from one second to one day")
    return lasts


def check_url_authority(text: str) -> str:
    if url_authority(f"https://{text}/") != text or text.endswith("."):
        raise ValueError("write a host in lower case, with the port if it is not the default: `api.acme.example:8443`")
    return text


def check_absolute_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write a URL: `https://agents.acme.example`")
    return url


KEYS = "file or URL of the issuer's keys (JWKS); if neither this nor the policy has keys, OpenID discovery at `url`"
ATTESTER_KEYS = "file or URL of the attester's keys (JWKS); if not set, OpenID discovery at `url`"
ALGORITHMS = "accepted signature algorithms"
CA = "file of CA certificates (PEM) to trust for connections, instead of the system's certificates"


class GeneralSettings(SettingsSection):
    """`[identity]`: this server, and its requests to other servers.

    Tokens are issued under the `url` of this server's own issuer, and proofs for `/token` are for that URL. Hosts
    include the port if the gateway reports one; without hosts, proofs are valid for every host.
    """

    url: Annotated[str, AfterValidator(check_absolute_url)] | None = Field(
        default=None, description="public URL of this server; also an accepted audience of ID-JAGs and attestations"
    )
    hosts: tuple[Annotated[str, AfterValidator(check_url_authority)], ...] = Field(
        default=(),
        description="hosts that proofs and signatures may name; if not set, any host",
    )
    leeway: Duration = Field(
        default=timedelta(seconds=30),
        le=timedelta(minutes=5),
        description="tolerated difference between the clocks of this server and of issuers and attesters",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=2),
        ge=timedelta(milliseconds=100),
        le=timedelta(seconds=30),
        description="how long to wait for an issuer",
    )
    only_proved: bool = Field(
        default=False,
        description="ignore facts about agents and users from the gateway; accept only what credentials prove",
    )
    proxy: Annotated[str, SECRET] | None = Field(
        default=None,
        description="proxy to issuers that are not on this machine; proxy settings in the environment are ignored",
    )


class IssuerSettings(SettingsSection):
    """`[issuers.NAME]`: an issuer of the policy. Keys are cached for as long as the issuer specifies, within bounds.
    For `user`, choose no claim that people can set themselves.
    """

    belongs_elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("url", "audience", "claims", "scopes", "records", "records_chains"),
        "set it in the policy, in `issuer {name} {{ … }}`",
    )

    keys: str | None = Field(default=None, description=KEYS)
    algorithms: tuple[Algorithm, ...] = Field(default=SAFE_ALGORITHMS, description=ALGORITHMS)
    types: tuple[str, ...] = Field(
        default=("at+jwt", "application/at+jwt", "jwt"),
        description="accepted `typ` values; ID tokens and ID-JAGs are accepted only if listed",
    )
    cache: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=10),
        le=timedelta(days=1),
        description="how long to cache keys if the issuer does not say how long",
    )
    stale: Duration = Field(
        default=timedelta(hours=1),
        le=timedelta(days=7),
        description="how much longer to use cached keys while the issuer does not answer",
    )
    introspection: str | None = Field(default=None, description="introspection endpoint for opaque tokens")
    introspection_cache: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="maximum time to reuse an introspection answer",
    )
    token_prefix: str = Field(
        default="", description="prefix of the issuer's opaque tokens, if several issuers have opaque tokens"
    )
    client_id: str | None = Field(default=None, description="client ID of this server at the issuer")
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt"] = Field(
        default="client_secret_basic", description="how this server authenticates to the issuer"
    )
    client_secret: SecretReference | None = Field(default=None, description="reference to the client secret")
    client_key: SecretReference | None = Field(
        default=None, description="reference to the private key of the client, for `private_key_jwt`"
    )
    ca: Path | None = Field(default=None, description=CA)
    plain_http: bool = Field(default=False, description="allow `http://` URLs, even on another machine")
    agent: str = Field(default="client_id", description="the claim that names the agent")
    people: tuple[str, ...] = Field(
        default=(), description="clients that are not agents, but applications that people use themselves"
    )
    alone: Mapping[str, str] = Field(
        default_factory=dict,
        description="claims, with their values, that mark a token of an agent that acts for no user; `{agent}` stands "
        "for the agent's name",
    )
    user: Annotated[str, Field(min_length=1)] = Field(
        default="sub",
        description="the claim that names the user; a person's token without this claim is refused",
    )


class AttesterSettings(SettingsSection):
    """`[attesters.NAME]`: an attester of the policy."""

    belongs_elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("url", "age", "model", "models", "environments"), "set it in the policy, in `attester {name} {{ … }}`"
    )

    keys: str | None = Field(default=None, description=ATTESTER_KEYS)
    algorithms: tuple[Algorithm, ...] = Field(
        default=SAFE_ALGORITHMS, description="accepted signature algorithms of the attestations"
    )
    types: tuple[str, ...] = Field(
        default=("eat+jwt", "application/eat+jwt"), description="accepted `typ` values of attestations"
    )
    audience: str | None = Field(
        default=None,
        description="required `aud`; if not set, an `aud` is optional, and must contain `url` of `[identity]`",
    )
    unbound: bool = Field(default=False, description="accept attestations that name no key, from any presenter")
    environment: Annotated[str, Field(min_length=1)] = Field(
        default="environment", description="the claim that names the environment"
    )
    ca: Path | None = Field(default=None, description=CA)


class DpopSettings(SettingsSection):
    """`[dpop]`: proofs of possession. Without `nonce_key`, a nonce is valid only in this process and its forks."""

    window: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="how long a proof is valid; each proof is accepted once",
    )
    nonces: bool = Field(default=False, description="require a nonce of this server in each proof")
    nonce_lifetime: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="how long a nonce is valid",
    )
    nonce_key: SecretReference | None = Field(
        default=None,
        description="reference to a secret that servers share to accept each other's nonces, also those of "
        "attestations: 32 characters or more",
    )


class SignatureSettings(SettingsSection):
    """`[signatures]`: signed requests."""

    components: tuple[str, ...] = Field(
        default=("@method", "@authority", "@target-uri"), description="components that a signature must cover"
    )
    window: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="how long a signature is valid after its `created`",
    )
    nonce: bool = Field(default=True, description="require a `nonce` in each signature, and accept it once")
    directories: Mapping[str, Path] = Field(
        default_factory=dict,
        description="key files that replace the directories of issuers, by issuer name",
    )


class TrustDomainSettings(SettingsSection):
    """`[trust_domains.NAME]`: a SPIFFE trust domain whose workloads authenticate with their certificates alone."""

    bundle: Path | None = Field(
        default=None, description="file of the domain's CA certificates: PEM, or a SPIFFE bundle"
    )
    verified_by_gateway: bool = Field(
        default=False, description="the gateway verifies certificates of this domain, so that no bundle is needed"
    )

    @model_validator(mode="after")
    def one_of_both(self) -> TrustDomainSettings:
        if (self.bundle is None) != self.verified_by_gateway:
            raise ValueError("write either `bundle` or `verified_by_gateway = true`")
        return self


class ApiKeySettings(SettingsSection):
    """`[api_keys]`: a file of static keys."""

    file: Path = Field(description="file of static keys, one `ISSUER/AGENT: sha256:…` on each line")


class SharingSettings(SettingsSection):
    """`[sharing]`: a credential is shared if, within `window`, it is used from networks with different prefixes, or its
    key is used by different agents.
    """

    window: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(seconds=1),
        description="how long to remember the networks that used a credential",
    )
    ipv4: Annotated[int, Field(ge=1, le=32)] = Field(
        default=24, description="IPv4 addresses with this many common leading bits are one network"
    )
    ipv6: Annotated[int, Field(ge=1, le=128)] = Field(
        default=48, description="IPv6 addresses with this many common leading bits are one network"
    )


class OpenBaoSettings(SettingsSection):
    """`[bao]`: OpenBao or Vault, which holds secrets."""

    address: str = Field(description="URL of OpenBao or Vault")
    token: LocalSecretReference = Field(
        description="reference to the token for OpenBao: a file or an environment variable"
    )
    ca: Path | None = Field(default=None, description=CA)
    plain_http: bool = Field(default=False, description="allow `http://` URLs, even on another machine")
    namespace: str | None = Field(default=None, description="namespace in OpenBao or Vault")
    timeout: Duration = Field(
        default=timedelta(seconds=2),
        ge=timedelta(milliseconds=10),
        le=timedelta(seconds=30),
        description="how long to wait for an answer",
    )
    refresh: Duration = Field(default=timedelta(minutes=5), description="how long to cache answers of OpenBao")
    stale: Duration = Field(
        default=timedelta(hours=1), description="maximum age of a secret while OpenBao does not answer"
    )


class SigningSettings(SettingsSection):
    """`[signing]`: tokens that this server issues, with the `url` of `issuer` as `iss` and its `audience` as `aud`."""

    keys: SigningKeysReference = Field(description="key file of `policyengine keys`, or `bao-transit:mount/key`")
    issuer: str = Field(description="issuer of the policy that this server acts as")
    audiences: tuple[str, ...] = Field(
        default=(), description="audiences that clients may request in addition to the issuer's `audience`"
    )
    lifetime: Annotated[Duration, AfterValidator(check_lifetime)] = Field(
        default=timedelta(minutes=15), description="longest lifetime of an issued token; at most a day"
    )
    ahead: Duration = Field(
        default=timedelta(minutes=10), description="how long a new key version in OpenBao is published before it signs"
    )


def check_thumbprint(raw: str) -> str:
    if not THUMBPRINT.fullmatch(raw):
        raise ValueError("write the SHA-256 of a certificate in base64url, 43 characters, as in `x5t#S256`")
    return raw


class ClientSettings(SettingsSection):
    """`[clients.NAME]`: an agent that may request tokens, by its client ID."""

    agent: str = Field(description="name of the agent in the policy")
    issuer: str = Field(description="issuer of that agent")
    method: Literal["private_key_jwt", "mtls", "dpop", "token"] = Field(description="how the agent authenticates")
    keys: Path | None = Field(
        default=None, description="file of the client's public keys (JWKS), for `private_key_jwt` and `dpop`"
    )
    certificates: tuple[Annotated[str, AfterValidator(check_thumbprint)], ...] = Field(
        default=(), description="SHA-256 of the client's certificates in base64url, as in `x5t#S256`, for `mtls`"
    )

    @model_validator(mode="after")
    def proves_it(self) -> Self:
        if self.method == "mtls" and not self.certificates:
            raise ValueError("the method `mtls` requires `certificates`")
        if self.method in ("private_key_jwt", "dpop") and self.keys is None:
            raise ValueError("the method requires `keys`, a file of public keys")
        return self


class IdentityConfig(SettingsSection):
    """The whole `identity.toml`. Paths in it are relative to its folder."""

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
    """Read and check `identity.toml`. Raises IdentityConfigError."""
    name = str(path)
    try:
        file = read_settings_file(path, name)
        return parse_identity_config(file.data(), Path(path).parent, name, file)
    except UntrustedPathError as error:
        raise IdentityConfigError(error.message, error.hint) from None
    except OSError as error:
        message = f"cannot read `{path}`: {(error.strerror or str(error)).lower()}"
        raise IdentityConfigError(message, missing_file_hint(path, error)) from None
    except SettingsError as error:
        raise IdentityConfigError(error.message, error.hint, error.detail) from None


def parse_identity_config(
    data: Mapping[str, object], folder: Path = Path(), name: str = "identity.toml", file: SettingsFile | None = None
) -> IdentityConfig:
    """Parse the settings. Raises IdentityConfigError, which names the setting and never a value that may be a secret;
    with a file, also the location."""
    text = file or SettingsFile(name, "")
    try:
        if "folder" in data:  # a field that is not in the file
            raise SettingsError(f"`{name}`: unknown section `folder`", None)
        return IdentityConfig.model_validate({**data, "folder": folder})
    except ValidationError as error:
        found = text.report(list_mistakes(error, IdentityConfig, text.place))
    except SettingsError as error:
        found = error
    raise IdentityConfigError(found.message, found.hint, found.detail if file else "")

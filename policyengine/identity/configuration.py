"""`identity.toml`: where keys come from and what is asked of credentials, beside the issuers that policies name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from policyengine.runtime.shape import did_you_mean

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
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


def seconds(raw: object) -> object:
    found = DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise ValueError("write a time like `30s`, `5m`, `1h`")
    return timedelta(seconds=int(found["number"]) * UNITS[found["unit"]])


Duration: TypeAlias = Annotated[timedelta, BeforeValidator(seconds)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class General(Section):
    """`url`: where clients find this server: what tokens are issued by, and DPoP proofs to it are for."""

    url: str | None = None
    leeway: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(seconds=2)
    only_proved: bool = False


class IssuerSettings(Section):
    """Of an issuer that the policy names, by that name. `keys`: a file or URL of a JWKS, which goes before what the
    policy says; without, `url` is asked by OpenID discovery. `agent`: the claim that names the agent. `types`: which
    `typ` tokens may have; ID tokens only with `id_token`, ID-JAGs only with `oauth-id-jag+jwt`. `people`: clients that
    are no agents, but the ways by which people ask for themselves."""

    keys: str | None = None
    algorithms: tuple[Algorithm, ...] = SAFE_ALGORITHMS
    types: tuple[str, ...] = ("at+jwt", "application/at+jwt", "jwt")
    introspection: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    ca: Path | None = None
    agent: str = "client_id"
    people: tuple[str, ...] = ()


class AttesterSettings(Section):
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


class Configuration(Section):
    """The whole file. Paths in it begin where it lies."""

    identity: General = General()
    issuers: Mapping[str, IssuerSettings] = Field(default_factory=dict)
    attesters: Mapping[str, AttesterSettings] = Field(default_factory=dict)
    folder: Path = Field(default=Path(), exclude=True)


def read_configuration(path: Path | str) -> Configuration:
    """Raises IdentityError."""
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise IdentityError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IdentityError(f"`{path}` is no TOML: {error}") from None
    return configuration_of(raw, Path(path).parent, str(path))


def configuration_of(raw: Mapping[str, object], folder: Path = Path(), name: str = "identity.toml") -> Configuration:
    """Raises IdentityError, which names the setting and never its value."""
    if "folder" in raw:
        raise IdentityError(f"`{name}`: unknown setting `folder`")
    try:
        return Configuration.model_validate({**raw, "folder": folder})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(str(first["loc"][-1]), tuple(Configuration.model_fields))
            raise IdentityError(f"`{name}`: unknown setting `{place}`", hint) from None
        raise IdentityError(f"`{name}`: `{place}`: {first['msg'].removeprefix('Value error, ')}") from None

"""References to secrets, which the configuration contains in place of secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from policyengine.settings.section import SECRET

ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
BAO = re.compile(r"(?P<mount>[\w.-]+)/(?P<path>[\w.-]+(?:/[\w.-]+)*)#(?P<field>[\w.-]+)", re.ASCII)
TRANSIT = re.compile(r"bao-transit:(?P<mount>[\w.-]+)/(?P<key>[\w.-]+)", re.ASCII)
FORMS = "write `file:path`, `env:NAME` or `bao:mount/path#field`"
NO_REFERENCE = "this is not a reference to a secret (do not write the secret itself)"


@dataclass(frozen=True, slots=True)
class FileReference:
    path: Path


@dataclass(frozen=True, slots=True)
class EnvironmentReference:
    name: str


@dataclass(frozen=True, slots=True)
class OpenBaoReference:
    """A field of a KV version 2 secret."""

    mount: str
    path: str
    field: str


SecretLocation: TypeAlias = FileReference | EnvironmentReference | OpenBaoReference


def parse_secret_reference(reference: str, folder: Path = Path()) -> SecretLocation:
    """Parse a reference; file paths are relative to `folder`. Raises ValueError, whose message does not repeat the
    text, because that may be a secret."""
    kind, _, rest = reference.partition(":")
    if kind == "file" and rest and "\0" not in rest:
        return FileReference(folder / rest)
    if kind == "env" and ENV.fullmatch(rest):
        return EnvironmentReference(rest)
    found = BAO.fullmatch(rest) if kind == "bao" else None
    if found is None or {".", ".."} & set(found["path"].split("/")):
        raise ValueError(f"{NO_REFERENCE}: {FORMS}")
    return OpenBaoReference(found["mount"], found["path"], found["field"])


@dataclass(frozen=True, slots=True)
class TransitKeyReference:
    """A signing key that never leaves OpenBao."""

    mount: str
    key: str


def parse_signing_keys_reference(reference: str, folder: Path = Path()) -> FileReference | TransitKeyReference:
    """Parse a reference to signing keys. Raises ValueError, whose message does not repeat the text."""
    found = TRANSIT.fullmatch(reference)
    if found is not None:
        return TransitKeyReference(found["mount"], found["key"])
    if not reference.startswith("file:"):
        raise ValueError(f"{NO_REFERENCE}: write `file:path` or `bao-transit:mount/key`")
    place = parse_secret_reference(reference, folder)
    assert isinstance(place, FileReference)
    return place


def check_secret_reference(reference: str) -> str:
    parse_secret_reference(reference)
    return reference


def check_local_reference(reference: str) -> str:
    here = "write `file:path` or `env:NAME`"
    try:
        place = parse_secret_reference(reference)
    except ValueError:
        raise ValueError(f"{NO_REFERENCE}: {here}") from None
    if isinstance(place, OpenBaoReference):
        raise ValueError(f"the token of OpenBao cannot be kept in OpenBao: {here}")
    return reference


def check_signing_keys_reference(reference: str) -> str:
    parse_signing_keys_reference(reference)
    return reference


# The type of a setting that holds a secret; `SecretReader.read` resolves it.
SecretReference: TypeAlias = Annotated[str, AfterValidator(check_secret_reference), SECRET]
LocalSecretReference: TypeAlias = Annotated[str, AfterValidator(check_local_reference), SECRET]
SigningKeysReference: TypeAlias = Annotated[str, AfterValidator(check_signing_keys_reference), SECRET]

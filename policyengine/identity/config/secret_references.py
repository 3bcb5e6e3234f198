"""Where secrets lie: what configuration says in place of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
BAO = re.compile(r"(?P<mount>[\w.-]+)/(?P<path>[\w.-]+(?:/[\w.-]+)*)#(?P<field>[\w.-]+)", re.ASCII)
TRANSIT = re.compile(r"bao-transit:(?P<mount>[\w.-]+)/(?P<key>[\w.-]+)", re.ASCII)
FORMS = "write where it lies: `file:path`, `env:NAME` or `bao:mount/path#field`"
NO_REFERENCE = "this is no reference to a secret, and a secret itself does not belong here"


@dataclass(frozen=True, slots=True)
class InFile:
    path: Path


@dataclass(frozen=True, slots=True)
class InEnvironment:
    name: str


@dataclass(frozen=True, slots=True)
class InBao:
    """A field of a secret of KV version 2."""

    mount: str
    path: str
    field: str


Place: TypeAlias = InFile | InEnvironment | InBao


def place_of(reference: str, folder: Path = Path()) -> Place:
    """Where a secret lies; files begin at `folder`. Raises ValueError, which shows nothing of what is no reference."""
    kind, _, rest = reference.partition(":")
    if kind == "file" and rest and "\0" not in rest:
        return InFile(folder / rest)
    if kind == "env" and ENV.fullmatch(rest):
        return InEnvironment(rest)
    found = BAO.fullmatch(rest) if kind == "bao" else None
    if found is None or {".", ".."} & set(found["path"].split("/")):
        raise ValueError(f"{NO_REFERENCE}: {FORMS}")
    return InBao(found["mount"], found["path"], found["field"])


@dataclass(frozen=True, slots=True)
class InTransit:
    """A signing key that never leaves OpenBao."""

    mount: str
    key: str


def keys_of(reference: str, folder: Path = Path()) -> InFile | InTransit:
    """Where signing keys lie. Raises ValueError, which shows nothing of what is no reference."""
    found = TRANSIT.fullmatch(reference)
    if found is not None:
        return InTransit(found["mount"], found["key"])
    if not reference.startswith("file:"):
        raise ValueError(f"{NO_REFERENCE}: write where the keys lie: `file:path` or `bao-transit:mount/key`")
    place = place_of(reference, folder)
    assert isinstance(place, InFile)
    return place


def checked(reference: str) -> str:
    place_of(reference)
    return reference


def checked_here(reference: str) -> str:
    here = "write `file:path` or `env:NAME`"
    try:
        place = place_of(reference)
    except ValueError:
        raise ValueError(f"{NO_REFERENCE}: {here}") from None
    if isinstance(place, InBao):
        raise ValueError(f"what opens OpenBao does not lie in it: {here}")
    return reference


def checked_keys(reference: str) -> str:
    keys_of(reference)
    return reference


# What a setting that is a secret holds; `Secrets.read` takes it.
Reference: TypeAlias = Annotated[str, AfterValidator(checked)]
ReferenceHere: TypeAlias = Annotated[str, AfterValidator(checked_here)]
KeysReference: TypeAlias = Annotated[str, AfterValidator(checked_keys)]

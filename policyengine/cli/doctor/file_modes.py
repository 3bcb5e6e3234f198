"""What `policyengine doctor` says of files: whose they are, who else may read or write them, and what mends it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from policyengine.cli.doctor.findings import Finding, Status
from policyengine.trusted_files import OTHERS_WRITE, UntrustedPathError, trusted_path, write_problem

OURS = 0o077  # what nobody but the owner is to do with files that we write
KEYS = stat.S_IRWXO | stat.S_IWGRP  # with files of secrets: a group may read those that Kubernetes mounts
MOST = 1_000  # files of policies that are looked at


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """`check` is what findings call it; `denies` are the bits that its mode may not have, `mode` the one to give it."""

    check: str
    path: Path
    denies: int
    mode: str


def file_findings(files: Iterable[WatchedFile]) -> Iterator[Finding]:
    """Nothing of what is not there, or is as it should be. Of each folder once."""
    folders: set[Path] = set()
    for one in files:
        try:
            place = trusted_path(one.path)
            yield from of_file(one, place, place.stat())
            if place.parent not in folders:
                folders.add(place.parent)
                yield from of_folder(one.check, place.parent, place.parent.stat())
        except UntrustedPathError as error:
            yield Finding(one.check, Status.FAILED, error.message, error.hint)
        except OSError:
            continue


def of_file(file: WatchedFile, place: Path, found: os.stat_result) -> Iterator[Finding]:
    if found.st_uid not in (os.geteuid(), 0):
        yield Finding(file.check, Status.WARNING, f"`{file.path}` is of another user", owning(place))
    if found.st_mode & file.denies:
        does = "write" if found.st_mode & file.denies & OTHERS_WRITE else "read"
        hint = f"chmod {file.mode} {shlex.quote(str(place))}"
        yield Finding(file.check, Status.WARNING, f"others can {does} `{file.path}`", hint)


def of_folder(check: str, folder: Path, found: os.stat_result) -> Iterator[Finding]:
    """Who can write it can put another file in place of one of ours, unless nobody may remove those of others."""
    problem = write_problem(folder, found)
    if problem is None or (found.st_mode & stat.S_ISVTX and found.st_uid in (os.geteuid(), 0)):
        return
    hint = f"chmod go-w {shlex.quote(str(folder))}" if problem.startswith("others") else owning(folder)
    yield Finding(check, Status.WARNING, f"{problem}, and put other files there", hint)


def owning(place: Path) -> str:
    return f"chown {os.geteuid()} {shlex.quote(str(place))}"


# ── Which files ───────────────────────────────────────────────────────────────────────────────


def store_files(url: str) -> Iterator[WatchedFile]:
    """A file of SQLite, and those that it keeps beside it."""
    from policyengine.stores.open import StoreUrlError, address_of, sqlite_path

    try:
        path = sqlite_path(address_of(url)) if url.startswith("sqlite:") else ""
    except StoreUrlError:
        return
    for suffix in ("", "-wal", "-shm") if path else ():
        yield WatchedFile("store", Path(f"{path}{suffix}"), OURS, "600")


def identity_files(path: Path) -> Iterator[WatchedFile]:
    """The settings, and every file that they name."""
    from policyengine.identity.config.model import IdentityError, read_configuration

    yield WatchedFile("identity", path, OTHERS_WRITE, "go-w")
    try:
        configuration = read_configuration(path)
    except IdentityError:
        return
    for secret, named in sorted(set(named_files(configuration))):
        denies, mode = (KEYS, "600") if secret else (OTHERS_WRITE, "go-w")
        yield WatchedFile("keys", configuration.folder / named, denies, mode)


def named_files(value: object) -> Iterator[tuple[bool, Path]]:
    """Whether what lies there is secret, and the file, for all that settings name."""
    from pydantic import BaseModel

    match value:
        case BaseModel():
            for name in type(value).model_fields:
                given = getattr(value, name)
                if name == "keys" and isinstance(given, str) and ":" not in given:
                    yield False, Path(given)  # of an issuer: a URL or a file
                elif name != "folder":
                    yield from named_files(given)
        case dict():
            for one in value.values():
                yield from named_files(one)
        case list() | tuple():
            for one in value:
                yield from named_files(one)
        case Path():
            yield False, value
        case str() if value.startswith("file:"):
            yield True, Path(value.removeprefix("file:"))
        case _:
            return


def policy_finding(paths: Sequence[Path]) -> Iterator[Finding]:
    """Who else can change what decides: of all files and folders the first, and how many there are."""
    found = [problem for place in islice(policy_files(paths), MOST) if (problem := write_problem_at(place)) is not None]
    if found:
        more = f", and {len(found) - 1:,} more files and folders" if len(found) > 1 else ""
        named = " ".join(shlex.quote(str(path)) for path in paths)
        hint = f"chown -R {os.geteuid()} {named}; chmod -R go-w {named}"
        yield Finding("policies", Status.WARNING, f"{found[0]}{more}", hint)


def write_problem_at(place: Path) -> str | None:
    try:
        return write_problem(place, place.stat())
    except OSError:
        return None


def policy_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        for folder, folders, names in os.walk(path) if path.is_dir() else ():
            yield from (Path(folder) / name for name in (*folders, *names))

"""File checks of `policyengine doctor`: the owner of each file, who else can read or write the file, and the command
that prevents this.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.doctor.model import DoctorResult, DoctorStatus
from policyengine.trusted_files import OTHERS_WRITE, UntrustedPathError, trusted_path, write_problem

if TYPE_CHECKING:
    from policyengine.webhooks.target import WebhookTarget

PRIVATE_MASK = 0o077  # files that policyengine writes: no access by others
SECRET_MASK = stat.S_IRWXO | stat.S_IWGRP  # secrets: a group may read them, because Kubernetes mounts them that way
MAX_POLICY_FILES = 1_000  # maximum number of policy files to check


@dataclass(frozen=True, slots=True)
class FileModeRule:
    """The mode that a file should have. `check` is the name of the check in findings, `denies` holds the forbidden mode
    bits, and `mode` is the mode that fixes the file.
    """

    check: str
    path: Path
    denies: int
    mode: str


def check_file_modes(files: Iterable[FileModeRule]) -> Iterator[DoctorResult]:
    """Yield problems of files, and problems of each of their folders once. Files that do not exist have no problems."""
    folders: set[Path] = set()
    for file in files:
        try:
            place = trusted_path(file.path)
            yield from check_file(file, place, place.stat())
            if place.parent not in folders:
                folders.add(place.parent)
                yield from check_folder(file.check, place.parent, place.parent.stat())
        except UntrustedPathError as error:
            yield DoctorResult(file.check, DoctorStatus.FAILED, error.message, error.hint)
        except OSError:
            continue


def check_file(file: FileModeRule, place: Path, found: os.stat_result) -> Iterator[DoctorResult]:
    if found.st_uid not in (os.geteuid(), 0):
        yield DoctorResult(
            file.check, DoctorStatus.WARNING, f"`{file.path}` belongs to another user", chown_command(place)
        )
    if found.st_mode & file.denies:
        does = "write" if found.st_mode & file.denies & OTHERS_WRITE else "read"
        hint = f"chmod {file.mode} {shlex.quote(str(place))}"
        yield DoctorResult(file.check, DoctorStatus.WARNING, f"others can {does} `{file.path}`", hint)


def check_folder(check: str, folder: Path, found: os.stat_result) -> Iterator[DoctorResult]:
    """Report who can replace files of this user in the folder. A sticky bit prevents this if this user or root owns the
    folder."""
    problem, is_trusted_owner = write_problem(folder, found), found.st_uid in (os.geteuid(), 0)
    if problem is None or (found.st_mode & stat.S_ISVTX and is_trusted_owner):
        return
    hint = f"chmod go-w {shlex.quote(str(folder))}" if is_trusted_owner else chown_command(folder)
    yield DoctorResult(check, DoctorStatus.WARNING, f"{problem}, and could replace the file", hint)


def chown_command(place: Path) -> str:
    return f"chown {os.geteuid()} {shlex.quote(str(place))}"


# ── Files to check ────────────────────────────────────────────────────────────────────────────


def webhook_files(targets: Iterable[WebhookTarget]) -> Iterator[FileModeRule]:
    """Yield the files with secrets and URLs of webhooks."""
    for target in targets:
        for file in (target.url_file, *target.secret_files):
            if file is not None:
                yield FileModeRule("webhooks", file, SECRET_MASK, "600")


def store_files(url: str) -> Iterator[FileModeRule]:
    """Yield the file of a SQLite store, and the files that SQLite keeps next to it."""
    from policyengine.stores.url import StoreUrlError, parse_store_url, sqlite_path

    try:
        path = sqlite_path(parse_store_url(url)) if url.startswith("sqlite:") else ""
    except StoreUrlError:
        return
    for suffix in ("", "-wal", "-shm") if path else ():
        yield FileModeRule("store", Path(f"{path}{suffix}"), PRIVATE_MASK, "600")


def identity_files(path: Path) -> Iterator[FileModeRule]:
    """Yield the settings file and every file that it names."""
    from policyengine.identity.config.model import IdentityConfigError, read_identity_config

    yield FileModeRule("identity", path, OTHERS_WRITE, "go-w")
    try:
        configuration = read_identity_config(path)
    except IdentityConfigError:
        return
    for secret, named in sorted(set(referenced_files(configuration))):
        denies, mode = (SECRET_MASK, "600") if secret else (OTHERS_WRITE, "go-w")
        yield FileModeRule("keys", configuration.folder / named, denies, mode)


def referenced_files(value: object) -> Iterator[tuple[bool, Path]]:
    """Yield every file that the settings name, and whether it holds a secret."""
    from pydantic import BaseModel

    match value:
        case BaseModel():
            for name in type(value).model_fields:
                given = getattr(value, name)
                if name == "keys" and isinstance(given, str) and ":" not in given:
                    yield False, Path(given)  # the setting of an issuer, which is a URL or a file
                elif name != "folder":
                    yield from referenced_files(given)
        case dict():
            for member in value.values():
                yield from referenced_files(member)
        case list() | tuple():
            for item in value:
                yield from referenced_files(item)
        case Path():
            yield False, value
        case str() if value.startswith("file:"):
            yield True, Path(value.removeprefix("file:"))
        case _:
            return


def check_policy_files(paths: Sequence[Path]) -> Iterator[DoctorResult]:
    """Report policy files and folders that others can change: the first of them, and the number of the others."""
    found = [
        problem
        for place in islice(walk_policy_files(paths), MAX_POLICY_FILES)
        if (problem := find_write_problem(place)) is not None
    ]
    if found:
        more = f", and {len(found) - 1:,} more files and folders" if len(found) > 1 else ""
        named = " ".join(shlex.quote(str(path)) for path in paths)
        hint = f"chown -R {os.geteuid()} {named}; chmod -R go-w {named}"
        yield DoctorResult("policies", DoctorStatus.WARNING, f"{found[0]}{more}", hint)


def find_write_problem(place: Path) -> str | None:
    try:
        return write_problem(place, place.stat())
    except OSError:
        return None


def walk_policy_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        for folder, folders, names in os.walk(path) if path.is_dir() else ():
            yield from (Path(folder) / name for name in (*folders, *names))

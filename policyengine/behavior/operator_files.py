"""The files in which operators ask for planned changes, and for callers to be forgotten.

A process that uses a folder with learned behavior reads both about every minute. The key of the folder authenticates
them. The process that saves the rows removes a request to forget when it has followed it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from policyengine.behavior.events import Caller
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError, reason, write_durable
from policyengine.behavior.row import HOUR, HOURS_OF_DAY
from policyengine.bounded_files import read_bounded

MAX_RELEASE: Final = 14 * HOURS_OF_DAY * HOUR  # milliseconds
MAX_RELEASES: Final = 1_000
MAX_FILE_BYTES: Final = 2**20
RELEASES, REQUESTS = b"releases", b"requests"
RELEASES_HINT = "delete it: planned changes then end"


class ClassRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A planned change of the callers of a class, and when it began and ends, in milliseconds since 1970."""

    group: str
    made: int
    until: int


class ForgetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A caller to forget, with all its versions; `everything` are all callers, and what is known of classes."""

    issuer: str = ""
    agent: str = ""
    instance: str = ""
    everything: bool = False

    def names(self, caller: Caller) -> bool:
        """Return whether it asks to forget a caller."""
        return self.everything or caller[:3] == (self.issuer, self.agent, self.instance)


# ── Planned changes ───────────────────────────────────────────────────────────────────────────


def load_releases(folder: BehaviorFolder) -> tuple[ClassRelease, ...]:
    """Load the planned changes, ended ones too. Raises BehaviorFolderError."""
    path = folder.path / "releases"
    try:
        payload = folder.unseal(RELEASES, read_bounded(path, MAX_FILE_BYTES))
        found = msgspec.json.decode(payload, type=tuple[ClassRelease, ...])
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise BehaviorFolderError(f"`{path}` cannot be read: {reason(error)}", RELEASES_HINT) from None
    except (msgspec.MsgspecError, ValueError):
        raise BehaviorFolderError(f"`{path}` was changed, or is damaged", RELEASES_HINT) from None
    if any(one.until - one.made > MAX_RELEASE for one in found):
        raise BehaviorFolderError(f"`{path}` has a planned change of more than 14 days", RELEASES_HINT)
    return found


def save_releases(folder: BehaviorFolder, releases: tuple[ClassRelease, ...]) -> None:
    """Raises OSError."""
    payload = msgspec.json.encode(sorted(releases, key=lambda one: one.group)[:MAX_RELEASES])
    write_durable(folder.path / "releases", folder.seal(RELEASES, payload))


def release_ends(folder: BehaviorFolder) -> Mapping[str, int]:
    """Return until when a change of each class is planned, in milliseconds since 1970. Raises BehaviorFolderError."""
    return {one.group: one.until for one in load_releases(folder)}


# ── Callers to forget ─────────────────────────────────────────────────────────────────────────


def request_to_forget(folder: BehaviorFolder, request: ForgetRequest) -> None:
    """Ask the processes that use the folder to forget. Raises OSError."""
    requests = folder.path / "requests"
    requests.mkdir(0o700, exist_ok=True)
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.request"
    write_durable(requests / name, folder.seal(REQUESTS, msgspec.json.encode(request)))


def request_paths(folder: BehaviorFolder) -> Iterator[Path]:
    """Yield the requests, oldest first. Raises OSError."""
    with suppress(FileNotFoundError):
        yield from sorted((folder.path / "requests").glob("*.request"))


def load_request(folder: BehaviorFolder, path: Path) -> ForgetRequest:
    """Raises BehaviorFolderError."""
    try:
        payload = folder.unseal(REQUESTS, read_bounded(path, MAX_FILE_BYTES))
        return msgspec.json.decode(payload, type=ForgetRequest)
    except OSError as error:
        raise BehaviorFolderError(f"`{path}` cannot be read: {reason(error)}", "make it readable") from None
    except (msgspec.MsgspecError, ValueError):
        raise BehaviorFolderError(
            f"the request `{path}` is ignored: it was not written with the key of the folder", "delete it"
        ) from None


def remove_requests(folder: BehaviorFolder, names: Collection[str]) -> None:
    """Remove the requests with these names, which were followed. Raises OSError."""
    for path in request_paths(folder):
        if path.name in names:
            path.unlink(missing_ok=True)

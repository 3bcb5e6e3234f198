"""The files with which operators announce planned changes, and request that callers are forgotten.

Each process that uses a folder of learned behavior reads these files about every minute. The folder's key authenticates
them. The process that saves the rows removes a request to forget after the callers were forgotten.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from policyengine.behavior.events import Caller
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError, reason, write_durable
from policyengine.behavior.releases import ClassRelease, ReleaseError, check_releases, sort_releases
from policyengine.bounded_files import read_bounded

MAX_FILE_BYTES: Final = 2**20
RELEASES, REQUESTS = b"releases", b"requests"
RELEASES_HINT = "delete it: planned changes then end"


class ForgetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to forget a caller with all its versions or, with `everything`, all callers and classes."""

    issuer: str = ""
    agent: str = ""
    instance: str = ""
    everything: bool = False

    def names(self, caller: Caller) -> bool:
        """Return whether the request applies to a caller."""
        return self.everything or caller[:3] == (self.issuer, self.agent, self.instance)


# ── Planned changes ───────────────────────────────────────────────────────────────────────────


def load_releases(folder: BehaviorFolder) -> tuple[ClassRelease, ...]:
    """Load all planned changes, including those that have ended. Raises BehaviorFolderError."""
    path = folder.path / "releases"
    try:
        payload = folder.unseal(RELEASES, read_bounded(path, MAX_FILE_BYTES))
        found = msgspec.json.decode(payload, type=tuple[ClassRelease, ...])
        check_releases(found)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise BehaviorFolderError(f"`{path}` cannot be read: {reason(error)}", RELEASES_HINT) from None
    except (msgspec.MsgspecError, ValueError):
        raise BehaviorFolderError(f"`{path}` was changed, or is damaged", RELEASES_HINT) from None
    except ReleaseError as error:
        raise BehaviorFolderError(f"`{path}` cannot be used: {error}", RELEASES_HINT) from None
    return found


def save_releases(folder: BehaviorFolder, releases: tuple[ClassRelease, ...]) -> None:
    """Replace the planned changes. Raises OSError."""
    payload = msgspec.json.encode(sort_releases(releases))
    write_durable(folder.path / "releases", folder.seal(RELEASES, payload))


# ── Callers to forget ─────────────────────────────────────────────────────────────────────────


def request_to_forget(folder: BehaviorFolder, request: ForgetRequest) -> None:
    """Write a request, which the processes that use the folder will read. Raises OSError."""
    requests = folder.path / "requests"
    requests.mkdir(0o700, exist_ok=True)
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.request"
    write_durable(requests / name, folder.seal(REQUESTS, msgspec.json.encode(request)))


def request_paths(folder: BehaviorFolder) -> Iterator[Path]:
    """Yield the paths of the requests, oldest first. Raises OSError."""
    with suppress(FileNotFoundError):
        yield from sorted((folder.path / "requests").glob("*.request"))


def load_request(folder: BehaviorFolder, path: Path) -> ForgetRequest:
    """Load a request to forget. Raises BehaviorFolderError."""
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
    """Remove the completed requests with these file names. Raises OSError."""
    for path in request_paths(folder):
        if path.name in names:
            path.unlink(missing_ok=True)

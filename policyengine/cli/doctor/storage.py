"""Checks of the decision log and the store."""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.doctor.machine import MAX_SKEW_SECONDS, NTP_HINT
from policyengine.cli.doctor.model import DoctorResult, DoctorStatus

if TYPE_CHECKING:
    from policyengine.stores.clock_skew import ClockSkew


LOW_DISK_BYTES, MIN_DISK_BYTES = 1024**3, 64 * 1024**2  # bytes
OTHERS_READ = 0o077


def check_log(path: Path) -> DoctorResult:
    folder = path.parent
    if not folder.is_dir():
        return DoctorResult("log", DoctorStatus.FAILED, f"there is no folder `{folder}`", f"mkdir -p {folder}")
    place = path if path.exists() else folder
    if path.exists() and not path.is_file():
        return DoctorResult(
            "log",
            DoctorStatus.FAILED,
            f"`{path}` is not a regular file",
            "use a regular file: in any other kind of file, lines of several processes may be mixed",
        )
    if not os.access(place, os.W_OK):
        return DoctorResult(
            "log", DoctorStatus.FAILED, f"`{place}` cannot be written to", "every decision would be denied"
        )
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        status = DoctorStatus.FAILED if free < MIN_DISK_BYTES else DoctorStatus.WARNING
        hint = "free some space, or move old logs: a decision that cannot be logged is denied"
        return DoctorResult("log", status, f"{free // 1024**2:,} MiB are free at `{folder}`", hint)
    if path.exists() and path.stat().st_mode & OTHERS_READ:
        return DoctorResult(
            "log",
            DoctorStatus.WARNING,
            f"others can read `{path}`, which records requests",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return DoctorResult("log", DoctorStatus.OK, f"`{path}` can be written to, and {free // 1024**3:,} GiB are free")


def check_store(url: str) -> DoctorResult:
    from policyengine.stores.base import StoreError, StoreMissingError
    from policyengine.stores.clock_skew import ClockSkewError, system_time
    from policyengine.stores.resilient_store import ResilientStore
    from policyengine.stores.url import StoreUrlError, open_existing_store, open_store

    try:
        absent = check_missing_store_file(url)
        if absent is not None:
            return absent
        found = open_existing_store(url) if url.startswith("postgresql:") else open_store(url)
        if not isinstance(found, ResilientStore):
            hint = "`--store sqlite:///store.db`, `postgresql://…` or `redis://…` keeps it (docs/stores.md)"
            return DoctorResult("store", DoctorStatus.NOTE, "state is kept in memory: a restart loses it", hint)
        with closing(found):
            name = found.about()
            found.check(system_time())
            found.inspect(0)
    except StoreUrlError as error:
        if isinstance(error.__cause__, StoreMissingError):
            return DoctorResult("store", DoctorStatus.OK, f"{error.__cause__} yet: `serve` creates it")
        return DoctorResult("store", DoctorStatus.FAILED, error.message, error.hint)
    except ClockSkewError as error:
        hint = f"{NTP_HINT}: decisions that need the store are denied while the clocks differ by more than its `skew`"
        return DoctorResult("store", DoctorStatus.FAILED, error.reason, hint)
    except StoreError as error:
        return DoctorResult(
            "store", DoctorStatus.FAILED, f"the store does not answer: {error}", "check that it is running"
        )
    return check_store_clock(name, found.skew)


def check_missing_store_file(url: str) -> DoctorResult | None:
    """Report a SQLite file that does not exist, without creating it; return None if it exists, or if the store is not
    SQLite.
    """
    from policyengine.stores.url import parse_store_url, sqlite_path

    path = Path(sqlite_path(parse_store_url(url))) if url.startswith("sqlite:") else None
    if path is None or path.exists():
        return None
    beside = next((one for end in ("-wal", "-shm") if (one := Path(f"{path}{end}")).exists()), None)
    if beside is not None:
        gone = f"`{path}` is missing, but `{beside}` exists: a server may still use a file that was moved away"
        return DoctorResult(
            "store", DoctorStatus.FAILED, gone, "restore the file, or stop the server and remove the remaining files"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return DoctorResult(
            "store", DoctorStatus.FAILED, f"`{path}` does not exist and cannot be created", "check who owns the folder"
        )
    return DoctorResult("store", DoctorStatus.OK, f"`{path}` does not exist yet: `serve` creates it")


def check_store_clock(name: str, skew: ClockSkew) -> DoctorResult:
    """Compare the clock of this machine with that of a store that answers."""
    from policyengine.stores.clock_skew import format_microseconds

    offset = abs(skew.offset or 0)
    if offset - skew.error > MAX_SKEW_SECONDS * 1_000_000:
        return DoctorResult("store", DoctorStatus.WARNING, skew.reason, NTP_HINT)
    return DoctorResult(
        "store",
        DoctorStatus.OK,
        f"{name} answers; clocks differ by {format_microseconds(offset)} (± {format_microseconds(skew.error)})",
    )

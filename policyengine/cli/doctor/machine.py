"""Checks of the machine: Python, extras, clock, time zones, open files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from policyengine.cli.doctor.model import DoctorResult, DoctorStatus
from policyengine.install_hints import install_command
from policyengine.time_formats import format_epoch_seconds

MIN_PYTHON = (3, 11)
# For each extra of the distribution, the module that exists if it is installed, and what the extra provides.
EXTRAS = {
    "audit": ("duckdb", "`audit pack`, and questions about large logs"),
    "behavior": ("numpy", "groups of callers that move as one, and `behavior learn --on duckdb`"),
    "envoy": ("grpc", "`serve --envoy-grpc`"),
    "fastmcp": ("fastmcp", "`policyengine.integrations.mcp.fastmcp`"),
    "httpx": ("httpx", "`policyengine.client.http`"),
    "mcp": ("mcp", "`mcp-gateway`, and `init --mcp` of a running server"),
    "metrics": ("prometheus_client", "`/metrics`"),
    "openapi": ("yaml", "`init --openapi` of a specification in YAML"),
    "postgres": ("psycopg", "`--store postgresql://…`"),
    "re2": ("re2", "linear-time regular expressions in C"),
    "redis": ("redis", "`--store redis://…`"),
    "sign": ("cryptography", "signed bundles"),
    "bao": ("hvac", "secrets and keys in OpenBao"),
    "identity": ("joserfc", "`--identity`"),
    "spark": ("pyspark", "`behavior learn --on spark`"),
    "sql": ("sqlalchemy", "`--entities` of a database"),
    "testing": ("hypothesis", "`forall` and `--watch` of `policyengine test`"),
}
SPEED_MODULES = ("uvloop", "httptools")
MIN_OPEN_FILES = 4_096
SAMPLE_ZONE = "Europe/Berlin"
MAX_SKEW_SECONDS = 1.0  # tolerated difference of clocks in seconds
NTP_HINT = "synchronize both clocks with NTP (`timedatectl set-ntp true`)"


def check_python(version: tuple[int, ...]) -> DoctorResult:
    told = ".".join(map(str, version))
    if version < MIN_PYTHON:
        return DoctorResult("python", DoctorStatus.FAILED, f"Python {told} is too old", "install Python 3.11 or newer")
    return DoctorResult("python", DoctorStatus.OK, f"Python {told}")


def check_speed() -> Iterator[DoctorResult]:
    missing = [name for name in SPEED_MODULES if find_spec(name) is None]
    if missing:
        hint = f"pip install {' '.join(missing)}"
        yield DoctorResult("speed", DoctorStatus.WARNING, f"the server is slower without {' and '.join(missing)}", hint)
    else:
        yield DoctorResult("speed", DoctorStatus.OK, f"{' and '.join(SPEED_MODULES)} are installed")


def check_extras() -> Iterator[DoctorResult]:
    for name, (module, gives) in EXTRAS.items():
        if find_spec(module) is None:
            hint = install_command(name)
            yield DoctorResult("extras", DoctorStatus.NOTE, f"`{name}` is not installed; it provides {gives}", hint)
    there = [name for name, (module, _) in EXTRAS.items() if find_spec(module) is not None]
    if there:
        yield DoctorResult("extras", DoctorStatus.OK, f"installed: {', '.join(there)}")


def check_clock(now: float) -> DoctorResult:
    """Check the clock, on which rates, approvals and credentials depend. The clock must not show a time before this
    program was installed."""
    installed = os.stat(__file__).st_mtime
    if now < installed - MAX_SKEW_SECONDS:
        late = int(installed - now)
        behind = f"the clock is at least {late:,} s behind: it shows a time before this program was installed"
        return DoctorResult(
            "clock", DoctorStatus.FAILED, behind, "set it, and synchronize it with NTP (`timedatectl set-ntp true`)"
        )
    return DoctorResult("clock", DoctorStatus.OK, format_epoch_seconds(now))


def check_time_zones(zone: str = SAMPLE_ZONE) -> DoctorResult:
    """Check that time zones are available, because policies use hours in time zones."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        return DoctorResult(
            "timezones", DoctorStatus.FAILED, f"the time zone `{zone}` is unknown on this machine", "pip install tzdata"
        )
    return DoctorResult("timezones", DoctorStatus.OK, "time zones are known")


def open_file_limit() -> int | None:
    """Return the limit of open files, or None if it is unlimited."""
    if find_spec("resource") is None:
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def check_open_files(limit: int | None) -> DoctorResult:
    """Check the limit of open files, because each connection uses one."""
    if limit is not None and limit < MIN_OPEN_FILES:
        hint = "`ulimit -n 65536`, or `LimitNOFILE=65536` for systemd"
        return DoctorResult(
            "files", DoctorStatus.WARNING, f"a process may open {limit:,} files, which limits connections", hint
        )
    return DoctorResult(
        "files", DoctorStatus.OK, "no limit" if limit is None else f"a process may open {limit:,} files"
    )

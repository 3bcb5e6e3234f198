"""What `policyengine doctor` looks at: each check finds one thing, how it stands with it and what to do.

A check leaves nothing behind, but for the file of a SQLite store that was not there. Only what is named on the command
line, in `identity.toml` or, with that, as an issuer or attester of the policies, is reached over a network.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.doctor.file_modes import (
    FileModeRule,
    check_file_modes,
    check_policy_files,
    identity_files,
    store_files,
)
from policyengine.cli.doctor.model import DoctorPlan, DoctorResult, DoctorStatus
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import BUNDLE, load_engine
from policyengine.cli.settings.file import load_settings
from policyengine.install_hints import install_command
from policyengine.trusted_files import OTHERS_WRITE

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.stores.clock_skew import ClockSkew

MIN_PYTHON = (3, 11)
# Modules that stand for extras of the distribution, and what each gives.
EXTRAS = {
    "envoy": ("grpc", "`serve --envoy-grpc`"),
    "fastmcp": ("fastmcp", "`policyengine.integrations.mcp.fastmcp`"),
    "httpx": ("httpx", "`policyengine.client.http`"),
    "mcp": ("mcp", "`mcp-gateway`, and `init --mcp` of a server that is asked"),
    "metrics": ("prometheus_client", "`/metrics`"),
    "openapi": ("yaml", "`init --openapi` of a specification in YAML"),
    "re2": ("re2", "regular expressions in time that is linear, in C"),
    "redis": ("redis", "`--store redis://…`"),
    "sign": ("cryptography", "signed bundles"),
    "bao": ("hvac", "secrets and keys in OpenBao"),
    "identity": ("joserfc", "`--identity`"),
    "sql": ("sqlalchemy", "`--entities` of a database"),
    "testing": ("hypothesis", "`forall` and `--watch` of `policyengine test`"),
}
SPEED_MODULES = ("uvloop", "httptools")
MIN_OPEN_FILES = 4_096
LOW_DISK_BYTES, MIN_DISK_BYTES = 1024**3, 64 * 1024**2  # bytes
MAX_SKEW_SECONDS = 1.0  # seconds
NTP_HINT = "keep both clocks by NTP (`timedatectl set-ntp true`)"
SAMPLE_ZONE = "Europe/Berlin"
OTHERS_READ = 0o077


def run_checks(plan: DoctorPlan) -> Iterator[DoctorResult]:
    """Of the machine first, then of what is to be served."""
    yield check_python(sys.version_info[:2])
    yield from check_speed()
    yield from check_extras()
    yield check_clock(time.time())
    yield check_time_zones()
    yield check_open_files(open_file_limit())
    yield from check_ports(plan)
    if plan.socket is not None:
        yield check_unix_socket(plan.socket)
    if plan.tokens is not None:
        yield check_token_file(plan.tokens)
    yield from check_authzen_callers(plan)
    if plan.log is not None:
        yield check_log(plan.log)
    stored = check_store(plan.store)
    yield stored
    yield from check_file_modes(files_to_check(plan))
    if plan.paths:
        yield from check_policies(plan, answers=stored.status is not DoctorStatus.FAILED)
    elif plan.identity is not None:
        hint = f"`policyengine doctor PATH --identity {plan.identity}`"
        yield DoctorResult(
            "identity", DoctorStatus.WARNING, f"`{plan.identity}` is looked at beside its policies only", hint
        )


def files_to_check(plan: DoctorPlan) -> Iterator[FileModeRule]:
    """Files that are to be this user's alone, or that nobody else is to write."""
    if plan.log is not None:
        yield FileModeRule("log", plan.log, OTHERS_WRITE, "600")  # who may read it `log` says
    if plan.tokens is not None:
        yield FileModeRule("tokens", plan.tokens, OTHERS_WRITE, "600")
    yield from store_files(plan.store)
    if plan.identity is not None:
        yield from identity_files(plan.identity)
    for path in plan.trusted or ():
        yield FileModeRule("keys", path, OTHERS_WRITE, "go-w")
    with suppress(CommandError):
        if (settings := load_settings(plan.paths).file) is not None:
            yield FileModeRule("configuration", settings, OTHERS_WRITE, "go-w")


# ── The machine ───────────────────────────────────────────────────────────────────────────────


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
        yield DoctorResult("speed", DoctorStatus.OK, f"{' and '.join(SPEED_MODULES)} are there")


def check_extras() -> Iterator[DoctorResult]:
    for name, (module, gives) in EXTRAS.items():
        if find_spec(module) is None:
            hint = install_command(name)
            yield DoctorResult("extras", DoctorStatus.NOTE, f"without `{name}` there is no {gives}", hint)
    there = [name for name, (module, _) in EXTRAS.items() if find_spec(module) is not None]
    if there:
        yield DoctorResult("extras", DoctorStatus.OK, f"there are {', '.join(there)}")


def check_clock(now: float) -> DoctorResult:
    """Rates, approvals and credentials rest on it. It cannot be before this program was put here."""
    installed = os.stat(__file__).st_mtime
    if now < installed - MAX_SKEW_SECONDS:
        behind = f"the clock is at least {int(installed - now):,} s behind: this program was installed later than now"
        return DoctorResult(
            "clock", DoctorStatus.FAILED, behind, "set it, and keep it by NTP (`timedatectl set-ntp true`)"
        )
    return DoctorResult("clock", DoctorStatus.OK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def check_time_zones(zone: str = SAMPLE_ZONE) -> DoctorResult:
    """Policies speak of hours in time zones."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        return DoctorResult(
            "timezones", DoctorStatus.FAILED, f"the time zone `{zone}` is not known here", "pip install tzdata"
        )
    return DoctorResult("timezones", DoctorStatus.OK, "time zones are known")


def open_file_limit() -> int | None:
    """None where there is no such limit."""
    if find_spec("resource") is None:
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def check_open_files(limit: int | None) -> DoctorResult:
    """Each connection is an open file."""
    if limit is not None and limit < MIN_OPEN_FILES:
        hint = "`ulimit -n 65536`, or `LimitNOFILE=65536` for systemd"
        return DoctorResult(
            "files", DoctorStatus.WARNING, f"a process may open {limit:,} files: so many connections", hint
        )
    return DoctorResult(
        "files", DoctorStatus.OK, "no limit" if limit is None else f"a process may open {limit:,} files"
    )


# ── Where it listens ──────────────────────────────────────────────────────────────────────────


def check_ports(plan: DoctorPlan) -> Iterator[DoctorResult]:
    """Questions need a token where others can ask; metrics do not."""
    from policyengine.server.listeners import ServeError, bind_listener, port_listener, resolve_address

    for option, port in plan.ports:
        try:
            if option == "--metrics-port":
                bind_listener(resolve_address(plan.host, port), plan.host, option).close()
            else:
                port_listener(plan.host, port, plan.tokens is not None).close()
        except ServeError as error:
            yield DoctorResult("port", DoctorStatus.FAILED, error.message, error.hint)
        else:
            free = f"port {port} on `{plan.host}` is free" if port else f"there is a free port on `{plan.host}`"
            yield DoctorResult("port", DoctorStatus.OK, free)


def check_unix_socket(path: Path) -> DoctorResult:
    from policyengine.server.listeners import ServeError, unix_listener

    try:
        with unix_listener(path, 0o600):
            return DoctorResult("socket", DoctorStatus.OK, f"`{path}` can be listened at")
    except ServeError as error:
        return DoctorResult("socket", DoctorStatus.FAILED, error.message, error.hint)


def check_token_file(path: Path) -> DoctorResult:
    from policyengine.server.bearer_tokens import BearerTokenError, read_token_file

    try:
        found = read_token_file(path)
    except BearerTokenError as error:
        return DoctorResult("tokens", DoctorStatus.FAILED, error.message, error.hint)
    if found.warning is not None:
        return DoctorResult(
            "tokens",
            DoctorStatus.WARNING,
            f"everybody on this machine can read `{path}`",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return DoctorResult("tokens", DoctorStatus.OK, f"`{path}` holds {len(found.tokens)}")


def check_authzen_callers(plan: DoctorPlan) -> Iterator[DoctorResult]:
    """Whether each caller that AuthZEN spends for has a token; files that cannot be read are found by others."""
    from policyengine.server.bearer_tokens import BearerTokenError, BearerTokens, check_consumers, read_token_file

    try:
        given = None if plan.tokens is None else BearerTokens.of(read_token_file(plan.tokens).tokens)
        consume = load_settings(plan.paths).authzen_consume
    except (BearerTokenError, CommandError):
        return
    try:
        check_consumers(consume, given)
    except BearerTokenError as error:
        yield DoctorResult("authzen", DoctorStatus.FAILED, error.message, error.hint)


# ── What it writes to ─────────────────────────────────────────────────────────────────────────


def check_log(path: Path) -> DoctorResult:
    folder = path.parent
    if not folder.is_dir():
        return DoctorResult("log", DoctorStatus.FAILED, f"there is no folder `{folder}`", f"mkdir -p {folder}")
    place = path if path.exists() else folder
    if path.exists() and not path.is_file():
        return DoctorResult(
            "log", DoctorStatus.FAILED, f"`{path}` is no file", "name a file: lines stay whole in files only"
        )
    if not os.access(place, os.W_OK):
        return DoctorResult(
            "log", DoctorStatus.FAILED, f"`{place}` cannot be written to", "every decision would be denied"
        )
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        status = DoctorStatus.FAILED if free < MIN_DISK_BYTES else DoctorStatus.WARNING
        hint = "make room, or move old logs away: what cannot be written down is denied"
        return DoctorResult("log", status, f"{free // 1024**2:,} MiB are free at `{folder}`", hint)
    if path.exists() and path.stat().st_mode & OTHERS_READ:
        return DoctorResult(
            "log",
            DoctorStatus.WARNING,
            f"others may read `{path}`: it holds what was asked",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return DoctorResult("log", DoctorStatus.OK, f"`{path}` can be written to, {free // 1024**3:,} GiB are free")


def check_store(url: str) -> DoctorResult:
    from policyengine.stores.base import StoreError
    from policyengine.stores.clock_skew import ClockSkewError, system_time
    from policyengine.stores.resilient_store import ResilientStore
    from policyengine.stores.url import StoreUrlError, open_store

    try:
        absent = check_missing_store_file(url)
        if absent is not None:
            return absent
        found = open_store(url)
        if not isinstance(found, ResilientStore):
            hint = "`--store sqlite:///store.db` or `redis://…` keeps it (docs/stores.md)"
            return DoctorResult(
                "store", DoctorStatus.NOTE, "what decisions spend is in memory: a restart forgets it", hint
            )
        with closing(found):
            name = found.about()
            found.check(system_time())
            found.inspect(0)
    except StoreUrlError as error:
        return DoctorResult("store", DoctorStatus.FAILED, error.message, error.hint)
    except ClockSkewError as error:
        hint = f"{NTP_HINT}: what rests on the store is denied as long as they differ by more than `skew` of its URL"
        return DoctorResult("store", DoctorStatus.FAILED, error.reason, hint)
    except StoreError as error:
        return DoctorResult("store", DoctorStatus.FAILED, f"the store does not answer: {error}", "see that it runs")
    return check_store_clock(name, found.skew)


def chmod_command(path: Path) -> str:
    return f"chmod 600 {shlex.quote(str(path))}"


def check_missing_store_file(url: str) -> DoctorResult | None:
    """Of a file of SQLite that is not there: a look makes none."""
    from policyengine.stores.url import parse_store_url, sqlite_path

    path = Path(sqlite_path(parse_store_url(url))) if url.startswith("sqlite:") else None
    if path is None or path.exists():
        return None
    beside = next((one for end in ("-wal", "-shm") if (one := Path(f"{path}{end}")).exists()), None)
    if beside is not None:
        gone = f"`{path}` is gone, and `{beside}` is there: a server may use what was moved away"
        return DoctorResult(
            "store", DoctorStatus.FAILED, gone, "put the file back, or stop the server and remove what is left"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return DoctorResult(
            "store", DoctorStatus.FAILED, f"`{path}` is not there, and cannot be made", "see who owns the folder"
        )
    return DoctorResult("store", DoctorStatus.OK, f"`{path}` is not there yet: `serve` makes it")


def check_store_clock(name: str, skew: ClockSkew) -> DoctorResult:
    """Of this machine and of a store that answers."""
    from policyengine.stores.clock_skew import format_microseconds

    offset = abs(skew.offset or 0)
    if offset - skew.error > MAX_SKEW_SECONDS * 1_000_000:
        return DoctorResult("store", DoctorStatus.WARNING, skew.reason, NTP_HINT)
    return DoctorResult(
        "store",
        DoctorStatus.OK,
        f"{name} answers; clocks differ by {format_microseconds(offset)} (± {format_microseconds(skew.error)})",
    )


# ── What it decides by ────────────────────────────────────────────────────────────────────────


def check_policies(plan: DoctorPlan, answers: bool) -> Iterator[DoctorResult]:
    """Policies are no worse where the store does not answer; whether workers share it nobody knows then."""
    from policyengine.server.listeners import ServeError
    from policyengine.server.workers.pool import check_workers

    yield from check_policy_files(plan.paths)
    try:
        yield from check_project_settings(plan.paths)
        store = plan.store if answers else "memory:"
        engine = load_engine(plan.paths, plan.entities, plan.trusted, store=store, identity=plan.identity)
    except CommandError as error:
        status = f"`policyengine check {' '.join(map(str, plan.paths))}` shows all of it"
        yield DoctorResult(
            error.kind, DoctorStatus.FAILED, error.message, error.hint if error.kind != "policy" else status
        )
        return
    yield policies_result(engine, plan.paths)
    yield from check_absences(plan, engine)
    if plan.entities and not any(path.suffix == BUNDLE for path in plan.paths):
        yield check_entity_rows(engine, plan.paths, plan.entities)
    if plan.identity is not None:
        yield from check_issuers(plan.identity, engine)
    try:
        if answers:
            check_workers(engine, plan.workers)
    except ServeError as error:
        yield DoctorResult("workers", DoctorStatus.FAILED, error.message, error.hint)


def policies_result(engine: Engine, paths: Sequence[Path]) -> DoctorResult:
    many = len(engine.warnings)
    if many:
        hint = f"`policyengine check {' '.join(map(str, paths))}` shows them"
        return DoctorResult("policies", DoctorStatus.WARNING, f"{many:,} warning{'' if many == 1 else 's'}", hint)
    return DoctorResult("policies", DoctorStatus.OK, f"{', '.join(engine.packages)} can be served")


def check_absences(plan: DoctorPlan, engine: Engine) -> Iterator[DoctorResult]:
    """What no gateway shows whose adapter would be open."""
    from policyengine.cli.absence_warnings import ABSENCE_HINT, HTTP_ADAPTERS, HiddenAbsences
    from policyengine.http.completeness import GatewayAdapter

    named = {option for option, _ in plan.ports}
    adapters = [
        *(HTTP_ADAPTERS if "--port" in named else ()),
        *([GatewayAdapter.ENVOY_GRPC] if "--envoy-grpc" in named else ()),
    ]
    names = load_settings(plan.paths).gateway
    found = HiddenAbsences.of(engine.kernel, names, adapters, proves=plan.identity is not None)
    if found:
        yield DoctorResult("gateways", DoctorStatus.NOTE, found.message, ABSENCE_HINT, tuple(found.lines()))


def check_entity_rows(engine: Engine, paths: Sequence[Path], entities: Sequence[str]) -> DoctorResult:
    """Whether what the policies read of entities is supplied by something."""
    from policyengine.cli.commands.check import check_files, find_unsupplied

    many = len(find_unsupplied(check_files(paths)[0], engine.directory))
    if not many:
        return DoctorResult("entities", DoctorStatus.OK, "the rows have what the policies read")
    named = " ".join(f"--entities {one}" for one in entities)
    hint = f"`policyengine check {' '.join(map(str, paths))} {named}` shows it"
    message = f"{many:,} thing{'' if many == 1 else 's'} that the policies read will be unknown"
    return DoctorResult("entities", DoctorStatus.WARNING, message, hint)


def check_issuers(file: Path, engine: Engine) -> Iterator[DoctorResult]:
    """Of an `identity.toml` that the engine has read: whether each issuer and attester tells its keys now."""
    from policyengine.identity.config.model import read_identity_config
    from policyengine.identity.config.preflight import check_key_sources, find_unknown_agents

    configuration = read_identity_config(file)
    yield DoctorResult("identity", DoctorStatus.OK, f"`{file}` fits the policies")
    if not configuration.identity.hosts:
        message = "a proof for another service counts here where that passes it on, with its own name in `Host`"
        yield DoctorResult(
            "hosts", DoctorStatus.WARNING, message, 'name yours: `[identity]` `hosts = ["api.acme.example"]`'
        )
    for client, agent, meant in find_unknown_agents(configuration, engine.kernel):
        message = f"`clients.{client}.agent`: no agent of the policies is called `{agent}`, so it gets no token"
        yield DoctorResult("identity", DoctorStatus.WARNING, message, meant)
    for key_source in check_key_sources(configuration, engine.kernel):
        what = "tokens" if key_source.kind == "issuer" else "attestations"
        if key_source.problem is not None:
            hint = f"until they are, its {what} are refused by the code `provider`"
            yield DoctorResult(
                key_source.kind,
                DoctorStatus.WARNING,
                f"the keys of `{key_source.name}` cannot be read: {key_source.problem}",
                hint,
            )
        elif not key_source.keys:
            hint = (
                "public keys count that are for signatures (`use`, `key_ops`) and strong enough, without private parts"
            )
            yield DoctorResult(
                key_source.kind, DoctorStatus.WARNING, f"`{key_source.name}` has no key that could be used", hint
            )
        else:
            many = "1 key" if key_source.keys == 1 else f"{key_source.keys:,} keys"
            yield DoctorResult(key_source.kind, DoctorStatus.OK, f"`{key_source.name}` tells {many}")


def check_project_settings(paths: Sequence[Path]) -> Iterator[DoctorResult]:
    """Raises CommandError for what is wrong in `policyengine.toml`."""
    found = load_settings(paths)
    if found.file is None:
        yield DoctorResult(
            "configuration", DoctorStatus.NOTE, "there is no `policyengine.toml`: everything is as by default"
        )
    else:
        headers = ", ".join(sorted(found.gateway.facts.values()))
        yield DoctorResult("configuration", DoctorStatus.OK, f"`{found.file}`: gateways say who asks in {headers}")
        if found.gateway.agent_id == "":
            hint = "name the header in which the gateway sets it: `[gateway]`, `agent_id`"
            yield DoctorResult("configuration", DoctorStatus.WARNING, "no header says which agent asks", hint)
    if getattr(found, "observe", None) is not None:
        hint = "take `[observe]` out of it once nothing is reported any more (docs/observe.md)"
        yield DoctorResult("observe", DoctorStatus.WARNING, "it observes: what policies deny passes all the same", hint)

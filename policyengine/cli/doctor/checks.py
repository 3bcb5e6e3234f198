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

from policyengine.cli.doctor.file_modes import WatchedFile, file_findings, identity_files, policy_finding, store_files
from policyengine.cli.doctor.findings import Finding, Plan, Status
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import BUNDLE, load_engine
from policyengine.cli.settings.file import configuration_of
from policyengine.extras import install_command
from policyengine.trusted_files import OTHERS_WRITE

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.stores.clock_skew import ClockSkew

OLDEST_PYTHON = (3, 11)
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
QUICK = ("uvloop", "httptools")
FEWEST_FILES = 4_096
LITTLE_ROOM, NO_ROOM = 1024**3, 64 * 1024**2  # bytes
LARGEST_SKEW = 1.0  # seconds
BY_NTP = "keep both clocks by NTP (`timedatectl set-ntp true`)"
ZONE = "Europe/Berlin"
OTHERS_READ = 0o077


def findings(plan: Plan) -> Iterator[Finding]:
    """Of the machine first, then of what is to be served."""
    yield python(sys.version_info[:2])
    yield from speed()
    yield from extras()
    yield clock(time.time())
    yield zones()
    yield files(files_limit())
    yield from ports(plan)
    if plan.socket is not None:
        yield unix_socket(plan.socket)
    if plan.tokens is not None:
        yield tokens(plan.tokens)
    yield from consumers(plan)
    if plan.log is not None:
        yield log(plan.log)
    stored = store(plan.store)
    yield stored
    yield from file_findings(watched(plan))
    if plan.paths:
        yield from policies(plan, answers=stored.status is not Status.FAILED)
    elif plan.identity is not None:
        hint = f"`policyengine doctor PATH --identity {plan.identity}`"
        yield Finding("identity", Status.WARNING, f"`{plan.identity}` is looked at beside its policies only", hint)


def watched(plan: Plan) -> Iterator[WatchedFile]:
    """Files that are to be this user's alone, or that nobody else is to write."""
    if plan.log is not None:
        yield WatchedFile("log", plan.log, OTHERS_WRITE, "600")  # who may read it `log` says
    if plan.tokens is not None:
        yield WatchedFile("tokens", plan.tokens, OTHERS_WRITE, "600")
    yield from store_files(plan.store)
    if plan.identity is not None:
        yield from identity_files(plan.identity)
    for path in plan.trusted or ():
        yield WatchedFile("keys", path, OTHERS_WRITE, "go-w")
    with suppress(CommandError):
        if (settings := configuration_of(plan.paths).file) is not None:
            yield WatchedFile("configuration", settings, OTHERS_WRITE, "go-w")


# ── The machine ───────────────────────────────────────────────────────────────────────────────


def python(version: tuple[int, ...]) -> Finding:
    told = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Finding("python", Status.FAILED, f"Python {told} is too old", "install Python 3.11 or newer")
    return Finding("python", Status.OK, f"Python {told}")


def speed() -> Iterator[Finding]:
    missing = [name for name in QUICK if find_spec(name) is None]
    if missing:
        hint = f"pip install {' '.join(missing)}"
        yield Finding("speed", Status.WARNING, f"the server is slower without {' and '.join(missing)}", hint)
    else:
        yield Finding("speed", Status.OK, f"{' and '.join(QUICK)} are there")


def extras() -> Iterator[Finding]:
    for name, (module, gives) in EXTRAS.items():
        if find_spec(module) is None:
            hint = install_command(name)
            yield Finding("extras", Status.NOTE, f"without `{name}` there is no {gives}", hint)
    there = [name for name, (module, _) in EXTRAS.items() if find_spec(module) is not None]
    if there:
        yield Finding("extras", Status.OK, f"there are {', '.join(there)}")


def clock(now: float) -> Finding:
    """Rates, approvals and credentials rest on it. It cannot be before this program was put here."""
    installed = os.stat(__file__).st_mtime
    if now < installed - LARGEST_SKEW:
        behind = f"the clock is at least {int(installed - now):,} s behind: this program was installed later than now"
        return Finding("clock", Status.FAILED, behind, "set it, and keep it by NTP (`timedatectl set-ntp true`)")
    return Finding("clock", Status.OK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def zones(zone: str = ZONE) -> Finding:
    """Policies speak of hours in time zones."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        return Finding("timezones", Status.FAILED, f"the time zone `{zone}` is not known here", "pip install tzdata")
    return Finding("timezones", Status.OK, "time zones are known")


def files_limit() -> int | None:
    """None where there is no such limit."""
    if find_spec("resource") is None:
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def files(limit: int | None) -> Finding:
    """Each connection is an open file."""
    if limit is not None and limit < FEWEST_FILES:
        hint = "`ulimit -n 65536`, or `LimitNOFILE=65536` for systemd"
        return Finding("files", Status.WARNING, f"a process may open {limit:,} files: so many connections", hint)
    return Finding("files", Status.OK, "no limit" if limit is None else f"a process may open {limit:,} files")


# ── Where it listens ──────────────────────────────────────────────────────────────────────────


def ports(plan: Plan) -> Iterator[Finding]:
    """Questions need a token where others can ask; metrics do not."""
    from policyengine.server.listeners import ServeError, bound, port_listener, resolved

    for option, port in plan.ports:
        try:
            if option == "--metrics-port":
                bound(resolved(plan.host, port), plan.host, option).close()
            else:
                port_listener(plan.host, port, plan.tokens is not None).close()
        except ServeError as error:
            yield Finding("port", Status.FAILED, error.message, error.hint)
        else:
            free = f"port {port} on `{plan.host}` is free" if port else f"there is a free port on `{plan.host}`"
            yield Finding("port", Status.OK, free)


def unix_socket(path: Path) -> Finding:
    from policyengine.server.listeners import ServeError, unix_listener

    try:
        with unix_listener(path, 0o600):
            return Finding("socket", Status.OK, f"`{path}` can be listened at")
    except ServeError as error:
        return Finding("socket", Status.FAILED, error.message, error.hint)


def tokens(path: Path) -> Finding:
    from policyengine.server.bearer_tokens import TokenError, read_token_file

    try:
        found = read_token_file(path)
    except TokenError as error:
        return Finding("tokens", Status.FAILED, error.message, error.hint)
    if found.warning is not None:
        return Finding(
            "tokens",
            Status.WARNING,
            f"everybody on this machine can read `{path}`",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return Finding("tokens", Status.OK, f"`{path}` holds {len(found.tokens)}")


def consumers(plan: Plan) -> Iterator[Finding]:
    """Whether each caller that AuthZEN spends for has a token; files that cannot be read are found by others."""
    from policyengine.server.bearer_tokens import TokenError, Tokens, check_consumers, read_token_file

    try:
        given = None if plan.tokens is None else Tokens.of(read_token_file(plan.tokens).tokens)
        consume = configuration_of(plan.paths).authzen_consume
    except (TokenError, CommandError):
        return
    try:
        check_consumers(consume, given)
    except TokenError as error:
        yield Finding("authzen", Status.FAILED, error.message, error.hint)


# ── What it writes to ─────────────────────────────────────────────────────────────────────────


def log(path: Path) -> Finding:
    folder = path.parent
    if not folder.is_dir():
        return Finding("log", Status.FAILED, f"there is no folder `{folder}`", f"mkdir -p {folder}")
    place = path if path.exists() else folder
    if path.exists() and not path.is_file():
        return Finding("log", Status.FAILED, f"`{path}` is no file", "name a file: lines stay whole in files only")
    if not os.access(place, os.W_OK):
        return Finding("log", Status.FAILED, f"`{place}` cannot be written to", "every decision would be denied")
    free = shutil.disk_usage(folder).free
    if free < LITTLE_ROOM:
        status = Status.FAILED if free < NO_ROOM else Status.WARNING
        hint = "make room, or move old logs away: what cannot be written down is denied"
        return Finding("log", status, f"{free // 1024**2:,} MiB are free at `{folder}`", hint)
    if path.exists() and path.stat().st_mode & OTHERS_READ:
        return Finding(
            "log",
            Status.WARNING,
            f"others may read `{path}`: it holds what was asked",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return Finding("log", Status.OK, f"`{path}` can be written to, {free // 1024**3:,} GiB are free")


def store(url: str) -> Finding:
    from policyengine.stores.base import StoreError
    from policyengine.stores.clock_skew import ClockSkewError, system_time
    from policyengine.stores.open import StoreUrlError, open_store
    from policyengine.stores.resilient_store import GuardedStore

    try:
        absent = absent_file(url)
        if absent is not None:
            return absent
        found = open_store(url)
        if not isinstance(found, GuardedStore):
            hint = "`--store sqlite:///store.db` or `redis://…` keeps it (docs/stores.md)"
            return Finding("store", Status.NOTE, "what decisions spend is in memory: a restart forgets it", hint)
        with closing(found):
            name = found.about()
            found.check(system_time())
            found.inspect(0)
    except StoreUrlError as error:
        return Finding("store", Status.FAILED, error.message, error.hint)
    except ClockSkewError as error:
        hint = f"{BY_NTP}: what rests on the store is denied as long as they differ by more than `skew` of its URL"
        return Finding("store", Status.FAILED, error.reason, hint)
    except StoreError as error:
        return Finding("store", Status.FAILED, f"the store does not answer: {error}", "see that it runs")
    return clocks(name, found.skew)


def private(path: Path) -> str:
    return f"chmod 600 {shlex.quote(str(path))}"


def absent_file(url: str) -> Finding | None:
    """Of a file of SQLite that is not there: a look makes none."""
    from policyengine.stores.open import address_of, sqlite_path

    path = Path(sqlite_path(address_of(url))) if url.startswith("sqlite:") else None
    if path is None or path.exists():
        return None
    beside = next((one for end in ("-wal", "-shm") if (one := Path(f"{path}{end}")).exists()), None)
    if beside is not None:
        gone = f"`{path}` is gone, and `{beside}` is there: a server may use what was moved away"
        return Finding("store", Status.FAILED, gone, "put the file back, or stop the server and remove what is left")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding("store", Status.FAILED, f"`{path}` is not there, and cannot be made", "see who owns the folder")
    return Finding("store", Status.OK, f"`{path}` is not there yet: `serve` makes it")


def clocks(name: str, skew: ClockSkew) -> Finding:
    """Of this machine and of a store that answers."""
    from policyengine.stores.clock_skew import lasting

    offset = abs(skew.offset or 0)
    if offset - skew.error > LARGEST_SKEW * 1_000_000:
        return Finding("store", Status.WARNING, skew.reason, BY_NTP)
    return Finding("store", Status.OK, f"{name} answers; clocks differ by {lasting(offset)} (± {lasting(skew.error)})")


# ── What it decides by ────────────────────────────────────────────────────────────────────────


def policies(plan: Plan, answers: bool) -> Iterator[Finding]:
    """Policies are no worse where the store does not answer; whether workers share it nobody knows then."""
    from policyengine.server.listeners import ServeError
    from policyengine.server.workers.pool import check_workers

    yield from policy_finding(plan.paths)
    try:
        yield from gateway(plan.paths)
        store = plan.store if answers else "memory:"
        engine = load_engine(plan.paths, plan.entities, plan.trusted, store=store, identity=plan.identity)
    except CommandError as error:
        status = f"`policyengine check {' '.join(map(str, plan.paths))}` shows all of it"
        yield Finding(error.kind, Status.FAILED, error.message, error.hint if error.kind != "policy" else status)
        return
    yield checked(engine, plan.paths)
    yield from absences(plan, engine)
    if plan.entities and not any(path.suffix == BUNDLE for path in plan.paths):
        yield supplied(engine, plan.paths, plan.entities)
    if plan.identity is not None:
        yield from issuers(plan.identity, engine)
    try:
        if answers:
            check_workers(engine, plan.workers)
    except ServeError as error:
        yield Finding("workers", Status.FAILED, error.message, error.hint)


def checked(engine: Engine, paths: Sequence[Path]) -> Finding:
    many = len(engine.warnings)
    if many:
        hint = f"`policyengine check {' '.join(map(str, paths))}` shows them"
        return Finding("policies", Status.WARNING, f"{many:,} warning{'' if many == 1 else 's'}", hint)
    return Finding("policies", Status.OK, f"{', '.join(engine.packages)} can be served")


def absences(plan: Plan, engine: Engine) -> Iterator[Finding]:
    """What no gateway shows whose adapter would be open."""
    from policyengine.cli.absence_warnings import HINT, OVER_HTTP, HiddenAbsences
    from policyengine.http.completeness import Adapter

    named = {option for option, _ in plan.ports}
    adapters = [*(OVER_HTTP if "--port" in named else ()), *([Adapter.ENVOY_GRPC] if "--envoy-grpc" in named else ())]
    names = configuration_of(plan.paths).gateway
    found = HiddenAbsences.of(engine.kernel, names, adapters, proves=plan.identity is not None)
    if found:
        shown = "".join(f"\n  {line}" for line in found.lines())
        yield Finding("gateways", Status.NOTE, f"{found.message}{shown}", HINT)


def supplied(engine: Engine, paths: Sequence[Path], entities: Sequence[str]) -> Finding:
    """Whether what the policies read of entities is supplied by something."""
    from policyengine.cli.commands.check import check_files, unsupplied

    many = len(unsupplied(check_files(paths)[0], engine.directory))
    if not many:
        return Finding("entities", Status.OK, "the rows have what the policies read")
    named = " ".join(f"--entities {one}" for one in entities)
    hint = f"`policyengine check {' '.join(map(str, paths))} {named}` shows it"
    message = f"{many:,} thing{'' if many == 1 else 's'} that the policies read will be unknown"
    return Finding("entities", Status.WARNING, message, hint)


def issuers(file: Path, engine: Engine) -> Iterator[Finding]:
    """Of an `identity.toml` that the engine has read: whether each issuer and attester tells its keys now."""
    from policyengine.identity.config.model import read_configuration
    from policyengine.identity.config.preflight import looked, strangers

    configuration = read_configuration(file)
    yield Finding("identity", Status.OK, f"`{file}` fits the policies")
    if not configuration.identity.hosts:
        message = "a proof for another service counts here where that passes it on, with its own name in `Host`"
        yield Finding("hosts", Status.WARNING, message, 'name yours: `[identity]` `hosts = ["api.acme.example"]`')
    for client, agent, meant in strangers(configuration, engine.kernel):
        message = f"`clients.{client}.agent`: no agent of the policies is called `{agent}`, so it gets no token"
        yield Finding("identity", Status.WARNING, message, meant)
    for one in looked(configuration, engine.kernel):
        what = "tokens" if one.kind == "issuer" else "attestations"
        if one.problem is not None:
            hint = f"until they are, its {what} are refused by the code `provider`"
            yield Finding(one.kind, Status.WARNING, f"the keys of `{one.name}` cannot be read: {one.problem}", hint)
        elif not one.keys:
            hint = (
                "public keys count that are for signatures (`use`, `key_ops`) and strong enough, without private parts"
            )
            yield Finding(one.kind, Status.WARNING, f"`{one.name}` has no key that could be used", hint)
        else:
            many = "1 key" if one.keys == 1 else f"{one.keys:,} keys"
            yield Finding(one.kind, Status.OK, f"`{one.name}` tells {many}")


def gateway(paths: Sequence[Path]) -> Iterator[Finding]:
    """Raises CommandError for what is wrong in `policyengine.toml`."""
    found = configuration_of(paths)
    if found.file is None:
        yield Finding("configuration", Status.NOTE, "there is no `policyengine.toml`: everything is as by default")
    else:
        headers = ", ".join(sorted(found.gateway.facts.values()))
        yield Finding("configuration", Status.OK, f"`{found.file}`: gateways say who asks in {headers}")
        if found.gateway.agent_id == "":
            hint = "name the header in which the gateway sets it: `[gateway]`, `agent_id`"
            yield Finding("configuration", Status.WARNING, "no header says which agent asks", hint)
    if getattr(found, "observe", None) is not None:
        hint = "take `[observe]` out of it once nothing is reported any more (docs/observe.md)"
        yield Finding("observe", Status.WARNING, "it observes: what policies deny passes all the same", hint)

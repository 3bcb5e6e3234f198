"""`policyengine mcp-gateway`: a proxy that puts policies in front of any MCP server."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.bounded_files import MAX_SETTINGS, read_bounded
from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.load_engine import entity_sources, following_of, held_to_tests, load_engine
from policyengine.cli.options.common import EntitySources, IdentityFile, PoliciesOrBundle, StoreUrl, TrustedKeys
from policyengine.cli.options.log import Recorded, log_of, recorded_to
from policyengine.cli.options.mcp_gateway import (
    AnswerSeconds,
    Behind,
    HandedOn,
    HttpPort,
    LocalHost,
    Said,
    SaidByHeader,
    ServerName,
    UpstreamToken,
)
from policyengine.cli.options.mcp_gateway_names import check_names
from policyengine.cli.options.observe import Asked, observe
from policyengine.cli.options.reload_rules import reload_rules, settings_file
from policyengine.cli.options.serve import (
    AllowedHost,
    Forced,
    Gated,
    LogCompress,
    LogFile,
    LogKeep,
    LogRotate,
    LogSync,
    Observed,
    ObservedEndpoint,
    ObservedPackage,
    ObservedUntil,
    OnLogFailure,
    Redacted,
    ReloadAllow,
    ReloadCompare,
    ReloadGateOption,
    TestFirst,
    WatchFiles,
    WhenUnrecorded,
)
from policyengine.cli.settings.file import configuration_of
from policyengine.extras import install_command

if TYPE_CHECKING:
    from policyengine.entities.watch import Following
    from policyengine.reload import Reloading

WORDS = ("agent", "issuer", "user", "scopes")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
URLS = ("http://", "https://")
STOP = 2.0  # seconds that a stop may take: streams that clients listen at do not end by themselves


def mcp_gateway(
    paths: PoliciesOrBundle,
    upstream: Behind,
    server: ServerName,
    identity: Said = None,
    header: SaidByHeader = None,
    host: LocalHost = "127.0.0.1",
    port: HttpPort = None,
    allowed_host: AllowedHost = None,
    timeout: AnswerSeconds = 60.0,
    env: HandedOn = None,
    token_file: UpstreamToken = None,
    log: LogFile = None,
    on_log_failure: OnLogFailure = WhenUnrecorded.DENY,
    redact: Redacted = None,
    observing: Observed = None,
    observe_until: ObservedUntil = None,
    observe_package: ObservedPackage = None,
    observe_endpoint: ObservedEndpoint = None,
    log_rotate: LogRotate = None,
    log_keep: LogKeep = None,
    log_compress: LogCompress = False,
    log_sync: LogSync = Forced.NEVER,
    store: StoreUrl = "memory:",
    entities: EntitySources = None,
    identity_file: IdentityFile = None,
    trust: TrustedKeys = None,
    watch: WatchFiles = False,
    test: TestFirst = False,
    reload_allow: ReloadAllow = None,
    reload_gate: ReloadGateOption = Gated.NONE,
    reload_compare: ReloadCompare = 30,
) -> int:
    """Put policies in front of an MCP server.

    It is a proxy over stdio, or over HTTP with --port. Calls are decided with their arguments, lists show what the
    caller may use, everything else is closed. Who asks is what --as says, or with --identity what the caller's token
    proves. It listens on this machine only.

    SIGHUP makes it read its policies and entities anew, `--watch` whenever a file changes, as `serve` does: bad ones
    are refused, and the last good ones go on.

    \b
    Example:
      policyengine mcp-gateway policies/ --upstream "python server.py" --server files --as agent=coder --as issuer=local
      policyengine mcp-gateway policies/ --upstream http://127.0.0.1:8000/mcp --server files --as agent=coder -p 8081
    """
    from policyengine.reload import Origin, Reloading

    words = words_of(identity, "--as"), words_of(header, "--from-header")
    front = Front(upstream, server, *words, identity_file is not None, host, port, timeout, allowed_host or ())
    check(front)
    token, environment = token_of(token_file), environment_of(env or ())
    recorded = Recorded(log, on_log_failure, redact, log_rotate, log_keep, log_compress, log_sync)
    configuration = configuration_of(paths)
    rules = reload_rules(paths, reload_allow or (), reload_gate, reload_compare)
    need_sdk()
    with recorded_to(log):
        sources = entity_sources(paths, entities)
        stamp = sources.stamp() if sources is not None else None
        engine = load_engine(paths, sources, trust, log_of(recorded), store=store, identity=identity_file)
    check_names(server, front.said, engine.kernel)
    if test:
        held_to_tests(paths, engine)
    asked = Asked(observing, observe_until, observe_package or (), observe_endpoint or ())
    observe(engine, asked, configuration.observe)
    keys = None if trust is None else tuple(trust)
    held = Reloading(engine, Origin(tuple(paths), sources, keys, settings=settings_file(paths)), rules)
    with attended(held, watch, following_of(held, sources, stamp, files=not watch, rules=rules)):
        run(front, held, token, environment)
    return 0


@dataclass(frozen=True, slots=True)
class Front:
    """What is in front of what, and who asks: `said`, by `headers`, or as `verified` of their credentials."""

    upstream: str
    server: str
    said: Mapping[str, str]
    headers: Mapping[str, str]
    verified: bool
    host: str
    port: int | None
    timeout: float
    allowed_hosts: Sequence[str] = ()


def check(front: Front) -> None:
    """What cannot be meant, before anything is read."""
    if front.host not in LOOPBACK:
        hint = "listen on 127.0.0.1, behind something that verifies who calls"
        message = f"`{front.host}` can be reached from other machines, and no token is verified"
        raise CommandError("usage", message, hint, code=2)
    if front.verified and (front.said or front.headers):
        hint = "with `--identity` credentials say who asks: leave out `--as` and `--from-header`"
        raise CommandError("usage", "two things say who asks", hint, code=2)
    if not front.said and not front.headers and not front.verified:
        hint = "say who it is: `--as agent=NAME --as issuer=NAME`"
        raise CommandError("usage", "nobody is said to ask", hint, code=2)
    if (front.headers or front.verified) and front.port is None:
        raise CommandError("usage", "there are no headers over stdio", "say who it is by `--as`", code=2)
    check_upstream(front.upstream)


def check_upstream(upstream: str) -> None:
    """A command that is not there is better told now than to the first client."""
    words = command_of(upstream)
    if not words:
        raise CommandError("usage", f"`{upstream}` is neither a URL nor a command", code=2)
    if upstream.startswith(URLS) or shutil.which(words[0]):
        return
    if Path(words[0]).name == words[0]:
        hint = "is it installed, and in a folder of `PATH`? a server over HTTP is named by its URL, `http://…`"
        raise CommandError("upstream", f"there is no command `{words[0]}`", hint)
    if Path(words[0]).is_file():
        raise CommandError("upstream", f"`{words[0]}` may not be executed", f"`chmod +x {shlex.quote(words[0])}`")
    raise CommandError("upstream", f"there is no file `{words[0]}`", f"it is looked for from `{Path.cwd()}`")


def command_of(upstream: str) -> list[str]:
    """Its words; none where quotes are left open."""
    try:
        return shlex.split(upstream)
    except ValueError:
        return []


def words_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given or ():
        word, equals, value = one.partition("=")
        if word not in WORDS or not equals or not value or word in found:
            hint = f"write {option} WORD=VALUE once for each word of {', '.join(WORDS)}"
            raise CommandError("usage", f"`{one}` says nothing of who asks", hint, code=2)
        found[word] = value
    return found


def need_sdk() -> None:
    """Whoever lacks it learns that before policies are read."""
    try:
        import policyengine.integrations.mcp.gateway  # noqa: F401
    except ImportError as error:
        hint = install_command("mcp")
        raise CommandError("install", str(error).partition(":")[0], hint) from None


@contextmanager
def attended(held: Reloading, watch: bool, following: Following | None) -> Iterator[None]:
    """While it lasts policies are read anew, entities are followed, and what happens is told on stderr."""
    from policyengine.reload.thread import reloaded
    from policyengine.reload.watch import Attempts
    from policyengine.server.telemetry.server_log import LogFormat, journal

    with journal(LogFormat.TEXT, lambda: held.current.revision), reloaded(held, Attempts(held, watch)):
        if following is not None:
            following.started()
        try:
            yield
        finally:
            if following is not None:
                following.stop()
            log = held.current.log
            if log is not None:
                log.flush()


def run(front: Front, held: Reloading, token: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Until the client over stdio is gone, or until it is told to stop."""
    import anyio

    from policyengine.integrations.mcp.gateway import Gateway, Upstream, facts_of_words, from_headers
    from policyengine.integrations.mcp.sdk import always, by_credentials
    from policyengine.reload.live_engine import Current

    behind = Upstream(front.upstream, token, environment, front.timeout)
    by_header = from_headers(front.headers, lambda found: facts_of_words({**front.said, **found}))
    said = by_header if front.headers else always(facts_of_words(front.said))
    who = by_credentials() if front.verified else said
    gateway = Gateway(Current(held), front.server, who, behind)
    if front.port is None:
        anyio.run(gateway.over_stdio)
    else:
        over_http(gateway, front)


def over_http(gateway: Any, front: Front) -> None:
    from policyengine.http.host_check import AllowedHostError
    from policyengine.integrations.mcp.gateway import http_app
    from policyengine.server import ServeError
    from policyengine.server.connections.limits import ConnectionLimits
    from policyengine.server.connections.server import BoundedServer, config_for
    from policyengine.server.connections.table import ConnectionTable
    from policyengine.server.listeners import bound, resolved, url_of
    from policyengine.server.shutdown import Drain
    from policyengine.server.telemetry.counters import Tally
    from policyengine.server.workers.board import WorkerBoard

    try:
        app = http_app(gateway, front.allowed_hosts)
    except AllowedHostError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None

    limits, board = ConnectionLimits(), WorkerBoard()
    try:
        table = ConnectionTable(limits, limits.bounds(), board, Tally())
        listener = bound(resolved(front.host, front.port or 0), front.host)
    except ServeError as error:
        raise CommandError("serve", error.message, error.hint) from None
    with listener:
        server = BoundedServer(config_for(app, lifespan="on"), table, board, Drain(STOP))
        print(f"listening on {url_of(listener)}/mcp", flush=True)
        server.run(sockets=[listener])
    if server.caught is not None:
        signal.raise_signal(server.caught)


def token_of(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return {"authorization": f"Bearer {read_bounded(path, MAX_SETTINGS).decode().strip()}"}
    except OSError as error:
        raise file_error(path, error) from None
    except UnicodeDecodeError:
        raise CommandError("file", f"`{path}` is no UTF-8", "it holds the token, and nothing else") from None


def environment_of(names: Sequence[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise CommandError("usage", f"there is no variable `{missing[0]}` to pass on", code=2)
    return {name: os.environ[name] for name in names}

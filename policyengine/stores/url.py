"""Opens a store from its URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.install_hints import install_command
from policyengine.stores.base import Store, StoreError, StoreMissingError
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import RemoteStore, ResilientStore
from policyengine.stores.sqlite.file import check_store_file
from policyengine.stores.sqlite.store import PATIENCE, SqliteStore

if TYPE_CHECKING:
    import redis

KNOWN_URLS = (
    "memory: sqlite:///path postgresql://user@host/database redis://host:6379/0 rediss://host:6379/0 "
    "redis+cluster://host:6379 redis+sentinel://host:26379/service"
).split()
TLS_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey")  # of libpq
OPTIONS = {
    "sqlite": ("timeout", "skew"),
    "postgresql": ("timeout", "skew", "schema", "host", *TLS_OPTIONS),
    "redis": ("timeout", "skew"),
    "rediss": ("timeout", "skew", "ca"),
}
SCHEMES = ("sqlite", "postgresql", "redis", "rediss", "redis+cluster", "redis+sentinel")
PORTS = {"redis+sentinel": 26379, "postgresql": 5432}
TIMEOUT_SECONDS = 0.05  # seconds to connect, and again to wait for an answer
# The default for a Redis Cluster is longer, because on a busy machine that runs several servers, answers may be late.
# `python -m bench timeouts` measures how many requests a timeout denies.
CLUSTER_TIMEOUT_SECONDS = 0.25
MAX_OPTION_SECONDS = {"timeout": (60, "time to wait"), "skew": (3_600, "difference between clocks")}  # seconds
DURATION = re.compile(r"(\d+)(ms|s)")


@dataclass(eq=False)
class StoreUrlError(Exception):
    """The error for a store URL that cannot be used: a message and a hint."""

    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed store URL. Its text omits the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    user: str | None
    password: str | None
    options: dict[str, str]

    @property
    def shown(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{hosts}{self.path}"

    def seconds(self, unless: float) -> float:
        return float(self.options.get("timeout", unless))

    @property
    def max_skew(self) -> int:
        """The maximum clock skew in microseconds."""
        return round(float(self.options.get("skew", MAX_SKEW_MICROSECONDS / 1e6)) * 1e6)


def open_store(url: str) -> Store:
    """Open the store at a URL and check that it answers. A store outside this process is wrapped in a ResilientStore.
    Raises StoreUrlError."""
    return MemoryStore() if url == "memory:" else _open(parse_store_url(url))


def _open(address: StoreUrl, *, creates: bool = True) -> ResilientStore:
    try:
        if address.scheme == "sqlite":
            store: RemoteStore = _sqlite(address)
        else:
            store = _postgres(address, creates) if address.scheme == "postgresql" else _redis(address)
        store.ping()
    except StoreError as error:
        raise StoreUrlError(f"the store at `{address.shown}` cannot be used: {error}", _hint_for(error)) from error
    return ResilientStore(store)


def open_existing_store(url: str) -> ResilientStore:
    """Open the store of other processes at a URL, and create nothing. Raises StoreUrlError."""
    if url == "memory:":
        raise StoreUrlError("a memory store belongs to one process", "name the store that `serve --store` names")
    address = parse_store_url(url)
    if address.scheme == "sqlite":
        try:
            check_store_file(sqlite_path(address))
        except StoreError as error:
            hint = "name the file that `serve --store` names"
            raise StoreUrlError(f"the store at `{address.shown}` cannot be used: {error}", hint) from error
    return _open(address, creates=False)


def _hint_for(error: StoreError) -> str:
    if "maxmemory-policy" in str(error):
        return "set `maxmemory-policy noeviction` on the server"
    if "permission denied" in str(error):
        return "let a role that may create the tables open the store once (docs/stores.md)"
    if isinstance(error, StoreMissingError):
        return "name the schema that `serve --store` uses"
    return "check that it is running and reachable from here"


def parse_store_url(url: str) -> StoreUrl:
    """Parse a store URL. Raises StoreUrlError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreUrlError("this is not a store URL", _list_schemes()) from None
    if parts.scheme not in SCHEMES:
        meant = did_you_mean(parts.scheme, SCHEMES) if ":" in url else None
        raise StoreUrlError(f"`{_scheme(url)}` is not a known kind of store", meant or _list_schemes())
    return _parse_url_parts(parts)


def _parse_url_parts(parts: SplitResult) -> StoreUrl:
    where, _, host = parts.netloc.rpartition("@")
    user, _, password = where.partition(":")
    hosts = tuple(_parse_host_port(one, PORTS.get(parts.scheme, 6379)) for one in host.split(",")) if host else ()
    if parts.scheme == "sqlite" and (hosts or len(parts.path) < 2 or not parts.path.startswith("/")):
        raise StoreUrlError("a SQLite URL must have the form `sqlite:///path`", "an absolute path has four slashes")
    if parts.scheme == "postgresql" and not re.fullmatch(r"/[^/]+", parts.path):
        raise StoreUrlError("a PostgreSQL URL needs the name of a database", "postgresql://user@host/database")
    if parts.scheme not in ("sqlite", "postgresql") and not hosts:
        raise StoreUrlError(f"`{parts.scheme}://` names no host", _list_schemes())
    if len(hosts) > 1 and parts.scheme in ("redis", "rediss"):
        raise StoreUrlError("only a URL of a Cluster or of Sentinels may name several hosts", _list_schemes())
    if parts.scheme == "redis+sentinel" and len(parts.path) < 2:
        raise StoreUrlError("a Sentinel URL needs the name of a service", "redis+sentinel://host:26379/service")
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"(/\d*)?", parts.path):
        raise StoreUrlError(f"`{parts.path}` is not a database number", _list_schemes())
    options = _parse_options(parts)
    return StoreUrl(parts.scheme, hosts, parts.path, unquote(user) or None, unquote(password) or None, options)


def _parse_options(parts: SplitResult) -> dict[str, str]:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = OPTIONS.get(parts.scheme, ("timeout", "skew", "tls", "ca"))
    for name in given:
        if name not in allowed:
            hint = did_you_mean(name, allowed) or f"the options are {', '.join(allowed)}"
            raise StoreUrlError(f"`{name}` is not a store option", hint)
    return given | {
        name: str(_parse_seconds(given[name], *of)) for name, of in MAX_OPTION_SECONDS.items() if name in given
    }


def _parse_seconds(text: str, most: int, what: str) -> float:
    found = DURATION.fullmatch(text)
    seconds = 0.0 if found is None else int(found[1]) / (1_000 if found[2] == "ms" else 1)
    if not 0 < seconds <= most:
        raise StoreUrlError(f"`{text}` is not a valid {what}", f"write a duration such as 50ms or 2s, at most {most}s")
    return seconds


def _parse_host_port(text: str, default: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if found is None or int(found[2] or default) > 65_535:
        raise StoreUrlError(f"`{text}` is neither a valid `HOST` nor a valid `HOST:PORT`", _list_schemes())
    return found[1].strip("[]"), int(found[2] or default)


def _scheme(url: str) -> str:
    return f"{url.partition(':')[0]}:" if ":" in url else url


def _list_schemes() -> str:
    return "use one of " + ", ".join(f"`{one}`" for one in KNOWN_URLS)


# ── Opening ───────────────────────────────────────────────────────────────────────────────────


def sqlite_path(address: StoreUrl) -> str:
    return unquote(address.path[1:])


def _sqlite(address: StoreUrl) -> SqliteStore:
    """Open a SQLite store. In its URL, three slashes begin a relative path, and four slashes an absolute path."""
    return SqliteStore(sqlite_path(address), patience=address.seconds(PATIENCE), max_skew=address.max_skew)


def _postgres(address: StoreUrl, creates: bool) -> RemoteStore:
    try:
        from policyengine.stores.postgres.store import PATIENCE, SCHEMA, PostgresStore
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise StoreUrlError("the package `psycopg` is not installed", install_command("postgres")) from None
    parameters = {name: address.options[name] for name in ("host", *TLS_OPTIONS) if name in address.options}
    if address.hosts:
        parameters.pop("host", None)
        parameters["target_session_attrs"] = "read-write" if len(address.hosts) > 1 else "any"
    return PostgresStore(
        {"user": address.user, "password": address.password, "dbname": unquote(address.path[1:]), **parameters},
        hosts=address.hosts,
        schema=address.options.get("schema", SCHEMA),
        patience=address.seconds(PATIENCE),
        max_skew=address.max_skew,
        creates=creates,
    )


def _redis(address: StoreUrl) -> RemoteStore:
    try:
        from policyengine.stores.redis.cluster import ClusterStore
        from policyengine.stores.redis.connection import translate_errors
        from policyengine.stores.redis.store import RedisStore
    except ImportError as error:
        if error.name != "redis":
            raise
        hint = install_command("redis")
        raise StoreUrlError("the package `redis` is not installed", hint) from None
    with translate_errors():
        if address.scheme == "redis+cluster":
            return ClusterStore(_cluster(address), max_skew=address.max_skew)
        client = _sentinel(address) if address.scheme == "redis+sentinel" else _standalone(address)
        return RedisStore(client, max_skew=address.max_skew)


def _standalone(address: StoreUrl) -> redis.Redis:
    from redis import Redis

    [(host, port)] = address.hosts
    database = int(address.path[1:] or 0)
    return Redis(host=host, port=port, db=database, **_connection_options(address), **_no_retry_options())


def _sentinel(address: StoreUrl) -> redis.Redis:
    from redis.sentinel import Sentinel

    manner = _connection_options(address)
    asked = {name: value for name, value in manner.items() if name not in ("username", "password")}
    make: Any = Sentinel  # the class has no types
    sentinel = make(
        list(address.hosts), sentinel_kwargs={**asked, **_no_retry_options()}, **manner, **_no_retry_options()
    )
    found: redis.Redis = sentinel.master_for(unquote(address.path[1:]))
    return found


def _cluster(address: StoreUrl) -> redis.RedisCluster:
    from redis import RedisCluster
    from redis.cluster import ClusterNode

    node: Any = ClusterNode  # the class has no types
    return RedisCluster(
        startup_nodes=[node(*one) for one in address.hosts], **_connection_options(address), **_no_retry_options()
    )


def _connection_options(address: StoreUrl) -> dict[str, Any]:
    """Return the options of connections: timeouts and, with TLS, a verified certificate."""
    seconds = address.seconds(CLUSTER_TIMEOUT_SECONDS if address.scheme == "redis+cluster" else TIMEOUT_SECONDS)
    found: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "protocol": 2}
    if address.scheme == "rediss" or address.options.get("tls") == "yes":
        found |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        found |= {"ssl_ca_certs": address.options["ca"]} if "ca" in address.options else {}
    return found | {"username": address.user, "password": address.password}


def _no_retry_options() -> dict[str, Any]:
    """Return options that disable retries, because it is unknown whether a failed call took effect."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"retry": Retry(NoBackoff(), 0)}

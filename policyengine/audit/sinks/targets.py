"""Sinks as operators write them: a URL, with the options of the sink after `#`, the part that is never sent in
requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from policyengine.audit.sinks.secret_values import SecretValue, SecretValueError

SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,11})([KMG]B)")
SIZE_UNITS = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
RESERVED_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
DEFAULT_LAG = 1_000_000_000  # bytes
MIN_LAG = 1_000_000  # bytes
DEFAULT_TIMEOUT = 10.0  # seconds
MAX_TIMEOUT = 300.0  # seconds
OTLP_PATH = "/v1/logs"
SYSLOG_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "authpriv": 10, "audit": 13, "alert": 14,
    **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
DEFAULT_FACILITY = "audit"
HEADER_PREFIX = "header."
URL_HINT = (
    "for example `https://siem.example/ingest`, `otlp+https://collector:4318`, `syslog+tcp://host:601`, `stdout:`"
)


class SinkKind(StrEnum):
    """The protocol of a sink."""

    STDOUT = "stdout"
    HTTP = "http"
    OTLP = "otlp"
    SYSLOG = "syslog"


class OnLag(StrEnum):
    """The reaction to a sink that lags beyond its bound. DENY: decisions are denied. CONTINUE: decisions are not
    denied, and a spool deletes its oldest unsent records and counts them as lost."""

    DENY = "deny"
    CONTINUE = "continue"


class BatchFormat(StrEnum):
    """The body of a batch over HTTP: JSON Lines, or one JSON array."""

    LINES = "lines"
    ARRAY = "array"


class RecordFormat(StrEnum):
    """The form of each record over HTTP: the log line itself, or an event as `audit export` writes it."""

    LOG = "log"
    OCSF = "ocsf"
    CLOUDEVENTS = "cloudevents"


class SinkTargetError(Exception):
    """The error for a malformed sink; the message contains no secret, and `hint` says how to write the sink."""

    def __init__(self, message: str, hint: str | None = URL_HINT) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class SinkTarget:
    """A parsed sink. `url` is the destination (for syslog with the scheme `udp`, `tcp`, `tls` or `unix`), and may
    contain a secret; `place` is the part that messages show. `lag` is the bound in bytes; an `on_lag` of None means the
    default."""

    kind: SinkKind
    name: str
    place: str
    url: str = field(repr=False)
    lag: int = DEFAULT_LAG
    on_lag: OnLag | None = None
    format: BatchFormat = BatchFormat.LINES
    records: RecordFormat = RecordFormat.LOG
    hmac: SecretValue | None = None
    headers: Mapping[str, SecretValue] = field(default_factory=dict)
    ca: Path | None = None
    plain_http: bool = False
    timeout: float = DEFAULT_TIMEOUT
    facility: int = FACILITIES[DEFAULT_FACILITY]
    service: str = "policyengine"


def parse_sinks(urls: Sequence[str]) -> tuple[SinkTarget, ...]:
    """Parse sinks and check that their names differ. Raises SinkTargetError."""
    targets = tuple(map(parse_sink, urls))
    names: set[str] = set()
    for target in targets:
        if target.name in names:
            raise SinkTargetError(f"two sinks are called `{target.name}`", "name them differently: `#name=siem`")
        names.add(target.name)
    return targets


def parse_sink(given: str) -> SinkTarget:
    """Parse a sink. Raises SinkTargetError."""
    if " " in given or not given.isprintable():
        raise SinkTargetError("a sink must be a URL without spaces and control characters")
    bare, _, fragment = given.partition("#")
    try:
        parts = urlsplit(bare)
        _ = parts.port
    except ValueError:
        raise SinkTargetError("a sink is not a valid URL") from None
    kind, url, place = locate(parts)
    options = parse_options(fragment, kind, parts.scheme)
    digest = sha256(bare.encode()).hexdigest()[:8]
    host = re.sub(r"[^a-z0-9.-]", "-", (parts.hostname or parts.path).lower()).strip("-.")
    default = "stdout" if kind is SinkKind.STDOUT else f"{kind}-{host}-{digest}"[-64:].lstrip("-.")
    return SinkTarget(kind, str(options.pop("name", default)), place, url, **options)  # type: ignore[arg-type]


def locate(parts: SplitResult) -> tuple[SinkKind, str, str]:
    """Return the kind of a sink, its destination, and the part of the destination that messages show. Raises
    SinkTargetError."""
    scheme, host = parts.scheme, parts.netloc
    if scheme == "stdout" and not (host or parts.path.strip("-") or parts.query):
        return SinkKind.STDOUT, "stdout:", "stdout"
    if "@" in host:
        hint = "pass it in a header: `#header.authorization=env:NAME`"
        raise SinkTargetError(
            f"a sink must have no password in its URL: `{scheme}://…@{host.rpartition('@')[2]}`", hint
        )
    place = f"{scheme}://{host}"
    if scheme in ("http", "https") and host:
        return SinkKind.HTTP, parts.geturl(), place
    if scheme in ("otlp+http", "otlp+https") and host:
        path = parts.path if parts.path not in ("", "/") else OTLP_PATH
        return SinkKind.OTLP, parts._replace(scheme=scheme.removeprefix("otlp+"), path=path).geturl(), place
    transport = scheme.removeprefix("syslog+")
    if transport == "unix" and not host and parts.path.startswith("/") and not parts.query:
        return SinkKind.SYSLOG, f"unix://{parts.path}", f"{scheme}://{parts.path}"
    if (
        scheme != transport
        and transport in SYSLOG_PORTS
        and parts.hostname
        and not (parts.path.strip("/") + parts.query)
    ):
        return SinkKind.SYSLOG, f"{transport}://{host}", place
    raise SinkTargetError(f"`{scheme}:` is not a sink" if scheme else "a sink must be a URL")


# ── Options ───────────────────────────────────────────────────────────────────────────────────


def parse_options(fragment: str, kind: SinkKind, scheme: str) -> dict[str, object]:
    """Parse the options after `#`. Raises SinkTargetError."""
    try:
        pairs = parse_qsl(fragment, keep_blank_values=True, strict_parsing=True) if fragment else []
    except ValueError:
        raise SinkTargetError("the options of a sink are malformed", "write them as `#name=siem&lag=500MB`") from None
    found: dict[str, object] = {}
    headers: dict[str, SecretValue] = {}
    for key, value in pairs:
        name = key.lower().removeprefix(HEADER_PREFIX)
        if key.lower().startswith(HEADER_PREFIX) and kind in (SinkKind.HTTP, SinkKind.OTLP):
            if not HEADER_NAME.fullmatch(name) or name in RESERVED_HEADERS:
                raise SinkTargetError(f"a sink cannot set the header `{name}`", "use another header")
            headers[name] = secret_option(key, value)
            continue
        if key not in OPTIONS or not applies(key, kind, scheme):
            known = ", ".join(f"`{option}`" for option in OPTIONS if applies(option, kind, scheme))
            raise SinkTargetError(f"`{key}` is not an option of the sink `{scheme}:`", f"its options are {known}")
        if key in found:
            raise SinkTargetError(f"the option `{key}` of a sink occurs twice", "write it once")
        found[key] = OPTIONS[key](key, value)
    return {**found, **({"headers": headers} if headers else {})}


def applies(option: str, kind: SinkKind, scheme: str) -> bool:
    """Return whether a sink of this kind and scheme accepts the option."""
    if option in ("name", "lag", "on_lag"):
        return True
    if option in ("format", "records", "hmac"):
        return kind is SinkKind.HTTP
    if option == "service":
        return kind is SinkKind.OTLP
    if option == "facility":
        return kind is SinkKind.SYSLOG
    if option == "ca":
        return scheme.endswith(("https", "tls"))
    if option == "plain_http":
        return scheme.endswith("http")
    return kind is not SinkKind.STDOUT  # all other options, such as `timeout`


def name_option(key: str, value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise SinkTargetError(
            "the name of a sink must be 1 to 64 lower-case letters, digits, `.`, `_` and `-`, and begin with a letter "
            "or digit",
            "as in `#name=siem`",
        )
    return value


def size_option(key: str, value: str) -> int:
    found = SIZE_PATTERN.fullmatch(value)
    size = int(found[1]) * SIZE_UNITS[found[2]] if found else 0
    if size < MIN_LAG:
        raise SinkTargetError(f"`{key}={value}` is not a size of at least 1MB", "write `#lag=500MB`, for example")
    return size


def choice_option(kind: type[StrEnum]) -> Callable[[str, str], StrEnum]:
    def parse(key: str, value: str) -> StrEnum:
        try:
            return kind(value)
        except ValueError:
            choices = " or ".join(f"`{key}={choice}`" for choice in kind)
            raise SinkTargetError(f"`{key}={value}` is not an option of a sink", f"write {choices}") from None

    return parse


def secret_option(key: str, value: str) -> SecretValue:
    try:
        return SecretValue.parse(value)
    except SecretValueError as error:
        raise SinkTargetError(f"`{key}` of a sink: {error}", f"as in `#{key}=env:NAME`") from None


def path_option(key: str, value: str) -> Path:
    if not value:
        raise SinkTargetError(f"`{key}` of a sink has no file", f"as in `#{key}=ca.pem`")
    return Path(value)


def flag_option(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise SinkTargetError(f"`{key}={value}` is neither true nor false", f"write `#{key}=true`")
    return value == "true"


def seconds_option(key: str, value: str) -> float:
    try:
        seconds = float(value) if len(value) < 16 else 0.0
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= MAX_TIMEOUT:
        raise SinkTargetError(f"`{key}={value}` is not a number of seconds from 0.1 to 300", f"as in `#{key}=10`")
    return seconds


def facility_option(key: str, value: str) -> int:
    if value not in FACILITIES:
        known = ", ".join(f"`{name}`" for name in FACILITIES)
        raise SinkTargetError(f"`{value}` is not a facility of syslog", f"choose one of {known}")
    return FACILITIES[value]


def text_option(key: str, value: str) -> str:
    if not value or len(value) > 255:
        raise SinkTargetError(f"`{key}` of a sink is empty or too long", f"as in `#{key}=policyengine`")
    return value


OPTIONS: Mapping[str, Callable[[str, str], object]] = {
    "name": name_option,
    "lag": size_option,
    "on_lag": choice_option(OnLag),
    "format": choice_option(BatchFormat),
    "records": choice_option(RecordFormat),
    "hmac": secret_option,
    "ca": path_option,
    "plain_http": flag_option,
    "timeout": seconds_option,
    "facility": facility_option,
    "service": text_option,
}

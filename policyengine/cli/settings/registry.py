"""Every setting of `policyengine.toml` once: what it may be, which options go before it, and what it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.cli.settings import types as r
from policyengine.http.forwarded_parts import GatewayAdapter
from policyengine.http.gateway_headers import GatewayHeaders

VARIABLE_PREFIX = "POLICYENGINE_"
HEADERS = (*GatewayHeaders().facts.items(), ("request_size", ""))
# What Kubernetes sets for services that are called like a section.
KUBERNETES_VARIABLE = re.compile(r"(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_\w+)?)")
DOCTOR_KEYS = frozenset(
    "host port socket metrics_port envoy_grpc workers token_file log store entities identity trust".split()
)
SettingName: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """`options` are commands that read it as one of their options, and by which parameter. `must_exist`: a file that is
    read. `secret`: it may hold a password."""

    section: str
    key: str
    read: r.SettingParser
    default: str
    doc: str
    options: tuple[tuple[str, str], ...] = ()
    must_exist: bool = False
    secret: bool = False

    @property
    def name(self) -> SettingName:
        return self.section, self.key

    @property
    def variable(self) -> str:
        """`POLICYENGINE_SERVE_PORT`."""
        return f"{VARIABLE_PREFIX}{self.section}_{self.key}".upper().replace("-", "_")


def serve_options(parameter: str) -> tuple[tuple[str, str], ...]:
    """`doctor` looks at what is to be served."""
    return (("serve", parameter), *((("doctor", parameter),) if parameter in DOCTOR_KEYS else ()))


def serve_setting(
    key: str, read: r.SettingParser, default: str, doc: str, parameter: str = "", *, must_exist: bool = False
) -> SettingSpec:
    return SettingSpec("serve", key, read, default, doc, serve_options(parameter or key), must_exist)


def log_setting(key: str, read: r.SettingParser, default: str, doc: str, parameter: str = "") -> SettingSpec:
    option = parameter or f"log_{key}"
    return SettingSpec("log", key, read, default, doc, (*serve_options(option), ("mcp-gateway", option)))


def reload_setting(key: str, read: r.SettingParser, default: str, doc: str) -> SettingSpec:
    return SettingSpec(
        "reload", key, read, default, doc, (("serve", f"reload_{key}"), ("mcp-gateway", f"reload_{key}"))
    )


def mcp_gateway_setting(
    key: str, read: r.SettingParser, default: str, doc: str, parameter: str = "", *, must_exist: bool = False
) -> SettingSpec:
    return SettingSpec("mcp-gateway", key, read, default, doc, (("mcp-gateway", parameter or key),), must_exist)


def default_headers(adapter: GatewayAdapter) -> str:
    """What is handed on by default."""
    headers = GatewayHeaders().hands_on(adapter).headers
    return "all" if headers is None else ", ".join(sorted(headers)) or "none"


SETTINGS: tuple[SettingSpec, ...] = (
    serve_setting("host", r.text, "127.0.0.1", "where to listen"),
    serve_setting("port", r.port, "8080; none with a socket", "the port; 0 takes a free one"),
    serve_setting("socket", r.file, "none", "a Unix socket to answer at"),
    serve_setting("socket_mode", r.mode, "600", "who may connect to it"),
    serve_setting("envoy_grpc", r.port, "none", "a port to answer Envoy on by gRPC"),
    serve_setting("workers", r.positive_number, "1", "how many processes answer"),
    serve_setting("token_file", r.file, "none", "who asks must show a token of it", must_exist=True),
    SettingSpec(
        "serve",
        "entities",
        r.sources,
        "none",
        "who is who: files, folders, URLs of databases",
        serve_options("entities"),
        must_exist=True,
        secret=True,
    ),
    serve_setting("identity", r.file, "none", "how raw credentials are verified: an `identity.toml`", must_exist=True),
    serve_setting("trust", r.files, "none", "public keys, one of which must have signed the bundle", must_exist=True),
    serve_setting("watch", r.boolean, "false", "read policies anew whenever a file changes"),
    serve_setting("test", r.boolean, "false", "start only if the policies pass their own tests"),
    serve_setting("public_url", r.text, "none", "where others find it, for the metadata of AuthZEN"),
    serve_setting(
        "allowed_hosts",
        r.hosts,
        "none",
        "names, beside those of loopback, to which it answers without a token",
        "allowed_host",
    ),
    serve_setting("metrics_port", r.port, "none", "a port that answers `/metrics` without a token"),
    serve_setting("drain_seconds", r.seconds_or_zero, "10", "how long a stop may take"),
    serve_setting("drain_delay", r.seconds_or_zero, "0", "seconds that a stop at least still lets others in"),
    serve_setting(
        "max_connections", r.positive_number, "as files allow, at most 4096", "how many connections a worker holds"
    ),
    serve_setting(
        "max_connections_per_address",
        r.positive_number,
        "a quarter of them",
        "how many of them an address may have that sent no request yet",
    ),
    serve_setting("head_seconds", r.seconds, "10", "how long the head of a request may take to arrive"),
    serve_setting("request_seconds", r.seconds, "30", "how long the rest of it may take, and an answer to be read"),
    serve_setting("idle_seconds", r.seconds, "75", "how long a connection may wait for its next request"),
    serve_setting("log_format", r.choice("text", "json"), "text", "how the server tells what happens to it"),
    log_setting("file", r.file, "none", "where decisions are written", "log"),
    log_setting(
        "on_failure", r.choice("deny", "continue"), "deny", "what becomes of one that cannot be", "on_log_failure"
    ),
    log_setting("redact", r.facts, "none", "facts that it must not hold: `body.card`, `args.**.note`", "redact"),
    log_setting("rotate", r.rotation, "never", "when another file begins: `100MB`, `1d`, or both"),
    log_setting("keep", r.whole_number, "all", "how many old files are kept"),
    log_setting("compress", r.boolean, "false", "whether old files are compressed"),
    log_setting("sync", r.choice("never", "second", "always"), "never", "when decisions are forced to the disk"),
    SettingSpec(
        "store",
        "url",
        r.store,
        "memory:",
        "what keeps rates, budgets, approvals and history; `?skew=5s` says by how much clocks may differ",
        (*serve_options("store"), ("mcp-gateway", "store")),
        secret=True,
    ),
    *(SettingSpec("gateway", key, r.header, name or "none", f"the header that says `{key}`") for key, name in HEADERS),
    *(
        SettingSpec(
            "gateway",
            f"hands_on_{one}",
            r.forwarded_headers,
            default_headers(one),
            f"headers that always arrive at {one.place}",
        )
        for one in GatewayAdapter
    ),
    SettingSpec("gateway", "bodies", r.adapters, "none", "where every body arrives, whole, or its request is refused"),
    SettingSpec("gateway", "obligations", r.obligation_kinds, "none", "kinds of obligations that gateways carry out"),
    SettingSpec("gateway", "trust_domains", r.trust_domains, "none", "the issuer of each SPIFFE trust domain"),
    SettingSpec(
        "gateway",
        "client_certificate",
        r.choice("client-cert", "x-forwarded-client-cert"),
        "none",
        "the header that says whose certificate the connection has",
    ),
    SettingSpec(
        "authzen",
        "consume",
        r.texts,
        "none",
        "callers of the token file, or `*`, whose AuthZEN evaluations spend unless `context.consume` is false",
    ),
    reload_setting(
        "allow",
        r.reload_allowances,
        "nothing",
        "what a reload may take away or open: words (`removed-guards`) and revisions (`sha256:…`)",
    ),
    reload_setting("gate", r.choice("none", "diff"), "none", "`diff`: a reload must be proved to widen nothing"),
    reload_setting(
        "compare", r.seconds_or_zero, "30", "seconds that a reload is compared with what was before; 0: it is not"
    ),
    SettingSpec(
        "observe", "until", r.timestamp, "none", "let pass what would be stopped, until then; `--observe-until`"
    ),
    SettingSpec("observe", "packages", r.names, "all", "only what their rules would stop; `--observe-package`"),
    SettingSpec("observe", "endpoints", r.names, "all", "only there; `--observe-endpoint`"),
    mcp_gateway_setting("upstream", r.text, "none", "the MCP server: its URL, or a command"),
    mcp_gateway_setting("server", r.text, "none", "how policies call it"),
    mcp_gateway_setting("as", r.texts, "none", "who asks: `agent=coder`, `issuer=local`", "identity"),
    mcp_gateway_setting("from_header", r.texts, "none", "who asks, by headers", "header"),
    mcp_gateway_setting("host", r.text, "127.0.0.1", "where to listen, on this machine"),
    mcp_gateway_setting("port", r.port, "none: stdio", "speak HTTP here"),
    mcp_gateway_setting(
        "allowed_hosts", r.hosts, "none", "names, beside those of loopback, to which it answers", "allowed_host"
    ),
    mcp_gateway_setting("timeout", r.seconds, "60", "seconds that an answer of the server may take"),
    mcp_gateway_setting("env", r.texts, "none", "names of variables that the command gets, too"),
    mcp_gateway_setting(
        "upstream_token_file", r.file, "none", "the token that the server wants", "token_file", must_exist=True
    ),
    SettingSpec(
        "mcp-gateway",
        "entities",
        r.sources,
        "none",
        "who is who: files, folders, URLs of databases",
        (("mcp-gateway", "entities"),),
        must_exist=True,
        secret=True,
    ),
    mcp_gateway_setting(
        "identity", r.file, "none", "how callers are verified: an `identity.toml`", "identity_file", must_exist=True
    ),
    mcp_gateway_setting(
        "trust", r.files, "none", "public keys, one of which must have signed the bundle", must_exist=True
    ),
    mcp_gateway_setting("watch", r.boolean, "false", "read policies anew whenever a file changes"),
    mcp_gateway_setting("test", r.boolean, "false", "start only if the policies pass their own tests"),
    SettingSpec("lint", "select", r.rules, "all but the optional ones", "rules that are told, and no others"),
    SettingSpec("lint", "extend", r.rules, "none", "rules that are told, too"),
    SettingSpec("lint", "ignore", r.rules, "none", "rules that are not told"),
    SettingSpec("lint", "strict", r.boolean, "false", "whether warnings fail"),
    SettingSpec("test", "jobs", r.whole_number, "1", "how many processes run the tests; 0: one for each processor"),
    SettingSpec("test", "seed", r.whole_number, "0", "of what is drawn by chance"),
    SettingSpec("test", "examples", r.positive_number, "200", "requests for each `forall`", (("test", "examples"),)),
    SettingSpec("coverage", "fail_under", r.percent, "none", "the least that is enough, in percent"),
)
BY_NAME: Mapping[SettingName, SettingSpec] = {one.name: one for one in SETTINGS}
BY_OPTION: Mapping[tuple[str, str], SettingSpec] = {option: one for one in SETTINGS for option in one.options}
BY_VARIABLE: Mapping[str, SettingSpec] = {one.variable: one for one in SETTINGS}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(one.section for one in SETTINGS))


def section_keys(section: str) -> list[str]:
    return [one.key for one in SETTINGS if one.section == section]


def is_setting_variable(variable: str) -> bool:
    """Whether whoever set a variable meant a setting: it begins like one."""
    for section in SECTIONS:
        begin = f"{VARIABLE_PREFIX}{section}_".upper().replace("-", "_")
        if variable.startswith(begin):
            return not KUBERNETES_VARIABLE.fullmatch(variable.removeprefix(begin)) or variable in BY_VARIABLE
    return False

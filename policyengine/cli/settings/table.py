"""Every setting of `policyengine.toml` once: what it may be, which options go before it, and what it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.cli.settings import types as r
from policyengine.http.completeness import Adapter
from policyengine.http.gateway_headers import Vouched

PREFIX = "POLICYENGINE_"
HEADERS = (*Vouched().facts.items(), ("request_size", ""))
# What Kubernetes sets for services that are called like a section.
OF_KUBERNETES = re.compile(r"(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_\w+)?)")
LOOKED_AT = frozenset(
    "host port socket metrics_port envoy_grpc workers token_file log store entities identity trust".split()
)
Name: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """`options` are commands that read it as one of their options, and by which parameter. `must_exist`: a file that is
    read. `secret`: it may hold a password."""

    section: str
    key: str
    read: r.Reader
    default: str
    doc: str
    options: tuple[tuple[str, str], ...] = ()
    must_exist: bool = False
    secret: bool = False

    @property
    def name(self) -> Name:
        return self.section, self.key

    @property
    def variable(self) -> str:
        """`POLICYENGINE_SERVE_PORT`."""
        return f"{PREFIX}{self.section}_{self.key}".upper().replace("-", "_")


def served(parameter: str) -> tuple[tuple[str, str], ...]:
    """`doctor` looks at what is to be served."""
    return (("serve", parameter), *((("doctor", parameter),) if parameter in LOOKED_AT else ()))


def serve(
    key: str, read: r.Reader, default: str, doc: str, parameter: str = "", *, must_exist: bool = False
) -> Setting:
    return Setting("serve", key, read, default, doc, served(parameter or key), must_exist)


def log(key: str, read: r.Reader, default: str, doc: str, parameter: str = "") -> Setting:
    option = parameter or f"log_{key}"
    return Setting("log", key, read, default, doc, (*served(option), ("mcp-gateway", option)))


def reload(key: str, read: r.Reader, default: str, doc: str) -> Setting:
    return Setting("reload", key, read, default, doc, (("serve", f"reload_{key}"), ("mcp-gateway", f"reload_{key}")))


def gateway(
    key: str, read: r.Reader, default: str, doc: str, parameter: str = "", *, must_exist: bool = False
) -> Setting:
    return Setting("mcp-gateway", key, read, default, doc, (("mcp-gateway", parameter or key),), must_exist)


def shown(adapter: Adapter) -> str:
    """What is handed on by default."""
    headers = Vouched().hands_on(adapter).headers
    return "all" if headers is None else ", ".join(sorted(headers)) or "none"


SETTINGS: tuple[Setting, ...] = (
    serve("host", r.text, "127.0.0.1", "where to listen"),
    serve("port", r.port, "8080; none with a socket", "the port; 0 takes a free one"),
    serve("socket", r.file, "none", "a Unix socket to answer at"),
    serve("socket_mode", r.mode, "600", "who may connect to it"),
    serve("envoy_grpc", r.port, "none", "a port to answer Envoy on by gRPC"),
    serve("workers", r.positive, "1", "how many processes answer"),
    serve("token_file", r.file, "none", "who asks must show a token of it", must_exist=True),
    Setting("serve", "entities", r.sources, "none", "who is who: files, folders, URLs of databases", served("entities"),
            must_exist=True, secret=True),
    serve("identity", r.file, "none", "how raw credentials are verified: an `identity.toml`", must_exist=True),
    serve("trust", r.files, "none", "public keys, one of which must have signed the bundle", must_exist=True),
    serve("watch", r.yes_or_no, "false", "read policies anew whenever a file changes"),
    serve("test", r.yes_or_no, "false", "start only if the policies pass their own tests"),
    serve("public_url", r.text, "none", "where others find it, for the metadata of AuthZEN"),
    serve("allowed_hosts", r.hosts, "none", "names, beside those of loopback, to which it answers without a token",
          "allowed_host"),
    serve("metrics_port", r.port, "none", "a port that answers `/metrics` without a token"),
    serve("drain_seconds", r.lasting, "10", "how long a stop may take"),
    serve("drain_delay", r.lasting, "0", "seconds that a stop at least still lets others in"),
    serve("max_connections", r.positive, "as files allow, at most 4096", "how many connections a worker holds"),
    serve("max_connections_per_address", r.positive, "a quarter of them",
          "how many of them an address may have that sent no request yet"),
    serve("head_seconds", r.seconds, "10", "how long the head of a request may take to arrive"),
    serve("request_seconds", r.seconds, "30", "how long the rest of it may take, and an answer to be read"),
    serve("idle_seconds", r.seconds, "75", "how long a connection may wait for its next request"),
    serve("log_format", r.one_of("text", "json"), "text", "how the server tells what happens to it"),
    log("file", r.file, "none", "where decisions are written", "log"),
    log("on_failure", r.one_of("deny", "continue"), "deny", "what becomes of one that cannot be", "on_log_failure"),
    log("redact", r.facts, "none", "facts that it must not hold: `body.card`, `args.**.note`", "redact"),
    log("rotate", r.rotation, "never", "when another file begins: `100MB`, `1d`, or both"),
    log("keep", r.whole, "all", "how many old files are kept"),
    log("compress", r.yes_or_no, "false", "whether old files are compressed"),
    log("sync", r.one_of("never", "second", "always"), "never", "when decisions are forced to the disk"),
    Setting("store", "url", r.store, "memory:",
            "what keeps rates, budgets, approvals and history; `?skew=5s` says by how much clocks may differ",
            (*served("store"), ("mcp-gateway", "store")), secret=True),
    *(Setting("gateway", key, r.header, name or "none", f"the header that says `{key}`") for key, name in HEADERS),
    *(Setting("gateway", f"hands_on_{one}", r.handed_on, shown(one), f"headers that always arrive at {one.place}")
      for one in Adapter),
    Setting("gateway", "bodies", r.adapters, "none", "where every body arrives, whole, or its request is refused"),
    Setting("gateway", "obligations", r.kinds, "none", "kinds of obligations that gateways carry out"),
    Setting("gateway", "trust_domains", r.domains, "none", "the issuer of each SPIFFE trust domain"),
    Setting("gateway", "client_certificate", r.one_of("client-cert", "x-forwarded-client-cert"), "none",
            "the header that says whose certificate the connection has"),
    Setting("authzen", "consume", r.texts, "none",
            "callers of the token file, or `*`, whose AuthZEN evaluations spend unless `context.consume` is false"),
    reload("allow", r.reloads, "nothing",
           "what a reload may take away or open: words (`removed-guards`) and revisions (`sha256:…`)"),
    reload("gate", r.one_of("none", "diff"), "none", "`diff`: a reload must be proved to widen nothing"),
    reload("compare", r.lasting, "30", "seconds that a reload is compared with what was before; 0: it is not"),
    Setting("observe", "until", r.moment, "none", "let pass what would be stopped, until then; `--observe-until`"),
    Setting("observe", "packages", r.names, "all", "only what their rules would stop; `--observe-package`"),
    Setting("observe", "endpoints", r.names, "all", "only there; `--observe-endpoint`"),
    gateway("upstream", r.text, "none", "the MCP server: its URL, or a command"),
    gateway("server", r.text, "none", "how policies call it"),
    gateway("as", r.texts, "none", "who asks: `agent=coder`, `issuer=local`", "identity"),
    gateway("from_header", r.texts, "none", "who asks, by headers", "header"),
    gateway("host", r.text, "127.0.0.1", "where to listen, on this machine"),
    gateway("port", r.port, "none: stdio", "speak HTTP here"),
    gateway("allowed_hosts", r.hosts, "none", "names, beside those of loopback, to which it answers", "allowed_host"),
    gateway("timeout", r.seconds, "60", "seconds that an answer of the server may take"),
    gateway("env", r.texts, "none", "names of variables that the command gets, too"),
    gateway("upstream_token_file", r.file, "none", "the token that the server wants", "token_file", must_exist=True),
    Setting("mcp-gateway", "entities", r.sources, "none", "who is who: files, folders, URLs of databases",
            (("mcp-gateway", "entities"),), must_exist=True, secret=True),
    gateway("identity", r.file, "none", "how callers are verified: an `identity.toml`", "identity_file",
            must_exist=True),
    gateway("trust", r.files, "none", "public keys, one of which must have signed the bundle", must_exist=True),
    gateway("watch", r.yes_or_no, "false", "read policies anew whenever a file changes"),
    gateway("test", r.yes_or_no, "false", "start only if the policies pass their own tests"),
    Setting("lint", "select", r.rules, "all but the optional ones", "rules that are told, and no others"),
    Setting("lint", "extend", r.rules, "none", "rules that are told, too"),
    Setting("lint", "ignore", r.rules, "none", "rules that are not told"),
    Setting("lint", "strict", r.yes_or_no, "false", "whether warnings fail"),
    Setting("test", "jobs", r.whole, "1", "how many processes run the tests; 0: one for each processor"),
    Setting("test", "seed", r.whole, "0", "of what is drawn by chance"),
    Setting("test", "examples", r.positive, "200", "requests for each `forall`", (("test", "examples"),)),
    Setting("coverage", "fail_under", r.percent, "none", "the least that is enough, in percent"),
)  # fmt: skip
BY_NAME: Mapping[Name, Setting] = {one.name: one for one in SETTINGS}
BY_OPTION: Mapping[tuple[str, str], Setting] = {option: one for one in SETTINGS for option in one.options}
BY_VARIABLE: Mapping[str, Setting] = {one.variable: one for one in SETTINGS}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(one.section for one in SETTINGS))


def keys_of(section: str) -> list[str]:
    return [one.key for one in SETTINGS if one.section == section]


def is_meant(variable: str) -> bool:
    """Whether whoever set a variable meant a setting: it begins like one."""
    for section in SECTIONS:
        begin = f"{PREFIX}{section}_".upper().replace("-", "_")
        if variable.startswith(begin):
            return not OF_KUBERNETES.fullmatch(variable.removeprefix(begin)) or variable in BY_VARIABLE
    return False

"""The sections of `policyengine.toml`, one model each. The table in docs/configuration.md, `config show` and the
defaults of options derive from them. An unset setting is None, so that the default of the option applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from policyengine.approvals.settings import ApprovalSettings
from policyengine.cli.settings import types as t
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_omissions import GatewayAdapter
from policyengine.install_hints import install_command
from policyengine.settings.section import SettingsSection, setting_error
from policyengine.time_formats import parse_duration

if TYPE_CHECKING:
    from policyengine.server.mcp.servers import McpServer
    from policyengine.webhooks.target import WebhookTarget

LogFormat: TypeAlias = Literal["text", "json"]
FailureAction: TypeAlias = Literal["deny", "continue"]
SyncMode: TypeAlias = Literal["never", "second", "always"]
ReloadGate: TypeAlias = Literal["none", "diff"]
Elicitation: TypeAlias = Literal["off", "url", "form"]
Unreviewed: TypeAlias = Literal["deny", "decide"]
UpstreamVersions: TypeAlias = Literal["auto", "modern", "legacy"]
CertificateHeader: TypeAlias = Literal["client-cert", "x-forwarded-client-cert"]
ClientAuth: TypeAlias = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
MAX_WEBHOOKS = 20  # each has a thread in every process
MAX_MCP_SERVERS = 50  # each has a thread in every process
WEBHOOK_EVENTS = ("opened", "approved", "denied", "expired", "withdrawn")
WebhookEventName: TypeAlias = Literal["opened", "approved", "denied", "expired", "withdrawn"]
WebhookFormatName: TypeAlias = Literal["json", "slack", "slack-workflow", "teams"]
Section = TypeVar("Section", bound=SettingsSection)


@dataclass(frozen=True, slots=True)
class SettingTraits:
    """Additional properties of a setting. `default` is the default as the docs show it. `option` is the parameter of
    commands for which the setting is the default, if its name differs; `commands` are these commands, if they are not
    those of the section. `must_exist` means that the program reads the file.
    """

    default: str
    option: str = ""
    commands: tuple[str, ...] = ()
    must_exist: bool = False


def setting(default: str, description: str, *, value: Any = None, alias: str | None = None, **traits: Any) -> Any:
    """Return a field with its documentation. `value` is the value of the field if the setting is not set."""
    extra: Any = {"traits": SettingTraits(default, **traits)}
    return Field(default=value, description=description, alias=alias, json_schema_extra=extra)


class CommandSection(SettingsSection):
    """A section whose settings are defaults for options of `commands`, whose names begin with `option_prefix`."""

    model_config = ConfigDict(populate_by_name=True)
    commands: ClassVar[tuple[str, ...]] = ()
    option_prefix: ClassVar[str] = ""


class ServeSettings(CommandSection):
    """`[serve]`: where the decision API listens, and what it loads."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor")

    host: t.Text | None = setting("127.0.0.1", "address to listen on")
    port: t.Port | None = setting("8080; none with a socket", "port to listen on; 0 picks a free port")
    socket: t.File | None = setting("none", "path of a Unix socket to listen on")
    socket_mode: t.FileMode | None = setting("600", "mode of the socket file, which controls who can connect")
    envoy_grpc: t.Port | None = setting("none", "port that serves Envoy over gRPC")
    workers: t.PositiveNumber | None = setting("1", "number of worker processes")
    token_file: t.File | None = setting("none", "require a bearer token from this file", must_exist=True)
    entities: t.EntitySources | None = setting("none", "entities: files, folders, URLs of databases", must_exist=True)
    identity: t.File | None = setting(
        "none", "verify raw credentials as configured in this `identity.toml`", must_exist=True
    )
    trust: t.Files | None = setting("none", "public keys; one of them must have signed the bundle", must_exist=True)
    watch: t.Boolean | None = setting("false", "reload policies whenever a file changes")
    test: t.Boolean | None = setting("false", "start only if the policies pass their own tests")
    public_url: t.Text | None = setting("none", "public URL of this server, for its AuthZEN metadata")
    allowed_hosts: t.Hosts | None = setting(
        "none", "host names, besides loopback names, that are accepted in `Host` without a token", option="allowed_host"
    )
    metrics_port: t.Port | None = setting("none", "port that serves `/metrics` without a token")
    drain_seconds: t.SecondsOrZero | None = setting("10", "maximum number of seconds for a shutdown")
    drain_delay: t.SecondsOrZero | None = setting(
        "0", "minimum number of seconds for which a stopping server still accepts connections"
    )
    max_connections: t.PositiveNumber | None = setting(
        "from the open file limit, at most 4096", "maximum number of connections per worker"
    )
    max_connections_per_address: t.PositiveNumber | None = setting(
        "a quarter of `max_connections`",
        "maximum number of connections per client address that have not sent a complete request yet",
    )
    head_seconds: t.Seconds | None = setting("10", "seconds to wait for a complete request head")
    request_seconds: t.Seconds | None = setting(
        "30", "seconds to wait for a request body, and for a client to read a response"
    )
    idle_seconds: t.Seconds | None = setting("75", "seconds that a connection may stay idle")
    log_format: LogFormat | None = setting("text", "format of the server's own log")


class LogSettings(CommandSection):
    """`[log]`: the decision log."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor", "mcp-gateway")
    option_prefix: ClassVar[str] = "log_"

    file: t.File | None = setting("none", "file of the decision log", option="log")
    on_failure: FailureAction | None = setting(
        "deny", "what to do when a decision cannot be logged", option="on_log_failure"
    )
    redact: t.RedactedFacts | None = setting(
        "none", "facts to redact in the log: `body.card`, `args.**.note`", option="redact"
    )
    rotate: t.Rotation | None = setting("never", "when to start a new file: `100MB`, `1d`, or both")
    keep: t.WholeNumber | None = setting("all", "number of old files to keep")
    compress: t.Boolean | None = setting("false", "compress old files")
    sync: SyncMode | None = setting("never", "when to force decisions to disk")
    seal: t.Text | None = setting("`FILE.tlog`", "folder for the seal of the log, or `off`")
    key: t.File | None = setting("`FILE.key`", "private key that seals the log")
    checkpoint_url: t.Texts | None = setting("none", "URLs to which checkpoints of the log are sent by POST")
    witness: t.Texts | None = setting("none", "witnesses that cosign checkpoints, each as `URL KEY`")
    sinks: t.LogSinks | None = setting("none", "URLs of the systems to which the log is sent", option="log_sink")
    spool: t.File | None = setting(
        "the name of the log with `.sinks`",
        "folder where sinks keep their state and, without a log, the records to send",
    )


class StoreSettings(CommandSection):
    """`[store]`: the state of rates, budgets and approvals."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor", "mcp-gateway")

    url: t.StoreUrl | None = setting(
        "memory:",
        "where to keep rates, budgets, approvals and history; `?skew=5s` is the tolerated clock skew",
        option="store",
    )


class HaltSettings(CommandSection):
    """`[halt]`: who may halt requests, and where halts are kept besides the store."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "mcp-gateway")
    option_prefix: ClassVar[str] = "halt_"

    operators: t.Texts | None = setting(
        "none",
        "names in the token file that may set, list and lift halts with `/halt`",
        option="halt_operator",
        commands=("serve",),
    )
    file: t.File | None = setting("none", "file with halts, in addition to those in the store", must_exist=True)


class BehaviorSettings(CommandSection):
    """`[behavior]`: learned behavior of callers."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "mcp-gateway")

    folder: t.File | None = setting(
        "the name of the log with `.behavior`", "folder for learned behavior", option="behavior"
    )


def fact_header(key: str) -> Any:
    return setting(GatewayHeaders().facts.get(key, "none"), f"header with the fact `{key.replace('_', '.', 1)}`")


def time_header(key: str, use: str) -> Any:
    """Return the setting of a header with a time. Policies cannot read the time itself, only its `use`."""
    return setting(GatewayHeaders().facts.get(key, "none"), f"header with `{key.replace('_', '.', 1)}`{use}")


def forwarded_headers(adapter: GatewayAdapter) -> Any:
    headers = GatewayHeaders().hands_on(adapter).headers
    default = "all" if headers is None else ", ".join(sorted(headers)) or "none"
    return setting(default, f"request headers that gateways always forward to {adapter.place}")


class GatewaySettings(CommandSection):
    """`[gateway]`: which header carries which fact, and what gateways forward."""

    agent_id: t.Header | None = fact_header("agent_id")
    agent_issuer: t.Header | None = fact_header("agent_issuer")
    agent_instance: t.Header | None = fact_header("agent_instance")
    agent_groups: t.Header | None = fact_header("agent_groups")
    user_id: t.Header | None = fact_header("user_id")
    credential_kind: t.Header | None = fact_header("credential_kind")
    credential_issuer: t.Header | None = fact_header("credential_issuer")
    credential_scopes: t.Header | None = fact_header("credential_scopes")
    credential_issued_at: t.Header | None = time_header(
        "credential_issued_at", ", from which `credential.age` and `credential.lifetime` are computed"
    )
    credential_expires_at: t.Header | None = time_header(
        "credential_expires_at", ", from which `credential.lifetime` is computed; an expired credential is not accepted"
    )
    credential_lifetime: t.Header | None = fact_header("credential_lifetime")
    credential_bound: t.Header | None = fact_header("credential_bound")
    request_ip: t.Header | None = fact_header("request_ip")
    request_size: t.Header | None = fact_header("request_size")
    hands_on_forward_auth: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.FORWARD_AUTH)
    hands_on_nginx: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.NGINX)
    hands_on_envoy: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.ENVOY)
    hands_on_envoy_grpc: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.ENVOY_GRPC)
    bodies: t.BodyAdapters | None = setting(
        "none", "adapters whose gateway always sends the whole body, or refuses the request"
    )
    obligations: t.ObligationKinds | None = setting("none", "kinds of obligations that gateways fulfill")
    trust_domains: t.TrustDomains | None = setting("none", "issuer of each SPIFFE trust domain")
    client_certificate: CertificateHeader | None = setting(
        "none", "header with the client certificate of the connection"
    )

    def headers(self) -> GatewayHeaders:
        given: dict[str, Any] = {key: getattr(self, key) for key in self.model_fields_set}
        if "trust_domains" in given:
            given["trust_domains"] = tuple(given["trust_domains"].items())
        return GatewayHeaders(**given)

    @model_validator(mode="after")
    def check_headers_differ(self) -> Self:
        """Check that no header carries two facts, because clients could then set one fact through the header of the
        other. Raises the error of a setting.
        """
        carries: dict[str, str] = {}
        for key, header in self.headers().facts.items():
            if header in carries:
                named = key if key in self.model_fields_set else carries[header]
                other = carries[header] if named == key else key
                raise setting_error(f"the header `{header}` already carries `{other}`", "choose another header", named)
            carries[header] = key
        return self


class AuthzenSettings(CommandSection):
    """`[authzen]`: evaluations of AuthZEN."""

    consume: t.Texts | None = setting(
        "none",
        "names in the token file, or `*` for all, whose AuthZEN evaluations spend (rates, budgets, history) unless "
        "`context.consume` is false",
    )
    mcp_server: t.McpServerName | None = setting(
        "none", "the MCP server, by its name in policies, to which AuthZEN evaluations refer"
    )


class ConsoleSettings(CommandSection):
    """`[console]`: the console for people (`docs/console.md`). Rules for roles: `id:alice`, `roles:finance`,
    `team:ops`, `claim.groups:ops`, or `*`.
    """

    port: t.Port | None = setting(
        "none: no console", "port that serves the console", option="console", commands=("serve",)
    )
    host: t.Text | None = setting(
        "127.0.0.1",
        "address to listen on; an address that is not loopback needs `issuer` and an `https://` `public_url`",
    )
    public_url: t.Text | None = setting("the address and port", "URL of the console in browsers")
    allowed_hosts: t.Hosts | None = setting(
        "none", "host names, besides loopback names and that of `public_url`, that are accepted in `Host`"
    )
    issuer: t.Text | None = setting(
        "none: links from the terminal", "issuer of the policy at which people sign in, with OpenID Connect"
    )
    client_id: t.Text | None = setting("none", "client ID of the console at the issuer")
    client_secret_file: t.File | None = setting(
        "none: a public client", "file with the client secret, or with the private key of the client"
    )
    client_auth: ClientAuth | None = setting("client_secret_basic", "how the console authenticates to the issuer")
    scopes: t.Texts | None = setting("none", "scopes to request in addition to `openid`")
    view: t.RoleRuleTexts | None = setting("none", "rules for who may see the pages, such as `roles:finance`, or `*`")
    approve: t.RoleRuleTexts | None = setting("none", "rules for who may also approve requests")
    halt: t.RoleRuleTexts | None = setting("none", "rules for who may also halt agents")
    link_user: t.Text | None = setting("operator", "name of the person who signs in with a link from the terminal")
    link_issuer: t.Text | None = setting(
        "none: a person with a link answers no approvals",
        "issuer of the policy whose user `link_user` is, so that the person with a link may answer approvals as that "
        "user",
    )
    idle_minutes: t.Minutes | None = setting("30", "minutes after which an unused session ends")
    session_hours: t.Hours | None = setting("12", "hours after which every session ends")


class ApprovalsSettings(CommandSection):
    """`[approvals]`: how approvals are opened and answered."""

    trust_callers: t.Boolean | None = setting(
        "false", "count the `approvals` that callers put into their questions, instead of only recorded answers"
    )
    wait: t.ApprovalWait | None = setting("1d", "how long people can answer, from `1m` to `7d`")
    issuers: t.Texts | None = setting(
        "issuers with `users like`; also the issuer without `users like`, if there is exactly one",
        "issuers whose users may answer; a user must have the same name under all of them",
    )
    most_per_requester: t.PositiveNumber | None = setting(
        "20", "maximum number of approvals of one requester that are open, denied or withdrawn"
    )
    most_per_approver: t.PositiveNumber | None = setting(
        "100", "maximum number of approvals that wait for the same people; at most half of them by one agent"
    )
    url: t.LinkUrl | None = setting("`public_url` of `[serve]`", "URL of the server at which people answer")
    webhook_spool: t.File | None = setting(
        "the SQLite store or the log, with `.webhooks`; otherwise in memory",
        "file where messages of webhooks wait for their receivers",
    )

    def to_settings(self, url: str | None, console_url: str | None = None) -> ApprovalSettings:
        """Return the settings of an engine. `url` is the URL of the server, if the section names no URL; `console_url`
        is the URL of the console."""
        given = {key: getattr(self, key) for key in self.model_fields_set - {"wait", "webhook_spool"}}
        wait = None if self.wait is None else parse_duration(self.wait)
        return ApprovalSettings(
            **{"url": url, "console_url": console_url, **given, **({} if wait is None else {"wait": wait})}
        )


class WebhookSettings(SettingsSection):
    """`[webhooks.NAME]`: a system or a chat that receives messages about approvals (`docs/approval-webhooks.md`)."""

    hides_unknown: ClassVar[bool] = True

    url: t.WebhookUrl | None = setting(
        "none", "URL of the receiver; `https://`, or `http://` to this machine with `allow_private`"
    )
    url_file: t.File | None = setting("none", "file with the URL, instead of `url`: URLs of chats are secrets")
    secret_files: t.FileList = setting(
        "none", "files with secrets, each of which signs every message; required for `json`", value=()
    )
    format: WebhookFormatName = setting("json", "`json`, `slack`, `slack-workflow` or `teams`", value="json")
    events: tuple[WebhookEventName, ...] = setting("all", "events to send", value=WEBHOOK_EVENTS)
    approvers: t.Texts = setting("all", "send only approvals by these approvers, such as `role finance`", value=())
    include_request: t.Boolean = setting("false", "include the values of the request, without secrets", value=False)
    allow_private: t.Boolean = setting("false", "permit addresses of this machine and of private networks", value=False)
    ca: t.File | None = setting("the system's", "PEM file of certificates to trust")
    timeout: t.AttemptSeconds = setting("10", "time limit of an attempt, in seconds", value=10.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise setting_error("a webhook needs `url` or `url_file`, and not both", 'as in `url_file = "slack.url"`')
        if not self.events:
            raise setting_error("`events` is empty", "delete it to send all events", "events")
        if self.format == "json" and not self.secret_files:
            hint = 'as in `secret_files = ["webhook.secret"]`, so that the receiver can verify messages'
            raise setting_error("a webhook with the format `json` needs `secret_files`", hint)
        if self.url is not None:
            check_webhook_setting(self.url, self.allow_private)
        return self

    def to_target(self, name: str) -> WebhookTarget:
        """Return the target of a webhook with this name."""
        from policyengine.approvals.events import ApprovalEventKind
        from policyengine.webhooks.target import WebhookFormat, WebhookTarget

        return WebhookTarget(
            name, self.url, None if self.url_file is None else Path(self.url_file),
            tuple(map(Path, self.secret_files)), WebhookFormat(self.format), tuple(map(ApprovalEventKind, self.events)),
            self.approvers, self.include_request, self.allow_private, None if self.ca is None else Path(self.ca),
            self.timeout,
        )  # fmt: skip


def check_webhook_setting(url: str, private: bool) -> None:
    """Check the URL of a webhook without resolving its host name. Raises the error of a setting."""
    try:
        from policyengine.http.fetch import FetchError
        from policyengine.webhooks.webhook_client import check_webhook_url
    except ImportError:
        raise setting_error("webhooks need more packages", install_command("httpx")) from None
    try:
        check_webhook_url(url, private=private)
    except FetchError as error:
        hint = None if private else "`allow_private = true` permits addresses of this machine and of private networks"
        raise setting_error(f"`url`: {error.why}", hint, "url") from None


class McpServerSettings(SettingsSection):
    """`[mcp-servers.NAME]`: an MCP server behind a gateway that asks this server (`docs/gateways.md`)."""

    paths: t.McpPaths = setting(
        "none", "paths at which the gateway serves the MCP server, with all paths below", value=()
    )
    hosts: t.Hosts = setting("all", "host names at which the gateway serves it", value=())
    validates_mcp_headers: t.Boolean = setting(
        "false", "decide tools, resources and prompts by `Mcp-Method` and `Mcp-Name`, once a probe at `url` has shown "
        "that the server compares them with the body", value=False,
    )  # fmt: skip
    url: t.Text | None = setting("none", "URL at which this server probes the MCP server")
    token_file: t.File | None = setting("none", "file with the bearer token for probes")
    ca: t.File | None = setting("the system's", "PEM file of certificates to trust for probes")
    resource: t.LinkUrl | None = setting(
        "none", "public URL of the server: the audience of its tokens, and its ID in AuthZEN evaluations"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.paths and (self.validates_mcp_headers or self.resource is None):
            raise setting_error("an MCP server needs `paths`", 'as in `paths = ["/mcp"]`')
        if self.validates_mcp_headers and self.url is None:
            hint = 'as in `url = "http://127.0.0.1:9000/mcp"`: probes are sent to this URL'
            raise setting_error("`validates_mcp_headers` needs `url`", hint)
        if self.url is not None:
            check_probe_setting(self.url, private=self.token_file is None)
        return self

    def to_server(self, name: str) -> McpServer:
        """Return the MCP server with this name."""
        from policyengine.http.host_check import ANY_HOST_NAME, AllowedHosts
        from policyengine.server.mcp.servers import McpServer

        names = AllowedHosts.of(self.hosts).names
        hosts = () if ANY_HOST_NAME in names else tuple(sorted(names))
        return McpServer(
            name, self.paths, hosts, self.validates_mcp_headers, self.url,
            None if self.token_file is None else Path(self.token_file), None if self.ca is None else Path(self.ca),
            self.resource,
        )  # fmt: skip


def check_probe_setting(url: str, *, private: bool) -> None:
    """Check the URL of probes without connecting; `private` allows `http://` to other machines. Raises the error of a
    setting."""
    try:
        from policyengine.http.fetch import FetchError, parse_fetch_url
    except ImportError:
        raise setting_error("probes of MCP servers need more packages", install_command("httpx")) from None
    try:
        parse_fetch_url(url, private)
    except FetchError as error:
        hint = None if private else "a token is sent only with `https://`, or to this machine"
        raise setting_error(f"`url`: {error.why}", hint, "url") from None


class ReloadSettings(CommandSection):
    """`[reload]`: what new policies may remove or allow while the server runs."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "mcp-gateway")
    option_prefix: ClassVar[str] = "reload_"

    allow: t.ReloadAllowances | None = setting(
        "nothing",
        "removals and widening changes that a reload may make: kinds of change (`removed-guards`), or the revision of "
        "the new policies (`sha256:…`)",
    )
    gate: ReloadGate | None = setting("none", "`diff`: refuse a reload unless it is proved to widen nothing")
    compare: t.SecondsOrZero | None = setting(
        "30", "time limit in seconds for comparing new policies with the current ones; 0 disables it"
    )


class ObserveSettings(CommandSection):
    """`[observe]`: observe mode until a time or for a duration, for all or only for `packages` and `endpoints`."""

    until: t.Timestamp = setting("none", "until this time, let requests pass that the policies would stop", value="")
    packages: t.Packages = setting("all", "observe only the rules of these packages", value=())
    endpoints: t.Endpoints = setting("all", "observe only these endpoints", value=())


class McpGatewaySettings(CommandSection):
    """`[mcp-gateway]`: the protected MCP server, and the caller."""

    commands: ClassVar[tuple[str, ...]] = ("mcp-gateway",)

    upstream: t.Text | None = setting("none", "the MCP server: its URL, or the command that starts it")
    server: t.Text | None = setting("none", "name of the server in policies")
    as_: t.Texts | None = setting(
        "none", "facts about the caller: `agent=coder`, `issuer=local`", alias="as", option="identity"
    )
    from_header: t.Texts | None = setting(
        "none", "headers with facts about the caller: `agent=x-agent`, `user=x-user`", option="header"
    )
    host: t.Text | None = setting(
        "127.0.0.1", "address to listen on; an address that other machines can reach needs `identity`"
    )
    port: t.Port | None = setting("none: stdio", "port for HTTP")
    metrics_port: t.Port | None = setting("none", "port that serves `/metrics` without a token")
    public_url: t.Text | None = setting("none", "public URL of this gateway, without `/mcp`, behind a TLS proxy")
    initial_scopes: t.Texts | None = setting(
        "all",
        "with `identity`: scopes that clients request first, before a call needs another scope",
        option="initial_scope",
    )
    allowed_hosts: t.Hosts | None = setting(
        "none", "host names, besides loopback names, that are accepted in `Host`", option="allowed_host"
    )
    timeout: t.Seconds | None = setting("60", "seconds to wait for a response from the server")
    wait_for_approval: t.ApprovalSeconds | None = setting("0", "seconds that a call waits for an approval")
    elicit: Elicitation | None = setting("off", "`url` or `form`: how the client asks its user for approvals `by user`")
    approval_pages: t.Text | None = setting(
        "`public_url` of `[console]`", "public URL of the console, for links to approvals"
    )
    env: t.Texts | None = setting("none", "names of environment variables to pass to the command")
    upstream_token_file: t.File | None = setting(
        "none", "file with the bearer token for the server", option="token_file", must_exist=True
    )
    max_sessions: t.SessionCount | None = setting(
        "100", "maximum number of sessions of legacy clients, and of sessions with a legacy server for modern clients"
    )
    upstream_protocol: UpstreamVersions | None = setting(
        "auto",
        "versions of MCP to use with the server: `modern` (only 2026-07-28), `legacy` (only earlier versions), or "
        "`auto` (the version of each client)",
    )
    pins: t.File | None = setting(
        "`mcp-pins.json` next to the policies", "file with the reviewed definitions of tools", must_exist=True
    )
    unreviewed: Unreviewed | None = setting(
        "deny", "what to do with tools that are not reviewed: `deny`, or `decide` by the policies"
    )
    entities: t.EntitySources | None = setting("none", "entities: files, folders, URLs of databases", must_exist=True)
    identity: t.File | None = setting(
        "none", "verify callers as configured in this `identity.toml`", option="identity_file", must_exist=True
    )
    trust: t.Files | None = setting("none", "public keys; one of them must have signed the bundle", must_exist=True)
    watch: t.Boolean | None = setting("false", "reload policies whenever a file changes")
    test: t.Boolean | None = setting("false", "start only if the policies pass their own tests")


class LintSettings(CommandSection):
    """`[lint]`: codes of rules. Without `select`, all except the optional rules run; `extend` adds rules, and `ignore`
    then removes rules.
    """

    select: t.RuleCodes | None = setting("all except optional rules", "report only these rules")
    extend: t.RuleCodes = setting("none", "also report these rules", value=())
    ignore: t.RuleCodes = setting("none", "do not report these rules", value=())
    strict: t.Boolean = setting("false", "treat warnings as errors", value=False)


class TestSettings(CommandSection):
    """`[test]`: how the tests of policies run."""

    __test__: ClassVar[bool] = False  # tells pytest that this is not a test class

    jobs: t.WholeNumber | None = setting("1", "number of processes that run the tests; 0 for one per processor")
    seed: t.WholeNumber | None = setting("0", "random seed; the same seed generates the same requests")
    examples: t.PositiveNumber | None = setting(
        "200", "number of requests to try for each `forall`", commands=("test",)
    )


class CoverageSettings(CommandSection):
    """`[coverage]`: the minimum coverage of the policies by tests."""

    fail_under: t.Percent | None = setting("none", "minimum coverage in percent, for runs that measure coverage")


class ProjectSections(SettingsSection):
    """The whole settings file. `directory` maps the tables of a database to entities, and is parsed with the
    entities."""

    serve: ServeSettings = Field(default_factory=ServeSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    halt: HaltSettings = Field(default_factory=HaltSettings)
    behavior: BehaviorSettings = Field(default_factory=BehaviorSettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    authzen: AuthzenSettings = Field(default_factory=AuthzenSettings)
    console: ConsoleSettings = Field(default_factory=ConsoleSettings)
    approvals: ApprovalsSettings = Field(default_factory=ApprovalsSettings)
    webhooks: Mapping[str, WebhookSettings] = Field(default_factory=dict)
    mcp_servers: Mapping[str, McpServerSettings] = Field(default_factory=dict, alias="mcp-servers")
    reload: ReloadSettings = Field(default_factory=ReloadSettings)
    observe: ObserveSettings | None = None
    mcp_gateway: McpGatewaySettings = Field(default_factory=McpGatewaySettings, alias="mcp-gateway")
    lint: LintSettings = Field(default_factory=LintSettings)
    test: TestSettings = Field(default_factory=TestSettings)
    coverage: CoverageSettings = Field(default_factory=CoverageSettings)
    directory: Any = None

    @field_validator("webhooks", mode="before")
    @classmethod
    def _check_webhook_tables(cls, webhooks: object) -> object:
        if isinstance(webhooks, Mapping) and any(not isinstance(one, Mapping) for one in webhooks.values()):
            raise setting_error("a webhook needs a name", "write `[webhooks.finance]` instead of `[webhooks]`")
        return webhooks

    @field_validator("webhooks")
    @classmethod
    def _check_webhooks(cls, webhooks: Mapping[str, WebhookSettings]) -> Mapping[str, WebhookSettings]:
        for name in webhooks:
            if not t.WEBHOOK_NAME.fullmatch(name):
                hint = "as in `[webhooks.finance]`: lowercase letters, digits, `-` and `_`, at most 40"
                raise setting_error(f"`{name}` is not a name of a webhook", hint)
        if len(webhooks) > MAX_WEBHOOKS:
            raise setting_error(
                f"there are more than {MAX_WEBHOOKS} webhooks", "send to one webhook that distributes the messages"
            )
        return webhooks

    @field_validator("mcp_servers")
    @classmethod
    def _check_mcp_servers(cls, servers: Mapping[str, McpServerSettings]) -> Mapping[str, McpServerSettings]:
        from policyengine.server.mcp.servers import find_shared_path

        for name in servers:
            if not t.MCP_SERVER_NAME.fullmatch(name):
                hint = "as in `[mcp-servers.notes]`: the name before the `/` of its tools in policies"
                raise setting_error(f"`{name}` is not a name of an MCP server", hint)
        if len(servers) > MAX_MCP_SERVERS:
            raise setting_error(
                f"there are more than {MAX_MCP_SERVERS} MCP servers", "use another instance of policyengine"
            )
        shared = find_shared_path([server.to_server(name) for name, server in servers.items()])
        if shared is not None:
            message = f"`{shared[0].name}` and `{shared[1].name}` have the same path `{shared[2]}`"
            raise setting_error(message, "give them different `paths` or `hosts`")
        return servers

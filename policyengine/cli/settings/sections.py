"""The sections of `policyengine.toml`: a model for each, from which the table in docs/configuration.md, `config show`
and the defaults of options derive. A setting that nobody sets is None, for the default of the option to apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, model_validator

from policyengine.cli.settings import types as t
from policyengine.http.forwarded_parts import GatewayAdapter
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.settings.section import SettingsSection, setting_error

LogFormat: TypeAlias = Literal["text", "json"]
FailureAction: TypeAlias = Literal["deny", "continue"]
SyncMode: TypeAlias = Literal["never", "second", "always"]
ReloadGate: TypeAlias = Literal["none", "diff"]
CertificateHeader: TypeAlias = Literal["client-cert", "x-forwarded-client-cert"]
Section = TypeVar("Section", bound=SettingsSection)


@dataclass(frozen=True, slots=True)
class SettingTraits:
    """`default`: as docs show it. `option`: the parameter of commands that the setting is the default of, if it has
    another name. `must_exist`: a file that is read."""

    default: str
    option: str = ""
    commands: tuple[str, ...] = ()
    must_exist: bool = False


def setting(default: str, description: str, *, value: Any = None, alias: str | None = None, **traits: Any) -> Any:
    """A field with the words that docs have for it. `value` is what it is where nobody sets it."""
    extra: Any = {"traits": SettingTraits(default, **traits)}
    return Field(default=value, description=description, alias=alias, json_schema_extra=extra)


class CommandSection(SettingsSection):
    """A section whose settings are defaults of options of `commands`, by names that begin with `option_prefix`."""

    model_config = ConfigDict(populate_by_name=True)
    commands: ClassVar[tuple[str, ...]] = ()
    option_prefix: ClassVar[str] = ""


class ServeSettings(CommandSection):
    """`[serve]`: where the decision API listens, and what it loads."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor")

    host: t.Text | None = setting("127.0.0.1", "where to listen")
    port: t.Port | None = setting("8080; none with a socket", "the port; 0 takes a free one")
    socket: t.File | None = setting("none", "a Unix socket to answer at")
    socket_mode: t.FileMode | None = setting("600", "who may connect to it")
    envoy_grpc: t.Port | None = setting("none", "a port to answer Envoy on by gRPC")
    workers: t.PositiveNumber | None = setting("1", "how many processes answer")
    token_file: t.File | None = setting("none", "who asks must show a token of it", must_exist=True)
    entities: t.EntitySources | None = setting("none", "who is who: files, folders, URLs of databases", must_exist=True)
    identity: t.File | None = setting("none", "how raw credentials are verified: an `identity.toml`", must_exist=True)
    trust: t.Files | None = setting("none", "public keys, one of which must have signed the bundle", must_exist=True)
    watch: t.Boolean | None = setting("false", "read policies anew whenever a file changes")
    test: t.Boolean | None = setting("false", "start only if the policies pass their own tests")
    public_url: t.Text | None = setting("none", "where others find it, for the metadata of AuthZEN")
    allowed_hosts: t.Hosts | None = setting(
        "none", "names, beside those of loopback, to which it answers without a token", option="allowed_host"
    )
    metrics_port: t.Port | None = setting("none", "a port that answers `/metrics` without a token")
    drain_seconds: t.SecondsOrZero | None = setting("10", "how long a stop may take")
    drain_delay: t.SecondsOrZero | None = setting("0", "seconds that a stop at least still lets others in")
    max_connections: t.PositiveNumber | None = setting(
        "as files allow, at most 4096", "how many connections a worker holds"
    )
    max_connections_per_address: t.PositiveNumber | None = setting(
        "a quarter of them", "how many of them an address may have that sent no request yet"
    )
    head_seconds: t.Seconds | None = setting("10", "how long the head of a request may take to arrive")
    request_seconds: t.Seconds | None = setting("30", "how long the rest of it may take, and an answer to be read")
    idle_seconds: t.Seconds | None = setting("75", "how long a connection may wait for its next request")
    log_format: LogFormat | None = setting("text", "how the server tells what happens to it")


class LogSettings(CommandSection):
    """`[log]`: the decision log."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor", "mcp-gateway")
    option_prefix: ClassVar[str] = "log_"

    file: t.File | None = setting("none", "where decisions are written", option="log")
    on_failure: FailureAction | None = setting("deny", "what becomes of one that cannot be", option="on_log_failure")
    redact: t.RedactedFacts | None = setting(
        "none", "facts that it must not hold: `body.card`, `args.**.note`", option="redact"
    )
    rotate: t.Rotation | None = setting("never", "when another file begins: `100MB`, `1d`, or both")
    keep: t.WholeNumber | None = setting("all", "how many old files are kept")
    compress: t.Boolean | None = setting("false", "whether old files are compressed")
    sync: SyncMode | None = setting("never", "when decisions are forced to the disk")


class StoreSettings(CommandSection):
    """`[store]`: the state of rates, budgets and approvals."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "doctor", "mcp-gateway")

    url: t.StoreUrl | None = setting(
        "memory:",
        "what keeps rates, budgets, approvals and history; `?skew=5s` says by how much clocks may differ",
        option="store",
    )


def fact_header(key: str) -> Any:
    return setting(GatewayHeaders().facts.get(key, "none"), f"the header that says `{key}`")


def forwarded_headers(adapter: GatewayAdapter) -> Any:
    headers = GatewayHeaders().hands_on(adapter).headers
    default = "all" if headers is None else ", ".join(sorted(headers)) or "none"
    return setting(default, f"headers that always arrive at {adapter.place}")


class GatewaySettings(CommandSection):
    """`[gateway]`: which header carries which fact, and what gateways send along."""

    agent_id: t.Header | None = fact_header("agent_id")
    agent_issuer: t.Header | None = fact_header("agent_issuer")
    agent_instance: t.Header | None = fact_header("agent_instance")
    agent_groups: t.Header | None = fact_header("agent_groups")
    user_id: t.Header | None = fact_header("user_id")
    credential_kind: t.Header | None = fact_header("credential_kind")
    credential_issuer: t.Header | None = fact_header("credential_issuer")
    credential_scopes: t.Header | None = fact_header("credential_scopes")
    credential_issued_at: t.Header | None = fact_header("credential_issued_at")
    credential_expires_at: t.Header | None = fact_header("credential_expires_at")
    credential_lifetime: t.Header | None = fact_header("credential_lifetime")
    credential_bound: t.Header | None = fact_header("credential_bound")
    request_ip: t.Header | None = fact_header("request_ip")
    request_size: t.Header | None = fact_header("request_size")
    hands_on_forward_auth: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.FORWARD_AUTH)
    hands_on_nginx: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.NGINX)
    hands_on_envoy: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.ENVOY)
    hands_on_envoy_grpc: t.ForwardedHeaders | None = forwarded_headers(GatewayAdapter.ENVOY_GRPC)
    bodies: t.BodyAdapters | None = setting("none", "where every body arrives, whole, or its request is refused")
    obligations: t.ObligationKinds | None = setting("none", "kinds of obligations that gateways carry out")
    trust_domains: t.TrustDomains | None = setting("none", "the issuer of each SPIFFE trust domain")
    client_certificate: CertificateHeader | None = setting(
        "none", "the header that says whose certificate the connection has"
    )

    def headers(self) -> GatewayHeaders:
        given: dict[str, Any] = {key: getattr(self, key) for key in self.model_fields_set}
        if "trust_domains" in given:
            given["trust_domains"] = tuple(given["trust_domains"].items())
        return GatewayHeaders(**given)

    @model_validator(mode="after")
    def check_headers_differ(self) -> Self:
        """No header carries two facts: clients could set one of them by way of the other."""
        carries: dict[str, str] = {}
        for key, header in self.headers().facts.items():
            if header in carries:
                named = key if key in self.model_fields_set else carries[header]
                other = carries[header] if named == key else key
                raise setting_error(f"the header `{header}` carries `{other}` already", "take another", named)
            carries[header] = key
        return self


class AuthzenSettings(CommandSection):
    """`[authzen]`: evaluations of AuthZEN."""

    consume: t.Texts | None = setting(
        "none", "callers of the token file, or `*`, whose AuthZEN evaluations spend unless `context.consume` is false"
    )


class ReloadSettings(CommandSection):
    """`[reload]`: what new policies may take away or open while the server runs."""

    commands: ClassVar[tuple[str, ...]] = ("serve", "mcp-gateway")
    option_prefix: ClassVar[str] = "reload_"

    allow: t.ReloadAllowances | None = setting(
        "nothing", "what a reload may take away or open: words (`removed-guards`) and revisions (`sha256:…`)"
    )
    gate: ReloadGate | None = setting("none", "`diff`: a reload must be proved to widen nothing")
    compare: t.SecondsOrZero | None = setting(
        "30", "seconds that a reload is compared with what was before; 0: it is not"
    )


class ObserveSettings(CommandSection):
    """`[observe]`: observe mode, `until` a time or for so long; with `packages` and `endpoints` only those."""

    until: t.Timestamp = setting("none", "let pass what would be stopped, until then; `--observe-until`", value="")
    packages: t.Packages = setting("all", "only what their rules would stop; `--observe-package`", value=())
    endpoints: t.Endpoints = setting("all", "only there; `--observe-endpoint`", value=())


class McpGatewaySettings(CommandSection):
    """`[mcp-gateway]`: the MCP server that is protected, and who asks."""

    commands: ClassVar[tuple[str, ...]] = ("mcp-gateway",)

    upstream: t.Text | None = setting("none", "the MCP server: its URL, or a command")
    server: t.Text | None = setting("none", "how policies call it")
    as_: t.Texts | None = setting("none", "who asks: `agent=coder`, `issuer=local`", alias="as", option="identity")
    from_header: t.Texts | None = setting("none", "who asks, by headers", option="header")
    host: t.Text | None = setting("127.0.0.1", "where to listen, on this machine")
    port: t.Port | None = setting("none: stdio", "speak HTTP here")
    allowed_hosts: t.Hosts | None = setting(
        "none", "names, beside those of loopback, to which it answers", option="allowed_host"
    )
    timeout: t.Seconds | None = setting("60", "seconds that an answer of the server may take")
    env: t.Texts | None = setting("none", "names of variables that the command gets, too")
    upstream_token_file: t.File | None = setting(
        "none", "the token that the server wants", option="token_file", must_exist=True
    )
    entities: t.EntitySources | None = setting("none", "who is who: files, folders, URLs of databases", must_exist=True)
    identity: t.File | None = setting(
        "none", "how callers are verified: an `identity.toml`", option="identity_file", must_exist=True
    )
    trust: t.Files | None = setting("none", "public keys, one of which must have signed the bundle", must_exist=True)
    watch: t.Boolean | None = setting("false", "read policies anew whenever a file changes")
    test: t.Boolean | None = setting("false", "start only if the policies pass their own tests")


class LintSettings(CommandSection):
    """`[lint]`: codes of rules. Without `select` all but the optional ones run; `extend` adds, `ignore` goes last."""

    select: t.RuleCodes | None = setting("all but the optional ones", "rules that are told, and no others")
    extend: t.RuleCodes = setting("none", "rules that are told, too", value=())
    ignore: t.RuleCodes = setting("none", "rules that are not told", value=())
    strict: t.Boolean = setting("false", "whether warnings fail", value=False)


class TestSettings(CommandSection):
    """`[test]`: how the tests of policies run."""

    __test__: ClassVar[bool] = False  # pytest: this is no test

    jobs: t.WholeNumber | None = setting("1", "how many processes run the tests; 0: one for each processor")
    seed: t.WholeNumber | None = setting("0", "of what is drawn by chance")
    examples: t.PositiveNumber | None = setting("200", "requests for each `forall`", commands=("test",))


class CoverageSettings(CommandSection):
    """`[coverage]`: how much of the policies tests must reach."""

    fail_under: t.Percent | None = setting("none", "the least that is enough, in percent")


class ProjectSections(SettingsSection):
    """The whole file. `directory` says what is where in a database, and is read with the entities."""

    serve: ServeSettings = Field(default_factory=ServeSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    authzen: AuthzenSettings = Field(default_factory=AuthzenSettings)
    reload: ReloadSettings = Field(default_factory=ReloadSettings)
    observe: ObserveSettings | None = None
    mcp_gateway: McpGatewaySettings = Field(default_factory=McpGatewaySettings, alias="mcp-gateway")
    lint: LintSettings = Field(default_factory=LintSettings)
    test: TestSettings = Field(default_factory=TestSettings)
    coverage: CoverageSettings = Field(default_factory=CoverageSettings)
    directory: Any = None

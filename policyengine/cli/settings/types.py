"""The types of settings in `policyengine.toml`: their valid values, and the description of these values in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import ERROR_KIND
from policyengine.http.gateway_headers import RESERVED_HEADERS
from policyengine.http.gateway_omissions import ALL, WITHHELD_HEADERS, GatewayAdapter
from policyengine.settings.section import RELATIVE, RELATIVE_OR_URL, SECRET, ValueDescription, setting_error
from policyengine.time_formats import parse_duration

DOMAIN = r"^[a-z0-9._-]{1,255}$"
MIN_APPROVAL_WAIT, MAX_APPROVAL_WAIT = timedelta(minutes=1), timedelta(days=7)
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
ANY_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
FILLED = r"\S"
PATH = r"^[^\x00]*[^\s\x00][^\x00]*$"
MODE = r"^0?[0-7]{3}$"
ROLE_RULE = r"^(\*|[^:\s][^:]*:.*\S.*)$"
MCP_SERVER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
WEBHOOK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
BODY_ADAPTERS = tuple(adapter.value for adapter in GatewayAdapter if adapter.sends_bodies)


# ── Checks of the modules that use a setting ──────────────────────────────────────────────────


def parse_rule_code(word: str) -> str:
    """Return the code of a rule from its code or its short name. Errors cannot be turned off. Raises CommandError."""
    from policyengine.diagnostics.catalog import CODES_BY_NAME, find_code
    from policyengine.diagnostics.suggest import did_you_mean

    known = find_code(word)
    if known is None:
        hint = did_you_mean(word, CODES_BY_NAME) or "`policyengine explain-code` lists all rules"
        raise CommandError(ERROR_KIND, f"there is no rule `{word}`", hint)
    if not known.name:
        raise CommandError(
            ERROR_KIND, f"`{known.code}` is an error, and errors are always reported", "name warnings only"
        )
    return known.code


def parse_rule_codes(words: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(map(parse_rule_code, words))
    except CommandError as error:
        raise setting_error(error.message, error.hint) from None


def check_store_url(url: str) -> str:
    """Check a store URL without connecting. No message contains its password. Raises the error of a setting."""
    from policyengine.stores.url import StoreUrlError, parse_store_url

    try:
        if url != "memory:":
            parse_store_url(url)
    except StoreUrlError as error:
        raise setting_error(error.message, error.hint) from None
    return url


def check_link_url(url: str) -> str:
    """Check the base of links for people. Raises the error of a setting."""
    try:
        parts = urlsplit(url)
        is_link = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        is_link = False
    if not is_link:
        raise setting_error("`url` must be the URL of a server", 'as in `"https://pdp.example.com"`')
    return url


def check_redacted_facts(facts: tuple[str, ...]) -> tuple[str, ...]:
    from policyengine.audit.redaction import Redaction

    try:
        Redaction.of(facts)
    except ValueError as error:
        raise setting_error(str(error), 'as in `["body.card", "args.**.note"]`') from None
    return facts


def check_rotation(limits: tuple[str, ...]) -> tuple[str, ...]:
    from policyengine.cli.options.log_rotation import parse_rotation

    try:
        parse_rotation(limits, None, False)
    except CommandError as error:
        raise setting_error(error.message, error.hint) from None
    return limits


def check_sinks(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Check sinks without connecting. No message contains a secret. Raises the error of a setting."""
    from policyengine.audit.sinks.targets import SinkTargetError, parse_sinks

    try:
        parse_sinks(urls)
    except SinkTargetError as error:
        raise setting_error(error.message, error.hint) from None
    return urls


def check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    from policyengine.http.host_check import AllowedHostError, AllowedHosts

    try:
        AllowedHosts.of(hosts)
    except AllowedHostError as error:
        raise setting_error(error.message, error.hint) from None
    return hosts


def check_mcp_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    from policyengine.runtime.paths import MalformedPath, canonical_path

    for path in paths:
        if isinstance(found := canonical_path(path), MalformedPath):
            raise setting_error(f"`{path}` is not a path of an MCP server: {found.why}", 'as in `["/mcp"]`')
    return paths


def check_reload_allowances(words: tuple[str, ...]) -> tuple[str, ...]:
    from policyengine.reload.rules import ReloadRuleError, ReloadRules

    try:
        ReloadRules.of(words)
    except ReloadRuleError as error:
        raise setting_error(error.message, error.hint) from None
    return words


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


def parse_header(value: object, info: ValidationInfo) -> str:
    """Return the name of a header in lower case; "" for no header. Raises the error of a setting for other values."""
    key = str(info.field_name)
    if value == "":
        return ""
    if not isinstance(value, str) or not HEADER.fullmatch(value):
        hint = f'as in `{key} = "X-Agent-{key.partition("_")[2].capitalize()}"`; `""` for no header'
        raise setting_error(f"`{key}` must be a header name: letters, digits and `-`", hint)
    if value.lower() in RESERVED_HEADERS:
        raise setting_error(f"the header `{value}` has another meaning", "choose another header")
    return value.lower()


def parse_all(value: object) -> object:
    """Return the word `all` as a list."""
    return [ALL] if value == ALL else value


def check_forwarded_headers(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name.lower() in WITHHELD_HEADERS:
            raise setting_error(
                f"the header `{name}` is withheld from policies", "remove it: its fact is always unknown"
            )
    return tuple(dict.fromkeys(name.lower() for name in names))


def check_body_adapters(adapters: tuple[str, ...]) -> tuple[str, ...]:
    if not all(adapter in BODY_ADAPTERS for adapter in adapters):
        raise ValueError
    return adapters


def check_approval_wait(text: str) -> str:
    lasts = parse_duration(text)
    if lasts is None or not MIN_APPROVAL_WAIT <= lasts <= MAX_APPROVAL_WAIT:
        raise ValueError
    return text


# ── Other values ──────────────────────────────────────────────────────────────────────────────


def as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def parse_timestamp(value: object) -> str:
    """Return a TOML time, or a time or duration in quotes, as text. Raises ValueError."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


Boolean: TypeAlias = Annotated[bool, Field(strict=True), ValueDescription("`true` or `false`")]
WholeNumber: TypeAlias = Annotated[int, Field(strict=True, ge=0), ValueDescription("a whole number, 0 or more")]
SessionCount: TypeAlias = Annotated[
    int, Field(strict=True, ge=2, le=10_000), ValueDescription("a whole number, 2 to 10,000")
]
PositiveNumber: TypeAlias = Annotated[int, Field(strict=True, ge=1), ValueDescription("a whole number, 1 or more")]
AttemptSeconds: TypeAlias = Annotated[
    float, Field(strict=True, ge=0.1, le=60), ValueDescription("a number of seconds, from 0.1 to 60")
]
Port: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=65535), ValueDescription("a port number from 0 to 65535")]
Percent: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100), ValueDescription("a number from 0 to 100")]
Seconds: TypeAlias = Annotated[
    float, Field(strict=True, ge=0.1, le=3600), ValueDescription("a number of seconds, from 0.1 to 3600")
]
SecondsOrZero: TypeAlias = Annotated[
    float, Field(strict=True, ge=0, le=3600), ValueDescription("a number of seconds, from 0 to 3600")
]
ApprovalSeconds: TypeAlias = Annotated[
    float, Field(strict=True, ge=0, le=300), ValueDescription("a number of seconds, from 0 to 300")
]
Minutes: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=1440), ValueDescription("a whole number of minutes, from 1 to 1440")
]
Hours: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=168), ValueDescription("a whole number of hours, from 1 to 168")
]
FilledText: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=FILLED)]
SomeText: TypeAlias = Annotated[str, StringConstraints(strict=True, min_length=1)]
Text: TypeAlias = Annotated[FilledText, ValueDescription("a non-empty string", '"…"')]
Texts: TypeAlias = Annotated[tuple[FilledText, ...], ValueDescription("a list of strings", '["…"]')]
File: TypeAlias = Annotated[
    str,
    StringConstraints(strict=True, pattern=PATH),
    RELATIVE,
    ValueDescription("a path", '"…"', ": from the folder of this file"),
]
Files: TypeAlias = Annotated[
    tuple[Annotated[str, StringConstraints(strict=True, pattern=PATH)], ...],
    RELATIVE,
    ValueDescription("a list of strings", '["…"]'),
]
FileList: TypeAlias = Annotated[Files, BeforeValidator(as_list)]
WebhookUrl: TypeAlias = Annotated[FilledText, SECRET, ValueDescription("a URL in quotes", '"https://…"')]
# Files and folders, and URLs of databases.
EntitySources: TypeAlias = Annotated[Texts, BeforeValidator(as_list), RELATIVE_OR_URL, SECRET]
FileMode: TypeAlias = Annotated[
    str, StringConstraints(strict=True, pattern=MODE), ValueDescription("a file mode in octal", '"660"')
]
LinkUrl: TypeAlias = Annotated[Text, AfterValidator(check_link_url)]
StoreUrl: TypeAlias = Annotated[Text, AfterValidator(check_store_url), SECRET]
RedactedFacts: TypeAlias = Annotated[Texts, AfterValidator(check_redacted_facts)]
Rotation: TypeAlias = Annotated[Texts, AfterValidator(check_rotation)]
LogSinks: TypeAlias = Annotated[Texts, AfterValidator(check_sinks), SECRET]
Hosts: TypeAlias = Annotated[Texts, AfterValidator(check_hosts)]
McpServerName: TypeAlias = Annotated[
    str,
    StringConstraints(strict=True, pattern=MCP_SERVER_NAME.pattern),
    ValueDescription("the name of a server", '"notes"'),
]
McpPaths: TypeAlias = Annotated[
    tuple[FilledText, ...],
    BeforeValidator(as_list),
    AfterValidator(check_mcp_paths),
    ValueDescription("a list of paths", '["/mcp"]'),
]
RoleRuleTexts: TypeAlias = Annotated[
    tuple[Annotated[str, StringConstraints(strict=True, pattern=ROLE_RULE)], ...],
    ValueDescription("a list of rules", '["roles:ops", "id:alice"]'),
]
ReloadAllowances: TypeAlias = Annotated[Texts, AfterValidator(check_reload_allowances)]
RuleCodes: TypeAlias = Annotated[
    tuple[Annotated[str, Field(strict=True)], ...],
    AfterValidator(parse_rule_codes),
    ValueDescription("a list of rules", '["static-key"]'),
]
ApprovalWait: TypeAlias = Annotated[
    FilledText, AfterValidator(check_approval_wait), ValueDescription("a duration from `1m` to `7d`", '"8h"')
]
Header: TypeAlias = Annotated[str, BeforeValidator(parse_header)]
ForwardedHeaders: TypeAlias = Annotated[
    tuple[Annotated[str, StringConstraints(strict=True, pattern=ANY_HEADER)], ...],
    BeforeValidator(parse_all),
    AfterValidator(check_forwarded_headers),
    ValueDescription("a list of headers, or `all`", '["X-Tenant"]'),
]
BodyAdapters: TypeAlias = Annotated[
    tuple[str, ...],
    AfterValidator(check_body_adapters),
    ValueDescription(f"a list of {' and '.join(f'`{name}`' for name in BODY_ADAPTERS)}", f'["{BODY_ADAPTERS[0]}"]'),
]
ObligationKinds: TypeAlias = Annotated[tuple[SomeText, ...], ValueDescription("a list of obligation kinds", '["warn"]')]
Packages: TypeAlias = Annotated[tuple[SomeText, ...], ValueDescription("a list of packages", '["acme.payments"]')]
Endpoints: TypeAlias = Annotated[tuple[SomeText, ...], ValueDescription("a list of endpoints", '["GET /v1/**"]')]
TrustDomains: TypeAlias = Annotated[
    Mapping[Annotated[str, StringConstraints(pattern=DOMAIN)], SomeText],
    ValueDescription("a table with an issuer for each domain", '{ "acme.example" = "acme" }'),
]
Timestamp: TypeAlias = Annotated[
    str,
    BeforeValidator(parse_timestamp),
    ValueDescription("a time with its zone, or a duration", "2026-12-01T00:00:00Z", ' or `{key} = "7d"`'),
]

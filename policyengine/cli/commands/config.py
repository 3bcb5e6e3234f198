"""`policyengine config`: check `policyengine.toml`, and show where each setting comes from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.mcp_header_warnings import mcp_warnings, print_mcp_warnings
from policyengine.cli.name_checks import check_mcp_servers
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.cli.settings.file import ERROR_KIND, ProjectSettings, display_path, load_settings

if TYPE_CHECKING:
    from policyengine import kernel as k
    from policyengine.cli.settings.registry import SettingSpec

SINKS = ("log", "sinks")
WEBHOOKS = "webhooks."  # begins the sections of webhooks
MCP_SERVERS = "mcp-servers."  # begins the sections of MCP servers
URL_PASSWORD = re.compile(r"(?<=://)([^/@]*):[^/@]*@")


class ConfigAction(StrEnum):
    CHECK = "check"
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A setting, its value (None if it is not set), and the source of the value."""

    setting: SettingSpec
    value: Any
    source: str

    def to_dict(self) -> dict[str, Any]:
        one = self.setting
        value = None if self.value is None else mask_passwords(one, self.value)
        return {
            "section": one.section, "key": one.key, "value": value, "from": self.source, "default": one.default,
            "variable": None if is_named_section(one) else one.variable,
        }  # fmt: skip


def config(
    action: Annotated[
        ConfigAction,
        typer.Argument(metavar="check|show", help="Check the file, or show every setting.", show_default=False),
    ],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The policies whose settings to read.")] = Path("."),
    probe: Annotated[
        bool, typer.Option("--probe", help="With `check`, ask the MCP servers whether they validate headers.")
    ] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Check `policyengine.toml`, or show every setting.

    A command line option takes precedence over an environment variable such as POLICYENGINE_SERVE_PORT, the variable
    over the `policyengine.toml` next to the policies or above them, and the file over the default. `show` prints where
    each value comes from, and hides passwords.

    With `--probe`, `check` also sends harmless requests to each MCP server with `validates_mcp_headers`: the server
    must refuse those whose headers and body differ.

    Exit code 0: no mistakes; 1: a mistake, with its location, or an MCP server that does not validate headers.

    \b
    Example:
      policyengine config check payments/
      policyengine config show payments/
      policyengine config check --probe payments/
    """
    if not path.exists():
        raise file_error(path, FileNotFoundError(ENOENT, os.strerror(ENOENT)))
    found = load_settings([path])
    if action is ConfigAction.CHECK:
        return check_settings(found, path, format, probe=probe)
    rows = list(setting_values(found))
    if format is OutputFormat.JSON:
        file = None if found.file is None else display_path(found.file)
        print_json({"file": file, "settings": [row.to_dict() for row in rows]})
        return 0
    print_settings(rows)
    return 0


def check_settings(found: ProjectSettings, policies: Path, format: OutputFormat, *, probe: bool = False) -> int:
    for row in setting_values(found):
        for file in missing_files(row):
            where = f"`{row.setting.section}.{row.setting.key}`, from {row.source}"
            raise CommandError(ERROR_KIND, f"{where}: there is no file `{file}`", None, (("file", file),))
    check_callers(found)
    check_gateway_callers(found)
    kernel = check_policy_names(found, policies)
    check_webhook_files(found)
    check_mcp_server_files(found)
    proved = probe_mcp_servers(found) if probe else {}
    said = sum(row.value is not None for row in setting_values(found))
    name = None if found.file is None else display_path(found.file)
    if format is OutputFormat.JSON:
        warned = [{"message": message, "hint": hint} for message, hint in mcp_warnings(found, kernel)]
        more = {"proved": proved} if probe else {}
        print_json({"file": name, "settings": said, **more, **({"warnings": warned} if warned else {})})
    else:
        what = "no `policyengine.toml`" if name is None else f"no mistakes in `{name}`"
        Screen().line(f"{what}: {said} setting{'' if said == 1 else 's'}")
        for server, methods in proved.items():
            Screen().line(f"the MCP server `{server}` compares its headers with the body of {', '.join(methods)}")
        print_mcp_warnings(found, kernel)
    return 0


def check_callers(found: ProjectSettings) -> None:
    """Check the AuthZEN callers and the operators against the token file that the settings file names. `doctor` checks
    a token file given as an option. Raises CommandError.
    """
    file, operators = found.values.get(("serve", "token_file")), found.values.get(("halt", "operators"), ())
    if file is None or not (found.authzen_consume or operators):
        return
    from policyengine.server import bearer_tokens
    from policyengine.server.bearer_tokens import BearerTokenError

    try:
        tokens = bearer_tokens.BearerTokens.of(bearer_tokens.read_token_file(file).tokens)
        bearer_tokens.check_consumers(found.authzen_consume, tokens)
        bearer_tokens.check_operators(operators, tokens)
    except BearerTokenError as error:
        raise CommandError(ERROR_KIND, error.message, error.hint) from None


def check_gateway_callers(found: ProjectSettings) -> None:
    """Check the facts about the caller of `mcp-gateway`. Raises CommandError."""
    from policyengine.cli.commands.mcp_gateway import CALLER_MEMBERS, parse_assignments

    for key in ("as", "from_header"):
        try:
            parse_assignments(found.values.get(("mcp-gateway", key)), key)
        except CommandError as error:  # a mistake in the file, not in the use of the command
            hint = f'write `{key} = ["WORD=VALUE"]`, with one value for each of {", ".join(CALLER_MEMBERS)}'
            message = f"`mcp-gateway.{key}`: {error.message}"
            raise replace(error, kind=ERROR_KIND, message=message, hint=hint, code=1) from None


def check_policy_names(found: ProjectSettings, policies: Path) -> k.Kernel | None:
    """Check that the policies name the issuers, approvers and MCP servers that the settings name. Return the policies,
    or None if the settings name none of these. Raises CommandError."""
    from policyengine.cli.settings.policy_names import check_issuer_names, named_issuers, unknown_approvers

    servers = found.mcp_servers.servers or found.mcp_servers.default is not None
    if not (any(named_issuers(found)) or any(webhook.approvers for webhook in found.webhooks) or servers):
        return None
    from policyengine.cli.load_engine import load_engine

    kernel = load_engine([policies], None).kernel
    check_issuer_names(found, kernel.issuers)
    for message, hint in unknown_approvers(found, kernel):
        raise CommandError(ERROR_KIND, message, hint)
    try:
        check_mcp_servers(found, kernel)
    except CommandError as error:  # a mistake in the file, not in the use of the command
        raise replace(error, kind=ERROR_KIND, code=1) from None
    return kernel


def check_webhook_files(found: ProjectSettings) -> None:
    """Check the URLs and secrets of the webhooks without connecting. Raises CommandError."""
    if found.webhooks:
        from policyengine.cli.webhook_setup import check_webhooks

        check_webhooks(found)


def check_mcp_server_files(found: ProjectSettings) -> None:
    """Check that the files of the MCP servers exist. Raises CommandError."""
    for server in found.mcp_servers.servers:
        for file in (server.token_file, server.ca):
            if file is not None and not file.exists():
                where = f"`[mcp-servers.{server.name}]`"
                raise CommandError(ERROR_KIND, f"{where}: there is no file `{file}`", None, (("file", str(file)),))


def probe_mcp_servers(found: ProjectSettings) -> dict[str, list[str]]:
    """Return the methods whose headers each MCP server compares with the body. Raises CommandError."""
    from policyengine.server.mcp.header_trust import ProbeError, probe_server

    proved: dict[str, list[str]] = {}
    for server in found.mcp_servers.servers:
        if server.validates_headers:
            try:
                proved[server.name] = sorted(probe_server(server))
            except ProbeError as error:
                hint = (
                    "`url` must be the MCP endpoint of the server, usually with the path `/mcp`; until the server "
                    "passes, its requests are refused unless the gateway sends their bodies"
                )
                raise CommandError(ERROR_KIND, f"`[mcp-servers.{server.name}]`: {error}", hint) from None
    return proved


def missing_files(row: SettingValue) -> Iterator[str]:
    from policyengine.entities.sources import is_url

    if row.setting.traits.must_exist and row.value is not None:
        files = row.value if isinstance(row.value, tuple) else (row.value,)
        yield from (file for file in files if not is_url(file) and not Path(file).exists())


def setting_values(found: ProjectSettings) -> Iterator[SettingValue]:
    from policyengine.cli.settings.registry import SETTINGS

    for setting in SETTINGS:
        value = found.values.get(setting.name)
        if setting.name in found.variables:
            source = setting.variable
        elif value is not None and found.file is not None:
            source = f"{display_path(found.file)}:{found.lines[setting.name]}"
        else:
            source = "default"
        yield SettingValue(setting, value, source)
    yield from named_values(found)


def named_values(found: ProjectSettings) -> Iterator[SettingValue]:
    """Yield the settings of webhooks and MCP servers that the file sets; environment variables cannot set them."""
    from policyengine.cli.settings.registry import SettingSpec, setting_traits

    if found.sections is None or found.file is None:
        return
    sections = {
        **{f"{WEBHOOKS}{name}": webhook for name, webhook in found.sections.webhooks.items()},
        **{f"{MCP_SERVERS}{name}": server for name, server in found.sections.mcp_servers.items()},
    }
    for name, section in sections.items():
        for key, field in type(section).model_fields.items():
            if key in section.model_fields_set:
                spec = SettingSpec(name, key, field, setting_traits(field))
                yield SettingValue(spec, getattr(section, key), display_path(found.file))


def is_named_section(setting: SettingSpec) -> bool:
    return setting.section.startswith((WEBHOOKS, MCP_SERVERS))


def is_webhook(setting: SettingSpec) -> bool:
    return setting.section.startswith(WEBHOOKS)


def print_settings(rows: list[SettingValue]) -> None:
    screen, section = Screen(), ""
    for row in rows:
        if row.setting.section != section:
            if section:
                screen.line()
            section = row.setting.section
            screen.line((f"[{section}]", "bold"))
        value = row.setting.default if row.value is None else to_toml(mask_passwords(row.setting, row.value))
        style = "dim" if row.value is None else ""
        screen.line((f"{row.setting.key} = {value}", style), (f"  # {row.source}", "dim"))
    sys.stdout.flush()


def mask_sink(value: str) -> str:
    """Return a sink without the path and the query of its URL, which may contain a secret."""
    from policyengine.audit.sinks.targets import SinkKind, SinkTargetError, parse_sink

    try:
        sink = parse_sink(value)
    except SinkTargetError:
        return "***"
    _, hash, options = value.partition("#")
    rest = "/***" if sink.kind in (SinkKind.HTTP, SinkKind.OTLP) else ""
    return f"{sink.place}{rest}{hash}{options}"


def mask_passwords(setting: SettingSpec, value: Any) -> Any:
    """Return the value of a setting, with `***` for the passwords in URLs of secret settings and for the secret parts
    of sinks.
    """
    if setting.secret and is_webhook(setting):
        return "***"
    if setting.secret and isinstance(value, tuple):
        return tuple(mask_passwords(setting, one) for one in value)
    if setting.name == SINKS and isinstance(value, str):
        return mask_sink(value)
    return URL_PASSWORD.sub(r"\1:***@", value) if setting.secret and isinstance(value, str) else value


def to_toml(value: Any) -> str:
    """Format a value approximately as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(to_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{to_toml(key)} = {to_toml(word)}' for key, word in value.items())} }}"
        case str():
            return f'"{value}"'
        case _:
            return str(value)

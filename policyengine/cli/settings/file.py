"""Reads `policyengine.toml` and the environment variables that override it; command line options override both.

An unknown key is an error, because it would have no effect. A file that other users can write is refused, and a file
below the root of the policies cannot set what the server runs, serves or trusts, unless `--config` names the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.cli.errors import CommandError, file_error
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.trusted_files import UntrustedPathError, write_problem

if TYPE_CHECKING:
    from policyengine.approvals.settings import ApprovalSettings
    from policyengine.cli.settings.registry import SettingName
    from policyengine.cli.settings.sections import (
        ConsoleSettings,
        CoverageSettings,
        LintSettings,
        ObserveSettings,
        ProjectSections,
        TestSettings,
    )
    from policyengine.server.mcp.servers import McpServerTable
    from policyengine.settings.mistakes import SettingMistake
    from policyengine.settings.toml_file import SettingsError, SettingsFile
    from policyengine.webhooks.target import WebhookTarget

ERROR_KIND = "configuration"
VARIABLE_PREFIX = "POLICYENGINE_"
SETTINGS_FILE_NAME = "policyengine.toml"
CONFIG_VARIABLE = "POLICYENGINE_CONFIG"  # the variable that names a settings file, as `--config` does
# The sections that a file below the root may have: they affect how policies are checked, but not what a server does.
CHECK_SECTIONS = frozenset({"lint", "test", "coverage"})


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """The settings of the file and of variables; empty if there are none."""

    sections: ProjectSections | None = None
    file: Path | None = None
    variables: frozenset[SettingName] = frozenset()  # settings that variables set
    lines: Mapping[SettingName, int] = field(default_factory=dict)  # settings of the file
    unread: Path | None = None  # a file above the root, which is ignored

    @property
    def values(self) -> dict[SettingName, Any]:
        """Every setting that is set, by section and key."""
        return {} if self.sections is None else dict(set_values(self.sections))

    @property
    def lint(self) -> LintSettings:
        return self._or_defaults().lint

    @property
    def test(self) -> TestSettings:
        return self._or_defaults().test

    @property
    def coverage(self) -> CoverageSettings:
        return self._or_defaults().coverage

    @property
    def gateway(self) -> GatewayHeaders:
        return GatewayHeaders() if self.sections is None else self.sections.gateway.headers()

    @property
    def observe(self) -> ObserveSettings | None:
        """The section of observe mode, or None. Even an empty section requires an end."""
        return None if self.sections is None else self.sections.observe

    @property
    def authzen_consume(self) -> frozenset[str]:
        """The callers whose AuthZEN evaluations spend unless `context.consume` is false."""
        return frozenset(self.values.get(("authzen", "consume"), ()))

    @property
    def console(self) -> ConsoleSettings:
        return self._or_defaults().console

    def approvals(self, url: str | None) -> ApprovalSettings:
        """Return how approvals are opened and answered; `url` is the URL of the server, if the settings name none."""
        sections = self._or_defaults()
        return sections.approvals.to_settings(url, sections.console.public_url)

    @property
    def webhooks(self) -> tuple[WebhookTarget, ...]:
        """The webhooks, in the order of their names."""
        webhooks = {} if self.sections is None else self.sections.webhooks
        return tuple(webhooks[name].to_target(name) for name in sorted(webhooks))

    @property
    def mcp_servers(self) -> McpServerTable:
        """The MCP servers behind gateways, in the order of their names, and the MCP server of AuthZEN evaluations."""
        from policyengine.server.mcp.servers import McpServerTable

        sections = self._or_defaults()
        found = tuple(sections.mcp_servers[name].to_server(name) for name in sorted(sections.mcp_servers))
        return McpServerTable(found, sections.authzen.mcp_server)

    def option(self, command: str, parameter: str) -> Any:
        """Return the value of the setting that is the default of an option; None if it is not set."""
        if self.sections is None:
            return None
        from policyengine.cli.settings.registry import BY_OPTION

        setting = BY_OPTION.get((command, parameter))
        value = None if setting is None else self.values.get(setting.name)
        return list(value) if isinstance(value, tuple) else value

    def _or_defaults(self) -> ProjectSections:
        from policyengine.cli.settings.sections import ProjectSections

        return self.sections or ProjectSections()


def set_values(sections: ProjectSections) -> Iterator[tuple[SettingName, Any]]:
    from policyengine.settings.section import SettingsSection, field_key

    for name in sections.model_fields_set:
        section = getattr(sections, name)
        if isinstance(section, SettingsSection):
            part = field_key(name, type(sections).model_fields[name])
            for attribute in section.model_fields_set:
                key = field_key(attribute, type(section).model_fields[attribute])
                yield (part, key), getattr(section, attribute)


# ── Finding the file ──────────────────────────────────────────────────────────────────────────


def load_settings(paths: Sequence[Path], environment: Mapping[str, str] | None = None) -> ProjectSettings:
    """Return the settings of the file that a variable names, or of the nearest `policyengine.toml` from the folder of
    the first path up to the root of the policies. Variables override the file. Raises CommandError."""
    environment = os.environ if environment is None else environment
    variables, named = read_variables(environment), environment.get(CONFIG_VARIABLE)
    if named:
        return read_settings(Path(named), variables, named=True)
    searched = SettingsFolders.of(paths[0]) if paths else SettingsFolders(())
    file = searched.file
    if file is None:
        settings = check_settings(SettingsText(variables=variables)) if variables else ProjectSettings()
    else:
        settings = read_settings(file, variables, root=file.parent == searched.folders[-1])
    return settings if searched.above is None else replace(settings, unread=searched.above)


@dataclass(frozen=True, slots=True)
class SettingsFolders:
    """The folders that are searched for a settings file, from the folder of the policies up to their root, and the
    settings file above the root, if any.
    """

    folders: tuple[Path, ...]
    above: Path | None = None

    @classmethod
    def of(cls, path: Path) -> SettingsFolders:
        from policyengine.policy_files import root_above

        try:
            whole = path.absolute()
        except OSError:  # the current folder was deleted
            return cls(())
        folder = whole if whole.is_dir() else whole.parent
        root = root_above(folder) or folder
        every = (folder, *folder.parents)
        within = every[: every.index(root) + 1] if root in every else (folder,)
        beyond = next(
            (one / SETTINGS_FILE_NAME for one in every[len(within) :] if (one / SETTINGS_FILE_NAME).is_file()), None
        )
        return cls(within, beyond)

    @property
    def file(self) -> Path | None:
        return next((one / SETTINGS_FILE_NAME for one in self.folders if (one / SETTINGS_FILE_NAME).is_file()), None)


def find_settings_file(path: Path) -> Path | None:
    """Return the settings file that the variable names, or the nearest one from the folder of these policies up to
    their root; None if there is none.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else SettingsFolders.of(path).file


def read_variables(environment: Mapping[str, str]) -> dict[SettingName, str]:
    """Return the variables that are settings. Raises CommandError for an unknown variable with a section's prefix."""
    ours = [name for name in environment if name.startswith(VARIABLE_PREFIX)]
    if not ours:
        return {}
    from policyengine.cli.settings.registry import BY_VARIABLE, is_setting_variable
    from policyengine.diagnostics.suggest import did_you_mean

    for name in ours:
        if name not in BY_VARIABLE and is_setting_variable(name):
            hint = did_you_mean(name, list(BY_VARIABLE)) or "`policyengine config show` lists all"
            raise CommandError(ERROR_KIND, f"the variable `{name}` is not a setting", hint, (("variable", name),))
    return {BY_VARIABLE[name].name: environment[name] for name in ours if name in BY_VARIABLE}


# ── Reading the file ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SettingsText:
    """One settings file, if there is one, with its data, and the variables that override it."""

    path: Path | None = None
    file: SettingsFile | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[SettingName, str] = field(default_factory=dict)

    def error(self, mistakes: Sequence[SettingMistake]) -> CommandError:
        """Return the error for the mistakes in the file or, if the file has none, for the first mistake in a variable.
        The value of a variable is never shown, because it may be a secret."""
        mistake = mistakes[0]
        if mistake.path in self.variables or self.file is None:
            from policyengine.cli.settings.registry import BY_NAME

            section, key = mistake.path
            name = BY_NAME[section, key].variable
            return CommandError(ERROR_KIND, f"the variable `{name}`: {mistake.message}", None, (("variable", name),))
        return settings_error(self.file.report([one for one in mistakes if one.path not in self.variables]))

    def order(self, path: Sequence[str]) -> tuple[bool, int]:
        """Return the sort key of a mistake: mistakes in the file come before mistakes in variables."""
        return tuple(path) in self.variables, 0 if self.file is None else self.file.place(path)[0]


def read_settings(
    path: Path, variables: Mapping[SettingName, str] | None = None, *, named: bool = False, root: bool = True
) -> ProjectSettings:
    """Read a settings file. `named` means that the user of the command named it, so that its owner is not checked;
    `root` means that it is at the root of the policies. Raises CommandError.
    """
    from policyengine.settings.toml_file import SettingsError, read_settings_file

    name = display_path(path)
    try:
        file = read_settings_file(path, name, (lambda _: None) if named else (lambda status: check_owner(path, status)))
        text = SettingsText(path, file, file.data(), variables or {})
    except UntrustedPathError as error:
        raise CommandError(ERROR_KIND, error.message, error.hint, (("file", name),)) from None
    except OSError as error:
        raise file_error(path, error) from None
    except SettingsError as error:
        raise settings_error(error) from None
    if not named and not root:
        refuse_server_sections(text)
    return check_settings(text)


def check_settings(text: SettingsText) -> ProjectSettings:
    """Check the data of a settings file. Raises CommandError."""
    from pydantic import ValidationError

    from policyengine.cli.settings.sections import ProjectSections
    from policyengine.cli.settings.sources import ProjectSource
    from policyengine.settings.mistakes import list_mistakes

    folder = "" if text.path is None else str(text.path.parent)
    try:
        sections = ProjectSource.of(text.data, folder, text.variables)
    except ValidationError as error:
        raise text.error(list_mistakes(error, ProjectSections, text.order, lambda path: path[-1])) from None
    lines = {} if text.file is None else text.file.lines()
    return ProjectSettings(
        sections,
        text.path,
        frozenset(text.variables),
        {(path[0], path[1]): line for path, line in lines.items() if len(path) == 2},
    )


def check_owner(file: Path, status: os.stat_result) -> None:
    """Check that only this user or root can write the file, because it determines what is run and trusted. Raises
    CommandError.
    """
    name = display_path(file)
    hint = f"review it, then use `--config {name}`, or take ownership with `chown` and `chmod go-w`"
    if (problem := write_problem(name, status)) is not None:
        raise CommandError(ERROR_KIND, problem, hint, (("file", name),))


def refuse_server_sections(text: SettingsText) -> None:
    """Check that a file below the root has no settings of servers. Raises CommandError."""
    from policyengine.cli.settings.sections import ProjectSections
    from policyengine.settings.mistakes import SettingMistake
    from policyengine.settings.section import section_fields

    for section in text.data:
        if section not in CHECK_SECTIONS and section in section_fields(ProjectSections):
            assert text.path is not None
            message = f"`[{section}]` is allowed only at the root of the policies"
            hint = (
                "move it to the `policyengine.toml` next to `.policyroot`, or pass this file with "
                f"`--config {display_path(text.path)}`"
            )
            raise text.error([SettingMistake((section,), message, hint)])


def settings_error(error: SettingsError) -> CommandError:
    """Return the error with its location, in the format of policy errors."""
    span = error.span
    facts = () if span is None else (("file", span.source.name), ("line", span.line), ("column", span.column))
    return CommandError(ERROR_KIND, error.message, error.hint, facts, detail=error.detail)


def display_path(file: Path) -> str:
    from policyengine.policy_files import display_name

    return display_name(file)

"""`policyengine.toml`, and variables that go before it: what a project always wants. Options go before both.

What there is to be said stands in `registry`; what is not there is an error, for it would be a wish unheard. A file
that others could write, or that lies below the root of the policies, does not say what is run, served or believed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_stream
from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.settings.registry import (
    BY_NAME,
    BY_VARIABLE,
    SECTIONS,
    VARIABLE_PREFIX,
    SettingName,
    SettingSpec,
    is_setting_variable,
    section_keys,
)
from policyengine.cli.settings.types import ERROR_KIND, VARIABLE_PARSERS
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.trusted_files import UntrustedPathError, open_trusted, write_problem

SETTINGS_FILE_NAME = "policyengine.toml"
CONFIG_VARIABLE = "POLICYENGINE_CONFIG"  # the variable that names a file, as `--config` does
# What a file below the root may speak of: how policies are checked, and nothing that a server does.
CHECK_SECTIONS = frozenset({"lint", "test", "coverage"})
DIRECTORY_SECTION = "directory"  # what is where in a database, which `--entities` reads by itself
DEFAULT_GATEWAY = GatewayHeaders()
_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class LintSettings:
    """Codes of rules. Without `select` all but the optional ones are told; `extend` adds some, `ignore` goes last."""

    select: tuple[str, ...] | None = None
    extend: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class TestSettings:
    """`jobs` is how many processes run the tests, 0 one for each processor; `seed` is of what is drawn by chance."""

    __test__ = False  # pytest: this is none of ours

    jobs: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class CoverageSettings:
    """`fail_under` is the least that is enough, in percent."""

    fail_under: float | None = None


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """Whoever has this part observes, `until` a time or for so long; with `packages` and `endpoints` only those."""

    until: str = ""
    packages: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """What the file says, `file`, and variables; or nothing. `values` is all of it, by section and key."""

    lint: LintSettings = LintSettings()
    test: TestSettings = TestSettings()
    coverage: CoverageSettings = CoverageSettings()
    gateway: GatewayHeaders = DEFAULT_GATEWAY
    observe: ObserveSettings | None = None
    file: Path | None = None
    values: Mapping[SettingName, Any] = field(default_factory=dict)
    variables: frozenset[SettingName] = frozenset()  # what was said by these
    lines: Mapping[SettingName, int] = field(default_factory=dict)  # of the file
    unread: Path | None = None  # one above the root, which does not count

    @property
    def authzen_consume(self) -> frozenset[str]:
        """The callers whose evaluations of AuthZEN spend where they do not say."""
        return frozenset(self.values.get(("authzen", "consume"), ()))

    def option(self, setting: SettingSpec) -> Any:
        """As an option of the command would be given; None where it is not."""
        found = self.values.get(setting.name)
        return list(found) if isinstance(found, tuple) else found


Part = TypeVar("Part", LintSettings, TestSettings, CoverageSettings, GatewayHeaders, ObserveSettings)


def load_settings(paths: Sequence[Path], environment: Mapping[str, str] | None = None) -> ProjectSettings:
    """What a file says that is named, or the next `policyengine.toml` from the folder of the first path up to the root
    of the policies; variables go before it. Raises CommandError."""
    environment = os.environ if environment is None else environment
    said, named = read_variables(environment), environment.get(CONFIG_VARIABLE)
    if named:
        return read_settings(Path(named), said, named=True)
    searched = SettingsFolders.of(paths[0]) if paths else SettingsFolders(())
    file = searched.file
    if file is None:
        found = SettingsReader(None, "", said).configuration({}) if said else ProjectSettings()
    else:
        found = read_settings(file, said, root=file.parent == searched.folders[-1])
    return found if searched.above is None else replace(found, unread=searched.above)


@dataclass(frozen=True, slots=True)
class SettingsFolders:
    """Folders in which a file counts, from that of the policies to their root, and the file above these, if any."""

    folders: tuple[Path, ...]
    above: Path | None = None

    @classmethod
    def of(cls, path: Path) -> SettingsFolders:
        from policyengine.policy_files import root_above

        try:
            whole = path.absolute()
        except OSError:  # the current folder is gone
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


def read_variables(environment: Mapping[str, str]) -> dict[SettingName, str]:
    """What they say of settings. One that begins like a setting and is none is an error, as in the file."""
    from policyengine.diagnostics.model import suggest

    found = {BY_VARIABLE[name].name: value for name, value in environment.items() if name in BY_VARIABLE}
    for name in environment:
        if name.startswith(VARIABLE_PREFIX) and name not in BY_VARIABLE and is_setting_variable(name):
            meant = suggest(name, list(BY_VARIABLE))
            hint = f"did you mean `{meant}`?" if meant else "`policyengine config show` lists all"
            raise CommandError(ERROR_KIND, f"the variable `{name}` is no setting", hint, (("variable", name),))
    return found


def find_settings_file(path: Path) -> Path | None:
    """The file that is named, or the next one from the folder of these policies up to their root."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else SettingsFolders.of(path).file


def read_settings(
    file: Path, said: Mapping[SettingName, str] | None = None, *, named: bool = False, root: bool = True
) -> ProjectSettings:
    """`named`: by whoever runs the command, who knows whose it is; `root`: it lies at the root of the policies. Raises
    CommandError."""
    import tomllib

    try:
        with os.fdopen(open_trusted(file), "rb") as stream:
            if not named:
                check_owner(file, os.fstat(stream.fileno()))
            text = read_stream(stream, MAX_SETTINGS_BYTES).decode("utf-8")
        given = tomllib.loads(text)
    except UntrustedPathError as error:
        raise CommandError(ERROR_KIND, error.message, error.hint, (("file", display_path(file)),)) from None
    except OSError as error:
        raise file_error(file, error) from None
    except UnicodeDecodeError:
        raise CommandError(ERROR_KIND, f"`{display_path(file)}` is no UTF-8", "write it in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise toml_error(file, text, str(error)) from None
    found = SettingsReader(file, text, said or {})
    if not named and not root:
        found.checks_alone(given)
    return found.configuration(given)


def check_owner(file: Path, found: os.stat_result) -> None:
    """Whoever can write it says what is run here, and whom we believe: so that is this user, or root. Raises
    CommandError."""
    hint = f"see what it says, then `--config {display_path(file)}` names it, or `chown` and `chmod go-w` make it yours"
    if (problem := write_problem(display_path(file), found)) is not None:
        raise CommandError(ERROR_KIND, problem, hint, (("file", display_path(file)),))


def toml_error(file: Path, text: str, why: str) -> CommandError:
    found = _AT.search(why)
    lines = text.split("\n")
    line, column = (int(found["line"]), int(found["column"])) if found and found["line"] else (len(lines), 1)
    start = sum(len(one) + 1 for one in lines[: line - 1]) + column - 1
    message = why[: found.start()] if found else why
    return settings_error(file, text, (start, start + 1), f"{message[:1].lower()}{message[1:]}", "this is no TOML")


def settings_error(
    file: Path, text: str, at: tuple[int, int], message: str, hint: str | None, *, hides: bool = False
) -> CommandError:
    """The place is shown as those of policies are, but for a line that may hold a secret."""
    from policyengine.diagnostics.model import format_location, source_excerpt
    from policyengine.source import Source, Span

    span = Span(Source(display_path(file), text), *at)
    facts = (("file", display_path(file)), ("line", span.line), ("column", span.column))
    detail = "\n".join([f"{format_location(span)}: {message}", *([] if hides else source_excerpt(span))])
    return CommandError(ERROR_KIND, f"`{display_path(file)}`: {message}", hint, facts, detail=detail)


def display_path(file: Path) -> str:
    from policyengine.policy_files import display_name

    return display_name(file)


@dataclass(frozen=True, slots=True)
class SettingsReader:
    """One file, if there is one, and what variables say while they are read: what is wrong is told where it stands."""

    file: Path | None
    text: str
    said: Mapping[SettingName, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where paths in it are read from. Of variables it is the current one."""
        return Path() if self.file is None else self.file.parent

    def configuration(self, given: Mapping[str, Any]) -> ProjectSettings:
        self.known(given, (*SECTIONS, DIRECTORY_SECTION), None)
        given = {section: table for section, table in given.items() if section != DIRECTORY_SECTION}
        values, lines = self.values(given), self.lines(given)
        return ProjectSettings(
            self.part(LintSettings, "lint", values),
            self.part(TestSettings, "test", values),
            self.part(CoverageSettings, "coverage", values),
            self.vouched(values),
            self.part(ObserveSettings, "observe", values) if self.observes(given) else None,
            self.file,
            values,
            frozenset(self.said),
            lines,
        )

    def checks_alone(self, given: Mapping[str, Any]) -> None:
        """Raises CommandError."""
        for section in given:
            if section not in CHECK_SECTIONS and section in (*SECTIONS, DIRECTORY_SECTION):
                assert self.file is not None
                hint = (
                    f"move it to the folder of `.policyroot`, or name this file: `--config {display_path(self.file)}`"
                )
                raise self.wrong(None, section, f"`[{section}]` counts at the root of the policies only", hint)

    def observes(self, given: Mapping[str, Any]) -> bool:
        """Whoever says anything of it wants it, be it an empty part: then its end is asked for."""
        return "observe" in given or any(section == "observe" for section, _ in self.said)

    def values(self, given: Mapping[str, Any]) -> dict[SettingName, Any]:
        """All of it, read. What a variable says is not read in the file."""
        found: dict[SettingName, Any] = {}
        for section, table in given.items():
            if not isinstance(table, dict):
                raise self.wrong(None, section, f"`{section}` is no table", f"write `[{section}]` on a line of its own")
            self.known(table, section_keys(section), section)
            for key, value in table.items():
                if (section, key) not in self.said:
                    found[section, key] = BY_NAME[section, key].read(self, section, key, value)
        beside = EnvironmentOrigin(self.said)
        for name, words in self.said.items():
            reader = BY_NAME[name].read
            found[name] = reader(beside, *name, VARIABLE_PARSERS.get(reader, str)(words))
        return found

    def lines(self, given: Mapping[str, Any]) -> dict[SettingName, int]:
        return {(section, key): self.line(section, key) for section, table in given.items() for key in table}

    def line(self, section: str, key: str) -> int:
        return self.text.count("\n", 0, self.at(section, key)[0]) + 1

    def part(self, kind: Callable[..., Part], name: str, values: Mapping[SettingName, Any]) -> Part:
        known = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]  # they are dataclasses
        return kind(**{key: value for (section, key), value in values.items() if section == name and key in known})

    def vouched(self, values: Mapping[SettingName, Any]) -> GatewayHeaders:
        """No header carries two facts: one of them would be made of what was said of the other."""
        found = self.part(GatewayHeaders, "gateway", values)
        carries: dict[str, str] = {}
        for key, header in found.facts.items():
            if header in carries:
                told = key if ("gateway", key) in values else carries[header]
                other = carries[header] if told == key else key
                at = EnvironmentOrigin(self.said) if ("gateway", told) in self.said else self
                raise at.wrong("gateway", told, f"the header `{header}` carries `{other}` already", "take another")
            carries[header] = key
        return found

    def known(self, given: Mapping[str, Any], keys: Sequence[str], section: str | None) -> None:
        from policyengine.diagnostics.model import suggest

        for key in given:
            if key not in keys:
                meant = suggest(key, keys)
                shown_as = {name: f"`{name}`" if section else f"`[{name}]`" for name in keys}
                hint = f"did you mean {shown_as[meant]}?" if meant else f"there are {', '.join(shown_as.values())}"
                where = f" in `[{section}]`" if section else ""
                raise self.wrong(section, key, f"unknown {'key' if section else 'part'} `{key}`{where}", hint)

    def wrong(self, section: str | None, key: str, message: str, hint: str | None = None) -> CommandError:
        assert self.file is not None
        setting = BY_NAME.get((section or "", key))
        hides = setting is not None and setting.secret
        return settings_error(self.file, self.text, self.at(section, key), message, hint, hides=hides)

    def at(self, section: str | None, key: str) -> tuple[int, int]:
        """Where the key stands: after the head of its part, or as the head itself."""
        bare = rf"[\"']?{re.escape(key)}[\"']?"
        if section is None:
            pattern = rf"^[ \t]*\[?[ \t]*(?P<key>{bare})[ \t]*(?:\]|\.|=)"
        else:
            head = rf"[ \t]*\[[ \t]*{section}[ \t]*\](?:(?!^[ \t]*\[)[\s\S])*?"
            pattern = rf"(?:^{head}^[ \t]*|^[ \t]*{section}[ \t]*[.=][^\n]*?)(?P<key>{bare})[ \t]*="
        found = re.search(pattern, self.text, re.MULTILINE)
        return found.span("key") if found else (0, 0)


@dataclass(frozen=True, slots=True)
class EnvironmentOrigin:
    """What is wrong with one is told by its name; what it says is not, as it may be a secret."""

    said: Mapping[SettingName, str]

    @property
    def folder(self) -> Path:
        return Path()

    def wrong(self, section: str | None, key: str, message: str, hint: str | None = None) -> CommandError:
        name = BY_NAME[str(section), key].variable
        return CommandError(ERROR_KIND, f"the variable `{name}`: {message}", None, (("variable", name),))

"""`policyengine.toml`, and variables that go before it: what a project always wants. Options go before both.

What there is to be said stands in `settings`; what is not there is an error, for it would be a wish unheard.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from policyengine.cli.failures import CommandError, file_error
from policyengine.cli.readers import KIND, SAID
from policyengine.cli.settings import BY_NAME, BY_VARIABLE, PREFIX, SECTIONS, Name, Setting, is_meant, keys_of
from policyengine.runtime.vouched import Vouched

NAME = "policyengine.toml"
DIRECTORY = "directory"  # what is where in a database, which `--entities` reads by itself
NOTHING_SAID = Vouched()
_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class LintConfiguration:
    """Codes of rules. Without `select` all but the optional ones are told; `extend` adds some, `ignore` goes last."""

    select: tuple[str, ...] | None = None
    extend: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class TestConfiguration:
    """`jobs` is how many processes run the tests, 0 one for each processor; `seed` is of what is drawn by chance."""

    __test__ = False  # pytest: this is none of ours

    jobs: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class CoverageConfiguration:
    """`fail_under` is the least that is enough, in percent."""

    fail_under: float | None = None


@dataclass(frozen=True, slots=True)
class ObserveConfiguration:
    """Whoever has this part observes, `until` a time or for so long; with `packages` and `endpoints` only those."""

    until: str = ""
    packages: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the file says, `file`, and variables; or nothing. `values` is all of it, by section and key."""

    lint: LintConfiguration = LintConfiguration()
    test: TestConfiguration = TestConfiguration()
    coverage: CoverageConfiguration = CoverageConfiguration()
    gateway: Vouched = NOTHING_SAID
    observe: ObserveConfiguration | None = None
    file: Path | None = None
    values: Mapping[Name, Any] = field(default_factory=dict)
    variables: frozenset[Name] = frozenset()  # what was said by these
    lines: Mapping[Name, int] = field(default_factory=dict)  # of the file

    @property
    def authzen_consume(self) -> frozenset[str]:
        """The callers whose evaluations of AuthZEN spend where they do not say."""
        return frozenset(self.values.get(("authzen", "consume"), ()))

    def option(self, setting: Setting) -> Any:
        """As an option of the command would be given; None where it is not."""
        found = self.values.get(setting.name)
        return list(found) if isinstance(found, tuple) else found


Part = TypeVar("Part", LintConfiguration, TestConfiguration, CoverageConfiguration, Vouched, ObserveConfiguration)


def configuration_of(paths: Sequence[Path], environment: Mapping[str, str] | None = None) -> Configuration:
    """What the next `policyengine.toml` says, in the folder of the first path or above it; variables go before it."""
    file = next_file(paths[0]) if paths else None
    said = variables_in(os.environ if environment is None else environment)
    if file is None:
        return Reading(None, "", said).configuration({}) if said else Configuration()
    return read(file, said)


def variables_in(environment: Mapping[str, str]) -> dict[Name, str]:
    """What they say of settings. One that begins like a setting and is none is an error, as in the file."""
    from policyengine.diagnostics import suggest

    found = {BY_VARIABLE[name].name: value for name, value in environment.items() if name in BY_VARIABLE}
    for name in environment:
        if name.startswith(PREFIX) and name not in BY_VARIABLE and is_meant(name):
            meant = suggest(name, list(BY_VARIABLE))
            hint = f"did you mean `{meant}`?" if meant else "`policyengine config show` lists all"
            raise CommandError(KIND, f"the variable `{name}` is no setting", hint, (("variable", name),))
    return found


def next_file(path: Path) -> Path | None:
    try:
        whole = path.absolute()
    except OSError:  # the current folder is gone
        return None
    return next((folder / NAME for folder in (whole, *whole.parents) if (folder / NAME).is_file()), None)


def read(file: Path, said: Mapping[Name, str] | None = None) -> Configuration:
    import tomllib

    try:
        text = file.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except OSError as error:
        raise file_error(file, error) from None
    except UnicodeDecodeError:
        raise CommandError(KIND, f"`{shown(file)}` is no UTF-8", "write it in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise no_toml(file, text, str(error)) from None
    return Reading(file, text, said or {}).configuration(given)


def no_toml(file: Path, text: str, why: str) -> CommandError:
    found = _AT.search(why)
    lines = text.split("\n")
    line, column = (int(found["line"]), int(found["column"])) if found and found["line"] else (len(lines), 1)
    start = sum(len(one) + 1 for one in lines[: line - 1]) + column - 1
    message = why[: found.start()] if found else why
    return failure(file, text, (start, start + 1), f"{message[:1].lower()}{message[1:]}", "this is no TOML")


def failure(
    file: Path, text: str, at: tuple[int, int], message: str, hint: str | None, *, hides: bool = False
) -> CommandError:
    """The place is shown as those of policies are, but for a line that may hold a secret."""
    from policyengine.diagnostics import place, underlined
    from policyengine.source import Source, Span

    span = Span(Source(shown(file), text), *at)
    facts = (("file", shown(file)), ("line", span.line), ("column", span.column))
    detail = "\n".join([f"{place(span)}: {message}", *([] if hides else underlined(span))])
    return CommandError(KIND, f"`{shown(file)}`: {message}", hint, facts, detail=detail)


def shown(file: Path) -> str:
    from policyengine.loading import name_of

    return name_of(file)


@dataclass(frozen=True, slots=True)
class Reading:
    """One file, if there is one, and what variables say while they are read: what is wrong is told where it stands."""

    file: Path | None
    text: str
    said: Mapping[Name, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where paths in it are read from. Of variables it is the current one."""
        return Path() if self.file is None else self.file.parent

    def configuration(self, given: Mapping[str, Any]) -> Configuration:
        self.known(given, (*SECTIONS, DIRECTORY), None)
        given = {section: table for section, table in given.items() if section != DIRECTORY}
        values, lines = self.values(given), self.lines(given)
        return Configuration(
            self.part(LintConfiguration, "lint", values),
            self.part(TestConfiguration, "test", values),
            self.part(CoverageConfiguration, "coverage", values),
            self.vouched(values),
            self.part(ObserveConfiguration, "observe", values) if self.observes(given) else None,
            self.file,
            values,
            frozenset(self.said),
            lines,
        )

    def observes(self, given: Mapping[str, Any]) -> bool:
        """Whoever says anything of it wants it, be it an empty part: then its end is asked for."""
        return "observe" in given or any(section == "observe" for section, _ in self.said)

    def values(self, given: Mapping[str, Any]) -> dict[Name, Any]:
        """All of it, read. What a variable says is not read in the file."""
        found: dict[Name, Any] = {}
        for section, table in given.items():
            if not isinstance(table, dict):
                raise self.wrong(None, section, f"`{section}` is no table", f"write `[{section}]` on a line of its own")
            self.known(table, keys_of(section), section)
            for key, value in table.items():
                if (section, key) not in self.said:
                    found[section, key] = BY_NAME[section, key].read(self, section, key, value)
        beside = Variables(self.said)
        for name, words in self.said.items():
            reader = BY_NAME[name].read
            found[name] = reader(beside, *name, SAID.get(reader, str)(words))
        return found

    def lines(self, given: Mapping[str, Any]) -> dict[Name, int]:
        return {(section, key): self.line(section, key) for section, table in given.items() for key in table}

    def line(self, section: str, key: str) -> int:
        return self.text.count("\n", 0, self.at(section, key)[0]) + 1

    def part(self, kind: Callable[..., Part], name: str, values: Mapping[Name, Any]) -> Part:
        known = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]  # they are dataclasses
        return kind(**{key: value for (section, key), value in values.items() if section == name and key in known})

    def vouched(self, values: Mapping[Name, Any]) -> Vouched:
        """No header carries two facts: one of them would be made of what was said of the other."""
        found = self.part(Vouched, "gateway", values)
        carries: dict[str, str] = {}
        for key, header in found.facts.items():
            if header in carries:
                told = key if ("gateway", key) in values else carries[header]
                other = carries[header] if told == key else key
                at = Variables(self.said) if ("gateway", told) in self.said else self
                raise at.wrong("gateway", told, f"the header `{header}` carries `{other}` already", "take another")
            carries[header] = key
        return found

    def known(self, given: Mapping[str, Any], keys: Sequence[str], section: str | None) -> None:
        from policyengine.diagnostics import suggest

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
        return failure(self.file, self.text, self.at(section, key), message, hint, hides=hides)

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
class Variables:
    """What is wrong with one is told by its name; what it says is not, as it may be a secret."""

    said: Mapping[Name, str]

    @property
    def folder(self) -> Path:
        return Path()

    def wrong(self, section: str | None, key: str, message: str, hint: str | None = None) -> CommandError:
        name = BY_NAME[str(section), key].variable
        return CommandError(KIND, f"the variable `{name}`: {message}", None, (("variable", name),))

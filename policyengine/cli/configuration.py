"""`policyengine.toml`: what a project always wants of lint, tests, coverage, gateways; options of a command go before.

Each key stands here once, with the commands that read it; an unknown one is an error, for it would be a wish unheard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from policyengine.cli.failures import CommandError, file_error
from policyengine.runtime.vouched import RESERVED, Vouched

NAME = "policyengine.toml"
KIND = "configuration"
NOTHING_SAID = Vouched()
DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
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
    """What the file says, `file`; or nothing, where there is none."""

    lint: LintConfiguration = LintConfiguration()
    test: TestConfiguration = TestConfiguration()
    coverage: CoverageConfiguration = CoverageConfiguration()
    gateway: Vouched = NOTHING_SAID
    observe: ObserveConfiguration | None = None
    file: Path | None = None


Part = TypeVar("Part", LintConfiguration, TestConfiguration, CoverageConfiguration, Vouched, ObserveConfiguration)


def configuration_of(paths: Sequence[Path]) -> Configuration:
    """What the next `policyengine.toml` says, in the folder of the first path or above it."""
    file = next_file(paths[0]) if paths else None
    return Configuration() if file is None else read(file)


def next_file(path: Path) -> Path | None:
    try:
        whole = path.absolute()
    except OSError:  # the current folder is gone
        return None
    return next((folder / NAME for folder in (whole, *whole.parents) if (folder / NAME).is_file()), None)


def read(file: Path) -> Configuration:
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
    return Reading(file, text).configuration(given)


def no_toml(file: Path, text: str, why: str) -> CommandError:
    found = _AT.search(why)
    lines = text.split("\n")
    line, column = (int(found["line"]), int(found["column"])) if found and found["line"] else (len(lines), 1)
    start = sum(len(one) + 1 for one in lines[: line - 1]) + column - 1
    message = why[: found.start()] if found else why
    return failure(file, text, (start, start + 1), f"{message[:1].lower()}{message[1:]}", "this is no TOML")


def failure(file: Path, text: str, at: tuple[int, int], message: str, hint: str | None) -> CommandError:
    """The place is shown as those of policies are."""
    from policyengine.diagnostics import place, underlined
    from policyengine.source import Source, Span

    span = Span(Source(shown(file), text), *at)
    facts = (("file", shown(file)), ("line", span.line), ("column", span.column))
    detail = "\n".join([f"{place(span)}: {message}", *underlined(span)])
    return CommandError(KIND, f"`{shown(file)}`: {message}", hint, facts, detail=detail)


def shown(file: Path) -> str:
    from policyengine.loading import name_of

    return name_of(file)


@dataclass(frozen=True, slots=True)
class Reading:
    """One file while it is read: what is wrong with it is told where it stands."""

    file: Path
    text: str

    def configuration(self, given: Mapping[str, Any]) -> Configuration:
        self.known(given, [one.name for one in fields(Configuration) if one.name != "file"], None)
        return Configuration(
            self.part(LintConfiguration, "lint", given),
            self.part(TestConfiguration, "test", given),
            self.part(CoverageConfiguration, "coverage", given),
            self.vouched(given),
            self.part(ObserveConfiguration, "observe", given) if "observe" in given else None,
            self.file,
        )

    def vouched(self, given: Mapping[str, Any]) -> Vouched:
        """No header carries two facts: one of them would be made of what was said of the other."""
        found = self.part(Vouched, "gateway", given)
        carries: dict[str, str] = {}
        for key, header in found.facts.items():
            if header in carries:
                told = key if key in given["gateway"] else carries[header]
                other = carries[header] if told == key else key
                raise self.wrong("gateway", told, f"the header `{header}` carries `{other}` already", "take another")
            carries[header] = key
        return found

    def part(self, kind: Callable[..., Part], name: str, given: Mapping[str, Any]) -> Part:
        table = given.get(name, {})
        if not isinstance(table, dict):
            raise self.wrong(None, name, f"`{name}` is no table", f"write `[{name}]` on a line of its own")
        keys = [key for section, key in KEYS if section == name]
        self.known(table, keys, name)
        return kind(**{key: KEYS[name, key](self, name, key, value) for key, value in table.items()})

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
        return failure(self.file, self.text, self.at(section, key), message, hint)

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


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def rules(reading: Reading, section: str, key: str, value: object) -> tuple[str, ...]:
    """Codes and short names of warnings, as codes."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise reading.wrong(section, key, f"`{key}` is a list of rules", f'as in `{key} = ["static-key"]`')
    try:
        return tuple(code_of(word) for word in value)
    except CommandError as error:
        raise reading.wrong(section, key, error.message, error.hint) from None


def code_of(word: str) -> str:
    """The code that a code or a short name means. Errors cannot be chosen: they are told always."""
    from policyengine.codes import RULES, rule
    from policyengine.diagnostics import suggest

    known = rule(word)
    if known is None:
        meant = suggest(word, RULES)
        hint = f"did you mean `{meant}`?" if meant else "`policyengine explain-code` lists all rules"
        raise CommandError(KIND, f"there is no rule `{word}`", hint)
    if not known.name:
        raise CommandError(KIND, f"`{known.code}` is an error, and errors are always told", "name warnings only")
    return known.code


def yes_or_no(reading: Reading, section: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise reading.wrong(section, key, f"`{key}` is `true` or `false`")
    return value


def whole(reading: Reading, section: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise reading.wrong(section, key, f"`{key}` is a whole number, 0 or more")
    return value


def percent(reading: Reading, section: str, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise reading.wrong(section, key, f"`{key}` is a number from 0 to 100")
    return float(value)


def header(reading: Reading, section: str, key: str, value: object) -> str:
    """The name of one, as they are compared; "" for none."""
    if value == "":
        return ""
    if not isinstance(value, str) or not HEADER.fullmatch(value):
        hint = f'as in `{key} = "X-Agent-{key.partition("_")[2].capitalize()}"`; `""` takes none'
        raise reading.wrong(section, key, f"`{key}` is the name of a header: letters, digits and `-`", hint)
    if value.lower() in RESERVED:
        raise reading.wrong(section, key, f"the header `{value}` means something else", "take another")
    return value.lower()


def kinds(reading: Reading, section: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise reading.wrong(section, key, f"`{key}` is a list of kinds", f'as in `{key} = ["warn"]`')
    return tuple(value)


def domains(reading: Reading, section: str, key: str, value: object) -> tuple[tuple[str, str], ...]:
    given = value if isinstance(value, dict) else {"": ""}
    if not all(DOMAIN.fullmatch(domain) and isinstance(issuer, str) and issuer for domain, issuer in given.items()):
        hint = f'as in `{key} = {{ "acme.example" = "acme" }}`'
        raise reading.wrong(section, key, f"`{key}` names an issuer for each domain", hint)
    return tuple(given.items())


def moment(reading: Reading, section: str, key: str, value: object) -> str:
    """A time as TOML has it, or in quotes."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    if not isinstance(value, str) or not value:
        hint = f'as in `{key} = 2026-12-01T00:00:00Z` or `{key} = "7d"`'
        raise reading.wrong(section, key, f"`{key}` is a time with its zone, or a duration", hint)
    return value


def names(reading: Reading, section: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        example = '["acme.payments"]' if key == "packages" else '["GET /v1/**"]'
        raise reading.wrong(section, key, f"`{key}` is a list of {key}", f"as in `{key} = {example}`")
    return tuple(value)


KEYS: Mapping[tuple[str, str], Callable[[Reading, str, str, object], Any]] = {
    ("lint", "select"): rules,
    ("lint", "extend"): rules,
    ("lint", "ignore"): rules,
    ("lint", "strict"): yes_or_no,
    ("test", "jobs"): whole,
    ("test", "seed"): whole,
    ("coverage", "fail_under"): percent,
    **{("gateway", key): header for key in NOTHING_SAID.facts},
    ("gateway", "obligations"): kinds,
    ("gateway", "trust_domains"): domains,
    ("observe", "until"): moment,
    ("observe", "packages"): names,
    ("observe", "endpoints"): names,
}

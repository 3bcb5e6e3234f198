"""What a setting may be: a value of `policyengine.toml`, or of a variable, to what a command reads; or why not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from policyengine.cli.errors import CommandError
from policyengine.http.forwarded_parts import ALL, WITHHELD_HEADERS, GatewayAdapter
from policyengine.http.gateway_headers import RESERVED_HEADERS

ERROR_KIND = "configuration"
DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
ANY_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
BODY_ADAPTERS = tuple(one.value for one in GatewayAdapter if one.sends_bodies)
TRUE, FALSE = frozenset({"true", "yes", "1", "on"}), frozenset({"false", "no", "0", "off"})


class SettingOrigin(Protocol):
    """Where a value stands. `folder` is where paths in it are read from."""

    @property
    def folder(self) -> Path: ...
    def wrong(self, section: str | None, key: str, message: str, hint: str | None = None) -> CommandError: ...


SettingParser: TypeAlias = Callable[[SettingOrigin, str, str, object], Any]


def rules(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    """Codes and short names of warnings, as codes."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise at.wrong(section, key, f"`{key}` is a list of rules", f'as in `{key} = ["static-key"]`')
    try:
        return tuple(parse_rule_code(word) for word in value)
    except CommandError as error:
        raise at.wrong(section, key, error.message, error.hint) from None


def parse_rule_code(word: str) -> str:
    """The code that a code or a short name means. Errors cannot be chosen: they are told always."""
    from policyengine.diagnostics.catalog import CODES_BY_NAME, find_code
    from policyengine.diagnostics.model import suggest

    known = find_code(word)
    if known is None:
        meant = suggest(word, CODES_BY_NAME)
        hint = f"did you mean `{meant}`?" if meant else "`policyengine explain-code` lists all rules"
        raise CommandError(ERROR_KIND, f"there is no rule `{word}`", hint)
    if not known.name:
        raise CommandError(ERROR_KIND, f"`{known.code}` is an error, and errors are always told", "name warnings only")
    return known.code


def boolean(at: SettingOrigin, section: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise at.wrong(section, key, f"`{key}` is `true` or `false`")
    return value


def whole_number(at: SettingOrigin, section: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise at.wrong(section, key, f"`{key}` is a whole number, 0 or more")
    return value


def positive_number(at: SettingOrigin, section: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise at.wrong(section, key, f"`{key}` is a whole number, 1 or more")
    return value


def port(at: SettingOrigin, section: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise at.wrong(section, key, f"`{key}` is a port: a number from 0 to 65535")
    return value


def percent(at: SettingOrigin, section: str, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise at.wrong(section, key, f"`{key}` is a number from 0 to 100")
    return float(value)


def seconds(at: SettingOrigin, section: str, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.1 <= value <= 3600:
        raise at.wrong(section, key, f"`{key}` is a number of seconds, from 0.1 to 3600")
    return float(value)


def seconds_or_zero(at: SettingOrigin, section: str, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 3600:
        raise at.wrong(section, key, f"`{key}` is a number of seconds, from 0 to 3600")
    return float(value)


def text(at: SettingOrigin, section: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise at.wrong(section, key, f"`{key}` is a text, and not an empty one", f'as in `{key} = "…"`')
    return value


def texts(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise at.wrong(section, key, f"`{key}` is a list of texts", f'as in `{key} = ["…"]`')
    return tuple(value)


def file(at: SettingOrigin, section: str, key: str, value: object) -> str:
    """A path, from the folder of `policyengine.toml`."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise at.wrong(section, key, f"`{key}` is a path", f'as in `{key} = "…"`: from the folder of this file')
    return os.path.join(at.folder, value)


def files(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    return tuple(file(at, section, key, one) for one in texts(at, section, key, value))


def sources(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    """Files and folders as `files` are, and URLs of databases."""
    from policyengine.entities.sources import is_url

    found = texts(at, section, key, [value] if isinstance(value, str) else value)
    return tuple(one if is_url(one) else file(at, section, key, one) for one in found)


def mode(at: SettingOrigin, section: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise at.wrong(section, key, f"`{key}` is the mode of a file, in octal", f'as in `{key} = "660"`')
    return value


def choice(*words: str) -> SettingParser:
    def read(at: SettingOrigin, section: str, key: str, value: object) -> str:
        from policyengine.diagnostics.model import suggest

        if value not in words:
            meant = suggest(value, words) if isinstance(value, str) else None
            listed = ", ".join(f"`{word}`" for word in words)
            raise at.wrong(section, key, f"`{key}` is one of {listed}", meant and f"did you mean `{meant}`?")
        return str(value)

    return read


def store(at: SettingOrigin, section: str, key: str, value: object) -> str:
    """Nobody is asked there yet. The password of a URL is in no message."""
    from policyengine.stores.url import StoreUrlError, parse_store_url

    found = text(at, section, key, value)
    try:
        if found != "memory:":
            parse_store_url(found)
    except StoreUrlError as error:
        raise at.wrong(section, key, error.message, error.hint) from None
    return found


def facts(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    from policyengine.audit.redaction import Redaction

    found = texts(at, section, key, value)
    try:
        Redaction.of(found)
    except ValueError as error:
        raise at.wrong(section, key, str(error), 'as in `["body.card", "args.**.note"]`') from None
    return found


def rotation(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    from policyengine.cli.options.log_rotation import parse_rotation

    found = texts(at, section, key, value)
    try:
        parse_rotation(found, None, False)
    except CommandError as error:
        raise at.wrong(section, key, error.message, error.hint) from None
    return found


def header(at: SettingOrigin, section: str, key: str, value: object) -> str:
    """The name of one, as they are compared; "" for none."""
    if value == "":
        return ""
    if not isinstance(value, str) or not HEADER.fullmatch(value):
        hint = f'as in `{key} = "X-Agent-{key.partition("_")[2].capitalize()}"`; `""` takes none'
        raise at.wrong(section, key, f"`{key}` is the name of a header: letters, digits and `-`", hint)
    if value.lower() in RESERVED_HEADERS:
        raise at.wrong(section, key, f"the header `{value}` means something else", "take another")
    return value.lower()


def forwarded_headers(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    """Names of headers, as they are compared, or `all` of them."""
    if value in (ALL, [ALL]):
        return (ALL,)
    if not isinstance(value, list) or not all(isinstance(one, str) and ANY_HEADER.fullmatch(one) for one in value):
        raise at.wrong(section, key, f"`{key}` is a list of headers, or `all`", f'as in `{key} = ["X-Tenant"]`')
    for name in value:
        if name.lower() in WITHHELD_HEADERS:
            raise at.wrong(
                section, key, f"the header `{name}` is withheld from policies", "leave it out: it is unknown"
            )
    return tuple(dict.fromkeys(one.lower() for one in value))


def adapters(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    """Those whose gateways can send bodies."""
    if not isinstance(value, list) or not all(one in BODY_ADAPTERS for one in value):
        listed = " and ".join(f"`{one}`" for one in BODY_ADAPTERS)
        raise at.wrong(section, key, f"`{key}` is a list of {listed}", f'as in `{key} = ["{BODY_ADAPTERS[0]}"]`')
    return tuple(value)


def hosts(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    from policyengine.http.host_check import AllowedHostError, AllowedHosts

    found = texts(at, section, key, value)
    try:
        AllowedHosts.of(found)
    except AllowedHostError as error:
        raise at.wrong(section, key, error.message, error.hint) from None
    return found


def reload_allowances(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    from policyengine.reload.rules import ReloadRuleError, ReloadRules

    found = texts(at, section, key, value)
    try:
        ReloadRules.of(found)
    except ReloadRuleError as error:
        raise at.wrong(section, key, error.message, error.hint) from None
    return found


def obligation_kinds(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise at.wrong(section, key, f"`{key}` is a list of kinds", f'as in `{key} = ["warn"]`')
    return tuple(value)


def trust_domains(at: SettingOrigin, section: str, key: str, value: object) -> tuple[tuple[str, str], ...]:
    given = value if isinstance(value, dict) else {"": ""}
    if not all(DOMAIN.fullmatch(domain) and isinstance(issuer, str) and issuer for domain, issuer in given.items()):
        hint = f'as in `{key} = {{ "acme.example" = "acme" }}`'
        raise at.wrong(section, key, f"`{key}` names an issuer for each domain", hint)
    return tuple(given.items())


def timestamp(at: SettingOrigin, section: str, key: str, value: object) -> str:
    """A time as TOML has it, or in quotes."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    if not isinstance(value, str) or not value:
        hint = f'as in `{key} = 2026-12-01T00:00:00Z` or `{key} = "7d"`'
        raise at.wrong(section, key, f"`{key}` is a time with its zone, or a duration", hint)
    return value


def names(at: SettingOrigin, section: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        example = '["acme.payments"]' if key == "packages" else '["GET /v1/**"]'
        raise at.wrong(section, key, f"`{key}` is a list of {key}", f"as in `{key} = {example}`")
    return tuple(value)


# ── Variables ─────────────────────────────────────────────────────────────────────────────────


def split_list(words: str) -> object:
    """Commas stand between them."""
    return [word.strip() for word in words.split(",") if word.strip()]


def parse_number(words: str) -> object:
    for kind in (int, float):
        try:
            return kind(words)
        except ValueError:
            continue
    return words


def parse_flag(words: str) -> object:
    lower = words.strip().lower()
    return True if lower in TRUE else False if lower in FALSE else words


def parse_pairs(words: str) -> object:
    """`acme.example=acme, other.example=other`"""
    found = [one.partition("=") for one in words.split(",")]
    return {name.strip(): value.strip() for name, _, value in found}


VARIABLE_PARSERS: Mapping[SettingParser, Callable[[str], object]] = {
    **dict.fromkeys(
        (
            rules,
            texts,
            files,
            sources,
            facts,
            rotation,
            forwarded_headers,
            adapters,
            obligation_kinds,
            names,
            hosts,
            reload_allowances,
        ),
        split_list,
    ),
    **dict.fromkeys((whole_number, positive_number, port, percent, seconds, seconds_or_zero), parse_number),
    boolean: parse_flag,
    trust_domains: parse_pairs,
}

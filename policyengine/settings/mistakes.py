"""Errors in a settings file, described by the setting and its valid values, never by the value itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from policyengine.diagnostics.suggest import suggest
from policyengine.settings.key_places import KeyPath
from policyengine.settings.section import (
    CUSTOM_ERROR,
    SECRET,
    SettingsSection,
    ValueDescription,
    field_metadata,
    has_named_sections,
    section_fields,
    section_of,
)

ERROR_TEXTS = {
    "missing": "the setting is required",
    "bool_type": "write `true` or `false`",
    "bool_parsing": "write `true` or `false`",
    "string_type": "write a string in quotes",
    "path_type": "write the path of a file in quotes",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "tuple_type": 'write a list: `["…"]`',
    "string_too_short": "the string is empty",
}
SECTION_ERRORS = frozenset({"dict_type", "mapping_type", "model_type", "model_attributes_type", "is_instance_of"})
Order: TypeAlias = Callable[[KeyPath], Any]


@dataclass(frozen=True, slots=True)
class SettingMistake:
    """An error in the setting at a path; the value of a `secret` is not shown."""

    path: KeyPath
    message: str
    hint: str | None = None
    secret: bool = False


def list_mistakes(
    error: ValidationError, model: type[SettingsSection], order: Order, name_of: Callable[[KeyPath], str] = ".".join
) -> list[SettingMistake]:
    """Return the first mistake of each setting, by the `order` of paths. `name_of` returns the name of a setting in
    messages."""
    found: dict[KeyPath, SettingMistake] = {}
    for details in sorted(error.errors(include_url=False), key=lambda one: order(error_path(one))):
        mistake = describe_mistake(details, model, name_of)
        found.setdefault(mistake.path, mistake)
    return list(found.values())


def error_path(details: ErrorDetails) -> KeyPath:
    """Return the keys of the path to the error; the validator of a section may name a key of the section."""
    key = details.get("ctx", {}).get("key") if details["type"] == CUSTOM_ERROR else None
    return (*map(str, details["loc"]), *([key] if key else []))


def describe_mistake(
    details: ErrorDetails, model: type[SettingsSection], name_of: Callable[[KeyPath], str]
) -> SettingMistake:
    path, kind = error_path(details), details["type"]
    field = field_at(path, model)
    secret = field is None or SECRET in field_metadata(field)
    expected = (
        None if field is None else next((m for m in field_metadata(field) if isinstance(m, ValueDescription)), None)
    )
    if kind == "extra_forbidden":
        return SettingMistake(path, *describe_unknown_key(path, model), model.hides_unknown)
    if kind == CUSTOM_ERROR:
        context = details["ctx"]
        return SettingMistake(path, str(details["msg"]), context["hint"], secret)
    if kind in SECTION_ERRORS and expected is None:
        section = ".".join(path)
        return SettingMistake(
            path, f"`{section}` is not a section", f"write `[{section}]` on a line of its own", model.hides_unknown
        )
    if expected is not None and kind != "missing":
        setting = path[: field_depth(path, model)]
        return SettingMistake(
            setting, f"`{name_of(setting)}` must be {expected.values}", expected.hint(setting[-1]), secret
        )
    if kind == "literal_error" and field is not None:
        words = describe_choice(element_name(path, model, name_of), choices(field), details["input"])
        return SettingMistake(path, *words, secret)
    description = describe_error_kind(kind, details.get("ctx", {}), details["msg"])
    return SettingMistake(path, f"`{element_name(path, model, name_of)}`: {description}", None, secret)


def element_name(path: KeyPath, model: type[SettingsSection], name_of: Callable[[KeyPath], str]) -> str:
    """Return the name of a setting; an element of a list is named as in `events[0]`."""
    depth = field_depth(path, model)
    if not path[depth:] or not all(index.isdecimal() for index in path[depth:]):
        return name_of(path)
    return name_of(path[:depth]) + "".join(f"[{index}]" for index in path[depth:])


def describe_error_kind(kind: str, context: Mapping[str, Any], message: str) -> str:
    match kind:
        case "greater_than_equal":
            return f"write a value of at least {context['ge']}"
        case "less_than_equal":
            return f"write a value of at most {context['le']}"
        case _:
            return ERROR_TEXTS.get(kind, message.removeprefix("Value error, "))


def describe_choice(name: str, words: Sequence[str], given: object) -> tuple[str, str | None]:
    meant = suggest(given, words) if isinstance(given, str) else None
    return f"`{name}` must be one of {', '.join(f'`{word}`' for word in words)}", meant and f"did you mean `{meant}`?"


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words of the first `Literal` in an annotation; none if there is no `Literal`."""
    waiting: list[Any] = [field.annotation]
    for part in waiting:
        if get_origin(part) is Literal:
            return get_args(part)
        waiting += get_args(part)
    return ()


def describe_unknown_key(path: KeyPath, model: type[SettingsSection]) -> tuple[str, str | None]:
    """Describe an unknown key, with the key that may have been meant, or all valid keys."""
    *above, key = path
    section = section_at(above, model)
    message = f"unknown key `{key}` in `[{'.'.join(above)}]`" if above else f"unknown section `{key}`"
    if section is None:
        return message, None
    if key in section.belongs_elsewhere:
        return message, section.belongs_elsewhere[key].format(name=above[-1])
    keys = section_fields(section)
    shown_as = {name: f"`{name}`" if above else f"`[{name}]`" for name in keys}
    meant = suggest(key, keys)
    return message, f"did you mean {shown_as[meant]}?" if meant else list_keys(shown_as.values())


def list_keys(keys: Collection[str]) -> str:
    return f"the valid {'keys are' if len(keys) > 1 else 'key is'} {', '.join(keys)}"


def section_at(path: Sequence[str], model: type[SettingsSection]) -> type[SettingsSection] | None:
    """Return the model of the section at a path, or None if the path leads to no section. The name of a named section,
    as in `issuers.login`, is skipped.
    """
    left, section = list(path), model
    while left:
        field = section_fields(section).get(left.pop(0))
        inner = None if field is None else section_of(field.annotation)
        if field is None or inner is None:
            return None
        section = inner
        if left and has_named_sections(field):
            left.pop(0)
    return section


def field_at(path: KeyPath, model: type[SettingsSection]) -> FieldInfo | None:
    """Return the setting to which a path leads, or None if there is no such setting. The path may go on into the value
    of the setting.
    """
    depth = field_depth(path, model)
    section = section_at(path[: depth - 1], model)
    return None if section is None else section_fields(section).get(path[depth - 1])


def field_depth(path: KeyPath, model: type[BaseModel]) -> int:
    """Return the number of keys of a path that lead to a setting; the rest are elements of its value."""
    section, depth = model, 0
    while depth < len(path):
        field = section_fields(section).get(path[depth])
        inner = None if field is None else section_of(field.annotation)
        depth += 1
        if field is None or inner is None:
            break
        section = inner
        if depth < len(path) and has_named_sections(field):
            depth += 1
    return depth

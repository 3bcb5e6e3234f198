"""The sources of settings: variables override the file. Both are sources of `pydantic-settings`.

This module is imported only if there is a file or a variable, because importing the library takes as long as running a
small command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from policyengine.cli.settings.registry import BY_NAME, SettingName, SettingSpec
from policyengine.cli.settings.sections import ProjectSections
from policyengine.entities.sources import is_url
from policyengine.settings.section import (
    RELATIVE,
    RELATIVE_OR_URL,
    field_metadata,
    has_named_sections,
    section_fields,
    section_of,
)

TRUE, FALSE = frozenset({"true", "yes", "1", "on"}), frozenset({"false", "no", "0", "off"})


class SectionSource(PydanticBaseSettingsSource):
    """A settings source with values by section and key."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self.values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        key = field.alias or field_name
        return self.values.get(key), key, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.values)


class FileSource(SectionSource):
    """The settings of `policyengine.toml`; paths are relative to its folder."""

    def __init__(self, settings_cls: type[BaseSettings], data: Mapping[str, Any], folder: str) -> None:
        super().__init__(settings_cls, {section: join_paths(section, table, folder) for section, table in data.items()})


class VariableSource(SectionSource):
    """The settings of variables such as POLICYENGINE_SERVE_PORT. Lists are separated by commas. The library's own
    parser supports neither commas nor `mcp-gateway`, and would read variables of Kubernetes as settings.
    """

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[SettingName, str]) -> None:
        sections: dict[str, dict[str, Any]] = {}
        for (section, key), text in variables.items():
            sections.setdefault(section, {})[key] = parse_text(BY_NAME[section, key], text)
        super().__init__(settings_cls, sections)


class ProjectSource(ProjectSections, BaseSettings):
    """The sections, from a file and from variables."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict()

    @classmethod
    def of(cls, data: Mapping[str, Any], folder: str, variables: Mapping[SettingName, str]) -> ProjectSource:
        """Build the sections from both sources. Raises ValidationError."""
        given: dict[str, Any] = {"data": data, "folder": folder, "variables": variables}
        return cls(**given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        given = init_settings.init_kwargs
        return (
            VariableSource(settings_cls, given["variables"]),
            FileSource(settings_cls, given["data"], given["folder"]),
        )


def join_paths(section: str, table: Any, folder: str) -> Any:
    """Return a table of the file with its paths relative to the current folder."""
    if not isinstance(table, dict):
        return table
    field = section_fields(ProjectSections).get(section)
    if field is not None and has_named_sections(field):
        model = section_of(field.annotation)
        fields = {} if model is None else section_fields(model)
        return {name: join_fields(fields, named, folder) for name, named in table.items()}
    specs = {key: BY_NAME.get((section, key)) for key in table}
    return join_fields({key: spec.field for key, spec in specs.items() if spec is not None}, table, folder)


def join_fields(fields: Mapping[str, FieldInfo], table: Any, folder: str) -> Any:
    if not isinstance(table, dict):
        return table
    return {key: join_path(fields.get(key), value, folder) for key, value in table.items()}


def join_path(field: FieldInfo | None, value: Any, folder: str) -> Any:
    marks = () if field is None else tuple(field_metadata(field))
    match value:
        case list():
            return [join_path(field, path, folder) for path in value]
        case str() if value.strip() and (RELATIVE in marks or (RELATIVE_OR_URL in marks and not is_url(value))):
            return os.path.join(folder, value)
        case _:
            return value


# ── Variables ─────────────────────────────────────────────────────────────────────────────────


def parse_text(spec: SettingSpec, text: str) -> object:
    """Return the text of a variable as a value of TOML, or the text itself if the type is a string."""
    return next((parse(text) for kind, parse in PARSERS.items() if kind in value_types(spec.field.annotation)), text)


def value_types(annotation: object) -> Iterator[object]:
    """Yield the types of the value itself, without the types of list elements."""
    origin = get_origin(annotation)
    match origin:
        case None:
            yield annotation
        case _ if origin in PARSERS:
            yield origin
        case _:
            for part in get_args(annotation):
                yield from value_types(part)


def split_list(text: str) -> object:
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_flag(text: str) -> object:
    lower = text.strip().lower()
    return True if lower in TRUE else False if lower in FALSE else text


def parse_pairs(text: str) -> object:
    """Parse pairs such as `acme.example=acme, other.example=other`."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {name.strip(): value.strip() for name, _, value in pairs}


PARSERS: Mapping[object, Callable[[str], object]] = {
    bool: parse_flag,
    int: parse_number,
    float: parse_number,
    tuple: split_list,
    Mapping: parse_pairs,
}

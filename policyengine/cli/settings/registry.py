"""Every setting of `policyengine.toml` as data: its key, its variable, its default, and the options that
override it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic.fields import FieldInfo

from policyengine.cli.settings.file import VARIABLE_PREFIX
from policyengine.cli.settings.sections import CommandSection, ProjectSections, SettingTraits
from policyengine.settings.section import SECRET, field_metadata, section_fields, section_of

# Variables that Kubernetes sets for services with the name of a section.
KUBERNETES_VARIABLE = re.compile(r"(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_\w+)?)")
# Options of `serve` that `doctor` also has.
DOCTOR_OPTIONS = frozenset(
    "host port socket metrics_port envoy_grpc workers token_file log store entities identity trust".split()
)
SettingName: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """A setting. `options` are the commands with an option for it, each with the name of the parameter."""

    section: str
    key: str
    field: FieldInfo
    traits: SettingTraits
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> SettingName:
        return self.section, self.key

    @property
    def variable(self) -> str:
        """The environment variable, such as `POLICYENGINE_SERVE_PORT`."""
        return f"{VARIABLE_PREFIX}{self.section}_{self.key}".upper().replace("-", "_")

    @property
    def default(self) -> str:
        """The default as the documentation shows it."""
        return self.traits.default

    @property
    def secret(self) -> bool:
        """Whether the value may contain a password."""
        return SECRET in field_metadata(self.field)

    @property
    def doc(self) -> str:
        return self.field.description or ""


def setting_specs() -> Iterator[SettingSpec]:
    """Yield all settings in the order of the file."""
    for section, part in section_fields(ProjectSections).items():
        model = section_of(part.annotation)
        if model is not None and issubclass(model, CommandSection):
            for key, field in section_fields(model).items():
                traits = setting_traits(field)
                yield SettingSpec(section, key, field, traits, tuple(setting_options(model, key, traits)))


def setting_traits(field: FieldInfo) -> SettingTraits:
    extra: Any = field.json_schema_extra
    traits = extra["traits"]
    assert isinstance(traits, SettingTraits)
    return traits


def setting_options(section: type[CommandSection], key: str, traits: SettingTraits) -> Iterator[tuple[str, str]]:
    parameter = traits.option or f"{section.option_prefix}{key}"
    for command in traits.commands or section.commands:
        if command != "doctor" or parameter in DOCTOR_OPTIONS:
            yield command, parameter


SETTINGS: tuple[SettingSpec, ...] = tuple(setting_specs())
BY_NAME: Mapping[SettingName, SettingSpec] = {spec.name: spec for spec in SETTINGS}
BY_OPTION: Mapping[tuple[str, str], SettingSpec] = {option: spec for spec in SETTINGS for option in spec.options}
BY_VARIABLE: Mapping[str, SettingSpec] = {spec.variable: spec for spec in SETTINGS}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(spec.section for spec in SETTINGS))


def is_setting_variable(variable: str) -> bool:
    """Return whether the name of a variable begins like that of a setting, and is not one that Kubernetes sets."""
    for section in SECTIONS:
        begin = f"{VARIABLE_PREFIX}{section}_".upper().replace("-", "_")
        if variable.startswith(begin):
            return not KUBERNETES_VARIABLE.fullmatch(variable.removeprefix(begin)) or variable in BY_VARIABLE
    return False

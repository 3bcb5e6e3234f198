"""The settings of `identity.toml` as rows of the table in docs/identity.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from pydantic.fields import FieldInfo

from policyengine.identity.config.model import IdentityConfig
from policyengine.settings.section import has_named_sections, section_of
from policyengine.time_formats import format_duration


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """A setting with its full name, such as `issuers.NAME.keys`; `default` is written as in the file."""

    name: str
    words: str
    default: str

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]


def setting_docs() -> Iterator[SettingDoc]:
    """Yield all settings in the order of the file."""
    for section, field in IdentityConfig.model_fields.items():
        model = section_of(field.annotation)
        if model is not None:
            place = f"{section}.NAME" if has_named_sections(field) else section
            yield from (setting_doc(f"{place}.{key}", one) for key, one in model.model_fields.items())


def setting_doc(name: str, field: FieldInfo) -> SettingDoc:
    default = "required" if field.is_required() else format_default(field.get_default(call_default_factory=True))
    return SettingDoc(name, field.description or "", default)


def format_default(value: object) -> str:
    match value:
        case None | "" | () | {}:
            return "none"
        case bool():
            return str(value).lower()
        case timedelta():
            return format_duration(value)
        case tuple():
            return ", ".join(f"`{one}`" for one in value)
        case int():
            return str(value)
        case _:
            return f"`{value}`"

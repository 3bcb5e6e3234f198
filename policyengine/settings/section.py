"""The base class of sections of a settings file, and metadata of settings in addition to their type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

CUSTOM_ERROR = "setting"  # the type of pydantic errors whose message is complete


class SettingsSection(BaseModel):
    """A table of a settings file. Models are built when the first file is read, so that imports stay fast."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    hides_unknown: ClassVar[bool] = False  # whether an unknown key may hold a secret, for the whole file
    belongs_elsewhere: ClassVar[Mapping[str, str]] = {}  # keys that users look for here, with a hint to their place


@dataclass(frozen=True, slots=True)
class ValueDescription:
    """Metadata of a type: `values` describes its values for messages; `example` is a TOML value, and `note`
    follows it.
    """

    values: str
    example: str = ""
    note: str = ""

    def hint(self, key: str) -> str | None:
        return f"as in `{key} = {self.example}`{self.note.format(key=key)}" if self.example else None


@dataclass(frozen=True, slots=True)
class Marker:
    """Metadata of a type, compared by identity."""

    name: str


SECRET = Marker("secret")  # the value may hold a secret: no message shows it
RELATIVE = Marker("relative")  # a path, relative to the folder of the settings file
RELATIVE_OR_URL = Marker("relative or URL")


def setting_error(message: str, hint: str | None = None, key: str | None = None) -> PydanticCustomError:
    """Return the error for a value, or, from the validator of a section, for the value of a `key`."""
    context = {"message": message.replace("{", "{{").replace("}", "}}"), "hint": hint, "key": key}
    return PydanticCustomError(CUSTOM_ERROR, "{message}", context)


def metadata(annotation: object) -> Iterator[object]:
    """Yield all metadata of the `Annotated` types in an annotation, the outermost first."""
    waiting: list[Any] = [annotation]
    for part in waiting:
        yield from getattr(part, "__metadata__", ())
        waiting += [part.__origin__] if hasattr(part, "__metadata__") else get_args(part)


def field_metadata(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    yield from metadata(field.annotation)


def field_key(name: str, field: FieldInfo) -> str:
    """Return the key of a field in the file."""
    return field.alias or name


def section_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by key, without those that are not in the file."""
    return {field_key(name, field): field for name, field in model.model_fields.items() if not field.exclude}


def section_of(annotation: Any) -> type[SettingsSection] | None:
    """Return the model in `Section`, `Section | None` or `Mapping[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, SettingsSection):
        return annotation
    return next((model for part in get_args(annotation) if (model := section_of(part)) is not None), None)


def has_named_sections(field: FieldInfo) -> bool:
    """Return whether each section of a field has a name: `[issuers.login]`."""
    return get_origin(field.annotation) is Mapping

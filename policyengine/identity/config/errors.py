"""What is wrong in `identity.toml`, in words of that file: which setting, and never its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from policyengine.runtime.structure_checks import did_you_mean

# What newcomers look for here, and the policy says.
POLICY_SETTINGS = {
    "issuers": ("url", "audience", "claims", "scopes", "records", "records_chains"),
    "attesters": ("url", "age", "model", "models", "environments"),
}
ERROR_TEXTS = {
    "missing": "it has to be there",
    "bool_type": "write `true` or `false`",
    "bool_parsing": "write `true` or `false`",
    "string_type": "write a text in quotes",
    "path_type": "write the path of a file in quotes",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "tuple_type": 'write a list: `["…"]`',
    "string_too_short": "it is empty",
}
SECTIONS = ("dict_type", "mapping_type", "model_type", "model_attributes_type", "is_instance_of")


def describe_validation_error(error: ValidationError, model: type[BaseModel], name: str) -> tuple[str, str | None]:
    """The first mistake: what is wrong, and what to do. `name` is that of the file."""
    first = error.errors(include_input=False, include_url=False)[0]
    loc = first["loc"]
    place = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        return f"`{name}`: unknown setting `{place}`", suggest_setting(loc, model)
    return (
        f"`{name}`: `{place}`: {describe_error_kind(str(first['type']), first.get('ctx', {}), first['msg'], loc)}",
        None,
    )


def describe_error_kind(kind: str, context: Mapping[str, Any], message: str, loc: Sequence[object]) -> str:
    match kind:
        case "literal_error":
            return f"write one of {context['expected']}".replace("'", "`")
        case "greater_than_equal":
            return f"it is at least {context['ge']}"
        case "less_than_equal":
            return f"it is at most {context['le']}"
        case _ if kind in SECTIONS:
            return f"it is a section: `[{'.'.join(map(str, loc))}]`"
        case _:
            return ERROR_TEXTS.get(kind, message.removeprefix("Value error, "))


def suggest_setting(loc: Sequence[object], model: type[BaseModel]) -> str | None:
    """What may have been meant, or all that there is."""
    *above, last = map(str, loc)
    if above and last in POLICY_SETTINGS.get(above[0], ()):
        return f"the policy says that, in `{above[0][:-1]} {above[-1]} {{ … }}`"
    section = section_at(above, model)
    if section is None:
        return None
    there = tuple(section.model_fields.keys() - {"folder"})
    return did_you_mean(last, there) or f"there {'are' if len(there) > 1 else 'is'} {', '.join(sorted(there))}"


def section_at(loc: Sequence[str], model: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the section at a place. Of sections with names, as `issuers.login`, the name is passed over."""
    left = list(loc)
    while left:
        field = model.model_fields.get(left.pop(0))
        inner = None if field is None else section_of_annotation(field.annotation)
        if inner is None:
            return None
        model = inner
        if left and field is not None and isinstance(field.default_factory, type):
            left.pop(0)
    return model


def section_of_annotation(annotation: object) -> type[BaseModel] | None:
    """`Section`, `Section | None` or `Mapping[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := section_of_annotation(one)) is not None), None)

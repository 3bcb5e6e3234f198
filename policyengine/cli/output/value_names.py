"""The names of values in the help of commands: `N` and `FILE`, not the Python types that Typer shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

HelpRecord: TypeAlias = tuple[str, str]  # the name of a parameter, and its meaning

NAMES: Final[Mapping[str, str]] = {
    "<str>": "TEXT",
    "<int>": "N",
    "<int range>": "N",
    "<float>": "N",
    "<float range>": "N",
    "<path>": "FILE",
}
_DEFAULT = re.compile(r"\[default: \((.*?)\)(?=[];])")


def name_values(command: Any) -> Any:
    """Return the command, changed so that its help and the help of its subcommands name values as the documentation
    does."""
    for parameter in command.params:
        parameter.get_help_record = _renamed(parameter.get_help_record, parameter.param_type_name == "argument")
    for subcommand in getattr(command, "commands", {}).values():
        name_values(subcommand)
    return command


def _renamed(get_record: Callable[[Any], HelpRecord | None], is_argument: bool) -> Callable[[Any], HelpRecord | None]:
    def record(context: Any) -> HelpRecord | None:
        found = get_record(context)
        return None if found is None else rename_values(*found, is_argument=is_argument)

    return record


def rename_values(name: str, meaning: str, *, is_argument: bool) -> HelpRecord:
    """Return `-j, --jobs N` for `-j, --jobs <int range>`, `PATH` for `PATH <list[Path]>`, and `[default: all]` for
    `[default: (all)]`.
    """
    words, _, type_name = name.rpartition(" <")
    if is_argument:
        name = words or name
    elif words:
        name = f"{words} {NAMES.get(f'<{type_name}', f'<{type_name}')}"
    return name, _DEFAULT.sub(r"[default: \1", meaning)

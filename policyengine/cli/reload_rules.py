"""The rules of reloads, from options, variables and `policyengine.toml`, which is read at each reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import SETTINGS_FILE_NAME, find_settings_file, load_settings

if TYPE_CHECKING:
    from policyengine.reload import ReloadRules

SECTION = "reload"


def settings_file(paths: Sequence[Path]) -> Path:
    """Return the `policyengine.toml` of these policies; without such a file, the path that is searched first."""
    first = paths[0]
    return find_settings_file(first) or (first if first.is_dir() else first.parent) / SETTINGS_FILE_NAME


def reload_rules(paths: Sequence[Path], allow: Sequence[str], gate: str, seconds: float) -> Callable[[], ReloadRules]:
    """Return a function that returns the current rules: rules from options and variables do not change, but those of
    `policyengine.toml` may. Raises CommandError for an invalid rule.
    """
    from policyengine.reload import ReloadRefusedError

    from_file = tuple(allow) == allowed_in_file(paths)

    def current() -> ReloadRules:
        try:
            return build_rules(allowed_in_file(paths) if from_file else allow, gate, seconds)
        except CommandError as error:
            why = "cannot read which changes a reload may make"
            raise ReloadRefusedError(why, [f"{error.message}{f' ({error.hint})' if error.hint else ''}"]) from None

    build_rules(allow, gate, seconds)
    return current


def allowed_in_file(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return what variables and `policyengine.toml` allow a reload to change. Raises CommandError."""
    return tuple(load_settings(list(paths)).values.get((SECTION, "allow"), ()))


def build_rules(allow: Sequence[str], gate: str, seconds: float) -> ReloadRules:
    """Build the rules. Raises CommandError for an invalid word."""
    from policyengine.reload import ReloadRuleError, ReloadRules

    try:
        return ReloadRules.of(allow, gate=gate == "diff", seconds=seconds)
    except ReloadRuleError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None

"""What a reload may take away, as options, variables and `policyengine.toml` say; the file is read at each reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import NAME, configuration_of, next_file

if TYPE_CHECKING:
    from policyengine.reload import ReloadRules

SECTION = "reload"


def settings_file(paths: Sequence[Path]) -> Path:
    """The `policyengine.toml` of these policies, or where it would be looked for first."""
    first = paths[0]
    return next_file(first) or (first if first.is_dir() else first.parent) / NAME


def reload_rules(paths: Sequence[Path], allow: Sequence[str], gate: str, seconds: float) -> Callable[[], ReloadRules]:
    """A function that gives the rules: those of options and variables stay, those of `policyengine.toml` may change.

    Raises CommandError for what is no rule.
    """
    from policyengine.reload import Refused

    from_file = tuple(allow) == said_by_file(paths)

    def current() -> ReloadRules:
        try:
            return rules_of(said_by_file(paths) if from_file else allow, gate, seconds)
        except CommandError as error:
            why = "what a reload may take away cannot be read"
            raise Refused(why, [f"{error.message}{f' ({error.hint})' if error.hint else ''}"]) from None

    rules_of(allow, gate, seconds)
    return current


def said_by_file(paths: Sequence[Path]) -> tuple[str, ...]:
    """What `allow` is where nobody says it on the command line. Raises CommandError."""
    return tuple(configuration_of(list(paths)).values.get((SECTION, "allow"), ()))


def rules_of(allow: Sequence[str], gate: str, seconds: float) -> ReloadRules:
    """Raises CommandError."""
    from policyengine.reload import ReloadRuleError, ReloadRules

    try:
        return ReloadRules.of(allow, gate=gate == "diff", seconds=seconds)
    except ReloadRuleError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None

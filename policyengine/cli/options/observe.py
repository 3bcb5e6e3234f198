"""`serve --observe`: the scope and the end of observe mode, from options and `policyengine.toml`, and the warning about
it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.output.terminal import Screen
from policyengine.time_formats import RFC3339, parse_duration, parse_time

if TYPE_CHECKING:
    from policyengine.cli.settings.sections import ObserveSettings
    from policyengine.engine import Engine

WEEK_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True)
class ObserveOptions:
    """The options of observe mode."""

    observe: bool | None
    until: str | None
    packages: Sequence[str]
    endpoints: Sequence[str]


def start_observing(engine: Engine, asked: ObserveOptions, configured: ObserveSettings | None) -> None:
    """Start observe mode if an option or the settings file requests it; options take precedence. Raises
    CommandError."""
    from policyengine.engine.observe_mode import Observe, ObserveError

    wanted = configured is not None if asked.observe is None else asked.observe
    if not wanted:
        _refuse_limits_alone(asked)
        return
    until = asked.until or (configured.until if configured else "")
    if not until:
        now = datetime.fromtimestamp(datetime.now(UTC).timestamp() + WEEK_SECONDS, UTC)
        hint = f"set it, at most 90 days ahead: `--observe-until {now:%Y-%m-%dT%H:%MZ}`"
        raise CommandError("usage", "observe mode needs an end, after which policies are enforced", hint, code=2)
    packages = asked.packages or (configured.packages if configured else ())
    endpoints = asked.endpoints or (configured.endpoints if configured else ())
    try:
        engine.observe(Observe(_parse_end(until), tuple(packages), tuple(endpoints)))
    except ObserveError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None
    _warn_observing(engine, until)


def _refuse_limits_alone(asked: ObserveOptions) -> None:
    if asked.until or asked.packages or asked.endpoints:
        hint = "add `--observe`" if asked.observe is None else "omit the other options"
        raise CommandError("usage", "nothing is observed, so there is nothing to limit", hint, code=2)


def _parse_end(text: str) -> datetime:
    """Parse a time, to the minute or finer, or a duration from now. Raises CommandError."""
    lasting = parse_duration(text)
    if lasting is not None:
        return datetime.now(UTC) + lasting
    found = parse_time(text if RFC3339.fullmatch(text) else _with_seconds(text))
    if found is None:
        hint = "write it with its zone, as in `2026-12-01T00:00Z`, or as a duration, as in `7d`"
        raise CommandError("usage", f"`{text}` is not a time or a duration", hint, code=2)
    return found


def _with_seconds(text: str) -> str:
    date, mark, rest = text.replace(" ", "T").partition("T")
    return f"{date}{mark}{rest[:5]}:00{rest[5:]}"


def _warn_observing(engine: Engine, until: str) -> None:
    screen, observing = Screen(sys.stderr), engine.observing
    if observing is None:
        words = f"observe mode ended at {until}: every decision is enforced; remove the options"
        screen.warn(words)
        return
    words = f"OBSERVING, NOT ENFORCING, until {observing.to_dict()['until']}: {describe_scope(engine)} is let through"
    screen.warn((words, "bold yellow"))
    if engine.log is None:
        unrecorded = "no decisions are recorded: name a file with `--log` for `policyengine suggest`"
        screen.warn(unrecorded)
    if parse_duration(until) is not None:
        again = "each restart begins a new period: set a fixed time if this server restarts automatically"
        screen.warn(again)


def describe_scope(engine: Engine) -> str:
    """Return a description of the scope of observe mode."""
    observing = engine.observing
    assert observing is not None
    limits = [f"of {one}" for one in observing.packages], [f"at {one}" for one in observing.endpoints]
    words = [" or ".join(some) for some in limits if some]
    return " ".join(["what the policies would stop", *words])

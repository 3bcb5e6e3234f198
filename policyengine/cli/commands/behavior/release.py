"""`policyengine behavior release`: plan a change in the behavior of a class of callers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.behavior import (
    PROFILE,
    KnownFolder,
    has_server,
    load_state,
    open_folder,
    report_folder_errors,
)
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.time_formats import RFC3339, format_duration, format_rfc3339, parse_duration, parse_time

if TYPE_CHECKING:
    from policyengine.behavior.state import BehaviorState

MAX_SPAN = timedelta(days=14)
TIME_HINT = "write `7d`, `2026-12-01`, or `2026-12-01T10:00:00Z`"


def release(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="The name of a profile, or a class.", show_default=False)
    ],
    behavior: KnownFolder,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="When the change is over: `2026-12-01`, or `7d` for a week from now; at most 14 days.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the change now.")] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Plan a change in the behavior of a class of callers.

    Until the time of `--until`, new endpoints and bursts of the callers raise no alarm, and both are learned as usual
    behavior. Records of the decisions contain `released`. A burst is measured against the days before it, so let the
    change last at least until the day after the new work began. A running server that uses the folder applies the
    change within a minute. `behavior show` lists the planned changes.

    \b
    Exit codes:
      0  planned, or ended
      1  the class is not known, no change of it is planned (`--end`), or the folder cannot be read or written
      2  wrong usage

    \b
    Example:
      policyengine behavior release reporting --until 2d --behavior decisions.jsonl.behavior
      policyengine behavior release reporting --end --behavior decisions.jsonl.behavior
    """
    from policyengine.behavior.operator_files import load_releases, save_releases
    from policyengine.behavior.releases import ClassRelease

    if (until is None) is not end:
        hint = "write `--until 7d`, or `--end`"
        raise CommandError("usage", "say either until when, or that the change ends", hint, code=2)
    now = datetime.now(UTC)
    ends = now if until is None else parse_end(until, now)
    folder = open_folder(behavior)
    with report_folder_errors(behavior):
        planned = [one for one in load_releases(folder) if one.until > milliseconds_of(now)]
    groups = {one.group for one in planned} if end else known_groups(load_state(folder))
    group = find_group(profile, groups, end)
    others = tuple(one for one in planned if one.group != group)
    added = () if end else (ClassRelease(group, milliseconds_of(now), milliseconds_of(ends)),)
    with report_folder_errors(behavior):
        save_releases(folder, others + added)
    running = has_server(folder)
    if format is OutputFormat.JSON:
        print_json({
            "folder": str(behavior), "class": group, "until": None if end else format_rfc3339(ends, "seconds"),
            "server": running,
        })  # fmt: skip
        return 0
    soon = "; the running server follows within a minute" if running else ""
    if end:
        Screen().line(f"the planned change of {group} has ended{soon}")
    else:
        rest = format_duration(timedelta(seconds=round((ends - now).total_seconds())))
        Screen().line(f"planned a change of {group} until {format_rfc3339(ends, 'seconds')}, in {rest}{soon}")
    return 0


def milliseconds_of(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def parse_end(text: str, now: datetime) -> datetime:
    """Parse a time in the next 14 days: a day, a time, or a duration from now. Raises CommandError."""
    span = parse_duration(text)
    whole = f"{text}T00:00:00Z" if len(text) == len("2026-12-01") else text
    found = now + span if span is not None and span <= MAX_SPAN else None
    if span is None:
        found = parse_time(whole) if RFC3339.fullmatch(whole) else None
        if found is None:
            zone = RFC3339.fullmatch(f"{text}Z")
            message = f"`{text}` has no zone" if zone else f"`{text}` is neither a time nor a duration"
            raise CommandError("usage", message, f"write `{text}Z` for UTC" if zone else TIME_HINT, code=2)
    if found is None or found - now > MAX_SPAN:
        hint = "name an earlier time; it can be planned again later"
        raise CommandError("usage", "a change is planned for at most 14 days", hint, code=2)
    if found <= now:
        raise CommandError("usage", f"`{text}` is in the past", TIME_HINT, code=2)
    return found


def known_groups(state: BehaviorState) -> set[str]:
    return {found.group for found in state.rows.values()} | {one.name for one in state.model.content.classes}


def find_group(name: str, groups: set[str], end: bool) -> str:
    """Return the class of a profile, or the class of this name. Raises CommandError."""
    for group in (PROFILE + name, name):
        if group in groups:
            return group
    if end:
        raise CommandError("behavior", f"no change of `{name}` is planned", "`behavior show` lists the planned changes")
    short = sorted(group.removeprefix(PROFILE) for group in groups if group)
    hint = did_you_mean(name, short) or (
        f"known: {', '.join(f'`{one}`' for one in short[:5])}" if short else "the folder knows no class yet"
    )
    raise CommandError("behavior", f"no caller of the class `{name}` is known", hint)

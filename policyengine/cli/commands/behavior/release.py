"""`policyengine behavior release`: plan a change in the behavior of a class of callers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from policyengine.cli.options.behavior_store import SharedStoreUrl, check_place, open_learned, warn_of_refused
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.time_formats import RFC3339, format_duration, format_rfc3339, parse_duration, parse_time

if TYPE_CHECKING:
    from policyengine.behavior.operator_store import StoredBehavior
    from policyengine.behavior.releases import ClassRelease
    from policyengine.behavior.state import BehaviorState

MAX_SPAN = timedelta(days=14)
TIME_HINT = "write `7d`, `2026-12-01`, or `2026-12-01T10:00:00Z`"


def release(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="The name of a profile, or a class.", show_default=False)
    ],
    behavior: KnownFolder = None,
    store: SharedStoreUrl = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="When the change ends: `2026-12-01`, or `7d` for a week from now; at most 14 days.",
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
    change within a minute, and every process that uses the store within ten seconds. `behavior show` lists the planned
    changes.

    \b
    Exit codes:
      0  planned, or ended
      1  the class is not known, no change is planned for it (`--end`), or the folder or the store cannot be read or
         written
      2  wrong usage

    \b
    Example:
      policyengine behavior release reporting --until 2d --behavior decisions.jsonl.behavior
      policyengine behavior release reporting --end --behavior decisions.jsonl.behavior
      policyengine behavior release reporting --until 2d --store redis://127.0.0.1:6379
    """
    from policyengine.behavior.operator_files import load_releases, save_releases

    if (until is None) is not end:
        hint = "write `--until 7d`, or `--end`"
        raise CommandError("usage", "exactly one of `--until` and `--end` is needed", hint, code=2)
    check_place(behavior, store)
    now = datetime.now(UTC)
    ends = None if until is None else parse_end(until, now)
    if behavior is None:
        return release_stored(store or "", profile, now, ends, format)
    folder = open_folder(behavior)
    with report_folder_errors(behavior):
        planned = planned_at(load_releases(folder), now)
    groups = {one.group for one in planned} if end else known_groups(load_state(folder))
    group = find_group(profile, groups, end)
    with report_folder_errors(behavior):
        save_releases(folder, replace_release(planned, group, now, ends))
    running = has_server(folder)
    if format is OutputFormat.JSON:
        print_json({"folder": str(behavior), **planned_dict(group, ends), "server": running})
    else:
        show_release(group, now, ends, "; the running server applies this within a minute" if running else "")
    return 0


def release_stored(url: str, profile: str, now: datetime, ends: datetime | None, format: OutputFormat) -> int:
    """Plan a change in a store until a time or, without a time, end it. Raises CommandError."""
    from policyengine.behavior.operator_store import MAX_ATTEMPTS, DocumentConflictError
    from policyengine.stores.clock_skew import system_time

    with open_learned(url) as opened, show_progress("reading the store"):
        opened.store.check(system_time())
        for _ in range(MAX_ATTEMPTS):
            known = opened.learned.load_releases()
            planned = planned_at(known.releases, now)
            groups = {one.group for one in planned} if ends is None else stored_groups(opened.learned, profile)
            group = find_group(profile, groups, ends is None)
            changed = replace_release(planned, group, now, ends)
            if opened.learned.save_releases(known, changed, milliseconds_of(now)):
                break
        else:
            raise DocumentConflictError("the document of planned changes")
    warn_of_refused(known)
    if format is OutputFormat.JSON:
        print_json({"store": opened.shown, **planned_dict(group, ends), "server": None})
    else:
        show_release(group, now, ends, "; processes that use the store apply this within ten seconds")
    return 0


def planned_at(releases: Iterable[ClassRelease], now: datetime) -> list[ClassRelease]:
    """Return the planned changes that have not ended."""
    return [one for one in releases if one.until > milliseconds_of(now)]


def replace_release(
    planned: Sequence[ClassRelease], group: str, now: datetime, ends: datetime | None
) -> tuple[ClassRelease, ...]:
    """Return the planned changes, in which the change of this class lasts until `ends`; if `ends` is None, the change
    is removed.
    """
    from policyengine.behavior.releases import ClassRelease

    others = tuple(one for one in planned if one.group != group)
    return others if ends is None else (*others, ClassRelease(group, milliseconds_of(now), milliseconds_of(ends)))


def planned_dict(group: str, ends: datetime | None) -> dict[str, str | None]:
    return {"class": group, "until": None if ends is None else format_rfc3339(ends, "seconds")}


def show_release(group: str, now: datetime, ends: datetime | None, soon: str) -> None:
    if ends is None:
        Screen().line(f"the planned change of {group} has ended{soon}")
    else:
        rest = format_duration(timedelta(seconds=round((ends - now).total_seconds())))
        Screen().line(f"planned a change of {group} until {format_rfc3339(ends, 'seconds')}, in {rest}{soon}")


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
        hint = "choose an earlier time; the change can be extended later"
        raise CommandError("usage", "a change is planned for at most 14 days", hint, code=2)
    if found <= now:
        raise CommandError("usage", f"`{text}` is in the past", TIME_HINT, code=2)
    return found


def known_groups(state: BehaviorState) -> set[str]:
    return {found.group for found in state.rows.values()} | {one.name for one in state.model.content.classes}


def stored_groups(learned: StoredBehavior, profile: str) -> set[str]:
    """Return the classes of the model in a store and, if the profile is not one of them, the classes of all callers."""
    groups = {one.name for one in learned.load_model().content.classes}
    return groups if groups & {PROFILE + profile, profile} else groups | learned.groups()


def find_group(name: str, groups: set[str], end: bool) -> str:
    """Return the class of the profile with this name, or the class with this name. Raises CommandError."""
    for group in (PROFILE + name, name):
        if group in groups:
            return group
    if end:
        raise CommandError("behavior", f"no change of `{name}` is planned", "`behavior show` lists the planned changes")
    short = sorted(group.removeprefix(PROFILE) for group in groups if group)
    hint = did_you_mean(name, short) or (
        f"known: {', '.join(f'`{one}`' for one in short[:5])}" if short else "no class is known yet"
    )
    raise CommandError("behavior", f"no caller of the class `{name}` is known", hint)

"""`policyengine behavior show --store`: show what a store that processes share knows about callers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from policyengine.cli.commands.behavior.caller_details import (
    describe_group,
    describe_model,
    describe_row,
    format_milliseconds,
    release_dict,
    show_details,
    show_groups,
    show_releases,
)
from policyengine.cli.commands.behavior.learn import ClassSummary, class_table, describe_learned
from policyengine.cli.commands.behavior.release import planned_at
from policyengine.cli.errors import CommandError
from policyengine.cli.options.behavior import LearningPolicies, warn_of_profiles
from policyengine.cli.options.behavior_store import OpenedStore, find_stored_caller, open_learned, warn_of_refused
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize
from policyengine.time_formats import format_duration

MAX_SHOWN = 10  # maximum number of shown keys of damaged callers; JSON has all keys

if TYPE_CHECKING:
    from policyengine.behavior.model import BehaviorModel
    from policyengine.behavior.operator_store import StoredVersion
    from policyengine.behavior.releases import ClassRelease


def show_stored(
    url: str,
    name: str | None,
    issuer: str | None,
    instance: str | None,
    known: LearningPolicies,
    format: OutputFormat,
) -> int:
    """Show the classes in a store, or the caller with this name. Raises CommandError."""
    if name is None and instance is not None:
        message = "a store contains no names: `--instance` needs a caller"
        raise CommandError("usage", message, "write `behavior show CALLER --instance NAME`", code=2)
    with open_learned(url) as opened, show_progress("reading the store"):
        planned, model = opened.learned.load_releases(), opened.learned.load_model()
        if name is None:
            found = opened.learned.load_state(model, known.settings_of)
        else:
            caller = find_stored_caller(opened.learned, name, issuer, instance, model)
            versions = opened.learned.find(caller, known.settings_of)
    warn_of_refused(planned)
    releases = planned_at(planned.releases, datetime.now(UTC))
    as_json = format is OutputFormat.JSON
    if name is None:
        classes = [one for one in describe_learned(found[0], known.settings_of) if issuer in (None, one.issuer)]
        show_classes(opened.shown, found[1], classes, model, releases, known, as_json=as_json)
    else:
        show_versions(opened, versions, model, releases, known, as_json=as_json)
    return 0


def show_classes(
    shown: str,
    damaged: Sequence[str],
    classes: Sequence[ClassSummary],
    model: BehaviorModel,
    releases: Sequence[ClassRelease],
    known: LearningPolicies,
    *,
    as_json: bool,
) -> None:
    """Print the classes in a store, and warn about its damaged callers, which are left out, by their keys."""
    total = sum(one.callers for one in classes)
    if damaged:
        Screen(sys.stderr).warn(describe_damaged(damaged))
    warn_of_profiles(known.engine, (one.group for one in classes))
    if as_json:
        print_json({
            "store": shown, **describe_model(model), "total": total, "callers": [], "damaged": list(damaged),
            "classes": [one.to_dict() for one in classes], "groups": list(map(describe_group, model.content.groups)),
            "releases": list(map(release_dict, releases)),
        })  # fmt: skip
        return
    screen = Screen()
    if classes:
        screen.table(class_table(classes), whole=True)
    else:
        screen.line("nothing is known about any caller yet")
    if model.content.serial:
        learned = datetime.fromtimestamp(model.content.made / 1_000, UTC)
        age = format_age(datetime.now(UTC) - learned)
        show_groups(screen, model)
        screen.line(f"model {model.content.serial}, learned {format_milliseconds(model.content.made)}, {age} ago")
    show_releases(screen, releases)


def describe_damaged(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:MAX_SHOWN]) + (f" and {len(keys) - MAX_SHOWN} more" if len(keys) > MAX_SHOWN else "")
    facts = "whose facts are unknown until they are forgotten"
    return f"left out {pluralize(len(keys), 'damaged caller')}, {facts} (`behavior forget KEY`): {shown}"


def format_age(age: timedelta) -> str:
    """Return an age in whole days, hours or minutes."""
    units = (unit for unit in (timedelta(days=1), timedelta(hours=1)) if age >= unit)
    unit = next(units, timedelta(minutes=1))
    return format_duration(max(age, timedelta()) // unit * unit)


def show_versions(
    opened: OpenedStore,
    versions: Sequence[StoredVersion],
    model: BehaviorModel,
    releases: Sequence[ClassRelease],
    known: LearningPolicies,
    *,
    as_json: bool,
) -> None:
    """Show the versions of a caller in a store."""
    from policyengine.behavior.state import CallerRow

    rows = {one.caller: CallerRow(one.group or "", one.row) for one in versions}
    state, endpoints = opened.learned.state_of(model, rows), known.endpoints(opened.learned.keys.tagger)
    details = [
        {**describe_row(state, one.caller, known.settings_of, endpoints), "class": one.group} for one in versions
    ]
    if as_json:
        print_json({"store": opened.shown, "callers": details, "releases": list(map(release_dict, releases))})
        return
    screen = Screen()
    classes = {(one.issuer, one.group): one for one in describe_learned(state, known.settings_of)}
    show_details(screen, details, list(rows), known, lambda one: show_stored_class(screen, classes[one]))
    show_releases(screen, releases)


def show_stored_class(screen: Screen, found: ClassSummary) -> None:
    """Print the model of a class. How many callers the class has is left out, because counting them would read every
    row of the store.
    """
    model = found.model
    screen.line(
        f"  its class is {'ready' if model.is_ready else 'not ready'}: {pluralize(model.runs, 'run')} of "
        f"{pluralize(model.callers, 'caller')}, {pluralize(len(model.seen), 'endpoint')}"
    )
    screen.line(f"  margins {found.margins}; burst {found.burst}")

"""`policyengine behavior show`: show what is known about callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.commands.behavior.caller_details import (
    describe_group,
    describe_model,
    describe_row,
    release_dict,
    show_class,
    show_details,
    show_groups,
    show_releases,
)
from policyengine.cli.commands.behavior.learn import describe_learned
from policyengine.cli.commands.behavior.release import planned_at
from policyengine.cli.commands.behavior.show_store import show_stored
from policyengine.cli.options.behavior import (
    InstanceName,
    IssuerName,
    KnownFolder,
    LearningPolicies,
    PolicyPaths,
    find_caller,
    load_learning_policies,
    load_state,
    open_folder,
    report_folder_errors,
    warn_of_profiles,
)
from policyengine.cli.options.behavior_store import SharedStoreUrl, check_place
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.behavior.events import Caller
    from policyengine.behavior.state import BehaviorState


class CallerOrder(StrEnum):
    """The order of callers: by last request, by lowest trust, …"""

    SEEN = "seen"
    TRUST = "trust"
    NOVELTY = "novelty"
    ERRORS = "errors"
    NAME = "name"


def show(
    behavior: KnownFolder = None,
    store: SharedStoreUrl = None,
    caller: Annotated[
        str | None, typer.Argument(metavar="CALLER", help="The name of an agent.", show_default=False)
    ] = None,
    issuer: IssuerName = None,
    instance: InstanceName = None,
    policies: PolicyPaths = None,
    sort: Annotated[
        CallerOrder, typer.Option("--sort", help="Sort by the last request, or put the most conspicuous first.")
    ] = CallerOrder.SEEN,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Show N callers; 0 shows all.")] = 50,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Show what is known about the behavior of callers.

    Without a caller, the command prints a table of all callers; with a caller, it prints everything that is known about
    the caller and its class. While a server runs, the command shows the state that the server saved last, at most a
    minute ago. Names of endpoints are not stored: with `--policies`, endpoints that the policies declare are shown by
    name.

    A store contains no names of callers, so without a caller, the command prints a table of the classes in the store.

    \b
    Exit codes:
      0  shown
      1  the folder or the store cannot be read, or nothing is known about the caller
      2  wrong usage

    \b
    Example:
      policyengine behavior show --behavior decisions.jsonl.behavior --sort trust
      policyengine behavior show report-1 --behavior decisions.jsonl.behavior --policies payments/
      policyengine behavior show report-1 --issuer acme --store redis://127.0.0.1:6379
    """
    from policyengine.behavior.operator_files import load_releases

    check_place(behavior, store)
    if behavior is None:
        return show_stored(store or "", caller, issuer, instance, load_learning_policies(policies), format)
    folder, known = open_folder(behavior), load_learning_policies(policies)
    with show_progress("reading the folder"):
        state = load_state(folder)
    with report_folder_errors(behavior):
        releases = planned_at(load_releases(folder), datetime.now(UTC))
    if caller is not None:
        found = find_caller(state, caller, issuer, instance)
        details = [describe_row(state, one, known.settings_of, known.endpoints(folder.tagger)) for one in found]
        if format is OutputFormat.JSON:
            print_json({"folder": str(behavior), "callers": details, "releases": list(map(release_dict, releases))})
            return 0
        classes = {(one.issuer, one.group): one for one in describe_learned(state, known.settings_of)}
        show_details(Screen(), details, found, known, lambda one: show_class(Screen(), classes[one]))
    else:
        rows = sorted(
            (each for each in state.rows if issuer in (None, each.issuer) and instance in (None, each.instance)),
            key=lambda each: order_of(sort, state, each),
        )
        shown = [describe_row(state, one, known.settings_of, None) for one in (rows[:limit] if limit else rows)]
        if format is OutputFormat.JSON:
            print_json({
                "folder": str(behavior), **describe_model(state.model), "total": len(rows), "callers": shown,
                "classes": [one.to_dict() for one in describe_learned(state, known.settings_of)],
                "groups": list(map(describe_group, state.model.content.groups)),
                "releases": list(map(release_dict, releases)),
            })  # fmt: skip
            return 0
        show_table(Screen(), shown, len(rows), known)
        show_groups(Screen(), state.model)
    show_releases(Screen(), releases)
    return 0


def order_of(sort: CallerOrder, state: BehaviorState, caller: Caller) -> tuple[object, ...]:
    """Return the sort key of a caller."""
    row = state.rows[caller].row
    match sort:
        case CallerOrder.SEEN:
            return -row.level_at, caller
        case CallerOrder.TRUST:
            return row.trust, caller
        case CallerOrder.NOVELTY:
            return -row.novelty, caller
        case CallerOrder.ERRORS:
            return -row.errors, caller
        case CallerOrder.NAME:
            return caller.agent, caller


def show_table(screen: Screen, shown: Sequence[Mapping[str, Any]], total: int, known: LearningPolicies) -> None:
    warn_of_profiles(known.engine, (one["class"] for one in shown))
    if not total:
        screen.line("nothing is known about any caller yet")
        return
    heads = ["caller", "issuer", "class", "ready", "runs", "days", "trust", "novelty", "errors", "last seen"]
    rows = [
        [name_of(one), one["issuer"] or "-", one["class"] or "-", "yes" if one["ready"] else "no", f"{one['runs']:,}",
         str(one["active_days"]), *(f"{one[name]:.3f}" for name in ("trust", "novelty", "error_rate")),
         one["last_seen"]]
        for one in shown
    ]  # fmt: skip
    screen.table([heads, *rows], whole=True)
    if total > len(shown):
        screen.line(f"and {pluralize(total - len(shown), 'more caller')}: `--limit 0` shows all")


def name_of(found: Mapping[str, Any]) -> str:
    return "/".join(part for part in (found["agent"], found["instance"], found["version"]) if part)

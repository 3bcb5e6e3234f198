"""`policyengine behavior suggest`: propose profiles with the order of recorded calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.atomic_write import refuse_to_replace_log, write_file
from policyengine.cli.commands.behavior.evaluate import check_files, report_traffic_errors
from policyengine.cli.commands.suggest import check_policies, refuse_to_overwrite
from policyengine.cli.errors import CommandError
from policyengine.cli.options.behavior import load_learning_policies
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.line_warnings import LineWarnings
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.analysis.call_orders.call_reader import CallReader
    from policyengine.analysis.call_orders.policy_text import ProfileWriter, SuggestedProfile
    from policyengine.analysis.call_orders.run_collector import RunCollector
    from policyengine.analysis.call_orders.run_rules import RunRule
    from policyengine.analysis.call_orders.suggestion import MissingOrder, OrderFinder, OrderSuggestion
    from policyengine.behavior.reader import BehaviorReader
    from policyengine.check import CheckResult

LEAST_SUPPORT = 0.5


def suggest(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG",
            help="Decision logs, each with its rotated files, packed logs, or files of plain events.",
            show_default=False,
        ),
    ],
    policies: Annotated[
        list[Path] | None,
        typer.Option(
            "--policies", metavar="PATH", help="Policies, or folders of them; may be repeated.", show_default=False
        ),
    ] = None,
    support: Annotated[
        float,
        typer.Option("--support", metavar="SHARE", help="Share of the runs that must follow an order, from 0.5 to 1."),
    ] = 0.95,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write the policy to.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Propose profiles with the order of recorded calls.

    For each class of callers, the command finds what separates its runs most regularly (`task.id`, another fact of the
    requests, or a pause), and the order of calls that the runs follow. All runs are replayed with that order, and the
    comment above each profile states how many follow it; the most frequent exceptions are listed. An order is not
    proposed if too few runs or only one agent follow it, or if it also accepts most of these runs with their calls in
    another order. If a guard reads `behavior.sequence`, the proposal has tests. Review it: nothing is enforced until
    you add the profile to the policies.

    The traffic consists of decision logs, or of files with one JSON object per line, as for `behavior evaluate`.
    Without policies, the classes and endpoints are those that the log names.

    \b
    Exit codes:
      0  done, even if no order is proposed
      1  a file cannot be read or written, or a policy has an error
      2  wrong usage

    \b
    Example:
      policyengine behavior suggest decisions.jsonl --policies payments/
      policyengine behavior suggest decisions.jsonl --policies payments/ -o payments/orders.policy
    """
    from policyengine.analysis.call_orders.call_reader import CallReader
    from policyengine.analysis.call_orders.order_replay import StepReader
    from policyengine.analysis.call_orders.policy_text import ProfileWriter
    from policyengine.analysis.call_orders.run_collector import RunCollector
    from policyengine.analysis.call_orders.suggestion import OrderFinder
    from policyengine.check import check

    if not LEAST_SUPPORT <= support <= 1:
        raise CommandError("usage", "`--support` takes a share from 0.5 to 1", "write `--support 0.95`", code=2)
    if output is not None:
        refuse_to_overwrite(output, policies or [], force)
        refuse_to_replace_log(output, logs)
    modules, checked = check_policies(policies) if policies else ([], check([]))
    reader = learning_reader(policies)
    calls, skipped = CallReader(reader), LineWarnings()
    collector = RunCollector({} if reader is None else declared_rules(reader, checked))
    with report_traffic_errors(logs[0]):
        check_files(logs)
        with show_progress("reading the traffic"):
            for call in calls.read(logs, skipped):
                collector.add(call)
    skipped.show()
    warn_of_omissions(calls, collector)
    with show_progress("finding orders"):
        writer = ProfileWriter(modules, checked, calls.endpoints, calls.credentials)
        finder = OrderFinder(calls.endpoints, StepReader(checked.program, writer.kernel.package), support)
        found = [finder.find(group, runs) for group, runs in sorted(collector.classes.items())]
    with report_traffic_errors(logs[0]):
        found = recount_sampled(found, finder, logs, CallReader(reader, calls.endpoints))
    with show_progress("checking the profiles"):
        profiles, missing = write_profiles(writer, found)
    text = writer.text(profiles, missing)
    is_written = output is not None and bool(profiles)
    if output is not None and profiles:
        write_file(output, text)
    if format is OutputFormat.JSON:
        print_json({
            **({"file": str(output)} if is_written else {}), "calls": calls.calls, "support": support,
            "suggestions": [profile_members(one) for one in profiles],
            "without_order": [one.to_dict() for one in missing], "policy": text if profiles else "",
        })  # fmt: skip
    elif output is None:
        Screen().plain(text)
    else:
        show_written(output, profiles, missing)
    return 0


def learning_reader(paths: Sequence[Path] | None) -> BehaviorReader | None:
    from policyengine.behavior.events import Tagger
    from policyengine.behavior.state import BehaviorState

    return load_learning_policies(paths).reader(BehaviorState(Tagger(b"suggest")))


def declared_rules(reader: BehaviorReader, checked: CheckResult) -> dict[str, RunRule]:
    """Return the rules that separate the runs of classes, for the profiles that declare such a rule."""
    from policyengine.analysis.call_orders.run_rules import DEFAULT_IDLE, RunRule

    assert checked.kernel is not None
    found: dict[str, RunRule] = {}
    for profile in checked.kernel.profiles:
        group = f"profile {profile.name}"
        key, idle = reader.classes.profile_of(group).run_key, reader.classes.settings_of(group).run_idle
        if key is not None or idle != DEFAULT_IDLE:
            found[group] = RunRule(None if key is None else key.path, idle)
    return found


def warn_of_omissions(calls: CallReader, collector: RunCollector) -> None:
    screen = Screen(sys.stderr)
    texts = {
        "decisions that do not state the class of their caller (name the policies with `--policies`)": (
            calls.logs.unknown
        ),
        "calls of further classes, which are left out": collector.further,
    }
    for text, count in texts.items():
        if count:
            screen.warn(f"{text}: {count:,}")


def recount_sampled(
    found: Sequence[OrderSuggestion | MissingOrder], finder: OrderFinder, logs: Sequence[Path], calls: CallReader
) -> list[OrderSuggestion | MissingOrder]:
    """Read the traffic again if the runs of a class are so different that not all were replayed."""
    from policyengine.analysis.call_orders.order_replay import OrderCounter
    from policyengine.analysis.call_orders.suggestion import OrderSuggestion

    sampled = {one.group: one for one in found if isinstance(one, OrderSuggestion) and one.is_sampled}
    if not sampled:
        return list(found)
    counters = {group: OrderCounter(one.rule, one.order) for group, one in sampled.items()}
    with show_progress("counting all runs"):
        for call in calls.read(logs, lambda message: None):
            if call.group in counters:
                counters[call.group].add(call)
    counted = {group: finder.recount(one, counters[group]) for group, one in sampled.items()}
    return [counted.get(one.group, one) for one in found]


def write_profiles(
    writer: ProfileWriter, found: Sequence[OrderSuggestion | MissingOrder]
) -> tuple[list[SuggestedProfile], list[MissingOrder]]:
    """Return the profiles, with tests that pass, and the classes without an order."""
    from policyengine.analysis.call_orders.suggestion import MissingOrder, OrderSuggestion

    profiles, refused = writer.profiles([one for one in found if isinstance(one, OrderSuggestion)])
    missing = [*(one for one in found if isinstance(one, MissingOrder)), *refused]
    return [with_passing_tests(writer, profiles, number) for number in range(len(profiles))], missing


def with_passing_tests(writer: ProfileWriter, profiles: Sequence[SuggestedProfile], number: int) -> SuggestedProfile:
    """Return a profile with its tests if they pass with one of the effects that the policies have, otherwise without
    tests."""
    from policyengine.testing import collect, run

    for refusal in writer.refusals:
        tested = writer.with_refusal(profiles[number], refusal)
        if tested is None:
            break
        checked = writer.check([*profiles[:number], tested, *profiles[number + 1 :]])
        if checked.kernel is not None and run(collect(checked), checked.kernel).ok:
            return tested
    return profiles[number]


def profile_members(found: SuggestedProfile) -> dict[str, Any]:
    return {
        "profile": found.name, "agents_of": found.head, "replaces": found.replaces,
        "tests": found.refusal is not None, **found.suggestion.to_dict(),
    }  # fmt: skip


def show_written(output: Path, profiles: Sequence[SuggestedProfile], missing: Sequence[MissingOrder]) -> None:
    screen = Screen()
    for profile in profiles:
        found = profile.suggestion
        screen.line(
            f"profile {profile.name}: {found.accepted:,} of {pluralize(found.runs, 'run')} follow {found.words}"
        )
    for order in missing:
        screen.line(f"no order for {order.group}: {order.why}")
    for profile in profiles:
        if profile.replaces is not None:
            screen.line(f"profile {profile.name} is to replace the profile at {profile.replaces}")
    if profiles:
        screen.line(f"wrote {output}: review it, then `policyengine check`")
    else:
        screen.line(f"{output} is not written")

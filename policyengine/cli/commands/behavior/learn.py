"""`policyengine behavior learn`: learn the behavior of callers from decision logs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, assert_never

import typer

from policyengine.cli.commands.behavior.learning_warnings import jump_listener, warn_of_attacks, warn_of_gaps
from policyengine.cli.commands.behavior.report import parse_since
from policyengine.cli.errors import CommandError, log_error
from policyengine.cli.log_input import check_log
from policyengine.cli.options.audit_query import Logs
from policyengine.cli.options.behavior import (
    LearningPolicies,
    PolicyPaths,
    load_learning_policies,
    load_state,
    lock_folder,
    open_folder,
    report_folder_errors,
)
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.line_warnings import LineWarnings
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.behavior.bulk.line_filter import LearnedPeriod, LogTally
    from policyengine.behavior.fold import ProfileSettings
    from policyengine.behavior.model import ClassModel
    from policyengine.behavior.model_watch import DayJump
    from policyengine.behavior.state import BehaviorState


class LearningPlace(StrEnum):
    """The program that learns from logs: this process alone, this process with DuckDB, or Spark."""

    THREAD = "thread"
    DUCKDB = "duckdb"
    SPARK = "spark"


def learn(
    logs: Logs,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The folder for learned behavior; if it exists, learning continues there.",
            show_default=False,
        ),
    ],
    policies: PolicyPaths = None,
    on: Annotated[
        LearningPlace,
        typer.Option("--on", help="How to learn: in this process, with DuckDB, or with Spark. The result is the same."),
    ] = LearningPlace.THREAD,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Learn only from decisions from this time on: `2026-12-01`, or `7d` for a week ago.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="Learn only from decisions before this time, for example before an attack.",
            show_default=False,
        ),
    ] = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Learn the behavior of callers from decision logs.

    The folder then has the rows of the callers and a signed model of their classes, and `serve --behavior FOLDER`
    continues with both. Decisions that the folder already contains are left out, so the same log can be passed again.
    Several logs are read together, in order of time.

    With policies, callers and classes are those of the policies, and profiles determine how to learn. Policies are
    required for decisions that were made by policies without learned facts.

    \b
    Exit codes:
      0  learned
      1  a file cannot be read or written, or is not a decision log, or a running server uses the folder
      2  wrong usage

    \b
    Example:
      policyengine behavior learn decisions.jsonl --policies payments/ -o decisions.jsonl.behavior
      policyengine behavior learn decisions.jsonl --policies payments/ -o learned --until 2026-12-01
    """
    from policyengine.behavior.learn_logs import save_state

    for log in logs:
        check_log(log)
    check_place(on)
    period = parse_period(since, until)
    known = load_learning_policies(policies)
    folder = open_folder(output, create=True)
    held, skipped = lock_folder(folder), LineWarnings()
    jumps: list[DayJump] = []
    try:
        state = load_state(folder)
        state.on_model = jump_listener(jumps)
        try:
            with show_progress("learning from the log"), report_bulk_errors(on):
                counts = learn_logs(logs, on, known, policies or [], state, skipped, period)
        except OSError as error:
            raise log_error(logs[0], error) from None
        if counts.learned:
            with report_folder_errors(output), show_progress("writing the folder"):
                save_state(folder, state)
    finally:
        os.close(held)
    skipped.show()
    warn_of_gaps(counts, known, state)
    warn_of_attacks(state, known, jumps)
    found = describe_learned(state, known.settings_of)
    if format is OutputFormat.JSON:
        print_json({
            "folder": str(output), "model": state.model.digest, "decisions": counts.decisions,
            "learned": counts.learned, "known": counts.known, "late": counts.late, "future": counts.future,
            "outside": counts.outside,
            "unidentified": counts.unidentified, "without_class": counts.unknown, "skipped_lines": skipped.count,
            "callers": len(state.rows), "ready": sum(one.ready for one in found),
            "classes": [one.to_dict() for one in found],
        })  # fmt: skip
        return 0
    show_learned(Screen(), counts, state, found)
    Screen().line(f"wrote {output}" if counts.learned else f"nothing new was learned: {output} is unchanged")
    return 0


def check_place(on: LearningPlace) -> None:
    """Check that the program that learns is installed. Raises CommandError."""
    from policyengine.behavior.bulk.event_table import check_duckdb
    from policyengine.behavior.bulk.spark_session import check_spark

    with report_bulk_errors(on):
        match on:
            case LearningPlace.THREAD:
                pass
            case LearningPlace.DUCKDB:
                check_duckdb()
            case LearningPlace.SPARK:
                check_spark()
            case _:
                assert_never(on)


def parse_period(since: str | None, until: str | None) -> LearnedPeriod:
    """Return the period from which decisions are learned. Raises CommandError."""
    from policyengine.behavior.bulk.line_filter import ALL_TIMES, LearnedPeriod

    begin = ALL_TIMES.since if since is None else parse_milliseconds(since)
    end = ALL_TIMES.until if until is None else parse_milliseconds(until)
    if begin >= end:
        message = "the time of `--since` is not before that of `--until`"
        raise CommandError("usage", message, "no decision is between these times", code=2)
    return LearnedPeriod(begin, end)


def parse_milliseconds(text: str) -> int:
    return parse_since(text) // 1_000


@contextmanager
def report_bulk_errors(on: LearningPlace) -> Iterator[None]:
    """Convert a BulkError to a CommandError."""
    from policyengine.behavior.bulk.bulk_error import BulkError

    try:
        yield
    except BulkError as error:
        message = f"cannot learn with `--on {on.value}`: {error.message}"
        raise CommandError("behavior", message, error.hint, (("on", on.value),)) from None


def learn_logs(
    logs: Sequence[Path],
    on: LearningPlace,
    known: LearningPolicies,
    policies: Sequence[Path],
    state: BehaviorState,
    tell: Callable[[str], None],
    period: LearnedPeriod,
) -> LogTally:
    """Learn from logs into a state, and return the counts of learned decisions and of those left out. Raises BulkError,
    OSError."""
    from policyengine.behavior.bulk.line_filter import LineFilter
    from policyengine.behavior.bulk.log_lines import LineDecoder, read_learned
    from policyengine.behavior.learn_logs import known_times, learn_lines
    from policyengine.clock import epoch_microseconds, utc_now

    now = epoch_microseconds(utc_now()) // 1_000
    if on is LearningPlace.SPARK:
        from policyengine.behavior.bulk.spark_learner import learn_on_spark
        from policyengine.behavior.bulk.spark_partitions import WorkerSetup
        from policyengine.behavior.bulk.spark_session import open_session

        paths = tuple(str(path.absolute()) for path in policies)
        with open_session() as session:
            setup = WorkerSetup(load_policies_of, paths, state.tagger.key, state.tags, period)
            return learn_on_spark(session, logs, setup, state, now, tell)
    filter = LineFilter(known_times(state), now, period)
    lines = read_learned(logs, LineDecoder(known.reader(state), known.revision), tell)
    if on is LearningPlace.DUCKDB:
        from policyengine.behavior.bulk.duckdb_learner import learn_with_duckdb

        learn_with_duckdb(lines, filter, state, known.settings_of)
    else:
        learn_lines(lines, filter, state, known.settings_of)
    return filter.tally


def load_policies_of(paths: tuple[str, ...]) -> LearningPolicies:
    """Load policies in a process of Spark. Raises CommandError."""
    return load_learning_policies([Path(path) for path in paths])


class ClassSummary(NamedTuple):
    """A class: the number of its callers and of those that are ready, the settings of its profile, and its model."""

    issuer: str
    group: str
    callers: int
    ready: int
    settings: ProfileSettings
    model: ClassModel

    def to_dict(self) -> dict[str, Any]:
        model = self.model
        margins = {"slow": model.margin_slow / 1_024, "fast": model.margin_fast / 1_024} if model.has_margins else None
        return {
            "issuer": self.issuer, "class": self.group, "callers": self.callers, "ready": self.ready,
            "class_ready": model.is_ready, "runs": model.runs, "teaching": model.callers, "endpoints": len(model.seen),
            "margins": margins, "caller_days": model.days, "burst_once_in_days": self.settings.burst_days,
            "calibrated": model.declared,
        }  # fmt: skip

    @property
    def burst(self) -> str:
        """The rate of false alarms of bursts in words, and whether the model is calibrated for it."""
        from policyengine.behavior.learn import days_to_calibrate

        if not self.model.has_margins:
            return f"none yet: {pluralize(self.model.days, 'caller-day')} of 20"
        rate = f"once in {self.settings.burst_days}d"
        if self.model.declared:
            return f"{rate}, calibrated"
        needed = days_to_calibrate(self.settings.burst_days)
        return f"not yet {rate}: {pluralize(self.model.days, 'caller-day')} of {needed:,}"

    @property
    def margins(self) -> str:
        """The two margins in words."""
        model = self.model
        return f"× {model.margin_slow / 1_024:.2f}, × {model.margin_fast / 1_024:.2f}" if model.has_margins else "-"


def describe_learned(state: BehaviorState, settings_of: Any) -> list[ClassSummary]:
    """Return the classes of a state, in the order of their names."""
    from policyengine.behavior.fold import is_ready

    callers: Counter[tuple[str, str]] = Counter()
    ready: Counter[tuple[str, str]] = Counter()
    for caller, found in state.rows.items():
        name = caller.issuer, found.group
        callers[name] += 1
        ready[name] += state.model.class_of(name).is_ready and is_ready(found.row, settings_of(found.group))
    return [
        ClassSummary(*name, callers[name], ready[name], settings_of(name[1]), state.model.class_of(name))
        for name in sorted(callers)
    ]


def show_learned(
    screen: Screen,
    counts: LogTally,
    state: BehaviorState,
    classes: Sequence[ClassSummary],
) -> None:
    rest = [
        ("already known", counts.known), ("about no caller", counts.unidentified),
        ("outside the period", counts.outside),
    ]  # fmt: skip
    also = "".join(f", {count:,} {what}" for what, count in rest if count)
    ready = sum(one.ready for one in classes)
    screen.line(f"learned {counts.learned:,} of {pluralize(counts.decisions, 'decision')}{also}")
    screen.line(f"{pluralize(len(state.rows), 'caller')}, {ready:,} of them ready")
    if classes:
        screen.table(class_table(classes), whole=True)


def class_table(classes: Sequence[ClassSummary]) -> list[list[str]]:
    """Return a table of classes, with headings."""
    heads = ["class", "issuer", "callers", "ready", "runs", "endpoints", "margins", "burst"]
    rows = [
        [one.group or "-", one.issuer or "-", f"{one.callers:,}", f"{one.ready:,}", f"{one.model.runs:,}",
         f"{len(one.model.seen):,}", one.margins, one.burst]
        for one in classes
    ]  # fmt: skip
    return [heads, *rows]

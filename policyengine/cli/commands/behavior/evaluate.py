"""`policyengine behavior evaluate`: how well learned facts distinguish abusive runs from normal runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from policyengine.cli.errors import CommandError, file_error, log_error
from policyengine.cli.log_input import check_log
from policyengine.cli.options.behavior import PolicyPaths, load_learning_policies, warn_of_profiles
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.line_warnings import LineWarnings
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.behavior.evaluation.figures import Evaluation, FigureSet

EVALUATION_KEY = b"evaluation"  # the key for tags of names; the tags are not stored
COLUMNS: Final[Mapping[str, str]] = {
    "auc": "auc",
    "ties": "ties",
    "tpr_at_1": "at 1 %",
    "tpr_at_0_1": "at 0.1 %",
    "declared": "declared",
    "observed": "observed",
    "events_until_detection": "events",
}
FORMAT_HINT = "docs/behavior.md describes the lines of events and labels"


def evaluate(
    training: Annotated[
        list[Path],
        typer.Option(
            "--train", metavar="FILE", help="Logs or events of earlier traffic; may be repeated.", show_default=False
        ),
    ],
    test: Annotated[
        list[Path],
        typer.Option(
            "--test", metavar="FILE", help="Logs or events of later traffic; may be repeated.", show_default=False
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option("--labels", metavar="FILE", help="The label of each run of the test traffic.", show_default=False),
    ],
    policies: PolicyPaths = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Measure how well learned facts find abuse.

    The command learns from the training traffic, and then scores each run of the test traffic for each fact. It
    compares the scores of the runs with the label `normal` with the scores of all other runs. The traffic consists of
    decision logs, or of files with one JSON object per line: `{"at", "issuer", "agent", "run", "endpoint", "status"}`.
    A line of labels is `{"run", "label"}`, with `issuer` and `agent` if runs of several callers have the same name.

    \b
    Exit codes:
      0  measured, with any result
      1  a file cannot be read, or a line of events or labels cannot be used
      2  wrong usage

    \b
    Example:
      policyengine behavior evaluate --train may.jsonl --test june.jsonl --labels june-labels.jsonl --policies payments/
    """
    from policyengine.behavior.evaluation.figures import evaluate_runs
    from policyengine.behavior.evaluation.runs import score_traffic, train
    from policyengine.behavior.evaluation.traffic import RunLabels, read_labels, read_traffic
    from policyengine.behavior.events import Tagger
    from policyengine.behavior.log_events import LogEventReader
    from policyengine.behavior.plain_event_reader import PlainEventReader
    from policyengine.behavior.state import BehaviorState

    known, skipped = load_learning_policies(policies), LineWarnings()
    state = BehaviorState(Tagger(EVALUATION_KEY))
    reader = known.reader(state)
    with report_traffic_errors(labels):
        named = RunLabels(read_labels(labels))
    with report_traffic_errors(training[0]):
        check_files([*training, *test])
        logs, plain = LogEventReader(reader, names=True), PlainEventReader(reader, state.tagger)
        with show_progress("learning the training traffic"):
            events, late = train(read_traffic(training, logs, plain, skipped), state, known.settings_of)
        callers = len(state.rows)
        with show_progress("scoring the test traffic"):
            scored = score_traffic(read_traffic(test, logs, plain, skipped), state, known.settings_of)
    with report_traffic_errors(labels):
        matched = named.match(scored.runs)
    found = evaluate_runs(scored, matched, state.model, known.settings_of)
    skipped.show()
    warn_of_profiles(known.engine, {row.group for row in state.rows.values()})
    counts = {
        "training_events": events, "training_callers": callers, "test_events": scored.events, "normal": found.normal,
        "kinds": found.kinds, "unlabelled": found.unlabelled, "labels_without_run": len(named) - len(matched),
        "events_without_run": scored.without_run, "late": late + scored.late, "without_class": logs.unknown,
        "class_ready": any(one.is_ready for one in state.model.content.classes),
    }  # fmt: skip
    if format is OutputFormat.JSON:
        facts = {name: one.to_dict() for name, one in found.facts.items()}
        print_json({**counts, "facts": facts, "all": found.together.to_dict()})
        return 0
    show_counts(Screen(), counts)
    show_figures(Screen(), found)
    return 0


@contextmanager
def report_traffic_errors(file: Path) -> Iterator[None]:
    """Convert a TrafficError, PackedLogError or OSError to a CommandError."""
    from policyengine.audit.packed_log import PackedLogError
    from policyengine.behavior.evaluation.traffic import TrafficError

    try:
        yield
    except TrafficError as error:
        raise CommandError("events", str(error), FORMAT_HINT) from None
    except PackedLogError as error:
        raise log_error(error.filename or file, error) from None
    except OSError as error:
        raise file_error(error.filename or file, error) from None


def check_files(files: list[Path]) -> None:
    """Check the files that have the form of a decision log. Raises CommandError, OSError."""
    from policyengine.behavior.evaluation.traffic import is_log

    for file in files:
        if is_log(file):
            check_log(file)


# ── Text ──────────────────────────────────────────────────────────────────────────────────────


def show_counts(screen: Screen, counts: Mapping[str, Any]) -> None:
    kinds = ", ".join(f"{count:,} {name}" for name, count in counts["kinds"].items())
    abusive = sum(counts["kinds"].values())
    screen.line(
        f"learned from {pluralize(counts['training_events'], 'event')} of "
        f"{pluralize(counts['training_callers'], 'caller')}"
    )
    runs = f"{pluralize(counts['normal'], 'normal run')}, {abusive:,} others{f' ({kinds})' if kinds else ''}"
    screen.line(f"tested on {pluralize(counts['test_events'], 'event')}: {runs}")
    for text in doubts(counts):
        Screen(sys.stderr).warn(text)


def doubts(counts: Mapping[str, Any]) -> Iterator[str]:
    if not counts["class_ready"]:
        yield "no class is ready after the training, so every fact is neutral: train on more runs and callers"
    texts = {
        "unlabelled": "runs of the test traffic that have no label, and are not counted",
        "labels_without_run": "labels of runs that the test traffic does not have",
        "events_without_run": "events of the test traffic that belong to no run, and are learned but not scored",
        "late": "events dated more than a day before a preceding event of their caller, and left out",
        "without_class": "decisions that do not state the class of their caller (name the policies with `--policies`)",
    }
    for name, text in texts.items():
        if counts[name]:
            yield f"{text}: {counts[name]:,}"


def show_figures(screen: Screen, found: Evaluation) -> None:
    heads = ["fact", *COLUMNS.values()]
    together = {**found.facts, "all": found.together}
    screen.table([heads, *([name, *cells(one)] for name, one in together.items())], whole=True)
    if len(found.kinds) > 1:
        screen.line()
        rows = [
            [kind, name, *cells(one.kinds[kind])[:4], cells(one.kinds[kind])[-1]]
            for kind in found.kinds
            for name, one in together.items()
        ]
        screen.table([["kind", *heads[:5], heads[-1]], *rows], whole=True)
    notes = list(explain_gaps(together))
    if notes:
        screen.line()
    for note in notes:
        screen.line("- ", note)


def explain_gaps(figures: Mapping[str, FigureSet]) -> Iterator[str]:
    """Yield the reasons why figures are missing: one text for each column and reason, with the facts that lack the
    figure."""
    for column, head in COLUMNS.items():
        facts: dict[str, list[str]] = {}
        for fact, found in figures.items():
            if column in found.reasons:
                facts.setdefault(found.reasons[column], []).append(fact)
        for why, names in facts.items():
            of = "" if len(names) == len(figures) else f" of {', '.join(names)}"
            yield f"`{head}`{of}: {why}"


def cells(found: FigureSet) -> list[str]:
    """Return the cells of a row of figures; `-` stands for a figure that is missing."""
    values = {name: found.values.get(name) for name in COLUMNS}
    return [
        "-" if value is None else f"{value:g}" if name.startswith("events") else f"{value:.3f}"
        for name, value in values.items()
    ]

"""`policyengine simulate`: simulate traffic against the rates and budgets of a policy, under a virtual clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.bounded_files import read_lines
from policyengine.cli.atomic_write import refuse_to_replace_log
from policyengine.cli.errors import CommandError, log_error, short_log_messages
from policyengine.cli.options.common import EntitySources, PoliciesOrBundle, TrustedKeys
from policyengine.cli.options.simulate import (
    CallerCount,
    ChartFormat,
    ChartFormatOption,
    Learn,
    Output,
    RequestRate,
    Seed,
    SeriesInterval,
    Start,
    TraceFile,
    TrafficDuration,
    VaryFact,
    Workflow,
    WorkflowRequests,
)
from policyengine.cli.output.terminal import Screen, is_ascii_only, json_text, show_progress
from policyengine.cli.output.text_file import write_text_file
from policyengine.cli.request_input import MAX_REQUEST_BYTES, STDIN, describe_place
from policyengine.cli.run_simulation import SimulateCommand, WorkflowTraffic
from policyengine.control_characters import one_line

if TYPE_CHECKING:
    from policyengine.simulation import Series, SimulationResult, TrafficEvent

MIN_COLUMNS, MAX_COLUMNS, LABEL_COLUMNS = 20, 100, 42  # widths of blocks, and of the labels next to them
PIPE_COLUMNS = 60


SUFFIXES = {f".{picture.value}": picture for picture in ChartFormat} | {".htm": ChartFormat.HTML}


def simulate(
    paths: PoliciesOrBundle,
    trace: TraceFile = None,
    workflow: Workflow = None,
    request: WorkflowRequests = None,
    rate: RequestRate = "1/s",
    callers: CallerCount = None,
    vary: VaryFact = None,
    lasting: TrafficDuration = None,
    every: SeriesInterval = None,
    start: Start = None,
    seed: Seed = 0,
    learn: Learn = False,
    entities: EntitySources = None,
    trust: TrustedKeys = None,
    format: ChartFormatOption = None,
    output: Output = None,
) -> int:
    """Simulate traffic against rates and budgets.

    The clock is virtual and nothing is spent permanently, so a simulated day takes seconds and changes nothing. The
    result shows what was admitted, throttled, denied, or needed approval, and how much of each limit remained. With
    `--learn`, behavior is learned from the traffic, and the result also shows trust, alarms and paces of callers;
    otherwise learned facts are neutral.

    \b
    Workflows:
      steady    evenly spaced requests
      burst     half of each minute's requests in its first second
      daily     a daily curve: quietest at 02:00, busiest at 14:00 UTC
      many      many callers, a few of which send most requests (Zipf)
      lockstep  all callers at the same instants
      runaway   an agent that retries in a loop, 50 times as fast, in the middle third of the time
      spike     the daily curve for 30 days; in the last hour, the last caller is 50 times as fast

    \b
    Exit codes:
      0  simulated, whatever the outcomes
      1  an error in the policy, a file or a request
      2  wrong usage

    \b
    Example:
      policyengine simulate payments/ --workflow runaway --rate 10/m
      policyengine simulate payments/ --trace requests.jsonl -o chart.html
      policyengine simulate payments/ --workflow spike --rate 2/m --learn
    """
    plays = SimulateCommand(paths, entities, trust, start, seed, learn)
    width = None if every is None else plays.microseconds("--every", every)
    with short_log_messages():
        if trace is not None and workflow is None:
            if output is not None and trace != "-":
                refuse_to_replace_log(output, [Path(trace)])
            played = _play_trace(plays, trace, width)
        elif workflow is not None and trace is None:
            made = plays.workflow(workflow.value, request, rate, callers, vary, lasting)
            played = _play_workflow(plays, made, workflow.value, width)
        else:
            raise CommandError("usage", "give either `--trace` or `--workflow`", code=2)
    return _output_result(played, format, output)


def _play_workflow(plays: SimulateCommand, made: WorkflowTraffic, name: str, width: int | None) -> SimulationResult:
    from policyengine.simulation import Series

    series = Series(made.plan.start, width)
    _play_events(plays, made.events, series, made.total, name)
    return plays.played(series, made.words, made.about)


def _play_trace(plays: SimulateCommand, name: str, width: int | None) -> SimulationResult:
    from policyengine.simulation import Series, TrafficTrace

    trace = TrafficTrace(plays.start, far=plays.started)
    series = Series(None, width)
    plays.load()
    with _open_trace(name) as lines:
        events = trace.read(lines, None if name == STDIN else Path(name))
        _play_events(plays, events, series, None, name)
    if not series.events:
        raise CommandError("request", f"no request in {describe_place(name)}", facts=(("file", name),))
    left = f"; {trace.left_out:,} lines left out: they spent nothing, or are not decisions" if trace.left_out else ""
    many = f"{series.events:,} request{'' if series.events == 1 else 's'}"
    words = [f"{many} of {describe_place(name)}{left}"]
    if trace.has_entities and plays.entities is None:
        words.append("the entities of the log are not used: name the entities to use with `--entities`")
    return plays.played(series, tuple(words), {"trace": name, "left_out": trace.left_out})


@contextmanager
def _open_trace(name: str) -> Iterator[Iterator[bytes]]:
    """Yield the lines of a trace while they arrive. Raises CommandError."""
    try:
        with nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as file:
            yield (line for _, line in read_lines(file, MAX_REQUEST_BYTES))
    except OSError as error:
        raise log_error(name, error) from None


def _play_events(
    plays: SimulateCommand, events: Iterator[TrafficEvent], series: Series, total: int | None, name: str
) -> None:
    from policyengine.simulation import TooManySlotsError, TrafficLineError, simulate

    try:
        with show_progress(
            "simulating the traffic, in thousands", None if total is None else -(-total // 1_000)
        ) as counted:
            simulate(plays.engine, plays.clock, events, series, counted, plays.tracker)
    except TrafficLineError as error:
        at = f" at `{error.member}`" if error.member else ""
        facts = (("file", name), ("line", error.line or None), ("member", error.member or None))
        where = describe_place(name, error.line) if error.line else "the request"
        raise CommandError("request", f"{where}{at}: {error.message}", error.hint, facts) from None
    except TooManySlotsError:
        hint = "omit `--every`, or use a longer interval"
        raise CommandError("usage", "`--every` is too short for the duration of the traffic", hint, code=2) from None


# ── Output ──────────────────────────────────────────────────────────────────────────────


def _output_result(played: SimulationResult, format: ChartFormat | None, output: Path | None) -> int:
    picture = format or (SUFFIXES.get(output.suffix.lower(), ChartFormat.TEXT) if output else ChartFormat.TEXT)
    if output is not None:
        write_text_file(output, _render(played, picture, ascii=False))
        Screen().line(f"wrote {output}")
    elif picture is ChartFormat.TEXT:
        _show(played, Screen())
    else:
        print(_render(played, picture, ascii=is_ascii_only()), end="")
    return 0


def _render(played: SimulationResult, picture: ChartFormat, *, ascii: bool) -> str:
    from policyengine.simulation import html, svg, text

    render: dict[ChartFormat, Callable[[SimulationResult], str]] = {
        ChartFormat.SVG: svg.render_svg,
        ChartFormat.HTML: html.render_html,
    }
    match picture:
        case ChartFormat.TEXT:
            return text.render_text(played, PIPE_COLUMNS, ascii=ascii, shown=one_line)
        case ChartFormat.JSON:
            return json_text(played.to_dict()) + "\n"
        case _:
            return render[picture](played)


def _show(played: SimulationResult, screen: Screen) -> None:
    from shutil import get_terminal_size

    from policyengine.simulation.text import STYLES, chart_rows, column_count, render_text

    if not screen.styled:
        screen.plain(render_text(played, PIPE_COLUMNS, ascii=is_ascii_only(), shown=one_line))
        return
    columns = min(max(get_terminal_size().columns - LABEL_COLUMNS, MIN_COLUMNS), MAX_COLUMNS)
    width = column_count(played, columns)
    for row in chart_rows(played, columns, ascii=is_ascii_only()):
        if row.blocks:
            name, blocks, told = row.text(width)
            screen.line(name, (blocks, STYLES.get(row.name, "")), told)
        else:
            screen.line(row.name)

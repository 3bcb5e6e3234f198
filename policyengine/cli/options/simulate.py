"""The options of `policyengine simulate`: which traffic, for how long, and how to draw the result."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


class ChartFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    SVG = "svg"
    HTML = "html"


class WorkflowName(StrEnum):
    STEADY = "steady"
    BURST = "burst"
    DAILY = "daily"
    MANY = "many"
    LOCKSTEP = "lockstep"
    RUNAWAY = "runaway"
    SPIKE = "spike"


TraceFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE|-",
        help="Requests, one per line with its time in `at`; or a decision log, packed or not.",
        show_default=False,
    ),
]
Workflow: TypeAlias = Annotated[
    WorkflowName | None, typer.Option("--workflow", help="Generate traffic of this kind.", show_default=False)
]
WorkflowRequests: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--request",
        "-r",
        metavar="FILE|-",
        help="Request of a workflow, as JSON; several lines are sent in turn. [default: requests that the tests allow]",
        show_default=False,
    ),
]
RequestRate: TypeAlias = Annotated[
    str, typer.Option("--rate", metavar="N/TIME", help="Request rate of all callers together: `10/s`, `300/5m`.")
]
CallerCount: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--callers",
        metavar="N",
        min=1,
        help="Number of callers. [default: `many` 1000, `lockstep` 100, `spike` 5, others 1]",
    ),
]
VaryFact: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--vary",
        metavar="FACT",
        help="Fact by which callers differ. [default: `agent.id` or `user.id`, if the policy allows such callers]",
        show_default=False,
    ),
]
TrafficDuration: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--for", metavar="TIME", help="Duration. [default: `daily` 1d, `spike` 30d, others 1h]", show_default=False
    ),
]
SeriesInterval: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--every",
        metavar="TIME",
        help="Length of an interval. [default: at most 240 intervals in total]",
        show_default=False,
    ),
]
Start: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--start", metavar="TIME", help="Start of the traffic: `2027-01-01`, or a date with a time and a zone."
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Random seed.")]
ChartFormatOption: TypeAlias = Annotated[
    ChartFormat | None,
    typer.Option("--format", help="Output format. [default: from the suffix of --output, or text]", show_default=False),
]
Output: TypeAlias = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write instead of stdout.")
]
Learn: TypeAlias = Annotated[
    bool, typer.Option("--learn", help="Learn behavior from the traffic; without it, learned facts are neutral.")
]

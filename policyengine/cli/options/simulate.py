"""What `policyengine simulate` can be told: which traffic, for how long, and how to draw what came of it."""

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


TraceFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--trace", metavar="FILE|-", help="Requests on lines, each with `at`; or a decision log.", show_default=False
    ),
]
Workflow: TypeAlias = Annotated[
    WorkflowName | None, typer.Option("--workflow", help="Traffic that needs no file.", show_default=False)
]
WorkflowRequests: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--request",
        "-r",
        metavar="FILE|-",
        help="What a workflow asks, as JSON; on lines, several in turn. Otherwise what the policy's tests allow.",
        show_default=False,
    ),
]
RequestRate: TypeAlias = Annotated[
    str, typer.Option("--rate", metavar="N/TIME", help="Requests of all callers: `10/s`, `300/5m`.")
]
CallerCount: TypeAlias = Annotated[
    int | None,
    typer.Option("--callers", metavar="N", min=1, help="How many ask; `many` 1000, `lockstep` 100, others 1."),
]
VaryFact: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--vary",
        metavar="FACT",
        help="By which fact callers differ; otherwise `agent.id` or `user.id`, if such callers pass.",
        show_default=False,
    ),
]
TrafficDuration: TypeAlias = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="How long; `daily` 1d, others 1h.", show_default=False)
]
SeriesInterval: TypeAlias = Annotated[
    str | None,
    typer.Option("--every", metavar="TIME", help="What is counted together; otherwise what fits.", show_default=False),
]
Start: TypeAlias = Annotated[
    str | None,
    typer.Option("--start", metavar="TIME", help="When it begins: `2027-01-01`, or with a time and a zone."),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="What chance brings.")]
ChartFormatOption: TypeAlias = Annotated[
    ChartFormat | None, typer.Option("--format", help="By the name of the output, or text.", show_default=False)
]
Output: TypeAlias = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it instead of stdout.")
]

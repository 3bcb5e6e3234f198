"""The options of `policyengine audit query`: which records, and how to print them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


class QueryFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    CSV = "csv"


class RecordKind(StrEnum):
    DECISION = "decision"
    OUTCOME = "outcome"
    ISSUED = "issued"
    NOT_ISSUED = "not_issued"
    ENDED = "ended"
    SYSTEM = "system"
    SEAL = "seal"
    ALL = "all"


def _filter(name: str, metavar: str, help: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--{name}", metavar=metavar, help=help, show_default=False)
    return option


Logs: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG", help="Decision logs, each with its rotated files, or packed logs.", show_default=False
    ),
]
Values: TypeAlias = list[str] | None
AgentFilter: TypeAlias = Annotated[
    Values, _filter("agent", "NAME", "Only records of this agent; `*` stands for any text.")
]
IssuerFilter: TypeAlias = Annotated[Values, _filter("issuer", "NAME", "Only records of agents of this issuer.")]
UserFilter: TypeAlias = Annotated[
    Values, _filter("user", "NAME", "Only records for this user; an empty name selects records without a user.")
]
EndpointFilter: TypeAlias = Annotated[
    Values, _filter("endpoint", "ENDPOINT", "Only records at this endpoint pattern of the policies.")
]
ResourceFilter: TypeAlias = Annotated[Values, _filter("resource", "NAME", "Only records about this resource.")]
OutcomeFilter: TypeAlias = Annotated[
    Values, _filter("outcome", "OUTCOME", "Only records with this outcome: `allow`, `deny`, `confirm` or `throttle`.")
]
RuleFilter: TypeAlias = Annotated[Values, _filter("rule", "NAME", "Only requests that this rule stopped.")]
IdFilter: TypeAlias = Annotated[
    Values, _filter("id", "ID", "Only the decision with this ID and its outcome, or the token with this `jti`.")
]
KindFilter: TypeAlias = Annotated[
    list[RecordKind] | None,
    typer.Option(
        "--kind",
        metavar="<decision|outcome|issued|not_issued|ended|system|seal|all>",
        help="Kind of records. [default: decision; all with --id; outcome with --measure]",
        show_default=False,
    ),
]
WhereFilter: TypeAlias = Annotated[
    Values, _filter("where", "FIELD=VALUE", "Only records with this value of any field (docs/audit-query.md).")
]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only records from this time on: `2026-12-01`, or `7d` for a week ago.",
        show_default=False,
    ),
]
Until: TypeAlias = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only records from before this time.", show_default=False)
]
CountBy: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--count-by",
        metavar="FIELD",
        help="Count records for each value of a field; may be repeated.",
        show_default=False,
    ),
]
Count: TypeAlias = Annotated[bool, typer.Option("--count", help="Count the records.")]
Measure: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--measure", metavar="FIELD", help="Sum and percentiles of `latency_ms`, `size` or `usage`.", show_default=False
    ),
]
NewestFirst: TypeAlias = Annotated[
    bool, typer.Option("--newest-first", help="Sort groups by the time of their first record, newest first.")
]
Limit: TypeAlias = Annotated[
    int,
    typer.Option(
        "--limit",
        metavar="N",
        min=0,
        help="Print the newest N records or N groups; 0 prints all, in the order of the log.",
    ),
]
Format: TypeAlias = Annotated[
    QueryFormat, typer.Option("--format", help="Output format; JSON has one object on each line.")
]

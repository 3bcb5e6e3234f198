"""`policyengine doctor`: what commonly goes wrong on a machine, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.doctor.checks import findings
from policyengine.cli.doctor.findings import Finding, Plan, Status
from policyengine.cli.options.common import EntitySources, IdentityFile, StoreUrl, TextOrJson, TrustedKeys
from policyengine.cli.options.serve import EnvoyPort, Host, LogFile, MetricsPort, SocketPath, TokensFile, Workers
from policyengine.cli.output.terminal import Format, Screen, print_json
from policyengine.control_characters import one_line

SIGNS = {Status.OK: "✓", Status.NOTE: "·", Status.WARNING: "?", Status.FAILED: "✗"}


def doctor(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Policies, or one bundle.", show_default=False)
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Where to listen.")] = 8080,
    socket: SocketPath = None,
    metrics_port: MetricsPort = None,
    envoy_grpc: EnvoyPort = None,
    workers: Workers = 1,
    token_file: TokensFile = None,
    log: LogFile = None,
    store: StoreUrl = "memory:",
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    format: TextOrJson = Format.TEXT,
) -> int:
    """Look for what commonly goes wrong on a machine.

    It takes the options of `serve`, and looks at what is to be served too.

    It leaves everything as it was, and reaches nothing over a network but what is named; with --identity it asks the
    issuers and attesters of the policies for their keys.

    Exit code 0: it can be served (there may be warnings); 1: it cannot.

    \b
    Example:
      policyengine doctor
      policyengine doctor payments/ --token-file tokens --log /var/log/decisions.jsonl
      policyengine doctor payments/ --store redis://127.0.0.1:6379 --workers 4 --format json
    """
    options = (("--port", port), ("--metrics-port", metrics_port), ("--envoy-grpc", envoy_grpc))
    listens = tuple((option, number) for option, number in options if number is not None)
    trusted = None if trust is None else tuple(trust)
    rows = None if entities is None else tuple(entities)
    plan = Plan(tuple(paths or ()), host, listens, socket, workers, token_file, log, store, rows, trusted, identity)
    found = list(findings(plan))
    if format is Format.JSON:
        print_json({"checks": [told(one) for one in found], **counts(found)})
    else:
        show(found)
    return int(any(one.status is Status.FAILED for one in found))


def told(one: Finding) -> dict[str, str | None]:
    return {"check": one.check, "status": one.status.value, "message": one.message, "hint": one.hint}


def counts(found: list[Finding]) -> dict[str, int]:
    statuses = [one.status for one in found]
    return {"failed": statuses.count(Status.FAILED), "warnings": statuses.count(Status.WARNING)}


def show(found: list[Finding]) -> None:
    screen = Screen()
    for one in found:
        screen.findings(one_line(f"{SIGNS[one.status]} {one.check}: {one.message}"))
        if one.hint is not None:
            screen.findings(one_line(f"  hint: {one.hint}"))
    number = counts(found)
    screen.line("")
    failed, warnings = number["failed"], number["warnings"]
    verdict = ("it cannot be served", "bold red") if failed else ("it can be served", "bold green")
    screen.line(verdict, f": {failed} failed, {warnings} to think about")

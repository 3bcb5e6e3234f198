"""`policyengine doctor`: check a machine for common problems before serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.doctor.checks import run_checks
from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.options.common import EntitySources, IdentityFile, StoreUrl, TextOrJson, TrustedKeys
from policyengine.cli.options.serve import EnvoyPort, Host, LogFile, MetricsPort, SocketPath, TokensFile, Workers
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.control_characters import one_line

SIGNS = {DoctorStatus.OK: "✓", DoctorStatus.NOTE: "·", DoctorStatus.WARNING: "?", DoctorStatus.FAILED: "✗"}


def doctor(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Policies, or one bundle.", show_default=False)
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on.")] = 8080,
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
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Check a machine for common problems before serving.

    The command checks the policies to be served, and what its options name; each option means the same as in `serve`.
    The command does not check what other options of `serve` name, such as `--console` and `--behavior`.

    The command changes nothing, and connects only to services that the options name; with --identity it also fetches
    the keys of the policies' issuers and attesters.

    Exit code 0: ready to serve (warnings are possible); 1: not ready.

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
    plan = ServePlan(
        tuple(paths or ()), host, listens, socket, workers, token_file, log, store, rows, trusted, identity
    )
    found = list(run_checks(plan))
    if format is OutputFormat.JSON:
        print_json({"checks": [result_to_dict(one) for one in found], **count_statuses(found)})
    else:
        print_results(found)
    return int(any(one.status is DoctorStatus.FAILED for one in found))


def result_to_dict(one: DoctorResult) -> dict[str, object]:
    return {
        "check": one.check, "status": one.status.value, "message": one.message, "lines": one.lines, "hint": one.hint,
    }  # fmt: skip


def count_statuses(found: list[DoctorResult]) -> dict[str, int]:
    statuses = [one.status for one in found]
    return {"failed": statuses.count(DoctorStatus.FAILED), "warnings": statuses.count(DoctorStatus.WARNING)}


def print_results(found: list[DoctorResult]) -> None:
    screen = Screen()
    for result in found:
        screen.findings(one_line(f"{SIGNS[result.status]} {result.check}: {result.message}"))
        for line in result.lines:
            screen.findings(one_line(f"  {line}"))
        if result.hint is not None:
            screen.findings(one_line(f"  hint: {result.hint}"))
    number = count_statuses(found)
    screen.line("")
    failed, warnings = number["failed"], number["warnings"]
    verdict = ("not ready to serve", "bold red") if failed else ("ready to serve", "bold green")
    screen.line(verdict, f": {failed} failed, {warnings} with warnings")

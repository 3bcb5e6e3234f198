"""The command line, `python -m bench decide paper serve …`: runs measurements, prints tables, and writes JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import (
    approvals,
    audit_query,
    behavior,
    commands,
    decide,
    directory,
    faults,
    first,
    growth,
    guard,
    history,
    identity,
    identity_bound,
    kinds,
    learn,
    lockstep,
    machine,
    mcp,
    metrics,
    paper,
    planted_faults,
    policy_tests,
    rates,
    results,
    seal,
    shape,
    simulate,
    sinks,
    startup,
    stores,
    timeouts,
    worst,
)
from bench.peers import PEERS
from bench.report import Report, Section, show
from bench.serving import adapters, connections, doors, frames, serve

WIDTH = 160  # of a file or a pipe

Say = Callable[[str], None]
SECTIONS: dict[str, Callable[[argparse.Namespace, Say], Section]] = {
    "decide": lambda options, say: decide.run(tuple(options.sizes) or decide.SIZES, options.full, say, options.engines),
    "kinds": lambda options, say: kinds.run(tuple(options.sizes) or kinds.SIZES, say),
    "paper": lambda _, say: paper.run(say),
    "serve": lambda _, say: serve.run(say),
    "socket": lambda _, say: frames.run(say),
    "doors": lambda _, say: doors.run(say),
    "adapters": lambda _, say: adapters.run(say),
    "connections": lambda _, say: connections.run(say),
    "first": lambda _, say: first.run(say),
    "compile": lambda options, say: startup.run_compile(tuple(options.sizes) or startup.SIZES, say),
    "memory": lambda options, say: startup.run_memory(tuple(options.sizes) or startup.SIZES, say),
    "rates": lambda _, say: rates.rates(say),
    "history": lambda _, say: history.run(say),
    "stores": lambda _, say: stores.run(say),
    "approvals": lambda _, say: approvals.run(say),
    "faults": lambda _, say: faults.run(say),
    "timeouts": lambda _, say: timeouts.run(say),
    "directory": lambda _, say: directory.run(say),
    "identity": lambda _, say: identity.run(say),
    "testing": lambda _, say: policy_tests.policy_test_times(say),
    "seal": lambda options, say: seal.run(say, proved=max(options.sizes, default=seal.PROVED)),
    "shape": lambda _, say: shape.run(say),
    "simulate": lambda _, say: simulate.run(say),
    "behavior": lambda _, say: behavior.run(say),
    "learn": lambda _, say: learn.run(say),
    "lockstep": lambda _, say: lockstep.run(say),
    "sinks": lambda _, say: sinks.run(say),
    "mcp": lambda _, say: mcp.run(say),
    "counting": lambda _, say: metrics.metrics_cost(say),
    "proofs": lambda _, say: identity_bound.proofs(say),
    "worst": lambda _, say: worst.run(say),
    "commands": lambda _, say: commands.run(say),
    "query": lambda options, say: audit_query.run(max(options.sizes, default=audit_query.RECORDS), say),
    "diff": lambda _, say: planted_faults.planted_faults(say),
    "growth": lambda options, say: growth.run(max(options.sizes, default=None), say),
}


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.what if name not in {*SECTIONS, "guard"}]:
        parser.error(f"there is no `{unknown[0]}`: choose from {', '.join([*SECTIONS, 'guard'])}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    report = Report(machine.describe(tuple(dict.fromkeys(entry.package for entry in PEERS if entry.package))))
    return _guard(options, report, console) if options.what == ["guard"] else _run(options, report, console)


def _run(options: argparse.Namespace, report: Report, console: Console) -> int:
    for name in options.what or SECTIONS:
        with console.status("…") as status:
            section = SECTIONS[name](options, status.update)
        report = Report(report.machine, (*report.sections, section))
        show(section, report.machine, console)
        if options.json:
            report.write(options.json)
        if options.save:
            Report(report.machine, (section,)).write(results.file_of(name, str(report.machine["build"])))
    return 0


def _guard(options: argparse.Namespace, report: Report, console: Console) -> int:
    """Return exit code 1 if a ratio became worse; with `--update`, write the measurements to the baseline first."""
    with console.status("…") as status:
        if options.update:
            guard.update(status.update, report.machine)
        findings = guard.run(status.update)
    section = guard.section(findings)
    show(section, report.machine, console)
    if options.json:
        Report(report.machine, (section,)).write(options.json)
    return int(any(finding.worse for finding in findings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    every = f"{', '.join(SECTIONS)} (default: all), or guard alone"
    parser.add_argument("what", nargs="*", metavar="WHAT", help=every)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every measurement, the machine and the versions to a file"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write each section to bench/results/, from which `make docs` makes its tables",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=(), metavar="N", help="other numbers of rules")
    parser.add_argument("--engines", nargs="+", default=(), metavar="NAME", help="only these engines, in `decide`")
    parser.add_argument(
        "--full", action="store_true", help="include 100,000 rules; allow slow peers ten minutes to verify"
    )
    parser.add_argument("--update", action="store_true", help="write the ratios of guard to the baseline")
    return parser


if __name__ == "__main__":
    sys.exit(main())

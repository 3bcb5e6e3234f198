"""`python -m bench decide paper serve …`: measures, prints tables, and writes JSON and a chart when asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import decide, growth, loading, machine, paper
from bench.http import serve
from bench.peers import PEERS
from bench.report import Report, Section, show

WIDTH = 132  # of a file or a pipe

Say = Callable[[str], None]


def sizes(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(options.sizes) or decide.SIZES


SECTIONS: dict[str, Callable[[argparse.Namespace, Say], Section]] = {
    "decide": lambda options, say: decide.run(sizes(options), options.full, say),
    "paper": lambda _, say: paper.run(say),
    "serve": lambda _, say: serve.run(say),
    "compile": lambda options, say: loading.compiling(tuple(options.sizes) or loading.SIZES, say),
    "memory": lambda options, say: loading.memory(tuple(options.sizes) or loading.SIZES, say),
    "growth": lambda options, say: growth.run(max(options.sizes, default=None), say),
}


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.what if name not in SECTIONS]:
        parser.error(f"there is no `{unknown[0]}`: choose from {', '.join(SECTIONS)}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    report = Report(machine.describe(tuple(dict.fromkeys(entry.package for entry in PEERS if entry.package))))
    with console.status("…") as status:
        for name in options.what or SECTIONS:
            section = SECTIONS[name](options, status.update)
            report = Report(report.machine, (*report.sections, section))
            show(section, report.machine, console)
            if options.json:
                report.write(options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(SECTIONS)}; all of them if none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement, machine and versions")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=(), metavar="N", help="how many rules, instead of 10 … 10,000"
    )
    parser.add_argument(
        "--full", action="store_true", help="100,000 rules as well, and ten minutes for a slow peer to verify"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The results of a run: sections of rows and targets, for the terminal and, as JSON data, for the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.trial import format_number

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A target. It holds if `seen` is at most `limit` (with `at_least`, at least); `seen` is None if it was not
    measured."""

    what: str
    limit: float
    seen: float | None
    unit: str = "×"
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.seen is None:
            return None
        return self.seen >= self.limit if self.at_least else self.seen <= self.limit

    def words(self) -> str:
        bound = f"{'≥' if self.at_least else '≤'} {self.limit:,g} {self.unit}"
        if self.seen is None:
            return f"{self.what}: {bound}, not measured in this run"
        verdict = "holds" if self.holds else "missed"
        return f"{self.what}: {bound}, measured {format_number(self.seen)} {self.unit}: {verdict}"


@dataclass(frozen=True, slots=True)
class Section:
    """One table. `rows` are for people, `data` holds the measurements."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: tuple[dict[str, Any], ...]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    machine: dict[str, Any]
    sections: tuple[Section, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        sections = {
            section.name: {
                "title": section.title,
                "data": list(section.data),
                "targets": [{**asdict(target), "holds": target.holds} for target in section.targets],
                "notes": list(section.notes),
            }
            for section in self.sections
        }
        return {"schema": SCHEMA, "machine": self.machine, "sections": sections}

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(self.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(section: Section, machine: dict[str, Any], console: Console) -> None:
    """Print the table, the machine, the targets and the notes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(section.columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in section.rows:
        ours = row[0].startswith("policyengine")
        table.add_row(*map(Text, row), style="bold" if ours else "dim" if row[0].startswith("floor") else None)
    lines = [Text("  ") + _target_mark(target) + Text(target.words()) for target in section.targets]
    notes = [Text(f"  {note}", style="dim") for note in section.notes]
    console.print(
        Group(
            Text(section.title, style="bold"),
            table,
            *lines,
            *notes,
            Text(f"  {machine_words(machine)}", style="dim"),
            Text(f"  {version_words(machine)}", style="dim"),
            Text(),
        )
    )


def _target_mark(target: Target) -> Text:
    mark, style = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("– ", "dim")}[target.holds]
    return Text(mark, style=style)


def version_words(machine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items())


def machine_words(machine: dict[str, Any]) -> str:
    """Return one line about the machine of the run."""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}, {machine['build']}"
    return f"{where}, load {machine['load']}, timer {machine['timer_ns']} ns, {machine['at']}"

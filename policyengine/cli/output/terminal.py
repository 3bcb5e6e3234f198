"""The output of commands: color and tables on a terminal, plain text for a pipe, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import Any, TextIO

from policyengine.control_characters import one_line, printable_json

PROGRESS_DELAY_SECONDS = 2.0  # seconds before a progress display appears
OUTCOME_STYLES = {"allow": "bold green", "deny": "bold red", "confirm": "bold yellow", "throttle": "bold yellow"}

TextPart = str | tuple[str, str]  # plain text, or text with its style
_PLACE = re.compile(r"(?P<place>.+?:\d+:\d+): (?P<kind>[EW]\d{3}|failed|errored) (?P<message>.*)")
_SIGNS = {"✓": "green", "✗": "red", "?": "yellow"}
_COUNTS = re.compile(r"\d[\d,]* passed(?:, [\d,]+ [a-z]+)*|[\d,]+ (?:failed|errored)(?:, [\d,]+ [a-z]+)*")
_CARETS = re.compile(r"\s*\^+")


class OutputFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class Screen:
    """A stream to print lines to, with styles only if it is a terminal that supports them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._console: Any = None
        self.styled = is_terminal(self.stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, *parts: TextPart) -> None:
        """Print one line, with control characters and line breaks in its parts escaped."""
        styled = [(one, "") if isinstance(one, str) else one for one in parts]
        shown = [(one_line(words), style) for words, style in styled]
        if self.styled:
            self._styled_line(shown)
        else:
            print("".join(words for words, _ in shown), file=self.stream)

    def warn(self, *parts: TextPart) -> None:
        """Print a line that begins with `warning: `."""
        self.line(("warning: ", "bold yellow"), *parts)

    def _styled_line(self, parts: Sequence[TextPart]) -> None:
        from rich.console import Console
        from rich.text import Text

        self._console = self._console or Console(file=self.stream, highlight=False)
        self._console.print(Text.assemble(*parts), soft_wrap=True)

    def text(self, text: str) -> None:
        """Print text of several lines, with control characters escaped."""
        for line in text.split("\n"):
            self.line(line)

    def plain(self, text: str) -> None:
        """Write output for programs unchanged, including its line breaks."""
        self.stream.write(text)

    def findings(self, rendered: str) -> None:
        """Print rendered diagnostics or test results, with the important parts in color."""
        for line in rendered.split("\n"):
            self.line(*_finding_line(line))

    def prose(self, text: str) -> None:
        """Print a paragraph, wrapped between words on a terminal."""
        if not self.styled:
            self.text(text)
            return
        from textwrap import fill

        self.text(fill(text, max(terminal_width(), 20), break_on_hyphens=False))

    def diff(self, lines: Sequence[str]) -> None:
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in lines:
            self.line((line, styles.get(line[:1], "")))

    def table(self, rows: Sequence[Sequence[str]], *, whole: bool = False) -> None:
        """Print rows of cells in columns; the first cell of a row is its title. A table that is too wide for the
        terminal is printed in narrower columns or, if `whole`, with each row on a long line, which shortens no cell.
        """
        rows = [list(map(one_line, row)) for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        width = sum(widths) + 2 * (len(widths) - 1)
        if not self.styled or (whole and width > terminal_width()):
            for row in rows:
                self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        for first, *others in rows:
            table.add_row(Text(first, style="bold"), *map(Text, others))
        Console(file=self.stream, highlight=False).print(table)


def _finding_line(line: str) -> tuple[TextPart, ...]:
    if found := _PLACE.fullmatch(line):
        style = "bold yellow" if found["kind"].startswith("W") else "bold red"
        return (found["place"], "bold"), ": ", (found["kind"], style), " ", found["message"]
    if _CARETS.fullmatch(line):
        return ((line, "red"),)
    if line.startswith("  hint:"):
        return ((line, "cyan"),)
    if _COUNTS.fullmatch(line):
        return ((line, "bold red" if "failed" in line or "errored" in line else "bold green"),)
    if (bare := line.lstrip()).startswith("· "):
        return ((line, "dim"),)
    if bare and bare[0] in _SIGNS:
        return line[: len(line) - len(bare)], (bare[0], _SIGNS[bare[0]]), bare[1:]
    return (line,)


def terminal_width() -> int:
    from shutil import get_terminal_size

    return get_terminal_size().columns


def is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def is_ascii_only() -> bool:
    """Return whether the encoding of stdout is not UTF-8, so that JSON must escape all characters outside ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return not encoding.lower().replace("-", "").startswith("utf8")


def json_text(data: Any, indent: int | None = 2) -> str:
    """Return JSON with unprintable characters escaped, as `printable` does in text."""
    return printable_json(json.dumps(data, ensure_ascii=is_ascii_only(), indent=indent, default=_number))


def _number(value: object) -> float:
    """Convert a Decimal, which logs contain, to a float."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not valid JSON")


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print one document; without `indent`, as one line, as in JSON Lines, which is flushed."""
    print(json_text(data, indent), flush=indent is None)


@contextmanager
def show_progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show progress on a terminal if the block takes a long time. The yielded function counts one of `total` items."""
    if not Screen(sys.stderr).styled:
        yield lambda: None
        return
    spinner = _Spinner(what, total)
    timer = threading.Timer(PROGRESS_DELAY_SECONDS, spinner.start)
    timer.daemon = True
    timer.start()
    try:
        yield spinner.advance
    finally:
        timer.cancel()
        spinner.stop()


class _Spinner:
    """A progress line on stderr. `stop` may run before, during or after `start`, which runs on the timer's thread."""

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.lock = threading.Lock()
        self.stopped = False
        self.progress: Any = None
        self.task: Any = None

    def start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        with self.lock:
            if self.stopped:
                return
            counted = () if self.total is None else (BarColumn(), MofNCompleteColumn())
            columns = SpinnerColumn(), TextColumn("{task.description}"), *counted
            self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.progress.add_task(self.what, total=self.total, completed=self.done)
            self.progress.start()

    def advance(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            if self.progress is not None:
                self.progress.stop()

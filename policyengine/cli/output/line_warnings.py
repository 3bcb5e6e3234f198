"""Collects the messages of readers about the lines that they skip, and shows the first messages on stderr."""

from __future__ import annotations

import sys

from policyengine.cli.output.terminal import Screen

SHOWN = 3


class LineWarnings:
    """Receives one message for each skipped line."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def __call__(self, message: str) -> None:
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(message)

    def show(self) -> None:
        """Print the first messages, and the number of the others."""
        screen = Screen(sys.stderr)
        for message in self._first:
            screen.warn(message)
        if self.count > SHOWN:
            screen.warn(f"{self.count - SHOWN:,} more lines were skipped")

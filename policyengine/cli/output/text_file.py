"""Writes the output of a command to a file."""

from __future__ import annotations

from pathlib import Path

from policyengine.cli.errors import file_error


def write_text_file(file: Path, text: str) -> None:
    """Write a text with the line ends of Unix on every system. Raises CommandError."""
    try:
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise file_error(file, error) from None

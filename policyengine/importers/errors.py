"""The error of an import: the problem and its place in the input. The error is raised before any file is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class ApiImportError(Exception):
    """The error for a problem in the input of an import. `place` is a file with a line, a member of a document, or
    empty.
    """

    message: str
    place: str = ""
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

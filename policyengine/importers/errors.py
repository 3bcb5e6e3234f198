"""What is wrong with what was brought, and where: one message for a person, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class ApiImportError(Exception):
    """`place` is a file with its line, or a member of a document; empty where there is none."""

    message: str
    place: str = ""
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

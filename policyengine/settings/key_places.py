"""Finds the positions of the keys in a TOML text, for messages; `tomllib` parses the values."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str, ...]
Place: TypeAlias = tuple[int, int]

BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
SPACES = re.compile(r"[ \t]*")
BASIC_LINES, LITERAL_LINES = r'"""(?:[^\\]|\\[\s\S])*?"""+', r"'''[\s\S]*?'''+"
BASIC, LITERAL = r'"(?:[^"\\\n]|\\.)*"', r"'[^'\n]*'"
STRING = re.compile("|".join((BASIC_LINES, LITERAL_LINES, BASIC, LITERAL)))
KEY = re.compile("|".join((r"[A-Za-z0-9_-]+", BASIC, LITERAL)))
SCALAR = re.compile(r"[^,\]}#\n]*")


def key_places(text: str) -> dict[KeyPath, Place]:
    """Return the position of each key, table and list element in a valid TOML text."""
    scanner = TomlScanner(text)
    scanner.document()
    return scanner.places


@dataclass
class TomlScanner:
    """Scans a text that `tomllib` accepts, and therefore validates nothing itself."""

    text: str
    at: int = 0
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def document(self) -> None:
        table: KeyPath = ()
        while self._next_is_inside():
            if self.text[self.at] == "[":
                self._pass_over("[")
                table = self._key(())
                self._pass_over("]")
            else:
                self._pair(table)

    def _next_is_inside(self) -> bool:
        self._skip(BLANK)
        return self.at < len(self.text)

    def _pass_over(self, bracket: str) -> None:
        while self.text.startswith(bracket, self.at):
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Skip a match, and return it. Raises ValueError if the text does not match here."""
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"no TOML at {self.at}")
        self.at = match.end()
        return match[0]

    def _key(self, table: KeyPath) -> KeyPath:
        """Read a dotted key, note its position and the positions of its prefixes, and return the path of the key below
        `table`."""
        while True:
            self._skip(SPACES)
            start = self.at
            word = self._skip(KEY)
            table = (*table, next(iter(tomllib.loads(f"{word} = 0"))))
            self.places.setdefault(table, (start, self.at))
            self._skip(SPACES)
            if not self.text.startswith(".", self.at):
                return table
            self.at += 1

    def _pair(self, table: KeyPath) -> None:
        path = self._key(table)
        self.at += 1  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(SPACES)
        match self.text[self.at : self.at + 1]:
            case "[":
                self._list(path)
            case "{":
                self._inline_table(path)
            case '"' | "'":
                self._skip(STRING)
            case _:
                self._skip(SCALAR)

    def _list(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._next_is_inside() and self.text[self.at] != "]":
            start = self.at
            self._value((*path, str(index)))
            self.places.setdefault((*path, str(index)), (start, self.at))
            index += 1
            self._pass_comma()
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._next_is_inside() and self.text[self.at] != "}":
            self._pair(path)
            self._pass_comma()
        self.at += 1

    def _pass_comma(self) -> None:
        self._skip(BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1

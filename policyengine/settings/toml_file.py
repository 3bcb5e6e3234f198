"""One settings file in TOML, read from a path that only its owner can redirect; errors are shown with their line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_stream
from policyengine.diagnostics.model import format_location, source_excerpt
from policyengine.settings.key_places import KeyPath, Place, key_places
from policyengine.settings.mistakes import SettingMistake
from policyengine.source import Source, Span
from policyengine.trusted_files import open_trusted

SYNTAX_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
# A line that is not TOML is shown unless it seems to contain a secret.
CREDENTIALS_IN_URL = re.compile(r"://[^\s\"']*@")
MAX_SHOWN_MISTAKES = 20
MAYBE_SECRET = re.compile(r"[\"']|://|secret|token|passw|key", re.IGNORECASE)


class SettingsError(Exception):
    """The error for a settings file: `message` and `hint` name the setting, or `message` gives the number of mistakes;
    `detail` shows the lines."""

    def __init__(self, message: str, hint: str | None, span: Span | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.span, self.detail = message, hint, span, detail


@dataclass(frozen=True)
class SettingsFile:
    """The text of a settings file; `name` appears in messages."""

    name: str
    text: str

    def data(self) -> dict[str, Any]:
        """Parse the text. Raises SettingsError."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise self._syntax_error(str(error)) from None

    def error(self, message: str, hint: str | None, path: Sequence[str], *, secret: bool = False) -> SettingsError:
        """Return the error for the setting at a path. The value of a secret is not shown."""
        span = Span(Source(self.name, self.text), *self.place(path))
        line = span.source.line(span.line)
        hides = (secret and not line.lstrip().startswith("[")) or CREDENTIALS_IN_URL.search(line)
        excerpt = [f"  {span.text} = …", f"  {'^' * len(span.text)}"] if hides else source_excerpt(span)
        return self._error(message, hint, span, excerpt)

    def report(self, mistakes: Sequence[SettingMistake]) -> SettingsError:
        """Return one error for one or more mistakes; it shows the first MAX_SHOWN_MISTAKES."""
        errors = [
            self.error(one.message, one.hint, one.path, secret=one.secret) for one in mistakes[:MAX_SHOWN_MISTAKES]
        ]
        if len(mistakes) == 1:
            return errors[0]
        shown = [one.detail + (f"\n  hint: {one.hint}" if one.hint else "") for one in errors]
        message = f"`{self.name}` has {len(mistakes)} mistakes"
        return SettingsError(message, None, errors[0].span, "\n\n".join(shown))

    def place(self, path: Sequence[str]) -> Place:
        """Return the position of the key at a path, or of the nearest key above it."""
        return next((self.places[above] for above in parents(path) if above in self.places), (0, 0))

    @cached_property
    def places(self) -> dict[KeyPath, Place]:
        """The position of each key: found once, because a file can have thousands of mistakes."""
        return key_places(self.text)

    def lines(self) -> dict[KeyPath, int]:
        source = Source(self.name, self.text)
        return {path: source.position(start)[0] for path, (start, _) in self.places.items()}

    def _syntax_error(self, why: str) -> SettingsError:
        found = SYNTAX_PLACE.search(why)
        source, lines = Source(self.name, self.text), self.text.split("\n")
        line, column = (int(found["line"]), int(found["column"])) if found and found["line"] else (len(lines), 1)
        start = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
        message = why[: found.start()] if found else why
        span = Span(source, start, start + 1)
        excerpt = [] if MAYBE_SECRET.search(source.line(line)) else source_excerpt(span)
        return self._error(f"{message[:1].lower()}{message[1:]}", "this is not valid TOML", span, excerpt)

    def _error(self, message: str, hint: str | None, span: Span, excerpt: Sequence[str]) -> SettingsError:
        detail = "\n".join([f"{format_location(span)}: {message}", *excerpt])
        return SettingsError(f"`{self.name}`: {message}", hint, span, detail)


def parents(path: Sequence[str]) -> list[KeyPath]:
    """Return a path and its prefixes, the longest first."""
    return [tuple(path[:length]) for length in range(len(path), 0, -1)]


def read_settings_file(
    path: Path | str, name: str, check: Callable[[os.stat_result], None] = lambda _: None
) -> SettingsFile:
    """Read a settings file, which `check` may refuse once it is open. Raises OSError, UntrustedPathError,
    SettingsError."""
    with os.fdopen(open_trusted(path), "rb") as stream:
        check(os.fstat(stream.fileno()))
        content = read_stream(stream, MAX_SETTINGS_BYTES)
    try:
        return SettingsFile(name, content.decode())
    except UnicodeDecodeError:
        raise SettingsError(f"`{name}` is not valid UTF-8", "save it as UTF-8") from None

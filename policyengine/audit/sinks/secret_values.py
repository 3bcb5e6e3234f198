"""Secrets of sinks, by reference: `env:NAME` or `file:PATH`. A secret is read again for each request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from policyengine.trusted_files import open_trusted

MAX_SECRET_BYTES = 65_536
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretValueError(Exception):
    """The error for a secret that cannot be read, or whose reference is malformed; the message does not contain the
    secret."""


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The place of a secret: an environment variable or a file."""

    kind: str
    place: str

    @classmethod
    def parse(cls, reference: str) -> SecretValue:
        """Parse a reference. Raises SecretValueError, whose message does not contain the reference, because it may be a
        secret by mistake."""
        kind, colon, place = reference.partition(":")
        if colon and place and (kind == "file" or (kind == "env" and VARIABLE.fullmatch(place))):
            return cls(kind, place)
        raise SecretValueError("a secret must be written as `env:NAME` or `file:PATH`")

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"

    def read(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return the secret: printable text without surrounding whitespace. Raises SecretValueError."""
        text = environment.get(self.place, "") if self.kind == "env" else self._read_file()
        text = text.strip()
        if not text:
            raise SecretValueError(f"`{self}` is {'not set' if self.kind == 'env' else 'empty'}")
        if not text.isascii() or not text.isprintable():
            raise SecretValueError(f"`{self}` is not one line of printable ASCII text")
        return text

    def _read_file(self) -> str:
        try:
            with os.fdopen(open_trusted(Path(self.place), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                return file.read(MAX_SECRET_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise SecretValueError(f"`{self}` cannot be read: {(error.strerror or str(error)).lower()}") from None

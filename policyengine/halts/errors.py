"""The errors of halts, with a hint for the operator."""

from __future__ import annotations


class HaltError(ValueError):
    """The error for a halt that cannot be set or lifted."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint = message, hint


class UnknownHaltError(HaltError):
    """The error for the id of a halt that is not in effect."""


class HaltsFullError(HaltError):
    """The error for a halt for which there is no room."""


class HaltsUnreadableError(Exception):
    """The error for halts that cannot be read; the text says why, and `hint` what helps."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.hint = hint

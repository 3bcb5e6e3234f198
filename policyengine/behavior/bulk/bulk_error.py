"""The error for a way of learning that cannot be used here."""

from __future__ import annotations


class BulkError(Exception):
    """The error for a way of learning that is not installed, or that cannot learn these logs. `hint` says what to
    do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

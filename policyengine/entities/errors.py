"""The error of unreadable entities, with its place and a hint."""

from __future__ import annotations


class EntitiesError(Exception):
    """The error for entities that cannot be read: the `file` (or database), the place in it, a message and a hint.

    The place is a `member` (`entities[3].id`), or a `row` (the line in a file, counted from 1) and a `column`. `code`
    is a documented diagnostic code: `policyengine explain-code E180`. No part contains a password.
    """

    def __init__(
        self,
        file: str,
        member: str,
        message: str,
        hint: str | None = None,
        *,
        code: str = "E181",
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        where = file + ("" if row is None else f":{row}")
        super().__init__(f"{where}: {message}" + (f" ({hint})" if hint else ""))
        self.file, self.member, self.message, self.hint = file, member, message, hint
        self.code, self.row, self.column = code, row, column

    @property
    def place(self) -> str:
        """The file and, if known, the line, as `file:line`."""
        return self.file + ("" if self.row is None else f":{self.row}")

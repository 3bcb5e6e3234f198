"""What is wrong with what a directory is made of: where it stands, and what to do."""

from __future__ import annotations


class EntitiesError(Exception):
    """Entities cannot be used: the `file` (or database), the place in it, what is wrong, what to do.

    The place is a `member` (`entities[3].id`), or a `row` (the line of a file, from 1) and a `column`. `code` is
    documented: `policyengine explain-code E180`. Nothing here holds a password.
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
        """The file and the line in it, as people read it."""
        return self.file + ("" if self.row is None else f":{self.row}")

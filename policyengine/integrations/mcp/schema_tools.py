"""The tools of a server that have an output schema, from the lists of tools that have passed. Nothing here depends on
an SDK."""

from __future__ import annotations

from collections.abc import Iterable

MAX_TOOLS = 10_000
MAX_NAME_LENGTH = 512


class SchemaTools:
    """The names of tools whose results clients compare with a schema. A server can list new tools without end, so the
    names that were listed longest ago are forgotten.
    """

    def __init__(self, most: int = MAX_TOOLS) -> None:
        self._most = most
        self._names: dict[str, None] = {}  # the latest last

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, names: Iterable[str]) -> None:
        for name in names:
            if len(name) <= MAX_NAME_LENGTH:
                self._names.pop(name, None)
                self._names[name] = None
        while len(self._names) > self._most:
            del self._names[next(iter(self._names))]

"""Lines of Python being written: blocks, names, constants, and for every line the place in the policy it is for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from policyengine.source import Span

UNSURE = "return None"


class NotQuick(Exception):
    """There is no quick way to this: every request that needs it is decided with care."""


@dataclass(frozen=True, slots=True)
class Text:
    """An expression of Python. `of` is the entity type where it is an id that stands for a reference."""

    code: str
    of: str | None = None


@dataclass(slots=True)
class Lines:
    """The body of one function, its constants, and the places its lines are for."""

    lines: list[str] = field(default_factory=list)
    spans: list[Span | None] = field(default_factory=list)
    constants: list[object] = field(default_factory=list)
    depth: int = 1
    span: Span | None = None
    unsure: str = UNSURE  # what is done where something is not sure
    _names: int = 0
    _seen: dict[tuple[object, ...], Text] = field(default_factory=dict)
    _words: dict[Hashable, str] = field(default_factory=dict)

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)
        self.spans.append(self.span)

    def unless(self, condition: str) -> None:
        """Not sure, unless the condition holds."""
        self.line(f"if not ({condition}): {self.unsure}")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A nested block: what is read in it is not known after it."""
        self.line(head)
        before, length = dict(self._seen), len(self.lines)
        self.depth += 1
        if self.depth > 60:
            raise NotQuick("nested too deep for Python")
        yield
        if len(self.lines) == length:
            self.line("pass")
        self.depth -= 1
        self._seen = before

    @contextmanager
    def about(self, span: Span | None) -> Iterator[None]:
        before, self.span = self.span, span
        yield
        self.span = before

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def put(self, code: str) -> str:
        name = self.name()
        self.line(f"{name} = {code}")
        return name

    def constant(self, value: object) -> str:
        """A constant of the policy, each by a name of its own: rules of one shape may have any."""
        self.constants.append(value)
        return f"C{len(self.constants) - 1}"

    def word(self, value: Hashable) -> str:
        """A name or a type, by the one name that it has in all of the function."""
        key = (type(value), value)  # a type equals its name
        if key not in self._words:
            self._words[key] = self.constant(value)
        return self._words[key]

    def _once(self, key: tuple[object, ...], write: Callable[[], Text]) -> Text:
        found = self._seen.get(key)
        if found is None:
            found = write()
            self._seen[key] = found
        return found

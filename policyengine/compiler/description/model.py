"""A description of a program as data: endpoints, their rules, and how each condition is tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policyengine.control_characters import one_line

INDENT = "  "
MARGIN = 100  # the column of source places


@dataclass(frozen=True, slots=True)
class ProgramItem:
    """A part of the program: its words in the policy, how the walker tests it, its source place, and its
    inner parts.
    """

    kind: str
    words: str
    test: str = ""
    at: str = ""
    parts: tuple[ProgramItem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return `{"kind", "words"}`, and `test`, `at` and `parts` if they are not empty."""
        optional = {"test": self.test, "at": self.at, "parts": [part.to_dict() for part in self.parts]}
        return {"kind": self.kind, "words": self.words} | {name: value for name, value in optional.items() if value}

    def lines(self, depth: int = 1, outer: str = "") -> Iterator[str]:
        """Yield the item as lines. A part at the same place as its outer item does not repeat the place."""
        text = f"{INDENT * depth}{one_line(self.words)}{f'   # {one_line(self.test)}' if self.test else ''}"
        yield f"{text:<{MARGIN}}  {one_line(self.at)}" if self.at not in ("", outer) else text
        for part in self.parts:
            yield from part.lines(depth + 1, self.at or outer)


@dataclass(frozen=True, slots=True)
class EndpointDescription:
    """One distinct endpoint: all requests that the same patterns match. `endpoint` is an example, with `*` for any
    other segment.
    """

    endpoint: str
    patterns: tuple[str, ...]
    rules: tuple[ProgramItem, ...]

    def to_dict(self) -> dict[str, Any]:
        rules = [item.to_dict() for item in self.rules]
        return {"endpoint": self.endpoint, "patterns": list(self.patterns), "rules": rules}

    def lines(self) -> Iterator[str]:
        yield one_line(self.endpoint)
        yield from (f"{INDENT}matches {one_line(pattern)}" for pattern in self.patterns)
        for item in self.rules:
            yield from item.lines()


@dataclass(frozen=True, slots=True)
class ProgramDescription:
    """The program of a policy. `slots` is the number of facts that it reads, each at most once in a decision; `always`
    are the rules, apart from guards and limits, that apply to every endpoint; `omitted` is the number of branches of
    paths whose endpoints are left out.
    """

    packages: tuple[str, ...]
    revision: str
    slots: int
    always: tuple[ProgramItem, ...]
    endpoints: tuple[EndpointDescription, ...]
    omitted: int

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON data."""
        return {
            "packages": list(self.packages),
            "revision": self.revision,
            "slots": self.slots,
            "always": [item.to_dict() for item in self.always],
            "endpoints": [endpoint.to_dict() for endpoint in self.endpoints],
            "omitted": self.omitted,
        }

    def render(self) -> str:
        """Return the description as text."""
        return "".join(f"{line}\n" for line in self.lines())

    def lines(self) -> Iterator[str]:
        yield f"program of {one_line(', '.join(self.packages))}, revision {self.revision}"
        yield f"{_count(len(self.endpoints), 'endpoint')}, {_count(self.slots, 'slot')}"
        yield "every other request is denied by default"
        for item in self.always:
            yield from item.lines()
        for endpoint in self.endpoints:
            yield ""
            yield from endpoint.lines()
        if self.omitted:
            yield ""
            yield f"left out: the endpoints below {_count(self.omitted, 'more branch', 'more branches')} of paths"
            yield "`policyengine graph --endpoint PATH/**` draws their rules"


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"

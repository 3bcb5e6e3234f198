"""Prose of the project: docstrings, comments and texts of the package, and the pages that users read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.style.names import ROOT, is_exempt, nodes

PROJECT = ROOT.parent
# Unclear words, with replacements. A phrase that returns fails the test.
PHRASES = {
    r"(?<!there )(is|are|was|were) (?-i:none)": "is missing, is malformed, is not a valid …",
    r"told": "reported, logged, returned",
    r"what becomes of": "what happens to",
    r"be it": "whether … or …",
    r"anew": "again",
    r"in vain": "without success",
    r"to be had": "available",
    r"has (no|a) say": "name the effect",
    r"(is|are) wanted": "is required, is requested",
    r"(is|are) of another": "belongs to another",
    r"some (hundred|thousand|milliseconds|seconds|minutes)": "a few hundred, several milliseconds",
}
# Pages may speak of people; the package names the caller, the client or the operator.
PACKAGE_PHRASES = {
    **PHRASES,
    r"whoever|whomever": "the caller, the client, the operator",
    r"somebody|nobody": "a caller, a client, no caller",
}
PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
PACKAGE_PHRASE = re.compile(rf"\b({'|'.join(PACKAGE_PHRASES)})\b", re.IGNORECASE)
# A docstring that begins with one of these is an incomplete sentence.
FRAGMENT = re.compile(r"(What|Who|Whose|Whom|Whoever|Of|Those|As|So|That)\b")
# Finds the comments that `tokenize` finds, forty times faster.
STRING_OR_COMMENT = re.compile(
    r'''"""(?:\\.|.)*?"""|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|#[^\n]*''', re.DOTALL
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prose:
    """A docstring, a comment, a text or a page, and where it starts."""

    kind: str  # docstring, comment, text, page
    place: str
    text: str

    @property
    def phrases(self) -> list[str]:
        """Return the listed phrases in it, outside code."""
        phrase = PHRASE if self.kind == "page" else PACKAGE_PHRASE
        return [match[0] for match in phrase.finditer(CODE.sub("`…`", self.text))]

    @property
    def is_fragment(self) -> bool:
        return self.kind == "docstring" and FRAGMENT.match(self.text) is not None


@cache
def package_prose() -> tuple[Prose, ...]:
    """Return every docstring, comment and text of the package, except those that the evaluator issue replaces."""
    return tuple(one for module in nodes() if not is_exempt(module) for one in module_prose(module))


def module_prose(module: str) -> Iterator[Prose]:
    docstrings = set()
    source = (ROOT / module).read_text()
    for node in nodes()[module]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                docstrings.add(node.body[0].lineno)
                yield Prose("docstring", f"{module}:{node.body[0].lineno}", text)
    for node in nodes()[module]:
        if isinstance(node, ast.Constant) and " " in str(node.value) and node.lineno not in docstrings:
            yield Prose("text", f"{module}:{node.lineno}", str(node.value))
    yield from comments(module, source)


def comments(module: str, source: str) -> Iterator[Prose]:
    row, after = 1, 0
    for match in STRING_OR_COMMENT.finditer(source):
        row, after = row + source.count("\n", after, match.start()), match.start()
        if match[0].startswith("#"):
            yield Prose("comment", f"{module}:{row}", match[0])


def pages() -> Iterator[Prose]:
    """The README, the pages of `docs/` and the notes for contributors, a paragraph each."""
    for path in (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))):
        yield from page_prose(path)


def page_prose(path: Path) -> Iterator[Prose]:
    row = 1
    for paragraph in re.split(r"(?<=\n)\n", CODE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())):
        yield Prose("page", f"{path.name}:{row}", paragraph)
        row += paragraph.count("\n") + 1

"""Prose of the project: docstrings, comments and texts of the package, and the pages that users read."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.style.names import ROOT, is_exempt

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


def package_prose() -> Iterator[Prose]:
    """Return every docstring, comment and text of the package, except those that the evaluator issue replaces."""
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        if not is_exempt(module):
            yield from module_prose(module, path.read_text())


def module_prose(module: str, source: str) -> Iterator[Prose]:
    docstrings = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                docstrings.add(node.body[0].lineno)
                yield Prose("docstring", f"{module}:{node.body[0].lineno}", text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and " " in str(node.value) and node.lineno not in docstrings:
            yield Prose("text", f"{module}:{node.lineno}", str(node.value))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Prose("comment", f"{module}:{token.start[0]}", token.string)


def pages() -> Iterator[Prose]:
    """The README, the pages of `docs/` and the notes for contributors, a paragraph each."""
    for path in (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))):
        yield from page_prose(path)


def page_prose(path: Path) -> Iterator[Prose]:
    row = 1
    for paragraph in re.split(r"(?<=\n)\n", CODE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())):
        yield Prose("page", f"{path.name}:{row}", paragraph)
        row += paragraph.count("\n") + 1

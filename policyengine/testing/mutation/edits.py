"""Edits a source text: removes or replaces phrases, and shows the change as a diff."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policyengine.control_characters import one_line
from policyengine.source import Source, Span

CONTEXT_LINES = 2  # context lines of a diff
# Text between phrases that contains no word: spaces, comments and strings. A string may contain anything.
COMMENT_OR_STRING = r'#[^\n]*|"(?:[^"\\\n]|\\.)*"'


@dataclass(frozen=True, slots=True)
class MutationEdit:
    """A replacement of the characters from `start` to `end` (exclusive) by `text`."""

    start: int
    end: int
    text: str


def replace_span(span: Span, text: str) -> MutationEdit:
    return MutationEdit(span.start, span.end, text)


def insert_text(at: int, text: str) -> MutationEdit:
    return MutationEdit(at, at, text)


def cut_range(source: Source, start: int, end: int) -> MutationEdit:
    """Return the edit that removes a range, with its lines and trailing comment if nothing else is on them."""
    text = source.text
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end) if "\n" in text[end:] else len(text)
    before, after = text[line_start:start], text[end:line_end]
    if not before.strip() and (not after.strip() or after.lstrip().startswith("#")):
        return MutationEdit(line_start, min(line_end + 1, len(text)), "")
    if not before.strip():
        return MutationEdit(start, end + len(after) - len(after.lstrip(" \t")), "")
    left = start - (len(before) - len(before.rstrip(" \t")))
    return MutationEdit(left, end, "" if not after or after[0].isspace() else " ")


def cut_span(span: Span) -> MutationEdit:
    return cut_range(span.source, span.start, span.end)


def cut_item(spans: Sequence[Span], number: int) -> MutationEdit:
    """Return the edit that removes an item from a list, with its comma."""
    if number + 1 < len(spans):
        return MutationEdit(spans[number].start, spans[number + 1].start, "")
    if number:
        return MutationEdit(spans[number - 1].end, spans[number].end, "")
    return cut_span(spans[number])


def find_word(source: Source, start: int, end: int, words: str) -> Span | None:
    """Return the first of the words (`and|or`) in a range, outside comments and strings; None if no word is found."""
    for match in re.compile(rf"{COMMENT_OR_STRING}|\b(?P<word>{words})\b").finditer(source.text, start, end):
        if match["word"] is not None:
            return Span(source, match.start("word"), match.end("word"))
    return None


def apply_edits(text: str, edits: Iterable[MutationEdit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


@dataclass(frozen=True, slots=True)
class ChangedLines:
    """The lines that edits change: `first` is counted from 1; `before` and `after` have no line breaks."""

    first: int
    before: tuple[str, ...]
    after: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, edits: Sequence[MutationEdit]) -> ChangedLines:
        text = source.text
        start = text.rfind("\n", 0, min(edit.start for edit in edits)) + 1
        last = max(edit.end for edit in edits)
        ends_a_line = last > start and text[last - 1] == "\n" and all(edit.text == "" for edit in edits)
        end = last if ends_a_line else (text.find("\n", last) + 1 or len(text))
        moved = [MutationEdit(edit.start - start, edit.end - start, edit.text) for edit in edits]
        before, after = text[start:end], apply_edits(text[start:end], moved)
        return cls(source.position(start)[0], tuple(before.splitlines()), tuple(after.splitlines()))

    def diff(self, source: Source) -> str:
        """Return a unified diff of the change."""
        above = [source.line(number) for number in range(max(1, self.first - CONTEXT_LINES), self.first)]
        next_line, lines = self.first + len(self.before), source.text.count("\n") + 1
        below = [source.line(number) for number in range(next_line, min(next_line + CONTEXT_LINES, lines + 1))]
        below = below[:-1] if below and next_line + len(below) > lines and not below[-1] else below
        start, around = self.first - len(above), len(above) + len(below)
        head = f"@@ -{start},{around + len(self.before)} +{start},{around + len(self.after)} @@"
        body = [*(f" {line}" for line in above), *(f"-{line}" for line in self.before)]
        body += [*(f"+{line}" for line in self.after), *(f" {line}" for line in below)]
        name = one_line(source.name)
        return "\n".join([f"--- {name}", f"+++ {name}", head, *body])

    @property
    def telling(self) -> str:
        """The changed line without its comment; if it was removed, the old line."""
        unchanged = set(self.before)
        changed = [line for line in self.after if line.strip() and line not in unchanged]
        gone = [line for line in self.before if line.strip() and line not in set(self.after)]
        return " ".join(without_comment((changed or gone or [""])[0]).split())


def without_comment(line: str) -> str:
    """Return a line without its comment; a line with only a comment is unchanged."""
    found = (one for one in re.finditer(COMMENT_OR_STRING, line) if one[0].startswith("#"))
    comment = next(found, None)
    return line if comment is None else line[: comment.start()].rstrip() or line

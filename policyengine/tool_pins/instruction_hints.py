"""Hints for the reviewer of a definition: places where its texts address the model, name secrets or hide something.

The hints are heuristics. No decision depends on them: a text without hints may still be hostile.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from policyengine.checker.confusable_text import WORD, scripts_of
from policyengine.control_characters import is_invisible
from policyengine.tool_pins.definitions import MAX_DEFINITION_DEPTH
from policyengine.tool_pins.differences import join_path

MAX_HINTS = 50
MAX_EXCERPT = 80
MIN_TOOL_NAME = 4  # shorter names of other tools are usually words
MAX_SCANNED = 64 * 1024  # characters of one text
BLOB_LENGTH = 80


class HintKind(StrEnum):
    INSTRUCTION = "instruction to the model"
    SECRECY = "hides something from the user"
    SECRET = "names a secret"
    ADDRESS = "names an address"
    MARKUP = "markup"
    INVISIBLE = "invisible characters"
    MIXED = "letters of several alphabets in one word"
    OTHER_TOOL = "names another tool"
    BLOB = "encoded data"
    DISTANCE = "text far out of sight"


@dataclass(frozen=True, slots=True)
class InstructionHint:
    """A hint: the path of the text, and the part of the text that causes it."""

    kind: HintKind
    path: str
    excerpt: str


NAME_LIKE = re.compile(r"[\w-]+(?:[./:][\w-]+)*")
PATTERNS: Mapping[HintKind, re.Pattern[str]] = {
    HintKind.INSTRUCTION: re.compile(
        r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:previous|prior|above|earlier|other|all|any)\b"
        r"|\byou (?:must|should|shall|need to|have to|are (?:now|required))\b"
        r"|\b(?:always|never) (?:call|use|run|invoke|include|pass|send|ask|answer|mention)\b"
        r"|\b(?:before|after|instead of) (?:using|calling|running|invoking|you use|you call)\b"
        r"|\bdo not (?:use|call|ask|answer|follow|refuse)\b"
        r"|\bsystem prompt\b|\bnew instructions?\b|\bact as\b|\bfrom now on\b"
    ),
    HintKind.SECRECY: re.compile(
        r"\b(?:do not|don't|never|without) (?:tell|telling|mention|mentioning|inform|informing|show|showing|reveal"
        r"|revealing|notify|notifying|ask|asking|display|log)\b"
        r"|\b(?:secretly|silently|quietly|covertly)\b|\bhidden from\b|\b(?:confidential|keep this)\b"
    ),
    HintKind.SECRET: re.compile(
        r"~/\.\w+|\bid_(?:rsa|ed25519|ecdsa)\b|\.env\b|/etc/(?:passwd|shadow)\b|\bmcp\.json\b"
        r"|\b(?:api|private|ssh|secret|access)[ _-]?keys?\b|\bpasswords?\b|\bcredentials?\b|\baccess tokens?\b"
    ),
    HintKind.ADDRESS: re.compile(
        r"\b(?:https?|ftp|wss?|file|data|javascript):[^\s]{3}|\b[\w.+-]{1,64}@[\w-]{1,64}\.\w"
    ),
    HintKind.MARKUP: re.compile(r"<!--|</?[a-z][a-z0-9_-]{0,30}[ >/]|\[/?(?:inst|system)\]|```"),
    HintKind.BLOB: re.compile(rf"[a-z0-9+/_=-]{{{BLOB_LENGTH}}}"),
}


def find_hints(definition: Mapping[str, Any], others: Collection[str] = ()) -> list[InstructionHint]:
    """Return the first hints in the texts of a definition; `others` are the names of other tools."""
    named = {name.casefold() for name in others if len(name) >= MIN_TOOL_NAME} - {
        str(definition.get("name")).casefold()
    }
    hints = (hint for path, text in texts_in("", definition, 0) for hint in hints_in(path, text, named))
    return list(islice(hints, MAX_HINTS))


def texts_in(path: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    """Yield each string and each unusual name of a member, with its path."""
    if depth > MAX_DEFINITION_DEPTH:
        return
    if isinstance(value, str):
        yield path, value[:MAX_SCANNED]
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if not name.isidentifier() or not name.isascii():
                yield join_path(path, name), name[:MAX_SCANNED]
            yield from texts_in(join_path(path, name), inner, depth + 1)
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from texts_in(f"{path}[{at}]", inner, depth + 1)


def hints_in(path: str, text: str, others: Collection[str]) -> Iterator[InstructionHint]:
    unseen = next((at for at, char in enumerate(text) if is_invisible(char)), None)
    if unseen is not None:
        yield InstructionHint(HintKind.INVISIBLE, path, excerpt_at(text, unseen, MAX_EXCERPT // 2))
    for word in WORD.finditer(text):
        if len(scripts_of(word[0])) > 1:
            yield InstructionHint(HintKind.MIXED, path, word[0][:MAX_EXCERPT])
            break
    far = re.search(r"\S[^\S\n]{60}|\n(?:[^\S\n]*\n){8}", text)
    if far is not None and text[far.end() :].strip():
        yield InstructionHint(HintKind.DISTANCE, path, excerpt_at(text[far.end() :].lstrip(), 0))
    plain = comparable_text(text)
    for kind, pattern in PATTERNS.items():
        if (found := pattern.search(plain)) is not None:
            yield InstructionHint(kind, path, excerpt_at(plain, found.start()))
    for name in dict.fromkeys(NAME_LIKE.findall(plain)):
        if name in others:
            yield InstructionHint(HintKind.OTHER_TOOL, path, name[:MAX_EXCERPT])


def comparable_text(text: str) -> str:
    """Return the text without invisible characters, styled letters, letter case and repeated white space."""
    seen = "".join(char for char in text if not is_invisible(char))
    return " ".join(unicodedata.normalize("NFKC", seen).casefold().split())


def excerpt_at(text: str, at: int, before: int = 0) -> str:
    return text[max(0, at - before) :][:MAX_EXCERPT]

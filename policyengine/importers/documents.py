"""Parses a specification to plain values: JSON, or YAML without tags that execute code. YAML values have
line numbers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policyengine.importers.errors import ApiImportError
from policyengine.install_hints import install_command

Value: TypeAlias = "dict[str, Any] | list[Any] | str | int | float | bool | None"

MAX_DEPTH = 200
MERGE = "<<"
MAX_VALUES = 5_000_000
INSTALL_HINT = f"{install_command('openapi')}, or convert the document to JSON"
TABS_HINT = "indent YAML with spaces, not with tabs"
YAML_INT, YAML_FLOAT = (
    re.compile(r"[-+]?[0-9]+"),
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
)
YAML_WORDS: dict[str, Value] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document. `lines` maps mappings and lists to their lines, by identity; it is empty for JSON."""

    name: str
    tree: Value
    lines: dict[int, int] = field(default_factory=dict)


def read_document(name: str, data: bytes) -> Document:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ApiImportError("this is not UTF-8", f"`{name}`:{line}", "save it as UTF-8") from None
    try:
        if text.lstrip()[:1] in ("{", "["):
            return Document(name, _parse_json(name, text))
        return _parse_yaml(name, text)
    except RecursionError:
        raise ApiImportError("this is nested too deeply", f"`{name}`") from None


def _parse_json(name: str, text: str) -> Value:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise ApiImportError(f"a mapping contains the key `{twice[:80]}` twice", f"`{name}`", "remove one of them")
        return found

    try:
        tree: Value = json.loads(text, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        raise ApiImportError(
            f"this is not valid JSON: {error.msg.lower()}", f"`{name}`:{error.lineno}:{error.colno}"
        ) from None
    except ValueError:  # a number with thousands of digits
        raise ApiImportError("this contains a number that is too long", f"`{name}`") from None
    return tree


# ── YAML, built from its events: no tags and no objects; an alias is another reference to the same value ──────────


def _parse_yaml(name: str, text: str) -> Document:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise ApiImportError("reading YAML needs PyYAML, which is not installed", f"`{name}`", INSTALL_HINT) from None

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _YamlTreeBuilder(name).document(yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "the text cannot be read"
        place = f"`{name}`:{mark.line + 1}:{mark.column + 1}" if mark else f"`{name}`"
        raise ApiImportError(
            f"this is not valid YAML: {why}", place, TABS_HINT if _indented_by_tabs(text, mark) else None
        ) from None


def _indented_by_tabs(text: str, mark: Any) -> bool:
    line = "" if mark is None else "".join(text.split("\n")[mark.line : mark.line + 1])
    return "\t" in line[: len(line) - len(line.lstrip())]


class _YamlTreeBuilder:
    """Builds a tree from YAML events. Open nodes are on a stack, so depth needs no recursion."""

    def __init__(self, name: str) -> None:
        self.name = name
        # The open nodes, each with the key whose value comes next.
        self.opened: list[tuple[dict[str, Any] | list[Any], list[str]]] = []
        self.anchors: dict[str, Value] = {}
        self.lines: dict[int, int] = {}
        self.roots: list[Value] = []
        self.count = 0

    def document(self, events: Iterator[Any]) -> Document:
        for event in events:
            self.count += 1
            if self.count > MAX_VALUES:
                raise self.problem(event, f"more than {MAX_VALUES:,} values")
            self.take(event)
        if len(self.roots) > 1:
            raise ApiImportError(f"this contains {len(self.roots)} documents instead of one", f"`{self.name}`")
        return Document(self.name, self.roots[0] if self.roots else None, self.lines)

    def take(self, event: Any) -> None:
        match type(event).__name__:
            case "MappingStartEvent":
                self.open(event, {})
            case "SequenceStartEvent":
                self.open(event, [])
            case "MappingEndEvent" | "SequenceEndEvent":
                self.merge(event, self.opened.pop()[0])
            case "ScalarEvent":
                value = self.scalar(event)
                self.name_it(event, value)
                self.put(event, value, event.value)
            case "AliasEvent":
                self.alias(event)
            case _:
                pass

    def open(self, event: Any, value: dict[str, Any] | list[Any]) -> None:
        self.refuse_tag(event)
        self.put(event, value, None)
        self.lines[id(value)] = event.start_mark.line + 1
        self.name_it(event, value)
        self.opened.append((value, []))
        if len(self.opened) > MAX_DEPTH:
            raise self.problem(event, f"this is nested more than {MAX_DEPTH} levels deep")

    def merge(self, event: Any, value: dict[str, Any] | list[Any]) -> None:
        """Apply `<<: *base`: add the members of the base that are missing here. Raises ApiImportError."""
        if not isinstance(value, dict) or MERGE not in value:
            return
        merged = value.pop(MERGE)
        for base in merged if isinstance(merged, list) else [merged]:
            if not isinstance(base, dict):
                raise self.problem(event, "`<<` needs a mapping, or a list of mappings")
            self.count += len(base)
            for key, inherited in base.items():
                value.setdefault(key, inherited)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise self.problem(event, f"the anchor `&{event.anchor}` is not defined")
        value = self.anchors[event.anchor]
        if any(value is opened for opened, _ in self.opened):
            raise self.problem(event, f"`*{event.anchor}` refers to a value that contains it")
        self.put(event, value, value if isinstance(value, str) else None)

    def name_it(self, event: Any, value: Value) -> None:
        if event.anchor is not None:
            self.anchors[event.anchor] = value

    def put(self, event: Any, value: Value, key: str | None) -> None:
        if not self.opened:
            self.roots.append(value)
            return
        inside, waiting = self.opened[-1]
        if isinstance(inside, list):
            inside.append(value)
        elif waiting:
            inside[waiting.pop()] = value
        elif key is None:
            raise self.problem(event, "a key must be a string")
        elif key in inside:
            raise self.problem(event, f"a mapping contains the key `{key[:80]}` twice", "remove one of them")
        else:
            waiting.append(key)

    def scalar(self, event: Any) -> Value:
        self.refuse_tag(event)
        text: str = event.value
        if not event.implicit[0]:  # a quoted scalar is a string
            return text
        if text in YAML_WORDS:
            return YAML_WORDS[text]
        if YAML_INT.fullmatch(text) and len(text) < 300:
            return int(text)
        return float(text) if YAML_FLOAT.fullmatch(text) else text

    def refuse_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self.problem(event, f"the tag `{str(event.tag)[:80]}` is not supported", "write the value itself")

    def problem(self, event: Any, message: str, hint: str | None = None) -> ApiImportError:
        mark = event.start_mark
        return ApiImportError(message, f"`{self.name}`:{mark.line + 1}:{mark.column + 1}", hint)

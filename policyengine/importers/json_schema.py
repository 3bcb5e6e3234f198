"""Converts JSON Schema to facts: the members of a body or of a tool's arguments whose types the language can express.

A member of any other type is not a fact, so no rule can depend on it. If several schemas may apply, a member is a fact
only if all schemas that have it agree on its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from policyengine.importers.document_nodes import DocumentNode
from policyengine.importers.errors import ApiImportError
from policyengine.importers.model import OperationFact
from policyengine.importers.sanitize import is_inner_member, is_member

MAX_FACTS = 48
MAX_RECORD_MEMBERS = 24
MAX_DEPTH = 3
MAX_SCHEMA_NODES = 200  # maximum schemas to visit for one body, which stops recursive schemas
SCALARS = {"string": "string", "integer": "int", "number": "number", "boolean": "bool"}
FORMATS = {"date-time": "time", "ipv4": "ip", "ipv6": "ip"}


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """The members of an object: the type of each, and whether it is required. The type is None if no type
    of the language fits, or if schemas disagree."""

    members: dict[str, tuple[str | None, bool]] = field(default_factory=dict)


@dataclass(slots=True)
class JsonSchemaReader:
    """Reads one schema; `left` is the number of nodes that it may still visit."""

    left: int = MAX_SCHEMA_NODES

    def shape(self, node: DocumentNode, level: int) -> ObjectShape:
        node = node.followed()
        self.left -= 1
        if self.left < 0 or not isinstance(node.value, dict):
            return ObjectShape()
        own = ObjectShape(dict(self.own_members(node, level)))
        parts = [own, *(self.shape(part, level) for part in _child_nodes(node, "allOf"))]
        found = _merge_required(parts)
        for word in ("oneOf", "anyOf"):
            if options := [self.shape(option, level) for option in _child_nodes(node, word) if not _is_null(option)]:
                found = _merge_required([found, _merge_alternatives(options)])
        required = {name for name in _string_items(node, "required") if name in found.members}
        return ObjectShape({name: (type_, need or name in required) for name, (type_, need) in found.members.items()})

    def own_members(self, node: DocumentNode, level: int) -> Iterator[tuple[str, tuple[str | None, bool]]]:
        properties = node.get("properties")
        if properties is None:
            return
        required = set(_string_items(node, "required"))
        for name, member in properties.members("`properties`"):
            if self.left > 0:
                type_, nullable = self.type(member, level)
                yield name, (type_, name in required and not nullable)

    def type(self, node: DocumentNode, level: int) -> tuple[str | None, bool]:
        """Return the type in the language (None if no type fits), and whether null is allowed."""
        node = node.followed()
        self.left -= 1
        if self.left < 0 or not isinstance(node.value, dict):
            return None, True
        kinds, nullable = _declared_types(node)
        if options := _child_nodes(node, "oneOf") or _child_nodes(node, "anyOf"):
            return self.one_type(node, options, level, nullable)
        if kinds == ["array"]:
            return self.list_type(node, level), nullable
        if kinds == ["object"] or (not kinds and ("properties" in node.value or "allOf" in node.value)):
            return self.record_type(node, level), nullable
        if len(kinds) == 1 and kinds[0] in SCALARS:
            known = FORMATS.get(node.words("format")) if kinds[0] == "string" else None
            return known or SCALARS[kinds[0]], nullable
        return None, True

    def one_type(
        self, node: DocumentNode, options: list[DocumentNode], level: int, nullable: bool
    ) -> tuple[str | None, bool]:
        found = [self.type(option, level) for option in options if not _is_null(option)]
        types = {type_ for type_, _ in found}
        maybe = nullable or any(null for _, null in found) or len(found) < len(options)
        return (types.pop() if len(types) == 1 and not node.has("properties") else None), maybe

    def list_type(self, node: DocumentNode, level: int) -> str | None:
        items = node.get("items")
        if items is None or level >= MAX_DEPTH:
            return None
        inner, nullable = self.type(items, level + 1)
        return None if inner is None or nullable else f"list<{inner}>" if inner.isalpha() else None

    def record_type(self, node: DocumentNode, level: int) -> str | None:
        if level >= MAX_DEPTH:
            return None
        members = self.shape(node, level + 1).members
        written = [
            f"{name}: {type_}{'' if need else '?'}"
            for name, (type_, need) in members.items()
            if type_ is not None and is_inner_member(name)
        ]
        return f"{{ {'   '.join(written)} }}" if written and len(written) <= MAX_RECORD_MEMBERS else None


def facts_of(root: str, node: DocumentNode) -> tuple[tuple[OperationFact, ...], tuple[str, ...]]:
    """Return the facts below `body` or `args`, and notes about schemas that cannot be read."""
    try:
        members = JsonSchemaReader().shape(node, 0).members
    except ApiImportError as problem:
        return (), (f"{problem}: its facts are left out",)
    except RecursionError:
        return (), (f"{node.place}: this is nested too deeply, so its facts are left out",)
    found = [
        OperationFact(f"{root}.{name}", type_, not need)
        for name, (type_, need) in members.items()
        if type_ is not None and is_member(name)
    ]
    return tuple(found[:MAX_FACTS]), ()


# ── Parts ─────────────────────────────────────────────────────────────────────────────────────


def _merge_required(parts: list[ObjectShape]) -> ObjectShape:
    """Merge schemas that all apply: a member is required if one of them requires it."""
    found: dict[str, tuple[str | None, bool]] = {}
    for part in parts:
        for name, (type_, need) in part.members.items():
            known, needed = found.get(name, (type_, False))
            found[name] = (known if known == type_ else None), need or needed
    return ObjectShape(found)


def _merge_alternatives(options: list[ObjectShape]) -> ObjectShape:
    """Merge alternative schemas: a member is required if all of them require it."""
    found = _merge_required(options).members
    needed = {name for name in found if all(option.members.get(name, ("", False))[1] for option in options)}
    return ObjectShape({name: (type_, name in needed) for name, (type_, _) in found.items()})


def _declared_types(node: DocumentNode) -> tuple[list[str], bool]:
    """Return the types without null, and whether null is allowed (`nullable` in OpenAPI 3.0, "null" in 3.1)."""
    value = node.value.get("type") if isinstance(node.value, dict) else None
    written = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    return [one for one in written if one != "null"], "null" in written or node.flag("nullable") is True


def _is_null(node: DocumentNode) -> bool:
    return isinstance(node.value, dict) and node.value.get("type") == "null"


def _child_nodes(node: DocumentNode, key: str) -> list[DocumentNode]:
    value = node.value.get(key) if isinstance(node.value, dict) else None
    return list(node.child(key, value).elements(f"`{key}`")) if value is not None else []


def _string_items(node: DocumentNode, key: str) -> list[str]:
    value = node.value.get(key) if isinstance(node.value, dict) else None
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

"""Converts the result of MCP's `tools/list`, from a file or a server, to operations.

Names, descriptions and hints are claims of the server. A hint can only make a tool's kind stricter or affect the order
of tools; it never grants access. Descriptions are stored as digests, so that changes are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from policyengine.importers.coaz_mappings import MAPPING, read_mapping
from policyengine.importers.document_nodes import DocumentNode
from policyengine.importers.documents import Document, read_document
from policyengine.importers.errors import ApiImportError
from policyengine.importers.fetch import base_of, is_url, read_base
from policyengine.importers.json_schema import facts_of
from policyengine.importers.mcp_client import list_offers
from policyengine.importers.mcp_offers import MEMBERS, OfferReader, unwritable_reason
from policyengine.importers.model import Api, ApiOperation, ApiOperationKind, ServerTool
from policyengine.importers.openapi import WORD_PATTERN, is_destructive
from policyengine.importers.sanitize import printable, quoted_comment, safe_name
from policyengine.runtime.paths import HAZARDS
from policyengine.tool_pins.definitions import MAX_LISTED_TOOLS, Definition
from policyengine.tool_pins.look_alikes import look_alike_key

BARE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
JOINING_CHARACTERS = frozenset("-./:")
MAX_TOOL_NAME_LENGTH = 128
# A tool that runs code or commands of the caller does more than read.
EXECUTION_WORDS = frozenset(
    "run exec execute eval shell bash sh zsh cmd command powershell spawn sudo terminal repl interpreter "
    "subprocess".split()
)
MAX_TOOLS_IN_ONE_AREA = 40  # a larger list is grouped by the first word of the tool names


def read_tools(source: str, name: str | None = None) -> Api:
    """Read tools from `source`: a JSON file, a URL, or a command. `name` is the server's name at the gateway. Raises
    ApiImportError.
    """
    notes: Sequence[str] = ()
    if is_json_file(source):
        document = read_document(source, read_base(base_of(source)))
        called = ""
        listings = None
    else:
        listed, tree = list_offers(source)
        document, called, listings = Document(source, tree), listed.name, listed.listings
        notes = listed.notes
    server = safe_name(name or called or (Path(source).stem if is_json_file(source) else ""), "tools").strip("_")
    return _ToolListReader(document, name or server, listings, notes).api(server)


def is_json_file(source: str) -> bool:
    """Return whether the source is a JSON file; a command may also end in a file name."""
    named = not is_url(source) and source.lower().endswith(".json")
    return named and (Path(source).is_file() or not any(map(str.isspace, source)))


class _ToolListReader:
    def __init__(
        self,
        document: Document,
        server: str,
        listings: Mapping[str, Sequence[Definition]] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.document, self.server, self.listings = document, server, listings
        self.notes = list(notes)
        if unmatchable_reason(server) or "/" in server:
            raise ApiImportError(
                f"`{printable(server)}` is not a valid server name", hint="use letters, digits, `-` and `_`"
            )

    def api(self, package: str) -> Api:
        found: dict[str, ApiOperation] = {}
        for node in self.listed():
            operation = self.operation(node)
            if operation is None:
                continue
            before = found.get(operation.key)
            if before is not None:
                self.notes.append(
                    f"`{printable(operation.key)}` is listed twice: the stricter one is used, without facts"
                )
                kind = max(before.kind, operation.kind, key=lambda kind: kind.severity)
                operation = ApiOperation(before.endpoint, kind, before.area, summary=before.summary, said=before.said)
            found[operation.key] = operation
        self.notes += _look_alike_notes(
            [one.endpoint.name for one in found.values() if isinstance(one.endpoint, ServerTool)]
        )
        reader = OfferReader(self.server)
        offers = reader.read(self._whole())
        listed = [node.value for node in self.listed() if isinstance(node.value, dict)]
        return Api(
            "mcp", self.document.name, package, _sorted_by_area(tuple(found.values())), (*self.notes, *reader.notes),
            offers, self.server, self.listings or ({"": listed} if listed else {}),
        )  # fmt: skip

    def _whole(self) -> DocumentNode:
        """Return the object with the lists, which may be the result in a complete JSON-RPC response."""
        node = DocumentNode(self.document.tree, "", self.document)
        if isinstance(node.value, dict) and isinstance(node.value.get("result"), dict):
            return node.child("result", node.value["result"])
        return node

    def listed(self) -> Iterator[DocumentNode]:
        """Yield the tools of a plain list, or of the object around it. Raises ApiImportError."""
        node = self._whole()
        if isinstance(node.value, dict):
            if "tools" not in node.value:
                if any(name in node.value for name, _ in MEMBERS.values()):
                    return iter(())
                raise node.problem("`tools` is missing", "pass the result of `tools/list`")
            node = node.child("tools", node.value["tools"])
        listed = list(node.elements("`tools`"))
        if len(listed) > MAX_LISTED_TOOLS:
            raise node.problem(f"more than {MAX_LISTED_TOOLS:,} tools")
        return iter(listed)

    def operation(self, node: DocumentNode) -> ApiOperation | None:
        members = dict(node.members("a tool"))
        if "name" not in members:
            raise node.problem("this tool has no `name`")
        name = members["name"].text("a name")
        if why := unmatchable_reason(name):
            self.notes.append(f"the tool `{printable(name)}` {why}; it is left out and stays denied")
            return None
        schema = node.raw("inputSchema")
        facts, notes = facts_of("args", _as_own_document(schema)) if schema is not None else ((), ())
        self.notes += [f"`{printable(name)}`: {note}" for note in notes]
        actions, more = read_mapping(declared_mapping(schema), facts)
        self.notes += [f"`{printable(name)}`: {note}" for note in more]
        return ApiOperation(
            ServerTool(self.server, name, tool_pattern(f"{self.server}/{name}")),
            self.kind(name, node),
            safe_name(name.replace("/", "_"), "tool").partition("_")[0] or "tool",
            facts,
            (),
            quoted_comment(node.summary),
            said=node.summary_digest,
            actions=actions,
        )

    def kind(self, name: str, node: DocumentNode) -> ApiOperationKind:
        """Return the kind of a tool. Without hints it may be destructive; a read-only claim is accepted only if nothing
        contradicts it.
        """
        hints = node.raw("annotations")
        reads = hints.flag("readOnlyHint") if hints else None
        destroys = hints.flag("destructiveHint") if hints else None
        contradicted = is_destructive(name) or is_execution(name) or destroys is True
        if (
            is_destructive(name)
            or (reads is not None and destroys is True)
            or (contradicted if reads else destroys is not False)
        ):
            if reads is True:
                self.notes.append(
                    f"`{printable(name)}` claims to be read-only, but its name or its hints contradict this"
                )
            return ApiOperationKind.DELETE
        return ApiOperationKind.READ if reads is True else ApiOperationKind.WRITE


def declared_mapping(schema: DocumentNode | None) -> object:
    """Return the mapping to AuthZEN that the schema of a tool declares; None if it declares none."""
    declared = None if schema is None else schema.raw(MAPPING)
    return None if declared is None else declared.value


def _look_alike_notes(names: Sequence[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(look_alike_key(name), []).append(name)
    return [
        f"the names {' and '.join(f'`{printable(name)}`' for name in group[:5])} look alike: check both tools"
        for group in groups.values()
        if len(group) > 1
    ]


def _as_own_document(schema: DocumentNode) -> DocumentNode:
    """Return the schema as a separate document, because its references cannot point into the list that contains it."""
    return DocumentNode(schema.value, "", Document(schema.document.name, schema.value))


def _sorted_by_area(operations: tuple[ApiOperation, ...]) -> tuple[ApiOperation, ...]:
    if len(operations) > MAX_TOOLS_IN_ONE_AREA:
        return operations
    return tuple(
        ApiOperation(o.endpoint, o.kind, "tools", o.facts, o.asks, o.summary, o.deprecated, o.wider, o.said, o.actions)
        for o in operations
    )


def is_execution(name: str) -> bool:
    return any(found.lower() in EXECUTION_WORDS for found in WORD_PATTERN.findall(name))


# ── Names of tools ────────────────────────────────────────────────────────────────────────────


def unmatchable_reason(name: str) -> str:
    """Return the reason why no pattern matches exactly this name; empty if a pattern does."""
    if why := unwritable_reason(name, MAX_TOOL_NAME_LENGTH):
        return why
    if "*" in name:
        return "has a `*` in its name, which would match other names too"
    if not name.isascii() or any(char in name for char in HAZARDS if char != "/"):
        return "has ambiguous characters in its name"
    return ""


def tool_pattern(qualified: str) -> str:
    """Return the tool pattern as the grammar writes it, without quotes if possible."""
    bare = (
        qualified[0] in BARE_CHARACTERS
        and qualified[-1] in BARE_CHARACTERS
        and set(qualified) <= BARE_CHARACTERS | JOINING_CHARACTERS
    )
    escaped = qualified.replace("\\", "\\\\").replace('"', '\\"')
    return f"TOOL {qualified}" if bare else f'TOOL "{escaped}"'


__all__ = ["read_tools", "tool_pattern", "unmatchable_reason"]

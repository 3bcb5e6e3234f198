"""The manifest `imported.json` of earlier imports, to find new, changed and removed endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.bounded_files import read_bounded
from policyengine.importers.errors import ApiImportError
from policyengine.importers.model import OFFER_ENDPOINTS, Api, ApiOperation, ApiOperationKind, ServerOffer
from policyengine.syntax import nodes as ast

MANIFEST_FILE = "imported.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
CAPTURE_PATTERN = re.compile(r"\{[^{}]*\}|(?<=/)\*(?=/|$)")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """The parts of an operation that a later import compares."""

    kind: str
    facts: Mapping[str, str]
    asks: Sequence[Sequence[str]]
    said: str = ""


@dataclass(frozen=True, slots=True)
class ImportManifest:
    kind: str
    package: str
    runs: int
    entries: Mapping[str, ManifestEntry]


def entry_of(operation: ApiOperation) -> ManifestEntry:
    facts = {fact.name: f"{fact.type}{'?' if fact.optional else ''}" for fact in operation.facts}
    return ManifestEntry(operation.kind.value, facts, [sorted(ask) for ask in operation.asks], operation.said)


def offer_entry(offer: ServerOffer) -> ManifestEntry:
    facts = {f"args.{name}": "string?" for name in offer.arguments}
    return ManifestEntry(ApiOperationKind.READ.value, facts, [], offer.said)


def entries_of(api: Api) -> dict[str, ManifestEntry]:
    """Return the entries of everything that an API offers."""
    operations = {one.key: entry_of(one) for one in api.operations}
    return operations | {one.key: offer_entry(one) for one in api.offers.listed}


def read_manifest(folder: Path) -> ImportManifest | None:
    """Return the manifest; None before the first import. Raises ApiImportError."""
    file = folder / MANIFEST_FILE
    if not file.exists():
        return None
    try:
        found = json.loads(read_bounded(file, MAX_MANIFEST_BYTES))
        if found["format"] != MANIFEST_FORMAT:
            raise ApiImportError(
                f"format {found['format']!r} is not supported",
                f"`{file.as_posix()}`",
                "use a newer version of policyengine",
            )
        entries = {str(key): _parse_entry(one) for key, one in found["endpoints"].items()}
        return ImportManifest(str(found["kind"]), str(found["package"]), int(found["imports"]), entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = "restore the committed version; nothing was changed"
        raise ApiImportError("this file was not written by an import", f"`{file.as_posix()}`", hint) from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ApiImportError(f"this cannot be read: {why}", f"`{file.as_posix()}`") from None


def previous_server(folder: Path) -> str | None:
    """Return the server name of the last import, so that a renamed server is recognized. Return None before the first
    import of tools. Raises ApiImportError.
    """
    memory = read_manifest(folder)
    tool = next((key for key in memory.entries if key.startswith("TOOL ")), None) if memory else None
    return tool.removeprefix("TOOL ").partition("/")[0] if tool else None


def _parse_entry(found: Mapping[str, object]) -> ManifestEntry:
    facts, asks = found["facts"], found["asks"]
    if not isinstance(facts, dict) or not isinstance(asks, list):
        raise TypeError
    return ManifestEntry(
        ApiOperationKind(str(found["kind"])).value,
        {str(k): str(v) for k, v in facts.items()},
        asks,
        str(found.get("said", "")),
    )


def manifest_text(memory: ImportManifest) -> str:
    """Return the manifest with one line for each endpoint, so that a review shows changes."""
    rows = [
        f"    {json.dumps(key)}: {json.dumps(_entry_data(entry), sort_keys=True)}"
        for key, entry in sorted(memory.entries.items())
    ]
    head = {"format": MANIFEST_FORMAT, "kind": memory.kind, "package": memory.package, "imports": memory.runs}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    return "\n".join(["{", *lines, '  "endpoints": {', ",\n".join(rows), "  }", "}", ""])


def _entry_data(entry: ManifestEntry) -> dict[str, object]:
    said = {"said": entry.said} if entry.said else {}
    return {"kind": entry.kind, "facts": dict(entry.facts), "asks": entry.asks, **said}


# ── Differences ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OperationChange:
    key: str
    said: tuple[str, ...]
    stricter: bool


def operation_changes(memory: ImportManifest, api: Api) -> list[OperationChange]:
    found = []
    for key, after in entries_of(api).items():
        before = memory.entries.get(key)
        said = tuple(_differences(before, after)) if before else ()
        if before and said:
            harmful = ApiOperationKind.DELETE.value
            found.append(OperationChange(key, said, after.kind == harmful and before.kind != harmful))
    return found


def _differences(before: ManifestEntry, after: ManifestEntry) -> list[str]:
    found = [f"was {before.kind}, is {after.kind}"] if before.kind != after.kind else []
    for name in sorted({*before.facts, *after.facts}):
        old, new = before.facts.get(name, "nothing"), after.facts.get(name, "nothing")
        found += [f"`{name}` was {old}, is {new}"] if old != new else []
    if [list(one) for one in before.asks] != [list(one) for one in after.asks]:
        found.append(f"required {_scopes_text(before.asks)}, requires {_scopes_text(after.asks)}")
    return found + (["the description changed"] if before.said != after.said else [])


def _scopes_text(asks: Sequence[Sequence[str]]) -> str:
    return " or ".join(" and ".join(f"`{scope}`" for scope in ask) for ask in asks) or "no scope"


def endpoints_in_policies(modules: Sequence[ast.Module]) -> dict[str, str]:
    """Return every endpoint and every string that a rule or scope names, with its place. Tests are ignored. A string
    may be the ID of a resource or prompt.
    """
    found: dict[str, str] = {}
    declarations = (one for module in modules for one in module.declarations)
    rules = (one for one in declarations if not isinstance(one, ast.TestDecl | ast.FixtureDecl))
    for node in (node for rule in rules for node in ast.walk(rule)):
        for key in _endpoint_keys(node):
            line, _ = node.span.source.position(node.span.start)
            found.setdefault(key, f"{node.span.source.name}:{line}")
    return found


def _endpoint_keys(node: ast.Node) -> list[str]:
    match node:
        case ast.HttpPattern(methods, path):
            return [f"{method} {CAPTURE_PATTERN.sub('{}', path)}" for method in methods]
        case ast.ToolPattern(pattern):
            return [f"TOOL {pattern}"]
        case ast.Text(value):
            return [*{f"{endpoint} {value}" for endpoint in OFFER_ENDPOINTS.values()}]
        case _:
            return []

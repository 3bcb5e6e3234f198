"""Converts OpenAPI 3.0, OpenAPI 3.1 and Swagger 2 to operations. Mistakes are reported with their place before any
output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from policyengine.importers.document_nodes import DocumentLibrary, DocumentNode
from policyengine.importers.errors import ApiImportError
from policyengine.importers.fetch import base_of
from policyengine.importers.json_schema import facts_of
from policyengine.importers.model import Api, ApiOperation, ApiOperationKind, HttpTemplate, OperationFact, PathSegment
from policyengine.importers.path_patterns import parse_path
from policyengine.importers.sanitize import is_oauth_scope, quoted_comment, safe_name

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAFE_METHODS = frozenset(["get", "head", "options", "trace"])
MAX_OPERATIONS = 20_000
# Destructive verbs as words of an `operationId` or of a path's last segment; they are checked for every method.
DESTRUCTIVE_WORDS = frozenset(
    """delete remove purge destroy drop erase wipe terminate revoke uninstall truncate reset kill shutdown unpublish
    deactivate rm rmdir unlink""".split()
)
SERVER_VARIABLE = re.compile(r"\{([^{}]*)\}")
WORD_PATTERN = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


def read_openapi(source: str, base_path: str | None = None) -> Api:
    """Read a specification from a file or URL. `base_path` overrides its base path. Raises ApiImportError."""
    root = DocumentLibrary().open(base_of(source))
    version = _major_version(root)
    reader = _OpenApiReader(root, version, base_path)
    operations = tuple(reader.operations())
    if not operations and not reader.notes:
        raise root.problem("this describes no operations", "describe operations under `paths`")
    info = root.get("info")
    title = info.words("title") if info else ""
    return Api("openapi", source, safe_name(title, "api"), operations, tuple(dict.fromkeys(reader.notes)))


def _major_version(root: DocumentNode) -> int:
    """Return the major version, 2 or 3. Raises ApiImportError."""
    if not isinstance(root.value, dict):
        raise root.problem(
            "this is not a specification",
            "OpenAPI 3 documents begin with `openapi: 3.…`, Swagger documents with `swagger: 2.0`",
        )
    for key, known in (("openapi", "3."), ("swagger", "2.")):
        if key in root.value:
            written = str(root.value[key])
            if written.startswith(known):
                return int(known[0])
            raise root.problem(f"`{key}: {written[:40]}` is not supported", "use OpenAPI 3.0 or 3.1, or Swagger 2.0")
    raise root.problem(
        "this is not a specification: it has neither `openapi` nor `swagger`", "one of these members states the version"
    )


@dataclass(slots=True)
class _OpenApiReader:
    root: DocumentNode
    version: int
    base_path: str | None
    notes: list[str] = field(default_factory=list)
    count: int = 0

    def operations(self) -> Iterator[ApiOperation]:
        paths = self.root.get("paths")
        if paths is None:
            return
        seen: dict[str, str] = {}
        for path, item in paths.members("`paths`"):
            if path.startswith("x-"):
                continue
            for operation in self.path_item(path, item.followed()):
                if operation.key in seen:
                    self.note(
                        path,
                        f"describes `{operation.key}`, as `{_printable(seen[operation.key])}` does",
                        "the first one is used",
                    )
                    continue
                seen[operation.key] = path
                yield operation

    def path_item(self, path: str, item: DocumentNode) -> Iterator[ApiOperation]:
        members = dict(item.members("a path"))
        methods = [method for method in METHODS if method in members]
        if "head" in methods and "get" in methods:
            methods.remove("head")  # the engine decides HEAD as GET
        for method in methods:
            self.count += 1
            if self.count > MAX_OPERATIONS:
                raise item.problem(f"more than {MAX_OPERATIONS:,} operations")
            found = self.operation(path, method, item, members[method].followed())
            if found is not None:
                yield found

    def operation(self, path: str, method: str, item: DocumentNode, node: DocumentNode) -> ApiOperation | None:
        dict(node.members("an operation"))
        if not path.startswith("/"):
            self.note(f"{method.upper()} {path}", "does not begin with a slash", "it is left out and stays denied")
            return None
        whole = self.base(node, item) + path
        segments, said = parse_path(whole.partition("?")[0])
        if "?" in path or (not segments and said):
            said = said or "contains a query, which is not part of a path"
            self.note(f"{method.upper()} {path}", said, "it is left out and stays denied")
            return None
        if said:
            self.note(f"{method.upper()} {path}", said, "")
        verb = "GET" if method == "head" else method.upper()
        return ApiOperation(
            HttpTemplate(verb, segments),
            _operation_kind(method, path, node.words("operationId")),
            self.area(node, segments),
            self.facts(method, path, item, node),
            self.asks(path, node),
            quoted_comment(node.words("summary") or node.words("description") or node.words("operationId")),
            node.flag("deprecated") is True,
            any(segment.wider for segment in segments),
        )

    def note(self, what: str, said: str, then: str) -> None:
        self.notes.append(f"`{_printable(what)}` {said}{f': {then}' if then else ''}")

    # ── Paths and servers ─────────────────────────────────────────────────────────────────────────────────

    def base(self, node: DocumentNode, item: DocumentNode) -> str:
        """Return the base path of the first server of the operation, the path item or the document."""
        if self.base_path is not None:
            return self.base_path.rstrip("/")
        if self.version == 2:
            return self.root.words("basePath").rstrip("/")
        for level in (node, item, self.root):
            servers = level.get("servers")
            listed = list(servers.elements("`servers`")) if servers else []
            if listed:
                return self.server(listed)
        return ""

    def server(self, listed: list[DocumentNode]) -> str:
        found = list(dict.fromkeys(_server_path(server) for server in listed))
        if len(found) > 1:
            named = ", ".join(f"`{_printable(path) or '/'}`" for path in found[:4])
            self.notes.append(
                f"servers have several base paths, {named}: the first one is used; `--base-path` selects one"
            )
        return found[0]

    def area(self, node: DocumentNode, segments: tuple[PathSegment, ...]) -> str:
        tags = node.get("tags")
        first = next((tag.value for tag in tags.elements("`tags`") if isinstance(tag.value, str)), "") if tags else ""
        texts = [segment.text for segment in segments if segment.text]
        own = [text for text in texts if not re.fullmatch(r"v?[0-9.]+|api|rest", text)]
        return safe_name(first, "") or safe_name((own or [""])[0], "root")

    # ── Bodies, scopes and kinds ──────────────────────────────────────────────────────────────────────────────────

    def facts(self, method: str, path: str, item: DocumentNode, node: DocumentNode) -> tuple[OperationFact, ...]:
        schema = self.body_v2(item, node) if self.version == 2 else _json_body_schema(node)
        if schema is None or method in ("head", "options", "trace"):
            return ()
        found, notes = facts_of("body", schema)
        self.notes += [f"`{method.upper()} {_printable(path)}`: {note}" for note in notes]
        return found

    def body_v2(self, item: DocumentNode, node: DocumentNode) -> DocumentNode | None:
        """Return the schema of the body. Parameters of the operation override those of its path. Return None if no
        parameter describes it.
        """
        for level in (node, item):
            parameters = level.get("parameters")
            for parameter in parameters.elements("`parameters`") if parameters else ():
                followed = parameter.followed()
                if followed.words("in") == "body":
                    return followed.raw("schema")
        return None

    def asks(self, path: str, node: DocumentNode) -> tuple[frozenset[str], ...]:
        """Return alternative sets of required OAuth scopes. They stay required even if a scheme without scopes would
        suffice, because that is stricter.
        """
        here = node if node.has("security") else self.root
        listed = here.raw("security")
        found: list[frozenset[str]] = []
        for need in listed.elements("`security`") if listed is not None else ():
            scopes = frozenset(self.scopes(path, need))
            found += [scopes] if scopes else []
        return tuple(dict.fromkeys(found))

    def scopes(self, path: str, need: DocumentNode) -> Iterator[str]:
        for scheme, listed in need.members("a requirement of `security`"):
            if self.scheme(scheme) not in ("oauth2", "openIdConnect"):
                continue
            for scope in listed.elements("the scopes of a scheme"):
                text = scope.text("a scope")
                if is_oauth_scope(text):
                    yield text
                else:
                    self.note(
                        path, f"requires the scope `{_printable(text)}`", "no token can carry it, so it is left out"
                    )

    def scheme(self, name: str) -> str:
        key = "securityDefinitions" if self.version == 2 else "components"
        holder = self.root.get(key)
        if self.version == 3:
            holder = holder.get("securitySchemes") if holder else None
        found = holder.get(name) if holder else None
        return found.words("type") if found else ""


def _server_path(server: DocumentNode) -> str:
    """Return the path of a server's URL, with the defaults of its variables. Raises ApiImportError."""
    variables = server.get("variables")

    def default(found: re.Match[str]) -> str:
        variable = variables.get(found[1]) if variables else None
        value = variable.value.get("default") if variable is not None and isinstance(variable.value, dict) else ""
        return str(value)

    url = SERVER_VARIABLE.sub(default, server.words("url"))
    try:
        return urlsplit(url).path.rstrip("/")
    except ValueError:
        raise server.problem(f"`{_printable(url)}` is not a URL") from None


def _json_body_schema(node: DocumentNode) -> DocumentNode | None:
    """Return the schema of the JSON body; other media types have no facts. Return None without a JSON body."""
    body = node.get("requestBody")
    content = body.get("content") if body else None
    for media, described in content.members("`content`") if content else ():
        kind = media.partition(";")[0].strip().lower()
        if kind in ("application/json", "*/*", "application/*") or kind.endswith("+json"):
            return described.followed().raw("schema")
    return None


def _operation_kind(method: str, path: str, identifier: str) -> ApiOperationKind:
    """Return the kind of an operation, from its method and from destructive words in its ID and path. A word can only
    make it stricter.
    """
    last = next((part for part in reversed(path.split("/")) if part and "{" not in part), "")
    if method == "delete" or is_destructive(identifier) or is_destructive(last):
        return ApiOperationKind.DELETE
    return ApiOperationKind.READ if method in SAFE_METHODS else ApiOperationKind.WRITE


def is_destructive(text: str) -> bool:
    return any(found.lower() in DESTRUCTIVE_WORDS for found in WORD_PATTERN.findall(text[:200]))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() and char != "`" else "?" for char in text[:120])


__all__ = ["ApiImportError", "is_destructive", "read_openapi"]

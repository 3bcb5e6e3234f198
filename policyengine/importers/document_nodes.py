"""A value in a document with its place, for messages. Lookups follow `$ref`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import unquote

from policyengine.importers.documents import Document, Value, read_document
from policyengine.importers.errors import ApiImportError
from policyengine.importers.fetch import DocumentBase, read_base, resolve_reference

MAX_DOCUMENTS = 100
MAX_REFERENCE_HOPS = 32
SUMMARY_DIGEST_LENGTH = 16  # hexadecimal digits


@dataclass(slots=True)
class DocumentLibrary:
    """The documents of one specification, each read once."""

    read: dict[str, tuple[DocumentBase, Document]] = field(default_factory=dict)

    def open(self, base: DocumentBase) -> DocumentNode:
        if base.name not in self.read:
            if len(self.read) >= MAX_DOCUMENTS:
                raise ApiImportError(
                    f"the specification consists of more than {MAX_DOCUMENTS} documents", f"`{base.name}`"
                )
            self.read[base.name] = base, read_document(base.name, read_base(base))
        base, document = self.read[base.name]
        return DocumentNode(document.tree, "", document, base, self)


@dataclass(frozen=True, slots=True)
class DocumentNode:
    """A value in a document. `pointer` is a JSON pointer; `line` is the line of the nearest mapping or list around
    it.
    """

    value: Value
    pointer: str
    document: Document
    base: DocumentBase | None = None
    library: DocumentLibrary | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        line = self.document.lines.get(id(self.value), self.line)
        member = f" at `#{self.pointer}`" if self.pointer else ""
        return f"`{self.document.name}`{f':{line}' if line else ''}{member}"

    def problem(self, message: str, hint: str | None = None) -> ApiImportError:
        return ApiImportError(message, self.place, hint)

    def child(self, key: str | int, value: Value) -> DocumentNode:
        line = self.document.lines.get(id(self.value), self.line)
        escaped = str(key)[:200].replace("~", "~0").replace("/", "~1")
        return DocumentNode(value, f"{self.pointer}/{escaped}", self.document, self.base, self.library, line)

    # ── Expected types ─────────────────────────────────────────────────────────────

    def members(self, what: str) -> Iterator[tuple[str, DocumentNode]]:
        if not isinstance(self.value, dict):
            raise self.problem(f"{what} must be a mapping, but this is {_type_name(self.value)}")
        return ((key, self.child(key, value)) for key, value in self.value.items())

    def elements(self, what: str) -> Iterator[DocumentNode]:
        if not isinstance(self.value, list):
            raise self.problem(f"{what} must be a list, but this is {_type_name(self.value)}")
        return (self.child(number, value) for number, value in enumerate(self.value))

    def text(self, what: str) -> str:
        if not isinstance(self.value, str):
            raise self.problem(f"{what} must be a string, but this is {_type_name(self.value)}")
        return self.value

    def get(self, key: str) -> DocumentNode | None:
        """Return the member after following its reference; None if it is missing or this node is not a mapping."""
        found = self.raw(key)
        return found.followed() if found is not None else None

    def raw(self, key: str) -> DocumentNode | None:
        """Return the member without following its reference; None if it is missing or this node is not a mapping."""
        if not isinstance(self.value, dict) or self.value.get(key) is None:
            return None
        return self.child(key, self.value[key])

    def has(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def words(self, key: str) -> str:
        """Return a member that is a text for people; an empty text if the member is missing or not a string."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def summary(self) -> str:
        """The title that a server states, otherwise the description; an empty text if both are missing."""
        return self.words("title") or self.words("description")

    @property
    def summary_digest(self) -> str:
        """A digest of title and description, by which a later import finds that they changed."""
        texts = repr((self.words("title"), self.words("description")))
        return sha256(texts.encode("utf-8", "replace")).hexdigest()[:SUMMARY_DIGEST_LENGTH]

    def flag(self, key: str) -> bool | None:
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return value if isinstance(value, bool) else None

    # ── References ────────────────────────────────────────────────────────────────────────────

    def followed(self) -> DocumentNode:
        """Return the target of a chain of `$ref`; this node if there is no reference. Raises ApiImportError."""
        node = self
        for _ in range(MAX_REFERENCE_HOPS):
            if not isinstance(node.value, dict) or not isinstance(node.value.get("$ref"), str):
                return node
            node = node.follow_reference(node.value["$ref"])
        raise self.problem("this `$ref` follows too many other references")

    def follow_reference(self, reference: str) -> DocumentNode:
        name, _, pointer = reference.partition("#")
        node = self.elsewhere(name)
        for part in pointer.split("/")[1:] if pointer else ():
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            node = node.step(key, self, reference)
        return node

    def elsewhere(self, name: str) -> DocumentNode:
        if not name and (self.library is None or self.base is None):
            return DocumentNode(self.document.tree, "", self.document)
        if self.library is None or self.base is None:
            raise self.problem(f"`{name[:200]}` is another document, and only this document is read")
        try:
            return self.library.open(resolve_reference(self.base, name) if name else self.base)
        except ApiImportError as problem:
            raise ApiImportError(problem.message, problem.place or self.place, problem.hint) from None

    def step(self, key: str, asked: DocumentNode, reference: str) -> DocumentNode:
        if isinstance(self.value, dict) and key in self.value:
            return self.child(key, self.value[key])
        if isinstance(self.value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(self.value):
            return self.child(key, self.value[int(key[:9])])
        raise asked.problem(f"`$ref: {reference[:200]}` refers to nothing", "fix the reference")


def _type_name(value: Value) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a mapping"

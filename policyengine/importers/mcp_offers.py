"""Reads what an MCP server offers besides tools: resources, resource templates and prompts.

Names, URIs and titles are claims of the server. They are written as strings and quoted comments, and grant nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from unicodedata import is_normalized

from policyengine.control_characters import is_invisible
from policyengine.http.resource_uris import canonical_uri
from policyengine.importers.document_nodes import DocumentNode
from policyengine.importers.model import McpOffers, OfferKind, ServerOffer
from policyengine.importers.sanitize import is_inner_member, printable, quoted_comment
from policyengine.importers.uri_patterns import TemplateError, UriPattern, read_template
from policyengine.runtime.paths import MalformedPath

MEMBERS = {
    OfferKind.RESOURCE: ("resources", "uri"),
    OfferKind.TEMPLATE: ("resourceTemplates", "uriTemplate"),
    OfferKind.PROMPT: ("prompts", "name"),
}
MAX_OFFERS = {OfferKind.RESOURCE: 5_000, OfferKind.TEMPLATE: 200, OfferKind.PROMPT: 5_000}
MAX_NAME_LENGTH = 500
MAX_ARGUMENTS = 100  # of all prompts


@dataclass(slots=True)
class OfferReader:
    """Reads the lists of one server from a document."""

    server: str
    found: dict[str, ServerOffer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def read(self, document: DocumentNode) -> McpOffers:
        """Return the offers. Raises ApiImportError."""
        for kind, (list_name, name) in MEMBERS.items():
            for node in self._listed(document, kind, list_name):
                self._add(kind, node, name)
        declared = document.raw("capabilities")
        if declared is not None and declared.has("logging"):
            offer = ServerOffer(OfferKind.LOGGING, self.server, self.server)
            self.found[offer.key] = offer
        return McpOffers(self.server, tuple(self.found.values()), tuple(self.left_out), declared is not None)

    def _listed(self, document: DocumentNode, kind: OfferKind, list_name: str) -> Iterator[DocumentNode]:
        node = document.raw(list_name)
        listed = [] if node is None else list(node.elements(f"`{list_name}`"))
        if node is not None and len(listed) > MAX_OFFERS[kind]:
            raise node.problem(f"more than {MAX_OFFERS[kind]:,} {list_name}")
        return iter(listed)

    def _add(self, kind: OfferKind, node: DocumentNode, name: str) -> None:
        members = dict(node.members(f"a {kind}"))
        if name not in members:
            raise node.problem(f"this {kind} has no `{name}`")
        text = members[name].text(f"`{name}`")
        try:
            offer = self._offer(kind, text, node)
        except TemplateError as error:
            self.left_out.append((kind, f"{quoted_comment(text)}: it {error}"))
            self.notes.append(f"the {kind} `{printable(text)}` {error}; it is left out and stays denied")
            return
        if offer.key in self.found:
            self.notes.append(f"the {kind} `{printable(text)}` is listed twice: the first one is used")
        else:
            self.found[offer.key] = offer

    def _offer(self, kind: OfferKind, text: str, node: DocumentNode) -> ServerOffer:
        """Return the offer that a node describes. Raises TemplateError."""
        if why := unwritable_reason(text):
            raise TemplateError(why)
        name, patterns = text, tuple[UriPattern, ...]()
        if kind is OfferKind.RESOURCE:
            uri = canonical_uri(text)
            if isinstance(uri, MalformedPath):
                raise TemplateError(f"is a URI that the gateway refuses: {uri.why}")
            name = uri
        elif kind is OfferKind.TEMPLATE:
            patterns = read_template(text)
            name = patterns[0].text
        arguments, summary = self._arguments(kind, node), quoted_comment(node.summary)
        return ServerOffer(kind, self.server, name, patterns, arguments, summary, node.summary_digest)

    def _arguments(self, kind: OfferKind, node: DocumentNode) -> tuple[str, ...]:
        """Return the names of the arguments of a prompt that facts can have."""
        listed = node.raw("arguments") if kind is OfferKind.PROMPT else None
        if listed is None:
            return ()
        names = [one.words("name") for one in listed.elements("`arguments`")]
        return tuple(dict.fromkeys(name for name in names if is_inner_member(name)))[:MAX_ARGUMENTS]


def unwritable_reason(text: str, longest: int = MAX_NAME_LENGTH) -> str:
    """Return why people could mistake this name for another one; empty if they could not."""
    if not text.strip() or text != text.strip():
        return "has an empty name, or white space at its beginning or end"
    if len(text) > longest:
        return f"has a name of more than {longest} characters"
    if any(is_invisible(char) or not char.isprintable() for char in text):
        return "has invisible characters in its name"
    return "" if is_normalized("NFC", text) else "has a name that is not in Unicode NFC"

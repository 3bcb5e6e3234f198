"""Shared parts of all builders: names, strings, literals, words, and their spans."""

from __future__ import annotations

import json
from sys import intern
from typing import Any, TypeAlias

from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.tokens import Token

Phrase: TypeAlias = Any  # a Node, a Token, or a tuple of them


def unquote(token: Token) -> str:
    """Return the value of a string token. JSON escapes are decoded; any other escaped character stands for itself."""
    if "\\" not in token.text:
        return intern(token.text[1:-1])  # most strings have no escapes; interned, because rules repeat them
    try:
        return str(json.loads(token.text.replace("\t", "\\t"), strict=False))
    except ValueError:
        body, result, i = token.text[1:-1], [], 0
        while i < len(body):
            i += body[i] == "\\"
            result.append(body[i : i + 1])
            i += 1
        return "".join(result)


class BuilderBase:
    """Base class of the builders; holds the source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def _name(self, token: Token) -> ast.Name:
        return ast.Name(token.text, span=self._at(token))

    def _text(self, token: Token) -> ast.Text:
        return ast.Text(unquote(token), span=self._at(token))

    def _literal(self, kind: ast.LiteralKind, token: Token) -> ast.Literal:
        return ast.Literal(kind, token.text, span=self._at(token))

    def _at(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def _only(self, kind: type, parts: tuple[Phrase, ...]) -> Any:
        return next((part for part in parts if isinstance(part, kind)), None)

    def _duration_and_rest(self, parts: tuple[Phrase, ...]) -> tuple[ast.Literal | None, Any]:
        """Split an optional leading duration from an optional expression."""
        token = parts[0] if parts and isinstance(parts[0], Token) else None
        rest = parts[1:] if token else parts
        return self._literal("duration", token) if token else None, rest[0] if rest else None

    # ── Phrases of every part ─────────────────────────────────────────────────────────────────
    def name(self, span: Span, token: Token) -> ast.Name:
        return self._name(token)

    def names(self, span: Span, *names: Token) -> tuple[ast.Name, ...]:
        return tuple(self._name(name) for name in names)

    def entity_literal(self, span: Span, type_: Token, id_: Token) -> ast.EntityLiteral:
        return ast.EntityLiteral(self._name(type_), self._text(id_), span=span)

    parent = entity_literal

    def modality(self, span: Span, word: Token) -> ast.Name:
        # A node, because a phrase that begins with this word takes its span from it.
        return ast.Name(word.text, span=span)

    effect = modality
    result = modality
    quantifier = modality
    on_failure = modality

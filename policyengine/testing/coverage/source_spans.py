"""Finds the source positions of words in declarations for which the kernel has none, such as limits in an attester."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

WordSpans: TypeAlias = dict[str, Span]
COUNTING = "counting denials"


class DeclarationSpans:
    """The positions of words in declarations, indexed by the start of the declaration. Sources are parsed again when
    first needed.
    """

    def __init__(self) -> None:
        self._read: dict[Source, dict[int, WordSpans]] = {}

    def at(self, part: k.Node, word: str) -> Span:
        """Return the position of a word in a part, such as `age` in an attester, or the position of the part if it does
        not contain the word.
        """
        source = part.span.source
        if source not in self._read:
            self._read[source] = dict(declared_spans(source))
        return self._read[source].get(part.span.start, {}).get(word, part.span)


def declared_spans(source: Source) -> Iterator[tuple[int, WordSpans]]:
    module, _ = parse(source)
    for item in module.declarations if module is not None else ():
        declared = item.declaration if isinstance(item, ast.Export) else item
        match declared:
            case ast.AttesterDecl(name, items):
                yield name.span.start, merge_spans(attester_spans(items))
            case ast.DelegationDecl(limits):
                yield declared.span.start, {limit.name: limit.span for limit in limits}
            case ast.RateDecl(items=items):
                counting = ((COUNTING, one.span) for one in items if isinstance(one, ast.CountingDenials))
                yield declared.span.start, merge_spans(counting)
            case ast.AgentDecl() | ast.UserDecl():
                yield from block_spans(declared.items)
            case _:
                pass


def block_spans(items: Iterable[ast.Node]) -> Iterator[tuple[int, WordSpans]]:
    for item in items:
        match item:
            case ast.ValidityPeriod(start, end):
                yield item.span.start, {word: at.span for word, at in (("from", start), ("until", end)) if at}
            case ast.MayDelegate(lifetime=ast.Literal() as lifetime):
                yield item.span.start, {"for": lifetime.span}
            case _:
                pass


def attester_spans(items: Iterable[ast.Node]) -> Iterator[tuple[str, Span]]:
    for item in items:
        match item:
            case ast.TrustAnchorOption("age"):
                yield "age", item.span
            case ast.AttestedModel():
                yield "models", item.span
            case ast.AttestedEnvironment():
                yield "environments", item.span
            case _:
                pass


def merge_spans(found: Iterable[tuple[str, Span]]) -> WordSpans:
    """Merge the positions of each word, such as those of several consecutive words `model`."""
    words: WordSpans = {}
    for word, span in found:
        words[word] = words[word].to(span) if word in words else span
    return words

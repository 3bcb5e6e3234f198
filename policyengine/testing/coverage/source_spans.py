"""Where the words of a policy stand that its kernel keeps no place of: the limits within one declaration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

Words: TypeAlias = dict[str, Span]
COUNTING = "counting denials"


class Written:
    """The words of declarations by the place where these begin. Texts are read again only where that is asked for."""

    def __init__(self) -> None:
        self._read: dict[Source, dict[int, Words]] = {}

    def at(self, part: k.Part, word: str) -> Span:
        """The place of a word inside a part, such as `age` in an attester; the part's own where it has none."""
        source = part.span.source
        if source not in self._read:
            self._read[source] = dict(declarations(source))
        return self._read[source].get(part.span.start, {}).get(word, part.span)


def declarations(source: Source) -> Iterator[tuple[int, Words]]:
    module, _ = parse(source)
    for one in module.declarations if module is not None else ():
        declared = one.declaration if isinstance(one, ast.Export) else one
        match declared:
            case ast.AttesterDecl(name, items):
                yield name.span.start, joined(attested(items))
            case ast.DelegationDecl(limits):
                yield declared.span.start, {limit.name: limit.span for limit in limits}
            case ast.RateDecl(items=items):
                counting = ((COUNTING, one.span) for one in items if isinstance(one, ast.CountingDenials))
                yield declared.span.start, joined(counting)
            case ast.AgentDecl() | ast.UserDecl():
                yield from of_block(declared.items)
            case _:
                pass


def of_block(items: Iterable[ast.Node]) -> Iterator[tuple[int, Words]]:
    for item in items:
        match item:
            case ast.Valid(start, end):
                yield item.span.start, {word: at.span for word, at in (("from", start), ("until", end)) if at}
            case ast.MayDelegate(lifetime=ast.Literal() as lifetime):
                yield item.span.start, {"for": lifetime.span}
            case _:
                pass


def attested(items: Iterable[ast.Node]) -> Iterator[tuple[str, Span]]:
    for item in items:
        match item:
            case ast.Setting("age"):
                yield "age", item.span
            case ast.AttestedModel():
                yield "models", item.span
            case ast.AttestedEnvironment():
                yield "environments", item.span
            case _:
                pass


def joined(found: Iterable[tuple[str, Span]]) -> Words:
    """One place for several `model` after each other."""
    words: Words = {}
    for word, span in found:
        words[word] = words[word].to(span) if word in words else span
    return words

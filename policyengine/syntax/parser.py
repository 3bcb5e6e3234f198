"""Parses text to phrases with the parse table, token by token; calls the builder for each complete rule.

The parser takes a third of the time of lark with the same table, because positions are offsets and no intermediate tree
is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from sys import intern
from typing import Any, NamedTuple, TypeAlias

from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build import AstBuilder
from policyengine.syntax.parse_table import END, SPACE, GrammarRule, ParseTable, load_parse_table
from policyengine.syntax.tokens import Token

Phrase: TypeAlias = Any  # the value of a symbol: a Token, a Node, or a tuple or list of them
COMMENT = "COMMENT"
BLANK = re.compile(SPACE)
# Tokens that carry a value; keywords and punctuation are dropped when their rule is reduced.
VALUE_TERMINALS = frozenset(
    "NAME METHOD RESERVED PATH TOOLPAT STRING NUMBER DURATION RATE DATA_RATE DATE CLOCK IP HASH FACTOR OPTIONAL".split()
)
# Phrases that consist of words, all of which are passed to the builder.
WORD_RULES = frozenset(
    "comparison connective plus times quantifier inherited modality effect result denied whose repeat "
    "on_failure".split()
)


class Reduction(NamedTuple):
    """A rule prepared for reducing: `build` makes a node of the parts at `picked` (None: all of them); the parts at
    `inlined` are lists.
    """

    origin: str
    size: int
    stands: bool  # the rule returns its only part unchanged
    build: Callable[..., Phrase] | None
    picked: tuple[int, ...] | None
    inlined: frozenset[int]


@cache
def prepare_reductions() -> tuple[Reduction, ...]:
    return tuple(map(prepare_reduction, load_parse_table().rules))


def prepare_reduction(rule: GrammarRule) -> Reduction:
    symbols, words = rule.symbols, rule.phrase in WORD_RULES
    picked = tuple(i for i, name in enumerate(symbols) if words or not name.isupper() or name in VALUE_TERMINALS)
    inlined = frozenset(i for i, name in enumerate(symbols) if name.startswith("_") and not name.isupper())
    build = getattr(AstBuilder, rule.phrase) if rule.phrase else None
    whole = len(picked) == len(symbols) and not inlined
    return Reduction(rule.origin, len(symbols), rule.phrase == "", build, None if whole else picked, inlined)


class LexError(Exception):
    """The error for an offset at which no valid token begins."""

    def __init__(self, offset: int) -> None:
        self.offset = offset


class LrParser:
    """The state of one parse. `values` are the values of the symbols so far, `starts` their offsets; `states` has one
    item more than these. `end` is the end of the last token fed; the lexer continues at `position`.
    """

    __slots__ = tuple("actions builder comments end follows position rules source starts states table values".split())

    def __init__(self, source: Source) -> None:
        self.source, self.builder = source, AstBuilder(source)
        self.table: ParseTable = load_parse_table()
        self.rules, self.actions, self.follows = prepare_reductions(), self.table.actions, self.table.follows
        self.states: list[int] = [self.table.start]
        self.values: list[Phrase] = []
        self.starts: list[int] = []
        self.comments: list[Span] = []
        self.position = self.end = 0

    def tokens(self) -> Iterator[Token]:
        """Yield the rest of the tokens. Feed each token before requesting the next one, because the lexer depends on
        the parser's state. Raises LexError.
        """
        text, lexers, states, comments = self.source.text, self.table.lexers, self.states, self.comments
        while True:
            lexer = lexers[states[-1]]
            found = lexer.match(text, self.position)
            if found is None:
                break
            kind: str = found.lastgroup  # type: ignore[assignment]  # every alternative is a group
            start, self.position = found.span(kind)
            if kind == COMMENT:
                comments.append(Span(self.source, start, self.position))
                continue
            word = intern(found[kind])  # interned, because rules repeat names
            known = lexer.words.get(kind)
            yield Token(known.get(word, kind) if known else kind, word, start, self.position)
        rest = BLANK.match(text, self.position)
        if rest is not None and rest.end() < len(text):
            raise LexError(rest.end())

    def feed(self, token: Token) -> bool:
        """Feed a token and return whether it was valid here. Complete rules before it are reduced in either case."""
        states, actions, follows, rules, kind = self.states, self.actions, self.follows, self.rules, token.type
        while (action := actions[states[-1]].get(kind)) is not None:
            if action >= 0:
                states.append(action)
                self.values.append(token)
                self.starts.append(token.start)
                self.end = token.end
                return True
            rule = rules[~action]
            # Most rules return their part unchanged: a name alone is also a sum, a relation and a condition.
            if rule.stands:
                states[-1] = follows[states[-2]][rule.origin]
            else:
                self._reduce(rule, token.start)
        return False

    def forget(self, height: int) -> None:
        """Drop all states above `height`, as if the parser had not read their tokens."""
        del self.states[height:], self.values[height - 1 :], self.starts[height - 1 :]

    def finish(self) -> ast.Module | None:
        """Return the module if the text may end here, or None."""
        self.feed(Token(END, "", self.end, self.end))
        if self.states[-1] != self.table.end:
            return None
        module: ast.Module = self.values[-1]
        return module

    def _reduce(self, rule: Reduction, following: int) -> None:
        """Reduce a rule to its phrase; `following` is the offset of the phrase if it has no parts."""
        origin, size, _, build, picked, lists = rule
        values, starts, states = self.values, self.starts, self.states
        if size:
            parts, start = values[-size:], starts[-size]
            del values[-size:], starts[-size:], states[-size:]
        else:
            parts, start = [], following
        if lists:
            parts = inline_lists(parts, rule)
        elif picked is not None:
            parts = [parts[i] for i in picked]
        values.append(parts if build is None else build(self.builder, Span(self.source, start, self.end), *parts))
        starts.append(start)
        states.append(self.follows[states[-1]][origin])


def inline_lists(parts: list[Phrase], rule: Reduction) -> list[Phrase]:
    """Return the picked parts, with the lists among them flattened. The first list is extended in place: copying would
    take quadratic time.
    """
    found: list[Phrase] = []
    for i in rule.picked or ():
        if i not in rule.inlined:
            found.append(parts[i])
        elif found:
            found += parts[i]
        else:
            found = parts[i]
    return found

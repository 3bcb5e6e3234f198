"""Parses after a syntax error: a slower pass that finds every mistake and keeps the valid declarations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse_table import END, ParseTable, load_parse_table
from policyengine.syntax.parser import LexError, LrParser
from policyengine.syntax.tokens import Token


@dataclass(frozen=True, slots=True)
class ErrorPosition:
    """A position where the text is no longer valid.

    `accepted` holds the terminals that would be valid there: words and punctuation as they are written, END for the end
    of the file, and `NAME`, `PATH`, … for all others.
    """

    offset: int
    accepted: frozenset[str]
    previous: Token | None
    declaration: int  # the position where the enclosing declaration begins


@dataclass(frozen=True, slots=True)
class ParserTables:
    """Lookup tables for error recovery: the parse table, and which states begin a declaration."""

    table: ParseTable
    written: Mapping[str, str]  # terminal → its text, or its name
    heads: frozenset[str]  # the words that begin a declaration at the left margin
    head_states: frozenset[int]

    def actions(self, state: int) -> Mapping[str, int]:
        return self.table.actions[state]


@cache
def parser_tables() -> ParserTables:
    table = load_parse_table()
    written = table.written
    first = {name: target for name, target in table.actions[table.start].items() if target >= 0}
    heads = frozenset(written[name] for name in first if name in written)
    return ParserTables(table, {**written, END: END}, heads, frozenset(first[n] for n in first if n in written))


@cache
def _margin(heads: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"^(?:{'|'.join(sorted(heads))})\b", re.MULTILINE)


def accepted_terminals(known: ParserTables, stack: list[int]) -> frozenset[str]:
    """Return the terminals that can come next. The parser's own action table lists more, because the parser reduces
    rules before it finds that a token is impossible.
    """
    candidates = {name for name in known.actions(stack[-1]) if name in known.written}
    return frozenset(known.written[name] for name in candidates if _shifts(known, stack, name))


def _shifts(known: ParserTables, stack: list[int], terminal: str) -> bool:
    stack = list(stack)
    while (action := known.actions(stack[-1]).get(terminal)) is not None:
        if action >= 0:
            return True
        rule = known.table.rules[~action]
        if size := len(rule.symbols):
            del stack[-size:]
        target = known.table.follows[stack[-1]].get(rule.origin)
        if target is None:
            return False
        stack.append(target)
        if terminal == END and target == known.table.end:
            return True
    return False


class RecoveringParser:
    """A parser that recovers from errors: it drops the declaration that contains the error, and continues at the next
    one.
    """

    def __init__(self, source: Source) -> None:
        self.text = source.text
        self.known = parser_tables()
        self.machine = LrParser(source)
        self.level = len(self.machine.states)  # the height of the stack outside of all declarations
        self.declaration = 0
        self.previous: Token | None = None
        self.restarted = -1

    def read(self, limit: int) -> tuple[ast.Module | None, list[ErrorPosition]]:
        stops: list[ErrorPosition] = []
        while (stop := self._next_stop()) is not None:
            if stop.offset != self.restarted:
                stops.append(stop)
            if not self._go_on_after(stop) or len(stops) >= limit:
                break
        return self.machine.finish(), stops

    def _next_stop(self) -> ErrorPosition | None:
        before = list(self.machine.states)
        try:
            for token in self.machine.tokens():
                before = list(self.machine.states)
                if not self.machine.feed(token):
                    return self._stop(token.start, before)
                self._remember(token)
                before = list(self.machine.states)
        except LexError as error:
            return self._stop(error.offset, before)
        if _shifts(self.known, before, END):
            return None
        return self._stop(len(self.text), before)

    def _stop(self, offset: int, stack: list[int]) -> ErrorPosition:
        return ErrorPosition(offset, accepted_terminals(self.known, stack), self.previous, self.declaration)

    def _remember(self, token: Token) -> None:
        stack = self.machine.states
        if stack[-1] in self.known.head_states and not self._after_export():
            self.level, self.declaration = len(stack) - 1, token.start
        self.previous = token

    def _after_export(self) -> bool:
        return self.previous is not None and self.previous.type == "EXPORT"

    def _go_on_after(self, stop: ErrorPosition) -> bool:
        """Move to the next keyword at the left margin; return whether there is one. Drop the declaration that contains
        the error unless it was complete.
        """
        begins_at = stop.offset if stop.offset > self.restarted else stop.offset + 1
        following = _margin(self.known.heads).search(self.text, begins_at)
        if not self._was_whole(stop):
            self.machine.forget(self.level)
            self.previous = None
        if following is None:
            return False
        self.restarted = self.declaration = following.start()
        self.machine.position = following.start()
        return True

    def _was_whole(self, stop: ErrorPosition) -> bool:
        at_margin = stop.offset == 0 or self.text[stop.offset - 1] == "\n"
        return "guard" in stop.accepted and ((stop.previous is not None and stop.previous.text == "}") or at_margin)

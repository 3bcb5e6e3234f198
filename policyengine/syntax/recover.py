"""After a syntax error: the slower pass beside `parse`, which finds every mistake and keeps what is whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedInput
from lark.parsers.lalr_analysis import Shift

from policyengine.syntax import nodes as ast

END = "$END"


@dataclass(frozen=True, slots=True)
class Stop:
    """A place where the text stops making sense. `accepted` holds what could have stood there: words and signs as they
    are written, `NAME`, `PATH`, … for the rest, END for the end of the file."""

    offset: int
    accepted: frozenset[str]
    previous: Token | None
    declaration: int  # where the declaration around it begins


@dataclass(frozen=True, slots=True)
class Tables:
    """What the parser knows, by its states: the actions, and which states begin a declaration."""

    actions: dict[int, dict[str, Any]]
    written: dict[str, str]  # terminal → as it is written, or its own name
    heads: frozenset[str]  # the words that begin something at the left margin
    head_states: frozenset[int]


@cache
def tables(lark: Lark) -> Tables:
    configuration = lark.parse_interactive("").parser_state.parse_conf
    actions: dict[int, dict[str, Any]] = configuration.states
    written = {t.name: t.pattern.value if t.pattern.type == "str" else t.name for t in lark.terminals}
    first = {name: target for name, (action, target) in actions[configuration.start_state].items() if action is Shift}
    heads = frozenset(written[name] for name in first if name in written)
    return Tables(actions, written | {END: END}, heads, frozenset(first[n] for n in first if n in written))


@cache
def _margin(heads: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"^(?:{'|'.join(sorted(heads))})\b", re.MULTILINE)


def accepted(known: Tables, stack: list[int]) -> frozenset[str]:
    """What can stand next. The parser's own answer comes too late: it reduces before it finds a token impossible."""
    candidates = {name for name in known.actions[stack[-1]] if name in known.written}
    return frozenset(known.written[name] for name in candidates if _shifts(known.actions, stack, name))


def _shifts(actions: dict[int, dict[str, Any]], stack: list[int], terminal: str) -> bool:
    stack = list(stack)
    while (found := actions[stack[-1]].get(terminal)) is not None:
        action, argument = found
        if action is Shift:
            return True
        if size := len(argument.expansion):
            del stack[-size:]
        target = actions[stack[-1]].get(argument.origin.name)
        if target is None:
            return False
        stack.append(target[1])
        if terminal == END and argument.origin.name == "module":
            return True
    return False


class Reader:
    """Feeds the parser token by token; after a stop it forgets the declaration around it and goes on at the next."""

    def __init__(self, lark: Lark, text: str) -> None:
        self.text = text
        self.known = tables(lark)
        self.parser = lark.parse_interactive(text)
        self.state = self.parser.parser_state
        self.lexer = self.parser.lexer_thread
        self.level = len(self.state.state_stack)  # how high the stack is outside of all declarations
        self.declaration = 0
        self.previous: Token | None = None
        self.restarted = -1

    def read(self, limit: int) -> tuple[ast.Module | None, list[Stop]]:
        stops: list[Stop] = []
        while (stop := self._next_stop()) is not None:
            if stop.offset != self.restarted:
                stops.append(stop)
            if not self._go_on_after(stop) or len(stops) >= limit:
                break
        module = self.state.feed_token(Token(END, ""), is_end=True)
        return (module if isinstance(module, ast.Module) else None), stops

    def _next_stop(self) -> Stop | None:
        before = list(self.state.state_stack)
        try:
            for token in self.lexer.lex(self.state):  # type: ignore[no-untyped-call]
                before = list(self.state.state_stack)
                self.state.feed_token(token)
                self._remember(token)
                before = list(self.state.state_stack)
        except UnexpectedInput as error:
            at: int = error.pos_in_stream  # type: ignore[assignment]
            return self._stop(at, before)
        if _shifts(self.known.actions, before, END):
            return None
        return self._stop(len(self.text), before)

    def _stop(self, offset: int, stack: list[int]) -> Stop:
        return Stop(offset, accepted(self.known, stack), self.previous, self.declaration)

    def _remember(self, token: Token) -> None:
        stack = self.state.state_stack
        if stack[-1] in self.known.head_states and not self._after_export():
            self.level, self.declaration = len(stack) - 1, token.start_pos or 0
        self.previous = token

    def _after_export(self) -> bool:
        return self.previous is not None and self.previous.type == "EXPORT"

    def _go_on_after(self, stop: Stop) -> bool:
        """Forget the declaration around the stop, unless it was whole, and move to the next word at the left margin."""
        begins_at = stop.offset if stop.offset > self.restarted else stop.offset + 1
        following = _margin(self.known.heads).search(self.text, begins_at)
        if not self._was_whole(stop):
            del self.state.state_stack[self.level :]
            del self.state.value_stack[self.level - 1 :]
            self.previous = None
        if following is None:
            return False
        self.restarted = self.declaration = following.start()
        if self.lexer.state is not None:
            self.lexer.state.line_ctr.char_pos = following.start()
        return True

    def _was_whole(self, stop: Stop) -> bool:
        at_margin = stop.offset == 0 or self.text[stop.offset - 1] == "\n"
        return "guard" in stop.accepted and (stop.previous == "}" or at_margin)

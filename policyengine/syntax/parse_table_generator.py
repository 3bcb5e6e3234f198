"""Generates the parse table from the grammar with lark; `python -m policyengine.syntax.parse_table` saves the result.
This is the only module that imports lark. Reading policies needs only the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lark import Lark, Token
from lark.parsers.lalr_analysis import Shift

END = "$END"
BLANKS = "[ \t\r\n]+"
SKIPPED = "WHITESPACE"  # the lexer skips this before each token; it matches comments like tokens


class WholeWords:
    """Makes the lexer match whole words in every state, so that `denywhen` is never read as `deny when`."""

    always_accept = ("NAME",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


def generate_table(grammar: str) -> dict[str, Any]:
    """Return the table as plain data; `parse_table.py` describes its members."""
    lark: Any = Lark(
        grammar, parser="lalr", start="module", maybe_placeholders=False, keep_all_tokens=True, postlex=WholeWords()
    )
    parser, lexers = lark.parser.parser._parse_table, lark.parser.lexer.lexer.lexers
    assert lark.get_terminal(SKIPPED).pattern.value == BLANKS, "parse_table.py skips other blanks before a token"
    rules = {rule: number for number, rule in enumerate(lark.rules)}
    start, end = parser.start_states["module"], parser.end_states["module"]
    states = {state: number for number, state in enumerate(reachable_states(parser.states, start))}
    distinct = list({id(lexers[state]): lexers[state] for state in states}.values())
    places = {id(lexer): number for number, lexer in enumerate(distinct)}
    return {
        "start": states[start],
        "end": states[end],
        "written": {t.name: t.pattern.value if t.pattern.type == "str" else t.name for t in lark.terminals},
        "rules": [rule_data(rule) for rule in rules],
        "lexers": [lexer_data(lexer) for lexer in distinct],
        "states": [[places[id(lexers[s])], *state_actions(parser.states[s], states, rules)] for s in states],
    }


def reachable_states(table: Mapping[int, Mapping[str, Any]], start: int) -> list[int]:
    """Return every state in the order of a walk from the first state, because lark's own numbering varies between
    runs.
    """
    found = {start: None}
    order = [start]
    for state in order:  # grows during iteration
        shifts = [argument for _, (action, argument) in sorted(table[state].items()) if action is Shift]
        order += [target for target in dict.fromkeys(shifts) if target not in found]
        found.update(dict.fromkeys(shifts))
    return order


def rule_data(rule: Any) -> list[Any]:
    """Return the rule's name in the grammar, the phrase that it builds, and its symbols. The phrase is None if the rule
    is a list to be inlined, and "" if it returns its only part unchanged.
    """
    origin, symbols = rule.origin.name, [symbol.name for symbol in rule.expansion]
    if origin.startswith("_"):
        return [origin, None, symbols]
    if rule.options.expand1 and not rule.alias:
        assert not (len(symbols) == 1 and symbols[0].startswith("_")), f"{origin}: its number of parts is unknown"
        return [origin, "" if len(symbols) == 1 else origin, symbols]
    return [origin, rule.alias or origin, symbols]


def lexer_data(lexer: Any) -> list[Any]:
    """Return one regular expression with a named group for each terminal, and for each terminal the words that are
    terminals of their own.
    """
    terminals = [terminal for terminal in lexer.scanner.terminals if terminal.name != SKIPPED]
    pattern = "|".join(f"(?P<{terminal.name}>{terminal.pattern.to_regexp()})" for terminal in terminals)
    words = {
        name: dict(sorted((word.pattern.value, word.name) for word in unless.scanner.terminals))
        for name, unless in sorted(lexer.callback.items())
    }
    return [pattern, words]


def state_actions(
    found: Mapping[str, Any], states: Mapping[int, int], rules: Mapping[Any, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the actions by terminal (a state to shift to, or the complement `~` of the rule to reduce), and the next
    states by rule name."""
    actions: dict[str, int] = {}
    follows: dict[str, int] = {}
    for symbol, (action, argument) in sorted(found.items()):
        if symbol == END or symbol.isupper():
            actions[symbol] = states[argument] if action is Shift else ~rules[argument]
        else:
            follows[symbol] = states[argument]
    return actions, follows

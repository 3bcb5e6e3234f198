"""Reserved words, which the checker refuses as names where they would be misread.

A word is a keyword only where a phrase expects it, so almost every word is a valid name almost everywhere.
tests/syntax/test_words.py checks this table against the grammar.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_BEGIN_AN_OPERAND = frozenset("count distinct false sum true".split())
_BEGIN_A_CONDITION = _BEGIN_AN_OPERAND | frozenset("after all any no not".split())
_FOLLOW_AN_ENTITY = frozenset("after at cases forall given in otherwise repeat responded skip use".split())

# For each kind of declaration, the names that could not be used, or would have another meaning where they are used.
RESERVED_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "let": _BEGIN_A_CONDITION,
        "define": _BEGIN_A_CONDITION,
        "enum value": _BEGIN_A_CONDITION,
        "variable": _BEGIN_A_CONDITION,  # the variable in `any x in s: …`
        "axis": frozenset(["request", "true", "false"]),  # a variable of a matrix
        "scope": frozenset(["delegate", "denied"]),
        "entity": _BEGIN_AN_OPERAND | _FOLLOW_AN_ENTITY,
    }
)

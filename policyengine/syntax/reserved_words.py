"""Words that the grammar keeps where a declared name would be used: for the checker, which refuses such names.

A word is a keyword only where a phrase expects it, so nearly every word is a fine name nearly everywhere. What is
left is held equal to the grammar by tests/syntax/test_words.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_BEGIN_AN_OPERAND = frozenset("count distinct false sum true".split())
_BEGIN_A_CONDITION = _BEGIN_AN_OPERAND | frozenset("after all any no not".split())
_FOLLOW_AN_ENTITY = frozenset("after at cases forall given in otherwise repeat responded skip use".split())

# By what is declared: the words that then could not be written, or would mean something else, where it is used.
RESERVED_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "let": _BEGIN_A_CONDITION,
        "define": _BEGIN_A_CONDITION,
        "enum value": _BEGIN_A_CONDITION,
        "variable": _BEGIN_A_CONDITION,  # of `any x in s: …`
        "axis": frozenset(["request", "true", "false"]),  # of a matrix
        "scope": frozenset(["delegate", "denied"]),
        "entity": _BEGIN_AN_OPERAND | _FOLLOW_AN_ENTITY,
    }
)

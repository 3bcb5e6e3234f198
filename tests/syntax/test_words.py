"""Which words are lost as names, and where: the whole table, so that no change of the grammar takes one unnoticed.

In each template W stands for the word. `word!` is worse than lost: it is read, and means something else.
"""

import re
from functools import cache

import pytest
from lark import Token
from lark.exceptions import LarkError

from policyengine.syntax.reserved_words import RESERVED_WORDS
from tests.syntax.by_lark import lark

CONDITION = "after all any count distinct false! no not sum true!"
OPERAND = "count distinct false sum true"
CELL = "allow! confirm! deny! false! first not throttle! true!"

TABLE = [
    ("expr operand", "define a = W == 1", CONDITION),
    ("expr after and", "define a = b and W", "after count distinct false! no not sum true!"),
    ("expr right", "define a = b == W", "count distinct false! sum true!"),
    ("let", "let W = 1", ""),
    ("define", "define W = b", ""),
    ("scope", "scope W { GET /a }", ""),
    ("entity", "entity W", ""),
    ("1st field", "entity a { W: string }", ""),
    ("2nd field", "entity a { b: string W: string }", "inherited or"),
    ("field after set<>", "entity a { b: set<string> W: int }", "inherited or"),
    ("field after inherited", "entity a { b: set<string> inherited W: int }", "else"),
    ("type", "entity a { b: W }", ""),
    ("enum value", "enum a = b < W", ""),
    ("facts", "facts { W: int }", ""),
    ("may 1st", 'agent "a" { may W }', "delegate"),
    ("may 2nd", 'agent "a" { may b, W }', ""),
    ("on", 'guard "a" on W { deny }', ""),
    ("except", 'guard "a" on b except W { deny }', ""),
    ("include", "scope a { include W }", ""),
    ("with name", "scope a { TOOL b with W = c, W = d }", ""),
    ("with value", "scope a { TOOL b with c = W }", CONDITION),
    ("issued by", 'agent "a" { issued by W }', ""),
    ("quantified var", "define a = any W in b: c", ""),
    ("event", "define a = after W within 1h", ""),
    ("event paren", "define a = after (W) within 1h", "denied"),
    ("since", "define a = count of b within 1h since W > 1", ""),
    ("per", 'rate "a" per W { 1/1m }', ""),
    ("per list", 'rate "a" per (b, W) { 1/1m }', ""),
    ("role", 'guard "a" { confirm by role W }', ""),
    ("approver", 'guard "a" { confirm by W }', "role user!"),
    ("quorum", 'guard "a" { confirm by 2 of W }', "role"),
    ("entity literal type", 'define a = b in W "x"', OPERAND),
    ("audit", 'guard "a" { audit W when b }', ""),
    ("redact", 'guard "a" { redact W, W when b }', ""),
    ("invariant scope", 'invariant "a" { never allow W }', ""),
    ("invariant 2nd scope", 'invariant "a" { never allow b, W }', ""),
    ("fixture", "fixture W { }", ""),
    ("use", 'test "a" { use W }', ""),
    ("given", 'test "a" { given W 1 }', "agent entities"),
    ("given value", 'test "a" { given b W }', "false! true!"),
    ("record key", 'test "a" { given b { W: 1, W: 2 } }', ""),
    ("record value", 'test "a" { given b { c: W } }', "false! true!"),
    ("1st entity", 'fixture a { given entities { W "b" { } } }', ""),
    (
        "2nd entity",
        'fixture a { given entities { b "b" { } W "c" } }',
        "after at cases forall given in otherwise repeat responded skip use",
    ),
    ("parent type", 'fixture a { given entities { b "b" in W "c", W "d" } }', ""),
    ("2nd entity after in", 'fixture a { given entities { b "b" in d "c" W "d" } }', ""),
    ("bound", 'budget "a" per b { sum c <= W within 1h }', ""),
    ("gate", 'test "a" { GET /a => deny by W }', ""),
    ("column", 'test "a" { cases { | W | => | | 1 | allow | } }', "request!"),
    ("cell", 'test "a" { cases { | b | => | | W | allow | } }', CELL),
    ("cell row 2", 'test "a" { cases { | b | => | | 1 | allow | | W | deny | } }', CELL),
    ("axis", 'test "a" { cases for W in [1] { } }', "request!"),
    ("day", 'define a = time within W 08:00..09:00 "Z"', OPERAND),
    ("day2", 'define a = time within b..W "Z"', ""),
    ("claim", "issuer a { claims { b -> c W -> W } }", ""),
    ("action verb/type", "scope a { ACTION W W }", ""),
    ("map fact", "map W { fact W = W }", ""),
    ("profile step", 'profile "a" for agent "b" { expect W -> W }', ""),
    ("function", "define a = W(1)", "after all any count distinct false no not! sum true"),
    ("import as", "import W as W", ""),
    ("delegate", 'agent "a" { may delegate W to agent "b" }', ""),
    ("model env", "attester a { environment in [W] }", CONDITION),
    ("kind", 'agent "a" { credential { kind in [W] } }', CONDITION),
]

# Where a declared name is used: each kind, and the rows of the table that are its uses.
USES = {
    "let": ["expr operand", "expr after and", "expr right", "bound"],
    "define": ["expr operand", "expr after and"],
    "enum value": ["expr operand", "expr right", "record value"],
    "variable": ["quantified var", "expr operand", "expr after and", "expr right"],
    "axis": ["axis", "record value"],
    "scope": ["may 1st", "may 2nd", "on", "except", "include", "event", "event paren", "invariant scope", "delegate"],
    "entity": ["type", "entity literal type", "1st entity", "2nd entity", "2nd entity after in", "parent type"],
}


@cache
def words() -> list[str]:
    patterns = [terminal.pattern.value for terminal in lark().terminals if terminal.pattern.type == "str"]
    return sorted(pattern for pattern in patterns if re.fullmatch("[a-z_]+", pattern))


def fate(template: str, word: str) -> str:
    """The word when it cannot be written there, with a mark when it can and is no name; nothing when it is one."""
    try:
        tree = lark().parse(template.replace("W", word))
    except LarkError:
        return word
    tokens = tree.scan_values(lambda value: isinstance(value, Token))
    names = sum(1 for token in tokens if token.type == "NAME" and token == word)
    return "" if names >= template.count("W") else f"{word}!"


@pytest.mark.parametrize(("place", "template", "lost"), TABLE, ids=[row[0] for row in TABLE])
def test_only_the_listed_words_cannot_be_names(place: str, template: str, lost: str) -> None:
    assert [found for word in words() if (found := fate(template, word))] == lost.split()


@pytest.mark.parametrize("kind", USES)
def test_the_reserved_words_are_the_words_that_cannot_be_used_as_names(kind: str) -> None:
    lost = {place: words.replace("!", "").split() for place, _, words in TABLE}
    assert RESERVED_WORDS[kind] == {word for place in USES[kind] for word in lost[place]}


def test_every_kind_of_name_has_a_row_of_uses() -> None:
    assert set(RESERVED_WORDS) == set(USES)


@pytest.mark.parametrize("member", ["agent", "when", "deny", "not", "true", "count", "in"])
def test_a_keyword_may_be_a_member_name(member: str) -> None:
    assert fate("define x = W == 1", f"user.{member}") == ""

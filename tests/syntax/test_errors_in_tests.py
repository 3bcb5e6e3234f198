"""Slips in the phrases around an outcome: what is told, and how it is written instead."""

import pytest

from policyengine.source import Source
from policyengine.syntax.parse import parse

SLIPS = [
    ("GET /a => allow with }", "expected `{`, got `}`", 'write details in braces: `with { message: "…" }`'),
    ('GET /a => allow with message: "x"', "expected `{`, got `message`",
     'write details in braces: `with { message: "…" }`'),
    ("GET /a => with { user: absent }", "expected an outcome (`allow`, `deny`, …), got `with`",
     "write the outcome before the details: `=> deny with { … }`"),
    ('GET /a => deny with { user: absent } by "x"', "expected a method, `TOOL`, `ACTION`, … or `}`, got `by`",
     "write `by …` before `with { … }`"),
    ('GET /a => deny by guard "g"', 'expected a method, `with`, `TOOL`, … or `}`, got `"g"`',
     'write only the name of the rule after `by`: `deny by "g"`'),
    ('GET /a => throttle by rate "g"', 'expected a method, `with`, `TOOL`, … or `}`, got `"g"`',
     'write only the name of the rule after `by`: `throttle by "g"`'),
    ("GET /a => deny by gate guard", "expected a method, `with`, `TOOL`, … or `}`, got `guard`",
     "write only the name of a gate after `by`: `deny by guard`"),
    ("GET /a => allow responded ok", "expected a number, got `ok`", "write the status: `responded 201`"),
    ("GET /a responded 500", "expected `{` or `=>`, got `responded`",
     "write the outcome before the response: `=> allow responded 201`"),
    ("repeat GET /a => allow", "expected a number, got `GET`",
     "write the number of requests and their total time: `repeat 21 in 10s`"),
    ("repeat 3 GET /a => allow", "expected `in`, got `GET`",
     "write the total time: `repeat 3 in 10s`"),
    ("repeat 3 in 1s GET /a => first throttle GET /b", "expected `at`, got `GET`",
     "write the number of the request: `first throttle at 21`"),
    ('forall where user.id == "x" => deny', "expected `request`, got `where`", "write `forall request where …`"),
    ('forall request user.id == "x" => deny', "expected `where` or `=>`, got `user.id`",
     "begin a condition with `where`: `forall request where …`"),
    ("cases { }", "expected `|`, got `}`", "begin a table with its columns: `| request | body.amount | => |`"),
]  # fmt: skip


@pytest.mark.parametrize(("inside", "message", "hint"), SLIPS, ids=[row[0] for row in SLIPS])
def test_an_error_in_a_test_block_has_a_hint(inside: str, message: str, hint: str) -> None:
    _, [first, *_] = parse(Source("x.policy", f'test "t" {{ {inside} }}'))
    assert (first.code, first.message, first.hint) == ("E101", message, hint)

"""How facts are called in reasons: as policies write them."""

import pytest

from policyengine.engine import Engine
from policyengine.runtime.format_values import format_fact_path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("body", "amount"), "body.amount"),
        (("body", "items", "0"), "body.items[0]"),
        (("args", "content-type"), 'args["content-type"]'),
        (("request", "headers", "x-id"), 'request.headers["x-id"]'),
        (("request", "query", "page"), "request.query.page"),
        (("request", "query", "1"), 'request.query["1"]'),
        (("request", "query", 'a"b'), r'request.query["a\"b"]'),
    ],
)
def test_a_fact_path_is_formatted_as_in_a_policy(path, name):
    assert format_fact_path(path) == name


@pytest.mark.parametrize("fact", ['request.headers["x-tenant"]', 'request.query["a.b"]', 'args["content-type"]'])
@pytest.mark.parametrize("pending", [True, False])
def test_a_reason_names_an_unknown_fact_in_policy_syntax(fact, pending):
    place = "TOOL t" if "args" in fact else "GET /x"
    policy = f'anyone {{ may GET /x, TOOL t }}\nguard "g" on {place} {{ deny when {fact} == "a" }}'
    endpoint = {"tool": {"name": "t"}} if "args" in fact else {"request": {"method": "GET", "path": "/x"}}
    engine = Engine.from_text(policy)
    asked = {**endpoint, "pending": [fact]} if pending else endpoint
    for decision in (engine.decide(asked), engine.explain(asked).decision):
        why = "pending" if pending else "absent"
        assert f"(`{fact}` is unknown: {why})" in decision.reasons[0].message
        assert decision.unknown[0].fact == fact


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({"args": {}}, "(absent)"),
        ({"args": {}, "pending": ["args.to"]}, "(unknown)"),
        ({"pending": ["args"]}, "(unknown)"),
    ],
)
def test_a_message_distinguishes_an_argument_that_is_absent_from_one_that_was_not_read(asked, shown):
    policy = "facts on TOOL t { args.to: string? }\nanyone { may TOOL t }\n"
    policy += 'guard "g" on TOOL t { deny message "to {args.to}" }'
    engine, question = Engine.from_text(policy), {"tool": {"name": "t"}, **asked}
    for decision in (engine.decide(question), engine.explain(question).decision):
        assert decision.reasons[0].message == f"to {shown}"

"""Questions with pending facts: such a fact has no effect where no rule reads it."""

import pytest

from policyengine.engine import Engine
from policyengine.runtime.request import RequestError
from tests.generate.specified import said

POLICY = """
facts on POST /pay { body.amount: number   body.note: string? }
facts { context.flag: bool? }
anyone { may GET /x, POST /pay, TOOL mail/send, GET /flagged }
guard "small" on POST /pay { deny when body.amount > 10   deny when (body.note else "") == "urgent" }
guard "flagged" on GET /flagged { deny when context.flag is present }
rate "few" per request.ip on GET /rated { 5/1m }
"""
GET = {"request": {"method": "GET", "path": "/x"}}
PAY = {"request": {"method": "POST", "path": "/pay"}, "body": {"amount": 5, "note": None}}
TOOL = {"tool": {"server": "mail", "name": "send"}}


@pytest.fixture(scope="module")
def engine():
    return Engine.from_text(POLICY)


@pytest.mark.parametrize(
    ("question", "pending", "denied"),
    [
        (GET, ["body", "context", "request.size", "request.headers.*", 'request.headers["cookie"]'], False),
        (GET, [], False),
        (TOOL, ["request.headers.*", "request.query.*", "request.ip"], False),
        (PAY, ["context.*"], False),
        (PAY, ["body.*"], False),
        ({**PAY, "body": {"amount": 5}}, ["body.*"], True),
        (PAY, ["body.note"], True),
        (PAY, ["body.other"], False),
        ({"request": {"method": "GET", "path": "/flagged"}}, ["context"], True),
        (GET, ["agent.groups"], False),
        (GET, ["user.roles"], False),
        (GET, ["credential.claims.*"], False),
        (GET, ["body.card.number"], False),
        (GET, ["body"] * 65, False),
    ],
)
def test_a_pending_fact_has_an_effect_only_where_a_rule_reads_it(engine, question, pending, denied):
    asked = {**question, "pending": pending}
    assert said(engine.evaluate(asked)) == said(engine.explain(asked).decision)
    assert engine.evaluate(question).allowed
    assert engine.evaluate(asked).allowed is not denied


@pytest.mark.parametrize(
    "asked",
    [
        {**PAY, "pending": ["body.amount"]},
        {**PAY, "pending": ["body"]},
        {**GET, "body": {}, "pending": ["body"]},
        {**GET, "context": {"flag": True}, "pending": ["context.flag"]},
        {"request": {**GET["request"], "headers": {"X-A": "1"}}, "pending": ['request.headers["x-a"]']},
        {"request": {**GET["request"], "headers": {"x-a": "1"}}, "pending": ['request.headers["X-A"]']},
        {"request": {**GET["request"], "ip": "10.0.0.1"}, "pending": ["request.ip"]},
        {**GET, "pending": ["args.amount", "args"]},
        {**GET, "pending": ["nobody.knows"]},
        {**GET, "pending": [["body"]]},
        {**GET, "pending": [7]},
        {**GET, "pending": "body"},
    ],
)
def test_contradictory_questions_are_refused(engine, asked):
    with pytest.raises(RequestError):
        engine.evaluate(asked)

"""Questions with pending facts are answered at once where nothing asks whether these are there, and else with care."""

import pytest

from policyengine.engine import Engine
from policyengine.runtime.request import RequestError
from tests.generate.specified import said

POLICY = """
facts on POST /pay { body.amount: number   body.note: string? }
facts { context.flag: bool? }
anyone { may GET /x, POST /pay, TOOL mail/send }
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
    ("question", "pending", "at_once"),
    [
        (GET, ["body", "context", "request.size", "request.headers.*", 'request.headers["cookie"]'], True),
        (GET, [], True),
        (TOOL, ["request.headers.*", "request.query.*", "request.ip"], True),
        (PAY, ["context.*"], True),
        (PAY, ["body.*"], False),
        (PAY, ["body.note"], False),
        (PAY, ["body.other"], True),
        ({"request": {"method": "GET", "path": "/flagged"}}, ["context"], False),
        (GET, ["agent.groups"], False),
        (GET, ["user.roles"], False),
        (GET, ["credential.claims.*"], False),
        (GET, ["body.card.number"], False),
        (GET, ["body"] * 65, False),
    ],
)
def test_a_pending_fact_has_no_effect_where_no_rule_tests_its_presence(engine, question, pending, at_once):
    asked = {**question, "pending": pending}
    quick = engine.decider.compiled.decide(asked)
    assert (quick is not None) is at_once
    assert said(engine.evaluate(asked)) == said(engine.explain(asked).decision)
    assert quick is None or said(quick) == said(engine.explain(asked).decision)


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
    assert engine.decider.compiled.decide(asked) is None
    with pytest.raises(RequestError):
        engine.evaluate(asked)

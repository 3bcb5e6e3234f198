"""Objects of which not all is known: what is not given is unknown, and no condition on absence sees through it."""

import pytest

from tests.spec.deciding import decide, question, unknown, verdict

HEAD = "facts on POST /pay { body.to: string?  body.card: { number: string?  limit: int? }? }\nanyone { may GET /x }\n"
OPEN = HEAD + "anyone { may POST /pay }\n"

CONDITIONS = {
    "else": 'deny when (body.to else "") == "mallory"',
    "present": 'deny when body.to is present and body.to == "mallory"',
    "header else": 'deny when (request.headers["x-role"] else "") == "admin"',
    "header present": 'deny when request.headers["x-role"] is present',
    "query": 'deny when (request.query["as"] else "") == "admin"',
    "member": "deny when (body.card.limit else 0) > 7",
}
WHOLE = {"body": {}, "request": {"headers": {}, "query": {}}}


def guarded(condition):
    return f'{OPEN}guard "g" on POST /pay {{ {condition} }}'


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_a_guard_on_absence_denies_if_the_member_is_unknown(condition):
    policy = guarded(condition)
    assert decide(policy, question("POST /pay", **WHOLE)).allowed
    pending = ["body.*", "request.headers.*", "request.query.*"]
    assert verdict(decide(policy, question("POST /pay", **WHOLE, pending=pending))) == 'deny by "g"'


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_a_null_member_of_a_pending_object_is_absent(condition):
    given = {"body": {"to": None, "card": None}, "request": {"headers": {"X-Role": None}, "query": {"as": None}}}
    pending = ["body.*", "request.headers.*", "request.query.*"]
    assert decide(guarded(condition), question("POST /pay", **given, pending=pending)).allowed


def test_a_given_member_of_a_pending_object_is_known():
    policy = guarded(CONDITIONS["else"])
    assert decide(policy, question("POST /pay", body={"to": "alice"}, pending=["body.*"])).allowed
    assert not decide(policy, question("POST /pay", body={"to": "mallory"}, pending=["body.*"])).allowed


@pytest.mark.parametrize("condition", ["body.to is absent", '(body.to else "") == ""', "not (body.to is present)"])
def test_a_grant_on_absence_does_not_open_if_the_member_is_unknown(condition):
    policy = HEAD + f"anyone {{ may POST /pay when {condition} }}"
    assert decide(policy, question("POST /pay")).allowed
    assert not decide(policy, question("POST /pay", pending=["body.*"])).allowed
    assert decide(policy, question("POST /pay", body={"to": None}, pending=["body.*"])).allowed


def test_the_reason_names_the_unknown_member():
    asked = question("POST /pay", body={"card": {"number": "4"}}, pending=["body.card.*"])
    assert unknown(decide(guarded(CONDITIONS["member"]), asked)) == {"body.card.limit"}

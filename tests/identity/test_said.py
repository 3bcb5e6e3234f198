"""What a token that was refused says, for its operator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyengine import Engine
from policyengine.identity.token_report import describe_token
from policyengine.identity.verify.claims import reference_list_claim
from policyengine.runtime.credential_errors import CredentialError
from tests.identity.issuing import ACME, GONE, NOW, POLICY, token

HERE = "now is 2027-01-15T08:00:00Z"


def lines(raw: object, scheme: str = "Bearer", policy: str = POLICY) -> list[str]:
    question = {"request": {"method": "GET", "path": "/"}, "credentials": {"authorization": f"{scheme} {raw}"}}
    return list(describe_token(json.dumps(question).encode(), Engine.from_text(policy).kernel, NOW))


def test_the_description_compares_the_token_with_the_policy():
    assert lines(token(), "dpop") == [
        f"the token has: typ `at+jwt`, kid `ec`, iss `{ACME}`, aud `payments-api`, client_id `invoice-bot`",
        f"the times of the token: issued 2027-01-15T07:59:50Z, expires 2027-01-15T08:05:00Z; {HERE}",
        f"the policy has: issuer `acme` with url `{ACME}` and audience `payments-api`",
    ]


def test_the_description_of_an_unknown_issuer_lists_every_issuer():
    *_, last = lines(token(iss=f"{ACME}/"))
    assert f"issuer `acme` with url `{ACME}` and" in last
    assert "issuer `other` with" in last


@pytest.mark.parametrize(
    ("claims", "part"),
    [
        ({"client_id": GONE, "jti": GONE}, "no `client_id`, no `jti`"),
        ({"aud": ["a", "b"]}, "aud `a` and `b`,"),
        ({"aud": 7}, "a `aud` that is not a string"),
        ({"aud": "x" * 200}, f"aud `{'x' * 100}…`"),
        ({"client_id": "a\x1b[2Jb"}, "client_id `a?[2Jb`"),
    ],
)
def test_the_description_reports_missing_malformed_and_overlong_claims(claims: dict[str, Any], part: str):
    assert part in lines(token(**claims))[0]


@pytest.mark.parametrize("claims", [{"exp": "soon", "iat": GONE}, {"exp": 10**15, "iat": -1}])
def test_the_description_reports_invalid_times(claims: dict[str, Any]):
    assert [line.split(":")[0] for line in lines(token(**claims))] == [
        "the token has",
        "claims of the wrong type",
        "the policy has",
    ]


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"task": "t"}, "`task` (the claim `task` is not a JSON object)"),
        ({"task": {"id": "t", "tools": "fs/read"}}, "`task` (the claim `tools` is not a list of strings)"),
        ({"task": {"id": ""}}, "`task` (the claim `id` is not a string of 1 to 2,048 characters)"),
        (
            {"task": {"id": "t", "tools": ["fs/read"] * 1_001}},
            "`task` (the claim `tools` is not a list of at most 1,000 strings of 1 to 2,048 characters)",
        ),
        ({"task": {"tools": []}}, "`task` (the claim `task` has no `id`, or has unknown members)"),
        ({"scope": 7}, "`scope` (the claim `scope` is not a list of scopes)"),
        ({"exp": "soon"}, "`exp` (the claim `exp` is not a valid time)"),
    ],
)
def test_the_description_names_a_claim_of_the_wrong_type(claims: dict[str, Any], told: str):
    assert f"claims of the wrong type: {told}" in lines(token(**claims))


def test_a_list_with_too_many_entities_is_refused_with_its_limit():
    with pytest.raises(CredentialError) as found:
        reference_list_claim({"entities": [{"type": "invoice", "id": "42"}] * 1_001}, "entities")
    assert found.value.why == "the claim `entities` is not a list of at most 1,000 objects"


def test_the_description_omits_type_errors_for_well_typed_claims():
    task = {"id": "t", "tools": ["fs/read"], "entities": [{"type": "invoice", "id": "42"}]}
    assert not any(line.startswith("claims of the wrong type") for line in lines(token(task=task, scope="a b")))


def test_the_description_reports_a_policy_without_issuer_urls():
    assert lines(token(), policy='issuer acme { scopes none }  agent "a" { issued by acme  acts alone  may GET /x }')[
        -1
    ] == ("the policy has: no issuer with a `url`")


@pytest.mark.parametrize("raw", ["opaque", "a.b.c", "e.e.e.e.e", ""])
def test_a_malformed_token_has_no_description(raw: str):
    assert lines(raw) == []


@pytest.mark.parametrize("question", [b"{", b"[]", b'{"credentials": 1}', b'{"credentials": {"authorization": 1}}'])
def test_a_malformed_question_has_no_token_description(question: bytes):
    assert list(describe_token(question, Engine.from_text(POLICY).kernel, NOW)) == []

"""What ends, ends alike on every store: itself, what rests on it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.errors import IssuanceRefusal, TokenIssuanceError
from policyengine.server.app import create_app
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.identity.minting import ARCHIVE, NOW, OTHER, Desk, assertion, ec, key_of, signed, subject
from tests.stores.conftest import ANY_SKEW, of_server

OPERATOR = {"Authorization": "Bearer operator-of-this-test"}
READ = "read:invoices"
KEY = "K" * 42 + "A"  # a thumbprint, as the key of a proof is named here


class Http:
    """A server that issues tokens, on a store."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        desk.identity.issuing = desk.first
        self.client = TestClient(create_app(desk.engine, token="operator-of-this-test"))

    def revoke(self, **form: str) -> Any:
        return self.client.post("/revoke", data=form, headers=OPERATOR)

    def exchange(self, by: str = "summarizer", **changes: Any) -> str:
        return self.desk.exchange(by=by, _dpop=KEY, **{"scope": READ, **changes}).token

    def over(self, raw: str) -> bool:
        decision = self.desk.decide(raw, dpop=KEY)
        return not decision.allowed and decision.reasons[0].code == "revoked"


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis", "valkey"])
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    folder: Path = tmp_path_factory.mktemp("alike")
    match request.param:
        case "memory":
            yield Http(Desk(folder, store=MemoryStore(max_skew=ANY_SKEW).marks))
        case "sqlite":
            yield Http(Desk(folder, store=SqliteStore(folder / "store.db").marks))
        case name:
            for empty in of_server(request.getfixturevalue(f"{name}_server")):
                yield Http(Desk(folder, store=empty().marks))


def opened(task: str, user: str, **changes: Any) -> dict[str, Any]:
    """What asks for a token of a new task."""
    return {"subject_token": subject(sub=user), "task": json.dumps({"id": task}), **changes}


def completed(http: Http, raw: str, task: str) -> Any:
    headers = {"Authorization": f"DPoP {raw}", "DPoP": KEY}
    return http.client.post(f"/tasks/{task}/complete", headers=headers)


Ends = Callable[[Http], tuple[Any, list[str], list[str]]]  # the answer, what is over, and what goes on


def a_token(http: Http) -> tuple[Any, list[str], list[str]]:
    first, other = http.exchange(), http.exchange()
    second = http.exchange(by="reader", subject_token=first)
    return http.revoke(token=first), [first, second], [other]


def a_token_that_nobody_can_verify_any_more(http: Http) -> tuple[Any, list[str], list[str]]:
    """It was exchanged, and its issuer has another key since."""
    raw, spared = (subject() for _ in range(2))
    rests, other = (http.exchange(subject_token=one) for one in (raw, spared))
    issuers = http.desk.identity.parts.tokens.issuers  # type: ignore[attr-defined]
    before = issuers["https://login.acme.example"]
    issuers["https://login.acme.example"] = issuers[OTHER]
    try:
        answer = http.revoke(token=raw)
    finally:
        issuers["https://login.acme.example"] = before
    assert answer.json() == {"verified": False}
    return answer, [rests], [other]


def the_first_of_a_chain(http: Http) -> tuple[Any, list[str], list[str]]:
    raw, other = http.exchange(subject_token=subject(jti="first")), http.exchange()
    handed = http.exchange(by="reader", subject_token=raw)
    return http.revoke(chain="acme/first"), [raw, handed], [other]


def a_user(http: Http) -> tuple[Any, list[str], list[str]]:
    raw, other = (http.exchange(subject_token=subject(sub=name)) for name in ("bob", "bobby"))
    return http.revoke(user="acme/bob"), [raw], [other]


def a_task(http: Http) -> tuple[Any, list[str], list[str]]:
    raw, other = http.exchange(**opened("t-1", "carol")), http.exchange(**opened("t-11", "carol"))
    return http.revoke(task="desk/t-1"), [raw], [other]


def ones_own_task(http: Http) -> tuple[Any, list[str], list[str]]:
    mine = http.exchange(**opened("t/2", "dave"))
    handed = http.exchange(by="reader", subject_token=mine)
    theirs = subject(sub="dave", org="acme")
    other = http.exchange(by="clerk", **opened("t/2", "dave", subject_token=theirs))
    return completed(http, mine, "t%2F2"), [mine, handed], [other]


def ones_own_task_for_another_audience(http: Http) -> tuple[Any, list[str], list[str]]:
    away, here = http.exchange(**opened("t-3", "erin", audience=ARCHIVE)), http.exchange(**opened("t-3", "erin"))
    return completed(http, away, "t-3"), [here], []


def the_key_of_an_assertion(http: Http) -> tuple[Any, list[str], list[str]]:
    raw, other = http.exchange(by="planner"), http.exchange()
    answer = http.revoke(key=key_of("planner").thumbprint())
    with pytest.raises(TokenIssuanceError) as found:
        http.exchange(by="planner")
    assert found.value.code is IssuanceRefusal.REVOKED
    return answer, [raw], [other]


ENDS: list[Ends] = [
    a_token,
    a_token_that_nobody_can_verify_any_more,
    the_first_of_a_chain,
    a_user,
    a_task,
    ones_own_task,
    ones_own_task_for_another_audience,
    the_key_of_an_assertion,
]


@pytest.mark.parametrize("ends", ENDS, ids=lambda one: one.__name__)
def test_a_revocation_ends_the_revoked_tokens_and_no_others(http: Http, ends: Ends) -> None:
    answer, over, others = ends(http)
    assert answer.status_code == 200, answer.text
    assert [http.over(raw) for raw in over] == [True] * len(over)
    assert [http.over(raw) for raw in others] == [False] * len(others)


def test_a_revoked_client_cannot_introspect(http: Http) -> None:
    asked = {"token": subject(), "client_assertion_type": ASSERTION_TYPE}
    codes = []
    for _ in range(2):
        form = {**asked, "client_assertion": assertion("loner")}
        codes.append(http.client.post("/introspect", data=form).json().get("error"))
        http.revoke(agent="acme/loner")
    assert codes == [None, "unauthorized_client"]


def test_revoking_a_forged_token_is_rejected_and_stores_nothing(http: Http) -> None:
    before = http.desk.identity.counts["revoked_now"]
    forged = signed(
        {"alg": "ES256", "kid": "ec"}, {"iss": OTHER, "client_id": "reader", "exp": NOW + 60}, ec("P-256", "x")
    )
    for raw in ("garbage", forged):
        form = {"token": raw, "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion("reader")}
        assert http.client.post("/revoke", data=form).json()["error"] == "unsupported_token_type"
    assert http.desk.identity.counts["revoked_now"] == before

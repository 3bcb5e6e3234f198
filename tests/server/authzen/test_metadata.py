"""What gateways find out by themselves: which endpoints there are, and what is not there yet."""

from __future__ import annotations

import pytest

from policyengine.engine import Engine
from tests.server.authzen.asking import MANY, METADATA, ONE, TOKEN, Call, caller, example


@pytest.fixture(scope="module")
def engine() -> Engine:
    return example("authzen")


def test_the_metadata_list_exactly_the_existing_endpoints(call: Call) -> None:
    answer = call("GET", METADATA)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    base = str(answer.url).removesuffix(METADATA)
    assert answer.json() == {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + ONE,
        "access_evaluations_endpoint": base + MANY,
        "supported_obligations": ["step-up", "notification", "custom"],
    }


def test_every_endpoint_in_the_metadata_exists(call: Call) -> None:
    found = {name: url for name, url in call("GET", METADATA).json().items() if name.endswith("_endpoint")}
    assert len(found) == 2
    for url in found.values():
        assert call("POST", url, json={}).status_code == 400


def test_the_metadata_use_the_public_url(engine: Engine) -> None:
    found = caller(engine, public_url="https://pdp.example.com")("GET", METADATA).json()
    assert found["policy_decision_point"] == "https://pdp.example.com"
    assert found["access_evaluation_endpoint"] == "https://pdp.example.com/access/v1/evaluation"


def test_the_metadata_need_no_token(engine: Engine) -> None:
    assert caller(engine, token=TOKEN)("GET", METADATA).status_code == 200


def test_the_metadata_reject_post(call: Call) -> None:
    assert call("POST", METADATA, json={}).status_code == 405


@pytest.mark.parametrize("what", ["subject", "resource", "action"])
def test_a_search_is_404_because_it_does_not_exist_yet(call: Call, what: str) -> None:
    answer = call("POST", f"/access/v1/search/{what}", json={})
    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no search for {what} yet")

"""What gateways find out by themselves: which endpoints there are, and what is not there yet."""

from __future__ import annotations

import pytest

from policyengine.engine import Engine
from tests.server.authzen.asking import MANY, METADATA, ONE, TOKEN, Call, caller, example


@pytest.fixture(scope="module")
def engine() -> Engine:
    return example("authzen")


def test_the_metadata_name_what_there_is_and_nothing_else(call: Call) -> None:
    answer = call("GET", METADATA)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    base = str(answer.url).removesuffix(METADATA)
    assert answer.json() == {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + ONE,
        "access_evaluations_endpoint": base + MANY,
        "supported_obligations": ["step-up", "notification", "custom"],
    }


def test_every_endpoint_that_is_named_is_there(call: Call) -> None:
    found = {name: url for name, url in call("GET", METADATA).json().items() if name.endswith("_endpoint")}
    assert len(found) == 2
    for url in found.values():
        assert call("POST", url, json={}).status_code == 400


def test_a_public_url_is_named_in_place_of_the_one_that_was_asked(engine: Engine) -> None:
    found = caller(engine, public_url="https://pdp.example.com")("GET", METADATA).json()
    assert found["policy_decision_point"] == "https://pdp.example.com"
    assert found["access_evaluation_endpoint"] == "https://pdp.example.com/access/v1/evaluation"


def test_the_metadata_are_for_everybody(engine: Engine) -> None:
    assert caller(engine, token=TOKEN)("GET", METADATA).status_code == 200


def test_the_metadata_are_only_read(call: Call) -> None:
    assert call("POST", METADATA, json={}).status_code == 405


@pytest.mark.parametrize("what", ["subject", "resource", "action"])
def test_a_search_says_that_there_is_none_yet(call: Call, what: str) -> None:
    answer = call("POST", f"/access/v1/search/{what}", json={})
    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no search for {what} yet")

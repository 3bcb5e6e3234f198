"""Questions of AuthZEN that become none of the policy's: what `/metrics` and the operator's log say of them."""

from __future__ import annotations

import pytest

from policyengine.engine import Engine
from policyengine.server.authzen.untranslatable import LOG_INTERVAL_SECONDS, DenialReporter
from policyengine.server.telemetry.shared_counters import ServerCounters
from tests.server.authzen.asking import ALICE, MANY, ONE, caller
from tests.server.test_metrics import of, samples

POLICY = """language 1
package shop
entity user {}
entity todo {}
anyone { may ACTION read todo }
map authzen { action "see" => ACTION read todo }
"""
UNMAPPED = {"subject": ALICE, "action": {"name": "brew"}, "resource": {"type": "pot", "id": "1"}}
NAME = "policyengine_decisions_total"


@pytest.fixture
def engine() -> Engine:
    return Engine.from_text(POLICY)


def counts(text: str) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families as prometheus

    found = samples(prometheus(text))
    gates = ("unmapped", "invalid", "failure", "default")
    return {gate: many for gate in gates if (many := of(found, NAME, door="authzen", outcome="deny", gate=gate))}


def test_unmapped_and_invalid_questions_are_counted_and_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    call = caller(engine)
    assert call("POST", ONE, json=UNMAPPED).json()["context"]["reason"] == "unmapped"
    many = {"subject": ALICE, "evaluations": [UNMAPPED, {"action": 1}, {"action": {"name": "see"}}, 7]}
    answers = call("POST", MANY, json=many).json()["evaluations"]
    assert [one["context"]["reason"] for one in answers] == ["unmapped", "invalid", "invalid", "invalid"]
    assert counts(call("GET", "/metrics").text) == {"unmapped": 2, "invalid": 3}
    told = [one for one in caplog.messages if "AuthZEN" in one]
    assert len(told) == 2  # one of each kind: the rest waits for a minute
    assert told[0].startswith("an AuthZEN question was denied as `unmapped`: ")
    assert told[0].endswith("no `map authzen` defines `brew` on `pot`")


def test_a_malformed_body_is_a_problem_and_is_not_counted_as_a_decision(engine: Engine) -> None:
    call = caller(engine)
    assert call("POST", ONE, json={"subject": ALICE}).status_code == 400
    assert counts(call("GET", "/metrics").text) == {}


def test_the_log_reports_denied_authzen_questions_once_per_interval_with_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    refused = DenialReporter(ServerCounters(), lambda: now)
    for number in range(3):
        refused("unmapped", f"of {number}")
    now = LOG_INTERVAL_SECONDS
    refused("unmapped", "it is so")
    assert caplog.messages == [
        "an AuthZEN question was denied as `unmapped`: of 0",
        "3 AuthZEN questions were denied as `unmapped`; the latest because it is so",
    ]

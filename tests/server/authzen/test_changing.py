"""AuthZEN while somebody observes, and after other policies were taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.kernel import Kernel
from policyengine.reload import ReloadableEngine
from tests.server.authzen.asking import ALLOWED, MANY, ONE, REFUSED, Free, caller, decision, decisions

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """language 1
package shop
entity record
anyone { may ACTION read record }
"""


def test_observe_mode_allows_and_returns_the_outcome_that_would_be() -> None:
    engine = Engine.from_text(POLICY, clock=lambda: NOW)
    engine.observe(Observe(NOW + timedelta(hours=1)))
    call = caller(engine)
    answer = call("POST", ONE, json=REFUSED)
    assert (decision(answer), answer.headers["x-would-be"]) == (True, "deny")
    context = answer.json()["context"]
    assert (context["would_be"], context["reason"]) == ("deny", "denied")
    assert call("POST", ONE, json=ALLOWED).json() == {"decision": True, "context": {"would_be": "allow"}}
    assert decisions(call("POST", MANY, json={"evaluations": [ALLOWED, REFUSED]})) == [True, True]


def mapping(action: str) -> Kernel:
    return Engine.from_text(POLICY + f'map authzen {{ action "{action}" => ACTION read record }}').kernel


def test_a_reload_replaces_the_authzen_map() -> None:
    """What translates is kept from one question to the next, and not beyond the policy that it is of."""
    question: Free = {**ALLOWED, "action": {"name": "new"}}
    old, new = Engine(mapping("old")), Engine(mapping("new"))
    reloading = ReloadableEngine(old)
    call, found = caller(reloading), []
    for engine in (old, new, old):
        reloading.swap(engine)
        found.append(decision(call("POST", ONE, json=question)))
    assert found == [False, True, False]


def test_authzen_decisions_are_counted_under_their_own_adapter() -> None:
    call = caller(Engine.from_text(POLICY))
    for question in (ALLOWED, REFUSED):
        call("POST", ONE, json=question)
    counted = call("GET", "/metrics").text.splitlines()
    assert 'policyengine_decisions_total{door="authzen",gate="",outcome="allow"} 1.0' in counted

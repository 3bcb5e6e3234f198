"""Callers: one question in many names."""

import pytest

from policyengine.simulation import Callers, NoOtherCallerError
from policyengine.simulation.renamed_callers import vary_fact
from tests.simulation.playing import MAIL, POLICY, SEARCH, engine


def passes(text):
    decides, _ = engine(text)
    return lambda one: decides.evaluate(dict(one)).allowed


def test_callers_vary_by_agent_when_the_policy_allows_other_agents():
    found = Callers.of([SEARCH], 5, None, passes(POLICY))
    assert found.vary == "agent.id"
    assert [found.question(0, caller)["agent"]["id"] for caller in range(3)] == ["worker", "worker-2", "worker-3"]


def test_callers_cannot_vary_when_the_policy_names_one_agent():
    with pytest.raises(NoOtherCallerError):
        Callers.of([SEARCH], 5, None, passes(POLICY.replace('"worker*"', '"worker"')))


def test_a_single_caller_sends_the_unchanged_question():
    found = Callers.of([SEARCH], 1, "agent.id", passes(POLICY))
    assert found.vary is None
    assert found.question(0, 0) == SEARCH


def test_each_caller_sends_all_questions():
    found = Callers.of([SEARCH, MAIL], 2, None, passes(POLICY))
    assert found.question(1, 1)["request"]["path"] == "/mail"
    assert found.question(1, 1)["agent"]["id"] == "worker-2"


@pytest.mark.parametrize(
    ("fact", "second"), [("body.tenant", "2"), ("body.deep.id", "x-2"), ("body.number", 8), ("agent.id", "worker-2")]
)
def test_only_the_named_fact_varies(fact, second):
    asked = {**SEARCH, "body": {"deep": {"id": "x"}, "number": 7}}
    found = vary_fact(asked, fact, 1)
    for name in fact.split("."):
        found = found[name]
    assert found == second
    assert asked["body"] == {"deep": {"id": "x"}, "number": 7}

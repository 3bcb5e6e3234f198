"""Whom a reader of learned facts takes for the caller of a request, whichever caller it identified before."""

from itertools import permutations

import pytest

from policyengine import Engine
from policyengine.behavior import reader as reader_module

POLICY = """language 1
package identified
issuer one { url "https://one.example"  scopes none }
issuer two { url "https://two.example"  scopes none }
agent "bot" { issued by one, two  acts alone  may GET /** }
profile "night" for group "night" { run by task.id within 5m }
rate "r" per agent.id on /** { 60/1m clamp 2/1m when behavior.burst }
"""
MEMBERS = {
    "one": {"issuer": "one"},
    "another issuer": {"issuer": "two"},
    "an instance": {"issuer": "one", "instance": "i"},
    "another instance": {"issuer": "one", "instance": "j"},
    "no text as instance": {"issuer": "one", "instance": True},
    "a group": {"issuer": "one", "groups": ("night",)},
    "a group that no policy names": {"issuer": "one", "groups": ("day",)},
}
EXPECTED = {
    "one": ("one", "", 'agent "bot"'),
    "another issuer": ("two", "", 'agent "bot"'),
    "an instance": ("one", "i", 'agent "bot"'),
    "another instance": ("one", "j", 'agent "bot"'),
    "no text as instance": ("one", "", 'agent "bot"'),
    "a group": ("one", "", "profile night"),
    "a group that no policy names": ("one", "", 'agent "bot"'),
}


@pytest.fixture(scope="module")
def reader():
    return Engine.from_text(POLICY).decider.behavior


def identify(reader, members):
    found = reader.identify({"agent": {"id": "bot", **members}})
    return found.caller.issuer, found.caller.instance, found.group


def test_callers_of_one_agent_are_told_apart_in_any_order(reader):
    for pair in permutations(MEMBERS, 2):
        for name in (*pair, *pair):
            assert identify(reader, MEMBERS[name]) == EXPECTED[name]


def test_the_cache_of_callers_is_bounded():
    reader = Engine.from_text(POLICY).decider.behavior
    for number in range(reader_module.MAX_IDENTIFIED + 100):
        reader.identify({"agent": {"id": f"bot-{number}", "issuer": "one"}})
    assert len(reader._identified) == len(reader._latest_of) == 100

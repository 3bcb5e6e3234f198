"""Agents whose class can never be ready, because it has fewer than three agents."""

from __future__ import annotations

import pytest

from policyengine.behavior.model import READY_CALLERS
from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.rules.unready_classes import READY_AGENTS

ISSUERS = "issuer acme { scopes none }\nissuer partner { scopes none }\n"
BURST = 'guard "bursts" on GET /a { warn when behavior.burst }\n'
PATTERN = 'profile "p" for agent "bot-*" { learn 7d }\n'
GROUP = 'profile "p" for group "bots" { learn 7d }\n'


def agent(name: str, issuer: str = "acme", door: str = "GET /a") -> str:
    return f'agent "{name}" {{ issued by {issuer}   acts alone   may {door} }}\n'


def bots(count: int, issuer: str = "acme") -> str:
    return "".join(agent(f"bot-{number}", issuer) for number in range(count))


def findings(text: str) -> list[Diagnostic]:
    return [one for one in check_text(ISSUERS + text) if one.code == "W921"]


def test_a_class_needs_as_many_agents_as_in_a_model() -> None:
    assert READY_AGENTS == READY_CALLERS


def test_an_agent_without_a_profile_is_reported_where_a_learned_fact_is_read() -> None:
    [found] = findings(agent("bot-1") + BURST)
    assert found.message == (
        '`behavior.burst` is always false for `agent "bot-1"`: a class of fewer than three agents is never ready'
    )
    assert (found.span.line, found.span.text) == (4, "behavior.burst")
    assert [(one.message, one.span.text) for one in found.related] == [("the agent block", 'agent "bot-1"')]
    assert found.hint == (
        'add a profile whose pattern or group names at least three agents with the same work: `for agent "bot-*"`'
    )


def test_a_profile_for_one_agent_is_reported() -> None:
    [found] = findings(agent("bot-*") + 'profile "p" for agent "bot-1" { learn 7d }\n' + BURST)
    assert found.message == (
        "`behavior.burst` is always false for the profile `p`: a class of fewer than three agents is never ready"
    )
    assert [(one.message, one.span.text) for one in found.related] == [("the profile", 'profile "p" for agent "bot-1"')]
    assert found.hint == "write a pattern or a group after `for` that names at least three agents with the same work"


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("behavior.trust > 0.9", "`behavior.trust` is always 0.5"),
        ("behavior.novelty > 0.3", "`behavior.novelty` is always 0"),
        ("not behavior.ready", "`behavior.ready` is always false"),
        ("behavior.error_rate > 0.3 or behavior.burst", "`behavior.error_rate` is always 0"),
    ],
)
def test_the_message_states_the_value_of_the_fact(condition: str, words: str) -> None:
    [found] = findings(agent("bot") + f'guard "g" on GET /a {{ deny when {condition} }}\n')
    assert found.message.startswith(f"{words} for `agent")


@pytest.mark.parametrize("place", ["raise x2 at most 120/1m when {}", "clamp 6/1m when {}"])
def test_a_fact_in_a_raise_or_a_clamp_is_reported(place: str) -> None:
    rate = f'rate "r" per agent.id on GET /a {{ 60/1m   {place.format("behavior.trust < 0.4")} }}\n'
    assert [one.span.text for one in findings(agent("bot") + rate)] == ["behavior.trust"]


def test_a_class_is_reported_once_at_the_first_fact() -> None:
    text = agent("bot") + BURST + 'rate "r" per agent.id on GET /a { 60/1m   clamp 6/1m when not behavior.ready }\n'
    assert [one.span.text for one in findings(text)] == ["behavior.burst"]


def test_agents_of_one_rule_are_reported_together() -> None:
    assert [one.message.split(":")[0] for one in findings(bots(2) + BURST)] == [
        '`behavior.burst` is always false for `agent "bot-0"` and `agent "bot-1"`'
    ]
    assert [one.message.split(":")[0] for one in findings(bots(5) + BURST)] == [
        '`behavior.burst` is always false for `agent "bot-0"`, `agent "bot-1"`, `agent "bot-2"` and 2 more'
    ]


@pytest.mark.parametrize("profile", [PATTERN, GROUP])
@pytest.mark.parametrize(
    ("agents", "reported"),
    [
        (bots(2), True),
        (bots(3), False),
        (bots(2) + bots(2, "partner"), True),  # two of each issuer: two classes
        (bots(2) + bots(3, "partner"), False),
        (bots(1) + agent("bot-0", door="POST /b"), True),
        (bots(1) + agent("bot-x*"), False),
        (bots(1) + 'agent group "bots" { issued by acme   acts alone   may GET /a }\n', False),
        (bots(1) + 'agent where agent.model == "m" { issued by acme   acts alone   may GET /a }\n', False),
        (bots(2) + "anyone { may GET /open }\n", False),  # any agent may be allowed a request
    ],
)
def test_a_profile_is_reported_only_if_it_is_certain_that_few_agents_have_it(
    profile: str, agents: str, reported: bool
) -> None:
    assert [one.related[0].message for one in findings(agents + profile + BURST)] == ["the profile"] * reported


def test_an_agent_with_a_profile_of_its_own_does_not_have_the_profile_of_a_pattern() -> None:
    own = 'profile "own" for agent "bot-0" { learn 7d }\n'
    assert [one.message.split(":")[0] for one in findings(bots(3) + PATTERN + own + BURST)] == [
        "`behavior.burst` is always false for the profile `p` and the profile `own`"
    ]
    assert [one.message.split(":")[0] for one in findings(bots(4) + PATTERN + own + BURST)] == [
        "`behavior.burst` is always false for the profile `own`"
    ]


OTHERS = ['like "x-*"', '== "x-1"', 'in ["x-1", "x-2"]', '!= "bot"', 'matches "x-[0-9]+"']


@pytest.mark.parametrize("test", [f"agent.id {other}" for other in OTHERS] + ['starts_with(agent.id, "x")'])
def test_a_rule_about_other_agents_is_not_reported(test: str) -> None:
    text = agent("bot") + agent("x-*")
    assert findings(text + BURST.replace("behavior.burst", f"{test} and behavior.burst")) == []


@pytest.mark.parametrize(
    "text",
    [
        agent("bot-*") + BURST,
        'agent group "bots" { issued by acme   acts alone   may GET /a }\n' + BURST,
        'agent where agent.model == "m" { issued by acme   acts alone   may GET /a }\n' + BURST,
        bots(3) + PATTERN + BURST,
        agent("bot") + GROUP + agent("x*") + BURST,  # the agent may be in the group
        agent("bot") + 'guard "g" on GET /a { deny when not behavior.sequence }\n',  # needs no learning
        agent("bot") + 'rate "r" per cluster.id on GET /a { 60/1m floor 6/1m   clamp 9/1m when cluster.size > 9 }\n',
        agent("bot", door="GET /b") + agent("x-*") + BURST,  # the rule is not about the agent
        agent("bot"),
    ],
)
def test_other_policies_are_not_reported(text: str) -> None:
    assert findings(text) == []


@pytest.mark.parametrize("test", ['== "bot"', 'like "b*"', 'in ["bot", "x"]', '!= "cat"'])
def test_a_rule_about_the_agent_itself_is_reported(test: str) -> None:
    rule = BURST.replace("behavior.burst", f"agent.id {test} and behavior.burst")
    assert [one.related[0].span.text for one in findings(agent("bot") + agent("cat") + rule)] == ['agent "bot"']


def test_what_anyone_may_do_is_something_the_agent_may_do() -> None:
    text = agent("bot", door="GET /b") + "anyone { may GET /a }\n" + BURST
    assert [one.related[0].span.text for one in findings(text)] == ['agent "bot"']


def test_a_comment_allows_the_finding() -> None:
    text = agent("bot") + BURST.replace("}", "} # lint: allow class-never-ready because the pattern follows")
    assert findings(text) == []

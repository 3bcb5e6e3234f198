"""Limits that deny requests which a grant allows, because these requests lack an agent or a user to count by."""

from __future__ import annotations

import pytest

from policyengine import Engine
from policyengine.check import lint_text
from policyengine.diagnostics.model import Diagnostic

HEAD = """issuer acme { url "https://login.acme.example" }
entity user { plan: string   quota: int }
entity agent { tier: string }
scope notes { GET /notes }
"""
ANYONE = "anyone { may GET /feed }\n"
USER = "user any { may notes }\n"
ALONE = 'agent "bot-*" { issued by acme   acts alone   may notes }\n'
SERVING = 'users unrestricted\nagent "bot-*" { issued by acme   acts for any user   may notes }\n'
RATE = 'rate "calls" per agent.id on /** { 9/1m }\n'
BY_USER = 'rate "calls" per user.id on /** { 9/1m }\n'


def findings(text: str) -> list[Diagnostic]:
    return [one for one in lint_text(HEAD + text) if one.code == "W565"]


def test_a_rate_per_agent_where_anyone_may_call_is_reported() -> None:
    [found] = findings(ANYONE + RATE)
    assert found.message == (
        "requests without an agent are denied here: the rate `calls` needs `agent.id`, and `anyone` allows such "
        "requests at `GET /feed`"
    )
    assert (found.span.line, found.span.text) == (6, "agent.id")
    assert [(one.message, one.span.text) for one in found.related] == [
        ("anyone allows requests without an agent", "GET /feed")
    ]
    assert found.hint == (
        "write `when agent.id is present` to let requests without an agent pass uncounted, and count them in another "
        "rate `per request.ip`; or narrow the rate to other endpoints with `on …`"
    )


def test_a_rate_per_agent_where_users_may_call_is_reported() -> None:
    [found] = findings(USER + SERVING.replace("users unrestricted", "") + RATE)
    assert found.message.endswith("needs `agent.id`, and `user any` allows such requests at `GET /notes`")
    assert str(found.hint).startswith(
        "if users act only by agents, write `agent.id is present` in the condition of their block; otherwise, write "
        "`when agent.id is present` to let requests without an agent pass uncounted, and count them in another rate "
        "`per user.id`"
    )
    by_agents = USER.replace("user any", "user where agent.id is present")
    assert findings(by_agents + SERVING.replace("users unrestricted", "") + RATE) == []


def test_a_limit_per_user_where_agents_act_alone_is_reported() -> None:
    [found] = findings(ALONE + 'budget "day" per user.id on /** { count <= 9 within 1d }\n')
    assert found.message == (
        'requests without a user are denied here: the budget `day` needs `user.id`, and `agent "bot-*"` allows such '
        "requests at `GET /notes`"
    )
    assert str(found.hint).startswith("write `when user.id is present` to let requests without a user pass uncounted")
    assert "another budget `per agent.id`" in str(found.hint)


def test_at_most_four_endpoints_are_listed() -> None:
    doors = "anyone { may " + ", ".join(f"GET /{letter}" for letter in "abcdef") + " }\n"
    [found] = findings(doors + RATE)
    assert found.message.endswith("at `GET /a`, `GET /b`, `GET /c`, `GET /d` and others")
    [found] = findings(doors.replace(", GET /e, GET /f", "") + RATE)
    assert found.message.endswith("at `GET /a`, `GET /b`, `GET /c` and `GET /d`")


@pytest.mark.parametrize(
    ("limit", "needed"),
    [
        ('rate "r" per (request.ip, agent.id) { 9/1m }', "agent.id"),
        ('rate "r" per agent.issuer { 9/1m }', "agent.issuer"),
        ('rate "r" per lower(agent.id) { 9/1m }', "lower(agent.id)"),
        ('rate "r" per agent.tier { 9/1m }', "agent.tier"),
        ('rate "r" per request.ip { user.quota/1d }', "user.quota"),
        ('rate "r" per request.ip { 9/1m   cost user.quota }', "user.quota"),
        ('budget "b" per request.ip { count <= user.quota within 1d }', "user.quota"),
        ('budget "b" per request.ip { distinct user.plan <= 3 within 1d }', "user.plan"),
        ('rate "r" per agent.id when request.size > 5 { 9/1m }', "agent.id"),
        ('rate "r" per agent.id when agent.issuer == "acme" { 9/1m }', "agent.id"),  # unknown: the rate applies
        ('rate "r" per agent.id { at most 3 at once for 5m }', "agent.id"),
    ],
)
def test_what_a_limit_needs_is_underlined(limit: str, needed: str) -> None:
    assert [one.span.text for one in findings(ANYONE + limit)] == [needed]


def test_a_limit_with_another_condition_keeps_it_in_the_hint() -> None:
    [found] = findings(ANYONE + 'rate "r" per agent.id when request.size > 5 { 9/1m }')
    assert str(found.hint).startswith("write `when agent.id is present and …` to let")


@pytest.mark.parametrize(
    "text",
    [
        ANYONE + RATE.replace(" {", " when agent.id is present {"),
        ANYONE + RATE.replace(" {", " when request.size > 5 and not agent.id is absent {"),
        ANYONE + 'rate "r" per request.ip { 9/1m }',
        ANYONE + 'rate "r" per request.ip { 9/1m   clamp 3/1m when agent.id == "x" }',  # an unknown condition clamps
        ANYONE + ALONE + RATE.replace("/**", "/notes"),
        ANYONE + RATE.replace("/**", "/** except /feed"),
        SERVING + RATE + BY_USER.replace("calls", "others"),
        ALONE + RATE,
        USER + BY_USER,
        "anyone { may GET /feed when agent.id is present }\n" + RATE,
        'anyone { may GET /feed when agent.id == "x" }\n' + RATE,
        USER.replace("any", "where agent.id is present") + RATE,
        ANYONE + 'guard "agents" { require agent.id is present }\n' + RATE,
        ANYONE + 'guard "agents" on /feed { require agent.issuer == "acme" }\n' + RATE,
        ANYONE + 'guard "closed" on /** { deny }\n' + RATE,
    ],
)
def test_limits_that_deny_no_granted_request_are_not_reported(text: str) -> None:
    assert findings(text) == []


@pytest.mark.parametrize(
    "guard",
    [
        'guard "agents" on /other { require agent.id is present }\n',
        'guard "agents" { require agent.id is present or request.size < 5 }\n',
        'guard "agents" { warn when agent.id is absent }\n',
        'guard "agents" { deny when agent.id is present }\n',
    ],
)
def test_a_guard_that_does_not_deny_all_of_these_requests_changes_nothing(guard: str) -> None:
    assert [one.span.text for one in findings(ANYONE + guard + RATE)] == ["agent.id"]


@pytest.mark.parametrize(
    ("door", "limit", "question"),
    [
        (ANYONE, RATE, {}),
        (USER, RATE, {"user": {"id": "alice"}, "credential": {"issuer": "acme", "scopes": ["notes"]}}),
        (ALONE, BY_USER, {"agent": {"id": "bot-1", "issuer": "acme"}, "credential": {"scopes": ["notes"]}}),
    ],
)
def test_reported_requests_are_denied_and_the_hint_allows_them(
    door: str, limit: str, question: dict[str, object]
) -> None:
    asked = {"request": {"method": "GET", "path": "/feed" if door == ANYONE else "/notes"}, **question}
    [found] = findings(door + limit)
    present = next(one for one in str(found.hint).split("`") if one.startswith("when "))
    mended = limit.replace(" {", f" {present} {{")
    assert findings(door + mended) == []
    outcomes = [Engine.from_text(HEAD + door + one).decide(asked).outcome for one in (limit, mended)]
    assert outcomes == ["deny", "allow"]

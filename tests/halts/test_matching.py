"""Which requests a halt covers."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine import Engine
from policyengine.halts.errors import HaltError
from tests.halts.halting import HOUR, OTHER_PACKAGE, POLICY, Clock, create, delegated, hop, outcome, question, tool


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ({"agent": "bot"}, question()),
        ({"agent": "BOT "}, question()),  # another letter case
        ({"agent": "ｂｏｔ"}, question()),  # full-width letters, which fold to the same name
        ({"agent": "b*"}, question()),
        ({"agent": "bot"}, delegated()),  # as a hop of the chain
        ({"agent": "helper"}, delegated()),
        ({"issuer": "acme"}, question()),
        ({"issuer": "https://login.acme.example"}, question()),
        ({"issuer": "HTTPS://LOGIN.ACME.EXAMPLE:443/"}, question()),  # another spelling of the URL
        ({"issuer": "https://login.acme.example/"}, question(agent={"id": "bot", "issuer": "acme"})),
        ({"issuer": "acme"}, question(agent={"id": "bot", "issuer": "https://login.acme.example"})),
        ({"issuer": "acme"}, question(agent={"id": "bot", "issuer": "Acme"})),
        ({"issuer": "acme"}, question(agent={"id": "bot"}, credential={"issuer": "acme"})),
        ({"issuer": "inner"}, question(chain={"hops": [hop("planner", "inner")]})),
        ({"user": "alice"}, question()),
        ({"user": "Alice"}, question()),
        ({"user": "alice"}, question(user=None, credential={"subject": "alice"})),
        ({"chain_root": "bot"}, delegated()),
        ({"chain_root": "bot"}, question()),
        ({"chain_root": "alice"}, question(agent=None)),
        ({"task": "t-7"}, question(task={"id": "t-7"})),
        ({"tool": "mail/send"}, tool()),
        ({"tool": "mail/*"}, tool()),
        ({"tool": "MAIL/SEND"}, tool()),
        ({"tool": "send"}, tool()),  # on every server
        ({"place": "/orders"}, question()),
        ({"place": "/ORDERS"}, question()),  # guards ignore letter case, and so do halts
        ({"place": "/v1/**"}, question("/v1/refunds/7", "POST")),
        ({"place": "POST /v1/refunds/{id}"}, question("/v1/refunds/7", "POST")),
        ({"place": "TOOL mail/*"}, tool()),
        ({"package": "acme.shop"}, question()),
        ({"package": "Acme.Shop"}, question()),
        ({"agent": "bot", "place": "/orders"}, question()),
        ({"agent": "bot", "issuer": "acme", "user": "alice"}, question()),
        ({}, question("/health", agent=None, user=None)),
    ],
)
def test_a_halt_covers_what_matches_all_of_its_members(scope: dict[str, str], asked: dict[str, Any]) -> None:
    engine = create()
    engine.halt(reason="stop", end=HOUR, everything=not scope, **scope)  # type: ignore[arg-type]
    assert outcome(engine, asked) == "deny halted"


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ({"agent": "bo"}, question()),
        ({"agent": "helper"}, question()),
        ({"agent": "bot"}, question("/health", agent=None)),
        ({"issuer": "inner"}, question()),
        ({"user": "bob"}, question()),
        ({"user": "alice"}, question("/health", agent=None, user=None)),
        ({"chain_root": "helper"}, delegated()),
        ({"task": "t-7"}, question(task={"id": "t-8"})),
        ({"task": "t-7"}, question()),
        ({"tool": "mail/send"}, question()),
        ({"tool": "mail/read*"}, tool()),
        ({"place": "/v1/**"}, question()),
        ({"place": "GET /v1/refunds/*"}, question("/v1/refunds/7", "POST")),
        ({"package": "acme.stock"}, question()),
        ({"agent": "bot", "place": "/v1/**"}, question()),
        ({"agent": "bot", "user": "bob"}, question()),
    ],
)
def test_a_halt_does_not_cover_other_requests(scope: dict[str, str], asked: dict[str, Any]) -> None:
    engine = create_two()
    engine.halt(reason="stop", end=HOUR, **scope)  # type: ignore[arg-type]
    assert "halted" not in outcome(engine, asked)


def create_two() -> Engine:
    from policyengine.check import compile_sources
    from policyengine.source import Source

    kernel, problems = compile_sources([Source("shop.policy", POLICY), Source("stock.policy", OTHER_PACKAGE)])
    assert kernel is not None, problems
    return Engine(kernel, clock=Clock())


def test_a_halted_package_is_halted_where_it_opens_something() -> None:
    engine = create_two()
    engine.halt(reason="stop", end=HOUR, package="acme.stock")
    porter = question("/stock", agent={"id": "porter", "issuer": "depot"})
    assert outcome(engine, porter) == "deny halted"
    assert outcome(engine, question("/orders")) == "allow"


@pytest.mark.parametrize(
    "asked",
    [
        question("/health", agent={"id": 7, "issuer": "acme"}),
        question("/health", chain={"hops": [{"agent": ["bot"]}]}),
        question("/health", pending=["agent.id"], agent={"issuer": "acme"}),
    ],
)
def test_an_agent_cannot_leave_a_halt_with_a_name_that_is_no_text(asked: dict[str, Any]) -> None:
    engine = create()
    assert outcome(engine, asked) == "allow"  # `anyone` opens the endpoint to every caller
    engine.halt(reason="stop", end=HOUR, agent="bot")
    assert outcome(engine, asked) == "deny halted"


@pytest.mark.parametrize("task", [7, ["t-7"], {"id": "t-7"}, True])
def test_a_task_of_another_type_is_halted(task: object) -> None:
    engine = create()
    engine.halt(reason="stop", end=HOUR, task="t-7")
    assert outcome(engine, question("/health", task={"id": task})) == "deny halted"


def test_the_halt_that_ends_last_is_named() -> None:
    engine = create()
    engine.halt(reason="first", end=2 * HOUR, agent="bot")
    engine.halt(reason="second", end=3 * HOUR, user="alice")
    engine.halt(reason="third", end=HOUR, everything=True)
    [reason] = engine.decide(question()).reasons
    assert reason.message == "halted until 2026-03-02T13:00:00Z: second"


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({}, "the halt covers nothing"),
        ({"everything": True, "agent": "bot"}, "a halt of everything has no `agent`"),
        ({"issuer": "acmee"}, "the policies have no issuer `acmee` (did you mean `acme`?)"),
        (
            {"issuer": "https://login.acme.example.evil"},
            "the policies have no issuer `https://login.acme.example.evil`",
        ),
        ({"package": "acme.shopp"}, "the policies have no package `acme.shopp` (did you mean `acme.shop`?)"),
        ({"place": "orders"}, "`orders` is not a place"),
        ({"place": '/x { deny } guard "y" on /y'}, "is not a place"),
        ({"place": "/x # all"}, "is not a place"),
        ({"agent": " "}, "`agent` has 1 characters"),
        ({"agent": "x" * 1_001}, "`agent` has 1,001 characters"),
        ({"agent": "a\nb"}, "`agent` contains a control character or a line break"),
        ({"agnet": "bot"}, "a halt has no `agnet`"),
    ],
)
def test_a_scope_that_would_not_do_what_is_meant_is_refused(scope: dict[str, Any], message: str) -> None:
    engine = create()
    with pytest.raises(HaltError) as raised:
        engine.halt(reason="stop", end=HOUR, **scope)
    assert message in str(raised.value)
    assert engine.halts == ()

"""How typed code uses the public names. mypy checks this file with the rest; nothing runs it. Each `assert_type` holds
one promise: users who upgrade find the same types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from fastapi import FastAPI

from policyengine import (
    Decision,
    Diagnostic,
    Engine,
    EntitiesError,
    Explanation,
    Gate,
    Obligation,
    Outcome,
    PolicyError,
    Principal,
    Reason,
    Remedy,
    Request,
    RequestError,
    __version__,
)
from policyengine.server import create_app, serve


def loading() -> Engine:
    try:
        return Engine.load("policies", Path("more.policy"), entities="entities.json", clock=lambda: datetime.now(UTC))
    except PolicyError as error:
        assert_type(error.diagnostics, tuple[Diagnostic, ...])
    except EntitiesError as error:
        assert_type((error.file, error.member, error.message, error.hint), tuple[str, str, str, str | None])
    Engine.from_text("anyone { may GET /health }", logs=None)  # type: ignore[call-arg]  # an unknown option
    engine = Engine.from_text("anyone { may GET /health }", name="health.policy")
    assert_type((engine.revision, engine.package, engine.failures), tuple[str, str, int])
    assert_type(engine.packages, tuple[str, ...])
    assert_type(engine.warnings, tuple[Diagnostic, ...])
    return engine


def asking(engine: Engine, raw: bytes, members: Mapping[str, object]) -> None:
    assert_type(engine.decide(raw), Decision)
    assert_type(engine.decide(raw.decode()), Decision)
    assert_type(engine.decide(members), Decision)
    assert_type(engine.decide({"action": {"name": "pay"}, "body": {"amount": Decimal("9.50")}}), Decision)
    assert_type(engine.evaluate(Request.from_mapping(members)), Decision)
    assert_type(engine.explain(Request.from_json(raw)), Explanation)
    try:
        Request.from_msgpack(raw)
    except RequestError as error:
        assert_type((error.member, error.message, error.hint), tuple[str, str, str | None])


async def asking_asynchronously(engine: Engine, raw: bytes) -> None:
    assert_type(await engine.decide_async(raw), Decision)
    assert_type(await engine.evaluate_async(raw), Decision)
    assert_type(await engine.explain_async(raw), Explanation)


def reading(decision: Decision, explanation: Explanation, diagnostic: Diagnostic) -> None:
    assert_type(decision.allowed, bool)
    assert_type(decision.outcome, Outcome)
    assert_type(decision.gate, Gate | None)
    assert_type(decision.reasons, tuple[Reason, ...])
    assert_type(decision.remedies, tuple[Remedy, ...])
    assert_type(decision.obligations, tuple[Obligation, ...])
    assert_type(decision.principal, Principal)
    assert_type([fact.why for fact in decision.unknown], list[str])
    assert_type(decision.to_dict(), dict[str, Any])
    assert_type(explanation.decision, Decision)
    assert_type(explanation.render(), str)
    assert_type((diagnostic.code, diagnostic.message, diagnostic.hint), tuple[str, str, str | None])


def serving(engine: Engine) -> None:
    assert_type(create_app(engine, token="a token of at least thirty-two characters"), FastAPI)
    serve(engine, "127.0.0.1", 0, listening=print)
    assert_type(__version__, str)

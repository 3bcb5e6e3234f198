"""Observing before enforcing: what is let through, what never is, for how long; and what is counted and recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest

from policyengine import Decision, Engine, RequestError
from policyengine.audit import DecisionLog, read_records
from policyengine.engine.observe_mode import Observe, ObserveError
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.server.adapters.responses import to_verdict
from policyengine.server.content_negotiation import BodyFormat
from policyengine.server.decide_requests import BatchSemantics, decide_batch, parse_batch
from policyengine.server.socket.answers import answer_frame

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
END = NOW + timedelta(days=7)
POLICY = """
language 1
package site
entity invoice {}
issuer acme { url "https://login.acme.example" scopes none }
anyone { may GET /public/** }
user any { may GET /v1/**, POST /v1/pay }
agent "bot" { issued by acme   acts for any user   may GET /v1/**, POST /v1/pay }
guard "shut" on GET /v1/shut { deny   audit full }
guard "asks" on POST /v1/pay { confirm by user within 15m when request.query.ask == "yes" }
rate "few" per user.id on GET /v1/few { 1/1h }
"""
OTHER = """
language 1
package other
guard "elsewhere" on GET /v1/elsewhere { deny }
"""


@dataclass
class Clock:
    now: datetime = NOW
    fails: bool = field(default=False)

    def __call__(self) -> datetime:
        if self.fails:
            raise OSError("no clock")
        return self.now


def engine(tmp_path: Path, clock: Clock, log: DecisionLog | None = None, **what: tuple[str, ...]) -> Engine:
    (tmp_path / "site.policy").write_text(POLICY, encoding="utf-8")
    (tmp_path / "other.policy").write_text(OTHER, encoding="utf-8")
    found = Engine.load(tmp_path / "site.policy", tmp_path / "other.policy", clock=clock, log=log)
    found.observe(Observe(END, **what))
    return found


def asked(path: str, method: str = "GET", **more: object) -> dict[str, object]:
    who = {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}}
    return {"request": {"method": method, "path": path}, **who, **more}


def outcomes(decision: Decision) -> tuple[str, str | None]:
    return str(decision.outcome), decision.would_be and str(decision.would_be)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observing(tmp_path: Path, clock: Clock) -> Engine:
    return engine(tmp_path, clock)


# ── What passes ───────────────────────────────────────────────────────────────────────────────


def test_observe_mode_allows_denials_and_states_the_real_outcome(observing: Engine) -> None:
    pay = {"method": "POST", "path": "/v1/pay", "query": {"ask": "yes"}}
    assert outcomes(observing.decide(asked("/v1/x"))) == ("allow", "allow")
    assert outcomes(observing.decide(asked("/v1/shut"))) == ("allow", "deny")
    assert outcomes(observing.decide(asked("/v2/x"))) == ("allow", "deny")
    assert outcomes(observing.decide({**asked(""), "request": pay})) == ("allow", "confirm")
    assert [outcomes(observing.decide(asked("/v1/few")))[1] for _ in range(2)] == ["allow", "throttle"]
    assert observing.observed == {"allow": 2, "deny": 2, "confirm": 1, "throttle": 1}


def test_an_observed_confirm_spends_limits_like_a_confirm(clock: Clock) -> None:
    limits = """
    rate "asked" per request.path on POST /v1/pay { 9/1h }
    budget "paid" per request.path on POST /v1/pay { count <= 2 within 1h }
    """
    engine = Engine.from_text(POLICY + limits, clock=clock)
    engine.observe(Observe(END))
    pay = {"method": "POST", "path": "/v1/pay", "query": {"ask": "yes"}}
    decisions = [engine.decide({**asked(""), "request": pay}) for _ in range(3)]
    assert [outcomes(one) for one in decisions] == [("allow", "confirm")] * 3
    assert [(one.rule, one.remaining) for one in decisions[-1].rates] == [("asked", 8), ("paid", 2)]


def test_an_observed_decision_keeps_reasons_and_operator_obligations(observing: Engine) -> None:
    decision = observing.decide(asked("/v1/shut"))
    assert (decision.observed, [one.rule for one in decision.reasons]) == (True, ["shut"])
    assert [one.kind for one in decision.obligations] == ["audit"]


def test_every_response_format_contains_would_be(observing: Engine) -> None:
    decision = observing.decide(asked("/v1/shut"))
    assert json.loads(decision.to_json()) == msgpack.unpackb(decision.to_msgpack())
    assert decision.to_dict()["would_be"] == "deny"
    framed, _ = answer_frame(observing, msgpack.packb([1, "decide", asked("/v1/shut")]))
    assert msgpack.unpackb(framed)[2]["would_be"] == "deny"
    assert dict(to_verdict(decision).headers)["x-would-be"] == "deny"
    assert dict(to_verdict(observing.decide(asked("/v1/x"))).headers)["x-would-be"] == "allow"


async def in_turn(observing: Engine, body: bytes) -> list[dict[str, object]]:
    return await decide_batch(observing, parse_batch(body, BodyFormat.JSON))


def test_batches_evaluations_and_idempotent_decisions_are_observed(observing: Engine) -> None:
    import asyncio

    body = json.dumps({"requests": [asked("/v1/shut"), asked("/v1/x")], "semantics": BatchSemantics.DENY_ON_FIRST_DENY})
    assert [one["would_be"] for one in asyncio.run(in_turn(observing, body.encode()))] == ["deny", "allow"]
    assert outcomes(observing.evaluate(asked("/v1/shut"))) == ("allow", "deny")
    assert [outcomes(one) for one in observing.decide_many([asked("/v1/shut")]) if isinstance(one, Decision)] == [
        ("allow", "deny")
    ]
    once = IdempotencyKey("gateway", b"key", b"digest")
    assert [outcomes(observing.decide_once(asked("/v1/shut"), once).decision) for _ in range(2)] == [
        ("allow", "deny")
    ] * 2


def test_the_http_client_reads_would_be(observing: Engine) -> None:
    httpx = pytest.importorskip("httpx")
    from policyengine.client.http import PolicyClient

    written = observing.decide(asked("/v1/shut")).to_msgpack()
    answering = httpx.MockTransport(
        lambda request: httpx.Response(200, content=written, headers={"content-type": "application/msgpack"})
    )
    with PolicyClient("http://engine", transport=answering) as client:
        assert outcomes(client.decide(asked("/v1/shut"))) == ("allow", "deny")


def test_envoy_sends_would_be_to_its_log_and_the_server_but_not_to_the_client(observing: Engine) -> None:
    external_auth_pb2 = pytest.importorskip("envoy.service.auth.v3.external_auth_pb2", reason="pip install '.[envoy]'")
    from policyengine.server.adapters.check_response import encode_check_response

    def build_check_response(verdict: Any, gone: tuple[str, ...]) -> Any:
        return external_auth_pb2.CheckResponse.FromString(encode_check_response(verdict, gone))

    for path, would_be in (("/v1/shut", "deny"), ("/v1/x", "allow")):
        found = build_check_response(to_verdict(observing.decide(asked(path))), ())
        assert dict(found.dynamic_metadata)["x_would_be"] == would_be
        behind = {one.header.key: one.header.value for one in found.ok_response.headers}
        assert behind["x-would-be"] == would_be
        assert "x-would-be" not in found.ok_response.headers_to_remove
        assert "x-would-be" not in [one.header.key for one in found.ok_response.response_headers_to_add]
    stopped = build_check_response(to_verdict(observing.decide({"request": {"method": "GET", "path": "/v1/x"}})), ())
    assert "x-would-be" not in [one.header.key for one in stopped.denied_response.headers]
    plain = build_check_response(to_verdict(Engine.from_text(POLICY).decide(asked("/v1/x"))), ())
    assert "x-would-be" in plain.ok_response.headers_to_remove


def test_a_successor_is_observed_until_the_same_end_and_keeps_the_counts(observing: Engine, clock: Clock) -> None:
    observing.decide(asked("/v1/shut"))
    after = observing.successor(Engine.from_text(POLICY.replace("/v1/shut", "/v1/closed")).kernel)
    assert outcomes(after.decide(asked("/v1/closed"))) == ("allow", "deny")
    assert after.observed == {"deny": 2}
    clock.now = END
    assert outcomes(after.decide(asked("/v1/closed"))) == ("deny", None)
    assert observing.successor(after.kernel).observing is None


def test_a_successor_without_an_observed_package_is_rejected(tmp_path: Path, clock: Clock) -> None:
    found = engine(tmp_path, clock, packages=("other",))
    with pytest.raises(ObserveError, match="no package `other`"):
        found.successor(Engine.from_text(POLICY).kernel)


def test_an_explanation_shows_the_real_outcome_in_observe_mode(observing: Engine) -> None:
    assert outcomes(observing.explain(asked("/v1/shut")).decision) == ("deny", None)


def test_decisions_outside_observe_mode_have_no_would_be(tmp_path: Path) -> None:
    plain = Engine.from_text(POLICY)
    assert "would_be" not in plain.decide(asked("/v1/shut")).to_dict()
    assert (plain.observing, plain.observed) == (None, {})


# ── What never passes ─────────────────────────────────────────────────────────────────────────


def test_observe_mode_still_rejects_an_unidentified_caller(observing: Engine) -> None:
    decision = observing.decide({"request": {"method": "GET", "path": "/v1/x"}})
    assert outcomes(decision) == ("deny", "deny")
    assert to_verdict(decision).status == 401
    assert observing.observed == {}


def test_observe_mode_still_denies_an_ambiguous_path(observing: Engine) -> None:
    assert outcomes(observing.decide(asked("/v1/../admin"))) == ("deny", "deny")


def test_observe_mode_still_raises_for_an_invalid_question(observing: Engine) -> None:
    with pytest.raises(RequestError):
        observing.decide({"request": {"method": "GET", "path": "/v1/x"}, "user": 3})


def test_observe_mode_still_denies_after_an_internal_failure(
    observing: Engine, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def fails(*given: object) -> None:
        raise MemoryError

    monkeypatch.setattr(observing.decider.compiled.evaluator, "plan", fails)
    decision = observing.decide(asked("/v1/x"))
    assert (outcomes(decision), str(decision.gate)) == (("deny", "deny"), "failure")


def test_observe_mode_denies_a_decision_that_cannot_be_logged(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    found = engine(tmp_path, clock, log)
    monkeypatch.setattr(log, "write_decisions", lambda lines: 0)
    assert (found.decide(asked("/v1/shut")).outcome, found.decide(asked("/v1/x")).outcome) == ("deny", "deny")


def test_observe_mode_sends_no_caller_name_the_policy_did_not_accept(observing: Engine) -> None:
    """Another issuer's agent of the same name passes, but not under that name."""
    decision = observing.decide({**asked("/v1/x"), "agent": {"id": "bot", "issuer": "evil"}})
    assert outcomes(decision) == ("allow", "deny")
    assert str(decision.gate) == "identity"
    headers = dict(to_verdict(decision).headers)
    assert (headers["x-auth-subject"], headers["x-auth-user"]) == ("", "")


# ── For how long, and what ────────────────────────────────────────────────────────────────────


def test_enforcement_resumes_when_observing_ends_and_is_logged_once(
    observing: Engine, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = END - timedelta(microseconds=1)
    assert outcomes(observing.decide(asked("/v1/shut"))) == ("allow", "deny")
    assert observing.observing is not None
    clock.now = END
    assert [outcomes(observing.decide(asked("/v1/shut"))) for _ in range(2)] == [("deny", None)] * 2
    assert observing.observing is None
    assert [one.getMessage() for one in caplog.records] == [
        "observe mode ended at 2026-12-03T12:00:00Z: every decision is enforced now"
    ]


def test_a_question_about_an_earlier_time_does_not_prolong_observing(observing: Engine, clock: Clock) -> None:
    clock.now = END
    past = asked("/v1/shut", options={"at": "2026-11-27T00:00:00Z", "consume": False})
    assert outcomes(observing.decide(past)) == ("deny", None)


def test_a_failing_clock_ends_observing(observing: Engine, clock: Clock) -> None:
    clock.fails = True
    assert outcomes(observing.decide(asked("/v1/shut")))[0] == "deny"
    assert observing.observing is None


def test_only_the_named_endpoints_are_observed(tmp_path: Path, clock: Clock) -> None:
    found = engine(tmp_path, clock, endpoints=("GET /v1/shut", "/v3/**"))
    assert outcomes(found.decide(asked("/v1/shut"))) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v3/x"))) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v2/x"))) == ("deny", "deny")


def test_observed_endpoints_match_only_their_written_letter_case(tmp_path: Path, clock: Clock) -> None:
    found = engine(tmp_path, clock, endpoints=("GET /v1/shut",))
    assert outcomes(found.decide(asked("/v1/shut"))) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v1/SHUT"))) == ("deny", "deny")
    found = engine(tmp_path, clock, endpoints=("GET /v3/** except /v3/enforced",))
    assert outcomes(found.decide(asked("/v3/x"))) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v3/ENFORCED"))) == ("deny", "deny")


def test_only_denials_of_the_named_packages_are_observed(tmp_path: Path, clock: Clock) -> None:
    found = engine(tmp_path, clock, packages=("other",))
    assert outcomes(found.decide(asked("/v1/elsewhere"))) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v1/shut"))) == ("deny", "deny")
    assert outcomes(found.decide(asked("/v2/x"))) == ("deny", "deny")
    found = engine(tmp_path, clock, packages=("site",))
    assert outcomes(found.decide(asked("/v1/shut"))) == ("allow", "deny")
    assert [outcomes(found.decide(asked("/v1/few")))[0] for _ in range(2)] == ["allow", "allow"]
    assert outcomes(found.decide(asked("/v1/elsewhere"))) == ("deny", "deny")
    assert outcomes(found.decide({**asked("/v1/x"), "agent": {"id": "else", "issuer": "acme"}})) == ("allow", "deny")
    assert outcomes(found.decide(asked("/v2/x"))) == ("deny", "deny")  # nobody's door


@pytest.mark.parametrize(
    ("what", "message", "hint"),
    [
        ({"packages": ("sites",)}, "there is no package `sites`", "did you mean `site`?"),
        ({"packages": ("zzz",)}, "there is no package `zzz`", "the packages are `site`"),
        ({"endpoints": ("GTE /v1",)}, "no policy names the method `GTE`", "common methods are GET, POST"),
        ({"endpoints": ("GET v1",)}, "`GET v1` is not an endpoint", ""),
        ({"endpoints": ('/a { deny } guard "b" on /b',)}, "is not an endpoint", "write it as after `on`"),
        ({"endpoints": ("/a { deny } #",)}, "is not an endpoint", "write it as after `on`"),
    ],
)
def test_observe_rejects_unknown_packages_and_endpoints_with_a_hint(
    what: dict[str, tuple[str, ...]], message: str, hint: str
) -> None:
    with pytest.raises(ObserveError) as error:
        Engine.from_text(POLICY).observe(Observe(datetime.now(UTC), **what))
    assert message in error.value.message
    assert hint in (error.value.hint or "")


def test_observe_rejects_an_end_without_a_zone_or_too_far_ahead(clock: Clock) -> None:
    plain = Engine.from_text(POLICY, clock=clock)
    with pytest.raises(ObserveError, match="no time zone"):
        plain.observe(Observe(NOW.replace(tzinfo=None)))
    with pytest.raises(ObserveError, match="longer than 90d"):
        plain.observe(Observe(NOW + timedelta(days=91)))


# ── What is counted and recorded ──────────────────────────────────────────────────────────────


def test_the_log_contains_the_real_outcome_and_the_observed_flag(tmp_path: Path, clock: Clock) -> None:
    found = engine(tmp_path, clock, DecisionLog(tmp_path / "log.jsonl"))
    given = [found.decide(asked(path)) for path in ("/v1/shut", "/v1/x", "/v1/../x")]
    records = list(read_records(tmp_path / "log.jsonl"))
    assert [(one.id, str(one.outcome), one.observed) for one in records] == [
        (given[0].id, "deny", True),
        (given[1].id, "allow", False),
        (given[2].id, "deny", False),
    ]


def test_an_exhausted_rate_is_observed_as_a_throttle(observing: Engine) -> None:
    blocked = asked("/v1/few", options={"obligations_supported": []})
    assert outcomes(observing.decide(blocked))[1] == "allow"
    assert [outcomes(observing.decide(asked("/v1/few")))[1] for _ in range(3)] == ["throttle"] * 3
    assert observing.decide(asked("/v1/few")).rates[0].remaining == 0

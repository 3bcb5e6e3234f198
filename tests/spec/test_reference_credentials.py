"""A credential speaks while it is in force, and for whom it names."""

from __future__ import annotations

import pytest

from policyengine.engine import Engine
from tests.spec.deciding import ago, bot, decide, question, verdict
from tests.trusting import TRUSTING

POLICY = """
scope read { GET /notes }
issuer acme { }
user any { may read }
anyone { may GET /health }
agent "bot" { issued by acme   acts for any user   may read }
"""
USER_DOOR = "scope read { GET /notes }\nissuer acme { }\nuser any { may read }\n"


def asked(where: str = "GET /notes", user: str | None = "alice", **credential: object) -> dict[str, object]:
    return question(where, **bot(user=user, scopes=["read"], **credential))


@pytest.mark.parametrize("times", [
    {}, {"expires_at": ago(-1)}, {"issued_at": ago(1)}, {"issued_at": ago(0), "expires_at": ago(-60)},
])  # fmt: skip
def test_a_valid_credential_gets_its_grants(times: dict[str, object]) -> None:
    assert verdict(decide(POLICY, asked(**times))) == "allow"


@pytest.mark.parametrize("times", [
    {"expires_at": ago(1)}, {"expires_at": ago(0)}, {"issued_at": ago(-1)}, {"expires_at": "tomorrow"},
    {"expires_at": 4_000_000_000}, {"issued_at": True}, {"issued_at": ago(5), "expires_at": ago(1), "age": "1m"},
])  # fmt: skip
def test_a_credential_outside_its_validity_period_is_denied(times: dict[str, object]) -> None:
    assert verdict(decide(POLICY, asked(**times))) == "deny by identity"


def test_an_expired_credential_gets_no_user_grant() -> None:
    credential = {"issuer": "acme", "scopes": ["read"]}
    fresh = question("GET /notes", user={"id": "alice"}, credential=credential)
    stale = question("GET /notes", user={"id": "alice"}, credential={**credential, "expires_at": ago(1)})
    assert [verdict(decide(USER_DOOR, one)) for one in (fresh, stale)] == ["allow", "deny by default"]


def test_an_anyone_grant_ignores_an_expired_credential() -> None:
    assert verdict(decide(POLICY, asked("GET /health", expires_at=ago(1)))) == "allow"


@pytest.mark.parametrize(("subject", "expected"), [
    (None, "allow"), ("alice", "allow"), ("bot", "allow"), ("bob", "deny by identity"), (7, "deny by identity"),
])  # fmt: skip
def test_a_credential_for_another_subject_is_denied(subject: object, expected: str) -> None:
    assert verdict(decide(POLICY, asked(subject=subject))) == expected


def test_a_failing_clock_is_a_deny_that_counts_as_a_failure() -> None:
    def broken() -> object:
        raise OSError("no clock")

    engine = Engine.from_text(POLICY, clock=broken)  # type: ignore[arg-type]
    decisions = [engine.decide(asked()), engine.evaluate(asked()), engine.explain(asked()).decision]
    assert [verdict(one) for one in decisions] == ["deny by failure"] * 3
    assert engine.failures == 3
    assert all(one.id for one in decisions)


@pytest.mark.parametrize("part", ["spent_among", "commit"])
def test_a_failing_store_is_a_deny_if_the_decision_needs_state(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    engine = Engine.from_text(f'{POLICY}\nrate "r" per agent.id on GET /notes {{ 9/1s }}', approvals=TRUSTING)

    def broken(*_: object, **__: object) -> bool:
        raise OSError("no store")

    monkeypatch.setattr(engine.store, part, broken)
    approval = {"id": "1", "by": "bob", "granted_at": "2027-01-04T00:00:00Z", "binding": "x"}
    assert verdict(engine.decide({**asked(), "approvals": [approval]})) == "deny by failure"
    assert verdict(engine.decide(asked("GET /health"))) == "allow"  # nothing of the store is asked


# ── Refused ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "told", "why"), [
    ("expired", "expired", "the credential has expired"),
    ("signature", "signature", "the signature of the token is not valid"),
    ("of no code", "refused", "the verifier gave no reason"), (7, "refused", "the verifier gave no reason"),
    (True, "refused", "the verifier gave no reason"),
])  # fmt: skip
def test_a_refused_credential_identifies_nobody(code: object, told: str, why: str) -> None:
    decision = decide(POLICY, asked(refused=code))
    assert verdict(decision) == "deny by identity"
    (reason,) = decision.reasons
    assert reason.code == told
    assert reason.message.startswith("the credential was refused: ")
    assert why in reason.message
    assert decision.principal.agent is None
    assert decision.unknown == ()


def test_an_anyone_grant_is_open_to_a_refused_credential() -> None:
    decision = decide(POLICY, asked("GET /health", refused="expired"))
    assert (verdict(decision), decision.principal.agent, decision.reasons) == ("allow", None, ())


def test_a_chain_or_user_does_not_override_a_refused_credential() -> None:
    facts = {"chain": {"hops": []}, "user": {"id": "alice"}, "credential": {"refused": "expired", "scopes": ["read"]}}
    assert verdict(decide(USER_DOOR, question("GET /notes", **facts))) == "deny by identity"


def test_a_credential_with_refused_null_is_accepted() -> None:
    assert verdict(decide(POLICY, asked(refused=None))) == "allow"


def test_the_walk_states_why_the_credential_was_refused() -> None:
    shown = Engine.from_text(POLICY).explain(asked(refused="expired")).render()
    assert "the credential was refused: the credential has expired" in shown
    assert "bot" not in shown

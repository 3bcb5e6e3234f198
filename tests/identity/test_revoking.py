"""Whatever is written into a token: it is revoked, or said not to be, and never an error of ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog
from policyengine.identity.audit_events import Operator
from policyengine.identity.facts import revocable_raw_names, to_datetime
from policyengine.identity.issue.clients import AuthenticatedClient
from policyengine.identity.quotas import MAX_CLIENTS, ClientQuotas
from policyengine.identity.revocation import (
    LEEWAY_SECONDS,
    MAX_TASK_SECONDS,
    PERMANENT_SECONDS,
    RevocationError,
    RevocationResult,
    TokenRevoker,
    token_end,
    unverified_token_end,
)
from policyengine.identity.verified import ConfirmedKey, VerifiedCredential, VerifiedToken
from tests.depth import examples, scaled
from tests.identity.minting import ACME, AUDIENCE, NOW, Desk, signed, subject

NAMES = (
    "iss sub exp iat nbf jti aud act cnf task links scope may_act client_id txn req_wl sub_profile groups instance"
).split()
ODD: tuple[Any, ...] = (
    None, True, 7, -1, 0.5, 10**400, 253_402_300_800, "", "x", [], [{"sub": 1}], {}, {"sub": "a"}, {"id": "t"},
    {"id": "t", "opened_by": 7}, {"id": "t", "issued_at": 1e300}, {"jkt": 7},
)  # fmt: skip
TYPES = st.sampled_from(["at+jwt", "JWT", "txntoken+jwt", "oauth-id-jag+jwt", "eat+jwt", "other"])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def revoking(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> TokenRevoker:
    log = DecisionLog(tmp_path_factory.mktemp("log") / "log.jsonl")
    return TokenRevoker(desk.identity, "desk", log)


@scaled
@settings(max_examples=examples(40, 320))
@given(
    odd=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), max_size=4), type_=TYPES, cut=st.integers(0, 9)
)
def test_a_token_with_arbitrary_claims_is_revoked_or_rejected_without_an_error(
    revoking: TokenRevoker, desk: Desk, odd: dict[str, Any], type_: str, cut: int
) -> None:
    plain = {"iss": ACME, "sub": "alice", "client_id": "planner", "aud": AUDIENCE, "iat": NOW - 5, "exp": NOW + 60}
    raw = signed({"alg": "ES256", "typ": type_, "kid": "ec"}, json.dumps({**plain, **odd}).encode())
    raw = raw if cut > 2 else raw[: -1 - cut]
    assert revoking.token(raw, Operator(), NOW).recorded
    assert revoking.introspected(raw, NOW) == {"active": False}
    client = AuthenticatedClient(desk.issuing.clients.known["clerk"], ConfirmedKey())
    assert answer(revoking, raw, client) in ("over", "unauthorized_client", "unsupported_token_type")


def answer(revoking: TokenRevoker, raw: str, client: AuthenticatedClient) -> str:
    try:
        return "ended" if revoking.token(raw, client, NOW) != RevocationResult(verified=False) else "over"
    except RevocationError as why:
        return why.error.value


@pytest.mark.parametrize(
    ("claims", "ends"),
    [
        ({"exp": NOW + 60}, NOW + 60 + LEEWAY_SECONDS),
        ({"exp": NOW - 400}, NOW - 400 + LEEWAY_SECONDS),
        ({}, NOW + PERMANENT_SECONDS),
        ({"exp": "never"}, NOW + PERMANENT_SECONDS),
        ({"exp": NOW + 20 * 365 * 86_400}, NOW + PERMANENT_SECONDS),
    ],
)
def test_an_unverified_token_is_revoked_until_its_expiry_within_bounds(claims: Any, ends: int) -> None:
    assert unverified_token_end(signed({"alg": "ES256"}, claims), NOW) == ends


@pytest.mark.parametrize(
    ("claims", "ends"),
    [
        ({"exp": NOW + 60}, NOW + 60 + LEEWAY_SECONDS),
        ({"exp": NOW - 60}, NOW + LEEWAY_SECONDS),
        ({}, NOW + PERMANENT_SECONDS),
        ({"exp": "never"}, NOW + PERMANENT_SECONDS),
    ],
)
def test_a_verified_token_is_revoked_until_it_ends(claims: Any, ends: int) -> None:
    assert token_end(claims, NOW) == ends


@pytest.mark.parametrize(
    ("seconds", "moment"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)), (1.5, datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        (Decimal(60), datetime(1970, 1, 1, 0, 1, tzinfo=UTC)), (None, None), (True, None), ("60", None), ([60], None),
    ],
)  # fmt: skip
def test_a_moment_is_a_number_of_seconds(seconds: object, moment: datetime | None) -> None:
    assert to_datetime(seconds) == moment


def test_the_revocable_names_of_a_raw_token_match_those_of_the_verified_token(desk: Desk) -> None:
    raw = subject()
    token: VerifiedToken = desk.identity.parts.tokens.verify(raw, NOW)
    assert token.signed is not None
    assert revocable_raw_names(raw) == {f"token:{token.digest.hex()}", f"token:{token.signed.hex()}"}
    assert [len(revocable_raw_names(one)) for one in ("opaque", "two.parts", "a.b.", "a.b.c.d", "a.b.c")] == [
        1,
        1,
        1,
        1,
        2,
    ]


# ── Room ──────────────────────────────────────────────────────────────────────────────────────


def test_the_revocation_quota_of_a_client_does_not_affect_other_clients(desk: Desk, revoking: TokenRevoker) -> None:
    identity = desk.fresh().identity
    identity.endings = ClientQuotas(most=2)
    clients = desk.issuing.clients.known
    one, other = (AuthenticatedClient(clients[name], ConfirmedKey("jkt-1")) for name in ("summarizer", "clerk"))
    mine = [signed_of("summarizer", number) for number in range(3)]
    assert [revoking.token(raw, one, NOW) for raw in mine[:2]] == [RevocationResult(), RevocationResult()]
    assert revoking.token(mine[0], one, NOW) == RevocationResult(), "what has ended needs no more room"
    with pytest.raises(RevocationError, match="2 revocations by `acme/summarizer` within 3600 s") as caught:
        revoking.token(mine[2], one, NOW + 3_599)
    assert caught.value.later
    assert not identity.marks.revoked(["jti:acme/room-2"], NOW + 3_599)
    assert revoking.token(signed_of("clerk", 9), other, NOW + 3_599) == RevocationResult()
    assert revoking.token(mine[2], Operator("ops"), NOW + 3_599) == RevocationResult()
    assert revoking.token(signed_of("summarizer", 3), one, NOW + 3_600) == RevocationResult()


def signed_of(agent: str, number: int) -> str:
    return subject(sub=agent, client_id=agent, jti=f"room-{number}", exp=NOW + 9_000)


def test_the_number_of_clients_with_a_quota_is_bounded() -> None:
    quotas = ClientQuotas(most=1)
    for number in range(MAX_CLIENTS + 10):
        quotas.take(f"acme/{number}", NOW)
    assert len(quotas._quotas) == MAX_CLIENTS


def test_the_mark_of_a_completed_task_expires_with_its_tokens(desk: Desk, revoking: TokenRevoker) -> None:
    marks = desk.fresh().identity.marks
    facts = {"agent": {"id": "summarizer", "issuer": "desk"}, "task": {"id": "t-9"}, "credential": {"issuer": "desk"}}
    for ends, until in (
        (NOW + 900, NOW + MAX_TASK_SECONDS),
        (NOW + 2 * MAX_TASK_SECONDS, NOW + 2 * MAX_TASK_SECONDS + LEEWAY_SECONDS),
    ):
        name = f"own-task:{ends}"
        revoking.own_task("t-9", VerifiedCredential(facts, ends, frozenset(), "", own_task=name), NOW)
        assert marks.revoked([name], until - 1) == {name}
        assert marks.revoked([name], until) == frozenset()

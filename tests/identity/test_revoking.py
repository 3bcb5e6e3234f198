"""Whatever is written into a token: it is revoked, or said not to be, and never an error of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.audit import DecisionLog
from policyengine.identity.clients import Actor
from policyengine.identity.facts import raw_names
from policyengine.identity.proved import Binding, Token
from policyengine.identity.recording import Operator
from policyengine.identity.revoking import FOR_GOOD, LEEWAY, Ended, NotEnded, Revoking, end_of_unverified
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
def revoking(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Revoking:
    log = DecisionLog(tmp_path_factory.mktemp("log") / "log.jsonl")
    return Revoking(desk.identity, "desk", log)


@settings(max_examples=80)
@given(
    odd=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), max_size=4), type_=TYPES, cut=st.integers(0, 9)
)
def test_whatever_is_in_it(revoking: Revoking, desk: Desk, odd: dict[str, Any], type_: str, cut: int) -> None:
    plain = {"iss": ACME, "sub": "alice", "client_id": "planner", "aud": AUDIENCE, "iat": NOW - 5, "exp": NOW + 60}
    raw = signed({"alg": "ES256", "typ": type_, "kid": "ec"}, json.dumps({**plain, **odd}).encode())
    raw = raw if cut > 2 else raw[: -1 - cut]
    assert revoking.token(raw, Operator(), NOW).recorded
    assert revoking.introspected(raw, NOW) == {"active": False}
    client = Actor(desk.issuing.clients.known["clerk"], Binding())
    assert answer(revoking, raw, client) in ("over", "unauthorized_client", "unsupported_token_type")


def answer(revoking: Revoking, raw: str, client: Actor) -> str:
    try:
        return "ended" if revoking.token(raw, client, NOW) != Ended(verified=False) else "over"
    except NotEnded as why:
        return why.error.value


@pytest.mark.parametrize(
    ("claims", "ends"),
    [
        ({"exp": NOW + 60}, NOW + 60 + LEEWAY), ({"exp": NOW - 400}, NOW - 400 + LEEWAY), ({}, NOW + FOR_GOOD),
        ({"exp": "never"}, NOW + FOR_GOOD), ({"exp": NOW + 20 * 365 * 86_400}, NOW + FOR_GOOD),
    ],
)  # fmt: skip
def test_what_nobody_verified_is_marked_until_it_would_end_and_no_longer_than_for_good(claims: Any, ends: int) -> None:
    assert end_of_unverified(signed({"alg": "ES256"}, claims), NOW) == ends


def test_what_nobody_verified_is_named_as_it_would_be_if_it_held(desk: Desk) -> None:
    raw = subject()
    token: Token = desk.identity.parts.tokens.verify(raw, NOW)
    assert token.signed is not None
    assert raw_names(raw) == {f"token:{token.digest.hex()}", f"token:{token.signed.hex()}"}
    assert [len(raw_names(one)) for one in ("opaque", "two.parts", "a.b.", "a.b.c.d", "a.b.c")] == [1, 1, 1, 1, 2]

"""Keys by which gateways ask once, on every store: who holds one, what is kept under it, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.idempotency import (
    GATEWAY_DIGITS,
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    IdempotencyClaim,
    IdempotencyKey,
    IdempotencyRecord,
)
from policyengine.runtime.idempotent_decision import encode_draft
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import Store
from policyengine.stores.sql.idempotency import EVICTION_BATCH_SIZE
from tests.stores.charges import SECOND, START, asks, budget, places, rate
from tests.stores.conftest import Fresh, fresh_everywhere

fresh = fresh_everywhere
LIMITS = asks(rate(3, 3_600 * SECOND), budget(5), places(4))
EDGE, SHOP = "e" * GATEWAY_DIGITS, "5" * GATEWAY_DIGITS  # with what the names of two gateways begin
MINE = IdempotencyClaim(f"{EDGE}00000000aa", "digest", "mine")
OTHER = MINE._replace(token="other")


def keyed(claim: IdempotencyClaim, effects: Effects = LIMITS) -> Effects:
    """What a decision does that was asked by the key, and is kept under it."""
    decision = Decision.of(Outcome.ALLOW, id=claim.token)
    return replace(effects, claim=claim._replace(draft=encode_draft(decision, effects, frozenset(), b"", START)))


def committed(store: Store, claim: IdempotencyClaim, at: int = START, effects: Effects = LIMITS) -> ChargeResult | None:
    return store.commit(keyed(claim, effects), claim.token, at)


def decided(store: Store, claim: IdempotencyClaim, at: int = START, effects: Effects = LIMITS) -> ChargeResult:
    assert store.claim(claim, at) is None
    told = committed(store, claim, at, effects)
    assert told is not None
    return told


def numbered(number: int, gateway: str = EDGE) -> IdempotencyClaim:
    return MINE._replace(name=f"{gateway}{number:02x}00000000")  # of one slot in Redis


def left(store: Store) -> int:
    """What is left of the rate."""
    told = store.commit(LIMITS, "look", START, peek=True)
    assert told is not None
    return told.standings[0].remaining + told.standings[0].admitted


# ── A claim ───────────────────────────────────────────────────────────────────────────────────


def test_the_first_claim_of_a_name_wins(store: Store) -> None:
    assert store.claim(MINE, START) is None
    assert store.claim(OTHER, START) == IdempotencyRecord("digest")
    assert store.claim(MINE, START) is None


def test_a_claim_is_lost_after_its_lease_if_another_caller_claims_it(store: Store) -> None:
    store.claim(MINE, START)
    assert store.claim(OTHER, START + LEASE_MICROSECONDS - 1) == IdempotencyRecord("digest")
    assert store.claim(OTHER, START + LEASE_MICROSECONDS) is None
    assert store.claim(MINE, START + LEASE_MICROSECONDS) == IdempotencyRecord("digest")


def test_a_claim_replaces_exactly_the_answer_that_it_names(store: Store) -> None:
    decided(store, MINE)
    known = store.claim(OTHER, START)
    assert known is not None
    assert known.draft is not None
    assert store.claim(OTHER._replace(replaces=known.draft + b"x"), START) == known
    assert store.claim(OTHER._replace(replaces=known.draft), START) is None
    assert store.claim(MINE._replace(replaces=known.draft), START) == IdempotencyRecord("digest")  # it is replaced once
    told = committed(store, OTHER)
    found = store.claim(MINE, START)
    assert found is not None
    assert found.settled == told


def test_a_claim_without_a_draft_to_replace_takes_no_key_under_way(store: Store) -> None:
    store.claim(MINE, START)
    assert store.claim(OTHER._replace(replaces=b""), START) == IdempotencyRecord("digest")


def test_a_renewed_claim_lasts_longer(store: Store) -> None:
    store.claim(MINE, START)
    store.claim(MINE, START + LEASE_MICROSECONDS - 1)
    assert store.claim(OTHER, START + LEASE_MICROSECONDS) == IdempotencyRecord("digest")


def test_a_released_claim_is_free(store: Store) -> None:
    store.claim(MINE, START)
    store.release(MINE, START)
    assert store.claim(OTHER, START) is None


def test_a_claim_cannot_be_released_by_another_caller(store: Store) -> None:
    store.claim(MINE, START)
    store.release(OTHER, START)
    assert store.claim(OTHER, START) == IdempotencyRecord("digest")


# ── A decision ────────────────────────────────────────────────────────────────────────────────


def test_a_commit_stores_the_decision_under_its_claim(store: Store) -> None:
    told = decided(store, MINE)
    draft = keyed(MINE).claim
    assert draft is not None
    assert store.claim(OTHER, START + 1) == IdempotencyRecord("digest", draft.draft, told)
    assert store.claim(MINE, START + 1) == IdempotencyRecord("digest", draft.draft, told)
    assert left(store) == 2


def test_a_throttled_decision_is_stored_under_its_claim(store: Store) -> None:
    told = decided(store, MINE, effects=asks(rate(3, 3_600 * SECOND), budget(0)))
    assert not told.admitted
    found = store.claim(OTHER, START)
    assert found is not None
    assert found.settled == told
    assert left(store) == 3


def test_a_denied_decision_without_limits_is_stored_under_its_claim(store: Store) -> None:
    told = decided(store, MINE, effects=Effects(denied=True))
    assert told.standings == ()
    found = store.claim(OTHER, START)
    assert found is not None
    assert found.settled == told


def test_a_repeated_confirm_is_stored_under_its_claim(store: Store) -> None:
    asked = asks(rate(3, 3_600 * SECOND), opens=("binding",))
    decided(store, MINE, effects=asked)
    again = IdempotencyClaim(f"{EDGE}00000000bb", "digest", "another")
    told = decided(store, again, effects=asked)
    found = store.claim(OTHER._replace(name=f"{EDGE}00000000bb"), START)
    assert found is not None
    assert found.settled == told
    assert left(store) == 2


def test_a_commit_with_a_lost_claim_spends_nothing(store: Store) -> None:
    store.claim(MINE, START)
    store.claim(OTHER, START + LEASE_MICROSECONDS)
    assert committed(store, MINE, START + LEASE_MICROSECONDS) is None
    assert left(store) == 3
    assert committed(store, OTHER, START + LEASE_MICROSECONDS) is not None
    assert left(store) == 2


def test_a_commit_without_its_claim_spends_nothing(store: Store) -> None:
    assert store.claim(MINE._replace(name=f"{EDGE}00000000bb"), START) is None  # there are claims at all
    assert committed(store, MINE) is None
    assert left(store) == 3


def test_a_claim_is_valid_for_a_single_decision(store: Store) -> None:
    decided(store, MINE)
    assert committed(store, MINE) is None
    assert left(store) == 2


def test_a_commit_with_a_spent_approval_leaves_the_claim_unchanged(store: Store) -> None:
    store.commit(asks(spends=("approval",)), "another", START)
    store.claim(MINE, START)
    assert committed(store, MINE, effects=asks(rate(3, 3_600 * SECOND), spends=("approval",))) is None
    assert store.claim(OTHER, START) == IdempotencyRecord("digest")
    assert committed(store, MINE) is not None


def test_a_stored_answer_is_kept_for_the_promised_time(store: Store) -> None:
    told = decided(store, MINE)
    found = store.claim(OTHER, START + KEEP_MICROSECONDS - 1)
    assert found is not None
    assert found.settled == told
    assert store.claim(OTHER, START + KEEP_MICROSECONDS) is None


def test_a_stored_answer_cannot_be_released(store: Store) -> None:
    decided(store, MINE)
    store.release(MINE, START)
    assert store.claim(OTHER, START) is not None


# ── Too many ──────────────────────────────────────────────────────────────────────────────────


def test_excess_idempotency_keys_evict_the_oldest_and_are_logged(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    store._claims._most = 3
    names = [numbered(number) for number in range(6)]
    for number, one in enumerate(names):
        store.claim(one, START + number)
    assert store._claims.evicted.keys == 3
    [said] = [record.message for record in caplog.records]
    assert "keys were evicted less than 600 s after their answer" in said
    assert store.claim(names[5]._replace(token="other"), START + 6) == IdempotencyRecord("digest")
    assert store.claim(names[0]._replace(token="other"), START + 6) is None


def test_the_idempotency_keys_of_a_gateway_do_not_evict_those_of_another(store: Any) -> None:
    store._claims._most = 3
    decided(store, numbered(0, SHOP))
    for number in range(1, 9):
        store.claim(numbered(number), START + number)
    assert store._claims.evicted.keys == 5
    assert committed(store, numbered(0, SHOP), START + 9) is None  # it would be spent a second time
    found = store.claim(numbered(0, SHOP)._replace(token="other"), START + 9)
    assert found is not None
    assert found.settled is not None


def test_an_evicted_claim_cannot_commit(store: Any) -> None:
    store._claims._most = 1
    names = [numbered(number) for number in range(3)]
    for number, one in enumerate(names):
        store.claim(one, START + number)
    assert committed(store, names[0], START + 3) is None
    assert left(store) == 3


def test_expired_idempotency_keys_are_evicted_without_a_log_line(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    store._claims._most = 3
    for number in range(3):
        store.claim(numbered(number), START)
    for number in range(3, 6):
        store.claim(numbered(number), START + KEEP_MICROSECONDS + 1)
    assert store._claims.evicted.keys == 0
    assert caplog.records == []
    assert EVICTION_BATCH_SIZE > 3


# ── In any order ──────────────────────────────────────────────────────────────────────────────


@dataclass
class Plain:
    """The same in plain words: of each name when its claim or its answer ends, whose it is, and the answer."""

    known: dict[str, tuple[int, IdempotencyClaim, ChargeResult | None]] = field(default_factory=dict)
    taken: int = 0

    def at(self, name: str, now: int) -> tuple[int, IdempotencyClaim, ChargeResult | None] | None:
        found = self.known.get(name)
        return found if found is not None and found[0] > now else None

    def claim(self, claim: IdempotencyClaim, now: int) -> tuple[str, bool] | None:
        found = self.at(claim.name, now)
        if found is not None and (found[2] is not None or found[1].token != claim.token):
            return found[1].digest, found[2] is not None
        self.known[claim.name] = (now + LEASE_MICROSECONDS, claim, None)
        return None

    def commit(self, claim: IdempotencyClaim, now: int) -> bool | None:
        """A claim whose lease is over may be its holder's still, or not: None."""
        found = self.known.get(claim.name)
        if found is None or found[1].token != claim.token or found[2] is not None:
            return False
        return True if found[0] > now else None

    def keep(self, claim: IdempotencyClaim, now: int) -> None:
        self.taken += 1
        self.known[claim.name] = (now + KEEP_MICROSECONDS, claim, ChargeResult((), now))

    def release(self, claim: IdempotencyClaim) -> None:
        if self.commit(claim, 0):
            del self.known[claim.name]


CLAIMS = st.builds(
    IdempotencyClaim,
    st.sampled_from([MINE.name, f"{EDGE}00000000bb", f"{SHOP}7fffffffcc"]),
    st.sampled_from("de"),
    st.sampled_from("xyz"),
)
CALLS = st.tuples(
    st.sampled_from(["claim", "claim", "commit", "commit", "release"]),
    CLAIMS,
    st.sampled_from(
        [0, 0, 1, LEASE_MICROSECONDS - 1, LEASE_MICROSECONDS, KEEP_MICROSECONDS - LEASE_MICROSECONDS, KEEP_MICROSECONDS]
    ),
)
COUNTED = asks(rate(1, 86_400 * SECOND, burst=1_000))  # nothing comes back meanwhile


def held_to_it(fresh: Fresh, calls: list[Any]) -> None:
    store, plain, now = fresh(), Plain(), START
    for what, claim, step in calls:
        now += step
        if what == "claim":
            found = store.claim(claim, now)
            assert plain.claim(claim, now) == (None if found is None else (found.digest, found.settled is not None))
        elif what == "release":
            store.release(claim, now)
            plain.release(claim)
        else:
            held = plain.known.get(claim.name)
            mine = claim if held is None else held[1]._replace(token=claim.token)
            told = store.commit(keyed(mine, COUNTED), "x", now)
            if plain.commit(claim, now) is not None:
                assert (told is not None) == plain.commit(claim, now)
            if told is not None:
                plain.keep(mine, now)
    told = store.commit(COUNTED, "look", START, peek=True)
    assert told is not None
    assert told.standings[0].remaining == 1_000 - plain.taken - 1


MANY_CALLS = st.lists(CALLS, min_size=1, max_size=25)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(calls=MANY_CALLS)
def test_claims_in_any_order_spend_once(fresh: Fresh, calls: list[Any]) -> None:
    held_to_it(fresh, calls)


@pytest.mark.deep
@settings(max_examples=2_000, suppress_health_check=list(HealthCheck))
@given(calls=MANY_CALLS)
def test_claims_in_any_order_spend_once_in_a_long_run(fresh: Fresh, calls: list[Any]) -> None:
    held_to_it(fresh, calls)


def test_claim_names_differ_by_gateway_policy_key_and_item() -> None:
    one = IdempotencyKey("edge", "key", "digest")
    claims = [
        one.claim("sha256:1", "t"),
        one.claim("sha256:2", "t"),
        one._replace(gateway="other").claim("sha256:1", "t"),
        one._replace(key="yek").claim("sha256:1", "t"),
        one._replace(item=0).claim("sha256:1", "t"),
        one._replace(item=1).claim("sha256:1", "t"),
    ]
    assert [claim.gateway == claims[0].gateway for claim in claims] == [True, True, False, True, True, True]
    assert len({claim.name for claim in claims}) == len(claims)
    assert one._replace(digest="other").claim("sha256:1", "t").name == claims[0].name
    assert not any("edge" in claim.name or "key" in claim.name for claim in claims)

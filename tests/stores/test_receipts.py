"""What a process remembers of what confirms took: bounded, and what was pushed out is taken again."""

from __future__ import annotations

import pytest

from policyengine.stores.memory import prepaid_tokens
from policyengine.stores.memory.prepaid_tokens import PrepaidTokens, PrepaymentReceipts


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepaid_tokens, "MAX_RECEIPTS_PER_RATE", 3)
    monkeypatch.setattr(prepaid_tokens, "MAX_RECEIPTS", 8)


def test_excess_receipts_of_a_payer_evict_the_oldest() -> None:
    kept = PrepaymentReceipts()
    for number in range(5):
        kept.put("alice", f"{number}", PrepaidTokens(1, 10))
    assert [kept.tokens("alice", f"{number}", 0) for number in range(5)] == [0, 0, 1, 1, 1]


def test_excess_receipts_in_total_evict_those_of_the_first_payers() -> None:
    kept = PrepaymentReceipts()
    for payer in range(6):
        for number in range(2):
            kept.put(payer, f"{number}", PrepaidTokens(1, 10))
    assert len(kept) == 8
    assert [sum(kept.tokens(payer, f"{number}", 0) for number in range(2)) for payer in range(6)] == [0, 0, 2, 2, 2, 2]


def test_an_expired_receipt_counts_nothing_and_is_evicted() -> None:
    kept = PrepaymentReceipts()
    for number in range(3):
        kept.put("alice", f"{number}", PrepaidTokens(5, number))
    assert [kept.tokens("alice", f"{number}", 1) for number in range(3)] == [0, 0, 5]
    kept.forget(1)
    assert len(kept) == 1
    kept.drop("alice", "2")
    kept.drop("alice", "2")
    assert (len(kept), kept._paid) == (0, {})

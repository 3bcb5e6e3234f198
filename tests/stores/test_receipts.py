"""What a process remembers of what confirms took: bounded, and what was pushed out is taken again."""

from __future__ import annotations

import pytest

from policyengine.stores.memory import prepaid_tokens
from policyengine.stores.memory.prepaid_tokens import PrepaidTokens, PrepaymentReceipts


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepaid_tokens, "MAX_RECEIPTS_PER_RATE", 3)
    monkeypatch.setattr(prepaid_tokens, "MAX_RECEIPTS", 8)


def test_of_too_many_of_one_payer_the_oldest_goes() -> None:
    kept = PrepaymentReceipts()
    for number in range(5):
        kept.put("alice", f"{number}", PrepaidTokens(1, 10))
    assert [kept.tokens("alice", f"{number}", 0) for number in range(5)] == [0, 0, 1, 1, 1]


def test_of_too_many_in_all_one_of_who_came_first_goes() -> None:
    kept = PrepaymentReceipts()
    for payer in range(6):
        for number in range(2):
            kept.put(payer, f"{number}", PrepaidTokens(1, 10))
    assert len(kept) == 8
    assert [sum(kept.tokens(payer, f"{number}", 0) for number in range(2)) for payer in range(6)] == [0, 0, 2, 2, 2, 2]


def test_what_is_over_is_forgotten_and_counts_no_more() -> None:
    kept = PrepaymentReceipts()
    for number in range(3):
        kept.put("alice", f"{number}", PrepaidTokens(5, number))
    assert [kept.tokens("alice", f"{number}", 1) for number in range(3)] == [0, 0, 5]
    kept.forget(1)
    assert len(kept) == 1
    kept.drop("alice", "2")
    kept.drop("alice", "2")
    assert (len(kept), kept._paid) == (0, {})

"""A process of a test: it commits decisions that spend approvals, opens and saves approvals, and halts, until it is
killed; it prints each number after the store has acknowledged everything under it.

python -m tests.stores.acknowledging URL FIRST
"""

from __future__ import annotations

import sys
from itertools import count
from time import time_ns

from policyengine.stores.approvals import ApprovalRow
from policyengine.stores.base import StoreError
from policyengine.stores.url import open_store
from tests.stores.charges import asks, budget

HOUR = 3_600_000_000


def main(url: str, first: str) -> None:
    store = open_store(url)
    print("ready", flush=True)
    for number in count(int(first)):
        now = time_ns() // 1_000
        row = ApprovalRow(f"{number}", f"binding {number}", b"opened", now + HOUR, now + 2 * HOUR, ("all",))
        try:
            told = store.commit(asks(budget(10**9, 24 * HOUR), spends=(f"spent {number}",)), f"{number}", now)
            if told is None or told.failed:
                return
            store.approvals.open(row, (), now)
            saved = store.approvals.save(row._replace(value=b"answered"), row, now)
            halted = store.halts.save(number, f"{number}".encode(), None)
        except StoreError:
            return
        if saved and halted:
            print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

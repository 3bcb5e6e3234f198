"""A process of a test: it asks a store a given number of times, all for one key, and prints how many requests passed.

python -m tests.stores.asking URL TIMES LIMIT [forever]
"""

from __future__ import annotations

import sys
from itertools import count

from policyengine.stores.url import open_store
from tests.stores.charges import START, asks, budget, rate

DAY = 86_400_000_000


def main(url: str, times: str, limit: str, *forever: str) -> None:
    """The rate refills once a day; the budget admits one request less."""
    store = open_store(url)
    effects = asks(rate(1, DAY, burst=int(limit)), budget(int(limit) - 1, DAY))
    admitted = 0
    print("ready", flush=True)
    sys.stdin.readline()
    for number in count() if forever else range(int(times)):
        told = store.commit(effects, f"{id(store)}-{number}", START)
        assert told is not None
        assert told.failed is None, told.failed
        admitted += told.admitted
        if forever and told.admitted:
            print(admitted, flush=True)
    print(admitted, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

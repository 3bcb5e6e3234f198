"""A process of a test: it asks with the same keys as other processes, in its own order, and prints the answers.

python -m tests.once.asking URL
"""

from __future__ import annotations

import json
import os
import random
import sys

from policyengine.engine import Engine
from policyengine.runtime.idempotency import KeyInProgressError
from policyengine.stores.url import open_store
from tests.once.shop import POLICY, once, report

KEYS = 12
TIMES = 2


def main(url: str) -> None:
    engine = Engine.from_text(POLICY.replace("3/1d", "1000/1d"), store=open_store(url))
    waiting = [f"key {number}" for number in range(KEYS)] * TIMES
    random.Random(os.getpid()).shuffle(waiting)
    told: dict[str, str] = {}
    while waiting:
        key = waiting.pop()
        try:
            decision = engine.decide_once(report(), once(key)).decision
        except KeyInProgressError:
            waiting.insert(0, key)
            continue
        assert decision.allowed, decision
        assert told.setdefault(key, decision.id) == decision.id
    print(json.dumps(told, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process of a test: its engine decides requests of one caller with a store, and learns from them. It prints the
number of each decision in the events of the caller.

python -m tests.stores.learning URL TIMES
"""

from __future__ import annotations

import sys
from itertools import count

from policyengine import Engine
from policyengine.behavior.events import Caller
from policyengine.behavior.shared import SharedTracker
from policyengine.stores.url import open_store

POLICY = """language 1
package learning
issuer idp { scopes none }
agent "*" { issued by idp   acts alone   may GET /data }
rate "r" per agent.id on /data { 100000/1d   clamp 10/1m when behavior.burst }
"""
CALLER = Caller("idp", "a")


def engine_with(url: str) -> Engine:
    return Engine.from_text(POLICY, store=open_store(url))


def decide(engine: Engine) -> int:
    """Let the caller ask, and return the number of the event."""
    question = {"request": {"method": "GET", "path": "/data"}, "agent": {"id": "a", "issuer": "idp"}, "credential": {}}
    assert engine.decide(question).allowed
    tracker = engine.behavior
    assert isinstance(tracker, SharedTracker)
    return tracker._callers[tracker.key_of(CALLER)].row.serial


def main(url: str, times: str) -> None:
    engine = engine_with(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(times)) if times != "forever" else count():
        print(decide(engine), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

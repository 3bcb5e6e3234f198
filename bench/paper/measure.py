"""One engine and one application, measured in their own child process."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from bench.child import Data
from bench.paper.data import APPLICATIONS, Application
from bench.paper.engines import CedarPaperPeer, PolicyenginePaperPeer
from bench.peers import Peer
from bench.peers.own import FloorPeer
from bench.trial import trial
from bench.workload import workload

ENGINES: dict[str, Callable[[Application], Peer]] = {"policyengine": PolicyenginePaperPeer, "cedar": CedarPaperPeer}


def measure(engine: str, application: str, scale: int, cap: float) -> Data:
    made = APPLICATIONS[application](scale)
    judge = CedarPaperPeer(made)
    expected = [judge.allowed(judge.ask(judge.question(asked))) for asked in made.requests]
    start = perf_counter()
    peer = ENGINES[engine](made)
    loaded = {"load_ms": round((perf_counter() - start) * 1e3, 2), "entities": len(made.rows)}
    work = workload(10)
    shares = {"allowed": sum(expected) / len(expected)}
    return {**loaded, **shares, **trial(peer, made.requests, expected, FloorPeer(work), work.requests, cap)}

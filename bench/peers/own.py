"""policyengine and the two floors as peers."""

from __future__ import annotations

from typing import Any

from bench import floor, policy
from bench.workload import Workload, WorkloadRequest
from policyengine import Decision, Engine


class PolicyenginePeer:
    def __init__(self, work: Workload) -> None:
        self.engine = Engine.from_text(policy.policy(work))
        self.ask = self.engine.decide

    def question(self, asked: WorkloadRequest) -> dict[str, object]:
        return policy.question(asked)

    def allowed(self, answer: Decision) -> bool:
        return answer.allowed


class FloorPeer:
    def __init__(self, work: Workload) -> None:
        self.ask = floor.floor(work)

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return policy.question(asked)

    def allowed(self, answer: floor.Verdict) -> bool:
        return answer.allowed


class BareFloorPeer:
    def __init__(self, work: Workload) -> None:
        self.ask = floor.bare_floor(work)

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return policy.question(asked)

    def allowed(self, answer: bool) -> bool:
        return answer

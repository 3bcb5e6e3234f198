"""Ourselves, and the two floors."""

from __future__ import annotations

from typing import Any

from bench import floor, policy
from bench.workload import Request, Workload
from policyengine import Decision, Engine


class Ours:
    def __init__(self, work: Workload) -> None:
        self.engine = Engine.from_text(policy.policy(work))
        self.ask = self.engine.decide

    def question(self, asked: Request) -> dict[str, object]:
        return policy.question(asked)

    def allowed(self, answer: Decision) -> bool:
        return answer.allowed


class Floor:
    def __init__(self, work: Workload) -> None:
        self.ask = floor.floor(work)

    def question(self, asked: Request) -> dict[str, Any]:
        return policy.question(asked)

    def allowed(self, answer: floor.Verdict) -> bool:
        return answer.allowed


class BareFloor:
    def __init__(self, work: Workload) -> None:
        self.ask = floor.bare_floor(work)

    def question(self, asked: Request) -> dict[str, Any]:
        return policy.question(asked)

    def allowed(self, answer: bool) -> bool:
        return answer

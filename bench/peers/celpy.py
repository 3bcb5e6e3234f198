"""CEL in Python, through cel-python: the same expressions as for CEL in Rust."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import celpy
from celpy.adapter import json_to_cel

from bench.peers.expressions import forbid, permit
from bench.peers.shapes import base_of, by_base, flat_request
from bench.workload import Workload, WorkloadRequest


class CelpyPeer:
    def __init__(self, work: Workload) -> None:
        self.environment = celpy.Environment()
        self.permits = [self.program(permit(rule)) for rule in work.permits]
        self.forbids = [self.program(forbid(rule)) for rule in work.forbids]

    def program(self, text: str) -> celpy.Runner:
        return self.environment.program(self.environment.compile(text))

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return flat_request(asked)

    def ask(self, question: dict[str, Any]) -> bool:
        return decide(self.forbids, self.permits, question)

    def allowed(self, answer: bool) -> bool:
        return answer


class CelpySlicedPeer(CelpyPeer):
    """CEL in Python whose caller keeps the programs in a dictionary by base path."""

    def __init__(self, work: Workload) -> None:
        self.environment = celpy.Environment()
        permits, forbids = by_base(work.permits), by_base(work.forbids)
        self.programs = {
            base: (
                [self.program(forbid(rule)) for rule in forbids.get(base, ())],
                [self.program(permit(rule)) for rule in permits.get(base, ())],
            )
            for base in {*permits, *forbids}
        }

    def ask(self, question: dict[str, Any]) -> bool:
        forbids, permits = self.programs.get(base_of(question["path"]), ((), ()))
        return decide(forbids, permits, question)


def decide(forbids: Iterable[celpy.Runner], permits: Iterable[celpy.Runner], question: dict[str, Any]) -> bool:
    values = {name: json_to_cel(value) for name, value in question.items()}
    return not any(program.evaluate(values) for program in forbids) and any(
        program.evaluate(values) for program in permits
    )

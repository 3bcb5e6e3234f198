"""CEL in Rust, through common-expression-language: one compiled program per rule. The caller selects the programs to
run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cel

from bench.peers.expressions import forbid, permit
from bench.peers.shapes import base_of, by_base, flat_request
from bench.workload import Workload, WorkloadRequest


class CelPeer:
    """CEL that runs all forbids, then all permits, in order."""

    def __init__(self, work: Workload) -> None:
        self.permits = [cel.compile(permit(rule)) for rule in work.permits]
        self.forbids = [cel.compile(forbid(rule)) for rule in work.forbids]

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return flat_request(asked)

    def ask(self, question: dict[str, Any]) -> bool:
        return decide(self.forbids, self.permits, question)

    def allowed(self, answer: bool) -> bool:
        return answer


class CelSlicedPeer(CelPeer):
    """CEL whose caller keeps the programs in a dictionary by base path."""

    def __init__(self, work: Workload) -> None:
        permits, forbids = by_base(work.permits), by_base(work.forbids)
        self.programs = {
            base: (
                [cel.compile(forbid(rule)) for rule in forbids.get(base, ())],
                [cel.compile(permit(rule)) for rule in permits.get(base, ())],
            )
            for base in {*permits, *forbids}
        }

    def ask(self, question: dict[str, Any]) -> bool:
        forbids, permits = self.programs.get(base_of(question["path"]), ((), ()))
        return decide(forbids, permits, question)


def decide(forbids: Iterable[cel.Program], permits: Iterable[cel.Program], question: dict[str, Any]) -> bool:
    context = cel.Context(variables=question)
    for program in forbids:
        if program.execute(context):
            return False
    for program in permits:  # noqa: SIM110 – `any` would cost the peer a generator
        if program.execute(context):
            return True
    return False

"""Oso: one Polar rule per rule of the workload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oso import Oso

from bench.peers.shapes import flat_request, quoted
from bench.workload import ForbidRule, PermitRule, Workload, WorkloadRequest


class OsoPeer:
    def __init__(self, work: Workload) -> None:
        self.oso = Oso()
        head = "allow(agent, _action, q) if permit(agent, q) and not forbidden(q);"
        self.oso.load_str("\n".join([head, *map(_permit, work.permits), *map(_forbid, work.forbids)]))

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return flat_request(asked)

    def ask(self, question: dict[str, Any]) -> bool:
        return bool(self.oso.is_allowed(question["agent"], "call", question))

    def allowed(self, answer: bool) -> bool:
        return answer


def _permit(rule: PermitRule) -> str:
    who = f'"{rule.agent}"' if rule.agent is not None else "_"
    return f"permit({who}, q) if {' and '.join(_conditions(rule))};"


def _conditions(rule: PermitRule) -> Iterator[str]:
    if rule.agent is None:
        yield f'"{rule.group}" in q.groups'
    yield f'q.tenant = "{rule.tenant}"'
    yield f"q.method in [{quoted(rule.methods)}]"
    yield f"q.depth <= {rule.depth}"
    yield f'"{rule.scope}" in q.scopes'
    if rule.hours is not None:
        yield f"q.hour >= {rule.hours[0]} and q.hour < {rule.hours[1]}"
    if rule.risk is not None:
        yield f"q.risk < {rule.risk}"
    yield f'q.path.startswith("{rule.prefix}")'


def _forbid(rule: ForbidRule) -> str:
    return f'forbidden(q) if q.method = "DELETE" and q.attested = false and q.path.startswith("{rule.prefix}");'

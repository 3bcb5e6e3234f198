"""The rules of the workload as CEL expressions, for both implementations of CEL."""

from __future__ import annotations

from collections.abc import Iterator

from bench.peers.shapes import quoted
from bench.workload import ForbidRule, PermitRule


def permit(rule: PermitRule) -> str:
    return " && ".join(_conditions(rule))


def forbid(rule: ForbidRule) -> str:
    return f'method == "DELETE" && !attested && path.startsWith("{rule.prefix}")'


def _conditions(rule: PermitRule) -> Iterator[str]:
    yield f'agent == "{rule.agent}"' if rule.agent is not None else f'"{rule.group}" in groups'
    yield f'tenant == "{rule.tenant}"'
    yield f"method in [{quoted(rule.methods)}]"
    yield f'path.startsWith("{rule.prefix}")'
    yield f'"{rule.scope}" in scopes'
    yield f"depth <= {rule.depth}"
    if rule.hours is not None:
        yield f"hour >= {rule.hours[0]} && hour < {rule.hours[1]}"
    if rule.risk is not None:
        yield f"risk < {rule.risk}"

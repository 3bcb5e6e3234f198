"""The workload in the policy language, and its requests as questions of an `Engine`."""

from __future__ import annotations

from collections.abc import Iterator

from bench.workload import ForbidRule, PermitRule, Workload, WorkloadRequest

ISSUER = "idp"
HEAD = """language 1
package bench.gateway

facts { context.depth: int   context.tenant: string   context.hour: int   context.risk: int }
issuer idp { url "https://idp.example" }
"""


def policy(work: Workload) -> str:
    """Return the policy: a scope for each permit, inside the scope that credentials carry; a block for each subject; a
    guard for each forbid."""
    blocks: dict[str, list[PermitRule]] = {}
    carried: dict[str, list[str]] = {}
    for permit in work.permits:
        who = f'agent "{permit.agent}"' if permit.agent is not None else f'agent group "{permit.group}"'
        blocks.setdefault(who, []).append(permit)
        carried.setdefault(permit.scope, []).append(permit.id)
    lines = [HEAD, *map(_scope, work.permits), *map(_carrier, carried, carried.values()), *map(_guard, work.forbids)]
    return "\n".join([*lines, *(line for who, permits in blocks.items() for line in _block(who, permits))]) + "\n"


def _scope(permit: PermitRule) -> str:
    return f"scope {permit.id} {{ {'|'.join(permit.methods)} {permit.prefix}** }}"


def _carrier(scope: str, permits: list[str]) -> str:
    return f'scope {scope.replace(":", ".")} as "{scope}" {{ include {", ".join(permits)} }}'


def _guard(forbid: ForbidRule) -> str:
    return f'guard "{forbid.id}" on DELETE {forbid.prefix}** {{ require attestation.verified }}'


def _block(who: str, permits: list[PermitRule]) -> Iterator[str]:
    yield f"{who} {{"
    yield f"  issued by {ISSUER}   acts alone"
    for permit in permits:
        yield f"  may {permit.id} when {' and '.join(_conditions(permit))}"
    yield "}"


def _conditions(permit: PermitRule) -> Iterator[str]:
    yield f"context.depth <= {permit.depth}"
    yield f'context.tenant == "{permit.tenant}"'
    if permit.hours is not None:
        yield f"context.hour >= {permit.hours[0]}"
        yield f"context.hour < {permit.hours[1]}"
    if permit.risk is not None:
        yield f"context.risk < {permit.risk}"


def question(asked: WorkloadRequest) -> dict[str, object]:
    return {
        "request": {"method": asked.method, "path": asked.path},
        "agent": {"id": asked.agent, "issuer": ISSUER, "groups": list(asked.groups)},
        "credential": {"scopes": list(asked.scopes)},
        "context": {"depth": asked.depth, "tenant": asked.tenant, "hour": asked.hour, "risk": asked.risk},
        "attestation": {"verified": asked.attested},
    }

"""Cedar through cedarpy: policies and entities are parsed once, then handed over as handles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import cedarpy

from bench.peers.shapes import base_of, by_base, flat_request, quoted
from bench.workload import ForbidRule, PermitRule, Workload, WorkloadRequest


class CedarPeer:
    """Cedar with one policy set, its intended use."""

    def __init__(self, work: Workload) -> None:
        self.policies = cedarpy.PolicySet.from_str(policies(work.permits, work.forbids))
        self.entities = cedarpy.Entities.from_json_str(json.dumps(entities(work)))

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        context = flat_request(asked)
        return {
            "principal": {"type": "Agent", "id": context.pop("agent")},
            "action": {"type": "Action", "id": context.pop("method")},
            "resource": {"type": "Endpoint", "id": "e"},
            "context": {name: value for name, value in context.items() if name != "groups"},
        }

    def ask(self, question: dict[str, Any]) -> cedarpy.AuthzResult:
        return cedarpy.is_authorized(question, self.policies, self.entities)

    def allowed(self, answer: cedarpy.AuthzResult) -> bool:
        return bool(answer.allowed)


class CedarSlicedPeer(CedarPeer):
    """Cedar with one policy set for every base path; the caller selects the set."""

    def __init__(self, work: Workload) -> None:
        permits, forbids = by_base(work.permits), by_base(work.forbids)
        self.sets = {
            base: cedarpy.PolicySet.from_str(policies(permits.get(base, ()), forbids.get(base, ())))
            for base in {*permits, *forbids}
        }
        self.empty = cedarpy.PolicySet.from_str("")
        self.entities = cedarpy.Entities.from_json_str(json.dumps(entities(work)))

    def ask(self, question: dict[str, Any]) -> cedarpy.AuthzResult:
        chosen = self.sets.get(base_of(question["context"]["path"]), self.empty)
        return cedarpy.is_authorized(question, chosen, self.entities)


def policies(permits: Iterable[PermitRule], forbids: Iterable[ForbidRule]) -> str:
    return "\n".join([*map(_permit, permits), *map(_forbid, forbids)])


def _permit(rule: PermitRule) -> str:
    who = f'principal == Agent::"{rule.agent}"' if rule.agent is not None else f'principal in Group::"{rule.group}"'
    actions = ", ".join(f'Action::"{method}"' for method in rule.methods)
    return f"permit({who}, action in [{actions}], resource) when {{ {' && '.join(_conditions(rule))} }};"


def _conditions(rule: PermitRule) -> Iterator[str]:
    yield f'context.path like "{rule.prefix}*"'
    yield f"context.scopes.contains({quoted([rule.scope])})"
    yield f"context.depth <= {rule.depth}"
    yield f'context.tenant == "{rule.tenant}"'
    if rule.hours is not None:
        yield f"context.hour >= {rule.hours[0]} && context.hour < {rule.hours[1]}"
    if rule.risk is not None:
        yield f"context.risk < {rule.risk}"


def _forbid(rule: ForbidRule) -> str:
    scope = f'forbid(principal, action == Action::"DELETE", resource) when {{ context.path like "{rule.prefix}*" }}'
    return f"{scope} unless {{ context.attested }};"


def entities(work: Workload) -> list[dict[str, Any]]:
    groups = [{"uid": {"type": "Group", "id": group}, "attrs": {}, "parents": []} for group in work.groups]
    agents = [
        {
            "uid": {"type": "Agent", "id": agent},
            "attrs": {},
            "parents": [{"type": "Group", "id": group} for group in member_of],
        }
        for agent, member_of in work.agents.items()
    ]
    return [*groups, *agents]

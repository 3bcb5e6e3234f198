"""Shapes that several peers share: the request as one flat dictionary, and rules by the first two segments of their
path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from bench.workload import ForbidRule, PermitRule, WorkloadRequest

Value = str | int | bool | list[str]
Kind = TypeVar("Kind", PermitRule, ForbidRule)


def flat_request(asked: WorkloadRequest) -> dict[str, Value]:
    return {
        "agent": asked.agent,
        "groups": list(asked.groups),
        "method": asked.method,
        "path": asked.path,
        "scopes": list(asked.scopes),
        "depth": asked.depth,
        "tenant": asked.tenant,
        "hour": asked.hour,
        "risk": asked.risk,
        "attested": asked.attested,
    }


def base_of(path: str) -> str:
    """Return the base path, such as `/v1/svc3` of `/v1/svc3/items/7`, the key of an index that a caller keeps."""
    return path[: path.find("/", path.find("/", 1) + 1)]


def by_base(rules: Iterable[Kind]) -> dict[str, list[Kind]]:
    found: dict[str, list[Kind]] = {}
    for rule in rules:
        found.setdefault(rule.base, []).append(rule)
    return found


def quoted(texts: Iterable[str]) -> str:
    """Return the texts in quotes, such as `"a", "b"`."""
    return ", ".join(f'"{text}"' for text in texts)

"""The workload `agent-gateway`: seeded rules of an API gateway for agents, and requests, half of which are allowed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
VERBS = ("read", "write")
TENANTS, SCOPED = 20, 50


@dataclass(frozen=True, slots=True)
class PermitRule:
    """Permits `prefix…` to an agent or a group, with some methods, under conditions; `hours` is half-open."""

    id: str
    agent: str | None
    group: str | None
    methods: tuple[str, ...]
    base: str
    prefix: str
    scope: str
    depth: int
    tenant: str
    hours: tuple[int, int] | None
    risk: int | None


@dataclass(frozen=True, slots=True)
class ForbidRule:
    """Forbids DELETE below `prefix` to agents without attestation."""

    id: str
    base: str
    prefix: str


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    agent: str
    groups: tuple[str, ...]
    method: str
    path: str
    scopes: tuple[str, ...]
    depth: int
    tenant: str
    hour: int
    risk: int
    attested: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """Rules and requests; `expected[i]` is the verdict of the reference `Oracle` on `requests[i]`."""

    size: int
    permits: tuple[PermitRule, ...]
    forbids: tuple[ForbidRule, ...]
    agents: dict[str, tuple[str, ...]]
    groups: tuple[str, ...]
    requests: tuple[WorkloadRequest, ...]
    expected: tuple[bool, ...]


def workload(size: int, requests: int = 2_000, seed: int = 7) -> Workload:
    """Return `size` rules, 95 % permits and 5 % forbids, and `requests` requests, exactly half of them allowed."""
    return _WorkloadGenerator(size, seed).workload(requests)


class _WorkloadGenerator:
    def __init__(self, size: int, seed: int) -> None:
        self.random = random.Random(f"{seed}/{size}")
        self.size = size
        self.admins = max(1, size // 20)
        self.services = max(2, size // 5)
        self.groups = tuple(f"g{number}" for number in range(max(5, size // 20)))
        self.agents = {f"a{number}": self._member_of() for number in range(max(20, size // 4))}
        self.members: dict[str, list[str]] = {}
        for agent, groups in self.agents.items():
            for group in groups:
                self.members.setdefault(group, []).append(agent)

    def workload(self, requests: int) -> Workload:
        permits = tuple(self._permit(number) for number in range(self.size - self.admins))
        forbids = tuple(ForbidRule(f"f{j}", f"/admin/x{j}", f"/admin/x{j}/") for j in range(self.admins))
        asked, expected = self._requests(permits, forbids, requests)
        return Workload(self.size, permits, forbids, self.agents, self.groups, asked, expected)

    def _member_of(self) -> tuple[str, ...]:
        return tuple(sorted(self.random.sample(self.groups, self.random.randint(1, 3))))

    def _scope(self) -> str:
        return f"svc{self.random.randrange(SCOPED)}:{self.random.choice(VERBS)}"

    def _agent(self) -> str:
        return f"a{self.random.randrange(len(self.agents))}"

    def _permit(self, number: int) -> PermitRule:
        pick = self.random
        admin, single = pick.random() < 0.1, pick.random() < 0.5
        base = f"/admin/x{pick.randrange(self.admins)}" if admin else f"/v1/svc{pick.randrange(self.services)}"
        methods = {*pick.sample(METHODS, pick.randint(1, 4)), *(["DELETE"] if admin else [])}
        opens = pick.randint(0, 12)
        return PermitRule(
            id=f"p{number}",
            agent=self._agent() if single else None,
            group=None if single else pick.choice(sorted(self.members)),
            methods=tuple(sorted(methods)),
            base=base,
            prefix=base + ("/items/" if pick.random() < 0.3 else "/"),
            scope=self._scope(),
            depth=pick.randint(0, 4),
            tenant=f"t{pick.randrange(TENANTS)}",
            hours=(opens, opens + pick.randint(4, 11)) if pick.random() < 0.3 else None,
            risk=pick.randint(20, 90) if pick.random() < 0.3 else None,
        )

    def _requests(
        self, permits: Sequence[PermitRule], forbids: Sequence[ForbidRule], count: int
    ) -> tuple[tuple[WorkloadRequest, ...], tuple[bool, ...]]:
        oracle = Oracle(permits, forbids)
        wanted = {True: count // 2, False: count - count // 2}
        found: list[tuple[WorkloadRequest, bool]] = []
        while len(found) < count:
            rule = self.random.choice(permits)
            asked = self._fitting(rule)
            if self.random.random() < 0.55:
                asked = self._spoilt(asked, rule)
            verdict = oracle.allows(asked)
            if wanted[verdict]:
                wanted[verdict] -= 1
                found.append((asked, verdict))
        self.random.shuffle(found)
        return tuple(asked for asked, _ in found), tuple(verdict for _, verdict in found)

    def _fitting(self, rule: PermitRule) -> WorkloadRequest:
        """Return a request that the rule allows."""
        pick = self.random
        agent = rule.agent or pick.choice(self.members[rule.group or ""])
        scopes = list(dict.fromkeys([rule.scope, *(self._scope() for _ in range(3))]))
        pick.shuffle(scopes)
        return WorkloadRequest(
            agent=agent,
            groups=self.agents[agent],
            method=pick.choice(rule.methods),
            path=rule.prefix + pick.choice(["", "u/"]) + str(pick.randrange(10**6)),
            scopes=tuple(scopes),
            depth=pick.randint(0, rule.depth),
            tenant=rule.tenant,
            hour=pick.randrange(*(rule.hours or (0, 24))),
            risk=pick.randrange(100 if rule.risk is None else rule.risk),
            attested=True,
        )

    def _spoilt(self, asked: WorkloadRequest, rule: PermitRule) -> WorkloadRequest:
        """Return the request with one change, which usually makes it denied."""
        pick = self.random
        match pick.choice(["agent", "method", "path", "scope", "depth", "tenant", "attested"]):
            case "agent":
                agent = self._agent()
                return replace(asked, agent=agent, groups=self.agents[agent])
            case "method":
                return replace(asked, method=pick.choice([m for m in METHODS if m not in rule.methods] or ["OPTIONS"]))
            case "path":
                return replace(asked, path=f"/v1/svc{pick.randrange(self.services)}/z{pick.randrange(10**6)}")
            case "scope":
                return replace(asked, scopes=tuple(scope for scope in asked.scopes if scope != rule.scope))
            case "depth":
                return replace(asked, depth=rule.depth + 1 + pick.randrange(3))
            case "tenant":
                return replace(asked, tenant=f"t{pick.randrange(TENANTS)}")
            case _:
                return replace(asked, attested=False)


class Oracle:
    """Labels requests by evaluating every rule directly; only the path is indexed."""

    def __init__(self, permits: Iterable[PermitRule], forbids: Iterable[ForbidRule]) -> None:
        self._permits: dict[str, list[PermitRule]] = {}
        for permit in permits:
            self._permits.setdefault(permit.base, []).append(permit)
        self._closed = {forbid.base for forbid in forbids}

    def allows(self, asked: WorkloadRequest) -> bool:
        base = "/".join(asked.path.split("/")[:3])
        if asked.method == "DELETE" and not asked.attested and base in self._closed:
            return False
        return any(rule_permits(rule, asked) for rule in self._permits.get(base, ()))


def rule_permits(rule: PermitRule, asked: WorkloadRequest) -> bool:
    return (
        asked.path.startswith(rule.prefix)
        and (asked.agent == rule.agent if rule.agent is not None else rule.group in asked.groups)
        and asked.method in rule.methods
        and rule.scope in asked.scopes
        and asked.depth <= rule.depth
        and asked.tenant == rule.tenant
        and (rule.hours is None or rule.hours[0] <= asked.hour < rule.hours[1])
        and (rule.risk is None or asked.risk < rule.risk)
    )

"""Casbin: a model and rows of texts, so numbers are texts of three digits."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import casbin

from bench.peers.shapes import base_of
from bench.workload import ForbidRule, PermitRule, Workload, WorkloadRequest

MODEL = """[request_definition]
r = base, subs, path, act, scopes, depth, tenant, hour, risk, attested
[policy_definition]
p = base, sub, path, act, scope, depth, tenant, h0, h1, risk, att, eft
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = p.sub in r.subs && keyMatch(r.path, p.path) && regexMatch(r.act, p.act) && \
(p.scope == "*" || p.scope in r.scopes) && r.depth <= p.depth && (p.tenant == "*" || r.tenant == p.tenant) && \
r.hour >= p.h0 && r.hour < p.h1 && r.risk < p.risk && (p.att == "any" || r.attested == False)
"""


class CasbinPeer:
    def __init__(self, work: Workload) -> None:
        logging.getLogger("casbin").setLevel(logging.CRITICAL)  # it logs every decision
        rows = [*map(_permit, work.permits), *map(_forbid, work.forbids)]
        with tempfile.TemporaryDirectory() as folder:
            model, table = Path(folder, "model.conf"), Path(folder, "policy.csv")
            model.write_text(MODEL)
            table.write_text("\n".join("p, " + ", ".join(row) for row in rows))
            self.enforcer = self.enforcer_of(str(model), str(table))

    def enforcer_of(self, model: str, table: str) -> casbin.Enforcer:
        return casbin.Enforcer(model, table)

    def question(self, asked: WorkloadRequest) -> tuple[Any, ...]:
        subjects = ("*", asked.agent, *asked.groups)
        numbers = (f"{asked.depth:03}", asked.tenant, f"{asked.hour:03}", f"{asked.risk:03}")
        return (base_of(asked.path), subjects, asked.path, asked.method, asked.scopes, *numbers, asked.attested)

    def ask(self, question: tuple[Any, ...]) -> bool:
        return bool(self.enforcer.enforce(*question))

    def allowed(self, answer: bool) -> bool:
        return answer


class CasbinSlicedPeer(CasbinPeer):
    """Casbin with `FastEnforcer`, which indexes rows by a key, here the base path."""

    def enforcer_of(self, model: str, table: str) -> casbin.Enforcer:
        return casbin.FastEnforcer(model, table, cache_key_order=[0])


def _permit(rule: PermitRule) -> list[str]:
    opens, closes = rule.hours or (0, 24)
    risk = 999 if rule.risk is None else rule.risk
    who, methods = rule.agent or rule.group or "", f"^({'|'.join(rule.methods)})$"
    bounds = [f"{rule.depth:03}", rule.tenant, f"{opens:03}", f"{closes:03}", f"{risk:03}"]
    return [rule.base, who, f"{rule.prefix}*", methods, rule.scope, *bounds, "any", "allow"]


def _forbid(rule: ForbidRule) -> list[str]:
    bounds = ["099", "*", "000", "024", "999"]
    return [rule.base, "*", f"{rule.prefix}*", "^DELETE$", "*", *bounds, "unattested", "deny"]

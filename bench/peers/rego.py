"""Rego by regorus (Rust), through opa-eval: one Rego rule per rule, or one Rego rule over the rules as data indexed by
path."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import opa_eval

from bench.peers.shapes import by_base, flat_request, quoted
from bench.workload import PermitRule, Workload, WorkloadRequest

HEAD = """package authz
import rego.v1
default allow := false
allow if { permit; not forbidden }
"""
OVER_DATA = (
    HEAD
    + """
parts := split(input.path, "/")
base := concat("/", ["", parts[1], parts[2]])
permit if {
  some rule in data.rules[base]
  subject(rule)
  input.tenant == rule.tenant
  input.method in rule.methods
  startswith(input.path, rule.prefix)
  rule.scope in input.scopes
  input.depth <= rule.depth
  input.hour >= rule.from
  input.hour < rule.until
  input.risk < rule.risk
}
subject(rule) if rule.subject == input.agent
subject(rule) if rule.subject in input.groups
forbidden if { input.method == "DELETE"; not input.attested; data.closed[base] }
"""
)


class RegoRulesPeer:
    def __init__(self, work: Workload) -> None:
        self.engine = load_rego(rules(work), None)

    def question(self, asked: WorkloadRequest) -> dict[str, Any]:
        return flat_request(asked)

    def ask(self, question: dict[str, Any]) -> str:
        return str(self.engine.evaluate(msgspec.json.encode(question).decode()))

    def allowed(self, answer: str) -> bool:
        return answer == "true"


class RegoDataPeer(RegoRulesPeer):
    def __init__(self, work: Workload) -> None:
        self.engine = load_rego(OVER_DATA, json.dumps(data(work)))


def load_rego(text: str, facts: str | None, query: str = "data.authz.allow") -> Any:
    """Return an engine with the policy in a file, because the binding reads policies from files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "authz.rego")
        file.write_text(text)
        return opa_eval.OpaEval(str(file), facts, query)


def rules(work: Workload) -> str:
    permits = [f"permit if {{ {'; '.join(_conditions(rule))} }}" for rule in work.permits]
    forbids = [
        f'forbidden if {{ input.method == "DELETE"; not input.attested; startswith(input.path, "{rule.prefix}") }}'
        for rule in work.forbids
    ]
    return HEAD + "\n".join([*permits, *forbids]) + "\n"


def _conditions(rule: PermitRule) -> Iterator[str]:
    yield f'input.agent == "{rule.agent}"' if rule.agent is not None else f'"{rule.group}" in input.groups'
    yield f'input.tenant == "{rule.tenant}"'
    yield f"input.method in {{{quoted(rule.methods)}}}"
    yield f'startswith(input.path, "{rule.prefix}")'
    yield f'"{rule.scope}" in input.scopes'
    yield f"input.depth <= {rule.depth}"
    if rule.hours is not None:
        yield f"input.hour >= {rule.hours[0]}; input.hour < {rule.hours[1]}"
    if rule.risk is not None:
        yield f"input.risk < {rule.risk}"


def data(work: Workload) -> dict[str, Any]:
    """Return the rules by base path; where a rule has no bound, one that always holds."""
    listed = {base: [_row(rule) for rule in permits] for base, permits in by_base(work.permits).items()}
    return {"rules": listed, "closed": {forbid.base: True for forbid in work.forbids}}


def _row(rule: PermitRule) -> dict[str, Any]:
    opens, closes = rule.hours or (0, 24)
    return {
        "subject": rule.agent or rule.group,
        "tenant": rule.tenant,
        "methods": rule.methods,
        "prefix": rule.prefix,
        "scope": rule.scope,
        "depth": rule.depth,
        "from": opens,
        "until": closes,
        "risk": 1_000 if rule.risk is None else rule.risk,
    }

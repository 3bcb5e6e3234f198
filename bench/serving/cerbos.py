"""Cerbos over HTTP, from its npm binary: a resource policy for each base path, roles for groups.

npm install @cerbos/cerbos-linux-x64        or set the variable CERBOS to the path of the binary
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peers.shapes import by_base, quoted
from bench.serving.servers import Server, free_port, start_process, wait_for_http
from bench.workload import ForbidRule, PermitRule, Workload, WorkloadRequest

INSTALL = "npm install @cerbos/cerbos-linux-x64, or CERBOS=/path/to/cerbos"


def binary() -> Path | None:
    named = os.environ.get("CERBOS")
    found = [Path(named)] if named else sorted(Path("node_modules/@cerbos").glob("cerbos-*/cerbos-*"))
    return next((path.resolve() for path in found if os.access(path, os.X_OK)), None)


@contextmanager
def cerbos(work: Workload, folder: Path, program: Path) -> Iterator[Server]:
    """Start Cerbos on one core with one scheduler thread, like the other servers."""
    policies, port, inner = folder / "cerbos", free_port(), free_port()
    policies.mkdir()
    for file, text in resource_policies(work).items():
        (policies / file).write_text(text)
    settings = folder / "cerbos.yaml"
    settings.write_text(json.dumps(_settings(policies, port, inner)))
    command = [str(program), "server", "--config", str(settings), "--log-level", "error"]
    with start_process(command, folder / "cerbos.log", GOMAXPROCS="1", CERBOS_NO_TELEMETRY="1") as process:
        wait_for_http(port, "/_cerbos/health", process)
        yield Server("cerbos", "Cerbos", process.pid, port, "/api/check/resources", question, allowed)


def _settings(policies: Path, port: int, inner: int) -> dict[str, Any]:
    return {
        "server": {"httpListenAddr": f"127.0.0.1:{port}", "grpcListenAddr": f"127.0.0.1:{inner}"},
        "storage": {"driver": "disk", "disk": {"directory": str(policies), "watchForChanges": False}},
        "telemetry": {"disabled": True},
        "audit": {"enabled": False},
    }


def resource_policies(work: Workload) -> dict[str, str]:
    """Return the resource policies by file name, as JSON, which is also YAML."""
    permits, forbids = by_base(work.permits), by_base(work.forbids)
    found = {}
    for base in sorted({*permits, *forbids}):
        rules = [*map(_permit, permits.get(base, ())), *map(_forbid, forbids.get(base, ()))]
        resource = {"version": "default", "resource": resource_kind(base), "rules": rules}
        found[f"{resource_kind(base)}.json"] = json.dumps(
            {"apiVersion": "api.cerbos.dev/v1", "resourcePolicy": resource}
        )
    return found


def resource_kind(base: str) -> str:
    return base.strip("/").replace("/", "_")


def _permit(rule: PermitRule) -> dict[str, Any]:
    return {
        "name": rule.id,
        "actions": rule.methods,
        "effect": "EFFECT_ALLOW",
        "roles": ["*"] if rule.group is None else [rule.group],
        "condition": {"match": {"expr": " && ".join(_conditions(rule))}},
    }


def _conditions(rule: PermitRule) -> Iterator[str]:
    if rule.agent is not None:
        yield f"P.id == {quoted([rule.agent])}"
    yield f"P.attr.tenant == {quoted([rule.tenant])}"
    yield f"{quoted([rule.scope])} in P.attr.scopes"
    yield f"P.attr.depth <= {rule.depth}"
    yield f"R.attr.path.startsWith({quoted([rule.prefix])})"
    if rule.hours is not None:
        yield f"P.attr.hour >= {rule.hours[0]} && P.attr.hour < {rule.hours[1]}"
    if rule.risk is not None:
        yield f"P.attr.risk < {rule.risk}"


def _forbid(rule: ForbidRule) -> dict[str, Any]:
    condition = {"match": {"expr": "P.attr.attested == false"}}
    return {"name": rule.id, "actions": ["DELETE"], "effect": "EFFECT_DENY", "roles": ["*"], "condition": condition}


def question(asked: WorkloadRequest) -> bytes:
    attributes = {
        "tenant": asked.tenant,
        "scopes": asked.scopes,
        "depth": asked.depth,
        "hour": asked.hour,
        "risk": asked.risk,
        "attested": asked.attested,
    }
    resource = {"kind": resource_kind("/".join(asked.path.split("/")[:3])), "id": "e", "attr": {"path": asked.path}}
    return json.dumps(
        {
            "principal": {"id": asked.agent, "roles": asked.groups, "attr": attributes},
            "resources": [{"actions": [asked.method], "resource": resource}],
        },
        separators=(",", ":"),
    ).encode()


def allowed(asked: WorkloadRequest, answer: Any) -> bool:
    return bool(answer["results"][0]["actions"][asked.method] == "EFFECT_ALLOW")

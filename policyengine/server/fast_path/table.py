"""The table of doors: which paths the fast path answers."""

from __future__ import annotations

from policyengine.server.adapters.envoy_http import PREFIX as ENVOY
from policyengine.server.authzen.adapter import EVALUATION, EVALUATIONS
from policyengine.server.fast_path.app import DoorTable
from policyengine.server.fast_path.authzen_door import AuthzenDoor
from policyengine.server.fast_path.batch_door import BatchDoor
from policyengine.server.fast_path.door import DoorCounts
from policyengine.server.fast_path.gateway_doors import EnvoyDoor, ForwardAuthDoor
from policyengine.server.fast_path.question_door import QuestionDoor
from policyengine.server.handlers import DecisionApi


def build_doors(api: DecisionApi) -> DoorTable:
    """Return the doors of an application. Each door counts under the same name as the application."""
    tally, gateways = api.tally, api.gateways
    forward_auth, authzen = DoorCounts.of(tally, "forward_auth"), DoorCounts.of(tally, "authzen")
    evaluations = (authzen, api.translators, api.refusals, api.authzen_consume)
    return DoorTable(
        {
            b"/decide": QuestionDoor(DoorCounts.of(tally, "decide"), spends=True),
            b"/evaluate": QuestionDoor(DoorCounts.of(tally, "evaluate"), spends=False),
            b"/decide/batch": BatchDoor(DoorCounts.of(tally, "batch")),
            b"/forward-auth": ForwardAuthDoor(forward_auth, gateways.forward_auth, for_nginx=False),
            b"/forward-auth/nginx": ForwardAuthDoor(forward_auth, gateways.nginx, for_nginx=True),
            EVALUATION.encode(): AuthzenDoor(*evaluations, has_items=False),
            EVALUATIONS.encode(): AuthzenDoor(*evaluations, has_items=True),
        },
        {f"{ENVOY}/".encode(): EnvoyDoor(DoorCounts.of(tally, "envoy_http"), gateways.envoy)},
    )

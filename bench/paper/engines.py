"""The three applications in policyengine and in Cedar."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bench.paper.data import Application, Attribute, PaperRequest, question, ref_dict
from policyengine import Decision, Engine


class PolicyenginePaperPeer:
    def __init__(self, application: Application) -> None:
        with tempfile.TemporaryDirectory() as folder:
            entities = Path(folder, "entities.json")
            entities.write_text(json.dumps({"entities": application.plain()}))
            self.ask = Engine.load(application.policy, entities=entities).decide

    def question(self, asked: PaperRequest) -> dict[str, Any]:
        return question(asked)

    def allowed(self, answer: Decision) -> bool:
        return answer.allowed


class CedarPaperPeer:
    """Cedar with policies and entities that are parsed before timing and passed as handles."""

    def __init__(self, application: Application) -> None:
        import cedarpy  # imported here, because the application is also measured without it

        entities = [
            {
                "uid": ref_dict(row.ref),
                "attrs": {name: _cedar_value(value) for name, value in row.attributes.items()},
                "parents": [ref_dict(parent) for parent in row.parents],
            }
            for row in application.rows
        ]
        self.decide = cedarpy.is_authorized
        self.policies = cedarpy.PolicySet.from_str(application.cedar.read_text())
        self.entities = cedarpy.Entities.from_json_str(json.dumps(entities))

    def question(self, asked: PaperRequest) -> dict[str, Any]:
        return {
            "principal": ref_dict(("user", asked.user)),
            "action": ref_dict(("Action", asked.action)),
            "resource": ref_dict(asked.resource),
            "context": {},
        }

    def ask(self, asked: dict[str, Any]) -> Any:
        return self.decide(asked, self.policies, self.entities)

    def allowed(self, answer: Any) -> bool:
        return bool(answer.allowed)


def _cedar_value(value: Attribute) -> object:
    match value:
        case bool():
            return value
        case list():
            return [{"__entity": ref_dict(ref)} for ref in value]
        case _:
            return {"__entity": ref_dict(value)}

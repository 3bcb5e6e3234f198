"""The three applications in our engine and in Cedar."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bench.paper.data import Application, Asked, Attribute, named, question
from policyengine import Decision, Engine


class Ours:
    def __init__(self, application: Application) -> None:
        with tempfile.TemporaryDirectory() as folder:
            entities = Path(folder, "entities.json")
            entities.write_text(json.dumps({"entities": application.plain()}))
            self.ask = Engine.load(application.policy, entities=entities).decide

    def question(self, asked: Asked) -> dict[str, Any]:
        return question(asked)

    def allowed(self, answer: Decision) -> bool:
        return answer.allowed


class Cedar:
    """Policies and entities are parsed once, then handed over as handles."""

    def __init__(self, application: Application) -> None:
        import cedarpy  # here, because the application is measured without it too

        entities = [
            {
                "uid": named(row.ref),
                "attrs": {name: _cedar(value) for name, value in row.attributes.items()},
                "parents": [named(parent) for parent in row.parents],
            }
            for row in application.rows
        ]
        self.decide = cedarpy.is_authorized
        self.policies = cedarpy.PolicySet.from_str(application.cedar.read_text())
        self.entities = cedarpy.Entities.from_json_str(json.dumps(entities))

    def question(self, asked: Asked) -> dict[str, Any]:
        return {
            "principal": named(("user", asked.user)),
            "action": named(("Action", asked.action)),
            "resource": named(asked.resource),
            "context": {},
        }

    def ask(self, asked: dict[str, Any]) -> Any:
        return self.decide(asked, self.policies, self.entities)

    def allowed(self, answer: Any) -> bool:
        return bool(answer.allowed)


def _cedar(value: Attribute) -> object:
    match value:
        case bool():
            return value
        case list():
            return [{"__entity": named(ref)} for ref in value]
        case _:
            return {"__entity": named(value)}

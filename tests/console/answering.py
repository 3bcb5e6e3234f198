"""A console whose policies request approvals, and the people who answer them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyengine import ApprovalSettings
from policyengine.engine.approval_desk import ApprovalDesk, TrackedApproval
from tests.console.world import Page, Visitor, World, console

POLICY = """language 1
package shop
issuer acme {{ url "{url}"  scopes none }}
entity user {{ roles: set<string>  password: string ? }}
entity invoice {{ owner: user }}
facts on POST /refunds {{ body.amount: number  body.note: string ? }}
facts on POST /invoices/{{id: invoice}}/void {{ body.note: string ? }}
agent "bot*" {{
  issued by acme   acts for any user
  may POST /refunds, POST /wipe, POST /own, POST /invoices/{{id: invoice}}/void, GET /health
}}
users unrestricted
guard "large refunds" on POST /refunds {{
  confirm by role finance within 15m when body.amount > 100 message "refund of {{body.amount}}: {{body.note}}"
}}
guard "wiping" on POST /wipe {{ confirm by 2 of role finance within 15m }}
guard "own" on POST /own {{ confirm by user within 15m }}
guard "voiding" on POST /invoices/{{id: invoice}}/void {{
  confirm by role finance within 15m message "void, of {{resource.owner.id}}"
}}
"""
ROLES = {"view": ["roles:ops"], "approve": ["roles:finance", "roles:sales"], "halt": ["id:hal"]}
PEOPLE = {
    "alice": ["ops"], "bob": ["sales"], "fay": ["finance"], "gus": ["finance"], "hal": ["ops"], "bot": ["finance"],
}  # fmt: skip


@dataclass
class Clock:
    """A clock that a test sets; the server's own lines of the log have the real time."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)


@dataclass
class Answers:
    """A console with people, the requests that wait, and the clock of the engine."""

    world: World
    clock: Clock

    def open(self, path: str = "/refunds", **changed: Any) -> str:
        """Let an agent ask for a refund, and return the approval."""
        question = {"request": {"method": "POST", "path": path}, "options": {"request_approval": True}, **changed}
        found: str = self.world.decide(**question).remedies[0].approval.id
        return found

    def person(self, user: str) -> Visitor:
        return self.world.person(user)

    def find(self, id: str) -> TrackedApproval:
        return self.desk.find(id)

    def state(self, id: str) -> str:
        return self.find(id).state.value

    @property
    def desk(self) -> ApprovalDesk:
        desk = self.world.server.console.engine.approvals
        assert desk is not None
        return desk

    def acts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the records of what people did, except signing in."""
        return [(event, told) for event, told in self.world.records() if "signed" not in event]


def send(visitor: Visitor, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Page:
    """Send a form with the token of the session."""
    return visitor.post(path, {"csrf": visitor.get("/").field("csrf"), **(form or {})}, **headers)


def answer(visitor: Visitor, id: str, verb: str = "approve", **form: str) -> Page:
    return send(visitor, f"/approvals/{id}/{verb}", form)


@contextmanager
def answering(folder: Path, **options: Any) -> Iterator[Answers]:
    clock, settings = Clock(), options.pop("settings", {})
    entities = [{"type": "user", "id": name, "attributes": {"roles": roles}} for name, roles in PEOPLE.items()]
    entities[0]["attributes"] |= {"password": "hunter2"}
    owner = {"owner": {"type": "user", "id": "gus"}}
    entities.append({"type": "invoice", "id": "7", "attributes": owner})
    given = {"policy": POLICY, "seal": False, "entities": entities, **ROLES, **options}
    engine = {"clock": clock, "approvals": ApprovalSettings(**settings), **given.pop("engine_options", {})}
    with console(folder, engine_options=engine, **given) as world:
        yield Answers(world, clock)

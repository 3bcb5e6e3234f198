"""The task that an agent was started for, as the claim `task` has it: `{id, tools, entities, issued_at, opened_by}`.

`entities` are `{type, id}`, as references are in every question.
"""

from __future__ import annotations

from datetime import UTC, datetime

from policyengine.identity.verify.claims import Claims, members, moment, references, text, texts
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.typesystem import EntityRef

MEMBERS = frozenset({"id", "tools", "entities", "issued_at", "opened_by"})


def task_of(claims: Claims) -> dict[str, object] | None:
    """The facts of `task`. One that says more than is understood narrows what nobody here would keep to. Raises
    Refused."""
    task = members(claims, "task")
    if task is None:
        return None
    name, began = text(task, "id"), moment(task, "issued_at")
    if name is None or not task.keys() <= MEMBERS:
        raise Refused(Refusal.CLAIM_TYPE, "its `task` has no `id`, or says what is not understood")
    found: dict[str, object] = {"id": name}
    tools, entities = texts(task, "tools"), references(task, "entities")
    found |= {} if tools is None else {"tools": list(tools)}
    found |= {} if entities is None else {"entities": [reference_of(one) for one in entities]}
    if began is not None:
        found["issued_at"] = datetime.fromtimestamp(int(began), UTC)
    return found


def reference_of(entity: EntityRef) -> dict[str, str]:
    return {"type": entity.type, "id": entity.id}


def opener_of(claims: Claims) -> str | None:
    """The agent that opened it, `issuer/agent`, where the issuer says so. Raises Refused."""
    return text(members(claims, "task") or {}, "opened_by")

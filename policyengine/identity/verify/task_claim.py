"""Reads the task for which an agent was started, the claim `task`: `{id, tools, entities, issued_at, opened_by}`.
`entities` are `{type, id}`, like references in questions.
"""

from __future__ import annotations

from datetime import UTC, datetime

from policyengine.identity.verify.claims import (
    Claims,
    object_claim,
    reference_list_claim,
    text_claim,
    text_list_claim,
    time_claim,
)
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.typesystem import EntityRef

MEMBERS = frozenset({"id", "tools", "entities", "issued_at", "opened_by"})


def parse_task_claim(claims: Claims) -> dict[str, object] | None:
    """Return the facts of `task`, or None if the claim is missing. A task with unknown members is refused, because they
    could restrict it further. Raises CredentialError.
    """
    task = object_claim(claims, "task")
    if task is None:
        return None
    name, began = text_claim(task, "id"), time_claim(task, "issued_at")
    if name is None or not task.keys() <= MEMBERS:
        raise CredentialError(RefusalCode.CLAIM_TYPE, "the claim `task` has no `id`, or has unknown members")
    found: dict[str, object] = {"id": name}
    tools, entities = text_list_claim(task, "tools"), reference_list_claim(task, "entities")
    found |= {} if tools is None else {"tools": list(tools)}
    found |= {} if entities is None else {"entities": [reference_to_dict(one) for one in entities]}
    if began is not None:
        found["issued_at"] = datetime.fromtimestamp(int(began), UTC)
    return found


def reference_to_dict(entity: EntityRef) -> dict[str, str]:
    return {"type": entity.type, "id": entity.id}


def task_opener_claim(claims: Claims) -> str | None:
    """Return the agent that opened the task, as `issuer/agent`; None if the issuer does not name it. Raises
    CredentialError.
    """
    return text_claim(object_claim(claims, "task") or {}, "opened_by")

"""Requests about tasks, and results that ask the client for input: the part that both middlewares share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts, PolicyDecisionPoint, make_denial
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.methods import (
    MAX_FOLLOWED,
    completion_target,
    evaluate_use,
    is_visible,
    subscribed_resources,
)
from policyengine.integrations.mcp.protocol_errors import denial_error, input_denial_error
from policyengine.integrations.mcp.tasks import TASK_LIST, UNKNOWN_TASK, TaskDesk, TaskRecord, subscribed_tasks
from policyengine.runtime.decision import Gate

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
    from pydantic import BaseModel
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Came = TypeVar("Came")


async def use_task(
    tasks: TaskDesk,
    client: ClientMessageDecider,
    method: str,
    params: Mapping[str, Any],
    facts: Facts,
    go_on: Callable[[], Awaitable[Came]],
) -> Came | dict[str, Any]:
    """Let a caller use its own tasks, while their calls would not be denied. Raises MCPError."""
    if method == TASK_LIST:
        members = to_wire(await go_on())
        if members is None or not isinstance(members.get("tasks"), list):
            raise MCPError(INTERNAL_ERROR, "the server's list is malformed and is not returned")
        return {**members, "tasks": await tasks.own_tasks(members["tasks"], facts)}
    record = await find_own_task(tasks, params.get("taskId"), facts)
    result = await go_on()
    await find_own_task(tasks, params.get("taskId"), facts)  # `tasks/result` waits; the policy may have changed
    await check_input(client, result, facts)
    await tasks.settle(record, method, to_wire(result))
    return result


async def admits_task(
    tasks: TaskDesk, client: ClientMessageDecider, params: Mapping[str, Any], facts: Facts | None
) -> bool:
    """Return whether a client gets the notification about a task: it belongs to its caller, who could make the call
    now, and it asks nothing that is denied."""
    record = None if facts is None else tasks.find(facts, params.get("taskId"))
    if facts is None or record is None or await tasks.refusal(record, facts) is not None:
        return False
    if await client.refuse_input(params.get("inputRequests"), facts) is not None:
        return False
    await tasks.settle(record, "tasks/get", params)
    return True


async def find_own_task(tasks: TaskDesk, id: object, facts: Facts) -> TaskRecord:
    """Return a task of the caller. Raises MCPError; the task of another caller is unknown, as if it did not exist."""
    record = tasks.find(facts, id)
    if record is None:
        raise MCPError(INVALID_PARAMS, UNKNOWN_TASK)
    if (no := await tasks.refusal(record, facts)) is not None:
        raise denial_error(no)
    return record


def check_followed(params: Mapping[str, Any]) -> None:
    """Check how much a stream follows before any of it is decided. Raises MCPError."""
    if len(subscribed_resources(params)) + len(subscribed_tasks(params)) > MAX_FOLLOWED:
        raise MCPError(
            INVALID_PARAMS, f"a stream can follow at most {MAX_FOLLOWED} resources and tasks: open another stream"
        )


async def check_named_entities(
    decides: PolicyDecisionPoint, tasks: TaskDesk, server: str, method: str, params: Mapping[str, Any], facts: Facts
) -> None:
    """Check `completion/complete` or `subscriptions/listen`, which name entities without using them: the caller must
    have access to each of these. Raises MCPError.
    """
    if method == "completion/complete":
        named = completion_target(params)
        if named is None or not await is_visible(decides, *named, server, facts):
            raise denial_error(make_denial("no block grants this to the caller", Gate.DEFAULT))
        return
    check_followed(params)
    for uri in subscribed_resources(params):
        decision = await evaluate_use(decides, "resources/subscribe", {"uri": uri}, server, facts)
        if not decision.allowed:
            raise denial_error(decision)
    for id in subscribed_tasks(params):
        await find_own_task(tasks, id, facts)


async def check_input(client: ClientMessageDecider, result: object, facts: Facts) -> None:
    """Check what a result asks of the client: an interim result, or a task that needs input. Raises MCPError."""
    members = to_wire(result)
    asked = None if members is None else members.get("inputRequests")
    if asked is not None and (no := await client.refuse_input(asked, facts)) is not None:
        raise input_denial_error(no)


def to_wire(result: object) -> dict[str, Any] | None:
    """Return the members of a result as the client gets them; None if it has none."""
    if isinstance(result, BaseModel):
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return result if isinstance(result, dict) else None

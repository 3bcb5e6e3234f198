"""One request to the upstream server in the modern era: what goes up, and which messages come back to its client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.sessions import NOBODY, Owner
from policyengine.integrations.mcp.eras import read_meta
from policyengine.integrations.mcp.notifications import (
    ACKNOWLEDGED,
    LIST_CHANGES,
    LISTEN,
    LOG_MESSAGE,
    PROGRESS,
    RESOURCE_UPDATED,
)
from policyengine.integrations.mcp.tasks import TASK_NOTIFICATIONS, subscribed_tasks

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
    from mcp_types import INTERNAL_ERROR, LOG_LEVEL_META_KEY, RequestId
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

RefuseQuestion: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[str | None]]
Notify: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]


async def ignore_notification(method: str, params: dict[str, Any]) -> None:
    """Drop a notification, for requests of the gateway itself."""


async def admit_question(method: str, params: Mapping[str, Any]) -> str | None:
    """Refuse no question, for results whose questions the middleware decides."""
    return None


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """A request of a client that was decided. `id` is the client's; `owner` is its caller; `notify` sends the client a
    notification about the request. `headers` are `Mcp-Param-*` headers that the gateway wrote. `refuse` returns why the
    client may not be asked a question."""

    method: str
    params: Mapping[str, Any]
    id: RequestId = 0
    owner: Owner = NOBODY
    notify: Notify = ignore_notification
    headers: Mapping[str, str] | None = None
    refuse: RefuseQuestion = admit_question

    @property
    def token(self) -> object:
        return read_meta(self.params).get("progressToken")

    @property
    def is_open_ended(self) -> bool:
        """Whether the request ends only when its client or the server ends it."""
        return self.method == LISTEN

    def upstream_params(self, id: int) -> dict[str, Any]:
        """Return the parameters with the gateway's own progress token: tokens of two clients may be equal."""
        if self.token is None:
            return dict(self.params)
        return {**self.params, "_meta": {**read_meta(self.params), "progressToken": id}}

    def translate(self, id: int, method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the parameters of an upstream notification as the client gets them; None if the notification does not
        belong to this request, whose upstream ID is `id`."""
        if method == PROGRESS:
            mine = is_id(params.get("progressToken"), id) and self.token is not None
            return {**params, "progressToken": self.token} if mine else None
        if method == LOG_MESSAGE:
            return dict(params) if LOG_LEVEL_META_KEY in read_meta(self.params) else None
        meta = read_meta(params)
        if (
            not self.is_open_ended
            or not is_id(meta.get(SUBSCRIPTION_ID_META_KEY), id)
            or not self._subscribes(method, params)
        ):
            return None
        return {**params, "_meta": {**meta, SUBSCRIPTION_ID_META_KEY: self.id}}

    def _subscribes(self, method: str, params: Mapping[str, Any]) -> bool:
        wanted = self.params.get("notifications")
        named = wanted if isinstance(wanted, Mapping) else {}
        if method == RESOURCE_UPDATED:
            uris = named.get("resourceSubscriptions")
            return isinstance(uris, list) and params.get("uri") in uris
        if method in TASK_NOTIFICATIONS:
            return params.get("taskId") in subscribed_tasks(self.params)
        return method == ACKNOWLEDGED or named.get(LIST_CHANGES.get(method, "")) is True


def subscription_end(id: RequestId) -> dict[str, Any]:
    """Return the result with which a subscription ends as intended, for the request `id` of its client."""
    return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID_META_KEY: id}}


def question_of(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question of the server as a result has it: without the progress token of the server."""
    members = {name: value for name, value in params.items() if name != "_meta"}
    return {"method": method, "params": members} if members else {"method": method}


class StatelessUpstream(Protocol):
    """The upstream server as modern requests reach it, whatever it speaks."""

    async def discover(self) -> dict[str, Any]:
        """Return the result of `server/discover`. Raises MCPError."""
        ...

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        """Return the result of a request. Raises MCPError."""
        ...


def is_id(value: object, id: int) -> bool:
    """Return whether a value is the ID: neither `true` nor `1.0` is 1."""
    return type(value) is int and value == id


def read_answer(message: Mapping[str, Any], id: int) -> dict[str, Any]:
    """Return the result in an answer. Raises MCPError for an error, and for a message that does not answer the request
    `id`."""
    error, result = message.get("error"), message.get("result")
    if isinstance(error, Mapping) and isinstance(error.get("code"), int):
        raise MCPError(error["code"], str(error.get("message", "")), error.get("data"))
    if not is_id(message.get("id"), id) or not isinstance(result, dict):
        raise MCPError(INTERNAL_ERROR, "the upstream server sent something that is not an answer to the request")
    return result

"""The stream on which a client listens for messages: it ends when the client's token expires or is revoked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import time

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.executor import run_in_thread
from policyengine.identity.verified import VerifiedCredential
from policyengine.stores.base import StoreError

MIN_SECONDS = 0.1  # for a token that expires while it is verified
RECHECK_SECONDS = 10.0


async def run_while_valid(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    credential: VerifiedCredential,
    is_revoked: Callable[[], Awaitable[bool]],
    recheck_seconds: float = RECHECK_SECONDS,
) -> None:
    """Answer a request, and end its stream when the token expires or is revoked. The client then opens it again, with
    another token."""
    began = False

    async def watching(message: Message) -> None:
        nonlocal began
        began = began or message["type"] == "http.response.start"
        await send(message)

    async def recheck() -> None:
        while not await is_revoked():
            await anyio.sleep(recheck_seconds)
        limit.cancel()

    with anyio.move_on_after(seconds_left(credential)) as limit:
        async with anyio.create_task_group() as group:
            group.start_soon(recheck)
            await app(scope, receive, watching)
            group.cancel_scope.cancel()
    if limit.cancelled_caught and began:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def seconds_left(credential: VerifiedCredential) -> float | None:
    """Return the number of seconds until the token expires; None if it does not expire."""
    ends = credential.facts.get("credential", {}).get("expires_at")
    return max(MIN_SECONDS, (ends - datetime.now(UTC)).total_seconds()) if isinstance(ends, datetime) else None


async def is_revoked(engine: Engine, credential: VerifiedCredential) -> bool:
    """Return whether the token, its agent or its user was revoked; also True if the store does not answer."""
    if engine.identity is None:
        return True
    try:
        return bool(await run_in_thread(engine.identity.marks.revoked, credential.names, int(time())))
    except StoreError:
        return True

"""A legacy upstream server behind modern callers: each caller has sessions of its own, and never uses a session of
another caller.

When the server asks the client of a call, the call is parked: its caller gets a result that asks for input, and repeats
the call with the answer.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.busy_errors import CALLER_BUSY, SESSIONS_BUSY, busy_error
from policyengine.integrations.mcp.clients.request_states import foreign_state, request_digest
from policyengine.integrations.mcp.clients.sessions import NOBODY, Owner
from policyengine.integrations.mcp.eras import (
    CLIENT_CAPABILITIES,
    INPUT_METHODS,
    SUPPORTED_VERSIONS,
    Envelope,
    read_envelope,
    read_meta,
    to_modern_result,
)
from policyengine.integrations.mcp.notifications import ACKNOWLEDGED, LISTEN, Notice, ignore_method
from policyengine.integrations.mcp.upstream.calls import UpstreamCall, question_of, subscription_end
from policyengine.integrations.mcp.upstream.http_session import SESSION_ENDED
from policyengine.integrations.mcp.upstream.legacy_session import MAX_QUESTIONS, LegacySession, SessionExchange
from policyengine.integrations.mcp.upstream.legacy_subscriptions import subscribe, wants
from policyengine.integrations.mcp.upstream.server import CONNECT_SECONDS, McpUpstream
from policyengine.integrations.mcp.upstream.session_places import SessionPlaces
from policyengine.log_throttle import LogThrottle
from policyengine.plurals import format_seconds, pluralize

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
    from mcp_types import INTERNAL_ERROR, SERVER_INFO_META_KEY, JSONRPCRequest
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_OWNER_PARKED = 4
PARKED_SECONDS = 120.0  # how long a call waits for the answer of its client
IDLE_SECONDS = 300.0
GATEWAY_INFO = {"name": "policyengine", "version": "1"}
CALLER_KEYS = tuple(sorted(CLIENT_CAPABILITIES.values()))


@dataclass(slots=True, eq=False)
class PooledSession:
    """A session of a caller, whose client has the capabilities `key`. `used` is the time when its last request ended;
    `is_busy` is true while a request is in progress."""

    session: LegacySession
    owner: Owner
    key: str
    used: float = 0.0
    is_busy: bool = True


@dataclass(slots=True, eq=False)
class ParkedCall:
    """A call whose server waits for the answers of its client: `questions` by the key that the client gets."""

    pooled: PooledSession
    exchange: SessionExchange
    digest: bytes
    questions: dict[str, JSONRPCRequest]
    expires: float = field(default=0.0)


class SessionPool:
    """Sessions with a legacy server. At most `upstream.max_sessions` are open. If all are open, a new session ends the
    session that has been idle longest; if none is idle, the request waits for at most `seconds`."""

    def __init__(self, upstream: McpUpstream, group: TaskGroup, seconds: float = CONNECT_SECONDS) -> None:
        self._upstream, self._group, self._seconds = upstream, group, seconds
        self._places = SessionPlaces(upstream.max_sessions, self._wake)
        self._refusals = LogThrottle.every()
        self._open: list[PooledSession] = []
        self._parked: dict[str, ParkedCall] = {}
        self._freed: dict[Owner, anyio.Event] = {}
        self._info: dict[str, Any] | None = None
        self.notice: Notice = ignore_method  # receives the notifications of all sessions

    async def close(self) -> None:
        for pooled in list(self._open):
            self._end(pooled)
        self._parked.clear()

    async def watch(self) -> None:
        """Periodically end the idle sessions and the parked calls whose time is over."""
        while True:
            await anyio.sleep(min(IDLE_SECONDS, PARKED_SECONDS) / 10)
            self.end_expired()

    def end_expired(self) -> None:
        now = anyio.current_time()
        for token, parked in list(self._parked.items()):
            if parked.expires < now:
                del self._parked[token]
                self._end(parked.pooled)
        for pooled in list(self._open):
            if not pooled.is_busy and now - pooled.used > IDLE_SECONDS:
                self._end(pooled)

    # ── Requests ──────────────────────────────────────────────────────────────────────────────

    async def discover(self) -> dict[str, Any]:
        """Return what `initialize` says about the server, in the form of `server/discover`. Raises MCPError."""
        if self._info is None:
            with self._within_limit():
                while not await self._take_place(NOBODY):
                    pass
            pooled = await self._begin(NOBODY, Envelope("", None, {}), "{}")
            self._info = pooled.session.info
            self._end(pooled)
        info = self._info
        capabilities = info.get("capabilities")
        instructions = {"instructions": info["instructions"]} if "instructions" in info else {}
        return {
            "resultType": "complete",
            "supportedVersions": list(SUPPORTED_VERSIONS),
            "capabilities": capabilities if isinstance(capabilities, dict) else {},
            **instructions,
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {SERVER_INFO_META_KEY: info.get("serverInfo", GATEWAY_INFO)},
        }

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        """Return the result of a request, or an interim result that asks for input. Raises MCPError."""
        if call.method == LISTEN:
            return await self._listen(call)
        if "requestState" in call.params:
            parked = self._take(call)
            answers = call.params.get("inputResponses")
            try:
                with self._within_limit():
                    is_answered = await self._answer(parked, answers if isinstance(answers, Mapping) else {})
            except BaseException:
                self._end(parked.pooled)
                raise
            if is_answered:
                return await self._go_on(parked.pooled, parked.exchange, call)
            return self._park(parked.pooled, parked.exchange, parked.questions, call)
        for _ in range(self._places.share + 1):
            pooled = await self._lease(call)
            is_new = not pooled.used
            try:
                return await self._ask(pooled, call)
            except MCPError as error:
                if error.message != SESSION_ENDED or not pooled.session.is_forgotten:
                    raise
            self._end(pooled)
            if is_new:  # a server that forgets a session at once may have made the call
                break
            # Otherwise, the server did not take the call, because it has started again.
        raise MCPError(INTERNAL_ERROR, SESSION_ENDED)

    async def _ask(self, pooled: PooledSession, call: UpstreamCall) -> dict[str, Any]:
        """Return the result of a request in a session, or an interim result that asks for input. Raises MCPError."""
        try:
            with self._within_limit():
                await pooled.session.set_level(read_envelope(call.params).log_level)
                exchange = await pooled.session.begin(call)
        except BaseException:
            self._end(pooled)
            raise
        return await self._go_on(pooled, exchange, call)

    async def _go_on(self, pooled: PooledSession, exchange: SessionExchange, call: UpstreamCall) -> dict[str, Any]:
        """Wait for the answer, or for questions of the server. Raises MCPError."""
        exchange.call, session = call, pooled.session
        is_settled = False
        try:
            with anyio.move_on_after(self._upstream.limit):
                while True:
                    await exchange.wait()
                    questions = {} if exchange.is_over else await self._admit(session, exchange, call)
                    if exchange.is_over or questions:
                        is_settled = True
                        break
            if not is_settled:
                limit = format_seconds(self._upstream.limit)
                raise MCPError(INTERNAL_ERROR, f"the upstream server did not answer within {limit}")
            if not exchange.is_over:
                return self._park(pooled, exchange, questions, call)
        finally:
            if not is_settled:
                await session.cancel(exchange)
                self._end(pooled)
        self._release(pooled)
        return to_modern_result(call.method, exchange.result(), session.info.get("serverInfo"))

    # ── Questions of the server ───────────────────────────────────────────────────────────────

    async def _admit(
        self, session: LegacySession, exchange: SessionExchange, call: UpstreamCall
    ) -> dict[str, JSONRPCRequest]:
        """Return the questions that the client can and may answer; refuse the others."""
        capabilities = read_envelope(call.params).capabilities
        parked = Counter(one.pooled.owner for one in self._parked.values())[call.owner]
        can_park = call.owner != NOBODY and call.method in INPUT_METHODS and parked < MAX_OWNER_PARKED
        admitted: dict[str, JSONRPCRequest] = {}
        for _ in range(MAX_QUESTIONS):  # more questions may arrive meanwhile, without end; they wait for the next round
            if not exchange.questions:
                break
            question = exchange.questions.pop(0)
            if not can_park or CLIENT_CAPABILITIES.get(question.method) not in capabilities:
                await session.refuse([question])
            elif (why := await call.refuse(question.method, question.params or {})) is not None:
                await session.deny(question, why)
            else:
                admitted[f"{question.method}/{len(admitted) + 1}"] = question
        return admitted

    def _park(
        self,
        pooled: PooledSession,
        exchange: SessionExchange,
        questions: dict[str, JSONRPCRequest],
        call: UpstreamCall,
    ) -> dict[str, Any]:
        """Keep the call, and return the result that asks its client."""
        token = secrets.token_urlsafe(32)
        digest = request_digest(call.owner, call.method, call.params)
        expires = anyio.current_time() + PARKED_SECONDS
        self._parked[token] = ParkedCall(pooled, exchange, digest, questions, expires)
        asked = {key: question_of(one.method, one.params or {}) for key, one in questions.items()}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": token}

    def _take(self, call: UpstreamCall) -> ParkedCall:
        """Return the parked call that a request continues; each state counts once. Raises MCPError."""
        state = call.params["requestState"]
        parked = self._parked.get(state) if isinstance(state, str) else None
        if parked is None or parked.digest != request_digest(call.owner, call.method, call.params):
            raise foreign_state()
        del self._parked[state]
        if parked.expires < anyio.current_time():
            self._end(parked.pooled)
            raise foreign_state()
        return parked

    async def _answer(self, parked: ParkedCall, answers: Mapping[str, Any]) -> bool:
        """Pass on the answers; return False if one is missing, so that the client is asked again."""
        if any(not isinstance(answers.get(key), dict) for key in parked.questions):
            return False
        for key, question in parked.questions.items():
            await parked.pooled.session.reply(question, answers[key])
        return True

    # ── Subscriptions ─────────────────────────────────────────────────────────────────────────

    async def _listen(self, call: UpstreamCall) -> dict[str, Any]:
        """Subscribe in a session of its own, until the client or the server ends it."""
        pooled = await self._lease(call)
        try:
            session, meta = pooled.session, {SUBSCRIPTION_ID_META_KEY: call.id}
            with self._within_limit():
                honored = await subscribe(session, call)
            await call.notify(ACKNOWLEDGED, {"notifications": honored, "_meta": meta})
            exchange = session.listen(call)
            while not exchange.is_over:
                await exchange.changed()
                while exchange.notifications:
                    method, params = exchange.notifications.popleft()
                    if wants(honored, method, params):
                        await call.notify(method, {**params, "_meta": {**read_meta(params), **meta}})
                await session.refuse(exchange.questions)
            return subscription_end(call.id)
        finally:
            self._end(pooled)

    # ── Sessions ──────────────────────────────────────────────────────────────────────────────

    async def _lease(self, call: UpstreamCall) -> PooledSession:
        """Return a session of the caller that no other request uses. Raises MCPError."""
        envelope = read_envelope(call.params)
        known = {name: envelope.capabilities[name] for name in CALLER_KEYS if name in envelope.capabilities}
        key = json.dumps(known, sort_keys=True)
        with anyio.move_on_after(self._upstream.limit) as waiting:
            while True:
                self._forget_ended()
                idle = next((one for one in self._open if self._fits(one, call.owner, key)), None)
                if idle is not None:
                    idle.is_busy = True
                    return idle
                if self._places.count(call.owner) >= self._places.share and not self._end_idle(call.owner):
                    await self._wait_freed(call.owner)
                elif await self._take_place(call.owner):
                    waiting.deadline = math.inf  # `initialize` has a limit of its own, and another error
                    return await self._begin(call.owner, Envelope("", envelope.client_info, known), key)
        raise busy_error(
            CALLER_BUSY,
            f"all {self._places.share} sessions of this caller with the upstream server are in use",
            "wait until a call has ended, or answer the calls that ask for input",
        )

    async def _take_place(self, owner: Owner) -> bool:
        """Take a place for a new session. Return False if a session was freed instead while the caller waited. Raises
        MCPError."""
        self._forget_ended()
        if self._places.take(owner) or (self._end_idle(None) and self._places.take(owner)):
            return True
        with anyio.move_on_after(min(self._seconds, self._upstream.limit / 2)), self._places.line(owner):
            await self._wait_freed(owner)
            return self._places.count(owner) < self._places.share and self._places.take(owner)
        most, callers = self._places.most, pluralize(self._places.owners, "caller")
        message = f"all {most} sessions with the upstream server are in use"
        event = {"event": "upstream_sessions_busy", "count": most}
        self._refusals.tell(logging.WARNING, "", f"a request was refused: {message}, by {callers}", **event)
        hint = "try again when calls of others have ended"
        raise busy_error(SESSIONS_BUSY, message, hint)

    async def _wait_freed(self, owner: Owner) -> None:
        event = self._freed.setdefault(owner, anyio.Event())
        try:
            await event.wait()
        finally:
            if self._freed.get(owner) is event and not event.statistics().tasks_waiting:
                del self._freed[owner]

    def _fits(self, pooled: PooledSession, owner: Owner, key: str) -> bool:
        return not pooled.is_busy and owner != NOBODY and pooled.owner == owner and pooled.key == key

    async def _begin(self, owner: Owner, envelope: Envelope, key: str) -> PooledSession:
        """Open a session in a place that was taken. Raises MCPError."""
        session = LegacySession(self._upstream, envelope.capabilities, envelope.client_info or GATEWAY_INFO)
        session.notice = self.notice
        pooled = PooledSession(session, owner, key)
        self._open.append(pooled)
        try:
            await self._group.start(session.serve)
            with self._within_limit():
                await session.initialize()
        except BaseException:
            self._end(pooled)
            raise
        return pooled

    @contextmanager
    def _within_limit(self) -> Iterator[None]:
        """Limit the time that the block waits for the server. Raises MCPError when the time is over."""
        try:
            with anyio.fail_after(self._upstream.limit):
                yield
        except TimeoutError:
            limit = format_seconds(self._upstream.limit)
            raise MCPError(INTERNAL_ERROR, f"the upstream server did not answer within {limit}") from None

    def _release(self, pooled: PooledSession) -> None:
        """Give a session back. Callers without a name cannot be distinguished, so their sessions end."""
        pooled.session.finish()
        is_wanted = self._places.is_wanted(pooled.owner, is_needed=pooled.owner in self._freed)
        if pooled.owner == NOBODY or pooled.session.is_over or is_wanted:
            self._end(pooled)
            return
        pooled.is_busy, pooled.used = False, anyio.current_time()
        self._wake(pooled.owner)

    def _end(self, pooled: PooledSession) -> None:
        pooled.session.close()
        if pooled in self._open:
            self._open.remove(pooled)
            self._places.give_back(pooled.owner)
        self._wake(pooled.owner)

    def _end_idle(self, owner: Owner | None) -> bool:
        """End the session that has been idle longest, of an owner or of all owners; return whether a session was
        idle."""
        idle = [one for one in self._open if not one.is_busy and owner in (None, one.owner)]
        if not idle:
            return False
        self._end(min(idle, key=lambda one: one.used))
        return True

    def _forget_ended(self) -> None:
        """Give back the places of sessions that the server has ended, even if a call in such a session is parked."""
        for pooled in list(self._open):
            if pooled.session.is_over:
                self._end(pooled)

    def _wake(self, owner: Owner) -> None:
        event = self._freed.pop(owner, None)
        if event is not None:
            event.set()

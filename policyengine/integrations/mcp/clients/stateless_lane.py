"""The direct way of usual modern calls between two pipes: no task waits for their answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.notifications import PROGRESS
from policyengine.integrations.mcp.relay.direct_calls import (
    COMPLETE,
    CallDecision,
    CallId,
    DirectPolicy,
    ToolCall,
    encode_result,
    read_call,
    usual_outcome,
)
from policyengine.integrations.mcp.relay.line_streams import LineWriter, encode_message
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.stream_upstream import SharedConnection

try:
    from mcp_types import LOG_LEVEL_META_KEY, JSONRPCError, JSONRPCNotification, JSONRPCResponse
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Answer: TypeAlias = JSONRPCResponse | JSONRPCError | None


class CancellableRequest(Protocol):
    """A request in progress."""

    def cancel(self) -> None: ...


class DirectClient(Protocol):
    """The stream of one modern client, which answers the calls that do not end with a usual result."""

    def admits_call(self, call: ToolCall) -> bool:
        """Return whether the client may make a call with this ID and this envelope."""
        ...

    def begin(self, sent: StreamCall) -> None:
        """Add a call to the requests in progress."""
        ...

    def leave(self, sent: StreamCall, *, answered: bool) -> None:
        """Remove a call from the requests in progress."""
        ...

    def resume(self, call: ToolCall, decided: CallDecision) -> None:
        """Answer a call that was decided and not sent."""
        ...

    def finish(self, sent: StreamCall, answer: Awaitable[dict[str, Any]]) -> CancellableRequest:
        """Answer a call with this answer in a task, and then forget the call."""
        ...


class StreamCall:
    """A call of one client that was sent to the shared server without a task. It ends once."""

    __slots__ = ("_connection", "_lane", "_sent_as", "began", "decided", "id", "is_over")

    def __init__(self, lane: StatelessLane, connection: SharedConnection, id: CallId, decided: CallDecision) -> None:
        self._lane, self._connection, self.id, self.decided = lane, connection, id, decided
        self.is_over = False
        self.began = perf_counter()
        self._sent_as = connection.register(self)
        connection.timer.start(self)

    @property
    def _call(self) -> UpstreamCall:
        return UpstreamCall("tools/call", self.decided.params, self.id)

    def send(self) -> None:
        """Send the call to the server."""
        params = self.decided.params
        if "progressToken" in params["_meta"]:
            params = self._call.upstream_params(self._sent_as)
        try:
            self._connection.send_call(self._sent_as, params)
        except (OSError, RuntimeError):
            self.end(None)

    def add(self, method: str, params: Mapping[str, Any]) -> None:
        """Send the client a notification of progress, if the client wants progress. A client that reads slowly loses
        some notifications."""
        translated = self._call.translate(self._sent_as, method, params) if method == PROGRESS else None
        if translated is not None and not self.is_over:
            self._lane.notify(method, translated)

    def take(self, result: dict[str, Any]) -> bool:
        """Accept a usual result. Return False if its client cannot get it without waiting."""
        if self.is_over or not self._lane.answer(self, result):
            return False
        self._close()
        return True

    def end(self, answer: Answer) -> None:
        """Accept the first answer; others are dropped. None means that the server has gone."""
        if self._close():
            self._lane.client.finish(self, self._connection.result_of(answer))

    def time_out(self) -> None:
        """End the call without an answer."""
        if self._close():
            self._lane.client.finish(self, self._connection.give_up(self._sent_as))

    def cancel(self) -> None:
        """End the call, because its client no longer waits."""
        if self._close():
            self._lane.client.finish(self, self._connection.give_up(self._sent_as)).cancel()

    def _close(self) -> bool:
        """Return whether this is the first end."""
        if self.is_over:
            return False
        self.is_over = True
        self._connection.timer.stop(self)
        return True

    def forget(self, *, answered: bool = False) -> None:
        """Free the IDs of the call."""
        self._connection.forget(self._sent_as)
        self._lane.client.leave(self, answered=answered)


class StatelessLane:
    """The direct calls of one client. `connection` returns the connection to the server that a call may use."""

    def __init__(
        self,
        policy: DirectPolicy,
        connection: Callable[[], SharedConnection | None],
        client: DirectClient,
        to_client: LineWriter,
    ) -> None:
        self._policy, self._connection, self.client, self._to_client = policy, connection, client, to_client

    def take_call(self, line: bytes) -> bool:
        """Decide a call and send it to the server. Return False for a line that must be read as a message: then nothing
        was decided.
        """
        connection = self._connection() if self._to_client.is_free else None
        call = None if connection is None else read_call(line)
        if connection is None or call is None or not self.client.admits_call(call) or asks_for_logs(call.params):
            return False
        decided = self._policy.decide_directly(call.params, call.size)
        if decided is None:
            return False
        if decided.is_final:
            sent = StreamCall(self, connection, call.id, decided)
            self.client.begin(sent)
            sent.send()
        else:
            self.client.resume(call, decided)
        return True

    def answer(self, sent: StreamCall, result: dict[str, Any]) -> bool:
        """Send the client a usual result. Return False if this is not possible without waiting."""
        written = encode_result(sent.id, {"resultType": COMPLETE, **result}) if self._to_client.is_free else None
        if written is None or not self._report(sent, *usual_outcome(result)):
            return False
        sent.forget(answered=True)
        with suppress(OSError, RuntimeError):  # the client has left
            self._to_client.write(written)
        return True

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send the client a notification that every policy allows, if this is possible without waiting."""
        message = JSONRPCNotification(jsonrpc="2.0", method=method, params=dict(params))
        if self._to_client.is_free:
            with suppress(OSError, RuntimeError):
                self._to_client.write(encode_message(message))

    def _report(self, sent: StreamCall, status: int, output: Facts | None) -> bool:
        return self._policy.report_directly(sent.decided, status, sent.began, output)


def asks_for_logs(params: Mapping[str, Any]) -> bool:
    """Return whether the server may send log messages about a call, which are decided."""
    return LOG_LEVEL_META_KEY in params.get("_meta", {})

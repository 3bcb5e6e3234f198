"""The direct way of usual tool calls through a relay with pipes on both sides: no task waits for their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import has_envelope
from policyengine.integrations.mcp.relay.direct_calls import (
    CallDecision,
    CallTimer,
    DirectPolicy,
    ToolCall,
    encode_call,
    encode_result,
    read_call,
    read_usual_answer,
    usual_outcome,
)
from policyengine.integrations.mcp.relay.line_streams import LineWriter
from policyengine.integrations.mcp.relay.request_tasks import RequestStart
from policyengine.integrations.mcp.relay.requests import RequestDroppedError, RequestTable
from policyengine.integrations.mcp.tasks import progress_token
from policyengine.integrations.mcp.upstream.messages import UpstreamMessages

try:
    from mcp_types import JSONRPCError, JSONRPCResponse
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Answer: TypeAlias = JSONRPCResponse | JSONRPCError | RequestDroppedError | None
Finish: TypeAlias = Callable[["RelayedCall", Answer, bool], None]
Resume: TypeAlias = Callable[[ToolCall, CallDecision], RequestStart]


class DirectPort(Protocol):
    """The way to the upstream server; `writer` is None until lines may be written to it."""

    @property
    def writer(self) -> LineWriter | None: ...


class RelayedCall:
    """A call that was sent upstream without a task. It ends once."""

    __slots__ = ("_lane", "began", "decided", "id", "is_over")

    def __init__(self, lane: RelayLane, id: int | str, decided: CallDecision) -> None:
        self._lane, self.id, self.decided, self.is_over = lane, id, decided, False
        self.began = perf_counter()

    @property
    def token(self) -> object:
        return progress_token(self.decided.params)

    def end(self, answer: Answer) -> None:
        """End the call with its first answer; later answers are dropped. None means that the connection to the upstream
        server is closed."""
        if self.close():
            self._lane.end(self, answer)

    def time_out(self) -> None:
        """End the call without an answer."""
        if not self.is_over:
            self.is_over = True
            self._lane.finish(self, None, False)

    def forget(self) -> None:
        """Free the ID of the call."""
        self._lane.forget(self)

    def close(self) -> bool:
        """Return whether this is the first end."""
        if self.is_over:
            return False
        self.is_over = True
        self._lane.timer.stop(self)
        return True


class RelayLane:
    """The direct calls of one session.

    `resume` starts a task that answers a call that was decided, but not sent. `finish` answers a call if the answer of
    the server is unusual, or does not arrive in time.
    """

    def __init__(
        self,
        policy: DirectPolicy,
        messages: UpstreamMessages,
        requests: RequestTable,
        to_client: LineWriter,
        port: DirectPort,
        limit: float,
        *,
        resume: Resume,
        finish: Finish,
    ) -> None:
        self._policy, self._messages, self._requests = policy, messages, requests
        self._to_client, self._port, self.timer = to_client, port, CallTimer(limit)
        self._resume, self.finish = resume, finish
        self._start: RequestStart | None = None
        self._is_closed = False

    def take_call(self, line: bytes) -> bool:
        """Decide a call and send it upstream. Return False for a line that must be read as a message: then nothing was
        decided.
        """
        if self._is_closed or (self._start is not None and not self._start.is_over):
            return False
        writer = self._port.writer
        if writer is None or not writer.is_free or not self._to_client.is_free:
            return False
        call = read_call(line)
        if call is None or has_envelope(call.params) or not self._requests.is_free(call.id):
            return False
        decided = self._policy.decide_directly(call.params, call.size)
        if decided is None:
            return False
        if decided.is_final:
            self._send(call, decided, writer)
        else:
            self._start = self._resume(call, decided)
        return True

    async def wait(self) -> None:
        """Wait until the last call that was decided directly is sent, answered or waits for an approval."""
        if self._start is not None:
            await self._start.wait()
            self._start = None

    def _send(self, call: ToolCall, decided: CallDecision, writer: LineWriter) -> None:
        sent = self._requests.waiting[call.id] = RelayedCall(self, call.id, decided)
        self._messages.begin(call.id, "tools/call", call.params, decided.facts)
        self.timer.start(sent)
        try:
            writer.write(encode_call(call.id, call.params))
        except (OSError, RuntimeError):
            sent.end(None)

    def take_answer(self, line: bytes) -> bool:
        """Pass on the answer to a direct call. Return False for a line that must be read as a message."""
        if self.timer.is_idle or not self._to_client.is_free:
            return False
        answer = read_usual_answer(line)
        sent = None if answer is None else self._requests.waiting.get(answer[0])
        if answer is None or type(sent) is not RelayedCall or sent.is_over:
            return False
        written = encode_result(sent.id, answer[1])
        if written is None or not self._report(sent, *usual_outcome(answer[1])):
            return False
        sent.close()
        self.forget(sent)
        try:  # noqa: SIM105  # a context manager takes longer
            self._to_client.write(written)
        except (OSError, RuntimeError):
            pass  # the client has left; its session ends
        return True

    def _report(self, sent: RelayedCall, status: int, output: Mapping[str, Any] | None = None) -> bool:
        return self._policy.report_directly(sent.decided, status, sent.began, output)

    def end(self, sent: RelayedCall, answer: Answer) -> None:
        """End a call whose answer came as a message, or whose client no longer wants an answer."""
        if isinstance(answer, RequestDroppedError) and self._report(sent, 500):
            self.forget(sent)
        else:
            self.finish(sent, answer, True)

    def forget(self, sent: RelayedCall) -> None:
        """Free the ID of a call that has ended."""
        del self._requests.waiting[sent.id]
        self._messages.finish(sent.id)

    def close(self) -> None:
        """Report the calls that have no answer, and take no others: the session has ended."""
        self._is_closed = True
        for sent in [one for one in self._requests.waiting.values() if isinstance(one, RelayedCall)]:
            if sent.close():
                self.end(sent, RequestDroppedError())
        self.timer.close()

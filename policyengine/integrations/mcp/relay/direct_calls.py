"""Tool calls that are decided and passed on where their lines arrive, without a task for each: the usual calls over
pipes. Every other call, and every message that is not certainly a usual one, takes the way through tasks. Nothing here
depends on an SDK.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from msgspec import DecodeError
from msgspec.json import decode, encode

from policyengine.integrations.enforcement_point import (
    DECISION_FAILED,
    Facts,
    FixedCaller,
    PolicyDecisionPoint,
    make_denial,
    report_directly,
    with_options,
)
from policyengine.integrations.mcp.methods import build_mcp_question, get_arguments, refuse_alias
from policyengine.integrations.mcp.pinned_tools import PinnedSession, with_tool_facts
from policyengine.integrations.mcp.plain_messages import read_plain_message
from policyengine.integrations.mcp.upstream.imitations import has_own_meta
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import Request
from policyengine.runtime.request_template import RequestTemplate
from policyengine.tool_pins.listed_tools import ListedTool

CallId: TypeAlias = int | str
MAX_DIRECT_LINE = 1 << 16  # bytes of a call
MAX_USUAL_PARTS = 200  # arrays and objects in a usual line; parsers differ in the depth that they accept
REQUEST_MEMBERS = frozenset({"jsonrpc", "id", "method", "params"})
RESPONSE_MEMBERS = frozenset({"jsonrpc", "id", "result"})
CALL_METHOD = b'"tools/call"'
# Other members continue an earlier round, or ask for a task.
CALL_PARAMS = frozenset({"name", "arguments", "_meta"})
RESULT_MEMBERS = frozenset({"content", "structuredContent", "isError", "_meta", "resultType"})
COMPLETE = "complete"
_LOG = logging.getLogger("policyengine")
MAX_TEMPLATES, MAX_TEMPLATE_NAME = 1_000, 256  # tools, and characters of their names
QUESTION_BYTES = 200  # of a question beside its caller and its arguments


class CallDecision:
    """A decided call: its checked parameters, the facts about its caller, the question, and the decision."""

    __slots__ = ("_ask", "decision", "facts", "params")

    def __init__(
        self, params: Mapping[str, Any], facts: Facts, ask: Callable[[], dict[str, object]], decision: Decision
    ) -> None:
        self.params, self.facts, self._ask, self.decision = params, facts, ask, decision

    @property
    def question(self) -> dict[str, object]:
        """The question, which few calls need after their decision."""
        return self._ask()

    @property
    def is_final(self) -> bool:
        """Whether the call may be sent at once."""
        answer = self.decision.answer
        return answer.outcome is Outcome.ALLOW and (answer.would_be is None or answer.would_be is Outcome.ALLOW)


class TimedCall(Protocol):
    """A call that waits for its answer for a limited time."""

    def time_out(self) -> None: ...


class DirectPolicy(Protocol):
    """The policy of a client whose calls may be decided directly."""

    def decide_directly(self, params: dict[str, Any], size: int) -> CallDecision | None: ...

    def report_directly(
        self, decided: CallDecision, status: int, began: float, output: Facts | None = None
    ) -> bool: ...


class ToolCall(NamedTuple):
    """The line of a usual call, which all parsers read in the same way."""

    id: CallId
    params: dict[str, Any]
    size: int


def read_call(line: bytes) -> ToolCall | None:
    """Return the call in a line; None if it is another message, or not certainly a usual call."""
    if len(line) > MAX_DIRECT_LINE or CALL_METHOD not in line:  # most other lines need no parse here
        return None
    message = read_plain_message(line)
    if message is None or message.keys() != REQUEST_MEMBERS:
        return None
    id, params = message["id"], message["params"]
    if (
        message["method"] != "tools/call"
        or message["jsonrpc"] != "2.0"
        or (type(id) is not int and type(id) is not str)
    ):
        return None
    if type(params) is not dict or not params.keys() <= CALL_PARAMS or type(params.get("name")) is not str:
        return None
    return ToolCall(id, params, len(line))


def read_usual_answer(line: bytes) -> tuple[CallId, dict[str, Any]] | None:
    """Return the ID and the result in a line with a usual result of a call; None for every other line."""
    if line.count(b"[") + line.count(b"{") > MAX_USUAL_PARTS:
        return None
    try:
        message = decode(line)
    except (DecodeError, RecursionError, UnicodeError):
        return None
    if type(message) is not dict or message.keys() != RESPONSE_MEMBERS or message["jsonrpc"] != "2.0":
        return None
    id, result = message["id"], message["result"]
    if (type(id) is not int and type(id) is not str) or type(result) is not dict:
        return None
    return (id, result) if is_usual_result(result) else None


def is_usual_result(result: Mapping[str, Any]) -> bool:
    """Return whether a result ends its call: it neither asks the client for input nor names a task, nor imitates the
    gateway.
    """
    is_complete = result.keys() <= RESULT_MEMBERS and result.get("resultType", COMPLETE) == COMPLETE
    return is_complete and ("_meta" not in result or not has_own_meta(result["_meta"]))


def usual_outcome(result: Mapping[str, Any]) -> tuple[int, Facts | None]:
    """Return the status and the output of a call with a usual result."""
    structured = result.get("structuredContent")
    return 500 if result.get("isError") is True else 200, structured if isinstance(structured, dict) else None


def encode_call(id: CallId, params: Mapping[str, Any]) -> bytes:
    return encode({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})


def encode_result(id: CallId, result: Mapping[str, Any]) -> bytes | None:
    """Return the line of a result; None if only the SDK can encode it."""
    try:
        return encode({"jsonrpc": "2.0", "id": id, "result": result})
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class CallTimer:
    """Ends the calls that are not answered within `limit` seconds, with one timer for all of them."""

    def __init__(self, limit: float) -> None:
        self._limit, self._loop = limit, asyncio.get_running_loop()
        self._ends: dict[TimedCall, float] = {}  # the first call ends first
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call waits for its answer."""
        return not self._ends

    def start(self, call: TimedCall) -> None:
        ends = self._ends[call] = self._loop.time() + self._limit
        if self._timer is None:
            self._timer = self._loop.call_at(ends, self._end_late)

    def stop(self, call: TimedCall) -> None:
        self._ends.pop(call, None)

    def close(self) -> None:
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _end_late(self) -> None:
        self._timer, now = None, self._loop.time()
        while self._ends:
            call, ends = next(iter(self._ends.items()))
            if ends > now:
                self._timer = self._loop.call_at(ends, self._end_late)
                return
            del self._ends[call]
            call.time_out()


class DirectDecider:
    """Decides the calls of a server whose caller never changes, and reports their outcomes, without waiting."""

    def __init__(
        self, decides: PolicyDecisionPoint, server: str, caller: FixedCaller, pinned: PinnedSession | None = None
    ) -> None:
        self._decides, self._server, self._caller, self._pinned = decides, server, caller, pinned
        self._decide = getattr(decides, "decide_directly", None)
        self._templates: dict[str, tuple[ListedTool | None, RequestTemplate | None]] = {}
        self._size = 0

    def facts(self) -> Facts | None:
        """Return the facts about the caller; None if its calls cannot be decided directly."""
        if self._decide is None:
            return None
        try:
            facts = self._caller(None)
        except Exception:
            return None
        if not self._size and facts is not None:
            self._size = QUESTION_BYTES + len(repr(facts))
        return facts

    def decide(self, params: dict[str, Any], size: int) -> CallDecision | None:
        """Decide a call, whose message has `size` bytes. Return None if the decision may wait or take long, or is not
        the usual one: then nothing was decided."""
        try:
            prepared = self._prepare(params)
        except Exception:  # the line has not been handled: the way through tasks denies it, and says why
            _LOG.debug("a call could not be decided directly", exc_info=True)
            return None
        if prepared is None or self._decide is None:
            return None
        facts, question, request = prepared
        try:
            decision = self._decide(request, size + self._size)
        except Exception:
            _LOG.exception("a decision failed and was denied")
            decision = make_denial(DECISION_FAILED)
        return None if decision is None else CallDecision(params, facts, question, decision)

    def _prepare(
        self, params: dict[str, Any]
    ) -> tuple[Facts, Callable[[], dict[str, object]], dict[str, object] | Request] | None:
        """Return the facts about the caller, the question, and what is decided; None if the call is not a usual one."""
        facts, name = self.facts(), params["name"]
        if facts is None or refuse_alias("tools/call", params) is not None:
            return None
        tool = None if self._pinned is None else self._pinned.find_listed(name)
        if tool is None and self._pinned is not None:
            return None
        request = self._fill_template(name, tool, facts, get_arguments(params))
        question = partial(self._question, params, tool, facts)
        return facts, question, with_options(question()) if request is None else request

    def _question(self, params: Mapping[str, Any], tool: ListedTool | None, facts: Facts) -> dict[str, object]:
        return with_tool_facts(build_mcp_question("tools/call", params, self._server, facts), tool)

    def _fill_template(self, name: str, tool: ListedTool | None, facts: Facts, arguments: object) -> Request | None:
        """Return the request of a call, if it can be made from what earlier calls of the tool had in common."""
        known = self._templates.get(name)
        if known is None or known[0] != tool:
            known = tool, RequestTemplate.of(with_options(self._question({"name": name}, tool, facts)))
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            if len(name) <= MAX_TEMPLATE_NAME:
                self._templates[name] = known
        return None if known[1] is None else known[1].fill(arguments)

    def report(self, decided: CallDecision, status: int, began: float, output: Facts | None = None) -> bool:
        """Report the outcome of a call. Return False if the report may wait; then nothing was reported."""
        return report_directly(self._decides, decided.decision, status, began, output)

"""The HTTP API for Python, sync and async. The clients return every failure as a deny, and never raise it.

    with PolicyClient("http://127.0.0.1:8080", token="…") as policies:
        if policies.decide(question).allowed: …

The module requires `httpx`, but no other module of the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import Self

import anyio

from policyengine.client.approval_polls import (
    HeldQueries,
    PollPause,
    PollStep,
    StatusQuery,
    poll_states,
    with_approval_request,
)
from policyengine.client.http_exchange import (
    GATEWAY_ERRORS,
    NOT_SENT_ERRORS,
    TIMEOUT,
    ClientBase,
    QuestionMapping,
    WireRequest,
    WireResponse,
    build_event,
    check_size,
    chunks,
    failure_denial,
    parse_decision,
    parse_decisions,
    to_no_decision_error,
    with_consume,
)
from policyengine.install_hints import install_command
from policyengine.runtime.approval_tickets import can_be_lifted, find_tickets, is_approved, with_ticket_states
from policyengine.runtime.decision import Decision

try:
    import httpx
except ImportError as error:
    raise ImportError(f"httpx is not installed; {install_command('httpx')}") from error

_LOG = logging.getLogger("policyengine")


class PolicyClient(ClientBase):
    """A client of `policyengine serve` at `url`. Threads may share a client; `close` it, or use it in a `with` block.

    It makes at most two attempts, each limited to `timeout` seconds. A spending request is repeated only with an
    idempotency key, which needs a `token`, or if the first attempt cannot have arrived. After three consecutive
    failures, requests to the server are suspended for a moment.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, token=token, timeout=timeout, clock=clock)
        self._http, self._held = httpx.Client(transport=transport, **self._settings), HeldQueries()

    def decide(self, question: QuestionMapping, *, wait_for_approval: float = 0.0) -> Decision:
        """Decide and spend. Without an answer, return a deny at gate `failure`.

        With `wait_for_approval`, a confirm opens an approval, and the call waits for it, for at most this number of
        seconds. After the approval, the question is decided once more. Otherwise return the confirm; the approval in
        its remedies has the state `denied`, `expired` or `withdrawn`, or `pending` if the time is over.
        """
        if not wait_for_approval > 0:
            return self._decide(question)
        question = with_approval_request(question)
        waited = self.await_approval(self._decide(question), wait_for_approval)
        return self._decide(question) if is_approved(waited) else waited

    def await_approval(self, decision: Decision, seconds: float) -> Decision:
        """Wait for the answers of people to a confirm, for at most `seconds`. Return the confirm with the states of its
        approvals; other decisions are returned as they are. A server that does not answer is asked again a few times.
        """
        if not can_be_lifted(decision):
            return decision
        polls, answer = poll_states(find_tickets(decision), seconds, monotonic), None
        try:
            while True:
                answer = self._take_step(polls.send(answer))
        except StopIteration as end:
            return with_ticket_states(decision, end.value)

    def _take_step(self, step: PollStep) -> WireResponse | None:
        """Do one step of waiting; return the answer to a query, if there is one."""
        if isinstance(step, PollPause):
            sleep(step.seconds)
            return None
        try:
            with self._held.hold(step) as query:
                return self._ask_state(query)
        except Exception:
            return None

    def _ask_state(self, query: StatusQuery) -> WireResponse:
        request = self._http.build_request("GET", query.path, timeout=poll_timeout(query, self.timeout))
        request.headers.pop("authorization", None)  # the id is all that the server needs
        deadline = monotonic() + query.seconds + 2 * self.timeout
        answer, content = self._http.send(request, stream=True), bytearray()
        try:
            for piece in answer.iter_bytes():
                content += piece
                check_size(content)
                if monotonic() > deadline:
                    raise TimeoutError
        finally:
            answer.close()
        return WireResponse(answer.status_code, answer.headers.get("content-type", ""), bytes(content))

    def _decide(self, question: QuestionMapping) -> Decision:
        try:
            return parse_decision(self._ask(self.question("/decide", question, spends=True)))
        except Exception as error:
            return failure_denial(error)

    def evaluate(self, question: QuestionMapping) -> Decision:
        """Decide and spend nothing. Without an answer, return a deny at gate `failure`."""
        try:
            return parse_decision(self._ask(self.question("/evaluate", question, spends=False)))
        except Exception as error:
            return failure_denial(error)

    def decide_many(self, questions: Sequence[QuestionMapping]) -> list[Decision]:
        """Decide each question and spend, in order. Questions without an answer are denied."""
        return [decision for chunk in chunks(questions) for decision in self._decide_chunk(chunk)]

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: QuestionMapping | None = None,
        refund: bool = False,
        size: int | None = None,
        usage: QuestionMapping | None = None,
    ) -> bool:
        """Report the outcome of a request. Return False if the server expects no report or does not answer."""
        try:
            event = build_event(decision, status, latency_ms, output, refund, size, usage)
            return self._ask(self.question("/events", event, spends=False)).status == 200
        except Exception as error:
            _LOG.warning("reporting an outcome failed: %s", error)
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _decide_chunk(self, questions: Sequence[QuestionMapping]) -> list[Decision]:
        try:
            asked = {"requests": [with_consume(one) for one in questions]}
            return parse_decisions(self._ask(self.question("/decide/batch", asked, spends=True)), len(questions))
        except Exception as error:
            return [failure_denial(error) for _ in questions]

    def _ask(self, sent: WireRequest) -> WireResponse:
        self.circuit.enter()
        try:
            answer = self._send_with_retry(sent)
        except Exception as error:
            self.circuit.leave(well=False)
            raise to_no_decision_error(error, self.timeout) from None
        self.circuit.leave(well=answer.status < 500)
        return answer

    def _send_with_retry(self, sent: WireRequest) -> WireResponse:
        """Send a request, and repeat it once after a failure."""
        try:
            answer = self._send_once(sent)
        except (httpx.HTTPError, TimeoutError) as error:
            if not sent.again and not isinstance(error, NOT_SENT_ERRORS):
                raise
        else:
            if not sent.again or answer.status not in GATEWAY_ERRORS:
                return answer
        return self._send_once(sent)

    def _send_once(self, sent: WireRequest) -> WireResponse:
        """Send a request once. Raises httpx.HTTPError, TimeoutError if the whole answer does not arrive in time, and
        NoDecisionError if it is too large.
        """
        deadline = monotonic() + self.timeout
        content = bytearray()
        with self._http.stream("POST", sent.path, content=sent.content, headers=sent.headers) as answer:
            for piece in answer.iter_bytes():
                content += piece
                check_size(content)
                if monotonic() > deadline:
                    raise TimeoutError
            return WireResponse(answer.status_code, answer.headers.get("content-type", ""), bytes(content))


class AsyncPolicyClient(ClientBase):
    """`PolicyClient` with `async` methods. Integrations accept it in place of an Engine."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, token=token, timeout=timeout, clock=clock)
        self._http, self._held = httpx.AsyncClient(transport=transport, **self._settings), HeldQueries()

    async def decide(self, question: QuestionMapping, *, wait_for_approval: float = 0.0) -> Decision:
        """Decide and spend as `PolicyClient.decide` does."""
        if not wait_for_approval > 0:
            return await self._decide(question)
        question = with_approval_request(question)
        waited = await self.await_approval(await self._decide(question), wait_for_approval)
        return await self._decide(question) if is_approved(waited) else waited

    async def await_approval(self, decision: Decision, seconds: float) -> Decision:
        """Wait for the answers of people as `PolicyClient.await_approval` does. A cancelled call leaves the approval as
        it is.
        """
        if not can_be_lifted(decision):
            return decision
        polls, answer = poll_states(find_tickets(decision), seconds, monotonic), None
        try:
            while True:
                answer = await self._take_step(polls.send(answer))
        except StopIteration as end:
            return with_ticket_states(decision, end.value)

    async def _take_step(self, step: PollStep) -> WireResponse | None:
        """Do one step of waiting; return the answer to a query, if there is one."""
        if isinstance(step, PollPause):
            await anyio.sleep(step.seconds)
            return None
        try:
            with self._held.hold(step) as query, anyio.fail_after(query.seconds + 2 * self.timeout):
                return await self._ask_state(query)
        except Exception:
            return None

    async def _ask_state(self, query: StatusQuery) -> WireResponse:
        request = self._http.build_request("GET", query.path, timeout=poll_timeout(query, self.timeout))
        request.headers.pop("authorization", None)  # the id is all that the server needs
        answer, content = await self._http.send(request, stream=True), bytearray()
        try:
            async for piece in answer.aiter_bytes():
                content += piece
                check_size(content)
        finally:
            await answer.aclose()
        return WireResponse(answer.status_code, answer.headers.get("content-type", ""), bytes(content))

    async def _decide(self, question: QuestionMapping) -> Decision:
        try:
            return parse_decision(await self._ask(self.question("/decide", question, spends=True)))
        except Exception as error:
            return failure_denial(error)

    async def evaluate(self, question: QuestionMapping) -> Decision:
        """Decide and spend nothing. Without an answer, return a deny at gate `failure`."""
        try:
            return parse_decision(await self._ask(self.question("/evaluate", question, spends=False)))
        except Exception as error:
            return failure_denial(error)

    async def decide_many(self, questions: Sequence[QuestionMapping]) -> list[Decision]:
        """Decide each question and spend, in order. Questions without an answer are denied."""
        return [decision for chunk in chunks(questions) for decision in await self._decide_chunk(chunk)]

    async def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: QuestionMapping | None = None,
        refund: bool = False,
        size: int | None = None,
        usage: QuestionMapping | None = None,
    ) -> bool:
        """Report the outcome of a request. Return False if the server expects no report or does not answer."""
        try:
            event = build_event(decision, status, latency_ms, output, refund, size, usage)
            return (await self._ask(self.question("/events", event, spends=False))).status == 200
        except Exception as error:
            _LOG.warning("reporting an outcome failed: %s", error)
            return False

    # The same names as the async methods of an Engine.
    decide_async, evaluate_async, report_async = decide, evaluate, report

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _decide_chunk(self, questions: Sequence[QuestionMapping]) -> list[Decision]:
        try:
            asked = {"requests": [with_consume(one) for one in questions]}
            return parse_decisions(await self._ask(self.question("/decide/batch", asked, spends=True)), len(questions))
        except Exception as error:
            return [failure_denial(error) for _ in questions]

    async def _ask(self, sent: WireRequest) -> WireResponse:
        self.circuit.enter()
        try:
            answer = await self._send_with_retry(sent)
        except Exception as error:
            self.circuit.leave(well=False)
            raise to_no_decision_error(error, self.timeout) from None
        self.circuit.leave(well=answer.status < 500)
        return answer

    async def _send_with_retry(self, sent: WireRequest) -> WireResponse:
        """Send a request, and repeat it once after a failure."""
        try:
            answer = await self._send_once(sent)
        except (httpx.HTTPError, TimeoutError) as error:
            if not sent.again and not isinstance(error, NOT_SENT_ERRORS):
                raise
        else:
            if not sent.again or answer.status not in GATEWAY_ERRORS:
                return answer
        return await self._send_once(sent)

    async def _send_once(self, sent: WireRequest) -> WireResponse:
        content = bytearray()
        with anyio.fail_after(self.timeout):
            async with self._http.stream("POST", sent.path, content=sent.content, headers=sent.headers) as answer:
                async for piece in answer.aiter_bytes():
                    content += piece
                    check_size(content)
                return WireResponse(answer.status_code, answer.headers.get("content-type", ""), bytes(content))


def poll_timeout(query: StatusQuery, timeout: float) -> httpx.Timeout:
    """Return the timeouts of a query that the server holds back: only the answer may take longer than other answers."""
    return httpx.Timeout(timeout, read=query.seconds + timeout)

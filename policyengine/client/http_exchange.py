"""The requests and answers of the HTTP clients, without the network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, time_ns
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

import msgspec

from policyengine.circuit_breaker import CircuitBreaker
from policyengine.client.socket import encode_question
from policyengine.control_characters import one_line
from policyengine.install_hints import install_command
from policyengine.runtime.decision import (
    Decision,
    Gate,
    Obligation,
    Outcome,
    Principal,
    RateState,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.runtime.decode import NO_VALUE_EXTENSION
from policyengine.runtime.ids import serials, ulid
from policyengine.runtime.values import Invalid

try:
    import httpx
except ImportError as error:
    raise ImportError(f"httpx is not installed; {install_command('httpx')}") from error

QuestionMapping: TypeAlias = Mapping[str, object]

TIMEOUT = 0.25  # seconds for each of two attempts
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_BATCH_ITEMS = 1_000
MSGPACK = "application/msgpack"
GATEWAY_ERRORS = (502, 503, 504)
# Errors before the question can have arrived.
NOT_SENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_LOG = logging.getLogger("policyengine")


class WireDecision(msgspec.Struct, frozen=True):
    """A decision as the server sends it."""

    outcome: Outcome
    allowed: bool
    id: str
    revision: str
    package: str
    gate: Gate | None
    reasons: tuple[Reason, ...]
    remedies: tuple[Remedy, ...]
    principal: Principal
    rates: tuple[RateState, ...]
    obligations: tuple[Obligation, ...]
    unknown: tuple[UnknownFact, ...]
    would_be: Outcome | None = None

    def __post_init__(self) -> None:
        if self.allowed is not (self.outcome is Outcome.ALLOW):
            raise ValueError("`allowed` and `outcome` contradict each other")

    @property
    def decision(self) -> Decision:
        return Decision.of(
            self.outcome,
            self.gate,
            self.reasons,
            remedies=self.remedies,
            obligations=self.obligations,
            rates=self.rates,
            unknown=self.unknown,
            principal=self.principal,
            package=self.package,
            revision=self.revision,
            id=self.id,
            would_be=self.would_be,
        )


class WireDecisions(msgspec.Struct, frozen=True):
    decisions: list[WireDecision]


class ProblemDetails(msgspec.Struct, frozen=True):
    detail: str = ""
    hint: str | None = None


class WireRequest(NamedTuple):
    """A request, which is the same in each attempt. `again` means that it may be repeated after any kind of failure."""

    path: str
    content: bytes
    headers: Mapping[str, str]
    again: bool


class WireResponse(NamedTuple):
    status: int
    media_type: str
    content: bytes


class NoDecisionError(Exception):
    """The error for a request without a decision; the message says why."""


def to_encodable(value: object) -> object:
    """Encode invalid values in the form that servers decode again."""
    match value:
        case Mapping():
            return {name: to_encodable(one) for name, one in value.items()}
        case list() | tuple():
            return [to_encodable(one) for one in value]
        case Invalid(why, digest):
            return msgspec.msgpack.Ext(NO_VALUE_EXTENSION, f"{why}\0{digest or ''}".encode())
        case _:
            return value


_decode_decision = msgspec.msgpack.Decoder(WireDecision).decode
_decode_decisions = msgspec.msgpack.Decoder(WireDecisions).decode
_decode_problem = msgspec.msgpack.Decoder(ProblemDetails).decode


class ClientCircuit:
    """The circuit breaker of a server. While it is open, one caller per pause may send a request; all others are
    refused."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._breaker = CircuitBreaker(clock)

    def enter(self) -> None:
        """Permit a request. Raises NoDecisionError immediately while the circuit is open."""
        if not self._breaker.admit():
            raise NoDecisionError("the server failed repeatedly, and requests to it are suspended")

    def leave(self, *, well: bool) -> None:
        if not well and self._breaker.fail():
            _LOG.error("the decision server does not answer: all requests are denied until it does")
        elif well and self._breaker.succeed():
            _LOG.warning("the decision server answers again")


class ClientBase:
    """The parts that both clients share: building requests and reading answers."""

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = TIMEOUT, clock: Callable[[], float] = monotonic
    ) -> None:
        """Parse the URL of the server. Raises ValueError for a URL that names no server."""
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"`{one_line(url)}` is not the URL of a server: write `http://HOST:PORT`")
        self.timeout = timeout
        self.circuit = ClientCircuit(clock)
        self._token = token
        shown = {} if token is None else {"authorization": f"Bearer {token}"}
        # No proxy settings from the environment, and no redirects.
        self._settings: dict[str, Any] = {
            "base_url": url, "timeout": timeout, "trust_env": False, "follow_redirects": False,
            "headers": {**shown, "content-type": MSGPACK, "accept": MSGPACK},
        }  # fmt: skip

    def question(self, path: str, asked: object, *, spends: bool) -> WireRequest:
        """Build a request. An idempotency key belongs to the caller, which only a token identifies. Without a token, a
        spending request is repeated only if its first attempt cannot have arrived. Raises NoDecisionError.
        """
        keyed = spends and self._token is not None
        headers = {"idempotency-key": str(uuid4())} if keyed else {}
        try:
            return WireRequest(path, encode_question(to_encodable(asked)), headers, again=keyed or not spends)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise NoDecisionError(f"the question cannot be encoded: {error}") from None


def response_content(answer: WireResponse) -> bytes:
    """Return the content of an answer with status 200 in MessagePack. Raises NoDecisionError."""
    if answer.status != 200:
        raise NoDecisionError(describe_error(answer))
    if answer.media_type.partition(";")[0].strip() != MSGPACK:
        raise NoDecisionError("the answer is not from a decision API")
    return answer.content


def describe_error(answer: WireResponse) -> str:
    try:
        problem = _decode_problem(answer.content)
    except (msgspec.MsgspecError, ValueError):
        return f"the server answered with status {answer.status}"
    return f"{problem.detail} ({problem.hint})" if problem.hint else problem.detail or f"status {answer.status}"


def parse_decision(answer: WireResponse) -> Decision:
    try:
        return _decode_decision(response_content(answer)).decision
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoDecisionError(f"the answer cannot be read: {error}") from None


def parse_decisions(answer: WireResponse, wanted: int) -> list[Decision]:
    try:
        found = [one.decision for one in _decode_decisions(response_content(answer)).decisions]
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoDecisionError(f"the answer cannot be read: {error}") from None
    if len(found) != wanted:
        raise NoDecisionError("the numbers of answers and questions differ")
    return found


def failure_denial(error: Exception) -> Decision:
    """Return the deny for a failed request."""
    if not isinstance(error, NoDecisionError):
        _LOG.error("the request for a decision failed and is denied", exc_info=error)
    why = str(error) if isinstance(error, NoDecisionError) else "the request failed"
    reason = Reason(Gate.FAILURE, f"no decision: {why}")
    return Decision.of(Outcome.DENY, Gate.FAILURE, (reason,), id=ulid(time_ns(), next(serials)))


def with_consume(question: QuestionMapping) -> QuestionMapping:
    """Return the question with `consume` set, because an item of a batch does not spend without it."""
    options = question.get("options")
    given = options if isinstance(options, Mapping) else {}
    return {**question, "options": {"consume": True, **given}}


def chunks(questions: Sequence[QuestionMapping]) -> Iterator[Sequence[QuestionMapping]]:
    return (questions[at : at + MAX_BATCH_ITEMS] for at in range(0, len(questions), MAX_BATCH_ITEMS))


def build_event(
    decision: str,
    status: int | None,
    latency_ms: float | None,
    output: object,
    refund: bool,
    size: int | None,
    usage: object,
) -> object:
    told = {
        "decision": decision, "status": status, "latency_ms": latency_ms, "size": size, "output": output,
        "usage": usage,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None} | ({"refund": True} if refund else {})


def to_no_decision_error(error: Exception, timeout: float) -> NoDecisionError:
    match error:
        case NoDecisionError():
            return error
        case httpx.TimeoutException() | TimeoutError():
            return NoDecisionError(f"no answer within {timeout * 1_000:g} ms")
        case _:
            return NoDecisionError(f"the server cannot be reached: {str(error) or type(error).__name__}")


def check_size(content: bytearray) -> None:
    if len(content) > MAX_ANSWER_BYTES:
        raise NoDecisionError("the answer is larger than 16 MiB")

"""Decides questions and returns answers as plain data, for a single question or for the items of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from threading import Event
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.engine.decider import WouldBlockError
from policyengine.engine.question import Question, QuestionLike
from policyengine.engine.record_group import RecordGroup, write_records
from policyengine.executor import is_requester_gone, run_in_turn
from policyengine.fair_queue import WorkRefusedError, never_gone
from policyengine.http.rate_limit_headers import HeaderFields, rate_limit_headers
from policyengine.runtime import decode
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.structure_checks import check_members, wrong_type_error
from policyengine.server.content_negotiation import HAS_LONG_BODY, BodyFormat
from policyengine.server.idempotency import REPLAYED
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface

MAX_BATCH_ITEMS = 1_000
MAX_INLINE_ITEMS = 16  # maximum items that an event loop decides without letting other requests run in between
MAX_ITEMS_PER_COMMIT = 250  # items per store commit, after which the batch checks that the client is still connected
SIMPLE_OPTIONS = frozenset({"obligations_supported", "request_approval"})
AnswerDocument = dict[str, object]
T = TypeVar("T")


class BatchSemantics(StrEnum):
    """When a batch ends: after all items, at the first item that is not allowed, or at the first item that is
    allowed."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"

    def ends_with(self, allowed: bool) -> bool:
        match self:
            case BatchSemantics.EXECUTE_ALL:
                return False
            case BatchSemantics.DENY_ON_FIRST_DENY:
                return not allowed
            case BatchSemantics.PERMIT_ON_FIRST_PERMIT:
                return allowed


def are_simple_options(options: object) -> bool:
    """Return whether the options do not change how a question is decided and answered."""
    return options is None or (isinstance(options, dict) and options.keys() <= SIMPLE_OPTIONS)


# ── Single questions ──────────────────────────────────────────────────────────────────────────


def parse_question(body: bytes, form: BodyFormat) -> Request:
    """Parse one question. Raises RequestError for every malformed body."""
    match form:
        case BodyFormat.JSON:
            return Request.from_json(body)
        case BodyFormat.MSGPACK:
            return Request.from_msgpack(body)


def decide_question(
    engine: EngineInterface, question: Request, spend: bool, once: IdempotencyKey | None = None
) -> AnswerDocument:
    """Return the decision as plain data, with an explanation if requested. Raises IdempotencyKeyError."""
    return decide_with_headers(engine, question, spend, once)[0]


def decide_with_headers(
    engine: EngineInterface, question: Request, spend: bool, once: IdempotencyKey | None = None
) -> tuple[AnswerDocument, HeaderFields]:
    """Return the decision, and the headers with the state of its limits. Raises IdempotencyKeyError.

    The explanation is made before the decision, so that it shows the state on which the decision depends. A replayed
    decision has no explanation.
    """
    explains = question.options.explain
    asked = engine.authenticate(question) if explains else question
    walk = {"explanation": engine.explain(asked).to_dict()["walk"]} if explains else {}
    if spend and once is not None:
        decision, again = engine.decide_once(asked, once)
        if again:
            return decision.to_dict(), (*rate_limit_headers(decision), REPLAYED)
    else:
        decision = engine.decide(asked) if spend else engine.evaluate(asked)
    return {**decision.to_dict(), **walk}, rate_limit_headers(decision)


# ── Batches ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """A batch of raw items. Items are parsed one by one, so an invalid item affects no other."""

    items: tuple[object, ...]
    semantics: BatchSemantics


def parse_batch(body: bytes, form: BodyFormat) -> DecisionBatch:
    """Parse a batch. Raises RequestError."""
    try:
        raw = decode.json_tree(body) if form is BodyFormat.JSON else decode.msgpack_tree(body)
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None
    return read_batch(raw)


def read_batch(raw: object) -> DecisionBatch:
    """Read a decoded batch. Raises RequestError."""
    if not isinstance(raw, dict):
        raise RequestError("", "a batch must be an object", 'send `{"requests": […]}`')
    check_members({str(name): value for name, value in raw.items()}, ("requests", "semantics"), "")
    return DecisionBatch(parse_items(raw.get("requests")), parse_semantics(raw.get("semantics")))


def parse_items(raw: object) -> tuple[object, ...]:
    match raw:
        case None:
            raise RequestError("requests", "`requests` is missing")
        case list() if len(raw) > MAX_BATCH_ITEMS:
            raise RequestError("requests", f"a batch may hold at most {MAX_BATCH_ITEMS:,} requests, got {len(raw):,}")
        case list():
            return tuple(raw)
        case _:
            raise wrong_type_error(raw, "requests", "a list")


def parse_semantics(raw: object, member: str = "semantics") -> BatchSemantics:
    match raw:
        case None:
            return BatchSemantics.EXECUTE_ALL
        case str() if raw in list(BatchSemantics):
            return BatchSemantics(raw)
        case str():
            known = ", ".join(f"`{one}`" for one in BatchSemantics)
            raise RequestError(member, f"`{member}` must be one of {known}", did_you_mean(raw, list(BatchSemantics)))
        case _:
            raise wrong_type_error(raw, member, "a string")


async def run_off_loop(
    engine: EngineInterface,
    work: Callable[[], T],
    once: IdempotencyKey | None = None,
    question: QuestionLike | None = None,
    *,
    long: bool = False,
) -> T:
    """Run `work` in a thread if it may wait for a store or an issuer, or may take a long time (`long`); otherwise on
    the event loop. Raises WorkRefusedError and the errors of `work`.
    """
    if question is not None and engine.forecast.awaits_issuer(question):
        return await run_in_threadpool(work)
    if long or HAS_LONG_BODY.get() or (question is not None and engine.forecast.takes_long(question)):
        return await run_in_turn(work)
    forecast = engine.forecast
    waits = once is not None or (forecast.may_wait if question is None else forecast.may_wait_for(question))
    return await run_in_threadpool(work) if waits else work()


async def decide_batch(
    engine: EngineInterface, batch: DecisionBatch, once: IdempotencyKey | None = None
) -> list[AnswerDocument]:
    """Decide the items in order, up to and including the item that ends the batch.

    With a key, each item spends once. Raises IdempotencyKeyError. Earlier decisions are kept for a retry of the batch.
    """
    if engine.state.is_shared and once is None and batch.semantics is BatchSemantics.EXECUTE_ALL:
        cancelled = Event()
        try:
            return await run_in_threadpool(decide_together, engine, batch.items, cancelled.is_set)
        except WouldBlockError:
            pass
        finally:
            cancelled.set()  # otherwise the thread would continue although no client waits for it
    answers: list[AnswerDocument] = []
    for index, raw in enumerate(batch.items):
        mine = None if once is None else once._replace(item=index)
        question = Question(raw) if isinstance(raw, dict) else None
        work = partial(decide_item, engine, question, f"requests[{index}]", mine)
        try:
            answers.append(await run_off_loop(engine, work, mine, question))
        except WorkRefusedError as error:  # earlier items keep their decisions
            answers.append(error_answer(engine, error, f"requests[{index}]"))
        if batch.semantics.ends_with(answers[-1]["allowed"] is True):
            break
        await asyncio.sleep(0)  # let other requests run during a long batch
    return answers


def decide_together(
    engine: EngineInterface, items: Sequence[object], is_cancelled: Callable[[], bool] = never_gone
) -> list[AnswerDocument]:
    """Decide all items, with one commit of a shared store for up to MAX_ITEMS_PER_COMMIT consecutive items. Raises
    WouldBlockError, before anything is decided, if an item may take a long time; raises WorkRefusedError if the client
    disconnects.
    """
    if any(isinstance(raw, dict) and engine.forecast.takes_long(raw) for raw in items):
        raise WouldBlockError("deciding an item may take a long time")
    answers: list[AnswerDocument] = []
    row: list[QuestionLike] = []

    def settle() -> None:
        if is_cancelled() or is_requester_gone():
            raise WorkRefusedError("the client has disconnected")
        for result in engine.decide_many(row):
            place = f"requests[{len(answers)}]"
            answers.append(
                error_answer(engine, result, place) if isinstance(result, RequestError) else result.to_dict()
            )
        row.clear()

    for raw in items:
        question = parse_batch_question(raw)
        if question is not None:
            row.append(question)
            if len(row) == MAX_ITEMS_PER_COMMIT:
                settle()
            continue
        settle()
        item = Question(raw) if isinstance(raw, dict) else None
        answers.append(decide_item(engine, item, f"requests[{len(answers)}]"))
    settle()
    return answers


def parse_batch_question(raw: object) -> QuestionLike | None:
    """Return the question of an item, or None if the item must be decided separately."""
    if not isinstance(raw, dict):
        return None
    if raw.get("options") == {"consume": True}:
        return {name: value for name, value in raw.items() if name != "options"}
    try:
        request = Request.from_mapping(raw)
    except RequestError:
        return None
    if request.options.explain:
        return None
    return request if asks_to_spend(raw) else replace(request, options=replace(request.options, consume=False))


def decide_item(
    engine: EngineInterface, question: Question | None, place: str, once: IdempotencyKey | None = None
) -> AnswerDocument:
    """Decide an item; None stands for an item that is not an object. An invalid item is denied. Raises
    IdempotencyKeyError.
    """
    try:
        if question is None or question.members is None:
            raise RequestError("", "a request must be an object")
        return decide_question(engine, question.request, asks_to_spend(question.members), once)
    except RequestError as error:
        return error_answer(engine, error, place)


def read_small_batch(engine: EngineInterface, batch: DecisionBatch, size: int) -> list[Request | RequestError] | None:
    """Return the requests of a batch that an event loop may decide without interruption, or the errors of its items;
    None for every other batch. `size` is the number of bytes of the batch.
    """
    if len(batch.items) > MAX_INLINE_ITEMS:
        return None
    found: list[Request | RequestError] = []
    for raw in batch.items:
        try:
            request = read_item(raw)
        except RequestError as error:
            found.append(error)
            continue
        if request.options.explain or request.credentials is not None or takes_long(engine, request, size):
            return None
        found.append(request)
    return found


def takes_long(engine: EngineInterface, request: Request, size: int) -> bool:
    try:
        return engine.forecast.takes_long_to_decide(request, size)
    except Exception:  # the engine denies a question that cannot be measured
        return True


def read_item(raw: object) -> Request:
    """Read an item of a batch. Raises RequestError."""
    if not isinstance(raw, dict):
        raise RequestError("", "a request must be an object")
    return Request.from_mapping(raw)


def decide_small_batch(
    engine: EngineInterface, batch: DecisionBatch, requests: Sequence[Request | RequestError]
) -> list[Decision | AnswerDocument]:
    """Decide the items in order, up to and including the item that ends the batch. If no item can end it, their records
    are written in one call.
    """
    answers: list[Decision | AnswerDocument] = []
    records = RecordGroup() if batch.semantics is BatchSemantics.EXECUTE_ALL else None
    try:
        for index, (raw, request) in enumerate(zip(batch.items, requests, strict=True)):
            try:
                if isinstance(request, RequestError):
                    raise request
                decide = engine.decide if asks_to_spend(raw) else engine.evaluate
                answers.append(decide(request, records=records))
            except RequestError as error:
                answers.append(error_answer(engine, error, f"requests[{index}]"))
            if batch.semantics.ends_with(isinstance(answers[-1], Decision) and answers[-1].allowed):
                break
    finally:
        if records is not None:
            write_records(records, answers)
    return answers


def asks_to_spend(raw: object) -> bool:
    """Return whether an item of a batch asks to spend; by default, it spends nothing."""
    options = raw.get("options") if isinstance(raw, Mapping) else None
    return isinstance(options, Mapping) and options.get("consume") is True


def error_answer(engine: EngineInterface, error: RequestError | WorkRefusedError, place: str) -> AnswerDocument:
    """Return a denial with the problem, for an item that is invalid or was refused a turn."""
    problem = ProblemError.of(error) if isinstance(error, RequestError) else ProblemError.of_refused(error)
    problem.member = f"{place}.{problem.member}" if problem.member else place
    decision = Decision.of(
        Outcome.DENY,
        Gate.FAILURE,
        (Reason(Gate.FAILURE, problem.detail),),
        package=engine.package,
        revision=engine.revision,
    )
    return {**decision.to_dict(), "error": problem.to_dict()}

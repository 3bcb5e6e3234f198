"""A question in bytes to an answer as plain data: one at a time, or a batch in which each stands for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from threading import Event
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from policyengine.engine.decider import TakesLong
from policyengine.engine.request_input import Question
from policyengine.executor import in_turn, is_gone
from policyengine.fair_queue import WorkRefused, never
from policyengine.http.rate_limit_headers import Headers, rate_headers
from policyengine.runtime import decode
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason
from policyengine.runtime.idempotency_key import Once
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.structure_checks import did_you_mean, only, wrong_kind
from policyengine.server.content_negotiation import HAS_LONG_BODY, Form
from policyengine.server.idempotency import REPLAYED
from policyengine.server.problems import Problem
from policyengine.server.telemetry.metered_engine import Decides

MOST_ITEMS = 1_000
MOST_IN_A_ROW = 250  # that a store is asked for at once, and then it is seen whether somebody still waits
Answer = dict[str, object]
T = TypeVar("T")


class Semantics(StrEnum):
    """When a batch ends: at its end, at the first that is not allowed, or at the first that is."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"

    def ends_with(self, allowed: bool) -> bool:
        match self:
            case Semantics.EXECUTE_ALL:
                return False
            case Semantics.DENY_ON_FIRST_DENY:
                return not allowed
            case Semantics.PERMIT_ON_FIRST_PERMIT:
                return allowed


# ── One ───────────────────────────────────────────────────────────────────────────────────────


def question_of(body: bytes, form: Form) -> Request:
    """Raises RequestError, whatever the bytes are."""
    match form:
        case Form.JSON:
            return Request.from_json(body)
        case Form.MSGPACK:
            return Request.from_msgpack(body)


def decided(engine: Decides, question: Request, spend: bool, once: Once | None = None) -> Answer:
    """The decision as plain data, with the walk if that is asked for. Raises KeyProblem."""
    return decided_and_limited(engine, question, spend, once)[0]


def decided_and_limited(
    engine: Decides, question: Request, spend: bool, once: Once | None = None
) -> tuple[Answer, Headers]:
    """The same, and the headers that say how its limits stand.

    The walk is taken first, as it shows what was there to decide upon: there is none of what was decided before.
    """
    explains = question.options.explain
    asked = engine.identified(question) if explains else question
    walk = {"explanation": engine.explain(asked).to_dict()["walk"]} if explains else {}
    if spend and once is not None:
        decision, again = engine.decide_once(asked, once)
        if again:
            return decision.to_dict(), (*rate_headers(decision), REPLAYED)
    else:
        decision = engine.decide(asked) if spend else engine.evaluate(asked)
    return {**decision.to_dict(), **walk}, rate_headers(decision)


# ── Many ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Batch:
    """Items are raw: each is read when its turn comes, and only then turns out to be no question."""

    items: tuple[object, ...]
    semantics: Semantics


def batch_of(body: bytes, form: Form) -> Batch:
    """Raises RequestError."""
    try:
        raw = decode.json_tree(body) if form is Form.JSON else decode.msgpack_tree(body)
    except decode.WireError as error:
        raise RequestError("", str(error)) from None
    if not isinstance(raw, dict):
        raise RequestError("", "a batch is an object", 'send `{"requests": […]}`')
    only({str(name): value for name, value in raw.items()}, ("requests", "semantics"), "")
    return Batch(items_of(raw.get("requests")), semantics_of(raw.get("semantics")))


def items_of(raw: object) -> tuple[object, ...]:
    match raw:
        case None:
            raise RequestError("requests", "`requests` is missing")
        case list() if len(raw) > MOST_ITEMS:
            raise RequestError("requests", f"a batch holds at most {MOST_ITEMS:,} requests, got {len(raw):,}")
        case list():
            return tuple(raw)
        case _:
            raise wrong_kind(raw, "requests", "a list")


def semantics_of(raw: object, member: str = "semantics") -> Semantics:
    match raw:
        case None:
            return Semantics.EXECUTE_ALL
        case str() if raw in list(Semantics):
            return Semantics(raw)
        case str():
            known = ", ".join(f"`{one}`" for one in Semantics)
            raise RequestError(member, f"`{member}` is one of {known}", did_you_mean(raw, list(Semantics)))
        case _:
            raise wrong_kind(raw, member, "a string")


async def apart(
    engine: Decides,
    work: Callable[[], T],
    once: Once | None = None,
    question: Question | None = None,
    *,
    long: bool = False,
) -> T:
    """In a thread where somebody else is asked or it takes long, so that nobody waits for it; else right here."""
    if question is not None and engine.awaits_issuer(question):
        return await run_in_threadpool(work)
    if long or HAS_LONG_BODY.get() or (question is not None and engine.takes_long(question)):
        return await in_turn(work)
    return await run_in_threadpool(work) if once is not None or engine.waits_for(question) else work()


async def decided_in_turn(engine: Decides, batch: Batch, once: Once | None = None) -> list[Answer]:
    """In order, up to and including the one that ends the batch. By a key each item that spends is accounted once.

    Raises KeyProblem: what was decided before is kept, for when the batch is asked again.
    """
    if engine.shares and once is None and batch.semantics is Semantics.EXECUTE_ALL:
        cancelled = Event()
        try:
            return await run_in_threadpool(decided_together, engine, batch.items, cancelled.is_set)
        except TakesLong:
            pass
        finally:
            cancelled.set()  # a thread goes on where nobody waits for it any more
    answers: list[Answer] = []
    for index, raw in enumerate(batch.items):
        mine = None if once is None else once._replace(item=index)
        work = partial(decided_item, engine, raw, f"requests[{index}]", mine)
        try:
            answers.append(await apart(engine, work, mine, raw if isinstance(raw, dict) else None))
        except WorkRefused as error:  # what was decided before is told
            answers.append(undecided(engine, error, f"requests[{index}]"))
        if batch.semantics.ends_with(answers[-1]["allowed"] is True):
            break
        await asyncio.sleep(0)  # a long batch lets others have their turn
    return answers


def decided_together(
    engine: Decides, items: Sequence[object], is_cancelled: Callable[[], bool] = never
) -> list[Answer]:
    """The same of all items: a store that is shared is asked for as many at once as there are in a row. Raises
    TakesLong where one of them may: nothing is decided; and WorkRefused when nobody waits any more for the rest."""
    if any(isinstance(raw, dict) and engine.takes_long(raw) for raw in items):
        raise TakesLong("an item may take long")
    answers: list[Answer] = []
    row: list[Question] = []

    def settle() -> None:
        if is_cancelled() or is_gone():
            raise WorkRefused("nobody waits for it any more")
        for found in engine.decide_many(row):
            place = f"requests[{len(answers)}]"
            answers.append(undecided(engine, found, place) if isinstance(found, RequestError) else found.to_dict())
        row.clear()

    for raw in items:
        question = question_in(raw)
        if question is not None:
            row.append(question)
            if len(row) == MOST_IN_A_ROW:
                settle()
            continue
        settle()
        answers.append(decided_item(engine, raw, f"requests[{len(answers)}]"))
    settle()
    return answers


def question_in(raw: object) -> Question | None:
    """What an item asks, and whether it spends; None where it is to be looked at for itself."""
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


def decided_item(engine: Decides, raw: object, place: str, once: Once | None = None) -> Answer:
    """Raises KeyProblem."""
    try:
        if not isinstance(raw, dict):
            raise RequestError("", "a request is an object")
        return decided(engine, Request.from_mapping(raw), asks_to_spend(raw), once)
    except RequestError as error:
        return undecided(engine, error, place)


def asks_to_spend(raw: Mapping[object, object]) -> bool:
    """In a batch only an item that says so spends."""
    options = raw.get("options")
    return isinstance(options, Mapping) and options.get("consume") is True


def undecided(engine: Decides, error: RequestError | WorkRefused, place: str) -> Answer:
    """What is no question or has no turn is denied, in the shape of every other answer and with its problem."""
    problem = Problem.of(error) if isinstance(error, RequestError) else Problem.of_refused(error)
    problem.member = f"{place}.{problem.member}" if problem.member else place
    decision = Decision.of(
        Outcome.DENY,
        Gate.FAILURE,
        (Reason(Gate.FAILURE, problem.detail),),
        package=engine.package,
        revision=engine.revision,
    )
    return {**decision.to_dict(), "error": problem.to_dict()}

"""The enforcement point of all integrations: identify the caller, decide, and report the outcome; deny when in
doubt."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TypeAlias, TypeVar

import anyio

from policyengine.clock import utc_now
from policyengine.engine.question import new_id
from policyengine.runtime import decode
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason
from policyengine.runtime.pending_facts import ENDPOINT_FACTS
from policyengine.runtime.request import RequestError
from policyengine.vocabulary import CREDENTIAL_ROOTS, ROOTS

Facts: TypeAlias = Mapping[str, object]
Context = TypeVar("Context", contravariant=True)
Identify: TypeAlias = Callable[[Context], Facts | Awaitable[Facts | None] | None]

# Members that describe the caller; the integration adds the endpoint and its arguments.
CALLER_MEMBERS = (*CREDENTIAL_ROOTS, "credentials", "context", "approvals", "entities", "request")
REQUEST_MEMBERS = tuple(name for name in ROOTS["request"] or () if ("request", name) not in ENDPOINT_FACTS)
MAX_REPORT_SECONDS = 1.0  # maximum seconds of a report, which continues even if the call is cancelled
UNKNOWN_CALLER = "the caller is not identified"
DECISION_FAILED = "the decision failed; the operator's log has the error"

_LOG = logging.getLogger("policyengine")


class PolicyDecisionPoint(Protocol):
    """The decision point of an integration: an Engine or an AsyncPolicyClient."""

    async def decide_async(self, question: Facts) -> Decision: ...

    async def evaluate_async(self, question: Facts) -> Decision: ...

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
        size: int | None = None,
    ) -> bool: ...


@dataclass(frozen=True, slots=True)
class Duties:
    """The obligations that the application can fulfill: their kinds, and the function that fulfills the obligations of
    an allow.

    An exception that `meet` raises denies the request. `audit`, `notify` and `warn` need not be listed: they require
    nothing of the application.
    """

    kinds: Collection[str] = ()
    meet: Callable[[Decision], object | Awaitable[object]] | None = None


NO_DUTIES = Duties()


class FixedCaller:
    """Identifies every caller by the same facts, which are copied and checked once."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._checked: Facts | None = None

    def __call__(self, context: object) -> Facts | None:
        """Return the checked facts. Raises ValueError."""
        if self._checked is None:
            self._checked = check_facts(self._facts)
        return self._checked


async def identify_caller(identify: Identify[Context], context: Context) -> Facts | None:
    """Return the facts about the caller, or None if there are none or identifying the caller failed."""
    try:
        if type(identify) is FixedCaller:
            return identify(context)
        found = identify(context)
        return check_facts(await found if inspect.isawaitable(found) else found)
    except Exception:
        _LOG.exception("identifying the caller failed; the request was denied")
        return None


def check_facts(facts: Facts | None) -> Facts | None:
    """Copy and check the facts, so that later code reads the checked values. None stays None (unknown caller); an empty
    mapping is a stranger, to whom only `anyone` grants anything. Raises ValueError if the facts describe more than the
    caller.
    """
    if facts is None:
        return None
    found = copy_members(facts)
    inner: list[str] = []
    if isinstance(found.get("request"), Mapping):
        request = found["request"] = copy_members(found["request"])
        inner = [f"request.{name}" for name in request if name not in REQUEST_MEMBERS]
    if strange := [name for name in found if name not in CALLER_MEMBERS] + inner:
        raise ValueError(f"`{strange[0]}` is not a fact about the caller")
    return found


def copy_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a mapping. Raises ValueError for a duplicate name or too many members."""
    try:
        found = decode.members_of(members)
    except decode.DecodeError as error:
        raise ValueError(str(error)) from None
    if any(value is decode.DUPLICATE_KEY for value in found.values()):
        raise ValueError("a member is repeated")
    return found


async def prove_credentials(decides: object, facts: Facts) -> Facts:
    """Verify raw credentials once, if the decision point can, because several questions follow and a proof is accepted
    only once. Errors are not raised: the facts then stay unchanged, and each question presents the credentials.
    """
    prove = getattr(decides, "prove_async", None)
    if prove is None or "credentials" not in facts:
        return facts
    try:
        found: Facts = await prove(facts)
    except Exception:
        _LOG.exception("verifying credentials failed; they prove nothing")
        return facts
    return found


async def decide_and_meet(decides: PolicyDecisionPoint, question: Facts, duties: Duties = NO_DUTIES) -> Decision:
    """Decide and commit, and fulfill the obligations of an allow. Errors are not raised: they deny the request."""
    decision = await deny_on_error(decides.decide_async, with_options(question, duties))
    if not decision.allowed or duties.meet is None:
        return decision
    try:
        met = duties.meet(decision)
        if inspect.isawaitable(met):
            await met
    except Exception:
        _LOG.exception("fulfilling an obligation failed; the request was denied")
        await report_outcome(decides, decision, 500)
        return make_denial("an obligation could not be fulfilled")
    return decision


def with_options(question: Facts, duties: Duties = NO_DUTIES) -> dict[str, object]:
    """Return the question with the options of an enforcement point."""
    return {**question, "options": {"obligations_supported": list(duties.kinds), "request_approval": True}}


async def evaluate(decides: PolicyDecisionPoint, question: Facts) -> Decision:
    """Decide without committing. Errors are not raised: they deny the request."""
    return await deny_on_error(decides.evaluate_async, question)


async def evaluate_listed(decides: PolicyDecisionPoint, question: Facts) -> Decision:
    """Evaluate an item of a list. If the decision point is an engine in this process, the record says that it is about
    an item of a list."""
    return await deny_on_error(getattr(decides, "evaluate_listed_async", decides.evaluate_async), question)


async def deny_on_error(ask: Callable[[Facts], Awaitable[Decision]], question: Facts) -> Decision:
    try:
        return await ask(question)
    except RequestError as error:
        return make_denial(f"the question is malformed: {error.message}")
    except Exception:
        _LOG.exception("a decision failed and was denied")
        return make_denial(DECISION_FAILED)


def make_denial(message: str, gate: Gate = Gate.FAILURE) -> Decision:
    """Return a deny that no policy made."""
    return Decision.of(Outcome.DENY, gate, (Reason(gate, message),), id=new_id(utc_now()))


async def report_outcome(
    decides: PolicyDecisionPoint,
    decision: Decision,
    status: int,
    began: float | None = None,
    output: Facts | None = None,
    size: int | None = None,
) -> None:
    """Report the outcome, even while the call is being cancelled. Errors are not raised: a failed report does not
    change the decision. `began` is the time of `perf_counter`; `size` is in bytes.
    """
    if report_directly(decides, decision, status, began, output, size):
        return
    more = {} if size is None else {"size": size}  # a decision point of another project may not accept `size`
    try:
        with anyio.move_on_after(MAX_REPORT_SECONDS, shield=True):
            await decides.report_async(decision.id, status=status, latency_ms=elapsed_ms(began), output=output, **more)
    except Exception:
        if output is not None or size is not None:  # the output may be invalid as facts, so report without it
            return await report_outcome(decides, decision, status, began)
        _LOG.exception("reporting an outcome failed")


def report_directly(
    decides: PolicyDecisionPoint,
    decision: Decision,
    status: int,
    began: float | None = None,
    output: Facts | None = None,
    size: int | None = None,
) -> bool:
    """Report the outcome as `report_outcome` does. Return False if the report may wait; then nothing was reported."""
    if not getattr(decides, "reports_at_once", False):
        return False
    more = {} if size is None else {"size": size}
    latency = elapsed_ms(began)
    try:
        decides.report(decision.id, status=status, latency_ms=latency, output=output, **more)  # type: ignore[attr-defined]
    except Exception:
        if output is not None or size is not None:
            return report_directly(decides, decision, status, began)
        _LOG.exception("reporting an outcome failed")
    return True


def elapsed_ms(began: float | None) -> float | None:
    return None if began is None else (perf_counter() - began) * 1_000

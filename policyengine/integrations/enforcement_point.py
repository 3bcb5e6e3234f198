"""How every integration asks: who wants something, may it be, how did it come out. In any doubt the answer is deny."""

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
from policyengine.runtime.request import ENDPOINT_FACTS, RequestError
from policyengine.vocabulary import CREDENTIAL_ROOTS, ROOTS

Facts: TypeAlias = Mapping[str, object]
Context = TypeVar("Context", contravariant=True)
Identify: TypeAlias = Callable[[Context], Facts | Awaitable[Facts | None] | None]

# What may be said of who asks. The endpoint and what goes with it are the integration's to say.
CALLER_MEMBERS = (*CREDENTIAL_ROOTS, "credentials", "context", "approvals", "entities", "request")
REQUEST_MEMBERS = tuple(name for name in ROOTS["request"] or () if ("request", name) not in ENDPOINT_FACTS)
MAX_REPORT_SECONDS = 1.0  # seconds that a report may keep a cancelled call from ending
UNKNOWN_CALLER = "it is not known who asks"
DECISION_FAILED = "deciding failed; the operator's log says why"

_LOG = logging.getLogger("policyengine")


class PolicyDecisionPoint(Protocol):
    """Who decides: an Engine, or an AsyncPolicyClient."""

    async def decide_async(self, question: Facts) -> Decision: ...

    async def evaluate_async(self, question: Facts) -> Decision: ...

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
    ) -> bool: ...


@dataclass(frozen=True, slots=True)
class Duties:
    """The obligations that the application can meet: their kinds, and what is called to meet those of an allow.

    What `meet` raises is a deny. `audit`, `notify` and `warn` need not be named: nothing has to be done for the caller.
    """

    kinds: Collection[str] = ()
    meet: Callable[[Decision], object | Awaitable[object]] | None = None


NO_DUTIES = Duties()


async def identify_caller(identify: Identify[Context], context: Context) -> Facts | None:
    """What is known of who asks; None where nothing is, or where finding it out failed."""
    try:
        found = identify(context)
        return check_facts(await found if inspect.isawaitable(found) else found)
    except Exception:
        _LOG.exception("who asks could not be found out, and nothing was let through")
        return None


def check_facts(facts: Facts | None) -> Facts | None:
    """The facts as they are asked with: what was looked at once is not read again. Nothing at all is nobody; nothing
    known is somebody whom only `anyone` lets through. Raises ValueError where they would say more than who asks."""
    if facts is None:
        return None
    found = copy_members(facts)
    inner: list[str] = []
    if isinstance(found.get("request"), Mapping):
        request = found["request"] = copy_members(found["request"])
        inner = [f"request.{name}" for name in request if name not in REQUEST_MEMBERS]
    if strange := [name for name in found if name not in CALLER_MEMBERS] + inner:
        raise ValueError(f"`{strange[0]}` is no fact about who asks")
    return found


def copy_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what has two members of one name, or too many."""
    try:
        found = decode.members_of(members)
    except decode.DecodeError as error:
        raise ValueError(str(error)) from None
    if any(value is decode.DUPLICATE_KEY for value in found.values()):
        raise ValueError("a member is there twice")
    return found


async def prove_credentials(decides: object, facts: Facts) -> Facts:
    """With raw credentials looked at once, where who decides can do that: several questions follow, and a proof counts
    once. Nothing that goes wrong is raised: then each question is answered for itself."""
    prove = getattr(decides, "prove_async", None)
    if prove is None or "credentials" not in facts:
        return facts
    try:
        found: Facts = await prove(facts)
    except Exception:
        _LOG.exception("credentials could not be looked at, and prove nothing")
        return facts
    return found


async def decide_and_meet(decides: PolicyDecisionPoint, question: Facts, duties: Duties = NO_DUTIES) -> Decision:
    """Decide and spend, and meet what an allow obliges to. Nothing that goes wrong is raised: it is a deny."""
    asked = {**question, "options": {"obligations_supported": list(duties.kinds)}}
    decision = await deny_on_error(decides.decide_async, asked)
    if not decision.allowed or duties.meet is None:
        return decision
    try:
        met = duties.meet(decision)
        if inspect.isawaitable(met):
            await met
    except Exception:
        _LOG.exception("an obligation could not be met, and nothing was let through")
        await report_outcome(decides, decision, 500)
        return make_denial("an obligation could not be met")
    return decision


async def evaluate(decides: PolicyDecisionPoint, question: Facts) -> Decision:
    """Look only. Nothing that goes wrong is raised: it is a deny."""
    return await deny_on_error(decides.evaluate_async, question)


async def deny_on_error(ask: Callable[[Facts], Awaitable[Decision]], question: Facts) -> Decision:
    try:
        return await ask(question)
    except RequestError as error:
        return make_denial(f"this cannot be decided: {error.message}")
    except Exception:
        _LOG.exception("a decision failed and was denied")
        return make_denial(DECISION_FAILED)


def make_denial(message: str, gate: Gate = Gate.FAILURE) -> Decision:
    """A deny that no policy made."""
    return Decision.of(Outcome.DENY, gate, (Reason(gate, message),), id=new_id(utc_now()))


async def report_outcome(
    decides: PolicyDecisionPoint,
    decision: Decision,
    status: int,
    began: float | None = None,
    output: Facts | None = None,
) -> None:
    """How it came out, also of what is being cancelled. That a report fails spoils nothing that was decided."""
    latency = None if began is None else (perf_counter() - began) * 1_000
    with anyio.move_on_after(MAX_REPORT_SECONDS, shield=True):
        try:
            await decides.report_async(decision.id, status=status, latency_ms=latency, output=output)
        except Exception:
            if output is not None:  # it may be no facts: that it came out is known all the same
                return await report_outcome(decides, decision, status, began)
            _LOG.exception("an outcome could not be reported")

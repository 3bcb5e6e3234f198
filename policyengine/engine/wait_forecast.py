"""Forecasts whether a decision would wait or take a long time, so that a caller with an event loop runs it in a
thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from policyengine.compiler.sizes import loops
from policyengine.engine.authenticate import Authenticator
from policyengine.engine.decider import Decider
from policyengine.engine.question import Question, QuestionLike
from policyengine.engine.state_use import StateUse
from policyengine.executor import run_in_thread, run_in_turn
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.value_size import is_large

T = TypeVar("T")
MAX_SMALL_BYTES = 900  # maximum bytes of a small question: `is_large` counts at most two parts per byte
UNKNOWN_SIZE = 2**31


class WaitForecast:
    """Forecasts from data in memory, without deciding. For a malformed question the forecast is False, because deciding
    it raises RequestError immediately. If the forecast itself fails, it is True, and the decision reports the failure.
    """

    def __init__(self, decider: Decider, state: StateUse, authenticator: Authenticator | None) -> None:
        self._decider, self._state, self._authenticator = decider, state, authenticator

    @property
    def may_wait(self) -> bool:
        """Whether decisions may wait for the store, or for entities that are looked up."""
        return self._state.is_shared or self._decider.compiled.entities.lookups is not None

    def may_wait_for(self, question: QuestionLike) -> bool:
        """Return whether deciding this question may wait for the store, an entity, or an issuer of credentials."""
        return self.may_wait or self.awaits_issuer(question)

    def awaits_issuer(self, question: QuestionLike) -> bool:
        """Return whether the credentials of the question need an answer from their issuer."""
        if self._authenticator is None:
            return False
        try:
            return self._authenticator.needs_issuer(Question.of(question))
        except RequestError:
            return False
        except Exception:
            return True

    def takes_long(self, question: QuestionLike) -> bool:
        """Return whether the decision may calculate for longer than an event loop should wait. False for a question
        that waits for an issuer, because that question gets its own thread instead of the single thread for
        calculations.
        """
        if self.awaits_issuer(question):
            return False
        try:
            return self._takes_long(Question.of(question))
        except RequestError:
            return False
        except Exception:
            return True

    def _takes_long(self, asked: Question) -> bool:
        unproved = None if asked.is_authenticated else self._authenticator
        members = asked.members
        if members is not None and unproved is None:
            if is_large(members):
                return True
            request = asked.request
            # Except for HTTP requests, the facts are those of the members and need not be measured again.
            is_measured = type(request.endpoint) is not HttpEndpoint and not request.entities
            return self.takes_long_to_decide(request, MAX_SMALL_BYTES if is_measured else UNKNOWN_SIZE)
        return self.takes_long_to_decide(asked.request if unproved is None else unproved.with_cached_facts(asked))

    def takes_long_to_decide(self, request: Request, size: int = UNKNOWN_SIZE) -> bool:
        """Return the same as `takes_long`, for a request whose credentials are proved. `size` is the number of bytes of
        the encoded question; in a small question, only loops can take a long time.
        """
        evaluator = self._decider.compiled.evaluator
        return evaluator.loops_long(request) if size <= MAX_SMALL_BYTES else evaluator.takes_long(request)

    @cached_property
    def has_loops(self) -> bool:
        """Whether the policies may have rules that take a long time for large questions."""
        return loops(self._decider.kernel)

    async def run(self, ask: Callable[[QuestionLike], T], question: QuestionLike) -> T:
        """Decide on the event loop if the forecast says that this is fast, otherwise in a thread. Raises
        WorkRefusedError.
        """
        asked = Question.of(question)
        if self.takes_long(asked):
            return await run_in_turn(ask, asked)
        return await run_in_thread(ask, asked) if self.may_wait_for(asked) else ask(asked)

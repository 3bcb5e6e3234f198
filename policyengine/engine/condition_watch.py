"""Counts, in observe mode, the requests for which conditions that read learned facts were true."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Final, NamedTuple

from policyengine.behavior.conditions import ConditionEvaluator, LearnedCondition, bounded_facts
from policyengine.behavior.events import Caller, caller_words
from policyengine.clock import NANOSECONDS_PER_SECOND, from_epoch_nanoseconds
from policyengine.kernel import Kernel
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Unknown

MAX_CALLERS: Final = 1_000  # maximum number of callers that are counted separately for each condition
MAX_LATEST: Final = 5
DAY_SECONDS: Final = 86_400
_LOG = logging.getLogger("policyengine")


class ConditionHit(NamedTuple):
    """A decision on a request for which a condition was true. `at` is in seconds since 1970."""

    id: str
    at: int
    caller: Caller


@dataclass(slots=True)
class ConditionHits:
    """The requests for which a condition was true, how many of them the policies allowed, and the number of days on
    which they arrived. `unknown` counts requests for which the condition was unknown. `callers` has the number of
    requests of each caller, of the first MAX_CALLERS callers; `more_callers` is whether there were more. `latest` has
    the last decisions.
    """

    condition: LearnedCondition
    requests: int = 0
    allowed: int = 0
    unknown: int = 0
    days: int = 0
    day: int = -1
    callers: dict[Caller, int] = field(default_factory=dict)
    more_callers: bool = False
    latest: deque[ConditionHit] = field(default_factory=lambda: deque(maxlen=MAX_LATEST))

    def count(self, decision: Decision, caller: Caller, seconds: int) -> bool:
        """Count a request for which the condition was true. Return whether it is the first one of its day."""
        self.requests += 1
        self.allowed += decision.allowed
        if caller in self.callers or len(self.callers) < MAX_CALLERS:
            self.callers[caller] = self.callers.get(caller, 0) + 1
        else:
            self.more_callers = True
        self.latest.append(ConditionHit(decision.id, seconds, caller))
        is_first = seconds // DAY_SECONDS > self.day
        if is_first:
            self.day, self.days = seconds // DAY_SECONDS, self.days + 1
        return is_first

    def most(self, limit: int) -> Sequence[tuple[Caller, int]]:
        """Return the callers with the most requests, and the number of their requests."""
        return sorted(self.callers.items(), key=lambda each: (-each[1], each[0]))[:limit]


class ConditionWatch:
    """Counts the requests for which the conditions of one policy that read learned facts were true. For unchanged
    conditions, it continues the counts of a `previous` watch. Watches that continue each other have the same `origin`.
    Threads may share the watch.
    """

    def __init__(self, kernel: Kernel, previous: ConditionWatch | None = None) -> None:
        self._kernel, self._evaluator = kernel, ConditionEvaluator(kernel)
        self._lock: Lock = Lock() if previous is None else previous._lock
        known = {} if previous is None else {condition_key(each.condition): each for each in previous.hits}
        self.hits: tuple[ConditionHits, ...] = tuple(continue_hits(one, known) for one in self._evaluator.conditions)
        self.origin: object = object() if previous is None else previous.origin
        self._throttle = LogThrottle.every()

    def note(self, decision: Decision, request: Request, caller: Caller, snapshot: Snapshot, moment: int) -> None:
        """Count the conditions that hold for a decided request; `snapshot` has the learned facts of its caller, and
        `moment` is the time of the decision in nanoseconds. An error is only logged, because the decision is final.
        """
        assert snapshot.behavior is not None
        try:
            facts_of = partial(bounded_facts, self._kernel, request, snapshot, from_epoch_nanoseconds(moment))
            values = list(self._evaluator.evaluate(request.endpoint, snapshot.behavior, facts_of))
        except Exception as error:
            text = f"a request is not counted for the conditions on learned facts, because of an error: {error!r}"
            self._throttle.tell(logging.ERROR, "failure", text, event="behavior_condition")
            return
        for number, value in values:
            if value is True:
                self._count(self.hits[number], decision, caller, moment // NANOSECONDS_PER_SECOND)
            elif isinstance(value, Unknown):
                with self._lock:
                    self.hits[number].unknown += 1

    def copy_hits(self) -> list[ConditionHits]:
        """Return copies of all hits, which do not change."""
        with self._lock:
            return [replace(hits, callers=dict(hits.callers), latest=hits.latest.copy()) for hits in self.hits]

    def _count(self, hits: ConditionHits, decision: Decision, caller: Caller, seconds: int) -> None:
        with self._lock:
            is_first = hits.count(decision, caller, seconds)
        if is_first:
            found = hits.condition
            text = (
                f"observe mode: {found.rule}: {found.words} ({found.at}) would have hit "
                f"{caller_words(caller)}, for the first time on this day"
            )
            _LOG.info("%s", text, extra={"event": "behavior_condition", "rule": found.name, "decision": decision.id})


def condition_key(condition: LearnedCondition) -> tuple[str, str]:
    """Return a key that identifies a condition, also in a changed policy in which the condition is on another line."""
    return condition.rule, condition.words


def continue_hits(condition: LearnedCondition, known: dict[tuple[str, str], ConditionHits]) -> ConditionHits:
    """Return the known hits of a condition, at its present place; new ones if there are none."""
    found = known.pop(condition_key(condition), None)
    if found is None:
        return ConditionHits(condition)
    found.condition = condition
    return found

"""The conditions of a policy that read learned facts, and their values for requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from policyengine import kernel as k
from policyengine.entities.store import EntityStore
from policyengine.kernel.learned_facts import learned_facts
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import LearnedFacts, Snapshot
from policyengine.runtime.values import Unknown, Value
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import conjunction
from policyengine.spec.match_endpoint import place_covers
from policyengine.spec.step_count import count_steps
from policyengine.spec.step_facts import SpecifiedRequest
from policyengine.vocabulary import CLUSTER_ID, CLUSTER_SIZE, LEARNED_FACTS, learned_name

NO_REQUEST: Final = Request.from_mapping({"request": {"method": "GET", "path": "/"}})
NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
EMPTY_DIRECTORY: Final = EntityStore(loaded=False)
MAX_CACHED_VALUES: Final = 65_536
TOO_MANY_STEPS: Final = Unknown.of("the condition", "it takes too many steps")


@dataclass(frozen=True, slots=True)
class LearnedCondition:
    """A condition that reads a learned fact. `kind` is what it does, such as `clamp`, `rule` the rule that has it,
    `name` the name of this rule, and `words` the part of the policy with it. The condition applies at the endpoints of
    `place` if all `expressions` are true. `fails_closed` says whether the condition also acts while it is unknown, and
    `lasts` how long the condition still acts after it was true.
    """

    kind: str
    rule: str
    name: str
    at: str
    words: str
    place: k.Place
    expressions: tuple[k.Expr, ...]
    fails_closed: bool = False
    lasts: timedelta | None = None

    @property
    def reads_only_learned(self) -> bool:
        """Whether the value follows from the learned facts alone."""
        return all(is_learned_or_fixed(node) for one in self.expressions for node in k.walk(one))


def is_learned_or_fixed(node: k.Expr) -> bool:
    match node:
        case k.Fact(path):
            return path in LEARNED_FACTS and path != CLUSTER_ID  # which is the caller itself if it is in no group
        case k.HistoryCondition() | k.Aggregate() | k.PastFact() | k.HasRow() | k.Attribute():
            return False
        case _:
            return True


def learned_conditions(kernel: k.Kernel) -> tuple[LearnedCondition, ...]:
    """Return the conditions that read learned facts, in the order of the policies."""
    found = [*guard_conditions(kernel), *limit_conditions(kernel)]
    reading = [one for one in found if any(True for _ in learned_facts(one.expressions[-1]))]
    return tuple(sorted(reading, key=position))


def position(one: LearnedCondition) -> tuple[str, int]:
    file, _, line = one.at.rpartition(":")
    return file, int(line)


def guard_conditions(kernel: k.Kernel) -> Iterator[LearnedCondition]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if effect.condition is not None:
                kind = effect_kind(effect)
                yield LearnedCondition(
                    kind, f'guard "{guard.name}"', guard.name, effect.span.at, written(effect), guard.place,
                    (effect.condition,), fails_closed=True,
                )  # fmt: skip


def effect_kind(effect: k.Effect) -> str:
    match effect:
        case k.Deny():
            return "deny"
        case k.Confirm():
            return "confirm"
        case k.ObligationEffect(kind=kind):
            return kind


def limit_conditions(kernel: k.Kernel) -> Iterator[LearnedCondition]:
    for limit in kernel.limits:
        kind = "budget" if isinstance(limit, k.Budget) else "rate"
        rule, when = f'{kind} "{limit.name}"', () if limit.when is None else (limit.when,)
        if limit.when is not None:
            at, words = limit.when.span.at, f"when {' '.join(limit.when.span.text.split())}"
            yield LearnedCondition(kind, rule, limit.name, at, words, limit.place, when)
        if isinstance(limit, k.Rate):
            for up in limit.raises:
                yield LearnedCondition(
                    "raise", rule, limit.name, up.span.at, written(up), limit.place, (*when, up.when)
                )
            for down in limit.clamps:
                yield LearnedCondition(
                    "clamp", rule, limit.name, down.span.at, written(down), limit.place, (*when, down.when),
                    fails_closed=True, lasts=down.lasts,
                )  # fmt: skip


def written(node: k.Effect | k.Raise | k.Clamp) -> str:
    """Return a part of a policy as it is written, on one line."""
    return " ".join(node.span.text.split())


class ConditionEvaluator:
    """Evaluates conditions as the specification does."""

    def __init__(self, kernel: k.Kernel) -> None:
        self.conditions = learned_conditions(kernel)
        self._kernel = kernel
        self._bare = [one.reads_only_learned for one in self.conditions]
        self._values: dict[tuple[object, ...], Value] = {}

    def evaluate(
        self, endpoint: Endpoint, learned: LearnedFacts, facts_of: Callable[[], Facts | Unknown]
    ) -> Iterator[tuple[int, Value]]:
        """Yield the number and the value of each condition that applies at the endpoint of a request. `facts_of`
        returns all facts of the request, or why they are unknown; it is called at most once, when the first condition
        reads a fact that is not learned.
        """
        facts: Facts | Unknown | None = None
        for number, condition in enumerate(self.conditions):
            if not place_covers(condition.place, endpoint):
                continue
            if self._bare[number]:
                yield number, self._bare_value(number, condition, learned)
                continue
            if facts is None:
                facts = facts_of()
            yield number, facts if isinstance(facts, Unknown) else value_of(condition, facts)

    def _bare_value(self, number: int, condition: LearnedCondition, learned: LearnedFacts) -> Value:
        key = (number, *learned.values())
        found = self._values.get(key)
        if found is None:
            if len(self._values) >= MAX_CACHED_VALUES:
                self._values.clear()
            known = {path: learned[name] for path in LEARNED_FACTS if (name := learned_name(path)) in learned}
            bound = {CLUSTER_SIZE: 1, **known}
            facts = Facts(self._kernel, NO_REQUEST, EMPTY_DIRECTORY, NO_TIME, bound, {})
            found = self._values[key] = value_of(condition, facts)
        return found


def bounded_facts(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts | Unknown:
    """Return the facts of a request, without its history; unknown if its decision takes too many steps."""
    facts = build_facts(kernel, request, snapshot, now)
    return TOO_MANY_STEPS if count_steps(SpecifiedRequest.of(facts, snapshot)).exceeded else facts


def value_of(condition: LearnedCondition, facts: Facts) -> Value:
    return conjunction([evaluate(one, facts) for one in condition.expressions])

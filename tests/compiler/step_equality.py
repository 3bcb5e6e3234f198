"""Compares the evaluator with the specification about steps: how many a decision takes, and when it has too many."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from random import Random
from typing import Any

from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.step_state import StartedRequest
from policyengine.entities.store import EntityStore
from policyengine.evaluator import decide as walker
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import reference
from policyengine.spec.evaluate import build_facts
from policyengine.spec.step_count import StepCount, count_steps
from policyengine.spec.step_facts import SpecifiedRequest
from tests.evaluator.sources import followed
from tests.generate.asking import Asking, Setting, askings, setting
from tests.generate.specified import Specified, asked_here, said


@dataclass(slots=True)
class Stepped:
    """A generated policy with an evaluator, beside the specification that remembers what was spent. `tally` counts the
    questions that were compared."""

    asked: Setting
    specified: Specified
    evaluator: Evaluator
    tally: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, asked: Setting) -> Stepped:
        return cls(asked, Specified(asked.kernel, asked.directory), Evaluator(asked.kernel, asked.directory))

    def compare(self, asking: Asking) -> str:
        """Ask both. Raise AssertionError if they differ; return the outcome, or "refused"."""
        try:
            request = asked_here(asking.question)
        except RequestError:
            return "refused"
        moment = request.options.at or asking.now
        snapshot = replace(self.specified.snapshot, history=self.specified.remembered(request, moment, asking.now))
        self.use_entities_again(request, moment)
        expected, effects = reference.decide(self.asked.kernel, request, snapshot, moment)
        found, done = planned_and_resumed(self.evaluator, request, snapshot, moment)
        assert (said(found), done) == (said(expected), effects), (
            f"\nspecified: {said(expected)}\n{effects}\n    found: {said(found)}\n{done}\n{asking}\n\n{self.asked}"
        )
        if not isinstance(request.endpoint, MalformedEndpoint):
            self.compare_steps(request, snapshot, moment, asking)
        if request.options.at is None:
            with suppress(RequestError):  # a question that spends and is about another time
                self.specified.decide(request, asking.now)
        return str(expected.outcome)

    def use_entities_again(self, request: Request, moment: datetime) -> None:
        """Plan the request with no entities, then continue with an evaluator that has the former ones."""
        other = self.evaluator.with_entities(EntityStore())
        other.plan(request, epoch_nanoseconds(moment))
        self.evaluator = other.with_entities(self.asked.directory)

    def compare_steps(self, request: Request, snapshot: Snapshot, moment: datetime, asking: Asking) -> None:
        """Count on both sides, whether or not the sizes of the question call for it."""
        facts = build_facts(self.asked.kernel, request, snapshot, moment)
        expected = count_steps(SpecifiedRequest.of(facts, snapshot))
        found = count_started(self.evaluator, request, snapshot, moment)
        assert by_rule(found) == by_rule(expected), f"{asking}\n\n{self.asked}"
        rules = self.evaluator.program.rules_at(request.endpoint)
        counted = self.evaluator._counts_steps(request, rules)
        assert counted or not expected.exceeded, f"not counted\n{asking}\n\n{self.asked}"
        self.tally["exceeded" if expected.exceeded else "within" if expected.steps else "none"] += 1
        self.tally["counted" if counted else "not counted"] += 1
        if not expected.exceeded and expected.steps:
            self.tally["with approvals"] += bool(request.approvals)
            self.tally["with rows"] += bool(request.entities)
            self.tally["with hops"] += "chain" in request.facts
            self.tally["with history"] += bool(snapshot.history)


def planned_and_resumed(
    evaluator: Evaluator, request: Request, snapshot: Snapshot, moment: datetime
) -> tuple[Decision, Effects]:
    """Decide as the engine does: with the history that the evaluator asks for."""
    planned = evaluator.plan(request, epoch_nanoseconds(moment))
    if not isinstance(planned, Needs):
        return planned
    history = {key: past for key, past in snapshot.history.items() if key in planned.windows}
    return evaluator.resume(planned, replace(snapshot, history=history), epoch_nanoseconds(moment))


def count_started(evaluator: Evaluator, request: Request, snapshot: Snapshot, moment: datetime) -> StepCount:
    rules, entities = evaluator.program.rules_at(request.endpoint), snapshot.entities
    state = walker.start(evaluator.program, rules, request, entities, snapshot.history, epoch_nanoseconds(moment), None)
    found = count_steps(StartedRequest(evaluator._step_nodes, state, snapshot.spent))
    assert state.doubts == []
    return found


def by_rule(count: StepCount) -> list[tuple[int, int, dict[int, int]]]:
    """Return the rules in the order in which they were counted, each with its steps and sizes."""
    return [
        (rule, counted.steps, {node: size for node, (_, size) in counted.sizes.items()})
        for rule, (_, counted) in count.rules.items()
    ]


def hold_steps(seeds: Iterable[int], questions: int, longest: int = 1) -> Counter[str]:
    """Ask so many questions of the policy of each seed, and questions with the approvals that they need; return how
    often each case occurred. Lists have up to `longest` more elements."""
    found: Counter[str] = Counter()
    for seed in seeds:
        stepped, random, later = Stepped.of(setting(seed)), Random(seed), deque[Asking]()
        for generated in islice(askings(seed, questions), questions):
            asking = later.popleft() if later and random.random() < 0.5 else generated
            if type(asking.question) is dict and random.random() < 0.5:
                asking = Asking(lengthened(asking.question, random.randint(0, longest)), asking.now)
            if stepped.compare(asking) == Outcome.CONFIRM:
                later.extend(followed(random, asking, stepped.specified.evaluate(asking.question, asking.now)))
        found += stepped.tally
    return found


def lengthened(value: Any, more: int) -> Any:
    """Return a question whose lists have so many more elements."""
    if type(value) is dict:
        kept = ("approvals", "entities", "chain", "options", "pending")
        return {name: one if name in kept else lengthened(one, more) for name, one in value.items()}
    if type(value) is not list or not value:
        return value
    last = value[-1]
    others = [f"{last}{n}" if type(last) is str else last + n if type(last) is int else last for n in range(more)]
    return [*value, *others]

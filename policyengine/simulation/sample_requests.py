"""Default requests of a workflow: the allowed requests of the policy's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Outcome
from policyengine.testcases import Case

Evaluate = Callable[[Mapping[str, Any]], Decision]


@dataclass(frozen=True, slots=True)
class SampleRequests:
    """Requests of tests that share their entities and their time."""

    questions: tuple[Mapping[str, Any], ...]
    directory: EntityStore
    now: datetime


def collect_samples(cases: Iterable[Case]) -> SampleRequests | None:
    """Return the requests of the first test with an allowed request, and of all tests with the same entities and time.

    None if no test has an allowed request.
    """
    fit = [one for one in cases if is_self_contained(one)]
    if not fit:
        return None
    first = fit[0]
    shared = [one for one in fit if one.rows == first.rows and one.now == first.now]
    return SampleRequests(tuple(distinct(one.question for one in shared)), EntityStore(first.rows.values()), first.now)


def is_self_contained(case: Case) -> bool:
    """Return whether a case expects an allow, and its question and entities are all that it needs."""
    expected = case.expected
    allowed = expected.outcome is Outcome.ALLOW and not expected.negated
    return allowed and case.skip is None and not case.approvals and not case.attributes and not case.behavior


def distinct(questions: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield each question once."""
    seen: list[Mapping[str, Any]] = []
    for question in questions:
        if question not in seen:
            seen.append(question)
            yield question


def limited_requests(questions: Iterable[Mapping[str, Any]], evaluate: Evaluate) -> tuple[Mapping[str, Any], ...]:
    """Return the allowed requests to which a limit applies; if there are none, all allowed requests."""
    answers = [(one, evaluate(one)) for one in questions]
    allowed = [(one, answer) for one, answer in answers if answer.allowed]
    return tuple(one for one, answer in allowed if answer.rates) or tuple(one for one, _ in allowed)

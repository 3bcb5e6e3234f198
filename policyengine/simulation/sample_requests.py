"""What a workflow asks where nobody says it: the requests of the policy's own tests that are allowed."""

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
    """Requests of tests that are made in one directory at one time."""

    questions: tuple[Mapping[str, Any], ...]
    directory: EntityStore
    now: datetime


def collect_samples(cases: Iterable[Case]) -> SampleRequests | None:
    """Of the first test with an allowed request, and of all that share its world; None without any."""
    fit = [one for one in cases if is_self_contained(one)]
    if not fit:
        return None
    first = fit[0]
    shared = [one for one in fit if one.rows == first.rows and one.now == first.now]
    return SampleRequests(tuple(distinct(one.question for one in shared)), EntityStore(first.rows.values()), first.now)


def is_self_contained(case: Case) -> bool:
    """Allowed, and all of it is in the question and the directory."""
    expected = case.expected
    allowed = expected.outcome is Outcome.ALLOW and not expected.negated
    return allowed and case.skip is None and not case.approvals and not case.attributes


def distinct(questions: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each once."""
    seen: list[Mapping[str, Any]] = []
    for question in questions:
        if question not in seen:
            seen.append(question)
            yield question


def limited_requests(questions: Iterable[Mapping[str, Any]], evaluate: Evaluate) -> tuple[Mapping[str, Any], ...]:
    """Those that are allowed and that a limit applies to; without any of these, those that are allowed."""
    answers = [(one, evaluate(one)) for one in questions]
    allowed = [(one, answer) for one, answer in answers if answer.allowed]
    return tuple(one for one, answer in allowed if answer.rates) or tuple(one for one, _ in allowed)

"""Whole cases: a policy with its kernel, entities and questions; and the reduction of a failing case."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from random import Random

from policyengine import kernel as k
from policyengine.check import compile_sources
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Source
from policyengine.spec import reference
from tests.generate.aiming import aimed
from tests.generate.policies import Policy, policy, with_twins
from tests.generate.requests import NOWS, Question, Rows, directory, question, rows

MOST_TRIES = 50
AIMED = 0.7  # of the questions fit their policy; chance alone hardly ever gets past the first gates


@lru_cache(maxsize=256)
def kernel_of(policy: Policy) -> k.Kernel | None:
    """Return the kernel of a policy, or None if the checker reports an error."""
    return compile_sources(Source(f"{number}.policy", text) for number, text in enumerate(policy.texts))[0]


def checked_policy(random: Random, write: Callable[[Random], Policy] = policy) -> Policy:
    """Return a policy without errors. If a random condition is never true, another policy is generated."""
    for _ in range(MOST_TRIES):
        found = write(random)
        if kernel_of(found) is not None:
            return found
    raise AssertionError(f"{MOST_TRIES} policies in a row do not check: the generator is out of step with the checker")


def twinned(random: Random, found: Policy) -> Policy:
    """Return the policy with twins of its rules, if that checks: another constant may make a condition constant."""
    more = with_twins(random, found)
    return found if kernel_of(more) is None else more


@dataclass(frozen=True)
class Case:
    """One question to one policy. Its text shows what to paste into a test."""

    policy: Policy
    rows: Rows
    question: Question
    now: datetime

    @property
    def kernel(self) -> k.Kernel:
        found = kernel_of(self.policy)
        assert found is not None
        return found

    @property
    def request(self) -> Request:
        return Request.from_json(json.dumps(self.question))

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(directory(self.rows))

    def decide(self, kernel: k.Kernel | None = None) -> Decision:
        """Return the answer of the specification, by another kernel if one is given."""
        return reference.decide(kernel or self.kernel, self.request, self.snapshot, self.now)[0]

    def __str__(self) -> str:
        parts = ["\n\n# next file\n".join(self.policy.texts), f"rows = {self.rows!r}", f"question = {self.question!r}"]
        return "\n".join([*parts, f"now = {self.now!r}"])


def cases(seed: int, questions: int = 12) -> Iterator[Case]:
    """Yield several questions for one policy and entity store. A seed always gives the same."""
    random = Random(seed)
    found, known = checked_policy(random), rows(random)
    kernel = kernel_of(found)
    assert kernel is not None
    for _ in range(questions):
        asked = question(random, right=random.choice([0.8, 0.95, 1.0]))
        asked = aimed(random, asked, kernel) if random.random() < AIMED else asked
        yield Case(found, known, asked, random.choice(NOWS))


# ── Small cases ───────────────────────────────────────────────────────────────────────────────


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Return a smaller case that still fails, without unnecessary declarations, rows and members of the question."""
    before = None
    while case is not before:
        before = case
        for declaration in [one for file in case.policy.files for one in file.declarations]:
            without = case.policy.without(declaration)
            if kernel_of(without) is not None and fails(smaller := replace(case, policy=without)):
                case = smaller
        while (found := next(filter(fails, _smaller(case)), None)) is not None:
            case = found
    return case


def _smaller(case: Case) -> Iterator[Case]:
    for index in range(len(case.rows)):
        yield replace(case, rows=case.rows[:index] + case.rows[index + 1 :])
    for root, members in case.question.items():
        if root not in ("request", "tool", "action", "resource"):
            yield replace(case, question={key: value for key, value in case.question.items() if key != root})
        for name in members if isinstance(members, dict) and root not in ("tool", "action", "resource") else ():
            kept = {key: value for key, value in members.items() if key != name}
            if root != "request" or name not in ("method", "path"):
                yield replace(case, question={**case.question, root: kept})

"""The walker decides as the specification does: generated policies, hostile questions, and sequences with approvals."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from itertools import islice
from random import Random

import pytest

from policyengine.runtime.decision import Outcome
from tests.compiler.equality import followed
from tests.evaluator.equality import Walked, hold_walker
from tests.generate.asking import Asking, askings, setting
from tests.generate.hazards import HAZARDS
from tests.generate.requests import NOW

SHARDS, POLICIES, QUESTIONS = 4, 12, 40


@pytest.mark.parametrize("shard", range(SHARDS))
def test_generated_questions_are_decided_as_specified(shard: int) -> None:
    first = 5_000 + shard * POLICIES
    found = hold_walker(range(first, first + POLICIES), QUESTIONS)
    assert found["allow"] > 50
    assert found["deny"] > 100


@pytest.mark.parametrize("seed", range(6_000, 6_016))
def test_sequences_with_approvals_are_decided_as_specified(seed: int) -> None:
    walked, random, later = Walked.of(setting(seed)), Random(seed), deque[Asking]()
    for generated in islice(askings(seed, QUESTIONS), QUESTIONS):
        asking = later.popleft() if later and random.random() < 0.5 else generated
        if walked.compare(asking) == Outcome.CONFIRM:
            later.extend(followed(random, asking, walked.specified.evaluate(asking.question, asking.now)))


@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda hazard: hazard.__name__)
def test_hostile_questions_are_decided_as_specified(hazard) -> None:
    for seed in range(7_000, 7_004):
        walked, random = Walked.of(setting(seed)), Random(seed)
        for asking in islice(askings(seed, 10), 10):
            if type(asking.question) is dict:
                walked.compare(Asking(hazard(random, deepcopy(asking.question)), NOW))

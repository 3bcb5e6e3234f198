"""A fault in the walker is found: each of a table of seeded faults, by generated questions and sequences."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from policyengine.evaluator import is_compiled
from policyengine.runtime.decision import Outcome
from tests.compiler.equality import followed
from tests.evaluator.equality import Walked
from tests.evaluator.faults import FAULTS, Patch
from tests.generate.asking import Asking, askings, setting

QUESTIONS = 40


@pytest.mark.skipif(is_compiled(), reason="compiled functions call each other directly, so none can be replaced")
@pytest.mark.parametrize(("fault", "seed"), FAULTS.items(), ids=lambda one: getattr(one, "__name__", str(one)))
def test_generated_questions_find_a_seeded_fault_of_the_walker(
    fault: Callable[[Patch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    walked, random, later = Walked.of(setting(seed)), Random(seed), deque[Asking]()
    with pytest.raises(AssertionError, match="specified: "):  # noqa: PT012  # any question may be the one
        for generated in islice(askings(seed, QUESTIONS), QUESTIONS):
            asking = later.popleft() if later and random.random() < 0.5 else generated
            if walked.compare(asking) == Outcome.CONFIRM:
                later.extend(followed(random, asking, walked.specified.evaluate(asking.question, asking.now)))

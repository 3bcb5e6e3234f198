"""Long runs: very many changes of generated policies, and none that the comparison misses."""

from __future__ import annotations

from random import Random

import pytest

from policyengine.analysis import compare
from tests.analysis.mutating import mutated
from tests.analysis.test_laws import missed
from tests.analysis.test_spellings import missed_spellings
from tests.generate import kernel_of
from tests.generate.asking import setting

pytestmark = pytest.mark.deep

CHANGES = 4  # of each policy
POLICIES = 50
QUESTIONS = 100
SPELLED = 200  # pairs of policies


@pytest.mark.parametrize("first", range(10_000, 10_000 + POLICIES, 10))
def test_diff_misses_no_difference_of_randomly_changed_policies(first: int) -> None:
    for seed in range(first, first + 10):
        found = setting(seed)
        for number in range(CHANGES):
            changed = mutated(Random(f"change {seed} {number}"), found.policy)
            new = None if changed is None else kernel_of(changed)
            if new is not None:
                diff = compare(found.kernel, new, samples=0)
                assert missed(found, new, diff, seed, QUESTIONS) == [], f"seed {seed}, change {number}"


@pytest.mark.parametrize("first", range(1_000, 1_000 + SPELLED, 20))
def test_diff_misses_no_difference_at_paths_in_another_letter_case(first: int) -> None:
    for seed in range(first, first + 20):
        assert missed_spellings(seed) == [], f"seed {seed}"

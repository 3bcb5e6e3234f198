"""Long runs: bundles changed by chance, many policies each."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compiler.hostile import refused_or_sound

pytestmark = pytest.mark.deep


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_many_randomly_changed_bundles_are_rejected_or_decide(seed: int) -> None:
    refused_or_sound(seed, changes=40)

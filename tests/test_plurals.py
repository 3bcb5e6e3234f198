"""Words that agree with a number."""

from __future__ import annotations

import pytest

from policyengine.plurals import format_seconds, pluralize


@pytest.mark.parametrize(("count", "words"), [(0, "0 rules"), (1, "1 rule"), (1204, "1,204 rules")])
def test_a_noun_agrees_with_its_number(count: int, words: str) -> None:
    assert pluralize(count, "rule") == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "1 second"), (1.0, "1 second"), (0.5, "0.5 seconds"), (60, "60 seconds")]
)
def test_a_duration_is_a_number_of_seconds(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words

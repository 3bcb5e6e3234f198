"""What a diff says of whose word two policies take."""

from __future__ import annotations

import pytest

from policyengine.analysis.diff.answer_order import Direction
from policyengine.analysis.diff.trust import trust_changes
from policyengine.engine import Engine

ISSUER = 'issuer acme {{ url "https://login.acme.example"   {} }}\nanyone {{ may GET /x }}\n'
LIKE, AUDIENCE = 'users like "*@acme.example"', 'audience "api"'


def kernel(says: str):
    return Engine.from_text(ISSUER.format(says)).kernel


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        (LIKE, "", Direction.WIDENING),
        ("", LIKE, Direction.NARROWING),
        (LIKE, 'users like "*@other.example"', Direction.CHANGED),
        (AUDIENCE, "", Direction.WIDENING),
        ("", AUDIENCE, Direction.NARROWING),
        (f"{AUDIENCE}   {LIKE}", "", Direction.CHANGED),
    ],
)
def test_a_change_of_issuer_restrictions_has_a_direction(before: str, after: str, direction: Direction) -> None:
    [found] = trust_changes(kernel(before), kernel(after))
    assert found.direction is direction

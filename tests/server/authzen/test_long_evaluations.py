"""An evaluation that loops over attributes for long does not stop the event loop."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine import Engine
from policyengine.server.authzen.adapter import AuthzenAdapter
from policyengine.server.authzen.requests import AuthzenRequest
from tests.compiler.test_size_estimates import HEAD, alice
from tests.server.authzen.asking import READ

POLICY = (
    HEAD + "anyone { may ACTION read invoice }"
    'guard "g" on ACTION read invoice { deny when any a in user.tags: any b in user.tags: a != b and contains(a, "z") }'
)
MEMBERS: dict[str, Any] = {
    "subject": {"type": "user", "id": "alice"}, "action": READ, "resource": {"type": "invoice", "id": "7"},
}  # fmt: skip


@pytest.mark.parametrize("items", [(), ({}, {"resource": {"type": "invoice", "id": "8"}})], ids=["one", "several"])
@pytest.mark.parametrize(("tags", "at_once"), [(5, True), (100, False)])
def test_an_evaluation_is_answered_at_once_only_if_its_loops_are_short(
    items: tuple[dict[str, Any], ...], tags: int, at_once: bool
) -> None:
    adapter = AuthzenAdapter(Engine.from_text(POLICY, directory=alice(tags)))
    assert adapter.may_answer_at_once(AuthzenRequest(MEMBERS, items=items)) == at_once


def test_an_item_that_cannot_be_read_does_not_take_long() -> None:
    adapter = AuthzenAdapter(Engine.from_text(POLICY, directory=alice(100)))
    for item in ("text", {"action": 7}, {"action": {"name": "unmapped action"}}):
        assert not adapter.item_loops_long(AuthzenRequest(MEMBERS), item)

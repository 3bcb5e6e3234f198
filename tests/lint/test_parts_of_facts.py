"""Warnings look through definitions, records and references to the facts below them."""

from __future__ import annotations

import pytest

from policyengine.check import check_text, lint_text
from policyengine.engine import Engine
from policyengine.lint.presence_checks import presence_checks

CLASH = "`request.size > 9` and `request.size < 5` are never true together"
KNOWN = "entity user { manager: user?  tenant: string? }\nfacts { context.client: { id: string? } }\n"


@pytest.mark.parametrize(
    "text",
    [
        "define big = request.size > 9\nanyone { may GET /a when big and request.size < 5 }\n",
        "define both = request.size > 9 and request.size < 5\nanyone { may GET /a when both }\n",
    ],
)
def test_parts_that_contradict_each_other_are_found_in_definitions(text: str) -> None:
    assert [(one.code, one.hint) for one in check_text(text)] == [("E701", CLASH)]


def test_a_member_of_what_the_caller_says_is_what_the_caller_says() -> None:
    text = 'anyone { may GET /a }\nrate "busy" per context.client.id on GET /a { 2/1m }\n'
    assert "W555" in {one.code for one in lint_text(KNOWN + text)}


def test_whether_a_part_is_there_is_whether_its_fact_is() -> None:
    checks = 'user.manager.tenant is present or context.client.id is absent or (user.tenant else "x") == "y"'
    kernel = Engine.from_text(KNOWN + f'guard "g" on GET /a {{ deny when {checks} }}').kernel
    assert sorted((path, span.text) for path, span in presence_checks(kernel.guards)) == [
        (("context", "client"), "context.client.id is absent"),
        (("user",), '(user.tenant else "x")'),
        (("user",), "user.manager.tenant is present"),
    ]

"""The warning of `mcp-gateway` about confirms that cannot be answered."""

from __future__ import annotations

import pytest

from policyengine.cli.confirm_warnings import unanswered_confirms_warning
from policyengine.engine import Engine

POLICY = """
language 1
package notes
issuer local {{ scopes none }}
entity user {{ roles: set<string> }}
entity mcp_resource {{}}
users unrestricted
agent "coder" {{ issued by local   acts for any user   may TOOL notes/** }}
guard "ask first" {place} {{ {confirms} }}
"""
BY_USER = "confirm by user within 5m"
BY_ROLE = "confirm by role finance within 5m"
WARNING = (
    "the approval by {by} that guard `ask first` requires{more} cannot be given, because approvals are in the memory "
    "of this gateway: {remedy}share a store with `serve` (`--store sqlite:///state.db`)"
)
ASK = "let the client ask its user (`--elicit form`), or "


def warning_about(confirms: str, place: str = "on TOOL notes/**", *, asks_users: bool = False) -> str | None:
    kernel = Engine.from_text(POLICY.format(place=place, confirms=confirms)).kernel
    return unanswered_confirms_warning(kernel, "notes", asks_users=asks_users)


@pytest.mark.parametrize(
    ("confirms", "asks_users", "by", "more", "remedy"),
    [
        (BY_USER, False, "user", "", ASK),
        (BY_ROLE, False, "role finance", "", ""),
        (f"{BY_USER}\n{BY_ROLE}", False, "user", " and 1 other confirm", ASK),
        (f"{BY_USER}\n{BY_ROLE}", True, "role finance", "", ""),
        ("confirm by 2 of role finance within 5m", True, "2 of role finance", "", ""),
    ],
)
def test_a_confirm_that_cannot_be_answered_is_warned_of(
    confirms: str, asks_users: bool, by: str, more: str, remedy: str
) -> None:
    assert warning_about(confirms, asks_users=asks_users) == WARNING.format(by=by, more=more, remedy=remedy)


@pytest.mark.parametrize("place", ["", "on TOOL */read", "on ACTION read mcp_resource"])
def test_a_guard_that_may_apply_to_what_the_server_offers_counts(place: str) -> None:
    assert warning_about(BY_ROLE, place) is not None


@pytest.mark.parametrize(
    ("confirms", "place", "asks_users"),
    [
        (BY_USER, "on TOOL notes/**", True),
        ("deny when request.ip is absent", "on TOOL notes/**", False),
        (BY_USER, "on TOOL other/*", False),
        (BY_USER, "on POST /notes", False),
    ],
)
def test_there_is_no_warning_without_such_a_confirm(confirms: str, place: str, asks_users: bool) -> None:
    assert warning_about(confirms, place, asks_users=asks_users) is None

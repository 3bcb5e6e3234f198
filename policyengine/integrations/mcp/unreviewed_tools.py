"""The choice between denying tools that were not reviewed and letting policies decide. Depends on no SDK."""

from enum import StrEnum


class UnreviewedTools(StrEnum):
    """The treatment of tools that are not reviewed: they are hidden and denied, or policies decide, with the facts
    `tool.pinned`, `tool.changed` and `tool.hash`."""

    DENY = "deny"
    DECIDE = "decide"

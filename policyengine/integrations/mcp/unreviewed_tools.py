"""What happens to tools whose definition was not reviewed. Nothing here depends on an SDK."""

from enum import StrEnum


class UnreviewedTools(StrEnum):
    """Tools that are not reviewed are hidden and denied, or policies decide with the facts `tool.pinned`,
    `tool.changed` and `tool.hash`."""

    DENY = "deny"
    DECIDE = "decide"

"""The names of notifications and of the method that subscribes to them, and the type of functions that receive them.
Nothing here depends on an SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

Notice: TypeAlias = Callable[[str], None]  # receives the method of a notification

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
CANCELLED = "notifications/cancelled"
INITIALIZED = "notifications/initialized"
PROGRESS = "notifications/progress"
LOG_MESSAGE = "notifications/message"
RESOURCE_UPDATED = "notifications/resources/updated"
TOOLS_CHANGED = "notifications/tools/list_changed"
# Changes of lists, by the member with which a client subscribes to them.
LIST_CHANGES: Mapping[str, str] = {
    TOOLS_CHANGED: "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


def ignore_method(method: str) -> None:
    """Ignore a notification."""

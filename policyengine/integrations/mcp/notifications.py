"""The names of notifications and of the method that subscribes to them. Nothing here depends on an SDK."""

from __future__ import annotations

from collections.abc import Mapping

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
CANCELLED = "notifications/cancelled"
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

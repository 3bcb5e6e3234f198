"""How the gateway carries each method between the eras, as `docs/mcp-versions.md` shows it: for a legacy client in
front of a modern server, and for a modern client in front of a legacy server.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PASSED: Final = "passed on"
UNKNOWN: Final = "error -32601"
DROPPED: Final = "dropped"
ABSENT: Final = "–"
BY_GATEWAY: Final = "answered by the gateway"


class CarriedMethod(NamedTuple):
    """A method: `to_modern` says how it passes between a legacy client and a modern server, `to_legacy` how it passes
    between a modern client and a legacy server."""

    method: str
    to_modern: str
    to_legacy: str


ALIKE: Final = (
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
)
CLIENT_ROWS: Final = (
    CarriedMethod("initialize", f"{BY_GATEWAY}, from `server/discover`", "error -32601, over stdio -32022"),
    CarriedMethod("server/discover", UNKNOWN, f"{BY_GATEWAY}, from `initialize`"),
    *(CarriedMethod(method, PASSED, PASSED) for method in ALIKE),
    CarriedMethod("ping", BY_GATEWAY, UNKNOWN),
    CarriedMethod("resources/subscribe", "as `subscriptions/listen`", UNKNOWN),
    CarriedMethod("resources/unsubscribe", "as `subscriptions/listen`", UNKNOWN),
    CarriedMethod("subscriptions/listen", UNKNOWN, "as `resources/subscribe` of each resource"),
    CarriedMethod("logging/setLevel", UNKNOWN, UNKNOWN),
    CarriedMethod("notifications/initialized", "begins the subscription to list changes", DROPPED),
    CarriedMethod("notifications/cancelled", PASSED, "passed on; over HTTP, a closed connection cancels"),
    CarriedMethod("notifications/progress", DROPPED, DROPPED),
    CarriedMethod("notifications/roots/list_changed", DROPPED, DROPPED),
)
QUESTION: Final = ("a request to the client, from `input_required`", "a result `input_required`")
CHANGE: Final = ("passed on, from the subscription", "passed on to clients that listen")
SERVER_ROWS: Final = (
    *(CarriedMethod(method, *QUESTION) for method in ("sampling/createMessage", "elicitation/create", "roots/list")),
    CarriedMethod("ping", ABSENT, BY_GATEWAY),
    CarriedMethod("notifications/progress", PASSED, PASSED),
    CarriedMethod("notifications/message", DROPPED, "passed on to requests with a log level"),
    CarriedMethod("notifications/tools/list_changed", *CHANGE),
    CarriedMethod("notifications/prompts/list_changed", *CHANGE),
    CarriedMethod("notifications/resources/list_changed", *CHANGE),
    CarriedMethod("notifications/resources/updated", *CHANGE),
    CarriedMethod("notifications/subscriptions/acknowledged", "taken by the gateway", "written by the gateway"),
    CarriedMethod("notifications/elicitation/complete", ABSENT, DROPPED),
    CarriedMethod("notifications/cancelled", "ends the subscription", DROPPED),
)


def table_lines() -> list[str]:
    """Return the lines of the table in Markdown."""
    head = "| method | legacy client, modern server | modern client, legacy server |"
    lines = [head, "|---|---|---|", "| *from the client* | | |"]
    lines += [f"| `{row.method}` | {row.to_modern} | {row.to_legacy} |" for row in CLIENT_ROWS]
    lines.append("| *from the server* | | |")
    lines += [f"| `{row.method}` | {row.to_modern} | {row.to_legacy} |" for row in SERVER_ROWS]
    return lines

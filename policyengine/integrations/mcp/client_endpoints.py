"""Maps what an MCP server asks of its client to questions: sampling, elicitation, roots and log messages.

Each is an action on the entity `mcp_client` with the server's name as its ID, with the parameters of the message as
`args`. Nothing here depends on an SDK.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.elicitation import ELICIT_METHOD
from policyengine.integrations.mcp.methods import action_facts, pending_http_facts
from policyengine.integrations.mcp.notifications import LOG_MESSAGE

CLIENT_ENTITY = "mcp_client"
CLIENT_ACTIONS: Mapping[str, str] = {
    "sampling/createMessage": "sample",
    ELICIT_METHOD: "elicit",
    "roots/list": "list_roots",
    LOG_MESSAGE: "log",
}
FORM_MODE = "form"  # the mode of an elicitation that names none
MAX_TEXT_LENGTH = 60_000  # characters of `context.text`; a longer text is unknown
MAX_TEXT_DEPTH = 32


def build_client_question(method: str, params: Mapping[str, Any], server: str, facts: Facts) -> dict[str, object]:
    """Return the question for one of the CLIENT_ACTIONS. `facts` describe the caller for whom the server works."""
    arguments = {name: value for name, value in params.items() if name != "_meta"}
    asked = {**facts, **action_facts(CLIENT_ACTIONS[method], CLIENT_ENTITY, server, server, facts)}
    if method == ELICIT_METHOD:
        arguments.setdefault("mode", FORM_MODE)
        context, text = asked["context"], elicited_text(params)
        if isinstance(context, Mapping):
            known = {name: value for name, value in context.items() if name != "text"}
            asked["context"] = known if text is None else {**known, "text": text}
    return {**asked, "args": arguments, **pending_http_facts(facts)}


def elicited_text(params: Mapping[str, Any]) -> str | None:
    """Return every text that a form shows: the message, and all names and texts of its schema. None if it is too long,
    or too deep.
    """
    words, length = [], 0
    for word in nested_texts([params.get("message"), params.get("url"), params.get("requestedSchema")]):
        length += len(word) + 1
        if length > MAX_TEXT_LENGTH:
            return None
        words.append(word)
    return "\n".join(words)


def nested_texts(value: object) -> Iterator[str]:
    """Yield the strings in a JSON value, and the names of its members. A value that is too deep yields a text that is
    too long.
    """
    waiting = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > MAX_TEXT_DEPTH:
            yield " " * MAX_TEXT_LENGTH
            return
        match inner:
            case str():
                yield inner
            case Mapping():
                waiting += [(part, depth + 1) for pair in inner.items() for part in pair]
            case list() | tuple():
                waiting += [(part, depth + 1) for part in inner]
            case _:
                pass


def suggest_grant(method: str, server: str) -> str:
    """Return the line of a policy that would allow a message of this server."""
    words = server.replace("\\", "\\\\").replace('"', '\\"')
    return f'may ACTION {CLIENT_ACTIONS[method]} {CLIENT_ENTITY} when resource.id == "{words}"'

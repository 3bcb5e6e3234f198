"""Turns the question about an HTTP request to an MCP server into a question about a tool, a resource or a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policyengine.http.gateway_omissions import ForwardedParts, HeaderValues
from policyengine.http.gateway_questions import Content, RequestTarget, whole_body
from policyengine.integrations.mcp.methods import (
    CLIENT_NOTIFICATIONS,
    DECIDED_METHODS,
    LIST_METHODS,
    UNDECIDED_METHODS,
    endpoint_facts,
    refuse_alias,
)
from policyengine.runtime.paths import find_control_characters, find_disguised_name, find_override
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import quote_input
from policyengine.server.mcp.calls import NAME_PARAMETERS, McpCall, read_body, read_headers_only
from policyengine.server.mcp.header_values import McpHeaders
from policyengine.server.mcp.servers import McpServer, McpServerTable

SERVER_TYPE, CONNECT, LIST = "mcp_server", "connect", "list"
# Methods about the server as a whole, with the verb of their action. `resources/unsubscribe` is about a resource, and
# not one of them.
SERVER_METHODS: Mapping[str, str] = {
    **dict.fromkeys((UNDECIDED_METHODS | CLIENT_NOTIFICATIONS) - {"resources/unsubscribe"}, CONNECT),
    **dict.fromkeys(LIST_METHODS, LIST),
}
TAKES_ARGUMENTS = frozenset({"tools/call", "prompts/get"})
HTTP_TARGET = frozenset({"method", "path"})


@dataclass(frozen=True, slots=True)
class McpQuestions:
    """Builds the questions of all MCP servers behind gateways. `proved` returns, for the name of a server, the methods
    whose headers it is known to compare with the body.
    """

    table: McpServerTable
    proved: Callable[[str], frozenset[str]]

    def question(
        self,
        question: Mapping[str, object],
        target: RequestTarget,
        given: HeaderValues,
        content: Content | None,
        forwarded: ForwardedParts,
    ) -> Mapping[str, object]:
        """Return the question for the MCP request, if the HTTP request is for a server that validates headers;
        otherwise the question as it is. Raises RequestError.

        The arguments are known only if the gateway sends the whole body. Then the body decides, so nothing depends on
        the server's validation, and the headers must agree with it.
        """
        server = self.table.find(target)
        if server is None or not server.validates_headers:
            return question
        headers, whole = McpHeaders.read(given, forwarded), whole_body(given, content)
        if isinstance(whole, bytes):
            call = read_body(headers, given, whole)
        else:
            call = read_headers_only(headers, self.proved(server.name))
        return mcp_question(question, server, call)


def mcp_question(question: Mapping[str, object], server: McpServer, call: McpCall) -> Mapping[str, object]:
    """Return the question about the endpoint of the call, with the facts of the question. Raises RequestError."""
    request = question.get("request")
    http = request if isinstance(request, Mapping) else {}
    overridden = find_override(http.get("headers") or {}, http.get("query") or {}, {})
    if overridden is not None:
        raise RequestError("request", overridden)
    others = {name: value for name, value in question.items() if name not in ("request", "body", "pending")}
    facts = {**others, "request": {name: value for name, value in http.items() if name not in HTTP_TARGET}}
    found = call_facts(call, server.name, facts)
    if not call.is_whole:
        found.pop("args", None)
    return {**found, "pending": list(pending_facts(question, found, call))}


def call_facts(call: McpCall, server: str, facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts with the endpoint of the call. Raises RequestError for a method that policies do not decide, and
    for a name that some servers read as another name.
    """
    verb = SERVER_METHODS.get(call.method)
    if verb is not None:
        return {**facts, **server_action(verb, server)}
    if call.method not in (DECIDED_METHODS if call.is_whole else NAME_PARAMETERS):
        raise RequestError("method", f"gateways do not decide the MCP method `{quote_input(call.method)}`")
    name = call.params.get("name")
    hazard = find_name_hazard(name) if call.method in TAKES_ARGUMENTS and isinstance(name, str) else None
    denial = refuse_alias(call.method, call.params)
    if hazard is not None or denial is not None:
        raise RequestError("name", f"the name has {hazard}" if denial is None else denial.reasons[0].message)
    return endpoint_facts(call.method, call.params, server, facts)


def server_action(verb: str, server: str) -> dict[str, object]:
    """Return the facts of an action on an MCP server as a whole."""
    return {
        "action": {"name": verb}, "resource": {"type": SERVER_TYPE, "id": server}, "context": {"server": server},
    }  # fmt: skip


def find_name_hazard(name: str) -> str | None:
    """Return why some server may read the name as another name; None if no server would."""
    edges = "white space at its edge" if name != name.strip() else None
    return edges or find_control_characters(name) or find_disguised_name(name)


def pending_facts(question: Mapping[str, object], found: Mapping[str, object], call: McpCall) -> list[str]:
    """Return the pending facts of the question. The body is the message of MCP, so it is not a fact itself."""
    listed = question.get("pending")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    kept = [name for name in names if name != "body" and not (name == "context" and "context" in found)]
    others = ["context.*"] if "context" in found and "context" in names else []
    arguments = ["args"] if call.method in TAKES_ARGUMENTS and not call.is_whole else []
    return [*kept, *others, *arguments]

"""Maps the methods of MCP to questions: the decision before each method, and the visible items of a list.

A tool is `TOOL server/name`. Reading a resource is `ACTION read mcp_resource` on the entity with that URI, and getting
a prompt is `ACTION get mcp_prompt` on the entity with that name, both with `context.server`. Nothing here depends on an
SDK.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from policyengine.http.resource_uris import canonical_template, canonical_uri, template_glob
from policyengine.integrations.enforcement_point import (
    Facts,
    PolicyDecisionPoint,
    evaluate,
    evaluate_listed,
    make_denial,
)
from policyengine.integrations.mcp.pinned_tools import with_tool_facts
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.runtime.paths import MalformedPath
from policyengine.runtime.pending_texts import pending_glob, pending_text
from policyengine.runtime.values import Invalid
from policyengine.tool_pins.listed_tools import ListedTool

UNDECIDED_METHODS = frozenset({"initialize", "ping", "server/discover", "resources/unsubscribe"})
URI_METHODS = frozenset({"resources/read", "resources/subscribe"})
DECIDED_METHODS = frozenset({"tools/call", "resources/read", "resources/subscribe", "prompts/get"})
NOTIFICATIONS = "notifications/"
# Signals of a client. They change nothing that a policy decides; a server may attach anything to other notifications.
CLIENT_NOTIFICATIONS = frozenset(
    f"{NOTIFICATIONS}{name}" for name in ("initialized", "cancelled", "progress", "roots/list_changed")
)
# Matches a reason for a denial that names a pending fact; the arguments of the call may supply the fact.
PENDING = re.compile(r"`(?!request\.)[^`]*` is unknown: pending\b")
# FastMCP also finds a tool by a second name, a hash followed by the tool's name. A rule about the tool's name does not
# match the second name.
SECOND_NAME = re.compile(r"__[0-9a-f]{8,}_.", re.DOTALL)
ALIAS_MESSAGE = "call the tool by its listed name"
MAX_FOLLOWED = 100  # resources and tasks that one stream follows; each is decided before the stream begins
ITEMS_PER_TURN = 16  # number of items to check before other tasks run

# MCP leaves -32000 to -32019 to implementations; the SDKs use the first of them.
DENIED, UNCONFIRMED, THROTTLED = -32003, -32004, -32005
ERROR_CODES = {Outcome.DENY: DENIED, Outcome.CONFIRM: UNCONFIRMED, Outcome.THROTTLE: THROTTLED}
METHOD_NOT_FOUND = -32601

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class McpListMethod:
    """A list method: the member of its result with the items, and the member of an item with its name; `label` names
    the items in messages. If `is_partial`, a template counts as a pending URI, otherwise as a URI with the text of the
    template.
    """

    items: str
    name: str
    asked_as: str
    has_templates: bool = False
    is_partial: bool = False

    @property
    def label(self) -> str:
        return "resource templates" if self.has_templates else self.items

    def resource_id(self, name: str) -> object:
        """Return the `resource.id` of an item that is a resource or template; an Invalid if the policy cannot allow
        it."""
        if not self.is_partial:
            return canonical_resource_id(name, is_template=self.has_templates)
        glob = template_glob(name)
        return Invalid(f"a malformed URI: {glob.why}") if isinstance(glob, MalformedPath) else pending_text(glob)


LIST_METHODS: Mapping[str, McpListMethod] = {
    "tools/list": McpListMethod("tools", "name", "tools/call"),
    "resources/list": McpListMethod("resources", "uri", "resources/read"),
    "resources/templates/list": McpListMethod(
        "resourceTemplates", "uriTemplate", "resources/read", has_templates=True, is_partial=True
    ),
    "prompts/list": McpListMethod("prompts", "name", "prompts/get"),
}
# The suggested values of a template may name any of its URIs.
COMPLETED_TEMPLATE = McpListMethod("resourceTemplates", "uriTemplate", "resources/read", has_templates=True)


# Facts of an HTTP request, which an MCP server may not have.
REQUEST_FACTS: Mapping[str, str] = {
    **{name: f"request.{name}.*" for name in ("headers", "query")},
    **{name: f"request.{name}" for name in ("host", "ip", "size")},
}


def build_mcp_question(method: str, params: Mapping[str, Any], server: str, facts: Facts) -> dict[str, object]:
    """Return the question for one of the DECIDED_METHODS; `facts` describe only the caller. Facts of the HTTP request
    that `facts` lack are pending.
    """
    return {**endpoint_facts(method, params, server, facts), **pending_http_facts(facts)}


def pending_http_facts(facts: Facts) -> dict[str, object]:
    """Return the member `pending`, with the facts of the HTTP request that `facts` lack; nothing if none is missing."""
    http = facts.get("request")
    said = http if isinstance(http, Mapping) else {}
    pending = [fact for name, fact in REQUEST_FACTS.items() if name not in said]
    return {"pending": pending} if pending else {}


def endpoint_facts(method: str, params: Mapping[str, Any], server: str, facts: Facts) -> dict[str, object]:
    match method:
        case "tools/call":
            endpoint = {"tool": {"server": server, "name": params.get("name")}}
            return {**facts, **endpoint, "args": get_arguments(params)}
        case "prompts/get":
            return {
                **facts,
                **action_facts("get", "mcp_prompt", params.get("name"), server, facts),
                "args": get_arguments(params),
            }
        case "resources/read" | "resources/subscribe":
            return {
                **facts,
                **action_facts("read", "mcp_resource", canonical_resource_id(params.get("uri")), server, facts),
            }
        case _:
            raise ValueError(f"`{method}` is not a method that policies decide")


def get_arguments(params: Mapping[str, Any]) -> object:
    """Return the arguments, `{}` if there are none. A value that is not an object is passed on, so that the decision
    refuses it.
    """
    arguments = params.get("arguments")
    return {} if arguments is None else arguments


def action_facts(verb: str, type: str, name: object, server: str, facts: Facts) -> dict[str, object]:
    context = facts.get("context")
    beside = context if isinstance(context, Mapping) else {}
    return {
        "action": {"name": verb},
        "resource": {"type": type, "id": name if name is None or isinstance(name, Invalid) else str(name)},
        "context": {**beside, "server": server},
    }


def canonical_resource_id(uri: object, *, is_template: bool = False) -> str | Invalid | None:
    """Return a URI, or a template, in the spelling that policies compare; an Invalid if it is malformed, and None if
    there is none.
    """
    if uri is None:
        return None
    found = canonical_template(str(uri)) if is_template else canonical_uri(str(uri))
    return Invalid(f"a malformed URI: {found.why}") if isinstance(found, MalformedPath) else found


def refuse_alias(method: str, params: Mapping[str, Any]) -> Decision | None:
    """Return the denial of a name or URI that the server would read as another name or URI, or None."""
    name, uri = params.get("name"), canonical_resource_id(params.get("uri")) if method in URI_METHODS else None
    if method == "tools/call" and isinstance(name, str) and SECOND_NAME.match(name):
        return make_denial(ALIAS_MESSAGE, Gate.DEFAULT)
    return make_denial(uri.why, Gate.MALFORMED_PATH) if isinstance(uri, Invalid) else None


async def evaluate_use(
    decides: PolicyDecisionPoint, method: str, params: Mapping[str, Any], server: str, facts: Facts
) -> Decision:
    """Evaluate one of the DECIDED_METHODS. Nothing is committed."""
    if (no := refuse_alias(method, params)) is not None:
        return no
    return await evaluate(decides, build_mcp_question(method, params, server, facts))


# ── Lists ─────────────────────────────────────────────────────────────────────────────────────


async def filter_visible(
    decides: PolicyDecisionPoint,
    listing: McpListMethod,
    items: Sequence[Item],
    names: Sequence[object],
    server: str,
    facts: Facts,
    tools: Sequence[ListedTool | None] | None = None,
) -> list[Item]:
    """Return the items that the caller may use with at least some arguments. Nothing is committed. Of items with the
    same name, only the first is returned: the server answers requests by name, whatever the other items say. `tools`
    describes the definitions of the items, if they are tools with pins.
    """
    found, known = [], set[str]()
    for at, (item, name) in enumerate(zip(items, names, strict=True)):
        if isinstance(name, str) and name not in known:
            known.add(name)
            if await is_visible(decides, listing, name, server, facts, tools[at] if tools else None):
                found.append(item)
        if at % ITEMS_PER_TURN == ITEMS_PER_TURN - 1:
            await asyncio.sleep(0)
    return found


async def is_visible(
    decides: PolicyDecisionPoint,
    listing: McpListMethod,
    name: object,
    server: str,
    facts: Facts,
    tool: ListedTool | None = None,
) -> bool:
    if not isinstance(name, str) or (listing.asked_as in URI_METHODS and is_malformed(listing.resource_id(name))):
        return False
    return might_pass(await evaluate_item(decides, listing, name, server, facts, tool))


def is_malformed(id: object) -> bool:
    return isinstance(id, Invalid) and pending_glob(id) is None


async def evaluate_item(
    decides: PolicyDecisionPoint,
    listing: McpListMethod,
    name: str,
    server: str,
    facts: Facts,
    tool: ListedTool | None = None,
) -> Decision:
    """Evaluate an item while its arguments are unknown."""
    asked = with_tool_facts(build_mcp_question(listing.asked_as, {"name": name, "uri": name}, server, facts), tool)
    if listing.has_templates:
        asked["resource"] = {"type": "mcp_resource", "id": listing.resource_id(name)}
    if asked.pop("args", None) is not None:
        asked["pending"] = [*asked.get("pending", ()), "args"]  # type: ignore[misc]  # it is a list
    return await evaluate_listed(decides, asked)


def might_pass(decision: Decision) -> bool:
    """Return whether the decision is not a deny, or is a deny all of whose reasons name pending facts that the
    arguments may supply.
    """
    if decision.outcome is not Outcome.DENY:
        return True
    denies = [one for one in decision.reasons if one.outcome is Outcome.DENY]
    return bool(denies) and all(PENDING.search(one.message) for one in denies)


# ── Requests for several entities ─────────────────────────────────────────────────────────────


def completion_target(params: Mapping[str, Any]) -> tuple[McpListMethod, object] | None:
    """Return the entity for which `completion/complete` wants suggestions; None if its kind is unknown."""
    match params.get("ref"):
        case {"type": "ref/prompt", "name": name}:
            return LIST_METHODS["prompts/list"], name
        case {"type": "ref/resource", "uri": uri}:
            return COMPLETED_TEMPLATE, uri
        case _:
            return None


def subscribed_resources(params: Mapping[str, Any]) -> Sequence[object]:
    """Return the URIs that `subscriptions/listen` subscribes to. A value that is not a list counts as one resource
    without a URI.
    """
    wanted = params.get("notifications")
    named = wanted.get("resourceSubscriptions") if isinstance(wanted, Mapping) else None
    return named if isinstance(named, list) else [] if named is None else [None]

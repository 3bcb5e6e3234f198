"""Default mapping of evaluations in the form of COAZ, AuthZEN's binding for MCP: tools, resources, prompts and servers.

The evaluations of COAZ name a tool, but neither its server nor its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from policyengine import kernel as k
from policyengine.integrations.mcp.methods import NOTIFICATIONS, URI_METHODS, action_facts, canonical_resource_id
from policyengine.runtime.structure_checks import quote_input
from policyengine.server.authzen.evaluations import AccessEvaluation, JsonObject, UnmappedError
from policyengine.server.mcp.questions import SERVER_METHODS, SERVER_TYPE, server_action
from policyengine.server.mcp.servers import McpServerTable

GET_PROMPT, COMPLETE = "prompts/get", "completion/complete"
RESOURCE_TYPES = frozenset({"tool", "prompt", "resource", SERVER_TYPE})
PASSED = "ping"  # passes without a decision, as notifications do
SERVER = "server"  # the member of the context, and the property of a resource, with the name of the server
MAX_SERVERS_SHOWN = 5
UNKNOWN_ARGUMENTS = ["args"]  # the value of `pending`


def passes_undecided(method: str) -> bool:
    """Return whether COAZ lets the method pass without a decision."""
    return method == PASSED or method.startswith(NOTIFICATIONS)


def is_about_mcp(asked: AccessEvaluation) -> bool:
    """Return whether the action is a method of MCP on something that COAZ names."""
    return "/" in asked.action.name and asked.resource.type in RESOURCE_TYPES


@dataclass(frozen=True)
class McpEvaluations:
    """Maps evaluations about MCP to endpoints, with the servers that one policy names."""

    kernel: k.Kernel
    names: McpServerTable

    def endpoint(self, asked: AccessEvaluation) -> JsonObject | None:
        """Return the endpoint of an evaluation about MCP, or None for any other evaluation. Raises UnmappedError if it
        does not say which server is meant, or has a malformed URI.
        """
        method, type_, id_ = asked.action.name, asked.resource.type, asked.resource.id
        match method, type_:
            case "tools/call", "tool":
                return {"tool": self.tool(asked), **known_arguments(asked)}
            case (("prompts/get" | "completion/complete"), "prompt"):
                found = action_facts("get", "mcp_prompt", id_, self.server(asked), {"context": asked.facts})
                return {**found, **(known_arguments(asked) if method == GET_PROMPT else {"pending": UNKNOWN_ARGUMENTS})}
            case _, "resource" if method in URI_METHODS or method in (COMPLETE, "resources/unsubscribe"):
                uri = canonical_resource_id(id_, is_template=method == COMPLETE)
                if not isinstance(uri, str):
                    raise UnmappedError(f"`{quote_input(id_)}` is not a URI of a resource")
                return action_facts("read", "mcp_resource", uri, self.server(asked), {"context": asked.facts})
            case _, "mcp_server" if method in SERVER_METHODS:
                found = server_action(SERVER_METHODS[method], self.server(asked))
                return {**found, "context": {**asked.facts, SERVER: self.server(asked)}}
            case _:
                return None

    def tool(self, asked: AccessEvaluation) -> JsonObject:
        """Return the tool. If it is known which server is meant, the ID is the name of one of its tools; otherwise the
        ID may be `server/name`. Raises UnmappedError.
        """
        id_ = asked.resource.id
        before, slash, after = id_.partition("/")
        stated = self.stated(asked)
        if self.names.default is None and slash and stated in (None, before):
            return {"server": before, "name": after}
        if stated is None and self.names.default is None and (self.has_bare_tools or not self.servers):
            return {"name": id_}
        return {"server": self.server(asked), "name": id_}

    def server(self, asked: AccessEvaluation) -> str:
        """Return the name of the server. Raises UnmappedError."""
        stated = self.stated(asked)
        default = self.names.default
        if stated is not None and default is not None and stated != default:
            raise UnmappedError(f"the evaluation is for the MCP server `{quote_input(stated)}`, not for `{default}`")
        found = stated or default
        if found is not None:
            return found
        if len(self.servers) != 1:
            some = ", ".join(f"`{name}`" for name in self.servers[:MAX_SERVERS_SHOWN]) or "none"
            why = "it is not known which MCP server is meant: set `[authzen] mcp_server`, or send `context.server`"
            raise UnmappedError(f"{why} (the policies name {some})")
        return self.servers[0]

    def stated(self, asked: AccessEvaluation) -> str | None:
        """Return the server that the evaluation names: in the context, as a property of its resource, or by the ID of
        the server itself. Raises UnmappedError if it names several servers, or something that is not a name.
        """
        given = [asked.context.get(SERVER), asked.resource.properties.get(SERVER)]
        if asked.resource.type == SERVER_TYPE:
            id_ = asked.resource.id
            known = self.names.by_url.get(id_.rstrip("/"))
            if known is None and self.names.by_url and "://" in id_:
                raise UnmappedError(f"no `[mcp-servers.NAME]` has the `resource` `{quote_input(id_)}`")
            given.append(id_ if known is None and id_ in (self.names.default, *self.servers) else known)
        stated = {name for name in given if isinstance(name, str) and name and "/" not in name}
        if len(stated) > 1 or len(stated) < len({str(name) for name in given if name is not None}):
            raise UnmappedError("the evaluation does not name one MCP server")
        return next(iter(stated), None)

    @cached_property
    def servers(self) -> tuple[str, ...]:
        """The servers that rules name."""
        named = {server for server, slash, _ in self._globs if slash and "*" not in server}
        return tuple(sorted(named))

    @cached_property
    def has_bare_tools(self) -> bool:
        """Whether rules name tools without a server."""
        return any(not slash and "*" not in name for name, slash, _ in self._globs)

    @cached_property
    def _globs(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(pattern.glob.partition("/") for pattern in tool_patterns(self.kernel))


def tool_patterns(kernel: k.Kernel) -> Iterator[k.ToolPattern]:
    """Yield the patterns of tools in grants, guards and limits."""
    blocks: list[k.AgentBlock | k.UserBlock | k.AnyoneBlock] = [*kernel.agents, *kernel.users, *kernel.anyones]
    opened = [opening.pattern for block in blocks for grant in block.grants for opening in grant.openings]
    rules: list[k.Guard | k.Limit] = [*kernel.guards, *kernel.limits]
    covered = [pattern for rule in rules for pattern in rule.place.patterns or ()]
    yield from (pattern for pattern in (*opened, *covered) if isinstance(pattern, k.ToolPattern))


def known_arguments(asked: AccessEvaluation) -> JsonObject:
    """Return the arguments. Without properties of the action, they are unknown, because COAZ does not send them."""
    return {"args": dict(asked.action.properties)} if asked.action.properties else {"pending": UNKNOWN_ARGUMENTS}

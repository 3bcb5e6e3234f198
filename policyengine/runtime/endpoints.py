"""Endpoints of requests in canonical spelling: an HTTP endpoint, a tool or an action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from policyengine.runtime import paths
from policyengine.runtime.decode import DUPLICATE_KEY
from policyengine.runtime.structure_checks import RequestError, get_id, get_object, get_text, wrong_type_error
from policyengine.runtime.values import Invalid

ENDPOINTS = "`request.method` and `request.path`, or `tool`, or `action` with `resource`"
Facts: TypeAlias = dict[str, dict[str, object]]


class HttpEndpoint(Struct, frozen=True, gc=False):
    """An HTTP endpoint in canonical spelling, with GET in place of HEAD. `segments` are the decoded parts of `path`."""

    method: str
    path: str
    segments: tuple[str, ...]


class ToolEndpoint(Struct, frozen=True, gc=False):
    server: str | None
    name: str

    @property
    def qualified(self) -> str:
        """The full name, `billing/refund`. A server name contains no slash, and neither does a tool without
        a server.
        """
        return self.name if self.server is None else f"{self.server}/{self.name}"


class ActionEndpoint(Struct, frozen=True, gc=False):
    """An action on a resource of a type; the fact `resource` names the resource."""

    verb: str
    type: str


class MalformedEndpoint(Struct, frozen=True, gc=False):
    """An HTTP endpoint without a canonical spelling, or with a member that names another method.

    `why` is a sentence; `path` is the raw path and may contain anything.
    """

    why: str
    method: str
    path: str


Endpoint: TypeAlias = HttpEndpoint | ToolEndpoint | ActionEndpoint | MalformedEndpoint


def read_endpoint(facts: Facts) -> Endpoint:
    http = [f"request.{name}" for name in ("method", "path") if facts.get("request", {}).get(name) is not None]
    given = [*http[:1], *(root for root in ("tool", "action") if root in facts)]
    match given:
        case ["tool"]:
            return read_tool(facts["tool"])
        case ["action"]:
            return read_action(facts["action"], facts.get("resource", {}))
        case [_]:
            return read_http(facts)
        case []:
            raise RequestError("", "no endpoint", f"provide {ENDPOINTS}")
        case _:
            raise RequestError(given[-1], f"more than one endpoint: {', '.join(given)}", f"provide {ENDPOINTS}")


def read_tool(given: Mapping[str, object]) -> ToolEndpoint:
    """Return the tool. The first slash separates server and name, so a name can contain another slash only after a
    server. Raises RequestError.
    """
    name = get_id(given.get("name"), "tool.name")
    if given.get("server") is None:
        if "/" in name:
            raise RequestError("tool.name", "`tool.name` contains a `/`, but `tool.server` is missing")
        return ToolEndpoint(None, name)
    server = get_id(given["server"], "tool.server")
    if "/" in server:
        raise RequestError("tool.server", "`tool.server` contains a `/`")
    return ToolEndpoint(server, name)


def read_action(action: Mapping[str, object], resource: Mapping[str, object]) -> ActionEndpoint:
    return ActionEndpoint(get_id(action.get("name"), "action.name"), get_id(resource.get("type"), "resource.type"))


def read_http(facts: Facts) -> HttpEndpoint | MalformedEndpoint:
    """Return the endpoint. It replaces the method and path in `facts`, so that rules see no other spelling. Raises
    RequestError.
    """
    given = facts["request"]
    method, path = get_text(given.get("method"), "request.method"), read_path(given.get("path"))
    match canonical_endpoint(method, path, facts):
        case paths.MalformedPath(why):
            return MalformedEndpoint(why, method, path if isinstance(path, str) else "")
        case HttpEndpoint() as endpoint:
            given.update(method=endpoint.method, path=endpoint.path)
            return endpoint


def read_path(raw: object) -> str | Invalid:
    """Return the path; an Invalid if its text is hazardous. Raises RequestError for a missing, duplicate or non-string
    path.
    """
    match raw:
        case None:
            raise RequestError("request.path", "`request.path` is missing")
        case str():
            return raw
        case Invalid() if raw != DUPLICATE_KEY:
            return raw
        case _:
            raise wrong_type_error(raw, "request.path", "a string")


def canonical_endpoint(method: str, path: str | Invalid, facts: Facts) -> HttpEndpoint | paths.MalformedPath:
    if isinstance(path, Invalid):
        return malformed_path("path", path.why)
    request = facts["request"]
    overridden = paths.find_override(
        object_members(request, "headers"), object_members(request, "query"), facts.get("body", {})
    )
    if overridden is not None:
        return paths.MalformedPath(overridden)
    verb, place = paths.canonical_method(method), paths.canonical_path(path)
    if isinstance(verb, paths.MalformedPath):
        return verb
    if isinstance(place, paths.MalformedPath):
        return malformed_path("path", place.why)
    return HttpEndpoint(verb, place.path, place.segments)


def has_own_segments(endpoint: HttpEndpoint) -> bool:
    """Return whether the segments match the path."""
    return endpoint.path == "/" + "/".join(endpoint.segments) and all(
        one and "/" not in one for one in endpoint.segments
    )


def malformed_path(of: str, why: str) -> paths.MalformedPath:
    return paths.MalformedPath(f"the {of} is not canonical: {why}")


def object_members(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    return get_object(facts.get(name), f"request.{name}") or {}

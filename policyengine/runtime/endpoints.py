"""What a request wants to reach: one HTTP endpoint, one tool or one action, in canonical spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.runtime import paths
from policyengine.runtime.decode import DUPLICATE_KEY
from policyengine.runtime.structure_checks import RequestError, get_id, get_object, get_text, wrong_type_error
from policyengine.runtime.values import Invalid

ENDPOINTS = "`request.method` and `request.path`, or `tool`, or `action` with `resource`"
Facts: TypeAlias = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """In canonical spelling; HEAD is already GET. `segments` are the decoded parts of `path`."""

    method: str
    path: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolEndpoint:
    server: str | None
    name: str

    @property
    def qualified(self) -> str:
        """`billing/refund`; a server holds no slash and neither does the name of a tool without one."""
        return self.name if self.server is None else f"{self.server}/{self.name}"


@dataclass(frozen=True, slots=True)
class ActionEndpoint:
    """An action on a thing of a type; which thing is the fact `resource`."""

    verb: str
    type: str


@dataclass(frozen=True, slots=True)
class MalformedEndpoint:
    """An HTTP endpoint without a canonical spelling, or of which a member names another method. `why` is a sentence;
    `path` is as it came and may hold anything."""

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
            raise RequestError("", "no endpoint", f"give {ENDPOINTS}")
        case _:
            raise RequestError(given[-1], f"more than one endpoint: {', '.join(given)}", f"give {ENDPOINTS}")


def read_tool(given: Mapping[str, object]) -> ToolEndpoint:
    """A slash separates server and name, so the server has none, and a name only when there is a server before it."""
    name = get_id(given.get("name"), "tool.name")
    if given.get("server") is None:
        if "/" in name:
            raise RequestError("tool.name", "`tool.name` holds a `/` and there is no `tool.server`")
        return ToolEndpoint(None, name)
    server = get_id(given["server"], "tool.server")
    if "/" in server:
        raise RequestError("tool.server", "`tool.server` holds a `/`")
    return ToolEndpoint(server, name)


def read_action(action: Mapping[str, object], resource: Mapping[str, object]) -> ActionEndpoint:
    return ActionEndpoint(get_id(action.get("name"), "action.name"), get_id(resource.get("type"), "resource.type"))


def read_http(facts: Facts) -> HttpEndpoint | MalformedEndpoint:
    """Puts the canonical method and path in place of the given ones, so that rules cannot see another spelling."""
    given = facts["request"]
    method, path = get_text(given.get("method"), "request.method"), read_path(given.get("path"))
    match canonical_endpoint(method, path, facts):
        case paths.MalformedPath(why):
            return MalformedEndpoint(why, method, path if isinstance(path, str) else "")
        case HttpEndpoint() as endpoint:
            given.update(method=endpoint.method, path=endpoint.path)
            return endpoint


def read_path(raw: object) -> str | Invalid:
    """The text of a path may be hazardous; that it is given twice, or is no text, is another matter."""
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
        return malformed_path("method", verb.why)
    if isinstance(place, paths.MalformedPath):
        return malformed_path("path", place.why)
    return HttpEndpoint(verb, place.path, place.segments)


def malformed_path(of: str, why: str) -> paths.MalformedPath:
    return paths.MalformedPath(f"the {of} is not canonical: {why}")


def object_members(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    return get_object(facts.get(name), f"request.{name}") or {}
